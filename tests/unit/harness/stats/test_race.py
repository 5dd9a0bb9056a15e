"""Giving up a candidate: only where it surely cannot win, and how often that is wrong."""

import math

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


def given_up(launch_spread: float, *, rivals: int, loads: int, is_shared: bool = True) -> float:
    """Share of 1000 candidates that are given up though they are exactly as good as all rivals.

    As a study does it: compared with the rival whose figures came out best, of three repeats a load that spread by 2 %.
    Of several loads it is looked at after each but the last, with the hope that the rivals' own figures give. One load
    is that of an objective which is about no other.

    Args:  launch_spread: of one launch, which moves all its loads together. is_shared: the chance among all rivals.
    """
    draws, wrong = np.random.default_rng(7), 0
    for _ in range(1000):
        noise = draws.normal(0, 0.02, (rivals + 1, loads, 3)) + draws.normal(0, launch_spread, (rivals + 1, 1, 1))
        others, mine = noise[:-1], noise[-1]
        best = others[others.mean(axis=(1, 2)).argmax()]
        hopes = [hope(list((others - best).mean(axis=2)[:, load])) for load in range(loads)]
        wrong += any(
            is_behind([list(d) for d in (mine - best)[:done]], hopes=hopes[done:], rivals=rivals if is_shared else 1)
            for done in range(1, max(loads, 2))
        )
    return wrong / 1000


@pytest.mark.parametrize(("rivals", "loads"), [(1, 1), (5, 1), (20, 1), (10, 3)])
@pytest.mark.parametrize("launch_spread", [0.005, 0.01, LAUNCH_SPREAD / math.sqrt(2)])
def test_a_candidate_as_good_as_the_best_of_many_is_rarely_given_up(launch_spread, rivals, loads):
    assert given_up(launch_spread, rivals=rivals, loads=loads) <= 2.2 * MAX_WRONG_STOPS  # 1000 draws are no more exact


def test_without_a_share_for_each_rival_the_luck_of_the_best_would_give_up_more():
    assert given_up(0.0141, rivals=20, loads=1, is_shared=False) > 5 * MAX_WRONG_STOPS


def test_launches_that_differ_more_than_was_assumed_are_given_up_more_often():
    """So that the test above can fail."""
    assert given_up(3 * LAUNCH_SPREAD, rivals=1, loads=1) > 5 * MAX_WRONG_STOPS
