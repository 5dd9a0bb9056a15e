"""Records into tables."""

import math

import msgspec
import numpy as np
import pytest

from harness.records import RequestRecord
from harness.stats import frame


def answer(
    *,
    user: int = 0,
    sent_s: float = 0.0,
    chunks_s: tuple[float, ...] = (0.2, 0.3, 0.4),
    end_s: float = 0.5,
    output_tokens: int | None = 3,
    error: str | None = None,
    is_warmup: bool = False,
) -> RequestRecord:
    return RequestRecord(
        user=user,
        index=0,
        is_warmup=is_warmup,
        sent_s=sent_s,
        end_s=end_s,
        chunks_s=chunks_s,
        prompt_tokens=7,
        output_tokens=output_tokens,
        error=error,
    )


def test_a_row_holds_the_times_of_its_request() -> None:
    row = frame.requests([answer(user=3, sent_s=1.0, chunks_s=(1.2, 1.3, 1.4), end_s=1.5)]).iloc[0].to_dict()
    assert row == {
        "user": 3,
        "began_s": 1.0,
        "sent_s": 1.0,
        "end_s": 1.5,
        "e2e_s": pytest.approx(0.5),
        "ttft_s": pytest.approx(0.2),
        "tpot_s": pytest.approx((0.5 - 0.2) / 2),
        "prompt_tokens": 7.0,
        "output_tokens": 3.0,
        "is_warmup": False,
        "is_ok": True,
    }


def test_latencies_of_an_open_loop_count_from_when_the_request_was_due() -> None:
    row = frame.requests([msgspec.structs.replace(answer(sent_s=1.0, chunks_s=(1.2,), end_s=1.5), due_s=0.7)]).iloc[0]
    assert (row["began_s"], row["sent_s"]) == (0.7, 1.0)
    assert (row["ttft_s"], row["e2e_s"]) == (pytest.approx(0.5), pytest.approx(0.8))


def test_tokens_of_the_warm_up_are_load_but_its_gaps_are_no_latencies() -> None:
    warm = [answer(is_warmup=True)]
    assert frame.requests(warm).iloc[0]["is_warmup"]
    assert frame.token_times(warm)[1].sum() == 3
    assert frame.token_gaps(warm) == []


def test_a_request_is_in_flight_from_its_sending_to_its_end() -> None:
    table = frame.requests(
        [answer(sent_s=1.0, end_s=3.0), answer(sent_s=2.0, end_s=2.5), answer(sent_s=2.0, end_s=4.0)]
    )
    moments = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.5, 4.0])
    assert frame.in_flight(table, moments).tolist() == [0, 1, 1, 3, 2, 1, 0]


def test_no_records_give_an_empty_table_with_all_columns() -> None:
    table = frame.requests([])
    assert tuple(table.columns) == frame.COLUMNS
    assert table["e2e_s"].dtype == np.float64
    assert table["is_ok"].dtype == np.bool_


def test_a_time_that_does_not_exist_is_nan_and_never_zero() -> None:
    row = frame.requests([answer(chunks_s=(), output_tokens=None)]).iloc[0]
    assert all(math.isnan(row[name]) for name in ("ttft_s", "tpot_s", "output_tokens"))


def test_a_failed_request_keeps_its_row_but_brings_no_tokens() -> None:
    failed = [answer(error="connection reset")]
    assert not frame.requests(failed).iloc[0]["is_ok"]
    assert frame.token_times(failed)[1].sum() == 0
    assert frame.token_gaps(failed) == []


def test_tokens_are_the_servers_count_spread_over_the_chunks() -> None:
    times, tokens = frame.token_times([answer(chunks_s=(0.2, 0.3), output_tokens=8)])
    assert times.tolist() == [0.2, 0.3]
    assert tokens.tolist() == [4.0, 4.0]


def test_an_answer_that_was_not_streamed_counts_evenly_from_sending_to_end() -> None:
    times, tokens = frame.token_times([answer(sent_s=2.0, end_s=4.0, chunks_s=(), output_tokens=50)])
    assert tokens.sum() == pytest.approx(50)
    assert tokens[times <= 3.0].sum() == pytest.approx(25)
    assert (times.min(), times.max()) == (pytest.approx(2.02), 4.0)


def test_the_tokens_of_all_answers_are_there() -> None:
    records = [answer(output_tokens=3), answer(output_tokens=5), answer(output_tokens=None), answer(output_tokens=0)]
    assert frame.token_times(records)[1].sum() == pytest.approx(8)


def test_gaps_are_between_the_chunks_of_one_answer_and_never_between_answers() -> None:
    gaps = frame.token_gaps([answer(chunks_s=(0.2, 0.3, 0.5)), answer(chunks_s=(9.0, 9.1, 9.2))])
    assert [gap.tolist() for gap in gaps] == [pytest.approx([0.1, 0.2]), pytest.approx([0.1, 0.1])]


def test_a_gap_before_a_chunk_of_several_tokens_is_shared_by_them() -> None:
    (gaps,) = frame.token_gaps([answer(chunks_s=(0.2, 0.6), output_tokens=8)])
    assert gaps.tolist() == pytest.approx([0.1])


def test_a_gap_is_not_stretched_where_there_are_more_chunks_than_tokens() -> None:
    (gaps,) = frame.token_gaps([answer(chunks_s=(0.2, 0.3, 0.4), output_tokens=2)])
    assert gaps.tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    "record", [answer(chunks_s=()), answer(chunks_s=(0.2,)), answer(output_tokens=None), answer(output_tokens=0)]
)
def test_one_chunk_or_no_count_gives_no_gap(record: RequestRecord) -> None:
    assert frame.token_gaps([record]) == []
