"""How a budget is shared: never more than there is, the defence before the luxury, short budgets refused at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.records import DefenceLaunch, Level, Outcome, Trial
from harness.tune import spending
from harness.tune.spending import Costs, ablation_launches, ablation_that_fits, finals_that_fit, split
from tests.unit.harness.tune.worlds import plan

SECONDS = st.floats(1.0, 1e4)


@given(SECONDS, SECONDS)
def test_no_more_than_half_of_the_budget_is_kept_for_the_defence(budget_s, one_s):
    found = split(budget_s, one_s=one_s)
    assert 0 <= found.whole_s <= budget_s / 2 + 1e-6
    assert found.finals_s >= 4 * one_s * 0.999 or found.whole_s == 0


@given(SECONDS, st.floats(0.0, 1e5), st.integers(0, 5), st.integers(0, 8), st.integers(1, 40))
def test_finals_and_ablation_that_are_begun_fit_into_the_time(one_s, left_s, candidates, flags, tried):
    found = finals_that_fit(left_s, one_s=one_s, candidates=candidates, flags=flags, tried=tried)
    if found is not None:
        assert 1 <= found.finalists <= candidates
        assert found.blocks >= 2
        assert 0 <= found.ablated <= flags
        launches = (1 + found.finalists) * found.blocks + ablation_launches(found.ablated, blocks=2)
        assert launches * one_s <= left_s * (1 + 1e-9)
    removed, blocks = ablation_that_fits(left_s, one_s=one_s, flags=flags)
    assert 0 <= removed <= flags
    assert blocks >= 2 or removed == 0, "one launch of a side decides nothing"
    assert ablation_launches(removed, blocks=blocks) * one_s <= left_s or removed == 0


@given(SECONDS, st.integers(1, 5), st.integers(1, 40))
def test_more_time_never_gives_fewer_launches(one_s, candidates, tried):
    def launches(left_s: float) -> int:
        found = finals_that_fit(left_s, one_s=one_s, candidates=candidates, flags=0, tried=tried)
        return 0 if found is None else (1 + found.finalists) * found.blocks

    assert sorted(map(launches, (0.0, 3 * one_s, 5 * one_s, 8 * one_s, 50 * one_s))) == list(
        map(launches, (0.0, 3 * one_s, 5 * one_s, 8 * one_s, 50 * one_s))
    )


def shape(left_s: float | None, *, candidates: int, flags: int = 0, tried: int = 5) -> tuple[int, int]:
    """Finalists and launches of each, where a launch takes a second."""
    found = finals_that_fit(left_s, one_s=1, candidates=candidates, flags=flags, tried=tried)
    assert found is not None
    return found.finalists, found.blocks


def ablated(left_s: float, *, flags: int) -> int:
    found = finals_that_fit(left_s, one_s=1, candidates=3, flags=flags, tried=6)
    assert found is not None
    return found.ablated


def test_where_time_is_short_some_flags_are_looked_at_rather_than_none():
    # all five take 16 launches, three of them 12, one of them 4; the smallest finals take 4
    assert [ablated(left_s, flags=5) for left_s in (20, 19, 16, 15, 8, 7)] == [5, 3, 3, 1, 1, 0]
    assert shape(8, candidates=3, flags=5) == (1, 2)
    assert shape(7, candidates=3, flags=5) == (2, 2)


def test_without_a_budget_the_finals_take_no_more_launches_than_the_search():
    assert shape(None, candidates=3, tried=12) == (3, 3)
    assert shape(None, candidates=3, tried=9) == (2, 3)
    assert shape(None, candidates=3, tried=2) == (1, 2)


def test_nothing_is_removed_where_there_is_no_flag():
    assert ablation_that_fits(None, one_s=1, flags=0) == (0, 0)


def test_costs_are_those_of_launches_that_came_to_their_end_without_others_in_the_way():
    guess = Costs(launch_s=60, longest_launch_s=60, level_s={"1": 22.0, "100": 22.0})
    tried = [
        Trial(number=0, flags={}, outcome=Outcome.MEASURED, wall_s=220, level_s={"1": 20.0, "100": 30.0}),
        Trial(number=1, flags={}, outcome=Outcome.MEASURED, wall_s=2200, level_s={"1": 20.0}, retries=2),
        Trial(number=2, flags={}, outcome=Outcome.CRASHED, wall_s=5),
    ]
    one = DefenceLaunch(
        stage="finals",
        round=1,
        role="r",
        block=1,
        flags={},
        outcome=Outcome.MEASURED,
        wall_s=160,
        level_s={"100": 30.0},
    )
    found = spending.costs([*tried, one], guess=guess, repeats=2, defence_repeats=1)
    assert found.launch_s == pytest.approx((120 + 130) / 2)
    assert found.longest_launch_s == pytest.approx(130)
    assert found.level_s == {"1": 20.0, "100": 30.0}
    assert found.of([Level(users=100)], 2) == pytest.approx(125 + 60)
    assert spending.costs([], guess=guess, repeats=2, defence_repeats=1) == guess


def test_a_budget_below_one_launch_is_refused_with_what_would_do():
    with pytest.raises(UsageError) as refused:
        spending.refuse_short_budget(120.0, 390.0, defended_s=1500.0)
    assert "6 min 30 s" in refused.value.message
    assert "allow 25 min 00 s" in refused.value.hint
    assert refused.value.exit_code == 2
    spending.refuse_short_budget(500.0, 390.0, defended_s=1500.0)


@given(SECONDS, SECONDS)
def test_what_is_said_to_be_enough_for_a_defence_is(least_s, one_s):
    found_s = spending.least_defended_s(least_s, one_s=one_s)
    assert split(found_s * 1.0001, one_s=one_s).finals_s > 0
    assert found_s * 1.0001 - split(found_s * 1.0001, one_s=one_s).whole_s >= 2 * least_s + spending.CLOSING_S
    assert "defaults" in spending.undefended_warning(found_s * 0.99, defended_s=found_s)
    assert spending.undefended_warning(found_s, defended_s=found_s) == ""


def test_every_other_block_goes_the_other_way():
    assert spending.alternating(["a", "b", "c"], 1, blocks=2) == ["a", "b", "c"]
    assert spending.alternating(["a", "b", "c"], 2, blocks=2) == ["c", "b", "a"]
    assert spending.alternating(["a", "b", "c"], 1, blocks=1) == ["a", "b", "c"]


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
def test_a_drift_falls_on_all_sides_alike(count, blocks):
    sides = list("abcdefg")[:count]
    orders = [spending.alternating(sides, block, blocks=blocks) for block in range(1, blocks + 1)]
    assert all(sorted(order) == sides for order in orders)
    places = [sum(order.index(side) for order in orders) for side in sides]
    assert max(places) - min(places) <= (1 if blocks % 2 else 0)


def test_time_that_no_candidate_can_use_goes_to_the_finals_and_to_the_ablation():
    assert shape(30.0, candidates=3, tried=5) == (3, 6)
    assert shape(19.0, candidates=5, tried=5) == (3, 4)
    assert shape(19.0, candidates=1, tried=5) == (1, 6)
    assert ablation_that_fits(21.0, one_s=1, flags=3) == (3, 3)
    assert ablation_that_fits(30.0, one_s=1, flags=3, least=4) == (3, 5)
    assert ablation_that_fits(11.0, one_s=1, flags=3) == (2, 2)
    assert ablation_that_fits(11.0, one_s=1, flags=3, least=3) == (1, 5)
    assert ablation_that_fits(3.0, one_s=1, flags=3) == (0, 0)


def test_a_short_budget_is_spent_on_candidates_and_not_on_repeats():
    assert spending.repeats_for(plan(budget_s=None)) == 3
    assert spending.repeats_for(plan(budget_s=36_000.0)) == 3
    assert spending.repeats_for(plan(budget_s=1_800.0)) == 2


def test_a_budget_that_is_not_used_up_has_a_reason():
    def why(spent_s: float, **more) -> str:
        known = {"candidate_s": 300.0, "defended_s": 0.0, "has_all": False}
        return spending.early_note(2700.0, spent_s, **{**known, **more})

    assert why(2430.0) == ""
    assert why(2400.0) == "The study ended after 40 min 00 s of 45 min 00 s: another candidate takes about 5 min 00 s."
    assert "finals of the best 12 min 00 s at least" in why(2400.0, defended_s=720.0)
    assert "all candidates have been tried" in why(1800.0, has_all=True)
    assert "every launch" in why(1800.0)
