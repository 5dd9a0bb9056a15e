"""Run Locust on one cell, in processes of its own, and bring back what it recorded.

gevent patches the whole interpreter it runs in, so Locust stays out of this one: the job goes to it
as a JSON file, records and the client's health come back as files.
"""

import contextlib
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import HarnessError, MeasurementInvalid
from harness.records import ClientHealth, LoadJob, Record, RequestRecord

POLL_S: Final = 0.05
CHECK_S: Final = 0.3
START_MARGIN_S: Final = 0.1
"""From all processes being ready to their common start: well over the interval in which they look."""
STOP_GRACE_S: Final = 5.0
SPARE_S: Final = 120.0
"""What a cell may take beyond its own limits: starting Python, spawning users, writing."""
LOG_LINES: Final = 12
LOG_END: Final = "Shutting down (exit code"
"""Where Locust's log stops telling what happened and its table of statistics begins."""


class LoadResult(Record, frozen=True, kw_only=True):
    """What one cell's load came to."""

    records: tuple[RequestRecord, ...]
    """All requests of all users, warm-up and failures included, in the order in which they ended."""
    health: ClientHealth


class Share(Record, frozen=True, kw_only=True):
    """The part of a job that one Locust process does."""

    job: LoadJob
    first_user: int


def drive(
    job: LoadJob, *, work: Path, log: Path, processes: int = 1, check: Callable[[], None] = lambda: None
) -> LoadResult:
    """Put the job's load on the server until it has ended.

    Args:     work: folder for files of passage. log: where Locust's own output goes, at the end of what
              is there. processes: how many share the users. check: called each 0.3 s and once more at the
              end; what it raises (the engine has died) ends the load.
    Returns:  all records, which also lie at `job.requests_path`, and the health of the worst process.
    Raises:   MeasurementInvalid: Locust itself failed or hung. Whatever `check` raises.
    """
    records_path, health_path = Path(job.requests_path).absolute(), Path(job.client_path).absolute()
    for folder in (work, log.parent, records_path.parent, health_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for old in (records_path, health_path):
        old.unlink(missing_ok=True)
    told = _Log(log)
    with tempfile.TemporaryDirectory(prefix="load-", dir=work.absolute()) as passage:
        parts = shares(job, processes, folder=Path(passage))
        try:
            _run(parts, folder=Path(passage), log=told, check=check)
        finally:
            _gather([Path(part.job.requests_path) for part in parts], records_path)
        health = merged([_health(Path(part.job.client_path), log=told) for part in parts])
    health_path.write_bytes(msgspec.json.encode(health))
    return LoadResult(records=_records(records_path), health=health)


# ---------------------------------------------------------------- several processes on one job


def shares(job: LoadJob, processes: int, *, folder: Path) -> list[Share]:
    """The job cut for so many processes, but no more than it has users.

    A single one appends its records where they belong, so that they are there whatever becomes of us;
    of several each has a file in `folder`.
    """
    count = max(1, min(processes, job.users))
    bounds = [part * job.users // count for part in range(count + 1)]
    records_path = Path(job.requests_path).absolute()
    return [
        Share(
            job=msgspec.structs.replace(
                job,
                users=bounds[part + 1] - bounds[part],
                requests_path=str(records_path if count == 1 else folder / f"{records_path.stem}-{part}.jsonl"),
                client_path=str(folder / f"{Path(job.client_path).stem}-{part}.json"),
            ),
            first_user=bounds[part],
        )
        for part in range(count)
    ]


def merged(healths: Sequence[ClientHealth]) -> ClientHealth:
    """One for all processes: the worst figures, and only the time in which all of them were at full load."""
    return ClientHealth(
        cpu_ratio=max(health.cpu_ratio for health in healths),
        lag_p50_s=max(health.lag_p50_s for health in healths),
        lag_p99_s=max(health.lag_p99_s for health in healths),
        started_s=max(health.started_s for health in healths),
        stopped_s=min(health.stopped_s for health in healths),
        ended_s=max(health.ended_s for health in healths),
        processes=len(healths),
    )


def _gather(sources: Sequence[Path], target: Path) -> None:
    """Append each source to `target`, but no line that a killed process left unfinished."""
    for source in sources:
        if source != target and source.exists():
            written = source.read_bytes()
            with target.open("ab") as sink:
                sink.write(written[: written.rfind(b"\n") + 1])


# ---------------------------------------------------------------- Locust's own words


class _Log:
    """Locust's log, which several runs share, and where ours begins in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = path.stat().st_size if path.exists() else 0

    def failure(self, what: str) -> MeasurementInvalid:
        """The error whose hint holds the end of the log, which says why."""
        told = self.path.read_bytes()[self._start :].decode(errors="replace") if self.path.exists() else ""
        return MeasurementInvalid(
            f"{what} (log: {self.path})", hint="\n".join(["the log ends with:", *last_lines(told)])
        )


def last_lines(log: str) -> list[str]:
    """The last lines of a Locust log that tell what happened: before its table of statistics."""
    told = itertools.takewhile(lambda line: LOG_END not in line, log.splitlines())
    return [line for line in told if line.strip()][-LOG_LINES:]


# ---------------------------------------------------------------- the processes


def _run(parts: Sequence[Share], *, folder: Path, log: _Log, check: Callable[[], None]) -> None:
    """Run Locust on all parts until they have ended well; give them their start, look after the engine."""
    load = parts[0].job.load
    limit_s = 2 * load.request_timeout_s + load.max_s + SPARE_S
    start = folder / "start" if len(parts) > 1 else None
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_locust(part, folder=folder, log=log.path, start=start)) for part in parts]
        began_s = checked_s = time.perf_counter()
        while None in (codes := [child.poll() for child in children]) and not any(codes):
            now_s = time.perf_counter()
            if now_s - checked_s >= CHECK_S:
                check()
                checked_s = now_s
            if now_s - began_s > limit_s:
                raise log.failure(f"Locust did not end within {limit_s:.0f} s")
            if start is not None and not start.exists() and all(_ready(start, part).exists() for part in parts):
                _write_whole(start, repr(now_s + START_MARGIN_S))
            time.sleep(POLL_S)
        check()  # a server that died in the last moments is the better explanation
        if any(codes):
            raise log.failure(f"Locust ended with code {next(filter(None, codes))}")


def _ready(start: Path, part: Share) -> Path:
    """What a process makes when all of its users wait for `start`."""
    return Path(f"{start}.ready-{part.first_user}")


@contextlib.contextmanager
def _locust(part: Share, *, folder: Path, log: Path, start: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """Locust on one share, in a process group of its own; on exit the whole group is gone."""
    job_path = folder / f"job-{part.first_user}.json"
    job_path.write_bytes(msgspec.json.encode(part.job))
    locustfile = _package_root("scenarios") / "scenarios" / "locustfile.py"
    users = str(part.job.users)
    argv = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
    argv += ["--users", users, "--spawn-rate", users]
    environment = child_environment(os.environ) | {
        "HARNESS_LOAD_JOB": str(job_path),
        "HARNESS_LOAD_FIRST_USER": str(part.first_user),
    }
    if start is not None:
        environment["HARNESS_LOAD_START"] = str(start)
    with log.open("ab") as sink:
        # Its own session: Ctrl-C reaches only us, and we end it in order. An empty folder: Locust would
        # take settings from a locust.conf or pyproject.toml where the user happens to stand.
        child = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
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
        raise log.failure("Locust ended without a word on how it fared") from error


def _records(path: Path) -> tuple[RequestRecord, ...]:
    decoder = msgspec.json.Decoder(RequestRecord)
    records = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    return tuple(sorted(records, key=lambda record: record.end_s))
