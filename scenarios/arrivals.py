"""When the requests of an open loop are due: pure, the same for the same seed in every process."""

import random
from collections.abc import Iterator
from itertools import count, islice, takewhile
from math import sqrt
from typing import Literal, NamedTuple

Kind = Literal["poisson", "constant", "ramp"]


class Arrival(NamedTuple):
    """One request: which of all it is, and when it is due, in seconds from the load's begin."""

    number: int
    at_s: float


def arrivals(kind: Kind, *, rate_per_s: float, duration_s: float, seed: int) -> Iterator[Arrival]:
    """All requests that are due before `duration_s`, in order."""
    times_s = {"poisson": _poisson, "constant": _constant, "ramp": _ramp}[kind](rate_per_s, duration_s, seed)
    return (Arrival(*both) for both in enumerate(takewhile(lambda at_s: at_s < duration_s, times_s)))


def share(all_arrivals: Iterator[Arrival], *, part: int, parts: int) -> Iterator[Arrival]:
    """Every `parts`-th arrival: each process finds its own without a word to the others."""
    return islice(all_arrivals, part, None, parts)


def _poisson(rate_per_s: float, _duration_s: float, seed: int) -> Iterator[float]:
    """Independent users: gaps are exponential, so that requests come in bunches as they do in life."""
    drawn = random.Random(f"arrivals/{seed}")
    at_s = 0.0
    while True:
        at_s += drawn.expovariate(rate_per_s)
        yield at_s


def _constant(rate_per_s: float, _duration_s: float, _seed: int) -> Iterator[float]:
    return (number / rate_per_s for number in count())


def _ramp(rate_per_s: float, duration_s: float, _seed: int) -> Iterator[float]:
    """A rate that rises evenly from 0: after t seconds rate·t²/(2·duration) requests were due, solved for t.

    No chance is in it: a ramp is there to show where a server bends, and bunches would hide that. Each request is due
    when half of it is.
    """
    return (sqrt(2 * duration_s * (number + 0.5) / rate_per_s) for number in count())
