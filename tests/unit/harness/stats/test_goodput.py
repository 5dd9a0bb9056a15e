"""Requests that kept the objectives of service, and what they say of a level."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import CapacityStep, ClientHealth, ClosedLoop, Level, OpenLoop, RequestRecord
from harness.stats.capacity import LOOK_CONFIDENCE, TRIES
from harness.stats.estimate import share
from harness.stats.goodput import goodput, step
from harness.stats.slo import slo
from harness.stats.summary import figures
from harness.stats.window import Window

quick = settings(max_examples=60, derandomize=True, deadline=None)

CLOSED = ClosedLoop(users=(4,), requests_per_user=1, min_s=1.0, max_s=60.0)
OPEN = OpenLoop(rates_per_s=(10.0,), duration_s=10.0)
HEALTHY = ClientHealth(cpu_ratio=0.2, lag_p50_s=0.0001, lag_p99_s=0.001, started_s=0.0, stopped_s=50.0, ended_s=51.0)
FAST = slo("ttft:p95<300ms")
SHORT = slo("e2e:p50<450ms")


def answer(
    at_s: float, *, ttft_s: float = 0.2, user: int = 0, error: str | None = None, warm: bool = False, due: bool = False
) -> RequestRecord:
    """Ten tokens in all, 20 ms apart."""
    chunks_s = tuple(at_s + ttft_s + 0.02 * k for k in range(10))
    return RequestRecord(
        user=user,
        index=0,
        is_warmup=warm,
        due_s=at_s if due else None,
        sent_s=at_s,
        end_s=at_s + max(ttft_s + 0.18, 0.4),
        chunks_s=chunks_s,
        prompt_tokens=30,
        output_tokens=10,
        error=error,
    )


def closed(each: int, *, slow: int = 0, failed: int = 0) -> list[RequestRecord]:
    """Four users; of all requests so many are slow to begin, and so many fail."""
    records = [answer(0.4 * place, user=user) for place in range(each) for user in range(4)]
    for place in range(slow):
        records[7 * place] = msgspec.structs.replace(records[7 * place], chunks_s=(records[7 * place].sent_s + 0.35,))
    for place in range(failed):
        records[7 * place + 3] = msgspec.structs.replace(records[7 * place + 3], error="HTTP 503")
    return records


def judged(
    records: list[RequestRecord],
    *,
    slos: str = "ttft:p95<300ms",
    health: ClientHealth | None = HEALTHY,
    earlier: tuple[CapacityStep, ...] = (),
    users: int = 4,
) -> CapacityStep:
    level = Level(users=users)
    found = figures(records, load=CLOSED, level=level, health=health)
    wanted = tuple(slo(text) for text in slos.split())
    return step(found, records, load=CLOSED, level=level, health=health, slos=wanted, earlier=earlier)


# ---------------------------------------------------------------- goodput


def test_goodput_counts_the_requests_that_kept_every_limit() -> None:
    records = closed(25, slow=10, failed=5)
    found = goodput(records, Window(start_s=0.0, end_s=10.0), [FAST, SHORT])
    assert found is not None
    assert found.value == pytest.approx((100 - 15) / 10)
    assert found.unit == "requests/s"
    assert found.low <= found.value <= found.high


def test_warm_up_and_what_began_outside_the_window_are_no_goodput() -> None:
    records = [answer(0.1, warm=True), answer(0.5), answer(9.9), answer(10.5)]
    found = goodput(records, Window(start_s=0.0, end_s=10.0), [FAST])
    assert found is not None
    assert found.value == pytest.approx(0.2)


def test_a_window_under_a_second_has_no_goodput() -> None:
    assert goodput(closed(5), Window(start_s=0.0, end_s=0.9), [FAST]) is None


requests = st.lists(
    st.builds(
        answer,
        st.floats(0.0, 12.0),
        ttft_s=st.floats(0.01, 1.0),
        error=st.sampled_from([None, None, "refused"]),
        warm=st.sampled_from([False, False, True]),
        due=st.booleans(),
    ),
    max_size=30,
)


@quick
@given(requests)
def test_goodput_never_exceeds_what_was_asked_for_and_another_limit_never_raises_it(
    records: list[RequestRecord],
) -> None:
    window = Window(start_s=1.0, end_s=11.0)
    one, both = goodput(records, window, [FAST]), goodput(records, window, [FAST, SHORT])
    begun = sum(1.0 <= r.began_s <= 11.0 and not r.is_warmup for r in records) / 10
    assert one is not None
    assert both is not None
    assert both.value <= one.value <= begun + 1e-9


# ---------------------------------------------------------------- steps


def test_a_level_whose_requests_all_keep_the_limit_is_inside() -> None:
    found = judged(closed(30))
    assert (found.level, found.requests, found.is_inside, found.reason) == (4.0, 120, True, "")
    assert found.kept is not None
    assert found.kept.value == 1.0
    assert found.kept.low == pytest.approx(120 / (120 + 2.408916**2))  # the normal quantile at 0.992
    assert found.kept.confidence == LOOK_CONFIDENCE


def test_a_level_where_too_many_are_late_is_outside() -> None:
    found = judged(closed(25, slow=14))
    assert found.is_inside is False
    assert found.reason == "86.0% of 100 requests kept ttft:p95<300ms, surely under 0.95"


def test_too_few_requests_decide_nothing_and_say_how_many_would() -> None:
    found = judged(closed(10))
    assert found.is_inside is None
    assert found.reason == (
        "100.0% of 40 requests kept ttft:p95<300ms; the interval from 87.3% to 100.0% straddles 0.95; "
        "111 requests that all keep it would show it"
    )


def test_failed_requests_are_late_for_every_limit() -> None:
    found = judged(closed(25, failed=14))
    assert found.is_inside is False
    assert judged([msgspec.structs.replace(r, error="HTTP 503") for r in closed(25)]).is_inside is False


def test_every_limit_has_a_share_of_its_own_to_keep() -> None:
    both = judged(closed(30), slos="ttft:p95<300ms e2e:p50<450ms")
    assert both.is_inside is True
    one_broken = judged(closed(25), slos="ttft:p95<300ms e2e:p50<350ms")
    assert one_broken.is_inside is False
    assert "kept e2e:p50<350ms" in one_broken.reason
    assert [share.value for share in one_broken.shares] == [1.0, 0.0]
    assert one_broken.kept is not None
    assert one_broken.kept.value == 0.0


def test_the_requests_of_an_earlier_try_are_counted_in() -> None:
    first = judged(closed(10))
    second = judged(closed(10), earlier=(first,))
    assert (first.is_inside, second.is_inside, second.requests) == (None, None, 80)
    third = judged(closed(10), earlier=(first, second))
    assert (third.is_inside, third.requests) == (True, 120)  # the second holds the first
    assert [share.n for share in third.shares] == [120]
    other_level = msgspec.structs.replace(first, level=8.0)
    assert judged(closed(10), earlier=(other_level,)).requests == 40


def test_a_cell_that_the_client_spoilt_decides_nothing_and_is_not_counted_in() -> None:
    spoilt = judged(closed(25), health=msgspec.structs.replace(HEALTHY, cpu_ratio=0.99))
    assert (spoilt.is_inside, spoilt.kept, spoilt.shares) == (None, None, ())
    assert spoilt.reason == "the client was the limit: it used 99% of a core, over 90%"
    assert judged(closed(25), earlier=(spoilt,)).requests == 100
    assert judged(closed(25), health=None).is_inside is None


def test_looking_again_and_again_decides_wrongly_no_more_often_than_one_interval_says() -> None:
    """A server at the very limit, where either answer is wrong: three looks at 95% each are wrong in 9.5% of cases."""
    chance, limit, each = np.random.default_rng(4), 0.95, 400

    def is_decided(confidence: float) -> bool:
        kept = 0
        for tries in range(1, TRIES + 1):
            kept += int(chance.binomial(each, limit))
            found = share(kept, tries * each, confidence=confidence)
            assert found is not None
            if found.low >= limit or found.high < limit:
                return True
        return False

    levels = (0.95, LOOK_CONFIDENCE)
    wrong = {confidence: sum(is_decided(confidence) for _ in range(600)) / 600 for confidence in levels}
    assert wrong[LOOK_CONFIDENCE] <= 0.05
    assert wrong[0.95] > 0.06
    assert 1 - LOOK_CONFIDENCE <= 0.05 / TRIES


def test_no_request_decides_nothing() -> None:
    found = judged([])
    assert (found.is_inside, found.requests, found.reason) == (None, 0, "no request was sent")


def test_a_server_over_its_capacity_is_outside_however_good_its_times_still_are() -> None:
    # Each request takes 50 ms longer than the one before; nothing is over 60 s yet.
    records = [
        msgspec.structs.replace(answer(0.1 * place, ttft_s=0.2 + 0.05 * place, due=True), user=place)
        for place in range(200)
    ]
    health = msgspec.structs.replace(HEALTHY, stopped_s=20.0)
    level = Level(rate_per_s=10.0)
    found = figures(records, load=OPEN, level=level, health=health)
    wanted = (slo("e2e:p95<60s"),)
    out = step(found, records, load=OPEN, level=level, health=health, slos=wanted)
    assert (out.level, out.is_inside) == (10.0, False)
    assert "over the server's capacity" in out.reason
    assert out.kept is not None
    assert out.kept.value == 1.0
