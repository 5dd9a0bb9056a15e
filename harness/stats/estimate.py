"""Estimates: a value is never given without the interval that its sample can carry."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from harness.records import Estimate

CONFIDENCE = 0.95
MIN_GROUPS = 6


def quantile(values: np.ndarray, q: float, *, unit: str) -> Estimate | None:
    """The sample's q-quantile between the two order statistics that bracket the true one.

    How many of n independent values fall below the true quantile is Binomial(n, q), whatever the
    distribution, so its quantiles name the bracketing ranks (David & Nagaraja, Order Statistics, 7.1).

    Args:     values: any order. unit: of the values.
    Returns:  None where even minimum and maximum do not reach 95%: under 6 values for the median, 72 for p95,
              368 for p99.
    """
    n, tail = len(values), (1 - CONFIDENCE) / 2
    if n == 0 or q**n > tail or (1 - q) ** n > tail:
        return None
    ordered = np.sort(values)
    low_rank = int(stats.binom.ppf(tail, n, q))  # P(count < low_rank) <= tail
    high_rank = int(stats.binom.isf(tail, n, q)) + 1
    return Estimate(
        value=float(np.quantile(ordered, q)),
        low=float(ordered[max(low_rank, 1) - 1]),
        high=float(ordered[min(high_rank, n) - 1]),
        confidence=CONFIDENCE,
        n=n,
        unit=unit,
    )


def clustered_quantile(groups: Sequence[np.ndarray], q: float, *, unit: str) -> Estimate | None:
    """The quantile of all values together, its interval from how much whole groups differ.

    Gaps between tokens of one answer resemble each other, so answers are the sample, not gaps. Woodruff's interval
    (JASA 47, 1952, 635): the standard error of the share of values up to the quantile, by leaving out one group at a
    time, with Student's t for the number of groups; then the quantiles at both ends of that share. A kind of group
    that is too rare to be in the sample is not in the interval either: simulated, a median's holds the true one in
    94% to 98% of cases from 6 groups on, a p95's surely only from 72.

    Returns:  `n` counts groups. None under 6 groups, and where they differ so much that the interval would reach
              beyond the smallest or largest value.
    """
    filled = [group for group in groups if len(group)]
    if len(filled) < MIN_GROUPS:
        return None
    pool = np.sort(np.concatenate(filled))
    value = float(np.quantile(pool, q))
    sizes = np.array([len(group) for group in filled])
    below = np.array([np.count_nonzero(group < value) for group in filled])
    up_to = np.array([np.count_nonzero(group <= value) for group in filled])
    # Many values may equal the quantile; then the one share may be alike in all groups where the other is not.
    error = max(jackknife_error(below, sizes), jackknife_error(up_to, sizes))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(filled) - 1)) * error
    if q - half < 0 or q + half > 1:
        return None
    low, high = (float(np.quantile(pool, share, method="inverted_cdf")) for share in (q - half, q + half))
    return Estimate(
        value=value,
        low=min(low, value),
        high=max(high, value),
        confidence=CONFIDENCE,
        n=len(filled),
        unit=unit,
    )


def jackknife_error(counts: np.ndarray, sizes: np.ndarray) -> float:
    """Standard error of sum(counts) / sum(sizes) over groups, by leaving out one group at a time."""
    without = (counts.sum() - counts) / (sizes.sum() - sizes)
    spread = np.sort((without - counts.sum() / sizes.sum()) ** 2)  # sorted: the same sum for any order of groups
    return math.sqrt((len(counts) - 1) / len(counts) * float(np.sum(spread)))


def rate(times_s: np.ndarray, amounts: np.ndarray, *, start_s: float, end_s: float, unit: str) -> Estimate | None:
    """Amount per second in a window, its interval by batch means over ten equal slices.

    See Law, Simulation Modeling, 9.5: good for slices that are nearly independent. Slices much shorter than a request
    resemble each other, and the interval is then too narrow (a window of one to five requests per user, answers that
    are not streamed: it held the true rate in 75% to 90% of simulated cells). Bursts mostly make it wider.

    Returns:  None for a window under one second. `n` is the number of slices.
    """
    slices = 10
    if end_s - start_s < 1.0:
        return None
    sums, _ = np.histogram(times_s, bins=slices, range=(start_s, end_s), weights=amounts)
    per_s = sums * slices / (end_s - start_s)
    mean = float(per_s.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, slices - 1) * per_s.std(ddof=1) / math.sqrt(slices))
    return Estimate(value=mean, low=max(mean - half, 0.0), high=mean + half, confidence=CONFIDENCE, n=slices, unit=unit)


def ratio(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate | None:
    """Geometric mean over `pairs` of (mean of the second) / (mean of the first), all means geometric.

    Each pair holds the repeats of one load: (denominator's values, numerator's values). The interval is
    Welch's on logarithms, with the variances of the pairs added and Satterthwaite's degrees of freedom.

    Returns:  None where a side has fewer than two repeats or a value that is not positive: no interval, no ratio.
    """
    if not pairs:
        return None
    centre, variance, df_terms, n = 0.0, 0.0, 0.0, 0
    for bottom, top in pairs:
        if min(len(bottom), len(top)) < 2 or min(*bottom, *top) <= 0:
            return None
        centre += (float(np.mean(np.log(top))) - float(np.mean(np.log(bottom)))) / len(pairs)
        n += len(bottom) + len(top)
        for side in (bottom, top):
            part = float(np.var(np.log(side), ddof=1)) / len(side) / len(pairs) ** 2
            variance += part
            df_terms += part**2 / (len(side) - 1)
    half = 0.0
    if variance > 0:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, variance**2 / df_terms)) * math.sqrt(variance)
    return Estimate(
        value=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        confidence=CONFIDENCE,
        n=n,
        unit="ratio",
    )
