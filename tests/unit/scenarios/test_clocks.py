"""Clocks of other machines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import ClientHealth, RequestRecord
from scenarios.clocks import Offset, moved, moved_health, offset

RECORD = RequestRecord(
    user=3, index=1, is_warmup=False, due_s=9.5, sent_s=10.0, headers_s=10.1, chunks_s=(10.2, 10.3), end_s=10.4,
    output_tokens=2,
)  # fmt: skip
WAYS_S = st.floats(1e-6, 0.5)


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(st.floats(0, 1e5), WAYS_S, WAYS_S), min_size=1, max_size=20))
def test_the_true_offset_lies_within_the_error_however_long_the_ways_are(ahead_s, ways):
    exchanges = [(sent_s, sent_s + there_s - ahead_s, sent_s + there_s + back_s) for sent_s, there_s, back_s in ways]
    found = offset(exchanges)
    assert abs(found.add_s - ahead_s) <= found.error_s + 1e-6


def test_the_quickest_exchange_counts():
    slow, quick = (0.0, 100.9, 1.0), (2.0, 102.05, 2.1)
    assert offset([slow, quick]) == pytest.approx(Offset(-100.0, 0.05))


def test_a_moved_record_has_other_times_and_the_same_latencies():
    there = moved(RECORD, -4.5)
    assert (there.due_s, there.sent_s, there.headers_s, there.end_s) == pytest.approx((5.0, 5.5, 5.6, 5.9))
    assert there.chunks_s == pytest.approx((5.7, 5.8))
    assert (there.ttft_s, there.e2e_s, there.tpot_s) == pytest.approx((RECORD.ttft_s, RECORD.e2e_s, RECORD.tpot_s))
    assert (there.user, there.index, there.output_tokens) == (3, 1, 2)


def test_what_a_record_does_not_have_it_does_not_get():
    bare = RequestRecord(user=0, index=0, is_warmup=True, sent_s=1.0, end_s=2.0, error="refused")
    assert moved(bare, 1.0) == RequestRecord(user=0, index=0, is_warmup=True, sent_s=2.0, end_s=3.0, error="refused")


def test_a_moved_account_says_how_far_its_clock_may_be_off():
    health = ClientHealth(
        cpu_ratio=0.5, lag_p50_s=0.001, lag_p99_s=0.002, started_s=1.0, stopped_s=2.0, ended_s=3.0, warmup_s=0.5
    )
    there = moved_health(health, Offset(10.0, 0.0002))
    assert (there.started_s, there.stopped_s, there.ended_s, there.warmup_s) == (11.0, 12.0, 13.0, 0.5)
    assert there.clock_error_s == 0.0002
    assert there.lag_p50_s == 0.001
