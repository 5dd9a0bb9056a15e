import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import load
from harness.errors import EngineCrashed, MeasurementInvalid
from harness.records import ClientHealth, ClosedLoop, LoadJob, RequestRecord, Workload

ROOT = Path(harness.__file__).parents[1]


@contextlib.contextmanager
def reference(*flags):
    """The reference server as a process of its own; gives the process and its address."""
    argv = [sys.executable, "-m", "harness.engines.reference", "--port", "0", *flags]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def quick():
    """A server that answers in a few milliseconds."""
    with reference("--ttft-s", "0.005", "--itl-s", "0.001", "--tokens", "3") as (_, url):
        yield url


def job(url, folder, *, users=3, has_warmup=False, output_tokens=3, dialect="plain", **of_load):
    closed = {"users": (users,), "requests_per_user": 2, "min_s": 0, "max_s": 20} | of_load
    return LoadJob(
        url=url,
        api="openai",
        dialect=dialect,
        model="reference",
        workload=Workload(prompt_words=5, output_tokens=output_tokens, is_streamed=True),
        load=ClosedLoop(**closed),
        users=users,
        repeat=0,
        seed=1,
        has_warmup=has_warmup,
        requests_path=str(folder / "requests" / "cell.jsonl"),
        client_path=str(folder / "requests" / "cell.client.json"),
    )


def driven(a_job, folder, **more):
    return load.drive(a_job, work=folder / "work", log=folder / "load.log", **more)


def written(a_job):
    lines = Path(a_job.requests_path).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=RequestRecord) for line in lines]


def locusts():
    """The Locust processes that this test process has started and that still run."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "locust" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE
    ]


# ---------------------------------------------------------------- pure


@given(users=st.integers(1, 300), processes=st.integers(1, 12))
def test_the_shares_of_a_job_are_all_of_it_and_overlap_nowhere(users, processes):
    parts = load.shares(job("http://x", Path("/r"), users=users), processes, folder=Path("/w"))
    assert len(parts) == min(users, processes)
    numbers = [n for part in parts for n in range(part.first_user, part.first_user + part.job.users)]
    assert numbers == list(range(users))
    assert max(part.job.users for part in parts) - min(part.job.users for part in parts) <= 1
    assert len({part.job.requests_path for part in parts} | {part.job.client_path for part in parts}) == 2 * len(parts)


def test_a_single_process_writes_its_records_where_they_belong():
    """So that they are there even if the harness itself is killed."""
    whole = job("http://x", Path("/r"))
    [part] = load.shares(whole, 1, folder=Path("/w"))
    assert part.job.requests_path == whole.requests_path


def test_the_health_of_several_processes_is_that_of_the_worst():
    one = ClientHealth(cpu_ratio=0.2, lag_p50_s=0.1, lag_p99_s=0.5, started_s=10, stopped_s=20, ended_s=22)
    other = ClientHealth(cpu_ratio=0.3, lag_p50_s=0.2, lag_p99_s=0.4, started_s=11, stopped_s=19, ended_s=21)
    assert load.merged([one, other]) == ClientHealth(
        cpu_ratio=0.3, lag_p50_s=0.2, lag_p99_s=0.5, started_s=11, stopped_s=19, ended_s=22, processes=2
    )


def test_locust_gets_neither_proxies_nor_settings_of_its_own_from_outside():
    given_environment = {
        "HTTP_PROXY": "http://proxy:3128",
        "https_proxy": "http://proxy:3128",
        "all_proxy": "socks://proxy",
        "NO_PROXY": "",
        "LOCUST_RUN_TIME": "1s",
        "PATH": "/bin",
        "PYTHONPATH": "/elsewhere",
    }
    environment = load.child_environment(given_environment)
    assert set(environment) == {"PATH", "PYTHONPATH"}
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/elsewhere"]


def test_the_end_of_a_log_is_what_stands_before_the_table():
    log = "one\n\nTraceback\nKeyError: 'x'\n[…] Shutting down (exit code 1)\nType  Name\n----\n"
    assert load.last_lines(log) == ["one", "Traceback", "KeyError: 'x'"]
    assert load.last_lines("ModuleNotFoundError: locust\n") == ["ModuleNotFoundError: locust"]
    assert len(load.last_lines("line\n" * 500)) == load.LOG_LINES


# ---------------------------------------------------------------- with a real Locust


def test_each_user_sends_its_requests_after_a_warmup_of_its_own(quick, tmp_path):
    result = driven(job(quick, tmp_path, has_warmup=True), tmp_path)
    assert sorted((r.user, r.index, r.is_warmup) for r in result.records) == [
        (user, index, index == 0) for user in range(3) for index in range(3)
    ]
    assert [r.error for r in result.records] == [None] * 9
    measured_from_s = min(r.sent_s for r in result.records if not r.is_warmup)
    assert max(r.end_s for r in result.records if r.is_warmup) <= result.health.started_s <= measured_from_s
    assert result.health.started_s < result.health.stopped_s <= result.health.ended_s
    assert max(r.end_s for r in result.records) <= result.health.ended_s


def test_records_and_health_lie_where_the_job_says_and_nothing_else_is_left(quick, tmp_path):
    a_job = job(quick, tmp_path)
    result = driven(a_job, tmp_path)
    assert sorted(written(a_job), key=lambda r: r.end_s) == list(result.records)
    assert msgspec.json.decode(Path(a_job.client_path).read_bytes(), type=ClientHealth) == result.health
    assert {path.name for path in tmp_path.rglob("*")} == {
        "requests",
        "cell.jsonl",
        "cell.client.json",
        "work",
        "load.log",
    }


def test_paths_may_be_relative(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = load.drive(job(quick, Path("here")), work=Path("here"), log=Path("here/load.log"))
    assert len(result.records) == len(written(job(quick, tmp_path / "here"))) == 6


def test_an_earlier_attempt_at_the_cell_is_forgotten(quick, tmp_path):
    a_job = job(quick, tmp_path, users=1)
    first, second = driven(a_job, tmp_path), driven(a_job, tmp_path)
    assert len(first.records) == len(second.records) == len(written(a_job)) == 2


def test_users_go_on_until_the_time_has_passed_and_then_no_longer(quick, tmp_path):
    health = (result := driven(job(quick, tmp_path, users=1, min_s=0.6), tmp_path)).health
    assert len(result.records) > 10
    assert health.stopped_s - health.started_s >= 0.6
    assert max(r.sent_s for r in result.records) - health.started_s < 0.7


def test_nothing_is_sent_after_the_longest_time_but_answers_are_waited_for(tmp_path):
    with reference("--ttft-s", "0.3", "--itl-s", "0.01") as (_, url):
        result = driven(job(url, tmp_path, users=2, requests_per_user=50, max_s=0.5), tmp_path)
    assert sorted((r.user, r.index) for r in result.records) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {r.error for r in result.records} == {None}
    assert all(r.sent_s - result.health.started_s <= 0.5 < r.end_s for r in result.records if r.index == 1)


def test_several_processes_start_together_and_ask_as_one(quick, tmp_path):
    a_job = job(quick, tmp_path, users=5, has_warmup=True, min_s=0.3)
    result = driven(a_job, tmp_path, processes=2)
    assert {r.user for r in result.records} == set(range(5))
    assert result.health.processes == 2
    measured = [r for r in result.records if not r.is_warmup]
    first = {user: min(r.sent_s for r in measured if r.user == user) for user in range(5)}
    assert max(r.end_s for r in result.records if r.is_warmup) < min(first.values())
    assert sorted(written(a_job), key=lambda r: r.end_s) == list(result.records)
    assert not list(Path(a_job.requests_path).parent.glob("cell-*"))


def test_a_server_that_cannot_be_reached_gives_failures_and_does_not_fill_the_disk(tmp_path):
    result = driven(job("http://127.0.0.1:9", tmp_path, users=2, min_s=0.6), tmp_path)
    assert {r.error for r in result.records} == {"no answer: [Errno 111] Connection refused"}
    assert 4 <= len(result.records) <= 10


def test_a_locust_that_fails_is_reported_with_the_end_of_its_log(quick, tmp_path):
    with pytest.raises(MeasurementInvalid) as caught:
        driven(job(quick, tmp_path, dialect="klingon"), tmp_path)
    assert str(tmp_path / "load.log") in caught.value.message
    assert "KeyError: 'klingon'" in caught.value.hint
    assert "Aggregated" not in caught.value.hint


def test_a_killed_locust_is_reported_and_its_records_stay(quick, tmp_path):
    a_job = job(quick, tmp_path, min_s=20)

    def kill():
        if Path(a_job.requests_path).exists() and len(Path(a_job.requests_path).read_bytes()) > 2000:
            for child in locusts():
                child.kill()

    with pytest.raises(MeasurementInvalid, match="code -9"):
        driven(a_job, tmp_path, check=kill)
    assert len(written(a_job)) > 2


@pytest.mark.parametrize("processes", [1, 2])
def test_a_dead_engine_stops_the_load_and_keeps_what_was_measured(tmp_path, processes):
    a_job = job("", tmp_path, users=4, requests_per_user=1000)
    with reference("--ttft-s", "0.02", "--itl-s", "0.001") as (server, url):
        a_job = msgspec.structs.replace(a_job, url=url)

        def check():
            if server.poll() is not None:
                raise EngineCrashed("the engine is gone")
            if sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) > 2000:
                server.kill()

        with pytest.raises(EngineCrashed):
            driven(a_job, tmp_path, processes=processes, check=check)
    assert not locusts()
    assert any(r.error is None for r in written(a_job))


def test_an_interrupt_stops_locust_too(quick, tmp_path):
    a_job = job(quick, tmp_path, min_s=20)

    def interrupt():
        assert locusts()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driven(a_job, tmp_path, check=interrupt)
    assert not locusts()


def test_a_process_that_ignores_the_request_to_end_is_made_to():
    argv = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); print(1); signal.pause()"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as child:
        child.stdout.readline()
        load.stop_group(child, grace_s=0.1)
        assert child.returncode == -9


def test_ctrl_c_at_the_terminal_does_not_reach_locust(quick, tmp_path):
    """A terminal signals the foreground process group; Locust must live until we end it in order."""
    groups = []

    def note():
        groups.extend(os.getpgid(child.pid) for child in locusts())

    driven(job(quick, tmp_path, users=1, min_s=0.5), tmp_path, check=note)
    assert groups
    assert os.getpgid(0) not in groups
