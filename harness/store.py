"""A run on disk: results/<run>/{run.json, {cells,trials,defence}.jsonl, requests/, telemetry/, engine-*.log}.

Every cell and trial is appended as it ends, so that whatever ends a run loses at most the cell in work.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from harness.errors import DiskFull, ResultsUnreadable, UsageError
from harness.records import Calibration, Cell, DefenceLaunch, Host, Record, Run, TelemetrySample, Trial

# The history of RESULTS_VERSION; raise it when old figures stop being comparable or readable.
#   1  2026-11  first layout
#   2  2026-11  warm-up until steady, windows found in the data, latencies from the due time, blocks, manifest
RESULTS_VERSION = 2

CUT_OFF = ", cut off"
"""Behind the role of cells whose trial did not end."""

CALIBRATION = "calibration.json"
"""Beside the runs: the client's own error on this machine, as `harness doctor` found it."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""Errors of a disk that takes no more, whatever is written to it."""

R = TypeVar("R", bound=Record)


class RunFolder:
    """The files of one run. Writers append whole lines; readers drop a last line that was cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock_file: int | None = None
        """Its descriptor while this process holds the folder. A child that inherits it holds the folder too."""
        self._writers = 0

    @property
    def id(self) -> str:
        """The folder's name is the run's id."""
        return self.path.name

    def create(self) -> "RunFolder":
        """Makes the folder. Raises: UsageError where it cannot be written."""
        try:
            (self.path / "requests").mkdir(parents=True)
            (self.path / "telemetry").mkdir()
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path}: {error.strerror}", hint="choose another folder with --results"
            ) from error
        return self

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for one writer; the kernel frees it with the process, however that ends.

        Raises: UsageError where another process measures into it.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is measuring into {self.path}", hint="wait for it, or stop it first"
                ) from error
            self.lock_file = lock.fileno()
            try:
                yield
            finally:
                self.lock_file = None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Waits until no other process changes a file here; may be nested within one thread."""
        self._writers += 1
        try:
            if self._writers > 1:
                yield
                return
            with (self.path / ".writing").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        finally:
            self._writers -= 1

    @contextlib.contextmanager
    def claimed_number(self, *, most: int | None) -> Iterator[int | None]:
        """The lowest number that no trial has and no other process holds, ours until the block ends.

        The kernel frees it with the process, however that ends. None: `most` numbers are measured or being measured.
        """
        claims = self.path / ".claims"
        claims.mkdir(exist_ok=True)
        for number in itertools.count(1) if most is None else range(1, most + 1):
            with (claims / str(number)).open("w") as claim:
                try:
                    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if number not in {trial.number for trial in self.trials()}:
                    yield number
                    return
        yield None

    def write_run(self, run: Run) -> None:
        """Replaces run.json at once."""
        replace(self.path / "run.json", msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")

    def append_cell(self, cell: Cell) -> None:
        """Adds one cell to cells.jsonl, on disk before this returns."""
        with self.writing():
            append(self.path / "cells.jsonl", cell)

    def append_trial(self, trial: Trial) -> None:
        """Adds one trial to trials.jsonl, on disk before this returns."""
        with self.writing():
            append(self.path / "trials.jsonl", trial)

    def free_name(self, name: str) -> str:
        """`name`, with a counter where a cell of this name has files already (its trial was cut off)."""
        tries, free = 1, name
        while (self.path / "requests" / f"{free}.jsonl").exists():
            tries += 1
            free = f"{name}-try{tries}"
        return free

    def write_telemetry(self, name: str, samples: Iterable[TelemetrySample]) -> None:
        """telemetry/<name>.jsonl, one sample a line."""
        body = b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples)
        (self.path / "telemetry" / f"{name}.jsonl").write_bytes(body)

    def run(self) -> Run:
        """Raises: ResultsUnreadable where run.json is missing, damaged or of another version."""
        path = self.path / "run.json"
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ResultsUnreadable(
                f"{path}: cannot be read: {error.strerror}", hint="name a folder that `harness` wrote"
            ) from error
        try:
            version = msgspec.json.decode(raw, type=dict[str, object]).get("version")
            if version == RESULTS_VERSION:
                return msgspec.json.decode(raw, type=Run)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ResultsUnreadable(f"{path}: damaged: {error}", hint="restore it, or measure again") from error
        raise ResultsUnreadable(
            f"{path}: results of version {version}, this harness reads {RESULTS_VERSION}",
            hint="read it with the harness that wrote it, or measure again",
        )

    def cells(self) -> tuple[Cell, ...]:
        """In the order measured. Raises: ResultsUnreadable."""
        return lines(self.path / "cells.jsonl", Cell)

    def set_aside_cells(self, *, whole_roles: Iterable[str]) -> None:
        """Renames the role of cells that belong to none of `whole_roles`: their trial was cut off."""
        kept = set(whole_roles)
        self.set_aside(lambda cell: cell.role not in kept)

    def set_aside(self, is_cut_off: Callable[[Cell], bool]) -> None:
        """Renames the role of cells whose launch did not come to its end."""
        path = self.path / "cells.jsonl"
        with self.writing():
            cells = [
                msgspec.structs.replace(cell, role=cell.role + CUT_OFF)
                if is_cut_off(cell) and not cell.role.endswith(CUT_OFF)
                else cell
                for cell in self.cells()
            ]
            replace(path, b"".join(msgspec.json.encode(cell) + b"\n" for cell in cells))

    def trials(self) -> tuple[Trial, ...]:
        """In the order asked, whoever of several workers was done first. Raises: ResultsUnreadable."""
        return tuple(sorted(lines(self.path / "trials.jsonl", Trial), key=lambda trial: trial.number))

    def append_defence(self, launch: DefenceLaunch) -> None:
        """Adds one launch to defence.jsonl, on disk before this returns."""
        with self.writing():
            append(self.path / "defence.jsonl", launch)

    def defence(self) -> tuple[DefenceLaunch, ...]:
        """The launches of the defence in their order. Raises: ResultsUnreadable."""
        return lines(self.path / "defence.jsonl", DefenceLaunch)


# ---------------------------------------------------------------- how files are written


@contextlib.contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Around what is written there. Raises: DiskFull, in the place of an OSError that may not even name a file."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"{error.filename or folder} could not be written: {error.strerror}", hint="make room on that disk"
        ) from error


def replace(path: Path, body: bytes, *, mode: int | None = None) -> None:
    """Writes the file at once: a reader finds the old one or the new one, and a full disk leaves the old one.

    Args:  mode: of the file. None: as the user's umask has it.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(body)
        if mode is not None:
            draft.chmod(mode)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def append(path: Path, record: Record) -> None:
    """One JSON line, on disk before this returns; half a line that a killed run left is dropped first."""
    drop_half_line(path)
    with path.open("ab") as sink:
        sink.write(msgspec.json.encode(record) + b"\n")
        sink.flush()
        os.fsync(sink.fileno())


def drop_half_line(path: Path) -> None:
    """Cuts off what a killed run left behind the last whole line."""
    body = path.read_bytes() if path.exists() else b""
    if body and not body.endswith(b"\n"):
        os.truncate(path, body.rfind(b"\n") + 1)


def lines(path: Path, kind: type[R]) -> tuple[R, ...]:
    """All whole lines of a JSONL file as records; none where there is no file."""
    if not path.exists():
        return ()
    body = path.read_bytes()
    whole = body[: body.rfind(b"\n") + 1]
    decoder = msgspec.json.Decoder(kind)
    out = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            out.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ResultsUnreadable(
                f"{path}:{number}: damaged: {error}", hint="remove the line, or measure again"
            ) from error
    return tuple(out)


# ---------------------------------------------------------------- the client's own error


def host_title(host: Host) -> str:
    """The machine as far as the client's speed hangs on it."""
    return f"{host.cpu}, {host.cores} cores"


def write_calibrations(results: Path, found: Iterable[Calibration]) -> None:
    """Replaces the calibrations beside the runs at once. Raises: UsageError where they cannot be written."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        body = msgspec.json.format(msgspec.json.encode(tuple(found)), indent=2) + b"\n"
        replace(results / CALIBRATION, body)
    except OSError as error:
        raise UsageError(
            f"cannot write to {results}: {error.strerror}", hint="choose another folder with --results"
        ) from error


def calibrations(results: Path, *, host: Host, harness_version: str) -> tuple[Calibration, ...]:
    """Those that were made on this machine by this version; none where there is no file that tells."""
    try:
        found = msgspec.json.decode((results / CALIBRATION).read_bytes(), type=tuple[Calibration, ...])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return ()  # `harness doctor` writes it anew; until then runs are said to be not calibrated
    here = host_title(host), harness_version
    return tuple(one for one in found if (one.host, one.harness_version) == here)


def calibration(results: Path, *, host: Host, harness_version: str) -> Calibration | None:
    """Of those the one with the most users. None: not calibrated."""
    found = calibrations(results, host=host, harness_version=harness_version)
    return max(found, key=lambda one: one.users, default=None)


def without_password(text: str) -> str:
    """A command line or a URL as it may be shown and kept."""
    shown = re.sub(r"(\w://[^\s:/@]*):[^\s/]*@", r"\1@", text)
    return re.sub(r"([?&]password=)[^&\s'\"]*", r"\1", shown)


def find_run(results: Path, name: str) -> RunFolder:
    """The run called `name`, given as id, unique start of an id, or folder. Raises: UsageError."""
    if (results / name / "run.json").exists() and name not in {"", ".", ".."}:
        return RunFolder(results / name)
    if Path(name, "run.json").exists():
        return RunFolder(Path(name).resolve())  # the id of "." is the folder's own name
    known = sorted(file.parent.name for file in results.glob("*/run.json"))
    started = [run for run in known if name and run.startswith(name)]
    if len(started) == 1:
        return RunFolder(results / started[0])
    if started:
        raise UsageError(f"{name!r} begins {len(started)} runs", hint=f"which one? {', '.join(started[:9])}")
    raise UsageError(
        f"no run called {name!r} in {results}/",
        hint=f"the newest are {', '.join(known[-5:])}" if known else "there are no runs yet",
    )


def new_run_id(results: Path, *, kind: str, model: str, gpu: str, stamp: str) -> str:
    """The id "<stamp>-<kind>-<model>-<gpu>", with a counter where that exists already."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stamp}-{kind}-{model}-{gpu}")
    taken = 1
    run_id = base
    while (results / run_id).exists():
        taken += 1
        run_id = f"{base}-{taken}"
    return run_id
