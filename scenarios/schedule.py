"""What an open loop or a replay sends and when: pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from harness.records import OpenLoop, TraceLine
from scenarios.arrivals import arrivals, share


class Ask(NamedTuple):
    """One request of a schedule; lengths are those of the workload where they are None."""

    at_s: float
    """From the load's begin."""
    words: int | None = None
    output_tokens: int | None = None


class Visit(NamedTuple):
    """One user who comes once: asks that follow one another, in the order of their times."""

    user: int
    asks: tuple[Ask, ...]


def single_visits(load: OpenLoop, *, rate_per_s: float, seed: int, part: int, parts: int) -> Iterator[Visit]:
    """This process's arrivals of an open loop, its warm-up included; each is a user of its own."""
    whole = arrivals(load.arrivals, rate_per_s=rate_per_s, duration_s=warmup_s(load) + load.duration_s, seed=seed)
    return (Visit(found.number, (Ask(found.at_s),)) for found in share(whole, part=part, parts=parts))


def warmup_s(load: OpenLoop) -> float:
    """How long the load is held before it is measured: a ramp is measured from its begin."""
    return 0.0 if load.arrivals == "ramp" else load.warmup_s


def trace_visits(lines: Iterable[TraceLine], *, speed: float) -> list[Visit]:
    """A trace by its conversations, in the order in which they begin. A line without a session is one of its own."""
    sessions: dict[object, list[Ask]] = {}
    for number, line in enumerate(lines):
        ask = Ask(line.at_s / speed, line.prompt_words, line.output_tokens)
        sessions.setdefault(number if line.session is None else line.session, []).append(ask)
    begun = sorted(
        (tuple(sorted(asks, key=lambda ask: ask.at_s)) for asks in sessions.values()), key=lambda asks: asks[0].at_s
    )
    return [Visit(user, asks) for user, asks in enumerate(begun)]
