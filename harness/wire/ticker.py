"""Who goes on when: a heap of answers that wait behind one alarm."""

import asyncio
import ctypes
import heapq
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Final

Waits = Generator[float, None, None]
"""An answer under way: each value is the moment until which it waits."""
FOR_EVER: Final = math.inf
REST_S: Final = 0.0005
"""Between two looks at the heap: what falls due meanwhile goes out together, which halves the cost of a token."""
CLOCK_MONOTONIC: Final = 1
"""What time.perf_counter reads on Linux."""
TFD_TIMER_ABSTIME: Final = 1


class TimerFd:
    """Linux's timer that counts in nanoseconds; raises OSError or AttributeError where there is none.

    asyncio's own timers go off up to a millisecond late, since epoll counts in milliseconds: then all gaps between
    tokens are whole milliseconds, and their median jumps.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._call = call
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = (ctypes.c_long * 4)()  # struct itimerspec: no interval, then seconds and nanoseconds
        loop.add_reader(self._fd, self._ring)

    def set(self, at_s: float) -> None:
        """Call back at that moment of time.perf_counter, or at once where it is over; it replaces the one before."""
        self._spec[2], self._spec[3] = divmod(max(1, math.ceil(at_s * 1e9)), 10**9)
        self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, self._spec, None)

    def _ring(self) -> None:
        os.read(self._fd, 8)
        self._call()


class LoopTimer:
    """The same by asyncio's own timer, for other systems."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """As that of TimerFd."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(at_s - time.perf_counter(), self._call)


class Ticker:
    """Goes on with each answer when it is due, by its timetable: one that is late does not delay the rest.

    All answers wait behind one timer. A task and a timer of asyncio's for each would cost more than the token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting: list[tuple[float, int, Waits, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._alarm = (TimerFd if sys.platform == "linux" else LoopTimer)(loop, self._tick)
        self._armed_s = math.inf
        self._rested_s = 0.0

    def run(self, answer: Waits, on_end: Callable[[], None]) -> None:
        """Drive an answer to its end, then call `on_end`; one that waits for ever only its connection can end."""
        self._go_on(answer, on_end)
        self._arm()

    def _go_on(self, answer: Waits, on_end: Callable[[], None]) -> None:
        due_s = next(answer, None)
        if due_s is None:
            on_end()
        elif due_s != FOR_EVER:
            heapq.heappush(self._waiting, (due_s, next(self._serial), answer, on_end))

    def _tick(self) -> None:
        self._armed_s, self._rested_s = math.inf, time.perf_counter() + REST_S
        while self._waiting and self._waiting[0][0] <= time.perf_counter():
            _, _, answer, on_end = heapq.heappop(self._waiting)
            self._go_on(answer, on_end)
        self._arm()

    def _arm(self) -> None:
        """Have the alarm go off when the next answer is due."""
        if self._waiting and self._waiting[0][0] < self._armed_s:
            self._armed_s = max(self._waiting[0][0], self._rested_s)
            self._alarm.set(self._armed_s)
