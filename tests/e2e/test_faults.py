"""Whole cells against a server that fails, a client that is killed and a disk that is full.

A cell that is hit is FAILED or INVALID and says why, what was recorded stays readable, and other cells go on.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.records import Cell, CellState, RequestRecord, RunState
from harness.store import RunFolder, lines
from tests.e2e.conftest import ROOT, Ended

FEW = """
name = "few"
title = "a few short streams"
[workload]
prompt_words = 8
output_tokens = 10
is_streamed = true
[load]
users = [4]
requests_per_user = 12
min_s = 1
max_s = 20
warmup_max_s = 0
request_timeout_s = 2
"""
TOKENS, REQUESTS = 10, 4 * 12
"""Of a cell: twelve answers of a user take longer than the second that a cell takes at least."""
FAST = ("--flag", "ttft-s=0.05", "--flag", "itl-s=0.005")
Bench = Callable[..., Ended]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """About a second a cell, and the same number of requests in each."""
    path = tmp_path / "few.toml"
    path.write_text(FEW)
    return path


@pytest.fixture
def bench(harness: Callable[..., Ended], scenario: Path) -> Bench:
    """`harness bench` on a reference engine of its own that goes wrong in the given ways."""

    def run(*faults: str, repeats: int = 1, **more: Any) -> Ended:
        flags = [word for fault in faults for word in ("--flag", fault)]
        words = ("bench", "--engine", "reference", "--scenario", scenario, "--repeats", repeats, "--json")
        return harness(*words, *FAST, *flags, **more)

    return run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def the_run(results: Path) -> RunFolder:
    """The one run that was written."""
    [path] = [path.parent for path in results.glob("*/run.json")]
    return RunFolder(path)


def records_of(results: Path, cell: Cell) -> tuple[RequestRecord, ...]:
    """All lines; raises where one of them cannot be read."""
    return lines(the_run(results).path / cell.requests_file, RequestRecord)


# ---------------------------------------------------------------- the server


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("drop", "no answer"),
        ("close-early", "the connection broke"),
        ("end-early", "the answer ended without a finish reason"),
        ("garbage", "not an answer of the openai API"),
        ("http-500", "HTTP 500: EngineCore encountered an issue"),
        ("http-503", "HTTP 503: server busy"),
        ("stall", "no end after 2 s"),
    ],
)
def test_a_cell_in_which_a_fifth_of_the_answers_goes_wrong_is_invalid(
    bench: Bench, results: Path, fault: str, why: str
) -> None:
    done = bench(f"{fault}=0.2")
    assert done.code == 4, done.stderr
    [cell] = the_run(results).cells()
    assert cell.state == CellState.INVALID
    assert f"of {cell.requests + cell.failures} requests failed, over 1%, {cell.failures} of them with: {why}" in str(
        cell.reasons
    )
    records = records_of(results, cell)
    assert cell.client is not None
    assert len(records) == cell.client.requests
    broken = [record for record in records if record.error is not None]
    assert all(why in str(record.error) for record in broken)
    assert {record.output_tokens for record in records if record.error is None and not record.is_warmup} == {TOKENS}
    assert done.json["error"]["exit_code"] == 4
    assert done.json["cells"][0]["reasons"] == list(cell.reasons)


def test_a_cell_in_which_chunks_come_twice_is_invalid(bench: Bench, results: Path) -> None:
    """No answer fails: only the count of tokens tells that there are gaps which are none."""
    done = bench("duplicate=0.2")
    assert done.code == 4, done.stderr
    [cell] = the_run(results).cells()
    assert cell.state == CellState.INVALID
    assert "came in more chunks with text than the server counted tokens" in str(cell.reasons)
    assert cell.failures == 0


def test_a_server_that_fails_from_some_moment_on_spoils_only_the_cells_from_there(bench: Bench, results: Path) -> None:
    """The run has a figure, so its exit code is 0."""
    done = bench(f"http-503=after:{REQUESTS * 3 // 2}", repeats=3)
    assert done.code == 0, done.stderr
    cells = the_run(results).cells()
    assert [cell.state for cell in cells] == [CellState.MEASURED, CellState.INVALID, CellState.FAILED]
    assert [cell.failures for cell in cells] == [0, REQUESTS // 2, REQUESTS]
    assert all("HTTP 503" in str(cell.reasons) for cell in cells[1:])
    assert cells[-1].e2e_s == {}
    assert the_run(results).run().state == RunState.DONE


def test_a_server_that_dies_is_started_again_for_the_cells_that_are_left(bench: Bench, results: Path) -> None:
    """And no more than once: what dies twice ends the run with the exit code of engines."""
    done = bench(f"die-after={REQUESTS * 3 // 2}", repeats=5)
    assert done.code == 3, done.stderr
    cells = the_run(results).cells()
    assert [cell.state for cell in cells] == [CellState.MEASURED, CellState.FAILED] * 2
    for cell in cells[1::2]:
        assert "reference engine was ended by SIGKILL" in str(cell.reasons)
    for cell in cells:
        assert records_of(results, cell)
    run = the_run(results).run()
    assert run.state == RunState.FAILED
    assert "the engine died and was started again" in str(run.notes)
    assert done.json["error"]["exit_code"] == 3


def test_a_server_of_others_that_is_killed_makes_failed_cells_and_not_a_crash(
    harness: Callable[..., Ended], scenario: Path, results: Path
) -> None:
    """Nothing tells us that it died, so every cell after it says what the client saw."""
    argv = [sys.executable, "-m", "harness.engines.reference", "--ttft-s=0.05", "--itl-s=0.005"]
    argv.append(f"--die-after={REQUESTS * 3 // 2}")
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        words = ("bench", "--url", url, "--api", "ollama", "--model", "reference", "--scenario", scenario)
        done = harness(*words, "--repeats", 3, "--json")
        server.kill()
    assert done.code == 0, done.stderr
    cells = the_run(results).cells()
    assert [cell.state for cell in cells] == [CellState.MEASURED, CellState.INVALID, CellState.FAILED]
    assert "with: no answer" in str(cells[-1].reasons)
    assert all(records_of(results, cell) for cell in cells)


# ---------------------------------------------------------------- the client


@contextlib.contextmanager
def under_way(environment: dict[str, str], folder: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """`harness WORDS`, still running; killed with the block."""
    argv = [sys.executable, "-m", "harness", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as command:
        try:
            yield command
        finally:
            command.kill()


def locust_of(command: subprocess.Popen[str], *, within_s: float = 30.0) -> psutil.Process:
    """A Locust process that has begun to record."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s and command.poll() is None:
        for child in psutil.Process(command.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "locust" in child.cmdline() and any("requests" in file.path for file in child.open_files()):
                    return child
        time.sleep(0.05)
    raise AssertionError("no Locust process records")


def has_records(results: Path) -> bool:
    return any(path.stat().st_size for path in results.glob("*/requests/*.jsonl"))


def test_a_locust_process_that_is_killed_spoils_its_cell_alone(
    environment: dict[str, str], tmp_path: Path, scenario: Path, results: Path
) -> None:
    words = ("bench", "--engine", "reference", "--scenario", scenario, "--repeats", 2, "--json", *FAST)
    with under_way(environment, tmp_path, *words) as command:
        victim = locust_of(command)
        while not has_records(results):
            time.sleep(0.02)
        victim.kill()
        stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stderr
    first, second = the_run(results).cells()
    assert first.state in (CellState.FAILED, CellState.INVALID)
    assert "was ended by signal 9 (SIGKILL" in str(first.reasons)
    assert records_of(results, first)
    assert second.state == CellState.MEASURED
    assert Ended(0, stdout, stderr).json["cells"][0]["reasons"] == list(first.reasons)


def test_a_client_that_stands_still_for_a_while_spoils_its_cell(
    environment: dict[str, str], tmp_path: Path, scenario: Path, results: Path
) -> None:
    """A machine that was suspended, or swapped out: what came meanwhile is seen late and all at once."""
    words = ("bench", "--engine", "reference", "--scenario", scenario, "--repeats", 1, "--json", *FAST)
    with under_way(environment, tmp_path, *words) as command:
        client = locust_of(command)
        while not has_records(results):
            time.sleep(0.02)
        client.suspend()
        time.sleep(1.5)
        client.resume()
        _, stderr = command.communicate(timeout=60)
    [cell] = the_run(results).cells()
    assert cell.state == CellState.INVALID, stderr
    assert "the client was the limit: it stood still for" in str(cell.reasons)


# ---------------------------------------------------------------- the disk


def test_records_that_the_disk_does_not_take_spoil_their_cell(
    results: Path, environment: dict[str, str], tmp_path: Path, scenario: Path
) -> None:
    """By the limit on a file's size, which every system has: the run's own files fit, the records do not."""
    words = ("bench", "--engine", "reference", "--scenario", scenario, "--repeats", 2, "--json", *FAST)
    done = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, words)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)),
    )
    assert done.returncode == 4, done.stderr
    cells = the_run(results).cells()
    assert len(cells) == 2
    for cell in cells:
        assert cell.state in (CellState.FAILED, CellState.INVALID)
        assert "the client could not write its records" in str(cell.reasons)
        found = records_of(results, cell)
        assert len(found) > 5
        assert all(record.end_s > record.sent_s for record in found)


CAN_MOUNT = (
    os.geteuid() == 0
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
)


@pytest.mark.skipif(not CAN_MOUNT, reason="a file system of our own takes root and Linux's unshare")
def test_a_full_disk_ends_a_run_in_words(environment: dict[str, str], tmp_path: Path, scenario: Path) -> None:
    """A file system of 60 kB, gone with the process; what it held at the end is copied out of it."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    words = ("bench", "--engine", "reference", "--scenario", scenario, "--repeats", 3, "--json", *FAST)
    command = " ".join(f"'{word}'" for word in [sys.executable, "-m", "harness", *words, "--results", disk])
    script = f"mount -t tmpfs -o size=60k none {disk} || exit 99; {command}; code=$?; cp -r {disk} {out}; exit $code"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 99:
        pytest.skip("this container may not mount")
    assert done.returncode in (2, 4), done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr + done.stdout
    run = the_run(out)
    cells = run.cells()
    assert [cell.state for cell in cells if cell.state == CellState.MEASURED] == [
        cell.state for cell in cells if not cell.reasons
    ]
    assert any("could not write" in str(cell.reasons) for cell in cells) or not cells
    for path in (run.path / "requests").glob("*.jsonl"):
        lines(path, RequestRecord)
