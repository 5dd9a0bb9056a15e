"""What this process knows of itself as a measuring device: its lateness, its share of a core, its clocks."""

import socket
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import gevent
import gevent.socket

LAG_SLEEP_S: Final = 0.02
RTT_TRIES: Final = 5
RTT_TIMEOUT_S: Final = 2.0


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that `q` of all do not exceed. None: there are none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(q * len(ordered)) - 1)] if ordered else None


class LagMeter:
    """How late this process's event loop wakes up from a short sleep."""

    def __init__(self) -> None:
        self._late_s = array("d")
        self._due_s = time.perf_counter()
        self._is_stopped = False

    def run(self) -> None:
        """Sleep and take the lateness, until it is stopped."""
        while not self._is_stopped:
            self._due_s = time.perf_counter() + LAG_SLEEP_S
            gevent.sleep(LAG_SLEEP_S)
            if not self._is_stopped:
                self._late_s.append(self._so_far_s())

    def stop(self) -> None:
        """Take what it is by now, and nothing more; the sleep under way counts as late as it is."""
        if not self._is_stopped:
            self._late_s.append(self._so_far_s())
        self._is_stopped = True

    def quantile_s(self, q: float) -> float:
        """The smallest lateness that `q` of all do not exceed; the sleep under way counts as late as it is."""
        found = quantile(self._late_s if self._is_stopped else [*self._late_s, self._so_far_s()], q)
        assert found is not None
        return found

    def _so_far_s(self) -> float:
        # libev may wake a sleeper a little early: that is not late.
        return max(0.0, time.perf_counter() - self._due_s)


class ClockWatch:
    """How the other clocks went while ours, the monotonic one, was measured on."""

    def __init__(self) -> None:
        self._wall_s = _wall_ahead_s()
        self._slept_s = _slept_s()

    @property
    def suspended_s(self) -> float:
        """How long the machine slept since: our clock stands still meanwhile."""
        return _slept_s() - self._slept_s

    @property
    def wall_step_s(self) -> float:
        """How far the wall clock was set meanwhile. Nothing is measured on it, but logs beside ours are."""
        return _wall_ahead_s() - self._wall_s - self.suspended_s


def _wall_ahead_s() -> float:
    return time.time() - time.perf_counter()


def _slept_s() -> float:
    # Only Linux has this clock; elsewhere a sleep shows as a step of the wall clock.
    asleep_too = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if asleep_too is None else time.clock_gettime(asleep_too) - time.clock_gettime(time.CLOCK_MONOTONIC)


def round_trip_s(url: str) -> float | None:
    """Median time to connect to the server: one round trip each. None: it cannot be reached."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    took_s = []
    with suppress(OSError):
        # By its number: a name's look-up is no part of the way to it.
        address = gevent.socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][4][:2]
        for _ in range(RTT_TRIES):
            began_s = time.perf_counter()
            gevent.socket.create_connection(address, RTT_TIMEOUT_S).close()
            took_s.append(time.perf_counter() - began_s)
    return median(took_s) if took_s else None
