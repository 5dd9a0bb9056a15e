"""Baseline against candidate: which cells count, and which verdicts are given."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import config
from harness.records import Cell, CellState, Comparison, Estimate, Level, Target, Verdict
from harness.stats import pairing
from harness.stats.verdict import is_met, verdict

quick = settings(max_examples=60, derandomize=True, deadline=None)

MIRRORED = {
    Verdict.FASTER: Verdict.SLOWER,
    Verdict.SLOWER: Verdict.FASTER,
    Verdict.SAME: Verdict.SAME,
    Verdict.UNDECIDED: Verdict.UNDECIDED,
}


def estimate(value: float, *, unit: str = "s") -> Estimate:
    return Estimate(value=value, low=value, high=value, confidence=0.95, n=100, unit=unit)


def cell(
    *,
    tok_s: float | None = 100.0,
    e2e_s: float | None = 1.0,
    tokens: float | None = 64.0,
    requests: int = 20,
    state: CellState = CellState.MEASURED,
    reasons: tuple[str, ...] = (),
    users: int = 1,
    rate_per_s: float | None = None,
    scenario: str = "sequential",
    block: int = 1,
    prompt_tokens: float | None = 40.0,
    ceilings: dict[str, float] | None = None,
) -> Cell:
    return Cell(
        engine="any",
        title="any",
        role="any",
        model="m",
        scenario=scenario,
        users=users,
        rate_per_s=rate_per_s,
        block=block,
        repeat=1,
        state=state,
        reasons=reasons,
        requests=requests,
        output_tok_s=None if tok_s is None else estimate(tok_s, unit="tok/s"),
        e2e_s={"p50": None if e2e_s is None else estimate(e2e_s), "p95": None},
        output_tokens_mean=tokens,
        prompt_tokens_mean=prompt_tokens,
        ceilings=ceilings or {},
    )


def invalid(*, tok_s: float = 1e6, e2e_s: float = 1e-6) -> Cell:
    return cell(tok_s=tok_s, e2e_s=e2e_s, state=CellState.INVALID, reasons=("the client was the limit",))


def compared(baseline: Sequence[Cell], candidate: Sequence[Cell], *, metric: str = "e2e_s.p50") -> Comparison:
    return pairing.comparison(baseline, candidate, scenario="sequential", level=Level(users=1), metric=metric)


def ratio_of(row: Comparison) -> Estimate:
    assert row.ratio is not None, row.reason
    return row.ratio


def target(
    *,
    metric: str = "e2e_s.p50",
    ratio: float = 2.0,
    absolute_s: float | None = None,
    users: int = 1,
    gpu: str | None = "rtx4090",
) -> Target:
    return Target(
        name="t",
        scenario="sequential",
        users=users,
        metric=metric,
        done_ratio=1.5,
        target_ratio=ratio,
        stretch_ratio=5.0,
        absolute_s=absolute_s,
        absolute_metric="e2e_s.p50",
        gpu=gpu,
        model="m",
    )


def rows_of(
    baseline: Sequence[Cell],
    candidate: Sequence[Cell],
    *,
    targets: Sequence[Target] = (),
    gpu: str = "rtx4090",
    model: str = "m",
) -> dict[tuple[int, str], Comparison]:
    rows = pairing.comparisons(baseline, candidate, targets=targets, gpu=gpu, model=model)
    return {(row.users, row.metric): row for row in rows}


def test_a_missing_ratio_is_noticed_with_its_reason() -> None:
    with pytest.raises(AssertionError, match="2 are needed"):
        ratio_of(compared([cell()], [cell()]))


# ---------------------------------------------------------------- the ratio


@pytest.mark.parametrize("metric", ["output_tok_s", "ttft_s.p50", "tpot_s.p50"])
def test_a_ratio_over_answers_of_other_length_says_so_in_its_own_row(metric: str) -> None:
    old, new = ([cell(tokens=tokens)] * 2 for tokens in (128.0, 120.0))
    fields = {name: {"p50": estimate(0.1)} for name in ("ttft_s", "tpot_s")}
    old, new = ([msgspec.structs.replace(one, **fields) for one in side] for side in (old, new))
    row = compared(old, new, metric=metric)
    assert row.ratio is not None
    assert "answers differ in length (128.0 and 120.0 tokens)" in row.reason
    assert compared(old, old, metric=metric).reason == ""


def test_more_tokens_a_second_are_faster() -> None:
    row = compared([cell(tok_s=x) for x in (100, 102)], [cell(tok_s=x) for x in (300, 303)], metric="output_tok_s")
    assert ratio_of(row).value == pytest.approx(scipy_stats.gmean([300, 303]) / scipy_stats.gmean([100, 102]))
    assert row.verdict == Verdict.FASTER
    assert row.baseline == pytest.approx(101.0, abs=0.01)
    assert row.candidate == pytest.approx(301.5, abs=0.01)
    assert row.reason == ""


def test_fewer_seconds_are_faster() -> None:
    row = compared([cell(e2e_s=x) for x in (1.00, 1.02)], [cell(e2e_s=x) for x in (0.25, 0.252)])
    assert ratio_of(row).value == pytest.approx(scipy_stats.gmean([1.00, 1.02]) / scipy_stats.gmean([0.25, 0.252]))
    assert row.verdict == Verdict.FASTER


sides = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=4)


@quick
@given(sides, sides, st.sampled_from(["e2e_s.p50", "output_tok_s"]))
def test_swapping_the_two_sides_mirrors_the_verdict(old: list[float], new: list[float], metric: str) -> None:
    baseline, candidate = ([cell(tok_s=x, e2e_s=x) for x in side] for side in (old, new))
    there, back = (compared(*both, metric=metric) for both in ((baseline, candidate), (candidate, baseline)))
    assert back.verdict == MIRRORED[there.verdict]
    assert ratio_of(back).value == pytest.approx(1 / ratio_of(there).value)
    assert (back.baseline, back.candidate) == (there.candidate, there.baseline)


@quick
@given(sides, sides, st.integers(1, 3))
def test_invalid_and_failed_cells_never_enter_a_ratio(old: list[float], new: list[float], bad: int) -> None:
    baseline, candidate = ([cell(e2e_s=x) for x in side] for side in (old, new))
    failed = cell(tok_s=None, e2e_s=None, state=CellState.FAILED)
    spoilt = [*candidate, *[invalid()] * bad, failed]
    assert compared(baseline, spoilt) == compared(baseline, candidate)
    assert compared(spoilt, baseline) == compared(candidate, baseline)


def test_invalid_cells_alone_give_no_ratio_however_good_they_look() -> None:
    row = compared([cell(), cell()], [invalid(), invalid()])
    assert (row.ratio, row.verdict, row.candidate) == (None, Verdict.UNDECIDED, None)
    assert row.reason == "0 of 2 repeats of the candidate count, 2 are needed: INVALID, the client was the limit"


def test_one_repeat_is_not_enough() -> None:
    row = compared([cell()], [cell(), cell()])
    assert row.verdict == Verdict.UNDECIDED
    assert row.reason == "1 of 1 repeats of the baseline count, 2 are needed"


def test_a_side_that_was_not_measured_is_named() -> None:
    assert compared([cell(), cell()], []).reason == "0 of 0 repeats of the candidate count, 2 are needed"


def test_a_figure_that_valid_repeats_do_not_have_is_named() -> None:
    row = compared([cell(e2e_s=None)] * 3, [cell()] * 3)
    assert row.reason == (
        "0 of 3 repeats of the baseline count, 2 are needed: "
        "too few requests in a repeat for an interval around e2e_s.p50"
    )


def test_a_figure_of_zero_gives_no_ratio_and_says_so() -> None:
    row = compared([cell(e2e_s=0.0), cell()], [cell(), cell()])
    assert (row.ratio, row.verdict) == (None, Verdict.UNDECIDED)
    assert (row.baseline, row.candidate) == (None, 1.0)
    assert "not positive" in row.reason


def test_an_interval_over_the_noise_limit_asks_for_more_repeats() -> None:
    row = compared([cell(e2e_s=x) for x in (1.0, 1.3)], [cell(e2e_s=x) for x in (0.9, 1.2)])
    assert row.verdict == Verdict.UNDECIDED
    assert row.reason == "the interval reaches over a limit of 2% around 1: more repeats"


# ---------------------------------------------------------------- equal work


@pytest.mark.parametrize(
    ("old", "new", "is_judged"),
    [
        (64.0, 64.0, True),
        (64.0, 64.6, True),
        (64.0, 64.7, False),
        (64.7, 64.0, False),
        (100.0, 101.005, False),
        (101.005, 100.0, False),
    ],
)
def test_whole_answers_are_compared_only_where_lengths_agree_within_one_percent(
    old: float, new: float, is_judged: bool
) -> None:
    row = compared([cell(tokens=old)] * 2, [cell(tokens=new, e2e_s=0.5)] * 2)
    assert (row.ratio is not None) == is_judged
    assert row.verdict == (Verdict.FASTER if is_judged else Verdict.UNDECIDED)
    assert row.reason.startswith("" if is_judged else f"answers differ in length ({old:.1f} and {new:.1f} tokens)")


@quick
@given(st.floats(60.0, 62.0), st.floats(60.0, 62.0))
def test_lengths_differ_from_both_sides_or_from_none(old: float, new: float) -> None:
    reasons = [
        compared([cell(tokens=one)] * 2, [cell(tokens=other)] * 2).reason for one, other in ((old, new), (new, old))
    ]
    assert bool(reasons[0]) == bool(reasons[1])


def test_speed_per_token_is_compared_whatever_the_lengths() -> None:
    row = compared([cell(tokens=64)] * 2, [cell(tokens=128, tok_s=300)] * 2, metric="output_tok_s")
    assert row.verdict == Verdict.FASTER


def test_lengths_are_weighed_by_requests_and_those_of_invalid_cells_do_not_count() -> None:
    cells = [
        cell(tokens=60.0, requests=10),
        cell(tokens=66.0, requests=20),
        msgspec.structs.replace(invalid(), output_tokens_mean=900.0),
        cell(tokens=None),
    ]
    assert pairing.mean_output_tokens(cells) == pytest.approx(64.0)
    assert pairing.mean_output_tokens(cells[2:]) is None


def test_other_prompts_are_no_reason_here_since_each_side_answered_as_many_as_it_could() -> None:
    """Means of 49.5 and 50.0 came from equal prompts, of which the faster side had answered two more."""
    row = compared([cell()] * 2, [cell(prompt_tokens=40.5, tok_s=300)] * 2, metric="output_tok_s")
    assert row.ratio is not None


def test_a_fault_of_the_manifest_allows_no_ratio_at_all() -> None:
    rows = pairing.comparisons(
        [cell()] * 2,
        [cell(e2e_s=0.4)] * 2,
        targets=[target()],
        gpu="rtx4090",
        model="m",
        faults=["One side has random weights."],
    )
    assert {(row.ratio, row.verdict, row.met, row.reason) for row in rows} == {
        (None, Verdict.UNDECIDED, None, "One side has random weights.")
    }
    assert rows[1].baseline == 1.0  # to be looked at


# ---------------------------------------------------------------- launches


def test_launches_of_a_side_are_the_sample_and_not_their_repeats() -> None:
    old = [cell(e2e_s=x, block=block) for block, x in ((1, 1.00), (1, 1.01), (2, 1.20), (2, 1.21))]
    new = [cell(e2e_s=x, block=block) for block, x in ((1, 0.50), (1, 0.51), (2, 0.60), (2, 0.61))]
    row = compared(old, new)
    means = [
        [scipy_stats.gmean(side[at : at + 2]) for at in (0, 2)]
        for side in ([1, 1.01, 1.2, 1.21], [0.5, 0.51, 0.6, 0.61])
    ]
    expected = scipy_stats.ttest_ind(*np.log(means), equal_var=False).confidence_interval(0.95)
    assert (np.log(ratio_of(row).low), np.log(ratio_of(row).high)) == pytest.approx((expected.low, expected.high))
    one_launch = compared(
        [msgspec.structs.replace(c, block=1) for c in old], [msgspec.structs.replace(c, block=1) for c in new]
    )
    assert ratio_of(one_launch).high < ratio_of(row).high


def test_a_row_names_the_side_that_it_is_against() -> None:
    rows = pairing.comparisons([cell()], [cell()] * 2, targets=[], gpu="cpu", model="m", against="baseline tuned")
    assert {row.against for row in rows} == {"baseline tuned"}
    assert rows[0].reason == "1 of 1 repeats of the baseline tuned count, 2 are needed"


def test_rates_are_loads_of_their_own() -> None:
    slow, fast = ([cell(users=0, rate_per_s=rate, e2e_s=x) for _ in range(2)] for rate, x in ((2.0, 1.0), (4.0, 3.0)))
    rows = pairing.comparisons([*slow, *fast], [*slow, *fast], targets=[target(users=0)], gpu="cpu", model="m")
    assert [(row.users, row.rate_per_s, row.metric) for row in rows] == [
        (0, 2.0, "output_tok_s"),
        (0, 2.0, "e2e_s.p50"),
        (0, 4.0, "output_tok_s"),
        (0, 4.0, "e2e_s.p50"),
    ]
    assert [row.baseline for row in rows] == pytest.approx([100.0, 1.0, 100.0, 3.0])
    assert all(row.target is None for row in rows)  # a target is of so many users


# ---------------------------------------------------------------- ceilings


@pytest.mark.parametrize(
    ("metric", "ceilings", "expected"),
    [
        ("output_tok_s", {"output_tok_s": 150.0}, 1.5),  # the baseline has 100
        ("e2e_s.p50", {"e2e_s": 0.25}, 4.0),  # and takes 1 s
        ("e2e_s.p50", {"ttft_s": 0.1, "itl_s": 0.01}, 1 / (0.1 + 63 * 0.01)),  # 64 tokens have 63 gaps
        ("e2e_s.p50", {"ttft_s": 0.1}, None),
        ("output_tok_s", {}, None),
        ("output_tok_s", {"output_tok_s": 0.0}, None),
    ],
)
def test_a_row_says_the_largest_ratio_that_the_card_allows(
    metric: str, ceilings: dict[str, float], expected: float | None
) -> None:
    row = compared([cell()] * 2, [cell(ceilings=ceilings)] * 2, metric=metric)
    assert row.ceiling_ratio == (None if expected is None else pytest.approx(expected))


def test_the_gaps_of_an_answer_are_never_shorter_than_those_between_tokens() -> None:
    times = {"tpot_s": {"p50": estimate(0.02)}, "ttft_s": {"p50": estimate(0.3)}}
    old, new = (
        [msgspec.structs.replace(cell(ceilings={"itl_s": 0.005, "ttft_s": 0.1}), **times)] * 2 for _ in range(2)
    )
    assert compared(old, new, metric="tpot_s.p50").ceiling_ratio == pytest.approx(4.0)
    assert compared(old, new, metric="ttft_s.p50").ceiling_ratio == pytest.approx(3.0)


def test_of_several_ceilings_the_most_generous_counts() -> None:
    new = [cell(ceilings={"output_tok_s": x, "e2e_s": 30 / x}) for x in (150.0, 300.0)]
    assert compared([cell()] * 2, new, metric="output_tok_s").ceiling_ratio == pytest.approx(3.0)
    assert compared([cell()] * 2, new).ceiling_ratio == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("ceilings", "reach"),
    [({"e2e_s": 0.5}, "reachable"), ({"e2e_s": 0.8}, "unreachable: at most 1.25x"), ({}, "")],
)
def test_a_target_is_set_against_its_ceiling(ceilings: dict[str, float], reach: str) -> None:
    rows = rows_of([cell()] * 2, [cell(ceilings=ceilings)] * 2, targets=[target(ratio=2.0)])
    assert rows[1, "e2e_s.p50"].reach == reach
    assert rows[1, "output_tok_s"].reach == ""  # no target there


@pytest.mark.parametrize(
    ("baseline_s", "reach"),
    [
        (0.9, "unreachable: at most 1.80x where all users are served alike"),
        (1.1, "reachable"),
        (0.15, "unreachable: at"),
    ],
)
def test_a_whole_answer_of_many_users_is_set_against_the_mean_of_them_all(baseline_s: float, reach: str) -> None:
    """Ten users at 128 tokens each and 2560 tok/s at most: 0.5 s on average, though one alone could have it in 0.1."""
    limits = {"e2e_s": 0.1, "output_tok_s": 2560.0}
    old = [msgspec.structs.replace(cell(e2e_s=baseline_s, tokens=128.0), users=10)] * 2
    new = [msgspec.structs.replace(cell(ceilings=limits, tokens=128.0), users=10)] * 2
    row = rows_of(old, new, targets=[target(ratio=2.0, users=10)])[10, "e2e_s.p50"]
    assert row.reach.startswith(reach)
    assert row.ceiling_ratio == pytest.approx(baseline_s / 0.1), "which holds whatever the server does"


# ---------------------------------------------------------------- what asks for more repeats


def row_of(
    low: float, high: float, *, metric: str = "output_tok_s", target: float | None = None, users: int = 1
) -> Comparison:
    found = Estimate(value=(low * high) ** 0.5, low=low, high=high, confidence=0.95, n=8, unit="ratio")
    return Comparison(
        scenario="s",
        users=users,
        metric=metric,
        ratio=found,
        verdict=verdict(found),
        target=target,
        met=None if target is None else is_met(found, target),
    )


@pytest.mark.parametrize(
    ("row", "wants"),
    [
        (row_of(1.99, 2.01), False),
        (row_of(1.80, 2.20), True),  # 10% either way
        (row_of(1.80, 2.20, metric="itl_s.p50"), False),  # nobody decides by it
        (row_of(1.80, 2.20, metric="itl_s.p50", target=3.0), True),  # but for a target
        (row_of(1.99, 2.01, target=2.0), False),  # on both sides of the target, but precise: no peeking
        (row_of(1.99, 2.01, target=1.5), False),
        (row_of(1.00, 1.04, target=1.5), False),  # faster or the same? As well known as was asked
        (row_of(1.00, 1.04), False),  # 2% either way is as well as was asked
    ],
)
def test_a_row_asks_for_more_repeats_until_it_is_known_well_enough(row: Comparison, wants: bool) -> None:
    assert bool(pairing.wanting([row], precision_ratio=0.03)) == wants


def test_each_load_is_asked_for_once_and_in_order() -> None:
    wide = [
        row_of(1.0, 3.0, users=users, metric=metric) for users in (5, 1) for metric in ("output_tok_s", "e2e_s.p50")
    ]
    narrow = row_of(1.0, 1.01, users=10)
    assert pairing.wanting([*wide, narrow], precision_ratio=0.03) == (("s", Level(users=5)), ("s", Level(users=1)))


def test_a_row_without_a_ratio_asks_for_nothing() -> None:
    nothing = compared([cell()] * 2, [invalid()] * 2)
    assert pairing.wanting([nothing], precision_ratio=0.03) == ()


# ---------------------------------------------------------------- rows and targets


def test_there_is_a_row_for_each_load_and_each_figure_that_either_side_has() -> None:
    baseline = [cell(users=1), cell(users=5, e2e_s=None)]
    candidate = [cell(users=10, scenario="concurrent", tok_s=None)]
    rows = pairing.comparisons(baseline, candidate, targets=[], gpu="cpu", model="m")
    assert [(row.scenario, row.users, row.metric) for row in rows] == [
        ("sequential", 1, "output_tok_s"),
        ("sequential", 1, "e2e_s.p50"),
        ("sequential", 5, "output_tok_s"),
        ("concurrent", 10, "e2e_s.p50"),
    ]
    assert all(row.target is None and row.met is None for row in rows)


def test_cells_of_other_loads_stay_out_of_a_row() -> None:
    fast = [cell(users=5, e2e_s=0.001)] * 2
    rows = rows_of([cell()] * 2 + fast, [cell(e2e_s=0.5)] * 2 + fast)
    assert ratio_of(rows[1, "e2e_s.p50"]).value == pytest.approx(2.0)
    assert ratio_of(rows[5, "e2e_s.p50"]).value == pytest.approx(1.0)


@pytest.mark.parametrize(("candidate_s", "met"), [(0.4, True), (0.6, False)])
def test_a_target_is_judged_by_the_whole_interval(candidate_s: float, met: bool) -> None:
    new = [cell(e2e_s=candidate_s * x) for x in (0.999, 1.001)]
    row = rows_of([cell(e2e_s=x) for x in (0.999, 1.001)], new, targets=[target()])[1, "e2e_s.p50"]
    assert (row.target, row.done, row.stretch, row.met) == (2.0, 1.5, 5.0, met)


def test_a_target_that_the_interval_straddles_is_open() -> None:
    row = rows_of([cell(e2e_s=x) for x in (0.9, 1.1)], [cell(e2e_s=0.5)] * 2, targets=[target()])[1, "e2e_s.p50"]
    assert row.met is None


def test_a_target_belongs_to_its_metric_and_its_number_of_users() -> None:
    rows = rows_of([cell()] * 2, [cell(e2e_s=0.4)] * 2, targets=[target(users=5), target(metric="output_tok_s")])
    assert rows[1, "e2e_s.p50"].target is None
    assert rows[1, "output_tok_s"].target == 2.0


@pytest.mark.parametrize("metric", ["e2e_s.p50", "ttft_s.p95"])
def test_a_target_whose_figure_is_missing_has_an_open_row_and_does_not_vanish(metric: str) -> None:
    rows = rows_of([cell(e2e_s=None)] * 3, [cell(e2e_s=None)] * 3, targets=[target(metric=metric)])
    row = rows[1, metric]
    assert (row.target, row.met, row.ratio) == (2.0, None, None)
    assert "0 of 3 repeats of the baseline count" in row.reason


def test_invalid_cells_meet_no_target() -> None:
    row = rows_of([cell()] * 2, [invalid()] * 2, targets=[target(absolute_s=0.2)])[1, "e2e_s.p50"]
    assert (row.met, row.absolute_met) == (None, None)


def test_answers_of_other_lengths_meet_no_target() -> None:
    row = rows_of([cell()] * 2, [cell(tokens=10, e2e_s=0.1)] * 2, targets=[target()])[1, "e2e_s.p50"]
    assert row.met is None


@pytest.mark.parametrize(
    ("gpu", "model", "set_for", "counts"),
    [
        ("rtx4090", "m", "rtx4090", True),
        ("h100", "m", "rtx4090", False),
        ("rtx4090", "other", "rtx4090", False),
        ("rtx4090", "m", None, False),
    ],
)
def test_seconds_count_only_on_the_card_and_with_the_model_they_were_set_for(
    gpu: str, model: str, set_for: str | None, counts: bool
) -> None:
    aimed = [target(absolute_s=0.3, gpu=set_for)]
    row = rows_of([cell()] * 2, [cell(e2e_s=0.1)] * 2, targets=aimed, gpu=gpu, model=model)[1, "e2e_s.p50"]
    assert (row.absolute_s, row.absolute_met) == ((0.3, True) if counts else (None, None))
    assert row.met is True  # the ratio counts everywhere


@pytest.mark.parametrize(("times", "met"), [((0.19, 0.191), True), ((0.22, 0.221), False), ((0.19, 0.21), None)])
def test_seconds_are_judged_by_the_whole_interval_too(times: tuple[float, float], met: bool | None) -> None:
    row = rows_of([], [cell(e2e_s=t) for t in times], targets=[target(absolute_s=0.2)])[1, "e2e_s.p50"]
    assert row.absolute_met is met
    assert row.met is None  # no baseline


def test_the_seconds_of_a_target_may_be_of_another_figure_than_its_ratio() -> None:
    aimed = [target(metric="output_tok_s", absolute_s=0.3)]
    rows = rows_of([cell()] * 2, [cell(tok_s=300, e2e_s=0.1)] * 2, targets=aimed)
    assert (rows[1, "output_tok_s"].met, rows[1, "output_tok_s"].absolute_met) == (True, None)
    assert (rows[1, "e2e_s.p50"].met, rows[1, "e2e_s.p50"].absolute_met) == (None, True)


def test_all_published_targets_name_figures_that_are_compared() -> None:
    named = {name for row in config.targets() for name in (row.metric, row.absolute_metric) if name is not None}
    assert named <= set(pairing.METRICS)


# ---------------------------------------------------------------- the objective of a search


def test_the_objective_is_the_geometric_mean_over_the_levels() -> None:
    old = [cell(users=users, tok_s=x) for users in (1, 5, 10) for x in (100, 100)]
    new = [cell(users=users, tok_s=x) for users, x in ((1, 200), (5, 50), (10, 800)) for _ in range(2)]
    found = pairing.objective(old, new, metric="output_tok_s", levels=(1, 5, 10))
    assert found is not None
    assert found.value == pytest.approx(2.0)
    assert found.n == 12


def test_the_objective_of_a_time_is_over_one_where_it_is_shorter() -> None:
    found = pairing.objective([cell()] * 2, [cell(e2e_s=0.5)] * 2, metric="e2e_s.p50", levels=(1,))
    assert found is not None
    assert found.value == pytest.approx(2.0)


def test_a_level_without_two_valid_repeats_leaves_no_objective() -> None:
    old = [cell(users=users) for users in (1, 5) for _ in range(2)]
    new = [cell(users=1), cell(users=1), cell(users=5), msgspec.structs.replace(invalid(), users=5)]
    assert pairing.objective(old, new, metric="output_tok_s", levels=(1, 5)) is None
    assert pairing.objective(old, new, metric="output_tok_s", levels=(1,)) is not None


def test_the_objective_takes_a_launch_for_one_observation_at_all_levels() -> None:
    old = [cell(users=users, tok_s=100 * luck, block=block) for users in (1, 5) for block, luck in ((1, 1.0), (2, 1.1))]
    new = [cell(users=users, tok_s=200 * luck, block=block) for users in (1, 5) for block, luck in ((1, 1.0), (2, 1.1))]
    both = pairing.objective(old, new, metric="output_tok_s", levels=(1, 5))
    one = pairing.objective(old, new, metric="output_tok_s", levels=(1,))
    assert both is not None
    assert one is not None
    assert (both.low, both.high) == pytest.approx((one.low, one.high))
