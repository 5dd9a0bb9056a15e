"""When a load is steady: made-up requests, no clock."""

import random

import pytest

from scenarios.steady import Lap, Laps, is_alike, is_steady


def fed(requests, *, users, began_s=0.0):
    """Laps after requests of (end_s, tokens, wait_s), with the number of laps at which they became steady."""
    laps, steady_at = Laps(users, began_s=began_s), None
    for end_s, tokens, wait_s in requests:
        laps.note(sent_s=max(began_s, end_s - 1), end_s=end_s, tokens=tokens, wait_s=wait_s)
        if laps.is_steady and steady_at is None:
            steady_at = len(laps.laps)
    return laps, steady_at


def rounds(*rates_tok_s, users=10, tokens=100, wait_s=0.05):
    """Requests in which all users end one answer per round, at the rate of that round."""
    at_s = 0.0
    for rate_tok_s in rates_tok_s:
        step_s = tokens / rate_tok_s
        for _ in range(users):
            at_s += step_s
            yield at_s, tokens, wait_s


# ---------------------------------------------------------------- two laps


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (Lap(100, 0.5), Lap(100, 0.5), True),
        (Lap(100, 0.5), Lap(91, 0.5), True),
        (Lap(100, 0.5), Lap(89, 0.5), False),
        (Lap(100, 0.5), Lap(100, 0.38), True),  # 24 % of the larger one
        (Lap(100, 0.5), Lap(100, 0.37), False),
        (Lap(100, 0.010), Lap(100, 0.029), True),  # far apart as a ratio, but 19 ms
        (Lap(100, 0.010), Lap(100, 0.031), False),
        (Lap(0, 0.0), Lap(0, 0.0), False),
        (Lap(100, 0.5), Lap(0, 0.0), False),
    ],
)
def test_laps_are_alike_in_rate_and_in_wait(one, other, alike):
    assert is_alike(one, other) is is_alike(other, one) is alike


def test_only_the_last_two_laps_count():
    even, fast = Lap(100, 0.1), Lap(200, 0.1)
    assert not is_steady([])
    assert not is_steady([even])
    assert is_steady([fast, even, even])
    assert not is_steady([even, even, fast])


# ---------------------------------------------------------------- laps


def test_a_load_that_is_alike_from_the_start_is_steady_after_two_laps():
    assert fed(rounds(500, 500, 500), users=10)[1] == 2


def test_one_slow_first_lap_as_from_compilation_costs_one_lap_more():
    laps, steady_at = fed(rounds(50, 500, 500), users=10)
    assert steady_at == 3
    assert laps.laps[0].tok_s == pytest.approx(50)


def test_a_server_that_still_speeds_up_is_not_steady():
    assert fed(rounds(100, 150, 225, 340, 510), users=10)[1] is None
    assert fed(rounds(510, 340, 225, 150, 100), users=10)[1] is None


def test_equal_rates_with_growing_waits_are_a_queue_that_still_fills():
    growing = [(at_s, tokens, at_s) for at_s, tokens, _ in rounds(100, 100, 100)]
    assert fed(growing, users=10)[1] is None


def test_a_lap_has_as_many_requests_as_there_are_users():
    laps, _ = fed(rounds(50, 50, users=10), users=10)
    assert len(laps.laps) == 2
    assert len(fed(rounds(50, 50, users=10), users=20)[0].laps) == 1


def test_a_lap_of_few_users_lasts_a_second_all_the_same():
    """One user's answers of 20 ms scatter too much one by one."""
    laps, steady_at = fed([(0.02 * n, 8, 0.004) for n in range(1, 171)], users=1)
    assert len(laps.laps) == 3  # 3.4 s, of which the last piece is no whole lap
    assert steady_at == 2


def test_requests_of_the_ramp_are_part_of_no_lap():
    laps = Laps(1, began_s=10.0)
    laps.note(sent_s=9.0, end_s=12.0, tokens=5, wait_s=0.1)
    assert laps.laps == []
    laps.note(sent_s=10.5, end_s=12.5, tokens=5, wait_s=0.1)
    assert laps.laps == [Lap(2.0, 0.1)]


def test_a_request_that_reaches_from_one_lap_into_the_next_counts_where_it_ends():
    laps = Laps(1, began_s=0.0)
    laps.note(sent_s=0.0, end_s=2.0, tokens=10, wait_s=0.1)
    laps.note(sent_s=1.0, end_s=4.0, tokens=10, wait_s=0.1)
    assert laps.laps == [Lap(5.0, 0.1), Lap(5.0, 0.1)]


def test_a_server_that_gives_no_tokens_is_never_steady_and_soon_hopeless():
    laps, steady_at = fed([(0.3 * n, 0, None) for n in range(1, 20)], users=2)
    assert steady_at is None
    assert laps.is_hopeless


def test_one_failed_lap_is_not_the_end_of_hope():
    laps, _ = fed([(2.0, 0, None), (4.0, 10, 0.1)], users=1)
    assert not laps.is_hopeless
    assert not fed([(2.0, 0, None)], users=1)[0].is_hopeless


def test_some_failures_do_not_keep_a_load_from_being_steady():
    requests = [(1.5 * n, 0 if n % 3 == 0 else 100, None if n % 3 == 0 else 0.05) for n in range(1, 13)]
    assert fed(requests, users=3)[1] == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_server_of_even_pace_is_steady_however_its_users_fell_into_step(seed):
    """Rounds of 0.68 s: a lap of a second or more must hold whole rounds, never one and a half."""
    spread = random.Random(seed)
    starts_s = [0.02 * spread.randint(1, 25) for _ in range(20)]
    laps = Laps(20, began_s=0.0)
    for end_s in sorted(start_s + 0.68 * turn for start_s in starts_s for turn in range(1, 10)):
        laps.note(sent_s=end_s - 0.68, end_s=end_s, tokens=25, wait_s=0.2)
        if laps.is_steady:
            break
    assert laps.is_steady
