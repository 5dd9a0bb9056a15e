"""The stretch in which the load was held."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import RequestRecord
from harness.stats import frame
from harness.stats.window import Window, steady_window

quick = settings(max_examples=40, derandomize=True, deadline=None)

Span = tuple[int, float, float]
"""User, sent, end."""


def window(spans: list[Span], *, users: int, failed: frozenset[int] = frozenset()) -> Window | None:
    records = [
        RequestRecord(
            user=user, index=0, is_warmup=False, sent_s=sent, end_s=end, error="refused" if place in failed else None
        )
        for place, (user, sent, end) in enumerate(spans)
    ]
    return steady_window(frame.requests(records), users=users)


def test_one_user_is_at_work_from_its_first_sending_to_its_last_end() -> None:
    assert window([(0, 1.0, 2.0), (0, 2.1, 3.0)], users=1) == Window(start_s=1.0, end_s=3.0)


def test_the_moment_between_two_requests_of_a_user_is_no_gap() -> None:
    spans = [(user, at + 0.01 * user, at + 0.9) for user in range(5) for at in (0.0, 1.0, 2.0)]
    assert window(spans, users=5) == Window(start_s=0.04, end_s=2.9)


def test_a_ramp_is_cut_at_the_start_and_the_drain_at_the_end() -> None:
    spans = [(user, float(user), 20.0 + user) for user in range(10)]
    assert window(spans, users=10) == Window(start_s=9.0, end_s=20.0)


def test_of_many_users_one_in_twenty_may_be_missing() -> None:
    spans = [(user, 0.0, 10.0) for user in range(19)] + [(19, 4.0, 6.0)]
    assert window(spans, users=20) == Window(start_s=0.0, end_s=10.0)
    assert window(spans, users=21) == Window(start_s=4.0, end_s=6.0)  # 95% of 21 are 20


def test_a_straggler_does_not_stretch_the_window() -> None:
    spans = [(user, 0.0, 5.0) for user in range(9)] + [(9, 0.0, 60.0)]
    assert window(spans, users=10) == Window(start_s=0.0, end_s=5.0)


def test_a_failed_request_is_load_as_well() -> None:
    spans = [(0, 0.0, 1.0), (1, 0.0, 0.5), (1, 0.6, 3.0), (0, 1.0, 3.0)]
    assert window(spans, users=2, failed=frozenset({1, 3})) == Window(start_s=0.0, end_s=3.0)


def test_the_longest_of_several_stretches_is_taken() -> None:
    spans = [(0, 0.0, 9.0), (1, 0.0, 1.0), (2, 4.0, 7.0), (3, 8.0, 9.0)]
    assert window(spans, users=2) == Window(start_s=4.0, end_s=7.0)


def test_a_user_that_comes_as_another_goes_leaves_no_gap() -> None:
    assert window([(0, 0.0, 2.0), (1, 2.0, 4.0)], users=1) == Window(start_s=0.0, end_s=4.0)


@pytest.mark.parametrize(
    ("spans", "users"),
    [
        ([], 1),
        ([(0, 0.0, 1.0)], 2),  # a user is missing
        ([(0, 0.0, 1.0), (1, 2.0, 3.0)], 2),  # never at the same time
        ([(0, 1.0, 1.0)], 1),  # of no length
        ([(0, 0.0, 1.0), (1, 1.0, 2.0)], 2),  # together for a moment only
    ],
)
def test_a_level_that_was_never_held_has_no_window(spans: list[Span], users: int) -> None:
    assert window(spans, users=users) is None


spans_of_a_run = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0.0, 50.0), st.floats(0.0, 20.0)).map(lambda s: (s[0], s[1], s[1] + s[2])),
    min_size=1,
    max_size=25,
)


@quick
@given(spans_of_a_run, st.integers(1, 6))
def test_the_window_lies_inside_the_run(spans: list[Span], users: int) -> None:
    held = window(spans, users=users)
    if held is not None:
        assert min(sent for _, sent, _ in spans) <= held.start_s < held.end_s <= max(end for _, _, end in spans)


@quick
@given(spans_of_a_run, st.integers(1, 6))
def test_throughout_the_window_enough_users_are_at_work(spans: list[Span], users: int) -> None:
    held = window(spans, users=users)
    if held is None:
        return
    lives: dict[int, tuple[float, float]] = {}
    for user, sent, end in spans:
        first, last = lives.get(user, (sent, end))
        lives[user] = min(first, sent), max(last, end)
    for moment in (held.start_s, (held.start_s + held.end_s) / 2, held.end_s):
        assert sum(first <= moment <= last for first, last in lives.values()) >= 0.95 * users


@quick
@given(spans_of_a_run, st.integers(1, 5))
def test_more_users_are_not_held_longer(spans: list[Span], users: int) -> None:
    fewer, more = window(spans, users=users), window(spans, users=users + 1)
    if more is not None:
        assert fewer is not None
        assert more.length_s <= fewer.length_s


@quick
@given(spans_of_a_run.flatmap(lambda spans: st.tuples(st.just(spans), st.permutations(spans))), st.integers(1, 6))
def test_the_order_of_records_does_not_move_the_window(both: tuple[list[Span], list[Span]], users: int) -> None:
    assert window(both[0], users=users) == window(both[1], users=users)
