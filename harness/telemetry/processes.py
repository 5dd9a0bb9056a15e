"""The engine's processes and the machine's CPU, as psutil tells of them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import psutil

from harness.records import ProcessReading

MIN_APART_S: Final = 0.1
"""Between two looks at CPU seconds, which the kernel counts in steps of 0.01 s."""


def tree(pids: Sequence[int]) -> Iterator[psutil.Process]:
    """The processes and all below them; nothing for one that has ended."""
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(pid)
            yield top
            yield from top.children(recursive=True)


def environment(pids: Sequence[int]) -> Mapping[str, str] | None:
    """What the first process was started with. None: it is not ours to read, or has ended."""
    process = next(tree(pids[:1]), None)
    if process is not None:
        with contextlib.suppress(psutil.Error):
            return process.environ()
    return None


class ProcessReader:
    """Reads the processes of some trees again and again: a share of the CPU needs the look before."""

    def __init__(self, pids: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._pids, self._clock = tuple(pids), clock
        self._before: dict[psutil.Process, tuple[float, float]] = {}

    def read(self) -> tuple[ProcessReading, ...]:
        """All that live now. Memory that two of them share counts for both."""
        readings, seen = [], {}
        for process in tree(self._pids):
            with contextlib.suppress(psutil.Error), process.oneshot():
                now_s, times = self._clock(), process.cpu_times()
                seen[process] = (now_s, times.user + times.system)
                readings.append(
                    ProcessReading(
                        pid=process.pid,
                        name=process.name(),
                        rss_bytes=process.memory_info().rss,
                        cpu_ratio=cpu_ratio(self._before.get(process), seen[process]),
                    )
                )
        self._before = seen
        return tuple(readings)


def cpu_ratio(before: tuple[float, float] | None, now: tuple[float, float]) -> float | None:
    """CPU seconds per second between two (moment, CPU seconds) of a process. None: no first one, or too near."""
    if before is None or now[0] - before[0] < MIN_APART_S:
        return None
    return (now[1] - before[1]) / (now[0] - before[0])


class MachineCpu:
    """How busy the machine was between one look and the next; psutil remembers the look before for each thread."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._before_s: float | None = None

    def busy_ratio(self) -> float | None:
        """Share of all cores that anything used since the last look, 0 to 1. None: there was none, or too near."""
        before_s, self._before_s = self._before_s, self._clock()
        ratio = psutil.cpu_percent(interval=None) / 100
        return None if before_s is None or self._before_s - before_s < MIN_APART_S else ratio


def busy_cpu_ratio(*, over_s: float = 0.5) -> float:
    """Share of all cores in use during `over_s` seconds, 0–1: what strangers take before we start."""
    return psutil.cpu_percent(interval=over_s) / 100
