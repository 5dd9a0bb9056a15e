"""One cell's records into figures, on records whose figures are known from how they were made."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import (
    CellState,
    ClientHealth,
    ClosedLoop,
    EngineMetric,
    Estimate,
    Level,
    Load,
    Metric,
    OpenLoop,
    RequestRecord,
    TelemetrySample,
)
from harness.stats.summary import Figures, above_ceiling, figures

quick = settings(max_examples=30, derandomize=True, deadline=None)

CLOSED = ClosedLoop(users=(1,), requests_per_user=1, min_s=1.0, max_s=60.0)
OPEN = OpenLoop(rates_per_s=(10.0,), duration_s=10.0)
HEALTHY = ClientHealth(cpu_ratio=0.2, lag_p50_s=0.0001, lag_p99_s=0.001, started_s=0.0, stopped_s=99.0, ended_s=99.0)
OPENED = msgspec.structs.replace(HEALTHY, stopped_s=10.0)


def answer(
    *,
    user: int = 0,
    sent_s: float = 0.0,
    ttft_s: float = 0.2,
    itl_s: float = 0.02,
    tokens: int = 11,
    is_streamed: bool = True,
    error: str | None = None,
    is_warmup: bool = False,
) -> RequestRecord:
    """As a server of exactly this timing would have given it."""
    chunks_s = tuple(sent_s + ttft_s + itl_s * k for k in range(tokens))
    return RequestRecord(
        user=user,
        index=0,
        is_warmup=is_warmup,
        sent_s=sent_s,
        end_s=chunks_s[-1],
        chunks_s=chunks_s if is_streamed else (),
        prompt_tokens=40,
        output_tokens=tokens,
        error=error,
    )


def closed_loop(*, users: int = 5, each: int = 20, is_streamed: bool = True) -> list[RequestRecord]:
    """Every user asks `each` times back to back; an answer takes 0.4 s and has 11 tokens."""
    return [
        answer(user=user, sent_s=0.4 * place, is_streamed=is_streamed) for user in range(users) for place in range(each)
    ]


def of(
    records: list[RequestRecord],
    *,
    users: int = 5,
    health: ClientHealth | None = HEALTHY,
    load: Load = CLOSED,
    trouble: str = "",
    samples: tuple[TelemetrySample, ...] = (),
) -> Figures:
    return figures(records, load=load, level=Level(users=users), health=health, trouble=trouble, samples=samples)


def open_loop(*, per_s: float = 10.0, length_s: float = 10.0, late_s: float = 0.0) -> list[RequestRecord]:
    """Requests due at even times, each sent late by as much; an answer takes 0.4 s from its sending."""
    return [
        msgspec.structs.replace(answer(sent_s=due_s + late_s), due_s=due_s)
        for due_s in (place / per_s for place in range(int(per_s * length_s)))
    ]


def p50(metric: Metric) -> Estimate:
    estimate = metric["p50"]
    assert estimate is not None
    return estimate


def throughput(found: Figures) -> Estimate:
    assert found.output_tok_s is not None
    return found.output_tok_s


def assert_same_figures(one: Figures, other: Figures) -> None:
    """Equal but for the rounding of sums that were added in another order."""
    left, right = msgspec.to_builtins(one), msgspec.to_builtins(other)
    assert left.keys() == right.keys()
    for name in left:
        assert [rounded(leaf) for leaf in flat(left[name])] == [rounded(leaf) for leaf in flat(right[name])], name


def rounded(leaf: object) -> object:
    """Eight digits of a float; whatever else it is, as it is."""
    return float(f"{leaf:.8g}") if isinstance(leaf, float) else leaf


def flat(found: object) -> list[object]:
    """All leaves, in order."""
    if isinstance(found, dict):
        return [leaf for key in found for leaf in [key, *flat(found[key])]]
    if isinstance(found, (list, tuple)):
        return [leaf for item in found for leaf in flat(item)]
    return [found]


def test_the_comparison_of_figures_can_fail() -> None:
    found = of(closed_loop())
    assert_same_figures(found, found)
    with pytest.raises(AssertionError, match="ttft_s"):
        assert_same_figures(found, msgspec.structs.replace(found, ttft_s={"p50": None}))
    with pytest.raises(AssertionError, match="failures"):
        assert_same_figures(found, msgspec.structs.replace(found, failures=1))


def test_missing_estimates_are_noticed() -> None:
    with pytest.raises(AssertionError):
        p50({"p50": None})
    with pytest.raises(AssertionError):
        throughput(of([]))


# ---------------------------------------------------------------- figures


def test_the_figures_are_those_of_the_server() -> None:
    found = of(closed_loop())
    assert (found.state, found.reasons) == (CellState.MEASURED, ())
    assert (found.requests, found.failures) == (100, 0)
    assert found.window_s == pytest.approx(8.0)
    assert p50(found.ttft_s).value == pytest.approx(0.2)
    assert p50(found.itl_s).value == pytest.approx(0.02)
    assert p50(found.tpot_s).value == pytest.approx(0.02)
    assert p50(found.e2e_s).value == pytest.approx(0.4)
    assert throughput(found).value == pytest.approx(100 * 11 / 8.0)
    assert (found.prompt_tokens_mean, found.output_tokens_mean) == (40.0, 11.0)


def test_estimates_count_what_they_rest_on() -> None:
    found = of(closed_loop())
    assert (p50(found.e2e_s).n, p50(found.itl_s).n) == (100, 100)  # of gaps, the answers are counted
    assert (p50(found.e2e_s).unit, throughput(found).unit) == ("s", "tok/s")


def test_an_answer_in_one_piece_has_no_time_to_the_first_token() -> None:
    found = of(closed_loop(is_streamed=False))
    assert (found.ttft_s, found.itl_s, found.tpot_s) == ({}, {}, {})
    assert p50(found.e2e_s).value == pytest.approx(0.4)
    assert throughput(found).value == pytest.approx(100 * 11 / 8.0)


def test_one_user_sends_and_waits_and_nothing_is_cut() -> None:
    found = of(closed_loop(users=1), users=1)
    assert found.window_s == pytest.approx(20 * 0.4)
    assert throughput(found).value == pytest.approx(11 / 0.4)


def test_too_few_requests_have_no_p95_and_fewer_no_median() -> None:
    assert of(closed_loop(users=1, each=71), users=1).e2e_s["p95"] is None
    assert of(closed_loop(users=1, each=72), users=1).e2e_s["p95"] is not None
    assert of(closed_loop(users=1, each=5), users=1).e2e_s["p50"] is None
    assert of(closed_loop(users=1, each=6), users=1).e2e_s["p50"] is not None


def test_the_warm_up_is_in_no_latency_and_no_count() -> None:
    slow = [answer(user=user, sent_s=-30.0, ttft_s=25.0, is_warmup=True) for user in range(5)]
    assert_same_figures(of([*slow, *closed_loop()]), of(closed_loop()))


def test_the_warm_ups_last_answers_are_work_that_the_server_did_in_the_window() -> None:
    # Each user is in the middle of a warm-up answer as measuring begins, and sends its next one then.
    tails = [answer(user=user, sent_s=-0.3, is_warmup=True) for user in range(5)]
    steady = [msgspec.structs.replace(r, chunks_s=tuple(t + 0.1 for t in r.chunks_s), end_s=r.end_s + 0.1)
              for r in (msgspec.structs.replace(r, sent_s=r.sent_s + 0.1) for r in closed_loop())]  # fmt: skip
    found = of([*tails, *steady])
    assert found.window_s == pytest.approx(8.1)
    assert throughput(found).value == pytest.approx((100 * 11 + 5 * 6) / 8.1)  # chunks at 0.0 to 0.1 s
    assert found.requests_per_s is not None
    assert found.requests_per_s.value == pytest.approx(105 / 8.1)
    assert (found.requests, p50(found.e2e_s).n) == (100, 100)


def test_a_straggler_counts_with_its_whole_time_but_does_not_thin_the_throughput() -> None:
    # User 4 is stuck in its first answer until long after the others have gone.
    stuck = [answer(user=4, ttft_s=60.0)]
    found = of([*closed_loop(users=4), *stuck])
    assert found.window_s == pytest.approx(8.0)
    assert found.requests == 81
    assert p50(found.e2e_s).n == 81  # sent inside the window, ended long after it
    assert throughput(found).value == pytest.approx(80 * 11 / 8.0)


def test_what_is_sent_in_the_ramp_or_the_drain_is_in_no_latency() -> None:
    ramp = [answer(user=0, sent_s=-0.4 * place, ttft_s=0.01, itl_s=0.01) for place in range(1, 11)]
    drain = [answer(user=0, sent_s=8.1 + 0.4 * place, ttft_s=0.01, itl_s=0.01) for place in range(10)]
    found = of([*ramp, *closed_loop(), *drain])
    assert found.window_s == pytest.approx(8.0)
    assert p50(found.e2e_s).n == 100
    assert p50(found.e2e_s).low == pytest.approx(0.4)


@pytest.mark.parametrize(("sent_s", "counts"), [(-0.01, False), (0.0, True), (7.99, True), (8.41, False)])
def test_a_request_belongs_to_the_window_by_when_it_began(sent_s: float, counts: bool) -> None:
    steady = closed_loop()
    edge = answer(user=0, sent_s=sent_s)  # beside a window from 0 to 8 s
    if sent_s < 0:  # its tokens come on top of the others': so few that no one takes them for a transient
        edge = answer(user=0, sent_s=sent_s, ttft_s=0.4, tokens=1)
    held = [r for r in steady if r.user != 0 or abs(r.sent_s - sent_s) >= 0.4 or sent_s < 0]
    assert p50(of([*held, edge]).e2e_s).n == len(held) + counts


def test_all_statistics_are_given_that_the_number_of_requests_carries() -> None:
    found = of(closed_loop(users=20), users=20)
    assert [name for name, one in found.e2e_s.items() if one is not None] == ["p50", "p90", "p95", "p99"]
    assert [name for name, one in of(closed_loop()).e2e_s.items() if one is not None] == ["p50", "p90", "p95"]


def test_answers_per_second_and_requests_under_way_are_those_of_the_loop() -> None:
    found = of(closed_loop())
    assert found.requests_per_s is not None
    assert found.requests_per_s.value == pytest.approx(100 / 8.0)
    assert found.requests_per_s.unit == "requests/s"
    assert found.in_flight_mean == pytest.approx(5.0)


def test_an_even_server_does_not_drift_and_a_faster_second_half_shows() -> None:
    even = of(closed_loop()).drift_ratio
    assert even is not None
    assert even.low <= 1.0 <= even.high
    slow = [
        answer(user=user, sent_s=0.4 * place, tokens=11 if place >= 10 else 6, itl_s=0.02 if place >= 10 else 0.04)
        for user in range(5)
        for place in range(20)
    ]
    drifting = of(slow).drift_ratio
    assert drifting is not None
    assert drifting.value == pytest.approx(11 / 6)
    assert drifting.low > 1.0


def test_latencies_of_an_open_loop_count_from_when_requests_were_due() -> None:
    found = of(open_loop(late_s=0.05), load=OPEN, users=0, health=OPENED)
    assert found.window_s == pytest.approx(10.0)
    assert p50(found.ttft_s).value == pytest.approx(0.25)
    assert p50(found.e2e_s).value == pytest.approx(0.45)
    assert p50(found.tpot_s).value == pytest.approx(0.02)
    assert found.in_flight_mean == pytest.approx(4.0, abs=0.1)  # 10 a second of 0.4 s each
    assert found.state == CellState.MEASURED


def test_tokens_of_failed_answers_are_no_throughput_and_their_times_no_latency() -> None:
    records = closed_loop()
    records[7] = msgspec.structs.replace(records[7], error="cut off")
    found = of(records)
    assert (found.requests, found.failures) == (99, 1)
    assert found.state == CellState.MEASURED  # one of a hundred
    assert p50(found.e2e_s).n == 100  # the failed one is the slowest of all
    assert throughput(found).value == pytest.approx(99 * 11 / 8.0)


def test_without_a_window_there_is_no_throughput_but_latencies_stay_to_be_looked_at() -> None:
    found = of(closed_loop(), users=9)
    assert (found.window_s, found.output_tok_s) == (None, None)
    assert p50(found.e2e_s).n == 100
    assert found.state == CellState.INVALID


random_answers = st.lists(
    st.builds(
        answer,
        user=st.integers(0, 3),
        sent_s=st.floats(0.0, 20.0),
        ttft_s=st.floats(0.01, 3.0),
        itl_s=st.floats(0.001, 0.2),
        tokens=st.integers(1, 30),
        is_streamed=st.booleans(),
        error=st.sampled_from([None, None, None, "refused"]),
        is_warmup=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=30,
)


@quick
@given(random_answers, st.integers(1, 4))
def test_the_throughput_never_exceeds_all_tokens_over_the_window(records: list[RequestRecord], users: int) -> None:
    found = of(records, users=users)
    if found.output_tok_s is not None and found.window_s is not None:
        tokens = sum(r.output_tokens or 0 for r in records if r.error is None)
        assert found.output_tok_s.value * found.window_s <= tokens * (1 + 1e-9)


@quick
@given(random_answers.flatmap(lambda r: st.tuples(st.just(r), st.permutations(r))), st.integers(1, 4))
def test_any_order_of_records_gives_the_same_figures(
    both: tuple[list[RequestRecord], list[RequestRecord]], users: int
) -> None:
    assert_same_figures(of(both[0], users=users), of(both[1], users=users))


@quick
@given(random_answers, st.integers(1, 4), st.floats(-1e3, 1e3))
def test_the_clock_may_start_anywhere(records: list[RequestRecord], users: int, shift_s: float) -> None:
    moved = [
        msgspec.structs.replace(
            r, sent_s=r.sent_s + shift_s, end_s=r.end_s + shift_s, chunks_s=tuple(t + shift_s for t in r.chunks_s)
        )
        for r in records
    ]
    late = msgspec.structs.replace(HEALTHY, started_s=shift_s, stopped_s=99.0 + shift_s, ended_s=99.0 + shift_s)
    one, other = of(records, users=users), of(moved, users=users, health=late)
    assert (one.requests, one.failures) == (other.requests, other.failures)
    assert (one.window_s or 0.0) == pytest.approx(other.window_s or 0.0, abs=1e-6)


# ---------------------------------------------------------------- judge


def test_no_request_at_all_is_a_failed_cell() -> None:
    found = of([])
    assert (found.state, found.reasons) == (CellState.FAILED, ("no request was sent",))
    assert (found.ttft_s, found.itl_s, found.e2e_s, found.output_tokens_mean) == ({}, {}, {}, None)


def test_warm_up_alone_is_no_request() -> None:
    found = of([answer(is_warmup=True)])
    assert (found.state, found.reasons) == (CellState.FAILED, ("no request was sent after the warm-up",))


def test_a_cell_whose_requests_all_failed_has_failed() -> None:
    found = of([msgspec.structs.replace(r, error="refused") for r in closed_loop()])
    assert (found.state, found.reasons) == (CellState.FAILED, ("all 100 requests failed, 100 of them with: refused",))
    assert found.e2e_s == {}


@pytest.mark.parametrize(("failed", "state"), [(1, CellState.MEASURED), (2, CellState.INVALID)])
def test_more_than_one_failure_in_a_hundred_makes_a_cell_invalid(failed: int, state: CellState) -> None:
    records = closed_loop()
    records[:failed] = [msgspec.structs.replace(r, error="refused") for r in records[:failed]]
    found = of(records)
    assert found.state == state
    assert found.failures == failed
    assert found.reasons == (("2 of 100 requests failed, over 1%, 2 of them with: refused",) if failed == 2 else ())


def test_the_commonest_error_is_told_however_many_chunks_had_come() -> None:
    records = closed_loop()
    errors = ["no answer: refused", "no end after 2 s (after 3 chunks)", "no end after 2 s (after 9 chunks)"]
    records[:3] = [msgspec.structs.replace(r, error=error) for r, error in zip(records, errors, strict=False)]
    assert of(records).reasons == ("3 of 100 requests failed, over 1%, 2 of them with: no end after 2 s",)


def test_more_chunks_than_tokens_are_a_reason() -> None:
    """A server, or something before it, that sends a chunk twice makes gaps that are none."""
    records = closed_loop()
    records[0] = msgspec.structs.replace(records[0], chunks_s=(records[0].chunks_s[0], *records[0].chunks_s))
    found = of(records)
    assert found.state == CellState.INVALID
    assert found.reasons == (
        "1 of 100 answers came in more chunks with text than the server counted tokens: it sent some twice, or counted "
        "wrongly",
    )


def test_a_level_that_was_never_held_is_a_reason() -> None:
    assert of(closed_loop(), users=6).reasons == (
        "the load was never held: at most 5 users were at work at a time, 6 are needed",
    )


def test_a_level_held_for_less_than_a_second_is_a_reason() -> None:
    found = of(closed_loop(each=2))
    assert found.reasons == ("the load was held for only 0.80 s, under 1 s",)


def test_an_answer_whose_tokens_were_not_counted_is_a_reason() -> None:
    records = closed_loop()
    records[3] = msgspec.structs.replace(records[3], output_tokens=None)
    assert of(records).reasons == ("the server did not say how many tokens it generated",)


def test_a_failed_answer_need_not_be_counted() -> None:
    records = closed_loop()
    records[3] = msgspec.structs.replace(records[3], output_tokens=None, error="cut off")
    assert of(records).reasons == ()


def test_a_client_without_an_account_of_itself_is_a_reason() -> None:
    assert of(closed_loop(), health=None).reasons == ("the client left no account of itself",)


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({"cpu_ratio": 0.90}, None),
        ({"cpu_ratio": 0.91}, "the client was the limit: it used 91% of a core, over 90%"),
        (
            {"cpu_ratios": (0.2, 0.95), "processes": 2},
            "the client was the limit: one of its 2 processes used 95% of a core, over 90%",
        ),
        ({"lag_p50_s": 0.0099}, None),  # half of the 20 ms between tokens is less than a tenth of TTFT or E2E
        (
            {"lag_p50_s": 0.0101},
            "the client was the limit: it woke 10.1 ms late at the median, and these times bear 10.0 ms",
        ),
        ({"lag_p99_s": 0.5}, None),  # a garbage collection now and then is not the median
        ({"lag_max_s": 0.5}, None),
        ({"lag_max_s": 0.51}, "the client was the limit: it stood still for 0.51 s at a stretch, over 0.5 s"),
        ({"send_lag_p99_s": 0.099}, None),  # a quarter of E2E: in a closed loop it is the server that waits
        (
            {"send_lag_p99_s": 0.101},
            "the client was the limit: it sent 101.0 ms late at the 99th percentile, and these times bear 100.0 ms",
        ),
        ({"requests": 100}, None),
        ({"requests": 103}, "3 of 103 records were lost"),
        ({"suspended_s": 0.05}, None),
        ({"suspended_s": 1.5}, "the machine slept for 1.50 s meanwhile, over 0.05 s"),
    ],
)
def test_a_client_at_its_limits_is_a_reason(health: dict[str, float], reason: str | None) -> None:
    found = of(closed_loop(), health=msgspec.structs.replace(HEALTHY, **health))
    assert found.reasons == (() if reason is None else (reason,))
    assert found.state == (CellState.MEASURED if reason is None else CellState.INVALID)


@pytest.mark.parametrize(
    ("ttft_s", "itl_s", "is_streamed", "limit_s"),
    [
        (0.05, 0.02, True, 0.005),  # a tenth of TTFT
        (0.2, 0.001, True, 0.0005),  # half of a gap
        (0.2, 0.02, False, 0.04),  # a tenth of the whole answer, which is all that is reported then
    ],
)
def test_a_late_client_is_measured_against_what_it_reports(
    ttft_s: float, itl_s: float, is_streamed: bool, limit_s: float
) -> None:
    took_s = ttft_s + 10 * itl_s
    records = [
        answer(user=user, sent_s=took_s * place, ttft_s=ttft_s, itl_s=itl_s, is_streamed=is_streamed)
        for user in range(5)
        for place in range(20)
    ]
    for factor, state in ((0.99, CellState.MEASURED), (1.01, CellState.INVALID)):
        late = msgspec.structs.replace(HEALTHY, lag_p50_s=factor * limit_s)
        assert of(records, health=late).state == state


def test_in_an_open_loop_a_late_request_is_a_wait_and_the_limit_is_the_shortest_time() -> None:
    for late_s, state in ((0.049, CellState.MEASURED), (0.051, CellState.INVALID)):
        health = msgspec.structs.replace(OPENED, send_lag_p99_s=late_s)
        assert of(open_loop(), load=OPEN, users=0, health=health).state == state  # TTFT is 200 ms


def test_without_any_time_reported_no_client_is_late() -> None:
    # The only good request was sent after the window: there is load, but no latency.
    failed = [answer(user=user, ttft_s=5.0, error="cut off") for user in range(2)]
    health = msgspec.structs.replace(HEALTHY, lag_p50_s=9.0, send_lag_p99_s=9.0, stopped_s=5.0)
    found = of([*failed, answer(user=1, sent_s=9.0)], users=2, health=health)
    assert not any("late" in reason for reason in found.reasons)


def test_trouble_with_the_load_itself_is_the_first_reason() -> None:
    found = of(closed_loop(), trouble="a client process was killed by signal 9")
    assert (found.state, found.reasons) == (CellState.INVALID, ("a client process was killed by signal 9",))
    assert throughput(found).value == pytest.approx(137.5)  # to be looked at
    failed = of([], health=None, trouble="the disk is full")
    assert (failed.state, failed.reasons) == (CellState.FAILED, ("the disk is full", "no request was sent"))


def test_prompts_that_were_not_counted_are_a_reason() -> None:
    records = [msgspec.structs.replace(r, prompt_tokens=None) for r in closed_loop()]
    assert of(records).reasons == ("the server did not say how many tokens the prompts had",)


def test_a_client_that_leaves_the_server_idle_between_requests_is_a_reason() -> None:
    gaps = [answer(user=user, sent_s=0.45 * place) for user in range(5) for place in range(20)]
    assert of(gaps).reasons == ("4.47 requests were under way on average, under 95% of 5 users",)
    assert of(open_loop(per_s=1.0), load=OPEN, users=0, health=OPENED).state == CellState.MEASURED


def test_requests_that_were_not_sent_are_failures_and_said() -> None:
    records = open_loop()
    for place in range(3):
        due_s = records[place].due_s or 0.0
        records[place] = RequestRecord(
            user=0, index=0, is_warmup=False, due_s=due_s, sent_s=due_s, end_s=due_s, error="not sent: 1000 under way"
        )
    found = of(records, load=OPEN, users=0, health=OPENED)
    assert found.failures == 3
    assert found.reasons == ("3 of 100 requests failed, over 1% (3 of them were not sent: too many were under way)",)


def test_a_server_over_its_capacity_is_a_reason() -> None:
    falling_behind = [
        msgspec.structs.replace(answer(user=0, sent_s=0.1 * place, ttft_s=0.1 + 0.1 * place), due_s=0.1 * place)
        for place in range(100)
    ]
    found = of(falling_behind, load=OPEN, users=0, health=OPENED)
    assert found.state == CellState.INVALID
    assert "over the server's capacity" in found.reasons[0]


def test_a_level_that_the_client_did_not_see_become_steady_counts_only_where_the_data_say_so() -> None:
    unsteady = msgspec.structs.replace(HEALTHY, is_steady=False, warmup_s=60.0)
    short = of(closed_loop(each=9), health=unsteady)
    assert short.reasons == ("the level was not steady when measuring began, after 60.0 s of warm-up",)
    long = of(closed_loop(), health=unsteady)
    assert (long.state, long.reasons) == (CellState.MEASURED, ())
    assert "throughput was level through the window" in long.flags[0]


def test_a_wall_clock_that_was_set_is_told_and_spoils_nothing() -> None:
    found = of(closed_loop(), health=msgspec.structs.replace(HEALTHY, wall_step_s=-3600.0))
    assert (found.state, found.reasons) == (CellState.MEASURED, ())
    assert found.flags == (
        "the wall clock was moved by -3600.00 s meanwhile; all times are on the monotonic clock, which was not",
    )
    assert of(closed_loop(), health=msgspec.structs.replace(HEALTHY, wall_step_s=0.09)).flags == ()


def test_telemetry_is_that_of_the_window_with_its_flags() -> None:
    samples = tuple(
        TelemetrySample(
            t_s=float(at),
            engine_rss_bytes=100,
            gpu_power_w=137.5,
            gpu_foreign_pids=(),
            engine={EngineMetric.PREEMPTIONS: float(at)},
        )
        for at in range(-5, 20)
    )
    found = of(closed_loop(), samples=samples)
    assert found.telemetry is not None
    assert found.telemetry.energy_per_token_j == pytest.approx(1.0)  # 137.5 W at 137.5 tok/s
    assert found.flags == ("the engine preempted 8 requests for want of KV cache: some work was done twice",)
    assert found.state == CellState.MEASURED
    assert of(closed_loop()).telemetry is None


@pytest.mark.parametrize(
    ("ceilings", "reason"),
    [
        ({}, None),
        ({"output_tok_s": 135.0, "ttft_s": 0.203, "itl_s": 0.0203}, None),  # within 2%
        ({"output_tok_s": 134.0}, "138 tok/s are over the 134 that the card's data sheet allows"),
        ({"ttft_s": 0.205}, "a median TTFT of 200.00 ms is under the 205.00 ms that the card's data sheet allows"),
        ({"itl_s": 0.021}, "a median ITL of 20.00 ms is under the 21.00 ms that the card's data sheet allows"),
    ],
)
def test_what_is_better_than_the_data_sheet_allows_is_a_reason(ceilings: dict[str, float], reason: str | None) -> None:
    assert above_ceiling(of(closed_loop()), ceilings) == (() if reason is None else (reason,))


def test_a_figure_that_was_not_measured_is_above_no_ceiling() -> None:
    assert above_ceiling(of([]), {"output_tok_s": 1.0, "ttft_s": 1.0}) == ()


def test_every_reason_is_told_not_only_the_first() -> None:
    records = [msgspec.structs.replace(r, output_tokens=None) for r in closed_loop()]
    records[2:4] = [msgspec.structs.replace(r, error="refused") for r in records[2:4]]
    busy = msgspec.structs.replace(HEALTHY, cpu_ratio=1.0, lag_p50_s=0.1)
    found = of(records, users=6, health=busy)
    assert found.state == CellState.INVALID
    assert len(found.reasons) == 5
