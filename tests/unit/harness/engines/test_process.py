"""Process groups with real processes: what is started here is gone afterwards, and nothing else is touched."""

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from harness.engines.process import free_port, process_group, wait_ready
from harness.errors import EngineCrashed, EngineError, EngineHung, EngineNotFound, EnginePortTaken

ROOT = Path(__file__).parents[4]
FAKE = ROOT / "tests" / "fakes" / "server.py"
T = TypeVar("T")
ENV: Mapping[str, str] = dict(os.environ)


def fake(*words: str) -> list[str]:
    return [sys.executable, str(FAKE), *words]


def wait_for(look: Callable[[], T], *, within_s: float = 10.0) -> T:
    """The first true value of `look`."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def pids(log: Path, *, count: int) -> list[int]:
    """The ids that fakes have written to the log, once there are `count`."""

    def found() -> list[int] | None:
        ids = [int(number) for number in re.findall(r"^pid (\d+)$", log.read_text(), re.MULTILINE)]
        return ids if len(ids) >= count else None

    ids = wait_for(lambda: log.exists() and found())
    assert ids
    return ids


def living(ids: list[int]) -> list[int]:
    """Those of the processes that are more than an entry which nobody has read yet."""

    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in ids if lives(pid)]


@contextmanager
def driver(tmp_path: Path, *words: str, grace_s: float) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A harness in a process of its own that runs a fake until somebody ends it; and the fake's log."""
    log = tmp_path / "engine.log"
    program = (
        "import os, signal, time; from pathlib import Path; from harness.engines.process import process_group\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & starts programs with SIGINT ignored\n"
        f"with process_group({fake(*words)!r}, log=Path({str(log)!r}), env=os.environ, grace_s={grace_s}):\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        try:
            yield child, log
        finally:
            child.kill()


def test_a_living_process_is_told_from_a_gone_one() -> None:
    with subprocess.Popen(fake()) as child:
        assert living([child.pid]) == [child.pid]
        child.kill()
    assert living([child.pid]) == []


def test_waiting_for_what_never_comes_fails() -> None:
    with pytest.raises(AssertionError, match="never came true"):
        wait_for(lambda: False, within_s=0.05)


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("group", ["same", "own"])
def test_a_program_that_ignores_sigterm_is_killed_with_its_grandchild(tmp_path: Path, group: str) -> None:
    log = tmp_path / "engine.log"
    with process_group(fake("--ignores-sigterm", "--grandchild", group), log=log, env=ENV, grace_s=0.3) as process:
        ids = pids(log, count=2)
        assert process.pid in ids
        assert living(ids) == ids
    assert living(ids) == []
    assert "got SIGTERM" in log.read_text()


def test_a_program_that_obeys_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with process_group(fake("--grandchild", "same"), log=log, env=ENV, grace_s=60) as process:
        pids(log, count=2)
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert process.returncode == 0
    assert log.read_text().count("got SIGTERM") == 2


def test_grandchildren_of_a_program_that_has_ended_are_ended_too(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    words = fake("--grandchild", "same", "--dies-after-s", "0.5")
    with process_group(words, log=log, env=ENV) as process:
        ids = pids(log, count=2)
        assert process.ended(within_s=10)
        assert living(ids) == [pid for pid in ids if pid != process.pid]
    assert living(ids) == []


def test_a_program_that_has_ended_keeps_its_number_until_the_block_does(tmp_path: Path) -> None:
    """Or the group that is ended then could be a stranger's."""
    with process_group(fake("--dies-after-s", "0", "--code", "7"), log=tmp_path / "e.log", env=ENV) as process:
        assert process.ended(within_s=10)
        assert process.returncode == 7
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not psutil.pid_exists(process.pid)
    assert process.returncode == 7


def test_an_end_by_a_signal_is_told(tmp_path: Path) -> None:
    with process_group(fake(), log=tmp_path / "e.log", env=ENV) as process:
        assert process.returncode is None
        os.kill(process.pid, signal.SIGKILL)
        assert process.ended(within_s=10)
        assert process.returncode == -signal.SIGKILL


def test_the_program_is_ended_when_the_block_fails(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"

    def fail_in_the_block() -> None:
        with process_group(fake(), log=log, env=ENV):
            pids(log, count=1)
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_block()
    assert living(pids(log, count=1)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_interrupt_cuts_the_wait_short_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with driver(tmp_path, "--ignores-sigterm", "--grandchild", "same", grace_s=120) as (child, log):
        ids = pids(log, count=2)
        child.send_signal(signal.SIGINT)
        wait_for(lambda: "got SIGTERM" in log.read_text())
        assert living(ids) == ids, "one interrupt leaves time to end in order"
        child.send_signal(number)
        assert child.wait(8) == -number, "it did not leave that to the watchdog, which waits for ten seconds"
        assert living(ids) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_does_not_outlive_a_harness_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    with driver(tmp_path, "--grandchild", "same", grace_s=1) as (child, log):
        ids = pids(log, count=2)
        child.send_signal(number)
        child.wait(10)
        wait_for(lambda: not living(ids))


def test_a_watchdog_leaves_with_its_engine(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with process_group(fake(), log=tmp_path / "engine.log", env=ENV):
        assert len(set(psutil.Process().children()) - before) == 2
    assert set(psutil.Process().children()) <= before


def test_it_works_in_a_thread_that_ends_before_the_engine(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG would end the engine with the thread that started it."""
    log, group = tmp_path / "engine.log", process_group(fake(), log=tmp_path / "engine.log", env=ENV)
    thread = threading.Thread(target=group.__enter__)
    thread.start()
    thread.join()
    ids = pids(log, count=1)
    assert living(ids) == ids
    group.__exit__(None, None, None)
    assert living(ids) == []


# ---------------------------------------------------------------- the log


def test_the_log_keeps_what_was_there_and_names_the_command(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("an earlier launch\n")
    with process_group(fake("--says", str(FAKE)), log=log, env=ENV) as process:
        pids(log, count=1)
    lines = log.read_text().splitlines()
    assert lines[0] == "an earlier launch"
    assert lines[1] == f"$ {sys.executable} {FAKE} --says {FAKE}"
    assert process.output().startswith(f"pid {process.pid}\n")


def test_stderr_is_in_the_log_too(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with process_group(fake("--nonsense"), log=log, env=ENV) as process:
        assert process.ended(within_s=10)
    assert process.returncode == 2
    assert "unrecognized arguments: --nonsense" in process.output()


def test_a_program_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineNotFound, match="/no/such/engine cannot be started: No such file"),
        process_group(["/no/such/engine"], log=tmp_path / "engine.log", env=ENV),
    ):
        pass


# ---------------------------------------------------------------- readiness


class Watch:
    """A process that ends, or listens, at a set time of a clock that only waiting moves."""

    def __init__(self, *, ends_at_s: float = 1e9, owns_port: bool = True) -> None:
        self.now_s = 0.0
        self.ends_at_s, self.owns_port = ends_at_s, owns_port

    def clock(self) -> float:
        return self.now_s

    def ended(self, *, within_s: float) -> bool:
        self.now_s = min(self.now_s + within_s, max(self.ends_at_s, self.now_s))
        return self.now_s >= self.ends_at_s

    def listens_on(self, port: int) -> bool:
        return self.owns_port


def ready(watch: Watch, *, at_s: float, timeout_s: float = 100.0) -> float:
    return wait_ready(
        watch,
        lambda: watch.now_s >= at_s,
        title="engine",
        port=4711,
        timeout_s=timeout_s,
        died=died,
        clock=watch.clock,
    )


def died() -> EngineError:
    return EngineCrashed("it died")


def test_readiness_is_asked_for_each_quarter_of_a_second() -> None:
    assert ready(Watch(), at_s=7.1) == 7.25


def test_a_death_is_seen_at_once_and_not_when_the_time_is_up() -> None:
    watch = Watch(ends_at_s=3.0)
    with pytest.raises(EngineCrashed, match="it died"):
        ready(watch, at_s=50)
    assert watch.now_s == 3.0


def test_an_engine_that_is_never_ready_hangs() -> None:
    watch = Watch()
    with pytest.raises(EngineHung, match="engine was not ready after 20 s"):
        ready(watch, at_s=50, timeout_s=20)
    assert watch.now_s == pytest.approx(20, abs=0.5)


def test_an_answer_from_another_program_is_not_ours() -> None:
    with pytest.raises(EnginePortTaken, match="another program answers on port 4711"):
        ready(Watch(owns_port=False), at_s=1)


def test_an_engine_that_died_because_its_port_was_taken_says_so_itself() -> None:
    with pytest.raises(EngineCrashed, match="it died"):
        ready(Watch(owns_port=False, ends_at_s=1.1), at_s=1)


def test_the_owner_of_a_port_is_told_by_its_process(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "engine.log"
    with (
        http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as stranger,
        process_group(fake("--port", str(port)), log=log, env=ENV) as process,
    ):
        wait_for(lambda: process.listens_on(port))
        assert not process.listens_on(stranger.server_port)


def test_no_memory_kill_is_counted_where_there_was_none(tmp_path: Path) -> None:
    with process_group(fake(), log=tmp_path / "engine.log", env=ENV) as process:
        assert process.oom_kills() in (0, None)
