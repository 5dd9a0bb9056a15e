"""Estimates: a value is never given without the interval that its sample can carry."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from harness.records import Estimate

CONFIDENCE = 0.95
BOOTSTRAP_ROUNDS = 500


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


def clustered_quantile(groups: Sequence[np.ndarray], q: float, *, unit: str, seed: int = 0) -> Estimate | None:
    """The quantile of all values together, its interval by resampling whole groups.

    Gaps between tokens of one answer resemble each other, so the answers are resampled, not the gaps.

    Returns:  `n` counts groups. None under 6 groups.
    """
    if len(groups) < 6:
        return None
    pool = np.concatenate(groups)
    starts = np.cumsum([0, *[len(group) for group in groups]])
    draws = np.random.default_rng(seed).integers(0, len(groups), size=(BOOTSTRAP_ROUNDS, len(groups)))
    order = np.argsort(pool, kind="stable")
    owner = np.repeat(np.arange(len(groups)), np.diff(starts))[order]
    ordered = pool[order]
    found = np.empty(BOOTSTRAP_ROUNDS)
    for round_, draw in enumerate(draws):
        weight = np.bincount(draw, minlength=len(groups))[owner]  # how often each value was drawn
        reached = np.cumsum(weight)
        found[round_] = ordered[np.searchsorted(reached, q * reached[-1])]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(np.quantile(pool, q))
    return Estimate(
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        confidence=CONFIDENCE,
        n=len(groups),
        unit=unit,
    )


def rate(times_s: np.ndarray, amounts: np.ndarray, *, start_s: float, end_s: float, unit: str) -> Estimate | None:
    """Amount per second in a window, its interval by batch means over ten equal slices.

    Slices are longer than a token gap, and so nearly independent; see Law, Simulation Modeling, 9.5.

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
