"""A search whose terminal is closed, or that is told to end: engines stopped, all kept, and the exit code of an end."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.records import RunState
from harness.store import RunFolder

SIMULATED = ("tune", "--gpu", "rtx4090", "--engine", "simulated", "--users", "1", "--repeats", "2", "--no-defence")


class Terminal:
    """A command that has a terminal of its own."""

    def __init__(self, words: list[str], *, folder: Path, env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.folder = folder
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._is_open = True
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while self._is_open and os.read(self.master, 65_536):
                pass

    def close(self) -> None:
        """As a terminal's window is closed, or a connection breaks: the kernel sends SIGHUP, and writing fails."""
        self._is_open = False
        os.close(self.master)

    @property
    def run(self) -> RunFolder | None:
        return next((RunFolder(path.parent) for path in self.folder.glob("results/*/run.json")), None)

    def wait_for(self, is_so: Callable[[RunFolder], bool]) -> RunFolder:
        deadline = time.monotonic() + 120
        while (run := self.run) is None or not is_so(run):
            assert self.process.poll() is None, "it ended before"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return run


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*words: str | Path) -> Terminal:
        started.append(Terminal([*map(str, words)], folder=tmp_path, env=environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def engines_of(python: Path) -> list[list[str]]:
    """Command lines of living processes that have to do with this interpreter."""
    return [
        one.info["cmdline"] for one in psutil.process_iter(["cmdline"]) if str(python) in (one.info["cmdline"] or [])
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["a closed terminal", "SIGTERM"])
def test_a_search_that_is_ended_keeps_all_and_leaves_no_engine(
    terminal: Callable[..., Terminal], small_scenario: Path, fake_vllm_python: Path, how: str
) -> None:
    search = ("tune", "--gpu", "cpu", "--scenario", small_scenario, "--users", "1,8", "--repeats", "2", "--trials", "3")
    one = terminal(sys.executable, "-m", "harness", *search, "--vllm-python", fake_vllm_python, "--no-defence")
    run = one.wait_for(lambda run: len(run.cells()) >= 2)
    before = run.cells()
    if how == "SIGTERM":
        one.process.send_signal(signal.SIGTERM)
    else:
        one.close()
    assert one.process.wait(60) == 130
    assert (run.run().state, run.run().error) == (RunState.INTERRUPTED, "")
    assert run.cells()[: len(before)] == before
    assert engines_of(fake_vllm_python) == []


@pytest.mark.timeout(300)
def test_a_search_that_ignores_the_end_of_its_terminal_goes_on(terminal: Callable[..., Terminal]) -> None:
    """As `nohup` has it; also its lines about progress, which nobody can read any more, end nothing."""
    command = [sys.executable, "-m", "harness", *SIMULATED, "--trials", "2"]
    one = terminal("sh", "-c", "trap '' HUP; exec \"$@\" >out", "sh", *command)
    run = one.wait_for(lambda run: len(run.cells()) >= 1)
    one.close()
    assert one.process.wait(120) == 0
    assert run.run().state == RunState.DONE
    assert len(run.trials()) == 3
