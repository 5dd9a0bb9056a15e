"""Axes of ratios: logarithmic, so that twice as fast and half as fast are equally far from 1."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

STEPS: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99),
    *(1.0, 1.01, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)


def ends(bounds: Iterable[float], *, least: float, air: float = 1.04) -> tuple[float, float]:
    """An axis that holds all positive bounds, and from 1/`least` to `least` in any case."""
    known = [one for one in bounds if one > 0 and math.isfinite(one)]
    return min([1 / least, *(one / air for one in known)]), max([least, *(one * air for one in known)])


def label_ratios(axis: Axis, low: float, high: float, *, most: int) -> None:
    """Ticks such as 0.5× and 1.25×, at most so many that their labels do not touch."""
    steps = spaced([step for step in STEPS if low <= step <= high], low, high, most=most)
    axis.set_major_locator(FixedLocator(steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))


def spaced(steps: Sequence[float], low: float, high: float, *, most: int = 9) -> list[float]:
    """The steps whose labels do not touch; 1 always stays."""
    room = math.log(high / low) / most
    kept = [1.0]
    for step in sorted(steps, key=lambda step: abs(math.log(step))):
        if all(abs(math.log(step / other)) >= room for other in kept):
            kept.append(step)
    return sorted(kept)
