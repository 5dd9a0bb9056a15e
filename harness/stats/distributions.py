"""Quantiles and intervals of the distributions that estimates rest on.

scipy.stats takes half a second to load, as long as all else that a command needs. So the functions load it, not the
module: a command that measures nothing never does.
"""

from typing import NamedTuple

import numpy as np


class Slope(NamedTuple):
    """How fast something grows, and the low end of the 95% interval of that."""

    value: float
    low: float


def student_t(p: float, freedom: float) -> float:
    """The p-quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(p, freedom))


def normal(p: float) -> float:
    """The p-quantile of the standard normal distribution."""
    from scipy import stats

    return float(stats.norm.ppf(p))


def binomial_ranks(n: int, q: float, *, tail: float) -> tuple[int, int]:
    """The largest count that fewer than `tail` of Binomial(n, q) lie under, and the smallest that so few lie over."""
    from scipy import stats

    return int(stats.binom.ppf(tail, n, q)), int(stats.binom.isf(tail, n, q))


def wilson(kept: int, of: int, *, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share (JASA 22, 1927, 209)."""
    from scipy import stats

    interval = stats.binomtest(kept, of).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def theil_sen(values: np.ndarray, at: np.ndarray) -> Slope:
    """The median of the slopes of all pairs (Sen, JASA 63, 1968, 1379)."""
    from scipy import stats

    found = stats.theilslopes(values, at, alpha=0.95)
    return Slope(value=float(found.slope), low=float(found.low_slope))
