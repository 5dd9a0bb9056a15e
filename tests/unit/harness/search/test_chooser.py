"""The choice of the next candidate, and the process behind it."""

import math

import numpy as np
import pytest

from harness.search import Axis, Cost, Space
from harness.search.chooser import Told, choose, expected_improvement, scalars, survival, telling
from harness.search.space import Places
from harness.search.surrogate import Surrogate, baseline_positions, position, positions

SPACE = Space(
    axes=(
        Axis(flag="max-num-batched-tokens", steps=(1, 2, 4, 8, 16), cost=Cost.COMPILE, effect=0.2),
        Axis(flag="max-num-seqs", steps=(1, 2, 4, 8, 16), cost=Cost.COMPILE, effect=0.2),
        Axis(flag="mode", steps=(None, "a", "b"), is_ordered=False),
    )
)


def told(*values: tuple[Places, float]) -> list[Told]:
    return [Told(places=places, values=(value,)) for places, value in values]


def chosen(
    known: list[Told],
    *,
    still_open: list[Places] | None = None,
    pending: list[Places] | None = None,
    rough: list[Places] | None = None,
    seed: int = 1,
) -> Places:
    tried = {one.places for one in known} | set(pending or [])
    return choose(
        SPACE,
        still_open or [places for places in SPACE.everywhere() if places not in tried],
        told=known,
        pending=pending or [],
        rough=rough or [],
        objectives=1,
        rng=np.random.default_rng(seed),
    )


# ---------------------------------------------------------------- the process


def test_it_goes_through_what_was_told_and_knows_less_far_away() -> None:
    points = [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (4.0, 0.0, 0.0)]
    model = Surrogate(SPACE, points, [0.0, 0.3, 0.0])
    mean, sd = model.mean_and_sd([(2.0, 0.0, 0.0), (2.0, 4.0, 0.0)])
    assert mean[0] == pytest.approx(0.3, abs=0.05)
    assert sd[0] < sd[1]


def test_effects_of_different_axes_add_up() -> None:
    """From one axis at a time it foretells what both do together."""
    points = [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    model = Surrogate(SPACE, points, [0.0, 0.2, 0.1, 0.1, 0.05])
    mean, _ = model.mean_and_sd([(2.0, 2.0, 0.0)])
    assert mean[0] == pytest.approx(0.3, abs=0.08)


def test_values_without_order_say_nothing_of_each_other() -> None:
    model = Surrogate(SPACE, [(0.0, 0.0, 1.0), (0.0, 0.0, 0.0)], [0.1, 0.0])
    _, sd = model.mean_and_sd([(0.0, 0.0, 1.0), (0.0, 0.0, 2.0)])
    assert sd[1] > sd[0] + 0.01


def test_steps_beyond_the_knee_are_short() -> None:
    axis = Axis(flag="max-num-seqs", steps=(32, 64, 128, 256, 512), knee=64)
    found = [position(axis, place) for place in range(5)]
    assert found[:2] == [0.0, 1.0]
    assert 1.0 < found[2] < found[3] < found[4] < 2.0


def test_the_baseline_lies_where_vllms_defaults_are() -> None:
    space = Space(axes=SPACE.axes, defaults={"max-num-batched-tokens": 4, "max-num-seqs": 3})
    found = baseline_positions(space)
    assert found is not None
    assert found[0] == 2.0
    assert 1.0 < found[1] < 2.0
    assert found[2] == 0.0
    assert baseline_positions(SPACE) is None


def test_a_default_off_the_ladder_lies_beyond_its_end() -> None:
    space = Space(axes=SPACE.axes, defaults={"max-num-batched-tokens": 1024, "max-num-seqs": 0.5})
    assert baseline_positions(space) == (6.0, -1.0, 0.0)


# ---------------------------------------------------------------- the choice


def test_it_goes_on_where_things_got_better() -> None:
    known = told(((0, 2, 0), -0.4), ((1, 2, 0), -0.2), ((2, 2, 0), 0.0))
    assert chosen(known)[0] > 2


def test_it_avoids_the_neighbourhood_of_a_crash() -> None:
    known = told(((2, 2, 0), 0.0))
    both = [(2, 1, 0), (2, 3, 0)]
    assert chosen(known, still_open=both, rough=[(2, 4, 0), (3, 3, 0)]) == (2, 1, 0)
    assert chosen(known, still_open=both, rough=[(2, 0, 0), (3, 1, 0)]) == (2, 3, 0)


def test_of_equals_it_takes_the_one_that_is_compiled_already() -> None:
    known = told(((2, 2, 0), 0.0), ((1, 2, 0), 0.0), ((3, 2, 0), 0.0), ((2, 1, 0), 0.0), ((2, 3, 0), 0.0))
    assert SPACE.compile_key(chosen(known)) in {SPACE.compile_key(one.places) for one in known}


def test_workers_look_at_different_places() -> None:
    known = told(((2, 2, 0), 0.0), ((1, 2, 0), -0.1))
    pending: list[Places] = []
    for _ in range(4):
        pending.append(chosen(known, pending=pending))
    assert len(set(pending)) == 4


def test_the_same_question_has_the_same_answer() -> None:
    known = told(((2, 2, 0), 0.0), ((1, 2, 0), -0.1))
    assert len({chosen(known, seed=7) for _ in range(3)}) == 1


def test_with_nothing_told_any_may_come() -> None:
    assert chosen([], seed=1) in set(SPACE.everywhere())


# ---------------------------------------------------------------- the parts


def test_the_improvement_to_expect_is_that_of_a_normal_distribution() -> None:
    found = expected_improvement(np.array([0.0, 1.0, -3.0]), np.array([1.0, 1e-9, 1.0]))
    assert found == pytest.approx([1 / math.sqrt(2 * math.pi), 1.0, 0.000382], rel=1e-2)


def test_how_bad_a_bad_value_is_counts_little() -> None:
    found = telling(np.array([0.0, -0.1, -0.25, -2.0, -4.0]))
    assert found[:3] == pytest.approx([0.0, -0.1, -0.25])
    assert -1.0 < found[4] < found[3] < -0.25


def test_several_objectives_are_weighed_anew_each_time() -> None:
    values = [(0.0, -1.0), (-1.0, 0.0), (-2.0, -2.0)]
    best = {int(np.argmax(scalars(values, objectives=2, rng=np.random.default_rng(seed)))) for seed in range(20)}
    assert best == {0, 1}


def test_survival_is_certain_where_nothing_failed_and_lower_near_a_failure() -> None:
    asked = [(2, 2, 0), (4, 4, 0)]
    assert survival(SPACE, asked, good=[], rough=[]) == pytest.approx([1.0, 1.0])
    near, far = survival(SPACE, asked, good=[], rough=[(2, 2, 1)])
    assert near < 0.6 < far
    assert survival(SPACE, asked, good=[(2, 2, 0)], rough=[(2, 2, 1)])[0] > near


def test_positions_follow_the_places() -> None:
    assert positions(SPACE, (1, 2, 0)) == (1.0, 2.0, 0.0)
