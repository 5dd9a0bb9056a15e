"""One cell's records into figures, on records whose figures are known from how they were made."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import CellState, ClientHealth, Estimate, Metric, RequestRecord
from harness.stats.summary import Figures, figures

quick = settings(max_examples=30, derandomize=True, deadline=None)

HEALTHY = ClientHealth(cpu_ratio=0.2, lag_p50_s=0.0001, lag_p99_s=0.001, started_s=0.0, stopped_s=10.0, ended_s=11.0)


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


def of(records: list[RequestRecord], *, users: int = 5, health: ClientHealth | None = HEALTHY) -> Figures:
    return figures(records, health=health, users=users)


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


def test_warm_up_is_in_no_figure() -> None:
    slow = [answer(user=user, sent_s=-30.0, ttft_s=25.0, is_warmup=True) for user in range(5)]
    assert_same_figures(of([*slow, *closed_loop()]), of(closed_loop()))


def test_a_straggler_counts_with_its_whole_time_but_does_not_thin_the_throughput() -> None:
    # User 4 is stuck in its second answer until long after the others have gone.
    stuck = [answer(user=4), answer(user=4, sent_s=0.4, ttft_s=60.0)]
    found = of([*closed_loop(users=4), *stuck])
    assert found.window_s == pytest.approx(8.0)
    assert found.requests == 82
    assert p50(found.e2e_s).n == 82  # sent inside the window, ended long after it
    assert throughput(found).value == pytest.approx((80 * 11 + 11) / 8.0)


def test_what_is_sent_in_the_ramp_or_the_drain_is_in_no_latency() -> None:
    ramp = [answer(user=0, sent_s=-0.4 * place, ttft_s=0.01, itl_s=0.01) for place in range(1, 11)]
    drain = [answer(user=0, sent_s=8.1 + 0.4 * place, ttft_s=0.01, itl_s=0.01) for place in range(10)]
    found = of([*ramp, *closed_loop(), *drain])
    assert found.window_s == pytest.approx(8.0)
    assert p50(found.e2e_s).n == 100
    assert p50(found.e2e_s).low == pytest.approx(0.4)


def test_the_first_request_of_every_user_counts_though_one_is_the_last_to_send() -> None:
    # The window begins with the last one; one wave would else be a single request.
    wave = [answer(user=user, sent_s=0.001 * user, ttft_s=1.5) for user in range(20)]
    found = of(wave, users=20)
    assert found.window_s == pytest.approx(1.701 - 0.018)  # from the 19th sending to the second end
    assert p50(found.e2e_s).n == 20


@pytest.mark.parametrize(("sent_s", "counts"), [(-0.19, True), (-0.21, False), (7.99, True), (8.41, False)])
def test_a_request_belongs_to_the_window_by_its_sending_and_its_better_half(sent_s: float, counts: bool) -> None:
    steady = closed_loop()
    edge = answer(user=0, sent_s=sent_s)  # of 0.4 s, beside a window from 0 to 8 s
    held = [r for r in steady if r.user != 0 or abs(r.sent_s - sent_s) >= 0.4 or sent_s < 0]
    assert p50(of([*held, edge]).e2e_s).n == len(held) + counts


def test_tokens_of_failed_answers_are_no_throughput_and_their_times_no_latency() -> None:
    records = closed_loop()
    records[7] = msgspec.structs.replace(records[7], error="cut off")
    found = of(records)
    assert (found.requests, found.failures) == (99, 1)
    assert found.state == CellState.MEASURED  # one of a hundred
    assert p50(found.e2e_s).n == 99
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
        tokens = sum(r.output_tokens or 0 for r in records if r.error is None and not r.is_warmup)
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
    one, other = of(records, users=users), of(moved, users=users)
    assert (one.requests, one.failures) == (other.requests, other.failures)
    assert (one.window_s or 0.0) == pytest.approx(other.window_s or 0.0, abs=1e-6)


# ---------------------------------------------------------------- judge


def test_no_request_at_all_is_a_failed_cell() -> None:
    found = of([])
    assert (found.state, found.reasons) == (CellState.FAILED, ("no request was sent",))
    assert (found.ttft_s, found.itl_s, found.e2e_s, found.output_tokens_mean) == ({}, {}, {}, None)


def test_warm_up_alone_is_no_request() -> None:
    assert of([answer(is_warmup=True)]).state == CellState.FAILED


def test_a_cell_whose_requests_all_failed_has_failed() -> None:
    found = of([msgspec.structs.replace(r, error="refused") for r in closed_loop()])
    assert (found.state, found.reasons) == (CellState.FAILED, ("all 100 requests failed",))
    assert found.e2e_s == {}


@pytest.mark.parametrize(("failed", "state"), [(1, CellState.MEASURED), (2, CellState.INVALID)])
def test_more_than_one_failure_in_a_hundred_makes_a_cell_invalid(failed: int, state: CellState) -> None:
    records = closed_loop()
    records[:failed] = [msgspec.structs.replace(r, error="refused") for r in records[:failed]]
    found = of(records)
    assert found.state == state
    assert found.failures == failed
    assert found.reasons == (("2 of 100 requests failed, over 1%",) if failed == 2 else ())


def test_a_level_that_was_never_held_is_a_reason() -> None:
    assert of(closed_loop(), users=6).reasons == ("the number of users was never held",)


def test_a_level_held_for_less_than_a_second_is_a_reason() -> None:
    found = of(closed_loop(each=2))
    assert found.reasons == ("the number of users was held for only 0.80 s, under 1 s",)


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
        ({"cpu_ratio": 0.91}, "the client was the limit: it used 91% of a core"),
        ({"lag_p50_s": 0.0099}, None),  # half of the 20 ms between tokens is less than a tenth of TTFT or E2E
        (
            {"lag_p50_s": 0.0101},
            "the client was the limit: it woke 10.1 ms late at the median, and these times bear 10.0 ms",
        ),
        ({"lag_p99_s": 0.5}, None),  # a garbage collection now and then is not the median
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


def test_without_any_time_reported_no_client_is_late() -> None:
    # The only good request was sent after the window: there is load, but no latency.
    failed = [answer(user=user, ttft_s=5.0, error="cut off") for user in range(2)]
    found = of([*failed, answer(user=1, sent_s=9.0)], users=2, health=msgspec.structs.replace(HEALTHY, lag_p50_s=9.0))
    assert not any("late" in reason for reason in found.reasons)


def test_every_reason_is_told_not_only_the_first() -> None:
    records = [msgspec.structs.replace(r, output_tokens=None) for r in closed_loop()]
    records[:2] = [msgspec.structs.replace(r, error="refused") for r in records[:2]]
    busy = msgspec.structs.replace(HEALTHY, cpu_ratio=1.0, lag_p50_s=0.1)
    found = of(records, users=6, health=busy)
    assert found.state == CellState.INVALID
    assert len(found.reasons) == 5
