import contextlib
import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import load
from harness.errors import EngineCrashed
from harness.records import ClientHealth, ClosedLoop, LoadJob, OpenLoop, Replay, RequestRecord, TraceLine, Workload

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


def job(
    url, folder, *, users=3, workload=None, dialect="plain", a_load=None, rate_per_s=None, is_first=False, **of_load
):
    """A closed loop that measures from the first request on, unless told otherwise."""
    closed = {"users": (users,), "requests_per_user": 2, "min_s": 0, "max_s": 20, "warmup_max_s": 0} | of_load
    work = {"prompt_words": 5, "output_tokens": 3, "is_streamed": True} | (workload or {})
    return LoadJob(
        url=url,
        api="openai",
        dialect=dialect,
        model="reference",
        workload=Workload(**work),
        load=a_load or ClosedLoop(**closed),
        users=0 if a_load else users,
        rate_per_s=rate_per_s,
        repeat=0,
        seed=1,
        is_first=is_first,
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
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if "locust" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


# ---------------------------------------------------------------- pure


@given(users=st.integers(1, 300), processes=st.integers(1, 12))
def test_the_shares_of_a_job_are_all_of_it_and_overlap_nowhere(users, processes):
    parts = load.shares(job("http://x", Path("/r"), users=users), processes, folder=Path("/w"))
    assert len(parts) == min(users, processes)
    assert [(part.part, part.parts) for part in parts] == [(n, len(parts)) for n in range(len(parts))]
    numbers = [n for part in parts for n in range(part.first_user, part.first_user + part.users)]
    assert numbers == list(range(users))
    assert max(part.users for part in parts) - min(part.users for part in parts) <= 1
    assert {part.job.users for part in parts} == {users}  # the level; a share has its own count
    assert len({part.job.requests_path for part in parts} | {part.job.client_path for part in parts}) == 2 * len(parts)


def test_an_open_loop_is_shared_by_its_arrivals_and_not_by_users():
    a_load = OpenLoop(rates_per_s=(9.0,), duration_s=1.0)
    parts = load.shares(job("http://x", Path("/r"), a_load=a_load, rate_per_s=9.0), 3, folder=Path("/w"))
    assert [(part.part, part.parts, part.users) for part in parts] == [(0, 3, 0), (1, 3, 0), (2, 3, 0)]


def test_a_single_process_writes_its_records_where_they_belong():
    """So that they are there even if the harness itself is killed."""
    whole = job("http://x", Path("/r"))
    [part] = load.shares(whole, 1, folder=Path("/w"))
    assert part.job.requests_path == whole.requests_path


@pytest.mark.parametrize(
    ("users", "cores", "count"),
    [(1, 16, 1), (25, 16, 1), (26, 16, 2), (100, 16, 4), (200, 16, 8), (200, 4, 2), (50, 1, 1)],
)
def test_users_are_spread_over_processes_that_leave_half_of_the_cores(users, cores, count):
    assert load.process_count(job("http://x", Path("/r"), users=users), cores=cores) == count


@pytest.mark.parametrize(("rate_per_s", "count"), [(0.5, 1), (25, 1), (60, 3), (1000, 8)])
def test_so_are_the_requests_of_an_open_loop(rate_per_s, count):
    a_load = OpenLoop(rates_per_s=(rate_per_s,), duration_s=1.0)
    assert load.process_count(job("http://x", Path("/r"), a_load=a_load, rate_per_s=rate_per_s), cores=16) == count


def trace_of(folder, *lines):
    path = folder / "trace.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(TraceLine(**line)) + b"\n" for line in lines))
    return str(path)


def test_so_is_a_trace_and_its_longest_conversation_may_wait_out_every_timeout(tmp_path):
    lines = [{"at_s": n / 100, "prompt_words": 1, "output_tokens": 1, "session": f"s{n // 3}"} for n in range(300)]
    a_load = Replay(trace=trace_of(tmp_path, *lines), speed=0.5, request_timeout_s=7.0)
    a_job = job("http://x", tmp_path, a_load=a_load)
    assert load.process_count(a_job, cores=16) == 3  # 300 in 6 s
    assert load.longest_s(a_job) == pytest.approx(2.99 * 2 + 3 * 7 + load.SPARE_S)


def health(**fields):
    whole = {"cpu_ratio": 0.2, "lag_p50_s": 0.1, "lag_p99_s": 0.5, "started_s": 10, "stopped_s": 20, "ended_s": 22}
    return ClientHealth(**whole | fields)


def test_the_health_of_several_processes_is_that_of_the_worst():
    one = health(requests=7, send_lag_p50_s=0.01, send_lag_p99_s=0.2, rtt_p50_s=0.3, wall_step_s=-2.0, warmup_s=4.0)
    other = health(
        cpu_ratio=0.3, lag_p50_s=0.2, lag_p99_s=0.4, started_s=11, stopped_s=19, ended_s=21, requests=5,
        send_lag_p50_s=0.02, send_lag_p99_s=0.1, wall_step_s=1.0, suspended_s=3.0, warmup_s=5.0,
    )  # fmt: skip
    assert load.merged([one, other]) == ClientHealth(
        cpu_ratio=0.3,
        cpu_ratios=(0.2, 0.3),
        lag_p50_s=0.2,
        lag_p99_s=0.5,
        send_lag_p50_s=0.02,
        send_lag_p99_s=0.2,
        rtt_p50_s=0.3,
        started_s=11,
        stopped_s=19,
        ended_s=22,
        warmup_s=5.0,
        requests=12,
        wall_step_s=-2.0,
        suspended_s=3.0,
        processes=2,
    )


@pytest.mark.parametrize(
    ("each", "all_of_them"),
    [
        ((True, True), True),
        ((True, False), False),
        ((None, False), False),
        ((None, None), None),
        ((True, None), None),
    ],
)
def test_a_load_is_steady_where_every_process_saw_it_so(each, all_of_them):
    assert load.merged([health(is_steady=one) for one in each]).is_steady is all_of_them


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
    log = "one\n\nTraceback\nKeyError: 'x'\n2026 <Greenlet at 0x7f: run()> failed with KeyError\n\n"
    log += "[…] Shutting down (exit code 1)\nType  Name\n----\n"
    assert load.last_lines(log) == ["one", "Traceback", "KeyError: 'x'"]
    assert load.last_lines("ModuleNotFoundError: locust\n") == ["ModuleNotFoundError: locust"]
    assert len(load.last_lines("line\n" * 500)) == load.LOG_LINES


# ---------------------------------------------------------------- with a real Locust


def test_without_a_warmup_everything_is_measured_from_the_first_request_on(quick, tmp_path):
    result = driven(job(quick, tmp_path, is_first=True), tmp_path)
    assert sorted((r.user, r.index, r.is_warmup) for r in result.records) == [
        (user, index, False) for user in range(3) for index in range(2)
    ]
    assert [(r.error, r.output_tokens) for r in result.records] == [(None, 3)] * 6
    assert result.trouble == ""
    assert min(r.sent_s for r in result.records) >= result.health.started_s
    assert result.health.started_s < result.health.stopped_s <= result.health.ended_s
    assert max(r.end_s for r in result.records) <= result.health.ended_s
    assert (result.health.is_steady, result.health.warmup_s) == (None, 0.0)


def assert_warmed_up(result, *, users, output_tokens):
    """Load from the first moment on; measured are the requests sent after the common moment, all of full length."""
    warm = [r for r in result.records if r.is_warmup]
    assert all((r.sent_s < result.health.started_s) == r.is_warmup for r in result.records)
    assert {r.index for r in warm if r.index == 0} == {0}
    assert len({r.user for r in warm}) == users
    firsts = {r.user: r.output_tokens for r in warm if r.index == 0}
    assert all(1 <= tokens <= output_tokens for tokens in firsts.values())
    assert {r.output_tokens for r in result.records if r.index} == {output_tokens}
    assert result.health.warmup_s == pytest.approx(result.health.started_s - min(r.sent_s for r in warm))
    assert len(result.records) == result.health.requests


def test_the_warmup_is_the_load_itself_until_it_is_steady(tmp_path):
    with reference("--ttft-s", "0.05", "--itl-s", "0.01") as (_, url):
        a_job = job(url, tmp_path, users=8, workload={"output_tokens": 20}, is_first=True, warmup_max_s=30)
        result = driven(a_job, tmp_path)
    assert_warmed_up(result, users=8, output_tokens=20)
    assert result.health.is_steady is True
    assert result.health.warmup_s > 2  # two laps of a second each at least
    firsts = {r.user: r.output_tokens for r in result.records if r.index == 0}
    assert len(set(firsts.values())) > 3  # or all would end in step
    measured = {user: [r for r in result.records if r.user == user and not r.is_warmup] for user in range(8)}
    assert {len(records) for records in measured.values()} == {2}
    # No pause between warm-up and measuring: each user's requests follow one another.
    for user in range(8):
        mine = sorted((r for r in result.records if r.user == user), key=lambda r: r.index)
        assert [r.index for r in mine] == list(range(len(mine)))
        assert all(b.sent_s - a.end_s < 0.5 for a, b in itertools.pairwise(mine))


def test_a_load_that_does_not_get_steady_is_measured_late_and_says_so(tmp_path):
    """Answers of one slot: the queue of the four users is longer than the warm-up may take."""
    with reference("--ttft-s", "0.5", "--itl-s", "0.1", "--capacity", "1") as (_, url):
        a_job = job(url, tmp_path, users=4, is_first=True, warmup_max_s=0.5, requests_per_user=1)
        result = driven(a_job, tmp_path)
    assert result.health.is_steady is False
    assert any(not r.is_warmup for r in result.records)


def test_a_later_repeat_warms_up_for_one_lap_and_is_not_looked_at(quick, tmp_path):
    result = driven(job(quick, tmp_path, warmup_max_s=30), tmp_path)
    assert_warmed_up(result, users=3, output_tokens=3)
    assert result.health.is_steady is None
    assert 1 < result.health.warmup_s < 15


def test_users_of_a_ramp_come_one_after_another(quick, tmp_path):
    result = driven(job(quick, tmp_path, users=4, ramp_s=1.0), tmp_path)
    firsts = sorted((r.user, r.sent_s) for r in result.records if r.index == 0)
    began_s = firsts[0][1]
    for user, sent_s in firsts:
        assert sent_s - began_s > 0.25 * user - 0.2


def test_conversations_grow_from_turn_to_turn(tmp_path):
    """The reference counts the words of all messages: 5 of the system, 13 + 5 of each question, 3 of each answer."""
    with reference("--ttft-s", "0.005", "--itl-s", "0.001") as (_, url):
        a_job = job(url, tmp_path, users=2, workload={"turns": 3}, requests_per_user=4)
        records = driven(a_job, tmp_path).records
    assert {r.error for r in records} == {None}
    mine = sorted((r for r in records if r.user == 1), key=lambda r: r.index)
    assert [r.turn for r in mine] == [0, 1, 2, 0]
    first, second, third, anew = (r.prompt_tokens for r in mine)
    assert second - first == third - second > 18
    assert anew == first


def test_a_shared_prefix_is_part_of_every_prompt(quick, tmp_path):
    with_prefix = driven(job(quick, tmp_path, workload={"shared_prefix_words": 40}), tmp_path).records
    without = driven(job(quick, tmp_path), tmp_path).records
    more = {r.prompt_tokens for r in with_prefix}.pop() - {r.prompt_tokens for r in without}.pop()
    assert 40 < more < 60


def test_requests_of_an_open_loop_are_sent_when_they_are_due(tmp_path):
    """Answers take 0.5 s and requests come every 0.1 s: they do not wait for one another."""
    a_load = OpenLoop(rates_per_s=(10.0,), arrivals="constant", duration_s=1.5, warmup_s=0.5)
    with reference("--ttft-s", "0.5", "--itl-s", "0.001") as (_, url):
        result = driven(job(url, tmp_path, a_load=a_load, rate_per_s=10.0), tmp_path)
    assert [r.error for r in result.records] == [None] * 20
    started_s = result.health.started_s
    dues_s = sorted(r.due_s - started_s for r in result.records)
    assert dues_s == pytest.approx([n / 10 - 0.5 for n in range(20)])
    assert sum(r.is_warmup for r in result.records) == 5
    assert all(r.sent_s >= r.due_s for r in result.records)
    assert len({r.user for r in result.records}) == 20
    assert result.health.stopped_s - started_s == pytest.approx(1.5)
    assert result.health.send_lag_p50_s is not None
    assert result.health.requests == 20
    overlapping = max(sum(r.sent_s <= at.sent_s < r.end_s for r in result.records) for at in result.records)
    assert overlapping >= 3


def test_processes_share_an_open_loop_without_a_word(tmp_path, quick):
    a_load = OpenLoop(rates_per_s=(30.0,), duration_s=1.0, warmup_s=0.0)
    one, two = (
        driven(job(quick, tmp_path, a_load=a_load, rate_per_s=30.0), tmp_path, processes=processes)
        for processes in (1, 2)
    )
    assert two.health.processes == 2
    assert len(one.records) == len(two.records) > 15

    def dues_s(result):
        return sorted((r.user, round(r.due_s - result.health.started_s, 6)) for r in result.records)

    assert dues_s(one) == dues_s(two)


def test_a_server_far_over_its_limit_fails_requests_instead_of_queueing_them(tmp_path):
    a_load = OpenLoop(rates_per_s=(20.0,), arrivals="constant", duration_s=1.0, warmup_s=0.0, max_in_flight=3)
    with reference("--ttft-s", "2", "--itl-s", "0.001") as (_, url):
        records = driven(job(url, tmp_path, a_load=a_load, rate_per_s=20.0), tmp_path).records
    assert len(records) == 20
    assert [r.error for r in records].count(None) == 3
    assert {r.error for r in records if r.error} == {"not sent: 3 requests were under way"}


def test_a_trace_is_played_back_and_a_turn_waits_for_the_answer_before(tmp_path):
    lines = [
        {"at_s": 0.0, "prompt_words": 3, "output_tokens": 40, "session": "a"},
        {"at_s": 0.2, "prompt_words": 7, "output_tokens": 2, "session": "a"},
        {"at_s": 0.6, "prompt_words": 9, "output_tokens": 4},
    ]
    a_load = Replay(trace=trace_of(tmp_path, *lines), speed=2.0)
    with reference("--ttft-s", "0.2", "--itl-s", "0.01") as (_, url):
        result = driven(job(url, tmp_path, a_load=a_load), tmp_path)
    turns = sorted((r for r in result.records if r.user == 0), key=lambda r: r.index)
    [single] = (r for r in result.records if r.user == 1)
    assert [r.output_tokens for r in (*turns, single)] == [40, 2, 4]
    assert [r.due_s - result.health.started_s for r in (*turns, single)] == pytest.approx([0.0, 0.1, 0.3])
    assert turns[1].sent_s >= turns[0].end_s
    assert turns[1].prompt_tokens > turns[0].prompt_tokens + 40  # it says again what was said before
    assert single.sent_s < turns[0].end_s
    assert turns[1].e2e_s > 0.6  # its wait for the answer before is in its latency,
    assert result.health.send_lag_p99_s < 0.45  # but is no lateness of the client


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
    assert max(r.sent_s for r in result.records) - health.started_s < 5


def test_nothing_is_sent_after_the_longest_time_but_answers_are_waited_for(tmp_path):
    with reference("--ttft-s", "0.6", "--itl-s", "0.01") as (_, url):
        result = driven(job(url, tmp_path, users=2, requests_per_user=50, max_s=0.95), tmp_path)
    assert sorted((r.user, r.index) for r in result.records) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {r.error for r in result.records} == {None}
    since_s = result.health.started_s
    assert all(r.sent_s - since_s <= 0.95 < r.end_s - since_s for r in result.records if r.index == 1)


def test_several_processes_warm_up_together_and_are_measured_from_one_moment(tmp_path):
    with reference("--ttft-s", "0.05", "--itl-s", "0.01") as (_, url):
        a_job = job(url, tmp_path, users=5, workload={"output_tokens": 10}, is_first=True, warmup_max_s=30, min_s=0.3)
        result = driven(a_job, tmp_path, processes=2)
    assert {r.user for r in result.records} == set(range(5))
    assert_warmed_up(result, users=5, output_tokens=10)
    assert (result.health.processes, len(result.health.cpu_ratios), result.health.is_steady) == (2, 2, True)
    assert sorted(written(a_job), key=lambda r: r.end_s) == list(result.records)
    assert not list(Path(a_job.requests_path).parent.glob("cell-*"))


def test_the_client_tells_how_it_fared(quick, tmp_path):
    told = driven(job(quick, tmp_path), tmp_path).health
    assert told.requests == 6
    assert 0 < told.rtt_p50_s < 1
    assert 0 <= told.send_lag_p50_s <= told.send_lag_p99_s < 1
    assert told.cpu_ratios == (told.cpu_ratio,)
    assert abs(told.wall_step_s) < 0.5
    assert told.suspended_s == pytest.approx(0, abs=0.5)


def test_a_server_that_cannot_be_reached_gives_failures_and_does_not_fill_the_disk(tmp_path):
    result = driven(job("http://127.0.0.1:9", tmp_path, users=2, min_s=0.6), tmp_path)
    assert {r.error for r in result.records} == {"no answer: [Errno 111] Connection refused"}
    assert 4 <= len(result.records) <= 10


def test_a_hopeless_warmup_does_not_last_as_long_as_it_may(tmp_path):
    result = driven(job("http://127.0.0.1:9", tmp_path, users=2, is_first=True, warmup_max_s=60), tmp_path)
    assert result.health.is_steady is False
    assert result.health.warmup_s < 40
    assert result.health.rtt_p50_s is None


def test_a_client_that_fails_is_trouble_with_the_last_word_of_its_log(quick, tmp_path):
    result = driven(job(quick, tmp_path, dialect="klingon"), tmp_path)
    assert result.health is None
    assert result.trouble == (
        f"client process 1 of 1 ended with code 1: KeyError: 'klingon' (log: {tmp_path / 'load.log'})"
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_client_is_trouble_and_its_records_stay(quick, tmp_path, processes):
    a_job = job(quick, tmp_path, min_s=20)
    killed = []

    def kill():
        if not killed and sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) > 4000:
            locusts()[0].kill()
            killed.append(True)

    result = driven(a_job, tmp_path, processes=processes, check=kill)
    assert "was ended by signal 9 (SIGKILL" in result.trouble
    assert f"of {processes}" in result.trouble
    assert result.health is None
    assert len(result.records) == len(written(a_job)) > 2
    assert not locusts()


@pytest.fixture
def small_files():
    """No file may grow beyond 6 KiB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_trouble_and_what_was_written_is_whole(quick, tmp_path, small_files, processes):
    a_job = job(quick, tmp_path, min_s=90)
    began_s = time.perf_counter()
    result = driven(a_job, tmp_path, processes=processes)
    assert time.perf_counter() - began_s < 80
    assert result.trouble.startswith(f"the client could not write its records to {tmp_path}")
    assert "MiB are free there" in result.trouble
    assert result.health is None
    assert len(result.records) > 5
    files = list(Path(a_job.requests_path).parent.glob("cell*.jsonl"))
    assert len(files) == processes  # there is no room to make one of two
    assert all(path.read_bytes().endswith(b"}\n") for path in files)
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    seen = [msgspec.json.decode(line, type=RequestRecord) for line in lines]
    assert len({(r.user, r.index) for r in seen}) == len(seen)


def test_a_folder_that_cannot_be_made_is_trouble_too(quick, tmp_path):
    (tmp_path / "requests").write_text("a file where the folder should be")
    result = driven(job(quick, tmp_path), tmp_path)
    assert "could not write its records" in result.trouble
    assert (result.records, result.health) == ((), None)


def test_after_trouble_the_next_cell_is_measured(quick, tmp_path):
    assert driven(job(quick, tmp_path, dialect="klingon"), tmp_path).trouble
    assert driven(job(quick, tmp_path), tmp_path).trouble == ""


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
