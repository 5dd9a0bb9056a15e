"""The arithmetic: quantiles, intervals over rounds, and what a bar's interval supports. Standard library alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Literal, TypeVar

Verdict = Literal["MET", "MISSED", "UNDECIDED"]
T = TypeVar("T")

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median over `n` rounds and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile of some values, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def over_rounds(values: Sequence[float | None]) -> Estimate | None:
    """The median of the rounds that gave a value; its interval by bootstrap over those rounds.

    None without a value. With five rounds the interval is in effect from the lowest to the highest.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    draw = random.Random(0)
    medians = [median(draw.choices(known, k=len(known))) for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    return Estimate(median(known), quantile(medians, tail), quantile(medians, 1 - tail), len(known))


def paired(
    ours: Sequence[float | None], others: Sequence[float | None], combine: Callable[[float, float], float]
) -> Estimate | None:
    """`combine` of the two values of each round that has both; None where one side was not measured."""
    if not ours or not others:
        return None
    pairs = zip(ours, others, strict=True)
    return over_rounds([combine(one, other) for one, other in pairs if one is not None and other is not None])


def added(value: float, base: float) -> float:
    return value - base


def ratio(value: float, base: float) -> float:
    return value / base


def loss(value: float, base: float) -> float:
    return 1 - value / base


def slope(points: Sequence[tuple[float, float]]) -> Estimate | None:
    """The median of all pairs' slopes (Theil and Sen), with the interval from Kendall's statistic.

    None with fewer than 8 points. The interval takes the points as independent, which readings of a growing process
    are not: it is a hint; the bar looks at the growth itself.
    """
    n = len(points)
    if n < 8:
        return None
    slopes = sorted(
        (y1 - y0) / (x1 - x0) for i, (x0, y0) in enumerate(points) for x1, y1 in points[i + 1 :] if x1 != x0
    )
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    low = max(0, int((len(slopes) - reach) / 2))
    high = min(len(slopes) - 1, int((len(slopes) + reach) / 2) + 1)
    return Estimate(median(slopes), slopes[low], slopes[high], n)


def verdict(found: Estimate | None, at_most: float) -> Verdict:
    """What the interval supports: one that holds the limit decides nothing."""
    if found is None or found.low <= at_most < found.high:
        return "UNDECIDED"
    return "MET" if found.high <= at_most else "MISSED"


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The same items, begun at another one, so that each comes first as often as the others."""
    by %= max(1, len(items))
    return [*items[by:], *items[:by]]
