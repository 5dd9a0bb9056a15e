"""The search for the largest load inside the objectives of service: which level next, and what came of it."""

import math
from collections.abc import Sequence
from typing import Literal

from harness.records import Capacity, CapacityStep, Slo

Unit = Literal["users", "requests/s"]
TRIES = 3
"""How often a level is measured that does not decide; the requests of all its tries count together."""
LOOK_CONFIDENCE = 0.984
"""Of the interval at each try: 1 - 0.05 / TRIES, rounded up (Bonferroni). Who looks three times and stops at the first
look that decides is wrong more often than one interval says. So a level is decided wrongly in at most 5 of 100 cases,
however many tries it took. It holds for a level by itself: a search decides several."""


def next_level(
    steps: Sequence[CapacityStep],
    *,
    unit: Unit,
    smallest: float,
    largest: float,
    resolution_ratio: float,
    tries: int = TRIES,
) -> float | None:
    """The level to measure next; None where the search has ended.

    From the smallest on each level is twice the one before, until one is not inside. Then bisection between the largest
    that is inside and the smallest that is not: in whole users, or by the geometric mean of rates (three digits).
    A level that does not decide is measured again, and after `tries` of them taken for the upper end.

    Args:  steps: all so far, in order; the last one of a level holds. resolution_ratio: how near to one another the two
           ends must come, as a share of the lower; one user is near enough.
    """
    if not steps:
        return smallest
    last = steps[-1]
    if last.is_inside is None and sum(step.level == last.level for step in steps) < tries:
        return last.level
    inside, above = ends(steps, is_shown=False)
    if inside is None:
        return None
    if above is None:
        return None if inside >= largest else min(2 * inside, largest)
    if is_near(inside, above, unit=unit, resolution_ratio=resolution_ratio):
        return None
    middle = float((int(inside) + int(above)) // 2) if unit == "users" else float(f"{math.sqrt(inside * above):.3g}")
    return middle if inside < middle < above else None


def capacity(
    steps: Sequence[CapacityStep], *, unit: Unit, slos: Sequence[Slo], largest: float, resolution_ratio: float
) -> Capacity:
    """What the steps of an ended search say."""
    inside, above = ends(steps, is_shown=True)
    is_resolved = is_near(inside, above, unit=unit, resolution_ratio=resolution_ratio)
    return Capacity(
        unit=unit,
        slos=tuple(slos),
        level=inside,
        above=above,
        is_resolved=is_resolved,
        steps=tuple(steps),
        reason="" if is_resolved else why_unresolved(steps, inside, above, unit=unit, largest=largest),
    )


def ends(steps: Sequence[CapacityStep], *, is_shown: bool) -> tuple[float | None, float | None]:
    """(largest level that is inside, smallest one above that is not), each None where there is none.

    A level that is inside although a smaller one is not counts for nothing: chance was with one of them.

    Args:  is_shown: whether the upper end must be shown to be outside; else one that did not decide will do.
    """
    verdicts = {step.level: step.is_inside for step in steps}  # the last one of a level holds
    not_inside = [level for level, is_inside in verdicts.items() if is_inside is not True]
    lowest = min(not_inside, default=math.inf)
    inside = max((level for level, is_inside in verdicts.items() if is_inside and level < lowest), default=None)
    upper = [level for level in not_inside if not is_shown or verdicts[level] is False]
    return inside, min(upper, default=None)


def is_near(inside: float | None, above: float | None, *, unit: Unit, resolution_ratio: float) -> bool:
    """Whether two levels are there and lie as near to one another as is asked, or can."""
    if inside is None or above is None:
        return False
    one = 1.0 if unit == "users" else 0.0
    return above - inside <= max(one, resolution_ratio * inside)


def why_unresolved(
    steps: Sequence[CapacityStep], inside: float | None, above: float | None, *, unit: Unit, largest: float
) -> str:
    """Why the capacity is not known as well as was asked."""
    if not steps:
        return "no level was measured"
    open_steps = [step for step in {step.level: step for step in steps}.values() if step.is_inside is None]
    undecided = min(open_steps, key=lambda step: step.level, default=None)
    if inside is None:
        lowest = min(steps, key=lambda step: step.level).level
        last = [step for step in steps if step.level == lowest][-1]
        return f"not even {lowest:g} {unit} were shown to be inside: {last.reason}"
    if undecided is not None:
        return f"{undecided.level:g} {unit} did not decide: {undecided.reason}"
    if above is None and inside >= largest:
        return f"{inside:g} {unit} are the most that was asked for, and still inside: the capacity may be larger"
    return "the search was ended before its two ends were near enough"
