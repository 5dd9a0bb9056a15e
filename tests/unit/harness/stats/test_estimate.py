"""Intervals against closed forms, printed tables, scipy and simulation; never against the code itself."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.records import Estimate
from harness.stats.estimate import Blocks, clustered_quantile, quantile, rate, ratio, ratio_of_means, share

quick = settings(max_examples=40, derandomize=True, deadline=None)

seconds = st.floats(1e-4, 1e3)
samples = st.lists(seconds, min_size=12, max_size=120)
shares = st.floats(0.3, 0.7)  # of these a sample of 12 has an interval


def found(estimate: Estimate | None) -> Estimate:
    assert estimate is not None
    return estimate


def share_covered(estimates: Sequence[Estimate | None], truth: float) -> float:
    """Of the intervals that were given."""
    given_ones = [e for e in estimates if e is not None]
    return sum(e.low <= truth <= e.high for e in given_ones) / len(given_ones)


def assert_covers(estimates: Sequence[Estimate | None], truth: float, *, at_least: float) -> None:
    covered = share_covered(estimates, truth)
    assert covered >= at_least, f"{covered:.3f} of {len(estimates)} intervals hold {truth}, wanted {at_least}"


def test_the_coverage_check_can_fail() -> None:
    beside = Estimate(value=1.0, low=0.9, high=1.1, confidence=0.95, n=6, unit="s")
    assert_covers([beside], 1.0, at_least=1.0)
    with pytest.raises(AssertionError, match=r"0\.000 of 1 intervals"):
        assert_covers([beside, None][:1], 2.0, at_least=0.9)


def test_a_missing_estimate_is_not_found() -> None:
    with pytest.raises(AssertionError):
        found(None)


# ---------------------------------------------------------------- quantile


@pytest.mark.parametrize(("q", "needed"), [(0.50, 6), (0.95, 72), (0.99, 368), (0.05, 72)])
def test_a_quantile_is_given_from_the_first_count_whose_extremes_reach_95_percent(q: float, needed: int) -> None:
    values = np.arange(float(needed))
    assert quantile(values, q, unit="s") is not None
    assert quantile(values[1:], q, unit="s") is None
    assert max(q, 1 - q) ** needed <= 0.025 < max(q, 1 - q) ** (needed - 1)


def test_no_values_have_no_quantile() -> None:
    assert quantile(np.empty(0), 0.5, unit="s") is None


@pytest.mark.parametrize(
    ("n", "low_rank", "high_rank"),
    # Ranks of the 95% interval for a median, as printed in tables of the sign test.
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (30, 10, 21), (50, 18, 33), (100, 40, 61)],
)
def test_the_ranks_around_a_median_are_those_of_the_printed_tables(n: int, low_rank: int, high_rank: int) -> None:
    estimate = found(quantile(np.arange(1.0, n + 1), 0.5, unit="s"))
    assert (estimate.low, estimate.high) == (low_rank, high_rank)


def at_most(rank: int, n: int, q: float) -> float:
    """P(Binomial(n, q) <= rank), summed from the definition."""
    return math.fsum(math.comb(n, k) * math.pow(q, k) * math.pow(1 - q, n - k) for k in range(rank + 1))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [6, 7, 21, 72, 73, 100, 367, 368, 500])
def test_the_ranks_are_the_innermost_ones_whose_tails_stay_under_two_and_a_half_percent(n: int, q: float) -> None:
    estimate = quantile(np.arange(1.0, n + 1), q, unit="s")
    if estimate is None:
        assert q**n > 0.025 or (1 - q) ** n > 0.025
        return
    low, high = int(estimate.low), int(estimate.high)  # the k-th value is k
    assert at_most(low - 1, n, q) <= 0.025 < at_most(low, n, q)
    assert 1 - at_most(high - 1, n, q) <= 0.025 < 1 - at_most(high - 2, n, q)


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.5, 41), (0.95, 72), (0.95, 150), (0.99, 368)])
def test_the_interval_holds_the_true_quantile_of_a_skewed_distribution(q: float, n: int) -> None:
    rng = np.random.default_rng(20)
    estimates = [quantile(rng.lognormal(0.0, 1.0, n), q, unit="s") for _ in range(600)]
    # Three standard deviations of 600 trials at 95% are 2.7 points.
    assert_covers(estimates, math.exp(scipy_stats.norm.ppf(q)), at_least=0.923)


def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two() -> None:
    assert found(quantile(np.array([6.0, 1.0, 5.0, 2.0, 3.0, 4.0]), 0.5, unit="s")).value == 3.5


@quick
@given(samples, shares, shares)
def test_a_quantile_grows_with_q(values: list[float], q: float, other: float) -> None:
    small, large = (found(quantile(np.array(values), share, unit="s")) for share in sorted((q, other)))
    assert small.value <= large.value
    assert small.low <= large.low
    assert small.high <= large.high


@quick
@given(samples, shares)
def test_a_quantile_lies_in_its_interval_and_the_interval_in_the_sample(values: list[float], q: float) -> None:
    estimate = found(quantile(np.array(values), q, unit="s"))
    assert min(values) <= estimate.low <= estimate.value <= estimate.high <= max(values)
    assert estimate.n == len(values)


@quick
@given(samples.flatmap(lambda values: st.tuples(st.just(values), st.permutations(values))))
def test_the_order_of_values_changes_no_quantile(both: tuple[list[float], list[float]]) -> None:
    one, other = both
    assert quantile(np.array(one), 0.5, unit="s") == quantile(np.array(other), 0.5, unit="s")


# ---------------------------------------------------------------- clustered_quantile


def answers_like(
    rng: np.random.Generator, *, count: int, length: int, between: float, within: float
) -> list[np.ndarray]:
    """Gaps whose logarithm is normal: one part shared by an answer, one part of each gap; the true median is 1."""
    return [np.exp(rng.normal(0.0, between) + rng.normal(0.0, within, length)) for _ in range(count)]


def share_below_without(groups: Sequence[np.ndarray], left_out: int, value: float) -> float:
    rest = [float(x) for place, group in enumerate(groups) for x in group if place != left_out]
    return sum(x <= value for x in rest) / len(rest)


def test_the_interval_is_woodruffs_with_a_jackknife_over_the_groups() -> None:
    groups = answers_like(np.random.default_rng(2), count=9, length=40, between=0.02, within=0.3)
    groups[3] = groups[3][:11]  # groups of one length would not show how they are weighed
    estimate = found(clustered_quantile(groups, 0.5, unit="s"))

    pool = sorted(x for group in groups for x in group)
    shares_without = [share_below_without(groups, place, estimate.value) for place in range(9)]
    centre = sum(x <= estimate.value for x in pool) / len(pool)
    error = math.sqrt(8 / 9 * sum((share - centre) ** 2 for share in shares_without))
    half = 2.306004 * error  # Student's t, 97.5%, 8 degrees of freedom, from a table
    assert estimate.value == pytest.approx((pool[(len(pool) - 1) // 2] + pool[len(pool) // 2]) / 2)
    assert estimate.low == pool[math.ceil((0.5 - half) * len(pool)) - 1]
    assert estimate.high == pool[math.ceil((0.5 + half) * len(pool)) - 1]
    assert estimate.n == 9


@pytest.mark.parametrize(("between", "within"), [(0.0, 0.2), (0.1, 0.2), (0.2, 0.1)])
@pytest.mark.parametrize("count", [8, 20])
def test_the_interval_holds_the_true_median_however_alike_the_gaps_of_an_answer_are(
    count: int, between: float, within: float
) -> None:
    rng = np.random.default_rng(7)
    estimates = [
        clustered_quantile(answers_like(rng, count=count, length=30, between=between, within=within), 0.5, unit="s")
        for _ in range(300)
    ]
    assert_covers(estimates, 1.0, at_least=0.91)


def test_taking_gaps_for_independent_would_hold_the_true_median_too_rarely() -> None:
    rng = np.random.default_rng(7)
    naive = [
        quantile(np.concatenate(answers_like(rng, count=20, length=30, between=0.2, within=0.1)), 0.5, unit="s")
        for _ in range(200)
    ]
    assert share_covered(naive, 1.0) < 0.6


@pytest.mark.parametrize("count", [0, 1, 5])
def test_five_groups_carry_no_interval(count: int) -> None:
    assert clustered_quantile([np.arange(1.0, 100.0)] * count, 0.5, unit="s") is None


def test_a_p99_needs_as_many_answers_as_of_independent_values() -> None:
    groups = answers_like(np.random.default_rng(2), count=368, length=40, between=0.0, within=0.3)
    assert clustered_quantile(groups[1:], 0.99, unit="s") is None
    assert found(clustered_quantile(groups, 0.99, unit="s")).n == 368


def test_an_empty_group_is_no_group() -> None:
    groups = [np.array([1.0, 2.0, 3.0])] * 5
    assert clustered_quantile([*groups, np.empty(0)], 0.5, unit="s") is None
    with_empty = found(clustered_quantile([*groups, groups[0], np.empty(0)], 0.5, unit="s"))
    assert with_empty.n == 6


def test_one_huge_group_does_not_pass_for_many() -> None:
    rng = np.random.default_rng(4)
    groups = [rng.normal(1.0, 0.01, 10_000), *(rng.normal(2.0, 0.01, 10) for _ in range(9))]
    assert clustered_quantile(groups, 0.5, unit="s") is None


def test_a_tail_that_one_answer_alone_has_gets_no_interval() -> None:
    # All values are at most the quantile, in every group: only those below it tell the groups apart.
    groups = [np.full(50, 0.01)] * 9 + [np.full(50, 0.09)]
    assert clustered_quantile(groups, 0.95, unit="s") is None
    assert found(clustered_quantile(groups, 0.5, unit="s")).value == 0.01


def test_equal_values_have_an_interval_of_no_width() -> None:
    estimate = found(clustered_quantile([np.full(4, 0.02)] * 80, 0.95, unit="s"))
    assert (estimate.low, estimate.value, estimate.high) == (0.02, 0.02, 0.02)


def test_ties_at_the_quantile_do_not_narrow_the_interval_to_nothing() -> None:
    # A server whose clock ticks: all gaps are 10 or 20 ms, and answers differ in how many of each.
    groups = [np.repeat([0.01, 0.02], [slow, 20 - slow]) for slow in (4, 7, 9, 10, 11, 13, 16)]
    estimate = found(clustered_quantile(groups, 0.5, unit="s"))
    assert (estimate.low, estimate.high) == (0.01, 0.02)


@quick
@given(st.lists(st.lists(seconds, min_size=1, max_size=20), min_size=6, max_size=12))
def test_the_order_of_groups_changes_nothing_and_the_value_lies_inside(groups: list[list[float]]) -> None:
    arrays = [np.array(group) for group in groups]
    estimate = clustered_quantile(arrays, 0.5, unit="s")
    assert clustered_quantile(arrays[::-1], 0.5, unit="s") == estimate
    if estimate is not None:
        assert estimate.low <= estimate.value <= estimate.high


# ---------------------------------------------------------------- rate


@quick
@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 50.0)), max_size=60),
    st.floats(0.0, 5.0),
    st.floats(1.0, 5.0),
)
def test_a_rate_is_what_came_in_the_window_over_its_length(
    events: list[tuple[float, float]], start_s: float, length_s: float
) -> None:
    end_s = start_s + length_s
    times, amounts = (np.array([event[part] for event in events], dtype=float) for part in (0, 1))
    estimate = rate(times, amounts, start_s=start_s, end_s=end_s, unit="tok/s")
    if end_s - start_s < 1.0:  # the sum may round to just under the limit
        assert estimate is None
        return
    inside = sum(amount for time, amount in events if start_s <= time <= end_s)
    assert found(estimate).value == pytest.approx(inside / (end_s - start_s), abs=1e-9)
    assert 0.0 <= found(estimate).low <= found(estimate).high


def test_a_rate_has_the_t_interval_of_ten_slices() -> None:
    rng = np.random.default_rng(1)
    per_slice = rng.integers(5, 15, 10)
    times = np.concatenate([place + rng.uniform(0.1, 0.9, count) for place, count in enumerate(per_slice)])
    estimate = found(rate(times, np.full(len(times), 2.0), start_s=0.0, end_s=10.0, unit="tok/s"))
    expected = scipy_stats.ttest_1samp(per_slice * 2.0, 0.0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.value == pytest.approx(2.0 * per_slice.mean())
    assert estimate.n == 10


@pytest.mark.parametrize("per_s", [5.0, 200.0])
def test_the_interval_holds_the_true_rate_of_a_random_stream(per_s: float) -> None:
    rng = np.random.default_rng(3)
    estimates = []
    for _ in range(400):
        times = rng.uniform(0.0, 10.0, rng.poisson(10 * per_s))
        estimates.append(rate(times, np.ones(len(times)), start_s=0.0, end_s=10.0, unit="tok/s"))
    assert_covers(estimates, per_s, at_least=0.918)


def test_a_steady_stream_has_a_narrow_interval_and_bursts_of_the_same_rate_a_wide_one() -> None:
    steady = np.arange(0.005, 20.0, 0.01)
    waves = np.repeat(np.arange(0.7, 20.0, 1.6), len(steady) // 13 + 1)[: len(steady)]
    widths = []
    for times in (steady, waves):
        estimate = found(rate(times, np.ones(len(times)), start_s=0.0, end_s=20.0, unit="tok/s"))
        assert estimate.value == pytest.approx(100.0)
        assert estimate.low <= 100.0 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[0] < 1.0 < 20.0 < widths[1]


def test_a_window_under_a_second_has_no_rate() -> None:
    assert rate(np.array([0.5]), np.array([1.0]), start_s=0.0, end_s=0.999, unit="tok/s") is None
    assert rate(np.array([0.5]), np.array([1.0]), start_s=0.0, end_s=1.0, unit="tok/s") is not None


# ---------------------------------------------------------------- ratio


@pytest.mark.parametrize(
    ("bottom", "top"),
    [
        ([1.0, 1.1], [2.0, 2.3]),
        ([232.0, 229.0, 240.0], [480.0, 470.0, 433.0]),
        ([5.0, 5.01, 5.02, 4.99], [3.0, 4.0]),
    ],
)
def test_one_pair_has_welchs_interval_on_logarithms(bottom: list[float], top: list[float]) -> None:
    estimate = found(ratio([([bottom], [top])]))
    expected = scipy_stats.ttest_ind(np.log(top), np.log(bottom), equal_var=False).confidence_interval(0.95)
    assert (math.log(estimate.low), math.log(estimate.high)) == pytest.approx((expected.low, expected.high))
    assert estimate.value == pytest.approx(scipy_stats.gmean(top) / scipy_stats.gmean(bottom))
    assert estimate.n == len(bottom) + len(top)


def test_against_a_constant_it_is_the_interval_of_one_sample() -> None:
    times = [0.21, 0.19, 0.2, 0.18]
    estimate = found(ratio([([times], [[0.2] * 4])]))
    expected = scipy_stats.ttest_1samp(np.log(0.2) - np.log(times), 0.0).confidence_interval(0.95)
    assert (math.log(estimate.low), math.log(estimate.high)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("pairs", "t"),  # Student's t at 97.5% for 2, 4 and 10 degrees of freedom, from a table
    [(1, 4.302653), (2, 2.776445), (5, 2.228139)],
)
def test_pairs_of_equal_variance_add_their_degrees_of_freedom(pairs: int, t: float) -> None:
    low, high = math.exp(-0.1), math.exp(0.1)  # variance 0.02 on logarithms, 0.01 of a mean of two
    estimate = found(ratio([([[low, high]], [[2 * low, 2 * high]])] * pairs))
    assert estimate.value == pytest.approx(2.0)
    assert math.log(estimate.high / 2) == pytest.approx(t * math.sqrt(0.02 / pairs))
    assert math.log(2 / estimate.low) == pytest.approx(t * math.sqrt(0.02 / pairs))
    assert estimate.n == 4 * pairs


def test_the_ratio_over_several_loads_is_the_geometric_mean_of_theirs() -> None:
    pairs = [([[1.0, 1.0]], [[2.0, 2.0]]), ([[10.0, 10.0]], [[5.0, 5.0]]), ([[3.0, 3.0]], [[24.0, 24.0]])]
    assert found(ratio(pairs)).value == pytest.approx(2.0)  # cube root of 2 x 1/2 x 8


@pytest.mark.parametrize(("repeats", "pairs"), [(2, 1), (3, 1), (3, 5)])
def test_the_interval_holds_the_true_ratio(repeats: int, pairs: int) -> None:
    rng = np.random.default_rng(6)

    def repeats_of(centre: float, spread: float) -> list[float]:
        return [float(x) for x in centre * np.exp(rng.normal(0.0, spread, repeats))]

    estimates = [
        ratio([([repeats_of(10.0, 0.02)], [repeats_of(13.0, 0.03)]) for _ in range(pairs)]) for _ in range(500)
    ]
    assert_covers(estimates, 1.3, at_least=0.92)


# ---------------------------------------------------------------- ratio: blocks


def launches(
    rng: np.random.Generator, *, centre: float, blocks: int, repeats: int, between: float, within: float = 0.02
) -> list[list[float]]:
    """So many launches of an engine: what one differs by from the others is in all of its repeats."""
    return [
        [float(x) for x in centre * np.exp(rng.normal(0.0, between) + rng.normal(0.0, within, repeats))]
        for _ in range(blocks)
    ]


def test_of_several_launches_the_means_are_the_sample() -> None:
    rng = np.random.default_rng(3)
    bottom = launches(rng, centre=10.0, blocks=4, repeats=3, between=0.05)
    top = launches(rng, centre=13.0, blocks=3, repeats=3, between=0.05)
    estimate = found(ratio([(bottom, top)]))
    means = [[float(np.mean(np.log(block))) for block in side] for side in (bottom, top)]
    expected = scipy_stats.ttest_ind(means[1], means[0], equal_var=False).confidence_interval(0.95)
    assert (math.log(estimate.low), math.log(estimate.high)) == pytest.approx((expected.low, expected.high))
    assert math.log(estimate.value) == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert estimate.n == 21


@pytest.mark.parametrize("between", [0.0, 0.01, 0.03])
@pytest.mark.parametrize(("blocks", "repeats"), [(2, 2), (2, 4), (3, 3), (4, 4)])
def test_the_interval_holds_the_true_ratio_however_much_launches_differ(
    blocks: int, repeats: int, between: float
) -> None:
    rng = np.random.default_rng(8)
    sides = [
        [launches(rng, centre=centre, blocks=blocks, repeats=repeats, between=between) for centre in (10.0, 13.0)]
        for _ in range(200)
    ]
    # Three standard deviations of 200 trials at 95% are 4.6 points.
    assert_covers([ratio([(bottom, top)]) for bottom, top in sides], 1.3, at_least=0.904)


def test_taking_the_repeats_of_all_launches_for_independent_would_hold_it_too_rarely() -> None:
    rng = np.random.default_rng(8)
    estimates = []
    for _ in range(200):
        bottom, top = (launches(rng, centre=10.0, blocks=4, repeats=4, between=0.03) for _ in range(2))
        estimates.append(ratio([([sum(bottom, [])], [sum(top, [])])]))  # noqa: RUF017  four short lists
    assert share_covered(estimates, 1.0) < 0.8


def test_launches_that_agree_by_chance_do_not_hide_how_their_repeats_scatter() -> None:
    alike = [[10.0, 12.0], [12.0, 10.0]]
    estimate = found(ratio([(alike, [[11.0, 11.0], [11.0, 11.0]])]))
    assert estimate.low < 0.95
    assert estimate.high > 1.05


def test_launches_differ_alike_at_all_loads_so_more_loads_are_no_more_launches() -> None:
    """A launch that is 3% faster is that at each load: five loads must not make it five observations."""
    rng = np.random.default_rng(9)

    def one_side() -> list[list[list[float]]]:
        lucks = rng.normal(0.0, 0.03, 3)
        return [[list(np.exp(luck + rng.normal(0.0, 0.01, 2))) for luck in lucks] for _ in range(5)]

    estimates = [ratio(list(zip(one_side(), one_side(), strict=True))) for _ in range(200)]
    assert_covers(estimates, 1.0, at_least=0.904)


def test_a_launch_that_lacks_a_load_counts_at_none() -> None:
    slow, fast = [[1.0, 1.1], [1.05, 0.95]], [[2.0, 2.1], [1.9, 2.05]]
    whole = found(ratio([(slow, fast), (slow, fast)]))
    third = found(ratio([([*slow, [9.0, 9.0]], fast), ([*slow, []], fast)]))
    assert third.value == pytest.approx(whole.value)
    assert third.n == whole.n


def test_one_launch_against_several_has_the_variance_of_each_ones_own_sample() -> None:
    bottom, top = [[1.0, 1.02, 0.99]], [[2.0, 2.02], [2.1, 2.08], [1.95, 1.97]]
    estimate = found(ratio([(bottom, top)]))
    means = [float(np.mean(np.log(block))) for block in top]
    expected = scipy_stats.ttest_ind(means, np.log(bottom[0]), equal_var=False).confidence_interval(0.95)
    assert (math.log(estimate.low), math.log(estimate.high)) == pytest.approx((expected.low, expected.high))


blocks_of_a_side = st.lists(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=3), min_size=2, max_size=4)


@quick
@given(st.lists(st.tuples(blocks_of_a_side, blocks_of_a_side), min_size=1, max_size=2))
def test_swapping_the_sides_of_blocks_inverts_the_ratio(pairs: list[tuple[Blocks, Blocks]]) -> None:
    there, back = ratio(pairs), ratio([(top, bottom) for bottom, top in pairs])
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert (back.value, back.low, back.high) == pytest.approx((1 / there.value, 1 / there.high, 1 / there.low))
        assert there.low <= there.value * (1 + 1e-12)
        assert there.value <= there.high * (1 + 1e-12)


# ---------------------------------------------------------------- ratio: what carries none


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [([[1.0]], [[2.0, 2.0]])],
        [([[1.0, 1.0]], [])],
        [([[1.0, 1.0]], [[]])],
        [([[1.0, 1.0]], [[2.0, 0.0]])],
        [([[1.0, -1.0]], [[2.0, 2.0]])],
        [([[1.0, 1.0]], [[2.0, 2.0]]), ([[1.0]], [[2.0]])],
        [([[1.0], []], [[2.0], [2.1]])],
        [([[1.0], [1.0]], [[2.0], [0.0]])],
    ],
)
def test_where_one_interval_cannot_be_had_there_is_no_ratio(pairs: list[tuple[Blocks, Blocks]]) -> None:
    assert ratio(pairs) is None


def test_repeats_without_any_variance_have_an_interval_of_no_width() -> None:
    estimate = found(ratio([([[2.0, 2.0]], [[3.0, 3.0]])]))
    assert estimate.low == estimate.value == estimate.high == pytest.approx(1.5)


repeats_of_a_side = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=5).map(lambda repeats: [repeats])
loads = st.lists(st.tuples(repeats_of_a_side, repeats_of_a_side), min_size=1, max_size=4)


@quick
@given(loads)
def test_swapping_the_sides_inverts_the_ratio(pairs: list[tuple[Blocks, Blocks]]) -> None:
    there, back = found(ratio(pairs)), found(ratio([(top, bottom) for bottom, top in pairs]))
    assert (back.value, back.low, back.high) == pytest.approx((1 / there.value, 1 / there.high, 1 / there.low))


def times(factor: float, blocks: Blocks) -> Blocks:
    return [[factor * x for x in block] for block in blocks]


@quick
@given(loads, st.floats(0.01, 100.0))
def test_a_ratio_does_not_depend_on_the_unit(pairs: list[tuple[Blocks, Blocks]], factor: float) -> None:
    scaled = [(times(factor, bottom), times(factor, top)) for bottom, top in pairs]
    one, other = found(ratio(pairs)), found(ratio(scaled))
    assert other.value == pytest.approx(one.value)
    assert math.log(other.high / other.low) == pytest.approx(math.log(one.high / one.low), abs=1e-6)


@pytest.mark.parametrize("make", [lambda x: quantile(np.array(x), 0.5, unit="s"), lambda x: ratio([([x], [x])])])
def test_every_estimate_says_that_its_confidence_is_95_percent(make: Callable[[list[float]], Estimate | None]) -> None:
    assert found(make([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).confidence == 0.95


# ---------------------------------------------------------------- ratio of means


def test_a_ratio_of_means_bears_zeros_and_has_the_delta_methods_interval() -> None:
    bottom, top = np.array([0.0, 10.0, 20.0, 10.0]), np.array([20.0, 22.0, 18.0])
    estimate = found(ratio_of_means(bottom, top))
    parts = [float(side.var(ddof=1) / len(side) / side.mean() ** 2) for side in (bottom, top)]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    half = float(scipy_stats.t.ppf(0.975, df)) * math.sqrt(sum(parts))
    assert estimate.value == pytest.approx(2.0)
    assert (estimate.low, estimate.high) == pytest.approx((2.0 * math.exp(-half), 2.0 * math.exp(half)))


@pytest.mark.parametrize(("bottom", "top"), [([1.0], [1.0, 2.0]), ([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [])])
def test_without_a_scatter_or_a_mean_there_is_no_ratio_of_means(bottom: list[float], top: list[float]) -> None:
    assert ratio_of_means(np.array(bottom), np.array(top)) is None


def test_a_ratio_of_means_holds_the_true_one() -> None:
    rng = np.random.default_rng(2)
    estimates = [ratio_of_means(rng.normal(10.0, 2.0, 5), rng.normal(12.0, 2.0, 5)) for _ in range(500)]
    assert_covers(estimates, 1.2, at_least=0.92)


# ---------------------------------------------------------------- share


@pytest.mark.parametrize(
    ("kept", "of", "low", "high"),
    # Newcombe, Statistics in Medicine 17, 1998, 857, table I: Wilson's score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_share_has_wilsons_interval(kept: int, of: int, low: float, high: float) -> None:
    estimate = found(share(kept, of))
    assert estimate.value == kept / of
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-5)
    assert estimate.n == of


@quick
@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_a_share_lies_in_its_interval_and_that_between_none_and_all(both: tuple[int, int]) -> None:
    estimate = found(share(*both))
    assert -1e-12 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-12


def test_of_nothing_there_is_no_share() -> None:
    assert share(0, 0) is None
