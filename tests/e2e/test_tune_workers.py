"""`harness tune` with several workers, on one host and in a real PostgreSQL; who is killed and when is drawn."""

import contextlib
import getpass
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from harness.engines.process import free_port
from harness.records import Outcome, Trial
from harness.search import key_of
from harness.store import RunFolder

ROOT = Path(__file__).parents[2]
STUDY = (
    *("tune", "--gpu", "rtx4090", "--engine", "simulated", "--no-defence"),
    *("--repeats", "2", "--users", "1", "--workers", "4"),
)
WORKER = "harness.tune.worker"
PASSWORD = "open-sesame"
LIMIT_S = 150


class Tuner:
    """`harness tune` while it runs."""

    def __init__(self, folder: Path, words: Sequence[str | Path], env: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.results, self.said = folder / "results", folder / f"said-{time.monotonic_ns()}.txt"
        with self.said.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness", *map(str, words)], cwd=folder, env=env, stdout=sink, stderr=sink
            )

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [one for one in psutil.Process(self.process.pid).children() if WORKER in command(one)]
        return []

    def trials(self) -> tuple[Trial, ...]:
        return tuple(trial for path in self.results.glob("*/plan.json") for trial in RunFolder(path.parent).trials())

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Until it is so, or the tuner has ended."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None and not is_so():
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.02)

    def ended(self) -> int:
        return self.process.wait(timeout=LIMIT_S)

    @property
    def run(self) -> RunFolder:
        (path,) = self.results.glob("*/plan.json")
        return RunFolder(path.parent)


def command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def orphans(folder: Path) -> list[psutil.Process]:
    """Workers of a run in this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if WORKER in command(process) and process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def tuner(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Tuner]]:
    """Starts `harness WORDS` in a folder of its own; it is gone at the end, with all its workers."""
    started: list[Tuner] = []

    def start(*words: str | Path, host: str = "host") -> Tuner:
        started.append(Tuner(tmp_path / host, words, environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
    for folder in {one.results.parent for one in started}:
        for process in orphans(folder):
            process.kill()


def assert_whole(folders: Sequence[RunFolder], *, candidates: int, has_gaps: bool = False) -> None:
    """Every candidate once, all of them there, each with its cells, and no half line."""
    keys = []
    for folder in folders:
        trials = folder.trials()
        numbers = [one.number for one in trials]
        assert numbers == (sorted(set(numbers)) if has_gaps else list(range(len(trials))))
        keys += [key_of(one.flags) for one in trials if one.number]
        for one in trials[1:]:
            mine = [cell for cell in folder.cells() if cell.role == f"trial {one.number}"]
            if one.outcome in {Outcome.MEASURED, Outcome.INVALID}:
                assert len(mine) == 2, one
            assert one.worker is not None or one.outcome == Outcome.CRASHED
        assert folder.run().state == "DONE"
        assert (folder.path / "trials.jsonl").read_bytes().endswith(b"\n")
    assert len(keys) == len(set(keys)), "a candidate was tried twice"
    assert len(keys) == candidates


# ---------------------------------------------------------------- cards


def test_each_of_two_cards_is_a_workers_and_the_first_one_the_baselines(
    tmp_path: Path, environment: dict[str, str], small_scenario: Path, fake_vllm_python: Path
) -> None:
    """The tuner sees the first card alone while it launches by itself: it then found too few cards for its workers."""
    cards = {"FAKE_CARDS": "2", "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/fakes/nvml_site"), str(ROOT)])}
    words = [
        "tune", "--gpu", "rtx4090", "--model", "smollm2-135m", "--scenario", small_scenario, "--users", "8",
        "--repeats", "2", "--trials", "4", "--workers", "2", "--no-defence", "--vllm-python", fake_vllm_python,
    ]  # fmt: skip
    tuner = Tuner(tmp_path / "host", words, environment | cards)
    code = tuner.ended()
    said = tuner.said.read_text()
    assert code == 0, said
    assert "each on a card of its own (GPU-0, GPU-1)" in str(tuner.run.run().notes)
    caches = {facts.role: facts.env["VLLM_CACHE_ROOT"] for facts in tuner.run.run().engines}
    workers = {trial.number: trial.worker for trial in tuner.run.trials()}
    controls = [trial.number for trial in tuner.run.trials() if trial.is_control]
    assert controls == [1]
    assert len(workers) == 1 + 1 + 4, "the control is none of the four candidates"
    assert workers[0] is None
    assert {worker for number, worker in workers.items() if number} == {1, 2}
    for number, worker in workers.items():
        if number:
            assert f"/workers/{worker}/" in caches[f"trial {number}"]
    assert all("/workers/1/" in cache for role, cache in caches.items() if not role.startswith("trial")), caches


# ---------------------------------------------------------------- one host


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_that_are_killed_lose_no_trial(tuner: Callable[..., Tuner], seed: int) -> None:
    draws = random.Random(seed)
    one = tuner(*STUDY, "--trials", "8")
    for _ in range(3):
        wanted = len(one.trials()) + 1
        one.wait_for(lambda wanted=wanted: len(one.trials()) >= wanted and len(one.workers()) > 0)
        time.sleep(draws.uniform(0.0, 1.0))
        if living := one.workers():
            with contextlib.suppress(psutil.Error):
                draws.choice(living).kill()
    assert one.ended() == 0, one.said.read_text()
    assert_whole([one.run], candidates=8)
    assert "was killed by SIGKILL" in one.said.read_text()
    assert not orphans(one.results.parent)


@pytest.mark.timeout(300)
def test_a_killed_tuner_leaves_no_worker_and_goes_on_with_another_number_of_them(tuner: Callable[..., Tuner]) -> None:
    one = tuner(*STUDY, "--trials", "6")
    one.wait_for(lambda: len(one.trials()) >= 2 and len(one.workers()) > 1)
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    folder = one.results.parent
    deadline = time.monotonic() + 60
    while orphans(folder):
        assert time.monotonic() < deadline, "workers outlived their tuner"
        time.sleep(0.1)
    before = one.trials()
    again = tuner("tune", "--resume", one.run.id, "--workers", "2")
    assert again.ended() == 0, again.said.read_text()
    after = one.run.trials()
    assert all(trial in after for trial in before)
    assert_whole([one.run], candidates=6)


@pytest.mark.timeout(300)
def test_an_interrupt_keeps_all_and_one_alone_can_go_on(tuner: Callable[..., Tuner]) -> None:
    one = tuner(*STUDY, "--trials", "6")
    one.wait_for(lambda: len(one.trials()) >= 2 and len(one.workers()) > 1)
    one.process.send_signal(signal.SIGINT)
    assert one.ended() == 130
    assert not orphans(one.results.parent)
    assert one.run.run().state == "INTERRUPTED"
    before = one.run.trials()
    again = tuner("tune", "--resume", one.run.id, "--workers", "1")
    assert again.ended() == 0, again.said.read_text()
    after = one.run.trials()
    assert all(trial in after for trial in before)
    assert [trial.number for trial in after] == list(range(7))


# ---------------------------------------------------------------- PostgreSQL


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else (Path(on_path).parent if on_path else None)


class Postgres:
    """A cluster of our own in a folder of its own, run by somebody who is not root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.user = "postgres" if self.as_user else getpass.getuser()
        if self.as_user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "--auth", "trust", "--no-sync", "--username", self.user, "-D", str(folder / "data"))
        self.url = f"postgresql://{self.user}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *words: str) -> None:
        argv = [*self.as_user, str(self.programs / program), *words]
        done = subprocess.run(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -F"
        log = str(self.folder / "log")
        deadline = time.monotonic() + 60
        while True:
            try:
                self._run("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start")
            except AssertionError:  # the children of one that was killed still hold its memory
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def kill(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    pytest.importorskip("psycopg", reason="the extra vllm-harness[postgresql] is not installed")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    folder = Path(tempfile.mkdtemp(prefix="harness-pg-"))
    server = Postgres(programs, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        time.sleep(0.5)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(400)
def test_workers_outlive_a_postgresql_that_is_killed_and_started_again(
    tuner: Callable[..., Tuner], postgres: Postgres
) -> None:
    one = tuner(*STUDY, "--trials", "8", "--storage", postgres.url)
    one.wait_for(lambda: len(one.trials()) >= 2)
    postgres.kill()
    with contextlib.suppress(psutil.Error, IndexError):
        one.workers()[0].kill()
    time.sleep(2.0)
    postgres.start()
    assert one.ended() == 0, one.said.read_text()
    assert_whole([one.run], candidates=8, has_gaps=True)
    assert PASSWORD not in one.said.read_text()
    for path in one.run.path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.timeout(400)
def test_hosts_share_a_search_and_no_candidate_is_tried_twice(tuner: Callable[..., Tuner], postgres: Postgres) -> None:
    words = [*STUDY[:-1], "2", "--trials", "8", "--storage", postgres.url, "--study", "ours"]
    hosts = [tuner(*words, host=name) for name in ("one", "two")]
    for host in hosts:
        assert host.ended() == 0, host.said.read_text()
    assert_whole([host.run for host in hosts], candidates=8, has_gaps=True)
    other = tuner(*words, "--objective", "throughput", host="three")
    assert other.ended() == 2
    assert "objective balanced, not throughput" in other.said.read_text()


@pytest.mark.timeout(200)
def test_a_postgresql_that_is_not_there_is_said_at_once(tuner: Callable[..., Tuner]) -> None:
    pytest.importorskip("psycopg", reason="the extra vllm-harness[postgresql] is not installed")
    one = tuner(*STUDY, "--storage", f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/none")
    assert one.ended() == 2
    said = one.said.read_text()
    assert "refused" in said
    assert PASSWORD not in said
    assert not list(one.results.glob("*/run.json"))
