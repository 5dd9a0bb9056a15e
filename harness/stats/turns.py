"""Several sides that took turns, launch by launch, each against one of them."""

import math
from collections.abc import Sequence

import numpy as np

from harness.records import Estimate
from harness.stats.distributions import student_t
from harness.stats.estimate import CONFIDENCE, on_logarithms


def many_to_one(
    control: Sequence[float],
    sides: Sequence[Sequence[float]],
    *,
    others: Sequence[Sequence[float]] = (),
    looks: int = 1,
) -> list[Estimate | None]:
    """The ratio of each side to the control, with intervals that hold all at once with 95%.

    Launches are the sample, each with one logarithm. What differs from launch to launch is taken for alike on all
    sides, so their variances are pooled, and that of `others` with them: two launches a side say little of it, those
    of four sides a good deal. The intervals are Bonferroni's: who takes the best of three is not wrong more often
    for it. (Dunnett's, JASA 50, 1955, 1096, would be up to 4% narrower.)

    Args:     control, sides: logarithms, over 0 or under, larger is better; in any order. others: more launches that
              say how much launches differ. looks: how often the launches may be judged, of which this is one: who stops
              when the figures please has to pay for each look, and Bonferroni's price holds whenever he looks.
    Returns:  None for a side without a launch, and for all where no group has two launches. `n` counts launches.
    """
    spread = pooled_spread([control, *sides, *others])
    if spread is None or not control:
        return [None] * len(sides)
    deviation, freedom = spread
    t = quantile(freedom, intervals=looks * len(sides))
    found: list[Estimate | None] = []
    for side in sides:
        if not side:
            found.append(None)
            continue
        centre = float(np.mean(side) - np.mean(control))
        half = t * deviation * math.sqrt(1 / len(side) + 1 / len(control))
        found.append(on_logarithms(centre, centre - half, centre + half, n=len(side) + len(control), unit="ratio"))
    return found


def launches_for(
    groups: Sequence[Sequence[float]], *, sides: int, half: float, most: int, least: int = 2, looks: int = 1
) -> int | None:
    """The fewest launches of each side with which `many_to_one` would reach no further than `half` (a logarithm).

    Args:     groups: launches so far, by side. None of it is known where no group has two: then `least`.
    Returns:  None: `most` launches of each side would not do.
    """
    spread = pooled_spread(groups)
    if spread is None:
        return least
    for count in range(least, most + 1):
        freedom = spread[1] + (sides + 1) * (count - 1)
        t = quantile(freedom, intervals=looks * sides)
        if t * spread[0] * math.sqrt(2 / count) <= half:
            return count
    return None


def quantile(freedom: int, *, intervals: int) -> float:
    """Of Student's t, for so many two-sided intervals that hold all at once with 95%."""
    return student_t(1 - (1 - CONFIDENCE) / 2 / max(intervals, 1), freedom)


def chained(one: Estimate, other: Estimate) -> Estimate:
    """The product of two ratios from different launches: their errors are independent, and so add as squares."""
    first, second = ([math.log(value) for value in (found.value, found.low, found.high)] for found in (one, other))
    centre = first[0] + second[0]
    low, high = (math.hypot(first[at] - first[0], second[at] - second[0]) for at in (1, 2))
    return on_logarithms(centre, centre - low, centre + high, n=one.n + other.n, unit="ratio")


def pooled_spread(groups: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """(standard deviation within the groups, its degrees of freedom). None where no group has two values."""
    several = [np.asarray(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in several)
    return math.sqrt(squares / freedom), freedom
