"""The stretch in which the load was held, and whether the server was steady in it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import ClientHealth, ClosedLoop, Level, Load, OpenLoop, Replay, RequestRecord
from harness.stats import frame
from harness.stats.window import Held, Window, steady_window, transient_laps

quick = settings(max_examples=40, derandomize=True, deadline=None)

Span = tuple[int, float, float]
"""User, sent, end."""

CLOSED = ClosedLoop(users=(1,), requests_per_user=1, min_s=1.0, max_s=60.0)


def record(
    user: int, sent: float, end: float, *, tokens: int = 10, due: float | None = None, warm: bool = False
) -> RequestRecord:
    """Not streamed: its tokens count as generated evenly from sending to end."""
    return RequestRecord(
        user=user, index=0, is_warmup=warm, due_s=due, sent_s=sent, end_s=end, prompt_tokens=5, output_tokens=tokens
    )


def health(started_s: float, stopped_s: float) -> ClientHealth:
    return ClientHealth(
        cpu_ratio=0.1, lag_p50_s=0.0, lag_p99_s=0.0, started_s=started_s, stopped_s=stopped_s, ended_s=stopped_s + 1
    )


def held_in(
    records: list[RequestRecord],
    *,
    load: Load = CLOSED,
    users: int = 0,
    between: tuple[float, float] | None = None,
) -> Held:
    return steady_window(
        frame.requests(records),
        frame.token_times(records),
        load=load,
        level=Level(users=users),
        health=None if between is None else health(*between),
    )


def window(spans: list[Span], *, users: int, between: tuple[float, float] | None = None) -> Window | None:
    return held_in([record(*span) for span in spans], users=users, between=between).window


# ---------------------------------------------------------------- closed loop: users at work


def test_one_user_is_at_work_from_its_first_sending_to_its_last_end() -> None:
    assert window([(0, 1.0, 2.0), (0, 2.1, 3.0)], users=1) == Window(start_s=1.0, end_s=3.0)


def test_the_window_begins_and_ends_with_the_measuring_though_the_load_goes_on() -> None:
    spans = [(user, at + 0.01 * user, at + 1.0) for user in range(5) for at in range(8)]
    assert window(spans, users=5, between=(2.5, 6.25)) == Window(start_s=2.5, end_s=6.25)


def test_the_moment_between_two_requests_of_a_user_is_no_gap() -> None:
    spans = [(user, at + 0.01 * user, at + 0.9) for user in range(5) for at in (0.0, 1.0, 2.0)]
    assert window(spans, users=5) == Window(start_s=0.04, end_s=2.9)


def test_users_are_at_work_in_the_warm_up_too() -> None:
    records = [record(user, 0.0, 3.0, warm=True) for user in range(4)] + [record(0, 3.0, 6.0)]
    assert held_in(records, users=4, between=(1.0, 5.0)).window == Window(start_s=1.0, end_s=3.0)


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


def test_the_longest_of_several_stretches_is_taken() -> None:
    spans = [(0, 0.0, 9.0), (1, 0.0, 1.0), (2, 4.0, 7.0), (3, 8.0, 9.0)]
    assert window(spans, users=2) == Window(start_s=4.0, end_s=7.0)


def test_a_user_that_comes_as_another_goes_leaves_no_gap() -> None:
    assert window([(0, 0.0, 2.0), (1, 2.0, 4.0)], users=1) == Window(start_s=0.0, end_s=4.0)


@pytest.mark.parametrize(
    ("spans", "users", "reason"),
    [
        ([], 1, "no request was sent after measuring began"),
        ([(0, 0.0, 1.0)], 2, "at most 1 users were at work at a time, 2 are needed"),
        ([(0, 0.0, 1.0), (1, 2.0, 3.0)], 2, "at most 1 users"),
        ([(0, 1.0, 1.0)], 1, "it ended as measuring began"),
        ([(0, 0.0, 1.0), (1, 1.0, 2.0)], 2, "at most 2 users"),  # together for a moment only
    ],
)
def test_a_level_that_was_never_held_has_no_window_but_a_reason(spans: list[Span], users: int, reason: str) -> None:
    found = held_in([record(*span) for span in spans], users=users)
    assert found.window is None
    assert found.reasons[0].startswith("the load was never held: ")
    assert reason in found.reasons[0]


def test_a_client_that_stopped_before_it_began_to_measure_held_nothing() -> None:
    assert window([(0, 0.0, 9.0)], users=1, between=(5.0, 4.0)) is None


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
@given(spans_of_a_run, st.integers(1, 6), st.floats(0.0, 30.0), st.floats(0.0, 30.0))
def test_the_window_lies_inside_the_measuring(spans: list[Span], users: int, start_s: float, more_s: float) -> None:
    held = window(spans, users=users, between=(start_s, start_s + more_s))
    if held is not None:
        assert start_s <= held.start_s < held.end_s <= start_s + more_s


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
@given(spans_of_a_run.flatmap(lambda spans: st.tuples(st.just(spans), st.permutations(spans))), st.integers(1, 6))
def test_the_order_of_records_does_not_move_the_window(both: tuple[list[Span], list[Span]], users: int) -> None:
    assert window(both[0], users=users) == window(both[1], users=users)


# ---------------------------------------------------------------- closed loop: transients


def at_speed(speed_at: Callable[[float], float], *, length_s: float = 40.0, users: int = 4) -> list[RequestRecord]:
    """Users that ask back to back and wait 1 s for each answer, of as many tokens as the server was fast meanwhile."""
    return [
        record(user, at, at + 1.0, tokens=round(250 * speed_at(at)))
        for user in range(users)
        for at in np.arange(0.25 * user, length_s - 1.0, 1.0)
    ]


def found_in(speed_at: Callable[[float], float], *, length_s: float = 40.0) -> Held:
    return held_in(at_speed(speed_at, length_s=length_s), users=4, between=(1.0, length_s - 2.0))


def test_a_server_of_even_speed_loses_nothing() -> None:
    found = found_in(lambda at: 1.0)
    assert (found.window, found.is_steady) == (Window(start_s=1.0, end_s=38.0), True)
    assert (found.reasons, found.flags) == ((), ())


def test_a_slow_start_is_cut_and_said() -> None:
    found = found_in(lambda at: 0.5 if at < 6.0 else 1.0)
    assert found.window is not None
    assert found.window.start_s == pytest.approx(6.5, abs=1.0)
    assert found.window.end_s == 38.0
    assert found.is_steady
    assert "are left out" in found.flags[0]
    assert "tok/s there, 1000" in found.flags[0]


def test_a_fast_start_is_cut_too() -> None:
    found = found_in(lambda at: 2.0 if at < 6.0 else 1.0)
    assert found.window is not None
    assert 5.0 < found.window.start_s < 9.0


def test_a_start_that_differs_by_less_than_a_twentieth_stays() -> None:
    found = found_in(lambda at: 0.96 if at < 6.0 else 1.0)
    assert found.window == Window(start_s=1.0, end_s=38.0)


def test_a_server_that_changes_for_as_long_as_one_looks_never_got_steady() -> None:
    found = found_in(lambda at: 1.0 + at / 40)
    assert found.is_steady is False
    assert found.window == Window(start_s=1.0, end_s=38.0)  # to be looked at
    (reason,) = found.reasons
    assert reason.startswith("the server never got steady: ")
    assert "in the first half of the 37.0 s" in reason


def test_a_change_in_the_middle_is_no_transient() -> None:
    assert found_in(lambda at: 1.0 if at < 24.0 else 1.3).is_steady is False


def test_a_window_of_few_requests_is_too_short_to_tell() -> None:
    found = found_in(lambda at: 0.2 if at < 3.0 else 1.0, length_s=11.0)
    assert (found.window, found.is_steady) == (Window(start_s=1.0, end_s=9.0), None)


def test_answers_whose_tokens_were_not_counted_tell_nothing_of_speed() -> None:
    found = held_in([record(0, at, at + 1.0, tokens=0) for at in range(20)], users=1)
    assert (found.window, found.reasons) == (Window(start_s=0.0, end_s=20.0), ())


def mser(values: list[float], *, most: int) -> int:
    """The cut as White's paper defines it, by its sums."""

    def squared_error(cut: int) -> float:
        kept = values[cut:]
        centre = sum(kept) / len(kept)
        return sum((x - centre) ** 2 for x in kept) / len(kept) ** 2

    return min(range(most + 1), key=squared_error)


@quick
@given(st.lists(st.integers(0, 1000), min_size=10, max_size=40), st.floats(0.0, 5.0))
def test_the_cut_is_mser_over_the_first_half(values: list[int], trend: float) -> None:
    series = [x / 100 + trend * place for place, x in enumerate(values)]
    most = min(len(series) // 2, len(series) - 5)
    found, expected = transient_laps(np.array(series)), mser(series, most=most)
    errors = [np.var(series[cut:]) / (len(series) - cut) for cut in (found, expected)]
    assert found <= most
    assert errors[0] == pytest.approx(errors[1], abs=1e-9)


def test_noise_is_seldom_taken_for_a_transient() -> None:
    rng = np.random.default_rng(5)
    verdicts = [found_in(lambda at: float(rng.normal(1.0, 0.1))) for _ in range(100)]
    assert sum(bool(found.flags) for found in verdicts) <= 10
    assert sum(found.is_steady is False for found in verdicts) <= 3


# ---------------------------------------------------------------- open loop


def open_loop(arrivals: str = "poisson") -> OpenLoop:
    return OpenLoop(rates_per_s=(1.0,), arrivals=arrivals, duration_s=30.0)  # type: ignore[arg-type]  # a name of three


def served(due_s: np.ndarray, *, servers: int, takes_s: float) -> list[RequestRecord]:
    """First come, first served; all are sent when they are due."""
    free = [0.0] * servers
    records = []
    for due in due_s:
        begin = max(min(free), float(due))
        free[free.index(min(free))] = begin + takes_s
        records.append(record(0, float(due), begin + takes_s, due=float(due), warm=float(due) < 10.0))
    return records


def offered(share: float, *, seed: int = 1, arrivals: str = "poisson", load: Load | None = None) -> Held:
    """A server that ends 8 requests a second, offered `share` of that for 40 s; measured from 10 s on."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / (8 * share), 2000) if arrivals != "constant" else np.full(2000, 1 / (8 * share))
    due = np.cumsum(gaps)
    records = served(due[due < 40.0], servers=8, takes_s=1.0)
    return held_in(records, load=load or open_loop(arrivals), between=(10.0, 40.0))


def test_the_window_of_an_open_loop_ends_as_the_last_request_is_due() -> None:
    assert offered(0.5).window == Window(start_s=10.0, end_s=40.0)


def test_without_a_client_to_ask_the_requests_tell_when_they_were_due() -> None:
    records = [record(0, at + 0.5, at + 9.0, due=at, warm=at < 2.0) for at in (0.0, 1.0, 2.0, 3.0, 7.0)]
    assert held_in(records, load=open_loop()).window == Window(start_s=2.0, end_s=7.0)


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_a_server_with_room_is_not_over_its_capacity(arrivals: str) -> None:
    found = [offered(share, seed=seed, arrivals=arrivals) for share in (0.3, 0.7) for seed in range(30)]
    assert sum(one.is_over_capacity for one in found) <= 1


@pytest.mark.parametrize(("arrivals", "share"), [("poisson", 1.5), ("constant", 1.2)])
def test_a_server_that_falls_behind_is_over_its_capacity_and_the_reason_has_the_figures(
    arrivals: str, share: float
) -> None:
    found = offered(share, arrivals=arrivals)
    assert found.is_over_capacity
    assert found.window == Window(start_s=10.0, end_s=40.0)
    (reason,) = found.reasons
    assert "8 ended per second: over the server's capacity, so latencies depend on how long one measures" in reason
    assert float(reason.split()[1]) == pytest.approx(8 * share, rel=0.1)


def test_a_replay_is_tested_as_well_but_not_a_ramp_whose_requests_grow_on_purpose() -> None:
    assert offered(1.5, load=Replay(trace="t.jsonl")).is_over_capacity
    assert not offered(1.5, load=open_loop("ramp")).is_over_capacity
