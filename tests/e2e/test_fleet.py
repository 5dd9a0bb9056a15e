"""Load from several machines: real Locust masters and workers, on loopback and across network namespaces."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from harness import load
from harness.records import ClosedLoop, Fleet, Level, LoadJob, OpenLoop, Workload
from harness.stats import summary
from harness.worker import started

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TTFT_S, ITL_S, TOKENS = 0.1, 0.02, 20
OURS, THEIRS = ("10.213.77.1", "10.213.77.5"), ("10.213.77.2", "10.213.77.6")
CLOCK_AHEAD_S = 5000


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*words: str, env: dict[str, str] | None = None, **more) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(words, cwd=ROOT, text=True, start_new_session=True, env=os.environ | (env or {}), **more)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


@pytest.fixture
def reference() -> Iterator[int]:
    timing = ["--ttft-s", str(TTFT_S), "--itl-s", str(ITL_S), "--tokens", str(TOKENS)]
    argv = [sys.executable, "-m", "harness.engines.reference", "--port", "0", *timing]
    with process(*argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline().rsplit(":", 1)[-1])


def worker(address: str, *before: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return process(*before, sys.executable, "-m", "harness", "worker", "--master", address, stderr=subprocess.DEVNULL)


def job(url: str, folder: Path, **changes) -> LoadJob:
    plan = ClosedLoop(users=(10,), requests_per_user=3, min_s=2.0, max_s=20.0, warmup_max_s=0)
    fields = {
        "url": url, "api": "openai", "dialect": "vllm", "model": "reference", "load": plan, "users": 10, "repeat": 1,
        "workload": Workload(prompt_words=8, output_tokens=TOKENS, is_streamed=True), "seed": 3,
        "requests_path": str(folder / "requests.jsonl"), "client_path": str(folder / "client.json"),
    }  # fmt: skip
    return LoadJob(**(fields | changes))


def drive(a_job: LoadJob, folder: Path, *, bind: str, port: int, workers: int) -> load.LoadResult:
    fleet = Fleet(bind=bind, port=port, workers=workers)
    return load.drive(a_job, work=folder, log=folder / "load.log", fleet=fleet)


def check_whole(result: load.LoadResult, *, users: int) -> None:
    assert result.trouble == ""
    assert result.health is not None
    assert result.health.processes == 2
    assert result.health.requests == len(result.records)
    assert {record.user for record in result.records} == set(range(users))
    assert {record.error for record in result.records} == {None}
    assert {record.output_tokens for record in result.records} == {TOKENS}


def test_two_workers_share_the_users_and_all_records_come(reference: int, tmp_path: Path) -> None:
    port = free_port()
    with worker(f"127.0.0.1:{port}"), worker(f"127.0.0.1:{port}"):
        a_job = job(f"http://127.0.0.1:{reference}", tmp_path)
        for _ in range(2):  # workers stay for the next cell
            result = drive(a_job, tmp_path, bind="127.0.0.1", port=port, workers=2)
            check_whole(result, users=10)
            found = summary.figures(
                result.records, load=a_job.load, level=Level(users=10), health=result.health, trouble=""
            )
            assert found.requests == len(result.records)
            assert found.failures == 0
    lines = Path(a_job.requests_path).read_bytes().splitlines()
    assert len(lines) == len(result.records)


def test_an_open_loop_is_shared_too(reference: int, tmp_path: Path) -> None:
    port = free_port()
    plan = OpenLoop(rates_per_s=(10.0,), arrivals="constant", warmup_s=0, duration_s=3.0)
    with worker(f"127.0.0.1:{port}"), worker(f"127.0.0.1:{port}"):
        a_job = job(f"http://127.0.0.1:{reference}", tmp_path, load=plan, users=0, rate_per_s=10.0)
        result = drive(a_job, tmp_path, bind="127.0.0.1", port=port, workers=2)
    assert result.trouble == ""
    due_s = sorted(record.due_s for record in result.records if record.due_s is not None)
    gaps_s = [after - before for before, after in itertools.pairwise(due_s)]
    assert len(due_s) == len(result.records) == 30
    assert median(gaps_s) == pytest.approx(0.1, abs=0.02)  # two clocks that are alike to less than that


def test_workers_started_over_ssh_work_and_end_with_it(
    reference: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssh` here runs its command on this machine: options, host, command."""
    ours = f"{sys.executable} -m harness"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\ncd {ROOT}\nexec sh -c "$(echo "$4" | sed "s#^harness#exec {ours}#")"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fleet = Fleet(bind="127.0.0.1", port=free_port(), workers=2, hosts=("one", "two"))
    with started(fleet, log=tmp_path / "workers.log"):
        a_job = job(f"http://127.0.0.1:{reference}", tmp_path)
        check_whole(load.drive(a_job, work=tmp_path, log=tmp_path / "load.log", fleet=fleet), users=10)
    told = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(fleet.port) not in told


def test_a_worker_that_is_killed_takes_the_cell_with_it_and_says_so(reference: int, tmp_path: Path) -> None:
    port = free_port()
    plan = ClosedLoop(users=(10,), requests_per_user=1, min_s=60.0, max_s=60.0, warmup_max_s=0)
    with worker(f"127.0.0.1:{port}") as lost, worker(f"127.0.0.1:{port}"):

        def kill() -> None:
            while not list(tmp_path.glob("load-*/requests-*.jsonl")):
                time.sleep(0.1)
            os.killpg(lost.pid, signal.SIGKILL)
            for line in subprocess.run(
                ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
            ).stdout.splitlines():
                if "--worker" in line and str(port) in line and "locust" in line:
                    os.kill(int(line.split()[0]), signal.SIGKILL)
                    return

        killer = threading.Thread(target=kill)
        killer.start()
        a_job = job(f"http://127.0.0.1:{reference}", tmp_path, load=plan)
        result = drive(a_job, tmp_path, bind="127.0.0.1", port=port, workers=2)
        killer.join()
    assert "was lost" in result.trouble
    assert result.health is None
    assert result.records  # what was recorded stays


# ---------------------------------------------------------------- across network namespaces


@contextlib.contextmanager
def namespace(name: str, ours: str, theirs: str, other: str) -> Iterator[None]:
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    link = f"{name}o"
    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", f"{name}i", "netns", name)
        ip("addr", "add", f"{ours}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{theirs}/30", "dev", f"{name}i")
        ip("-n", name, "link", "set", f"{name}i", "up")
        ip("-n", name, "route", "add", f"{other}/32", "via", ours)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    try:
        with namespace("hnsx", "10.213.78.1", "10.213.78.2", "10.213.78.5"):
            alone = ["ip", "netns", "exec", "hnsx", "unshare", "--time", "--monotonic", "1", "--fork", "true"]
            return subprocess.run(alone, check=False, capture_output=True).returncode == 0
    except subprocess.CalledProcessError:
        return False


async def forwarded(host: str, port: int, to: int) -> None:
    """The reference listens on loopback alone: this lets the namespaces reach it."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(serve, host, port) as server:
        await server.serve_forever()


@contextlib.contextmanager
def forwarding(host: str, port: int, to: int) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    task = loop.create_task(forwarded(host, port, to))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


@pytest.mark.skipif(not can_make_namespaces(), reason="network and time namespaces need root, ip and unshare")
def test_workers_in_other_networks_and_with_another_clock_measure_as_one(reference: int, tmp_path: Path) -> None:
    """One namespace's monotonic clock is 5,000 s ahead: its records must come out on ours."""
    with (
        namespace("hnsa", OURS[0], THEIRS[0], OURS[1]),
        namespace("hnsb", OURS[1], THEIRS[1], OURS[0]),
    ):
        port, served = free_port(OURS[0]), free_port(OURS[0])
        other_clock = ["unshare", "--time", "--monotonic", str(CLOCK_AHEAD_S), "--fork", "--kill-child"]
        with (
            forwarding(OURS[0], served, reference),
            worker(f"{OURS[0]}:{port}", "ip", "netns", "exec", "hnsa"),
            worker(f"{OURS[0]}:{port}", "ip", "netns", "exec", "hnsb", *other_clock),
        ):
            began_s = time.perf_counter()
            a_job = job(f"http://{OURS[0]}:{served}", tmp_path)
            result = drive(a_job, tmp_path, bind=OURS[0], port=port, workers=2)
            ended_s = time.perf_counter()
    check_whole(result, users=10)
    assert result.health is not None
    assert result.health.clock_error_s is not None
    assert 0 < result.health.clock_error_s < 0.05
    assert all(began_s < record.sent_s < record.end_s < ended_s for record in result.records)
    first_s = [min(r.sent_s for r in result.records if r.user // 5 == half) for half in (0, 1)]
    assert abs(first_s[0] - first_s[1]) < 0.5 + 2 * result.health.clock_error_s  # both began at one moment
    assert all(record.ttft_s > TTFT_S for record in result.records)
