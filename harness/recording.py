"""The folder of a run from its start to its end: what is written while it is measured, and what when it is over."""

import contextlib
import datetime
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import __version__, telemetry
from harness.errors import DiskFull, HarnessError
from harness.records import Cell, EngineFacts, Run, RunState, Scenario
from harness.store import RESULTS_VERSION, RunFolder, calibration, new_run_id, on_disk, without_password


class Recording:
    """A run and its folder; what is told to it is on disk at once, or as soon as the disk takes it.

    Args:  is_shared: other processes write into the folder too: run.json is read again before it is changed.
    """

    def __init__(self, folder: RunFolder, run: Run, *, is_shared: bool = False) -> None:
        self.folder, self.run, self.is_shared = folder, run, is_shared
        self.cells: list[Cell] = []
        """All that were told since this was opened."""
        self._waiting: list[Cell] = []

    def update(self, **changes: object) -> None:
        """Changes fields of run.json; a full disk keeps them for `settle`."""
        with self._alone():
            self.run = msgspec.structs.replace(self.run, **changes)
            with contextlib.suppress(OSError):
                self.folder.write_run(self.run)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Until the block ends `run` is what stands on the disk, and nobody else changes that."""
        if not self.is_shared:
            yield
            return
        with self.folder.writing():
            self.run = self.folder.run()
            yield

    def add_cell(self, cell: Cell) -> None:
        """One more cell, behind those that a full disk has kept from being written."""
        self.cells.append(cell)
        self._waiting.append(cell)
        with contextlib.suppress(OSError):
            self._write_cells()

    def add_engine(self, facts: EngineFacts) -> None:
        """One more server of this run; the same block of the same role is replaced."""
        with self._alone():
            others = (known for known in self.run.engines if (known.role, known.block) != (facts.role, facts.block))
            self.update(engines=(*others, facts))

    def add_note(self, text: str) -> None:
        """Something a reader of the figures must know; said once."""
        with self._alone():
            if text and text not in self.run.notes:
                self.update(notes=(*self.run.notes, text))

    def settle(self) -> None:
        """Writes all that is not written yet. Raises: DiskFull where the disk does not take it."""
        try:
            with on_disk(self.folder.path):
                self._write_cells()
                with self._alone():
                    self.folder.write_run(self.run)
        except DiskFull as error:
            lost = f"{len(self._waiting)} cells are lost, those before are there"
            raise DiskFull(f"{error.message}; {lost}", hint=error.hint) from error

    def _write_cells(self) -> None:
        while self._waiting:
            self.folder.append_cell(self._waiting[0])
            del self._waiting[0]


@contextmanager
def recorded(
    *, results: Path, kind: str, model: str, gpu: str, seed: int, scenarios: Sequence[Scenario], objective: str = ""
) -> Iterator[Recording]:
    """A new run folder whose run.json says RUNNING, and at the end how it ended, whatever ended it."""
    now = datetime.datetime.now(datetime.UTC)
    run_id = new_run_id(results, kind=kind, model=model, gpu=gpu, stamp=now.strftime("%Y%m%dT%H%M%SZ"))
    folder = RunFolder(results / run_id).create()
    host = telemetry.host()
    run = Run(
        version=RESULTS_VERSION,
        id=run_id,
        command=without_password(shlex.join(["harness", *sys.argv[1:]])),
        kind=kind,
        state=RunState.RUNNING,
        started_utc=now.isoformat(timespec="seconds"),
        harness_version=__version__,
        host=host,
        calibration=calibration(results, host=host, harness_version=__version__),
        gpu=gpu,
        model=model,
        seed=seed,
        scenarios=tuple(scenarios),
        objective=objective,
    )
    with kept(Recording(folder, run)) as recording:
        recording.add_note(telemetry.strangers_note())
        yield recording


@contextmanager
def kept(recording: Recording) -> Iterator[Recording]:
    """run.json tells how the run ended, whatever ended it."""
    with recording.folder.locked():
        if (recording.folder.path / "run.json").exists():  # another process may have gone on until a moment ago
            recording.run = recording.folder.run()
        recording.update(state=RunState.RUNNING, error="", ended_utc=None)
        recording.settle()
        try:
            with on_disk(recording.folder.path):
                yield recording
            recording.settle()
        except BaseException as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            message = error.message if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            recording.update(
                state=RunState.INTERRUPTED if is_interrupt else RunState.FAILED,
                ended_utc=utc_now(),
                error="" if is_interrupt else message,
            )
            raise
        recording.update(state=RunState.DONE, ended_utc=utc_now())
        recording.settle()


def utc_now() -> str:
    """Wall clock for people, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
