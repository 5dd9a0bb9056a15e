"""One launch of a study: all its loads, what ended it, what it took; tried again where others are to blame."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from harness import bench, load
from harness.bench import Part
from harness.engines import Engine
from harness.errors import (
    DiskFull,
    EngineBadFlag,
    EngineContextTooLong,
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineOutOfMemory,
    EnginePortTaken,
)
from harness.progress import Progress, clock_text
from harness.recording import Recording
from harness.records import Cell, EngineFacts, Level, Outcome, Scenario

TRIES: Final = 4
PAUSES_S: Final = (15.0, 60.0, 180.0)
"""Before another try, where the environment was to blame: the third try is of a machine that is really in use."""

OUTCOMES: Final[dict[type[EngineError], Outcome]] = {
    EngineOutOfMemory: Outcome.OUT_OF_MEMORY,
    EngineContextTooLong: Outcome.CONTEXT_TOO_LONG,
    EngineBadFlag: Outcome.BAD_FLAG,
    EngineCrashed: Outcome.CRASHED,
    EngineHung: Outcome.HUNG,
}
"""What flags can do to an engine. Any other engine error is not theirs and ends the study."""

Clock = Callable[[], float]


class Running(Protocol):
    """What `bench.launched` gives."""

    engine: Engine
    facts: EngineFacts
    death: EngineError | None

    def cell(self, scenario: Scenario, level: Level, *, repeat: int) -> Cell:
        """Measures one cell."""
        ...


Launch = Callable[..., AbstractContextManager[Running]]
"""`bench.launched`, or what takes its place."""
Judge = Callable[[Sequence[Cell], bool], str]
"""From the cells so far, and whether their last load has all its repeats: why to stop; empty to go on."""
Also = Callable[[Running], None]
"""What else is done with an engine that runs, before its first cell."""


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What came of one launch."""

    cells: list[Cell]
    facts: EngineFacts | None
    """None: it never was ready."""
    error: EngineError | None
    """What the flags did to it. None: it lived."""
    died_under: Level | None
    wall_s: float
    level_s: dict[str, float] = field(default_factory=dict)
    stopped: str = ""
    retries: int = 0

    @property
    def launch_s(self) -> float | None:
        """From start to ready. None: it never was."""
        return None if self.facts is None else self.facts.launch_s

    @property
    def outcome(self) -> Outcome:
        """How it ended, as far as that is not a matter of figures."""
        return Outcome.MEASURED if self.error is None else OUTCOMES[type(self.error)]


def is_environmental(error: EngineError) -> bool:
    """Whether other programs are to blame, so that nothing can be learned of the flags."""
    return isinstance(error, EnginePortTaken) or (isinstance(error, EngineOutOfMemory) and error.is_environmental)


def refuse_unwritten(cell: Cell) -> None:
    """Raises: DiskFull, which says nothing of the flags: the candidate must be measured again."""
    for reason in cell.reasons:
        if reason.startswith(load.UNWRITTEN):
            raise DiskFull(reason, hint="make room on that disk")


def never(cells: Sequence[Cell], is_whole: bool) -> str:  # noqa: ARG001, FBT001 - a judge that never stops
    """Goes on."""
    return ""


class Launcher:
    """Measures launches of a study.

    Args:  clock: seconds; of a simulated study the simulation's own. pause: waits. launch: as `bench.launched`.
    """

    def __init__(
        self,
        scenario: Scenario,
        recording: Recording,
        progress: Progress,
        *,
        clock: Clock = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        launch: Launch = bench.launched,
    ) -> None:
        self._scenario, self._recording, self._progress = scenario, recording, progress
        self.clock, self.pause, self._launch = clock, pause, launch

    def measured(
        self, part: Part, levels: Sequence[Level], *, repeats: int, judge: Judge = never, also: Also | None = None
    ) -> Launched:
        """One launch and its cells.

        Raises: EngineError that is not the flags' doing; one of the environment after the last try.
        """
        since = self.clock()
        for retries in range(TRIES):
            try:
                return self._once(part, levels, repeats=repeats, judge=judge, also=also, since=since, retries=retries)
            except EngineError as error:
                if not is_environmental(error) or retries == TRIES - 1:
                    raise
                self._wait(part, error, pause_s=PAUSES_S[retries])
        raise AssertionError

    def _wait(self, part: Part, error: EngineError, *, pause_s: float) -> None:
        self._recording.folder.set_aside(lambda cell: (cell.role, cell.block) == (part.role, part.block))
        self._progress.note(
            f"{part.role}: {error.message}; that is not these settings' doing: again in {clock_text(pause_s)}"
        )
        self.pause(pause_s)

    def _once(
        self,
        part: Part,
        levels: Sequence[Level],
        *,
        repeats: int,
        judge: Judge,
        also: Also | None,
        since: float,
        retries: int,
    ) -> Launched:
        cells: list[Cell] = []
        level_s: dict[str, float] = {}
        facts: EngineFacts | None = None
        stopped, error, died_under = "", None, None
        try:
            with self._launch(part, recording=self._recording, progress=self._progress) as running:
                facts = running.facts
                if also is not None:
                    also(running)
                for level in levels:
                    begun = self.clock()
                    stopped = self._level(running, level, repeats=repeats, judge=judge, into=cells)
                    if running.death is not None:
                        error, died_under = running.death, level
                        break
                    if sum(cell.users == level.users for cell in cells) == repeats:
                        level_s[level.name] = (self.clock() - begun) / repeats
                    else:
                        level_s = {}  # what it took is not that of whole loads
                    if stopped:
                        break
        except tuple(OUTCOMES) as caught:
            error = caught
        if error is not None and (is_environmental(error) or type(error) not in OUTCOMES):
            raise error
        return Launched(
            cells=cells,
            facts=facts,
            error=error,
            died_under=died_under,
            wall_s=self.clock() - since,
            level_s={} if error is not None else level_s,
            stopped=stopped,
            retries=retries,
        )

    def _level(self, running: Running, level: Level, *, repeats: int, judge: Judge, into: list[Cell]) -> str:
        """Why to stop after it, or within it; empty to go on."""
        for repeat in range(1, repeats + 1):
            into.append(running.cell(self._scenario, level, repeat=repeat))
            if running.death is not None:
                return ""
            refuse_unwritten(into[-1])
            if reason := judge(into, repeat == repeats):
                return reason
        return ""
