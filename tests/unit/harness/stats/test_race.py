"""Giving up a candidate: only where it surely cannot win, and how often that is wrong."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.race import LAUNCH_SPREAD, MAX_WRONG_STOPS, hope, is_behind

DIFFERENCES = st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=4), min_size=1, max_size=4)
HOPES = st.lists(st.floats(0, 0.5), max_size=4)


def test_far_behind_at_the_first_load_is_behind_whatever_the_others_give():
    assert is_behind([[-1.6, -1.58, -1.61]], hopes=[0.1] * 4)


def test_a_little_behind_at_the_first_load_may_still_win():
    assert not is_behind([[-0.2, -0.21, -0.2]], hopes=[0.1] * 4)
    assert is_behind([[-0.2, -0.21, -0.2]], hopes=[])


def test_a_difference_that_two_launches_may_have_is_not_behind():
    assert not is_behind([[-0.03, -0.03, -0.03]], hopes=[])


def test_one_pair_says_nothing():
    assert not is_behind([[-3.0]], hopes=[])
    assert not is_behind([], hopes=[0.1])


def test_what_would_be_a_surprise_is_more_than_was_seen():
    assert hope([]) == hope([-0.5]) == pytest.approx(0.1)
    assert hope([0.2, 0.3]) == pytest.approx(0.4)


@given(DIFFERENCES, HOPES, st.floats(0, 0.5))
def test_who_is_given_up_would_be_with_less_hope_too(differences, hopes, less):
    if hopes and is_behind(differences, hopes=hopes):
        assert is_behind(differences, hopes=[one - less for one in hopes])


@given(DIFFERENCES, HOPES)
def test_nobody_is_given_up_who_is_ahead_on_average(differences, hopes):
    means = [float(np.mean(pairs)) for pairs in differences]
    if sum(means) + sum(hopes) >= 0:
        assert not is_behind(differences, hopes=hopes)


def given_up(launch_spread: float, *, loads: int) -> float:
    """Share of candidates exactly as good as the best that are given up at some look, with launches of this spread.

    Three repeats a load; nothing was seen that would give more hope than the headroom.
    """
    draws, studies, wrong = random.Random(7), 2000, 0
    for _ in range(studies):
        launch = draws.gauss(0, launch_spread) - draws.gauss(0, launch_spread)
        found = [[launch + draws.gauss(0, 0.02) - draws.gauss(0, 0.02) for _ in range(3)] for _ in range(loads)]
        wrong += any(is_behind(found[:done], hopes=[hope([])] * (loads - done)) for done in range(1, loads + 1))
    return wrong / studies


@pytest.mark.parametrize("loads", [1, 5])
@pytest.mark.parametrize("launch_spread", [0.005, 0.01, LAUNCH_SPREAD / math.sqrt(2)])
def test_a_candidate_as_good_as_the_best_is_rarely_given_up(launch_spread, loads):
    assert given_up(launch_spread, loads=loads) <= 1.5 * MAX_WRONG_STOPS  # 2000 draws are no more exact


def test_launches_that_differ_more_than_was_assumed_are_given_up_more_often():
    """So that the test above can fail."""
    assert given_up(3 * LAUNCH_SPREAD, loads=1) > 5 * MAX_WRONG_STOPS
