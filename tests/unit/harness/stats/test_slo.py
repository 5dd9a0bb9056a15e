"""Objectives of service, as they are written and as requests keep them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.records import RequestRecord, Sampling, Slo, Workload
from harness.stats.capacity import LOOK_CONFIDENCE
from harness.stats.estimate import share
from harness.stats.slo import keeps, needed_requests, refuse_unstreamed, slo

quick = settings(max_examples=100, derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("text", "metric", "asked", "limit_s"),
    [
        ("ttft:p95<500ms", "ttft_s", 0.95, 0.5),
        ("itl:p50<=20ms", "itl_s", 0.5, 0.02),
        ("tpot:p99<0.05s", "tpot_s", 0.99, 0.05),
        ("e2e:p99.9<2s", "e2e_s", 0.999, 2.0),
        (" TTFT : P90 < 250us ", "ttft_s", 0.9, 0.00025),
        ("ttft:p95<.5s", "ttft_s", 0.95, 0.5),
        ("ttft:p5<1µs", "ttft_s", 0.05, 1e-6),
    ],
)
def test_an_objective_is_a_metric_a_percentile_and_a_limit(
    text: str, metric: str, asked: float, limit_s: float
) -> None:
    found = slo(text)
    assert (found.metric, found.share, found.text) == (metric, asked, text.strip())
    assert found.limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is not an objective"),
        ("ttft", "is not an objective"),
        ("ttft<500ms", "is not an objective"),
        ("ttft:p95", "is not an objective"),
        ("ttft:p95<", "is not an objective"),
        ("ttfb:p95<500ms", "'ttfb' in 'ttfb:p95<500ms' is no metric: there are ttft, itl, tpot, e2e"),
        ("ttft:mean<500ms", "'mean' in 'ttft:mean<500ms' is no percentile"),
        ("ttft:p100<500ms", "is no percentile"),
        ("ttft:p0<500ms", "is no percentile"),
        ("ttft:95<500ms", "is no percentile"),
        ("ttft:p95>500ms", "'>' in 'ttft:p95>500ms' is no limit"),
        ("ttft:p95==500ms", "is no limit"),
        ("ttft:p95<500", "'ttft:p95<500' has no unit: s, ms or us"),
        ("ttft:p95<500min", "'min' in 'ttft:p95<500min' is no unit"),
        ("ttft:p95<0ms", "is no time: a number over 0 is needed"),
        ("ttft:p95<-5ms", "is no time"),
        ("ttft:p95<1_0ms", "is no time"),
        ("ttft:p95<5e3ms", "is not an objective"),
        ("ttft:p95<(5)ms", "is no time"),
        ("ttft:p95<500ms; rm", "is not an objective"),
        ("ttft:p95<500ms,e2e:p95<2s", "is not an objective"),
    ],
)
def test_what_is_wrong_with_an_objective_is_said_with_an_example(text: str, wrong: str) -> None:
    with pytest.raises(UsageError) as raised:
        slo(text)
    assert wrong in raised.value.message
    assert "'ttft:p95<500ms'" in raised.value.hint
    assert raised.value.exit_code == 2


@quick
@given(
    st.text(max_size=40)
    | st.from_regex(r"[a-z0-9]{0,5}:p?[0-9.]{0,6}[<>=]{0,3}[0-9.eE+-]{0,9}[a-zµ]{0,3}", fullmatch=True)
)
def test_any_text_is_an_objective_or_a_usage_error(text: str) -> None:
    try:
        found = slo(text)
    except UsageError:
        return
    assert 0 < found.share < 1
    assert found.limit_s > 0


@quick
@given(
    st.sampled_from(["ttft", "itl", "tpot", "e2e"]),
    st.integers(1, 99),
    st.integers(1, 10**6),
    st.sampled_from([("s", 1.0), ("ms", 1e-3), ("us", 1e-6)]),
)
def test_what_is_written_is_what_is_read(name: str, percent: int, number: int, unit: tuple[str, float]) -> None:
    found = slo(f"{name}:p{percent}<{number}{unit[0]}")
    assert found.metric == f"{name}_s"
    assert found.share == pytest.approx(percent / 100)
    assert found.limit_s == pytest.approx(number * unit[1])


def objective(metric: str, limit_s: float) -> Slo:
    return Slo(metric=metric, share=0.95, limit_s=limit_s, text="")


def answer(*, tokens: int = 5, error: str | None = None, is_streamed: bool = True) -> RequestRecord:
    """First token after 0.2 s, then gaps of 10, 20, 30 and 40 ms."""
    return RequestRecord(
        user=0,
        index=0,
        is_warmup=False,
        due_s=0.9,
        sent_s=1.0,
        end_s=1.2,
        chunks_s=(1.1, 1.11, 1.13, 1.16, 1.2)[:tokens] if is_streamed else (),
        output_tokens=tokens,
        error=error,
    )


@pytest.mark.parametrize(("metric", "time_s"), [("ttft_s", 0.2), ("itl_s", 0.025), ("tpot_s", 0.025), ("e2e_s", 0.3)])
def test_a_request_keeps_a_limit_that_its_time_does_not_pass(metric: str, time_s: float) -> None:
    assert keeps(answer(), objective(metric, time_s + 1e-9))
    assert not keeps(answer(), objective(metric, time_s - 1e-9))


@pytest.mark.parametrize("metric", ["ttft_s", "itl_s", "tpot_s", "e2e_s"])
def test_a_failed_request_keeps_nothing(metric: str) -> None:
    assert not keeps(answer(error="cut off"), objective(metric, 1e9))


def test_an_answer_of_one_token_has_no_gap_that_could_be_late() -> None:
    assert keeps(answer(tokens=1), objective("itl_s", 1e-9))
    assert keeps(answer(tokens=1), objective("tpot_s", 1e-9))
    assert not keeps(answer(tokens=1), objective("ttft_s", 1e-9))


def test_a_time_that_is_not_known_is_not_kept() -> None:
    assert not keeps(answer(is_streamed=False), objective("ttft_s", 1e9))
    assert not keeps(answer(is_streamed=False), objective("itl_s", 1e9))
    assert keeps(answer(is_streamed=False), objective("e2e_s", 1e9))


def test_limits_on_tokens_are_refused_where_answers_come_in_one_piece() -> None:
    whole, streamed = (
        Workload(prompt_words=10, output_tokens=10, is_streamed=is_streamed, sampling=Sampling())
        for is_streamed in (False, True)
    )
    both = (slo("e2e:p95<2s"), slo("ttft:p95<500ms"))
    refuse_unstreamed(both, streamed)
    refuse_unstreamed(both[:1], whole)
    with pytest.raises(UsageError, match="'ttft:p95<500ms' needs streamed answers"):
        refuse_unstreamed(both, whole)


@pytest.mark.parametrize(("text", "needed"), [("ttft:p95<1s", 111), ("ttft:p99<1s", 575), ("ttft:p50<1s", 6)])
def test_so_many_requests_that_all_keep_a_limit_show_it(text: str, needed: int) -> None:
    one = slo(text)
    assert needed_requests(one) == needed
    enough, few = (share(count, count, confidence=LOOK_CONFIDENCE) for count in (needed, needed - 1))
    assert enough is not None
    assert few is not None
    assert few.low < one.share <= enough.low
