"""Run Locust on one cell, in processes of its own, and bring back what it recorded.

gevent patches the whole interpreter it runs in, so Locust stays out of this one: the job goes to it
as a JSON file, records and the client's health come back as files.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Final

import msgspec

from harness import config, store
from harness.errors import HarnessError, MeasurementInvalid, ResultsUnreadable
from harness.records import (
    ClientHealth,
    ClosedLoop,
    Fleet,
    Load,
    LoadJob,
    LoadResult,
    LoadShare,
    OpenLoop,
    RequestRecord,
)

USERS_PER_PROCESS: Final = 25
"""So that the last of their tokens, where all come at once, is timed well under a millisecond after the first."""
RATE_PER_PROCESS: Final = 25.0
"""Requests per second: each costs about a millisecond, its tokens aside."""
POLL_S: Final = 0.05
CHECK_S: Final = 0.3
START_MARGIN_S: Final = 0.3
"""From the word to the common moment: over the interval in which processes look, and time to make requests ready."""
STOP_GRACE_S: Final = 5.0
SPARE_S: Final = 120.0
"""What a cell may take beyond its own limits: starting Python, spawning users, writing."""
LOG_LINES: Final = 12
LOG_END: Final = "Shutting down (exit code"
"""Where Locust's log stops telling what happened and its table of statistics begins."""
WORKERS_WAIT_S: Final = 60
"""So long a fleet may take to be complete before a cell."""
WRITE_FAILED: Final = os.EX_IOERR
"""Exit code of a Locust process that could not write its records."""
UNWRITTEN: Final = "the client could not write its records"
"""How the reason begins of a cell that this happened to."""
WORKER_LOST: Final = os.EX_UNAVAILABLE
"""Exit code of a Locust master that has lost a worker."""


def drive(
    job: LoadJob,
    *,
    work: Path,
    log: Path,
    processes: int | None = None,
    fleet: Fleet | None = None,
    check: Callable[[], None] = lambda: None,
) -> LoadResult:
    """Put the job's load on the server until it has ended.

    A fault of this one cell comes back as `trouble`, with `health` None and whatever was recorded before it: a client
    process that was killed or failed, a disk that is full, a load that does not end. The cell is FAILED with that
    reason, and other cells go on.

    Args:     work: folder for files of passage. log: where Locust's own output goes, at the end of what
              is there. processes: how many share the load. None: as many as it needs and this machine can spare.
              fleet: the machines that send it instead of this one.
              check: called each 0.3 s and once more at the end; what it raises (the engine has died) ends the load.
    Returns:  all records, which also lie at `job.requests_path`, and the health of all processes as one.
    Raises:   whatever `check` raises; the records so far then lie at `job.requests_path`. Nothing else but what the
              caller has done wrong (UsageError for a trace that cannot be read).
    """
    records_path, health_path = Path(job.requests_path).absolute(), Path(job.client_path).absolute()
    count = process_count(job, cores=len(os.sched_getaffinity(0))) if processes is None else processes
    if fleet is not None:
        count = fleet.workers
    limit_s = longest_s(job)
    told = _Log(log)
    health: ClientHealth | None = None
    trouble = ""
    try:
        for folder in (work, log.parent, records_path.parent, health_path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for old in (records_path, health_path):
            old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="load-", dir=work.absolute(), ignore_cleanup_errors=True) as passage:
            parts = shares(job, count, folder=Path(passage))
            try:
                _run(parts, folder=Path(passage), log=told, limit_s=limit_s, fleet=fleet, check=check)
            finally:
                _gather([Path(part.job.requests_path) for part in parts], records_path)
            health = merged([_health(Path(part.job.client_path), log=told) for part in parts])
        health_path.write_bytes(msgspec.json.encode(health))
    except _Trouble as fault:
        trouble = fault.message
    except OSError as fault:
        trouble = unwritable(fault.strerror or str(fault), folder=records_path.parent)
    try:
        records = _records(records_path)
    except ResultsUnreadable as fault:
        records, trouble = (), trouble or fault.message
    return LoadResult(records=records, health=None if trouble else health, trouble=trouble)


class _Trouble(MeasurementInvalid):
    """A fault of our own client, which is told in the result and never raised to the caller."""


def unwritable(why: str, *, folder: Path) -> str:
    """The sentence for records that could not be written."""
    with contextlib.suppress(OSError):
        why += f"; {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there"
    return f"{UNWRITTEN} to {folder}: {why}"


# ---------------------------------------------------------------- how many processes, and for how long


def process_count(job: LoadJob, *, cores: int) -> int:
    """How many processes carry this load, leaving at least half of the cores to the server."""
    return max(1, min(ceil(_processes_wanted(job)), cores // 2))


def _processes_wanted(job: LoadJob) -> float:
    load = job.load
    if isinstance(load, ClosedLoop):
        return job.users / USERS_PER_PROCESS
    if isinstance(load, OpenLoop):
        assert job.rate_per_s is not None
        return job.rate_per_s / RATE_PER_PROCESS
    lines = config.trace(Path(load.trace))
    span_s = max(1.0, max(line.at_s for line in lines) / load.speed)
    return len(lines) / span_s / RATE_PER_PROCESS


def longest_s(job: LoadJob) -> float:
    """After so long a load that has not ended hangs."""
    return _held_s(job.load) + job.load.request_timeout_s + SPARE_S


def _held_s(load: Load) -> float:
    """The longest time until the last request is sent."""
    if isinstance(load, ClosedLoop):
        return load.ramp_s + load.warmup_max_s + load.max_s + load.request_timeout_s
    if isinstance(load, OpenLoop):
        return load.warmup_s + load.duration_s
    lines = config.trace(Path(load.trace))
    turns = max(Counter(line.session for line in lines if line.session is not None).values(), default=1)
    return max(line.at_s for line in lines) / load.speed + (turns - 1) * load.request_timeout_s


# ---------------------------------------------------------------- several processes on one job


def shares(job: LoadJob, processes: int, *, folder: Path) -> list[LoadShare]:
    """The job cut for so many processes, but no more than it has users.

    A single one appends its records where they belong, so that they are there whatever becomes of us;
    of several each has a file in `folder`.
    """
    count = max(1, min(processes, job.users) if isinstance(job.load, ClosedLoop) else processes)
    bounds = [part * job.users // count for part in range(count + 1)]
    records_path = Path(job.requests_path).absolute()
    return [
        LoadShare(
            job=msgspec.structs.replace(
                job,
                requests_path=str(records_path if count == 1 else folder / f"{records_path.stem}-{part}.jsonl"),
                client_path=str(folder / f"{Path(job.client_path).stem}-{part}.json"),
            ),
            part=part,
            parts=count,
            first_user=bounds[part],
            users=bounds[part + 1] - bounds[part],
        )
        for part in range(count)
    ]


def merged(healths: Sequence[ClientHealth]) -> ClientHealth:
    """One for all processes: the worst figures, and only the time in which all of them were at full load."""
    steady = [health.is_steady for health in healths]
    return ClientHealth(
        cpu_ratio=max(health.cpu_ratio for health in healths),
        cpu_ratios=tuple(health.cpu_ratio for health in healths),
        lag_p50_s=max(health.lag_p50_s for health in healths),
        lag_p99_s=max(health.lag_p99_s for health in healths),
        lag_max_s=max(health.lag_max_s for health in healths),
        send_lag_p50_s=_worst(health.send_lag_p50_s for health in healths),
        send_lag_p99_s=_worst(health.send_lag_p99_s for health in healths),
        rtt_p50_s=_worst(health.rtt_p50_s for health in healths),
        started_s=max(health.started_s for health in healths),
        stopped_s=min(health.stopped_s for health in healths),
        ended_s=max(health.ended_s for health in healths),
        warmup_s=max(health.warmup_s for health in healths),
        is_steady=None if None in steady and False not in steady else all(steady),
        requests=sum(health.requests for health in healths),
        wall_step_s=max((health.wall_step_s for health in healths), key=abs),
        suspended_s=max(health.suspended_s for health in healths),
        clock_error_s=_worst(health.clock_error_s for health in healths),
        processes=len(healths),
    )


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _gather(sources: Sequence[Path], target: Path) -> None:
    """Append each source to `target`, but no line that a killed process left unfinished.

    Raises:  OSError where there is no room; what does not fit is kept beside the target, under its own name.
    """
    fault: OSError | None = None
    for source in filter(Path.exists, sources):
        store.drop_half_line(source)
        if source == target:
            continue
        if not target.exists():
            shutil.move(source, target)
        elif fault := fault or _append(source, target):
            shutil.move(source, target.parent / source.name)
    if fault is not None:
        raise fault


def _append(source: Path, target: Path) -> OSError | None:
    """All of it or nothing. Returns why it was nothing."""
    whole_bytes = target.stat().st_size
    try:
        with source.open("rb") as written, target.open("ab") as sink:
            shutil.copyfileobj(written, sink)
    except OSError as error:
        os.truncate(target, whole_bytes)
        return error
    return None


# ---------------------------------------------------------------- Locust's own words


class _Log:
    """Locust's log, which several runs share, and where ours begins in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = path.stat().st_size if path.exists() else 0

    def trouble(self, what: str, *, mark: str = "") -> _Trouble:
        """The fault with the log's last word, which says why: the last line that has `mark` in it."""
        told = self.path.read_bytes()[self._start :].decode(errors="replace") if self.path.exists() else ""
        last = "".join(f": {line.strip()}" for line in [line for line in last_lines(told) if mark in line][-1:])
        return _Trouble(f"{what}{last} (log: {self.path})")


def last_lines(log: str) -> list[str]:
    """The last lines of a Locust log that tell what happened: before its table of statistics.

    gevent repeats behind each traceback which greenlet it was of.
    """
    told = itertools.takewhile(lambda line: LOG_END not in line, log.splitlines())
    return [line for line in told if line.strip() and "<Greenlet " not in line][-LOG_LINES:]


# ---------------------------------------------------------------- the processes


def _run(
    parts: Sequence[LoadShare],
    *,
    folder: Path,
    log: _Log,
    limit_s: float,
    fleet: Fleet | None,
    check: Callable[[], None],
) -> None:
    """Run Locust on all parts until they have ended well; give them their moments, look after the engine."""
    for part in parts:
        _share_path(folder, part).write_bytes(msgspec.json.encode(part))
    with contextlib.ExitStack() as stack:
        starting = (
            [_locust(part, folder=folder, log=log.path) for part in parts]
            if fleet is None
            else [_locust_master(fleet, folder=folder, log=log.path)]
        )
        children = [stack.enter_context(child) for child in starting]
        began_s = checked_s = time.perf_counter()
        while None in (codes := [child.poll() for child in children]) and not any(codes):
            now_s = time.perf_counter()
            if now_s - checked_s >= CHECK_S:
                check()
                checked_s = now_s
            if now_s - began_s > limit_s:
                raise log.trouble(f"the client did not end within {limit_s:.0f} s")
            _give_moment("go", once_all="ready", parts=len(parts), folder=folder)
            _give_moment("measure", once_all="steady", parts=len(parts), folder=folder)
            time.sleep(POLL_S)
        check()  # a server that died in the last moments is the better explanation
        for number, code in enumerate(codes):
            if code:
                who = f"client process {number + 1} of {len(parts)}" if fleet is None else "Locust's master"
                raise _trouble_of(code, who, part=parts[number], log=log)


def _give_moment(name: str, *, once_all: str, parts: int, folder: Path) -> None:
    """Write the moment that all processes wait for, once each has said that it may come (see scenarios/signals.py)."""
    if not (folder / name).exists() and all((folder / f"{once_all}-{part}").exists() for part in range(parts)):
        _write_whole(folder / name, repr(time.perf_counter() + START_MARGIN_S))


def _trouble_of(code: int, who: str, *, part: LoadShare, log: _Log) -> _Trouble:
    """Why a Locust process ended that should not have."""
    if code == WRITE_FAILED:
        folder = Path(part.job.requests_path).parent
        return _Trouble(unwritable("no room is left, or the file may not grow", folder=folder))
    if code == WORKER_LOST:
        return log.trouble("one of the machines that sent the load was lost", mark="was lost")
    if code < 0:
        return _Trouble(f"{who} was ended by signal {-code} ({signal.Signals(-code).name}; log: {log.path})")
    return log.trouble(f"{who} ended with code {code}")


def _share_path(folder: Path, part: LoadShare) -> Path:
    return folder / f"share-{part.part}.json"


def _locust(part: LoadShare, *, folder: Path, log: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Locust on one share."""
    users = str(part.users or 1)  # an open loop has one that sends everything
    settings = {"HARNESS_LOAD_SHARE": str(_share_path(folder, part)), "HARNESS_LOAD_SIGNALS": str(folder)}
    words = ["--headless", "--only-summary", "--users", users, "--spawn-rate", users]
    return _locust_process(words, settings, folder=folder, log=log)


def _locust_master(
    fleet: Fleet, *, folder: Path, log: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Locust's master, which hands the shares to the workers that come (see scenarios/fleet.py)."""
    workers = str(fleet.workers)
    words = ["--master", "--master-bind-host", fleet.bind, "--master-bind-port", str(fleet.port), "--headless"]
    words += ["--only-summary", "--expect-workers", workers, "--expect-workers-max-wait", str(WORKERS_WAIT_S)]
    words += ["--users", workers, "--spawn-rate", workers]  # each worker has one, which stands for all of its users
    return _locust_process(words, {"HARNESS_LOAD_SIGNALS": str(folder)}, folder=folder, log=log)


def locust_worker(
    master_host: str, master_port: int, *, folder: Path, log: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Locust as a worker of that master; it ends with code 0 when the master's cell has ended."""
    words = ["--worker", "--master-host", master_host, "--master-port", str(master_port)]
    return _locust_process(words, {}, folder=folder, log=log)


@contextlib.contextmanager
def _locust_process(
    words: Sequence[str], settings: Mapping[str, str], *, folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Locust in a process group of its own; on exit the whole group is gone."""
    locustfile = _package_root("scenarios") / "scenarios" / "locustfile.py"
    with log.open("ab") as sink:
        # Its own session: Ctrl-C reaches only us, and we end it in order. An empty folder: Locust would
        # take settings from a locust.conf or pyproject.toml where the user happens to stand.
        child = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", str(locustfile), *words],
            cwd=folder,
            env=child_environment(os.environ) | dict(settings),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        stop_group(child, grace_s=STOP_GRACE_S)


def stop_group(child: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a process group that we started: asked first, then made to, also when we are hurried meanwhile."""
    if child.poll() is not None:
        return
    try:
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    finally:
        if child.poll() is None:
            _signal_group(child, signal.SIGKILL)
            child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with our packages importable, and without what would bend the measurement.

    Proxies must not divert loopback traffic, and LOCUST_* variables are settings of Locust's.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("LOCUST_") and not name.lower().endswith("_proxy")
    }
    roots = dict.fromkeys(str(_package_root(package)) for package in ("harness", "scenarios"))
    return kept | {"PYTHONPATH": os.pathsep.join([*roots, *filter(None, [kept.get("PYTHONPATH")])])}


def _package_root(package: str) -> Path:
    """The folder from which `package` is imported; it is not imported here."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise HarnessError(f"the package {package!r} is not installed", hint="install vllm-harness again")
    return Path(next(iter(spec.submodule_search_locations))).absolute().parent


# ---------------------------------------------------------------- files


def _write_whole(path: Path, text: str) -> None:
    """Write so that a reader who sees the file sees all of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def _health(path: Path, *, log: _Log) -> ClientHealth:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClientHealth)
    except (OSError, msgspec.MsgspecError) as error:
        raise log.trouble("the client ended without a word on how it fared") from error


def _records(path: Path) -> tuple[RequestRecord, ...]:
    return tuple(sorted(store.lines(path, RequestRecord), key=lambda record: record.end_s))
