"""A program that is kept running, by a clock that a test may set."""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from harness.errors import EngineError, EngineHung, EnginePortTaken, HarnessError
from harness.progress import Say

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 60.0
STEADY_S: Final = 600.0
"""Who stayed up for so long is started again as if it were the first crash."""
QUICK_S: Final = 60.0
"""A crash before it was ready, or so soon after, is a quick one."""
QUICK_LIMIT: Final = 5
"""So many quick crashes in a row do not mend by another start."""


class Process(Protocol):
    """What must be known of a process to keep it running."""

    @property
    def pid(self) -> int:
        """Its id."""

    @property
    def returncode(self) -> int | None:
        """Exit code. None: it lives."""

    def listens_on(self, port: int) -> bool:
        """Whether it has the port."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """How a program is started, how to see that it answers, and why it ended."""

    title: str
    port: int
    log: Path
    ready_timeout_s: float
    start: Callable[[], AbstractContextManager[Process]]
    """When the block ends, nothing of it is left."""
    is_ready: Callable[[], bool]
    why_ended: Callable[[], HarnessError]
    """Asked while the block lasts."""


def delay_s(crashes: int) -> float:
    """How long to wait before the next start, after so many crashes: 1, 2, 4, … and never over a minute."""
    return min(FIRST_DELAY_S * 2.0 ** min(crashes - 1, 30), LONGEST_DELAY_S)


class Supervised:
    """A program that is kept running; `look`, called again and again, does what is due. Nothing here waits."""

    def __init__(self, program: Program, *, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.program = program
        self.process: Process | None = None
        """None: not started yet, or between a crash and the next start."""
        self._say, self._clock = say, clock
        self._block = contextlib.ExitStack()
        self._due_s = self._started_s = clock()
        self._ready_s: float | None = None  # None: it does not answer yet
        self._has_answered = False
        self._crashes = self._quick_crashes = 0

    @property
    def is_ready(self) -> bool:
        """Whether it answered since its last start, and has not been seen to end."""
        return self._ready_s is not None

    def look(self) -> None:
        """Starts the program if that is due, notes when it answers, and clears up after it when it has ended.

        Raises: HarnessError: it failed before it ever answered, or crashes as soon as it is started.
        """
        if self.process is None:
            if self._clock() >= self._due_s:
                self._start()
        elif self.process.returncode is not None:
            self._failed(self.program.why_ended())
        elif not self.is_ready:
            self._wait()

    def stop(self) -> None:
        """Ends the program, with everything that it started itself."""
        self.process, self._ready_s = None, None
        self._block.close()

    def _start(self) -> None:
        self._started_s = self._clock()
        try:
            self.process = self._block.enter_context(self.program.start())
        except EngineError as error:
            self._failed(error)

    def _wait(self) -> None:
        assert self.process is not None
        program, waited_s = self.program, self._clock() - self._started_s
        if program.is_ready():
            if not self.process.listens_on(program.port):
                if self.process.returncode is None:  # else it has ended, and the next look says why
                    self._failed(stranger_on(program.port, title=program.title))
                return
            self._ready_s = self._clock()
            self._has_answered = True
            self._say(f"{program.title} answers after {waited_s:.1f} s")
        elif waited_s > program.ready_timeout_s:
            self._failed(
                EngineHung(
                    f"{program.title} was not ready after {program.ready_timeout_s:.0f} s",
                    hint="see the end of its log for what it was doing; a slow machine needs a longer --ready-timeout",
                    log=program.log,
                )
            )

    def _failed(self, error: HarnessError) -> None:
        """It has ended, or is ended now; when it is started again, or, raised, why it is not."""
        up_s = 0.0 if self._ready_s is None else self._clock() - self._ready_s
        self.stop()
        if not self._has_answered:
            raise error
        self._crashes = 1 if up_s >= STEADY_S else self._crashes + 1
        self._quick_crashes = self._quick_crashes + 1 if up_s < QUICK_S else 0
        if self._quick_crashes >= QUICK_LIMIT:
            self._say(f"{self.program.title}: {QUICK_LIMIT} crashes in a row, giving up")
            raise error
        pause_s = delay_s(self._crashes)
        self._due_s = self._clock() + pause_s
        self._say(f"{error.message}; starting it again in {pause_s:g} s")


def stranger_on(port: int, *, title: str) -> EnginePortTaken:
    """The error for a port that our program was to have, and on which another one answers."""
    return EnginePortTaken(
        f"another program answers on port {port}, which {title} was to have",
        hint=f"find it with: ss -ltnp 'sport = :{port}'",
    )
