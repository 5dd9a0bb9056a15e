"""How the processes of one cell keep step, through small files in a folder that the parent looks into.

ready-<part>    all of this process's users stand before their first request
go              (the parent's) the moment at which all of them begin
steady-<part>   this process's load has warmed up; it goes on
measure         (the parent's) the moment at which measuring begins
"""

import time
from pathlib import Path
from typing import Final, Protocol

import gevent

POLL_S: Final = 0.01


class Signals(Protocol):
    """What one process tells and is told."""

    def await_go(self) -> float:
        """Say that this process is ready; the moment at which all begin, on return still to come."""

    def say_warm(self) -> None:
        """Say that this process's load has warmed up."""

    def measure_s(self) -> float | None:
        """The moment at which measuring begins. None: it is not known yet."""


class FileSignals:
    """`Signals` in a folder."""

    def __init__(self, folder: Path, *, part: int) -> None:
        self._folder, self._part = folder, part

    def await_go(self) -> float:
        """Wait for the parent's word."""
        (self._folder / f"ready-{self._part}").touch()
        while (go_s := self._moment("go")) is None:
            gevent.sleep(POLL_S)
        return go_s

    def say_warm(self) -> None:
        """Leave the mark that the parent looks for."""
        (self._folder / f"steady-{self._part}").touch()

    def measure_s(self) -> float | None:
        """Looks at the file."""
        return self._moment("measure")

    def _moment(self, name: str) -> float | None:
        try:
            return float((self._folder / name).read_text())
        except FileNotFoundError:
            return None


def sleep_until(moment_s: float) -> None:
    """Give the turn to others until then; not at all where it has passed."""
    while (left_s := moment_s - time.perf_counter()) > 0:
        gevent.sleep(left_s)
