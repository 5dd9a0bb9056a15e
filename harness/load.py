"""Run Locust on one cell, in processes of its own, and bring back what it recorded.

gevent patches the whole interpreter it runs in, so Locust stays out of this one: the job goes to it
as a JSON file, records and the client's health come back as files.
"""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
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

    Args:     work: folder for files of passage. log: where Locust's own output goes. processes: how many
              share the users. check: called each 0.3 s and once more at the end; what it raises (the
              engine has died) ends the load.
    Returns:  all records, which also lie at `job.requests_path`, and the health of the worst process.
    Raises:   MeasurementInvalid: Locust itself failed or hung. Whatever `check` raises.
    """
    parts = shares(job, processes)
    start = work / "load.start" if len(parts) > 1 else None
    _make_room(job, parts, start=start, work=work, log=log)
    try:
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(_locust(part, work=work, log=log, start=start)) for part in parts]
            _await_end(children, parts, start=start, log=log, check=check)
    finally:
        if len(parts) > 1:
            _gather(parts, Path(job.requests_path))
    health = merged([_health(part, log=log) for part in parts])
    Path(job.client_path).write_bytes(msgspec.json.encode(health))
    return LoadResult(records=_records(Path(job.requests_path)), health=health)


# ---------------------------------------------------------------- several processes on one job


def shares(job: LoadJob, processes: int) -> list[Share]:
    """The job cut for so many processes, but no more than it has users; each has files of its own."""
    count = max(1, min(processes, job.users))
    if count == 1:
        return [Share(job=job, first_user=0)]
    bounds = [part * job.users // count for part in range(count + 1)]
    return [
        Share(
            job=msgspec.structs.replace(
                job,
                users=bounds[part + 1] - bounds[part],
                requests_path=_numbered(job.requests_path, part),
                client_path=_numbered(job.client_path, part),
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


def _numbered(path: str, part: int) -> str:
    return str(Path(path).with_stem(f"{Path(path).stem}-{part}"))


def _ready_path(part: Share) -> Path:
    """Locust's side makes it when all of its users wait for the start."""
    return Path(f"{part.job.client_path}.ready")


def _gather(parts: Sequence[Share], requests_path: Path) -> None:
    """All parts' records in one file; a line that a killed process left unfinished is dropped."""
    with requests_path.open("wb") as sink:
        for source in (Path(part.job.requests_path) for part in parts):
            if source.exists():
                written = source.read_bytes()
                sink.write(written[: written.rfind(b"\n") + 1])
                source.unlink()


# ---------------------------------------------------------------- the processes


@contextlib.contextmanager
def _locust(part: Share, *, work: Path, log: Path, start: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """Locust on one share, in a process group of its own; on exit the whole group is gone."""
    job_path = work / f"load-{part.first_user}.json"
    job_path.write_bytes(msgspec.json.encode(part.job))
    users = str(part.job.users)
    argv = [sys.executable, "-m", "locust", "-f", str(_package_root("scenarios") / "scenarios" / "locustfile.py")]
    argv += ["--headless", "--only-summary", "--users", users, "--spawn-rate", users]
    environment = child_environment(os.environ) | {
        "HARNESS_LOAD_JOB": str(job_path.absolute()),
        "HARNESS_LOAD_FIRST_USER": str(part.first_user),
    }
    if start is not None:
        environment["HARNESS_LOAD_START"] = str(start.absolute())
    with log.open("ab") as sink:
        # Its own session: Ctrl-C reaches only us, and we end it in order. Its own folder: Locust would
        # take settings from a locust.conf or pyproject.toml where the user happens to stand.
        child = subprocess.Popen(
            argv,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _stop_group(child)


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


def _await_end(
    children: Sequence[subprocess.Popen[bytes]],
    parts: Sequence[Share],
    *,
    start: Path | None,
    log: Path,
    check: Callable[[], None],
) -> None:
    """Until all processes have ended well; on the way give them their start and look after the engine."""
    load = parts[0].job.load
    limit_s = 2 * load.request_timeout_s + load.max_s + SPARE_S
    began_s = checked_s = time.perf_counter()
    while None in (codes := [child.poll() for child in children]) and not any(codes):
        now_s = time.perf_counter()
        if now_s - checked_s >= CHECK_S:
            check()
            checked_s = now_s
        if now_s - began_s > limit_s:
            raise _failure(f"Locust did not end within {limit_s:.0f} s", log=log)
        if start is not None and not start.exists() and all(_ready_path(part).exists() for part in parts):
            _write_whole(start, repr(time.perf_counter() + START_MARGIN_S))
        time.sleep(POLL_S)
    check()  # a server that died in the last moments is the better explanation
    if any(codes):
        raise _failure(f"Locust ended with code {next(filter(None, codes))}", log=log)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """End a process group that we started: asked first, then made to."""
    for stop, patience_s in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, None)):
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, stop)
            child.wait(patience_s)


# ---------------------------------------------------------------- files


def _make_room(job: LoadJob, parts: Sequence[Share], *, start: Path | None, work: Path, log: Path) -> None:
    """The folders are there, and nothing of an earlier attempt is."""
    for folder in (work, log.parent, Path(job.requests_path).parent, Path(job.client_path).parent):
        folder.mkdir(parents=True, exist_ok=True)
    old = [Path(path) for part in parts for path in (part.job.requests_path, part.job.client_path)]
    old += [Path(job.requests_path), Path(job.client_path), *map(_ready_path, parts)]
    for path in [*old, *([start] if start else [])]:
        path.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    """Write so that a reader who sees the file sees all of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def _health(part: Share, *, log: Path) -> ClientHealth:
    path = Path(part.job.client_path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClientHealth)
    except (OSError, msgspec.MsgspecError) as error:
        raise _failure("Locust ended without saying how it fared", log=log) from error


def _records(path: Path) -> tuple[RequestRecord, ...]:
    decoder = msgspec.json.Decoder(RequestRecord)
    records = [decoder.decode(line) for line in path.read_bytes().splitlines()]
    return tuple(sorted(records, key=lambda record: record.end_s))


def _failure(what: str, *, log: Path) -> MeasurementInvalid:
    """The error with the end of Locust's log, which says why."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
    return MeasurementInvalid("\n".join([f"{what} (log: {log})", *lines]), hint=f"see {log}")
