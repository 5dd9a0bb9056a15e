"""Estimates: a value is never given without the interval that its sample can carry."""

import math
from collections.abc import Sequence

import numpy as np

from harness.records import Estimate
from harness.stats.distributions import binomial_ranks, student_t, wilson

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
    low_rank, most = binomial_ranks(n, q, tail=tail)  # P(count < low_rank) <= tail
    high_rank = most + 1
    return Estimate(
        value=float(np.quantile(ordered, q)),
        low=float(ordered[max(low_rank, 1) - 1]),
        high=float(ordered[min(high_rank, n) - 1]),
        confidence=CONFIDENCE,
        n=n,
        unit=unit,
    )


def least_values(q: float) -> int:
    """So many values `quantile` needs for an interval."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(q, 1 - q)))


def clustered_quantile(groups: Sequence[np.ndarray], q: float, *, unit: str) -> Estimate | None:
    """The quantile of all values together, its interval from how much whole groups differ.

    Gaps between tokens of one answer resemble each other, so answers are the sample, not gaps. Woodruff's interval
    (JASA 47, 1952, 635): the standard error of the share of values up to the quantile, by leaving out one group at a
    time, with Student's t for the number of groups; then the quantiles at both ends of that share. A kind of group
    that is too rare to be in the sample is not in the interval either: simulated, a median's holds the true one in
    94% to 98% of cases from 6 groups on; with one answer in 14 that stalls, a p95's of 6 to 20 answers never did. So
    higher quantiles need as many groups as `quantile` needs values.

    Returns:  `n` counts groups. None under 6 groups, 36 for p90, 72 for p95, 368 for p99, and where they differ so much
              that the interval would reach beyond the smallest or largest value.
    """
    filled = [group for group in groups if len(group)]
    is_rare = q ** len(filled) > (1 - CONFIDENCE) / 2
    if len(filled) < MIN_GROUPS or is_rare:
        return None
    pool = np.sort(np.concatenate(filled))
    value = float(np.quantile(pool, q))
    sizes = np.array([len(group) for group in filled])
    below = np.array([np.count_nonzero(group < value) for group in filled])
    up_to = np.array([np.count_nonzero(group <= value) for group in filled])
    # Many values may equal the quantile; then the one share may be alike in all groups where the other is not.
    error = max(jackknife_error(below, sizes), jackknife_error(up_to, sizes))
    half = student_t((1 + CONFIDENCE) / 2, len(filled) - 1) * error
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
    half = student_t((1 + CONFIDENCE) / 2, slices - 1) * float(per_s.std(ddof=1)) / math.sqrt(slices)
    return Estimate(value=mean, low=max(mean - half, 0.0), high=mean + half, confidence=CONFIDENCE, n=slices, unit=unit)


def ratio_of_means(bottom: np.ndarray, top: np.ndarray, *, unit: str = "ratio") -> Estimate | None:
    """(mean of `top`) / (mean of `bottom`) of values that may be zero, such as sums over slices of time.

    The interval is Welch's on the logarithm, each mean's error being its relative standard error (delta method).

    Returns:  None under two values a side, and where a mean is not positive.
    """
    if min(len(bottom), len(top)) < 2 or min(bottom.mean(), top.mean()) <= 0:
        return None
    parts = [float(side.var(ddof=1) / len(side) / side.mean() ** 2) for side in (bottom, top)]
    half = t_half(parts, [len(bottom) - 1, len(top) - 1])
    centre = math.log(float(top.mean() / bottom.mean()))
    return on_logarithms(centre, centre - half, centre + half, n=len(bottom) + len(top), unit=unit)


# ---------------------------------------------------------------- ratios over repeats and blocks

Blocks = Sequence[Sequence[float]]
"""The repeats of one load on one side by block (by launch): [[first launch's repeats], [second launch's], ...].
Over several loads the blocks are aligned: the second of one load is the same launch as the second of another. An
empty one was measured and gave nothing that counts."""

BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 20

Side = list[list[np.ndarray]]
"""Logarithms of the values, by block and load; no block without a value at each load."""


def ratio(loads: Sequence[tuple[Blocks, Blocks]]) -> Estimate | None:
    """Geometric mean over `loads` of (mean of the second) / (mean of the first), all means geometric.

    Two launches of one engine differ by more than two repeats in one launch, so launches are the sample: the interval
    is Welch's t on the logarithms of the means of the blocks, and no narrower than a hierarchical bootstrap's (blocks
    drawn anew, and repeats within each of them; Davison & Hinkley, Bootstrap Methods, 3.8), so that blocks which agree
    by chance do not claim more than their repeats carry. Where a side has one block only, its repeats are the
    sample, and what differs from launch to launch is not in the interval.

    Of 2000 simulated intervals for the ratio of two like sides, with a spread of 2% within a block, so many held the
    true one (repeats taken for independent: the usual way, for comparison):

        blocks x repeats   between blocks   t on blocks   bootstrap   this one   repeats taken for independent
        2 x 2              0%               98.3%         88.0%       98.9%      95.4%
        2 x 2              1%               97.5%         86.5%       98.2%      92.6%
        2 x 2              3%               98.1%         75.0%       98.1%      82.5%
        2 x 4              3%               97.9%         75.3%       98.0%      66.1%
        3 x 3              0%               96.6%         95.8%       97.9%      94.9%
        3 x 3              1%               96.5%         92.1%       97.1%      90.1%
        3 x 3              3%               96.7%         84.8%       96.7%      76.0%
        4 x 2              3%               95.8%         88.1%       95.8%      84.6%
        4 x 4              0%               95.7%         97.2%       98.0%      95.1%
        4 x 4              1%               96.1%         94.7%       96.4%      88.8%
        4 x 4              3%               94.9%         87.1%       94.9%      68.8%

    Two blocks a side are honest but wide: 9% either way at 1% between blocks and 2% within them; four bring that to 3%.

    Args:     loads: each holds (denominator's blocks, numerator's blocks). A block that lacks a value at one of the
              loads counts at none: the mean over fewer loads is another figure.
    Returns:  None where a side has neither two blocks nor two repeats at each load, or a value that is not positive:
              no interval, no ratio. `n` counts the values.
    """
    bottom, top = (whole_blocks([load[side] for load in loads]) for side in (0, 1))
    if bottom is None or top is None:
        return None
    centre = centre_of(top) - centre_of(bottom)
    parts, freedom = (list(column) for column in zip(*(*spread_of(bottom), *spread_of(top)), strict=True))
    half = t_half(parts, freedom)
    low, high = centre - half, centre + half
    if max(len(bottom), len(top)) > 1:
        drawn = bootstrap_differences(bottom, top)
        low, high = min(low, float(np.quantile(drawn, 0.025))), max(high, float(np.quantile(drawn, 0.975)))
    count = sum(len(values) for side in (bottom, top) for block in side for values in block)
    return on_logarithms(centre, low, high, n=count, unit="ratio")


def whole_blocks(loads: Sequence[Blocks]) -> Side | None:
    """The blocks that have a value at each load. None where they carry no interval, or a value is not positive."""
    if not loads or any(value <= 0 for blocks in loads for block in blocks for value in block):
        return None
    count = max(len(blocks) for blocks in loads)
    aligned = [[blocks[k] if k < len(blocks) else () for blocks in loads] for k in range(count)]
    side = [[np.log(np.asarray(values)) for values in block] for block in aligned if all(map(len, block))]
    is_enough = len(side) > 1 or (len(side) == 1 and all(len(values) > 1 for values in side[0]))
    return side if is_enough else None


def centre_of(side: Side) -> float:
    """Mean over blocks of the mean over loads of the mean over repeats."""
    return float(np.mean([[values.mean() for values in block] for block in side]))


def spread_of(side: Side) -> list[tuple[float, float]]:
    """(variance, degrees of freedom) of the independent parts that the variance of `centre_of` is the sum of."""
    if len(side) > 1:
        means = np.array([[values.mean() for values in block] for block in side]).mean(axis=1)
        return [(float(means.var(ddof=1)) / len(side), len(side) - 1)]
    (block,) = side
    return [(float(values.var(ddof=1)) / len(values) / len(block) ** 2, len(values) - 1) for values in block]


def bootstrap_differences(bottom: Side, top: Side) -> np.ndarray:
    """Means of the top less means of the bottom over drawn samples; either stream of chance serves either side once.

    So swapping the sides gives exactly the opposite of each difference.
    """
    return np.concatenate([bootstrap_centres(top, stream=k) - bootstrap_centres(bottom, stream=1 - k) for k in (0, 1)])


def bootstrap_centres(side: Side, *, stream: int) -> np.ndarray:
    """`centre_of` of samples drawn with replacement: as many blocks, and in each of them as many repeats per load."""
    chance = np.random.default_rng((BOOTSTRAP_SEED, stream))
    count = len(side)
    drawn = np.empty((BOOTSTRAP_DRAWS, count, count))  # by draw, place in the sample, and block
    for place, block in enumerate(side):
        means = [
            values[chance.integers(0, len(values), (BOOTSTRAP_DRAWS, count, len(values)))].mean(axis=2)
            for values in block
        ]
        drawn[:, :, place] = np.mean(means, axis=0)
    chosen = chance.integers(0, count, (BOOTSTRAP_DRAWS, count, 1))
    centres: np.ndarray = np.take_along_axis(drawn, chosen, axis=2).mean(axis=(1, 2))
    return centres


def t_half(variances: Sequence[float], freedom: Sequence[float]) -> float:
    """Half of the 95% interval of a sum of independent means, by Satterthwaite's degrees of freedom."""
    whole = sum(variances)
    if whole <= 0:
        return 0.0
    df = whole**2 / sum(part**2 / own for part, own in zip(variances, freedom, strict=True))
    return student_t((1 + CONFIDENCE) / 2, df) * math.sqrt(whole)


def on_logarithms(centre: float, low: float, high: float, *, n: int, unit: str) -> Estimate:
    """The estimate whose logarithms these are."""
    return Estimate(
        value=math.exp(centre), low=math.exp(low), high=math.exp(high), confidence=CONFIDENCE, n=n, unit=unit
    )


def share(kept: int, of: int, *, confidence: float = CONFIDENCE) -> Estimate | None:
    """The share of successes with Wilson's interval, which never leaves 0 to 1. None of nothing.

    It takes the outcomes for independent. Requests that wait in one queue are not quite: where the share is far
    from what is asked that does not matter, and near it more requests are asked for.
    """
    if of == 0:
        return None
    low, high = wilson(kept, of, confidence=confidence)
    return Estimate(
        value=kept / of,
        low=min(low, kept / of),  # rounding may put an end a hair beside 0 or 1
        high=max(high, kept / of),
        confidence=confidence,
        n=of,
        unit="share",
    )
