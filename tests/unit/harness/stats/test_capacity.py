"""The search for the capacity, on servers whose capacity is known."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Capacity, CapacityStep
from harness.stats.capacity import TRIES, Unit, capacity, next_level

quick = settings(max_examples=200, derandomize=True, deadline=None)

Server = Callable[[float], bool | None]


def search(
    server: Server,
    *,
    unit: Unit = "users",
    smallest: float = 1,
    largest: float = 1000,
    resolution_ratio: float = 0.1,
) -> Capacity:
    """Asks the server at each level that the search wants; fails where that never ends."""
    steps: list[CapacityStep] = []
    for _ in range(100):
        level = next_level(steps, unit=unit, smallest=smallest, largest=largest, resolution_ratio=resolution_ratio)
        if level is None:
            return capacity(steps, unit=unit, slos=(), largest=largest, resolution_ratio=resolution_ratio)
        steps.append(CapacityStep(level=level, requests=100, kept=None, is_inside=server(level), reason="why"))
    raise AssertionError(f"no end after {[step.level for step in steps]}")


def up_to(limit: float) -> Server:
    return lambda level: level <= limit


def levels(found: Capacity) -> list[float]:
    return [step.level for step in found.steps]


def test_an_endless_search_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no end after"):
        search(lambda level: True, unit="requests/s", smallest=1.0, largest=math.inf)


def test_levels_double_until_one_is_outside_and_are_then_halved() -> None:
    found = search(up_to(13), resolution_ratio=0.01)
    assert levels(found) == [1, 2, 4, 8, 16, 12, 14, 13]
    assert (found.level, found.above, found.is_resolved, found.reason) == (13, 14, True, "")


def test_the_search_ends_as_soon_as_the_ends_are_near_enough() -> None:
    found = search(up_to(100), resolution_ratio=0.25)
    assert levels(found) == [1, 2, 4, 8, 16, 32, 64, 128, 96, 112]
    assert (found.level, found.above, found.is_resolved) == (96, 112, True)


@quick
@given(st.integers(1, 999), st.floats(0.0, 0.5), st.integers(1, 4))
def test_the_users_found_are_the_most_that_are_inside(limit: int, resolution_ratio: float, smallest: int) -> None:
    found = search(up_to(limit), smallest=smallest, resolution_ratio=resolution_ratio)
    if limit < smallest:
        assert (found.level, found.above) == (None, smallest)
        return
    assert found.level is not None
    assert found.above is not None
    assert found.level <= limit < found.above
    assert all(level == int(level) for level in levels(found))
    assert found.above - found.level <= max(1, resolution_ratio * found.level)
    assert found.is_resolved
    assert len(found.steps) <= 2 * math.log2(1000) + 2
    assert len(set(levels(found))) == len(found.steps)


@quick
@given(st.floats(0.5, 90.0), st.floats(0.02, 0.5))
def test_the_rate_found_is_the_largest_inside_within_the_resolution(limit: float, resolution_ratio: float) -> None:
    found = search(up_to(limit), unit="requests/s", smallest=0.5, largest=100.0, resolution_ratio=resolution_ratio)
    assert found.level is not None
    assert found.level <= limit
    if found.above is None:
        assert found.level == 100.0
        return
    assert limit < found.above <= found.level * (1 + resolution_ratio) * (1 + 1e-9)
    assert found.is_resolved


def test_a_rate_is_searched_no_finer_than_three_digits() -> None:
    found = search(up_to(7.123), unit="requests/s", smallest=1.0, largest=100.0, resolution_ratio=1e-9)
    assert (found.level, found.above, found.is_resolved) == (7.12, 7.13, False)
    assert "before its two ends were near enough" in found.reason


def test_a_server_that_nothing_is_too_much_for_has_no_upper_end() -> None:
    found = search(lambda level: True, largest=50)
    assert levels(found) == [1, 2, 4, 8, 16, 32, 50]
    assert (found.level, found.above, found.is_resolved) == (50, None, False)
    assert found.reason == "50 users are the most that was asked for, and still inside: the capacity may be larger"


def test_a_server_that_anything_is_too_much_for_has_no_capacity() -> None:
    found = search(lambda level: False, unit="requests/s", smallest=0.5)
    assert levels(found) == [0.5]
    assert (found.level, found.above, found.is_resolved) == (None, 0.5, False)
    assert found.reason == "not even 0.5 requests/s were shown to be inside: why"


def test_a_level_that_does_not_decide_is_tried_again() -> None:
    answers = iter([True, True, None, None, True, False, None, True])
    found = search(lambda level: next(answers), resolution_ratio=0.5)
    assert levels(found) == [1, 2, 4, 4, 4, 8, 6, 6]
    assert (found.level, found.above, found.is_resolved) == (6, 8, True)


def test_a_level_that_never_decides_is_taken_for_the_upper_end_but_not_shown_to_be_outside() -> None:
    found = search(lambda level: None if 9 <= level <= 16 else level < 9)
    assert levels(found) == [1, 2, 4, 8, *[16] * TRIES, *[12] * TRIES, *[10] * TRIES, *[9] * TRIES]
    assert (found.level, found.above, found.is_resolved) == (8, None, False)
    assert found.reason == "9 users did not decide: why"


def test_a_smallest_level_that_never_decides_ends_the_search() -> None:
    found = search(lambda level: None)
    assert levels(found) == [1] * TRIES
    assert (found.level, found.above) == (None, None)
    assert found.reason == "not even 1 users were shown to be inside: why"


def test_a_level_that_is_inside_above_one_that_is_not_counts_for_nothing() -> None:
    steps = [
        CapacityStep(level=level, requests=9, kept=None, is_inside=is_inside)
        for level, is_inside in ((1.0, True), (4.0, False), (8.0, True))
    ]
    found = capacity(steps, unit="users", slos=(), largest=99, resolution_ratio=0.1)
    assert (found.level, found.above) == (1.0, 4.0)


def test_without_a_step_there_is_nothing_to_say() -> None:
    found = capacity([], unit="users", slos=(), largest=9, resolution_ratio=0.1)
    assert (found.level, found.above, found.is_resolved, found.reason) == (None, None, False, "no level was measured")


@quick
@given(st.integers(0, 10**6))
def test_the_search_ends_whatever_the_server_says(seed: int) -> None:
    chance = random.Random(seed)
    for unit in ("users", "requests/s"):
        found = search(lambda level: chance.choice([True, False, None]), unit=unit)
        if found.level is not None and found.above is not None:
            assert found.level < found.above
