"""Sides that took turns: intervals that hold all at once, and what others say of the noise."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.turns import chained, launches_for, many_to_one, pooled_spread

LAUNCHES = st.lists(st.floats(-1, 1), min_size=1, max_size=4)


def test_two_sides_of_two_launches_are_student_s_t():
    """By hand: means 0.10 and 0, pooled standard deviation 0.01414, t(2 df, 97.5%) = 4.3027."""
    (found,) = many_to_one([-0.01, 0.01], [[0.09, 0.11]])
    assert found is not None
    assert found.value == pytest.approx(2.718281828**0.1)
    assert found.high / found.value == pytest.approx(2.718281828 ** (4.3027 * 0.014142), rel=1e-3)
    assert found.n == 4


def test_more_sides_ask_for_more():
    alone = many_to_one([0.0, 0.01], [[0.1, 0.11]])[0]
    among = many_to_one([0.0, 0.01], [[0.1, 0.11], []])[0]
    assert alone is not None
    assert among is not None
    assert among.low < alone.low


def test_two_looks_ask_for_as_much_as_two_sides():
    (twice,), (aside, _) = many_to_one([0.0, 0.01], [[0.1, 0.11]], looks=2), many_to_one([0.0, 0.01], [[0.1, 0.11], []])
    assert twice == aside
    seen = [[-0.01, 0.01], [0.09, 0.11]]
    assert launches_for(seen, sides=1, half=0.04, most=6, looks=2) == launches_for(seen, sides=2, half=0.04, most=6)


def test_no_launch_and_no_spread_give_no_interval():
    assert many_to_one([0.0, 0.1], [[]]) == [None]
    assert many_to_one([0.0], [[0.1]]) == [None]
    assert many_to_one([], [[0.1, 0.2]]) == [None]
    assert many_to_one([0.0], [[0.1]], others=[[0.0, 0.01]])[0] is not None


def test_as_many_launches_are_asked_for_as_the_interval_needs():
    """By hand: of 0.01414 with 2 + 2 degrees of freedom, t(97.5 %) = 2.776, two launches reach 0.0393."""
    seen = [[-0.01, 0.01], [0.09, 0.11]]
    assert launches_for(seen, sides=1, half=0.0394, most=6) == 2
    assert launches_for(seen, sides=1, half=0.0392, most=6) == 3
    assert launches_for(seen, sides=1, half=0.001, most=6) is None
    assert launches_for([[0.0]], sides=1, half=0.001, most=6) == 2


def test_what_is_chained_is_the_product_with_both_errors():
    one, other = (
        many_to_one(control, [side])[0] for control, side in ([[0, 0.02], [0.1, 0.12]], [[0, 0.04], [0, 0.0]])
    )
    assert one is not None
    assert other is not None
    found = chained(one, other)
    assert found.value == pytest.approx(one.value * other.value)
    halves = [math.log(each.high / each.value) for each in (one, other, found)]
    assert halves[2] == pytest.approx(math.hypot(*halves[:2]))
    assert found.n == 8


@given(LAUNCHES, st.lists(LAUNCHES, min_size=1, max_size=3))
def test_every_interval_holds_its_value(control, sides):
    for found in many_to_one(control, sides):
        assert found is None or found.low <= found.value <= found.high


def test_the_spread_is_within_groups_alone():
    assert pooled_spread([[0.0, 0.0], [5.0, 5.0]]) == (0.0, 2)
    assert pooled_spread([[1.0], []]) is None


def test_where_no_side_differs_some_interval_leaves_one_out_in_at_most_five_of_a_hundred_studies():
    draws, studies, wrong = random.Random(3), 2000, 0
    for _ in range(studies):
        control, *sides = ([draws.gauss(0, 0.015) for _ in range(3)] for _ in range(4))
        wrong += any(one is not None and not one.low <= 1 <= one.high for one in many_to_one(control, sides))
    assert wrong / studies <= 0.06


def test_who_looks_twice_is_wrong_no_more_often_than_who_looks_once():
    """Three launches a side, then three more; either look may leave the truth out. One look's price is too little."""

    def wrong(looks: int) -> float:
        draws, studies, found = random.Random(4), 2000, 0
        for _ in range(studies):
            control, *sides = ([draws.gauss(0, 0.015) for _ in range(6)] for _ in range(3))
            judged = [many_to_one(control[:count], [side[:count] for side in sides], looks=looks) for count in (3, 6)]
            found += any(one is not None and not one.low <= 1 <= one.high for look in judged for one in look)
        return found / studies

    assert wrong(looks=2) <= 0.05 < wrong(looks=1)
