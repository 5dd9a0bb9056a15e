"""The client's figures against what the server really did."""

import itertools
import time
from statistics import median

import pytest

from harness.records import OpenLoop
from scenarios.prompts import prompt
from tests.accuracy.truth import (
    ITL_S,
    TOKENS,
    TTFT_S,
    WORDS,
    assert_counts,
    assert_near,
    assert_nothing_is_seen_before_it_was_done,
    driven,
    job,
    measured,
    pairs,
    reference,
    times,
)


@pytest.mark.parametrize("users", [1, 10, 50, 100, 200])
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_the_client_reports_what_the_server_did(tmp_path, api, users):
    """The OpenAI streams open with a role-only chunk, 200 ms before the first token."""
    found = measured(tmp_path, api=api, users=users, requests=3 if users == 1 else 1, warmup_max_s=20)
    steady = [pair for pair in found if not pair.seen.is_warmup]
    assert len(steady) >= users
    assert_counts(found, tokens=None)
    assert_counts(steady)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(steady)
    assert min(p.seen.ttft_s for p in found) > TTFT_S
    assert min(p.seen.e2e_s for p in steady) > TTFT_S + (TOKENS - 1) * ITL_S


@pytest.mark.parametrize("processes", [1, 4])
def test_users_that_all_begin_at_once_are_timed_too(tmp_path, processes):
    """However many processes share them; no user waits in our own client for its turn."""
    found = measured(tmp_path, users=40, requests=2, processes=processes)
    assert len(found) == 80
    assert sorted({pair.seen.user for pair in found}) == list(range(40))
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)


def test_a_role_chunk_makes_no_difference_to_the_first_token(tmp_path):
    found = [
        pair
        for flag in ("--role-chunk", "--no-role-chunk")
        for pair in measured(tmp_path, flag, requests=4, output_tokens=5)
    ]
    assert_counts(found, tokens=5)
    assert_near(found)
    assert all(p.seen.headers_s - p.seen.sent_s < TTFT_S / 2 for p in found)


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_tokens_are_counted_by_the_server_where_a_chunk_carries_several(tmp_path, api):
    """Each chunk is cut inside a character, and the two parts are a millisecond apart."""
    found = measured(tmp_path, "--tokens-per-chunk", "7", "--split-utf8", api=api, users=5)
    assert {len(p.seen.chunks_s) for p in found} == {4}
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)
    tpot_s = median(p.seen.tpot_s for p in found)
    assert tpot_s == pytest.approx(ITL_S * 21 / 24, rel=0.1)  # the last chunk is sent 3 × 7 gaps after the first


def test_answers_of_any_length_are_counted_and_timed(tmp_path):
    found = measured(tmp_path, "--length-spread", "0.9", users=10, requests=3)
    assert len({pair.did.tokens for pair in found}) > 5
    assert_counts(found, tokens=None)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_an_answer_that_is_not_streamed_is_timed_whole(tmp_path, api):
    found = measured(tmp_path, api=api, users=5, is_streamed=False, output_tokens=10)
    assert_counts(found, tokens=10)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)
    assert all(p.seen.e2e_s > TTFT_S + 9 * ITL_S for p in found)


def test_waiting_for_a_free_slot_counts_as_time_to_the_first_token(tmp_path):
    """As with Ollama, which answers one request at a time unless told otherwise."""
    found = measured(tmp_path, "--capacity", "1", users=3, requests=1, output_tokens=10)
    assert_counts(found, tokens=10)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)
    whole_s = TTFT_S + 9 * ITL_S
    for place, ttft_s in enumerate(sorted(p.seen.ttft_s for p in found)):
        assert ttft_s == pytest.approx(place * whole_s + TTFT_S, abs=0.1)


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_requests_of_an_open_loop_are_sent_when_they_are_due(tmp_path, arrivals):
    plan = OpenLoop(rates_per_s=(25.0,), arrivals=arrivals, duration_s=4.0, warmup_s=0.0)
    found = measured(tmp_path, open_loop=plan)
    assert len(found) == pytest.approx(100, abs=40)
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    late_s = sorted(p.seen.sent_s - p.seen.due_s for p in found)
    assert late_s[0] >= 0
    assert median(late_s) < 0.01
    assert all(p.seen.began_s == p.seen.due_s for p in found)
    if arrivals == "constant":
        due = sorted(p.seen.due_s for p in found)
        assert [later - sooner for sooner, later in itertools.pairwise(due)] == pytest.approx([0.04] * 99)


def test_an_open_loop_does_not_wait_for_a_server_that_is_too_slow(tmp_path):
    """At 20 requests a second one slot of 0.3 s falls ever further behind; a closed loop would hide that."""
    plan = OpenLoop(rates_per_s=(20.0,), arrivals="constant", duration_s=0.8, warmup_s=0.0)
    found = measured(tmp_path, "--capacity", "1", open_loop=plan, output_tokens=6)
    assert len(found) == 16
    assert_nothing_is_seen_before_it_was_done(found)
    found.sort(key=lambda p: p.seen.due_s)
    assert all(p.seen.sent_s - p.seen.due_s < 0.1 for p in found)
    service_s, between_s = TTFT_S + 5 * ITL_S, 0.05
    last_s = found[-1].seen.ttft_s
    assert last_s == pytest.approx(TTFT_S + 15 * (service_s - between_s), rel=0.1)


# ---------------------------------------------------------------- servers that fail


FAULTS = {
    "drop": "no answer",
    "close-early": "the connection broke",
    "end-early": "the answer ended without a finish reason",
    "garbage": "not an answer of the",
    "http-500": "HTTP 500",
    "http-503": "HTTP 503",
}
IN_MID_ANSWER = ("close-early", "end-early", "garbage")


def with_faults(folder, *faults, chance, **of_job):
    """Each record of a load with the fault that the server did to it, if any."""
    flags = [word for fault in faults for word in (f"--{fault}", str(chance))]
    with reference(*flags, "--fault-at-token", "5") as (_, url):
        a_job = job(url, folder, output_tokens=10, **of_job)
        records = driven(a_job, folder).records
        done = {sent.prompt_start: sent.fault for sent in times(url)}
    return [(one, done[prompt(a_job.seed, one.user, one.index, WORDS)[:40]]) for one in records]


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_a_broken_answer_is_a_failure_that_keeps_what_was_seen(tmp_path, api):
    """And the others are none the worse for it, on the same connections."""
    found = with_faults(tmp_path, *FAULTS, chance=0.1, api=api, users=10, requests=6)
    assert len(found) == 60
    assert {fault for _, fault in found} == {None, *FAULTS}
    for record, fault in found:
        if fault is None:
            assert record.error is None
            assert len(record.chunks_s) == record.output_tokens == 10
        else:
            assert FAULTS[fault] in record.error
            assert len(record.chunks_s) == (5 if fault in IN_MID_ANSWER else 0)
            assert record.output_tokens is None


def test_a_broken_answer_that_is_not_streamed_is_a_failure(tmp_path):
    found = with_faults(tmp_path, *FAULTS, "duplicate", chance=0.1, users=10, requests=6, is_streamed=False)
    assert {fault for _, fault in found} == {None, *FAULTS, "duplicate"}
    assert all((record.error is None) is (fault is None) for record, fault in found)


def test_a_stalled_answer_is_given_up_at_the_timeout(tmp_path):
    with reference("--stall", "1", "--fault-at-token", "3") as (_, url):
        [record] = driven(job(url, tmp_path, requests=1, timeout_s=0.6), tmp_path).records
    assert record.error == "no end after 0.6 s (after 3 chunks)"
    assert record.e2e_s == pytest.approx(0.6, abs=0.2)


def test_a_chunk_that_comes_twice_is_seen_twice(tmp_path):
    """The client tells what came; that it is too much for the tokens counted is the summary's to say."""
    with reference("--duplicate", "1") as (_, url):
        a_job = job(url, tmp_path, requests=2, output_tokens=10)
        found = pairs(a_job, driven(a_job, tmp_path).records)
    assert {len(pair.seen.chunks_s) for pair in found} == {11}
    assert {pair.seen.output_tokens for pair in found} == {10}
    with pytest.raises(AssertionError):
        assert_counts(found, tokens=10)


def test_a_server_killed_in_mid_run_gives_failures_and_no_exception(tmp_path):
    with reference("--die-after", "4") as (_, url):
        records = driven(job(url, tmp_path, users=3, requests=3), tmp_path).records
    assert len(records) == 9
    broken = [record for record in records if record.error is not None]
    assert len(broken) >= 5
    assert all("broke" in record.error or "no answer" in record.error for record in broken)


class Gone(Exception):
    """The check of a server that has died."""


def test_a_watched_server_that_dies_ends_the_run_at_once(tmp_path):
    with reference("--die-after", "4") as (server, url):
        began_s = time.perf_counter()

        def check():
            if server.poll() is not None:
                raise Gone

        with pytest.raises(Gone):
            driven(job(url, tmp_path, users=3, requests=50), tmp_path, check=check)
    assert time.perf_counter() - began_s < 15
    lines = (tmp_path / "requests.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") >= 1
