"""The client's figures against what the server really did, as GET /times of the reference tells it."""

import contextlib
import itertools
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median

import msgspec
import pytest

import harness
from harness import load
from harness.errors import EngineCrashed
from harness.records import ClosedLoop, LoadJob, RequestRecord, Workload
from scenarios.prompts import prompt

pytestmark = pytest.mark.accuracy

ROOT = Path(harness.__file__).parents[1]
TTFT_S, ITL_S, TOKENS, WORDS = 0.2, 0.02, 25, 24
NEAR_S = 0.015
"""How late the median may be seen: a shared machine of two cores runs server and 50 users."""


class Sent(msgspec.Struct):
    """A line of GET /times."""

    prompt_start: str
    received_s: float
    prompt_tokens: int
    tokens: int
    chunks_s: list[float]
    end_s: float | None


class Pair(msgspec.Struct):
    """One request, as the client saw it and as the server did it."""

    seen: RequestRecord
    did: Sent


@contextlib.contextmanager
def reference(*flags):
    told = ["--ttft-s", str(TTFT_S), "--itl-s", str(ITL_S), "--tokens", str(TOKENS)]
    argv = [sys.executable, "-m", "harness.engines.reference", "--port", "0", *told, *flags]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.kill()


def job(url, folder, *, api="openai", users=1, is_streamed=True, requests=2, output_tokens=TOKENS, timeout_s=30.0):
    return LoadJob(
        url=url,
        api=api,
        dialect="vllm" if api == "openai" else "ollama",
        model="reference",
        workload=Workload(prompt_words=WORDS, output_tokens=output_tokens, is_streamed=is_streamed),
        load=ClosedLoop(users=(users,), requests_per_user=requests, min_s=0, max_s=30, request_timeout_s=timeout_s),
        users=users,
        repeat=0,
        seed=7,
        has_warmup=False,
        requests_path=str(folder / "requests.jsonl"),
        client_path=str(folder / "client.json"),
    )


def driven(a_job, folder, **more):
    return load.drive(a_job, work=folder, log=folder / "load.log", **more)


def pairs(a_job, records):
    """Each record with what the server did for it; prompts are unique, so their starts tell."""
    with urllib.request.urlopen(f"{a_job.url}/times") as answer:
        did = [msgspec.json.decode(line, type=Sent) for line in answer.read().splitlines()]
    by_prompt = {sent.prompt_start: sent for sent in did}
    assert len(by_prompt) == len(did) == len(records)
    return [Pair(seen, by_prompt[prompt(a_job.seed, seen.user, seen.index, WORDS)[:40]]) for seen in records]


def measured(folder, *flags, **of_job):
    with reference(*flags) as (_, url):
        a_job = job(url, folder, **of_job)
        return pairs(a_job, driven(a_job, folder).records)


# ---------------------------------------------------------------- what must hold


def assert_counts(pairs, *, tokens=TOKENS):
    """Tokens are the server's, to the last one; every chunk with text was seen once and no other was."""
    for pair in pairs:
        assert pair.seen.error is None
        assert pair.seen.output_tokens == pair.did.tokens == tokens
        assert pair.seen.prompt_tokens == pair.did.prompt_tokens
        assert len(pair.seen.chunks_s) == len(pair.did.chunks_s)


def assert_nothing_is_seen_before_it_was_done(pairs):
    """Exact: both sides read one clock, and a cause comes before its effect."""
    for pair in pairs:
        assert pair.seen.sent_s < pair.did.received_s
        for seen_s, did_s in zip(pair.seen.chunks_s, pair.did.chunks_s, strict=True):
            assert seen_s > did_s
        assert pair.did.end_s < pair.seen.end_s


def assert_near(pairs):
    """Medians of TTFT, ITL and E2E are those of the server within NEAR_S, and never less than it did."""
    ttft_s = [(p.seen.ttft_s, p.did.chunks_s[0] - p.did.received_s) for p in pairs]
    e2e_s = [(p.seen.e2e_s, p.did.end_s - p.did.received_s) for p in pairs]
    for name, both in (("TTFT", ttft_s), ("E2E", e2e_s)):
        assert all(seen > did for seen, did in both), name
        bias_s = median(seen for seen, _ in both) - median(did for _, did in both)
        assert 0 < bias_s < NEAR_S, f"{name} is seen {bias_s * 1000:.1f} ms late"
    assert abs(median(gaps(p.seen.chunks_s for p in pairs)) - ITL_S) < ITL_S / 4
    bias_s = median(gaps(p.seen.chunks_s for p in pairs)) - median(gaps(p.did.chunks_s for p in pairs))
    assert abs(bias_s) < ITL_S / 10, f"ITL is seen {bias_s * 1000:.2f} ms off"


def gaps(streams):
    return [later - sooner for times in streams for sooner, later in itertools.pairwise(times)]


# ---------------------------------------------------------------- the truth


@pytest.mark.parametrize("users", [1, 50])
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_the_client_reports_what_the_server_did(tmp_path, api, users):
    """The OpenAI streams open with a role-only chunk, 200 ms before the first token."""
    found = measured(tmp_path, api=api, users=users)
    assert len(found) == 2 * users
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    assert_near(found)
    assert min(p.seen.ttft_s for p in found) > TTFT_S
    assert min(p.seen.e2e_s for p in found) > TTFT_S + (TOKENS - 1) * ITL_S


def test_a_role_chunk_makes_no_difference_to_the_first_token(tmp_path):
    found = [
        pair
        for flag in ("--role-chunk", "--no-role-chunk")
        for pair in measured(tmp_path, flag, requests=3, output_tokens=5)
    ]
    assert_counts(found, tokens=5)
    assert_near(found)
    assert all(p.seen.headers_s - p.seen.sent_s < TTFT_S / 2 for p in found)


def test_tokens_are_counted_by_the_server_where_a_chunk_carries_several(tmp_path):
    found = measured(tmp_path, "--tokens-per-chunk", "7", "--split-utf8", users=5)
    assert {len(p.seen.chunks_s) for p in found} == {4}
    assert_counts(found)
    assert_nothing_is_seen_before_it_was_done(found)
    tpot_s = median(p.seen.tpot_s for p in found)
    assert tpot_s == pytest.approx(ITL_S * 21 / 24, rel=0.1)  # the last chunk is sent 3 × 7 gaps after the first


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_an_answer_that_is_not_streamed_is_timed_whole(tmp_path, api):
    found = measured(tmp_path, api=api, users=3, is_streamed=False, output_tokens=10)
    assert_counts(found, tokens=10)
    assert_nothing_is_seen_before_it_was_done(found)
    whole_s = TTFT_S + 9 * ITL_S
    assert all(whole_s < p.seen.e2e_s for p in found)
    assert median(p.seen.e2e_s for p in found) < whole_s + NEAR_S


def test_waiting_for_a_free_slot_counts_as_time_to_the_first_token(tmp_path):
    """As with Ollama, which answers one request at a time unless told otherwise."""
    found = measured(tmp_path, "--capacity", "1", users=3, requests=1, output_tokens=10)
    assert_counts(found, tokens=10)
    assert_nothing_is_seen_before_it_was_done(found)
    whole_s = TTFT_S + 9 * ITL_S
    for place, ttft_s in enumerate(sorted(p.seen.ttft_s for p in found)):
        assert ttft_s == pytest.approx(place * whole_s + TTFT_S, abs=0.1)


# ---------------------------------------------------------------- servers that fail


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_a_dropped_connection_is_a_failure_that_keeps_what_was_seen(tmp_path, api):
    with reference("--fail-after-tokens", "5") as (_, url):
        records = driven(job(url, tmp_path, api=api, requests=1), tmp_path).records
    [record] = records
    assert "broke" in record.error
    assert len(record.chunks_s) == 5
    assert record.output_tokens is None


def test_a_stalled_answer_is_given_up_at_the_timeout(tmp_path):
    with reference("--stall-after-tokens", "3") as (_, url):
        [record] = driven(job(url, tmp_path, requests=1, timeout_s=0.6), tmp_path).records
    assert record.error == "no end after 0.6 s (after 3 chunks)"
    assert record.e2e_s == pytest.approx(0.6, abs=0.2)


def test_a_server_killed_in_mid_run_gives_failures_and_no_exception(tmp_path):
    with reference() as (server, url):
        began_s = time.perf_counter()

        def kill_it():
            if time.perf_counter() - began_s > 1.2:
                server.kill()

        records = driven(job(url, tmp_path, users=3, requests=3), tmp_path, check=kill_it).records
    assert len(records) == 9
    broken = [record for record in records if record.error is not None]
    assert broken
    assert all("broke" in record.error or "no answer" in record.error for record in broken)


def test_a_watched_server_that_dies_ends_the_run_at_once(tmp_path):
    with reference() as (server, url):
        began_s = time.perf_counter()

        def check():
            if server.poll() is not None:
                raise EngineCrashed("the reference is gone")
            if time.perf_counter() - began_s > 1.2:
                server.kill()

        with pytest.raises(EngineCrashed):
            driven(job(url, tmp_path, users=3, requests=20), tmp_path, check=check)
    assert time.perf_counter() - began_s < 6
    assert (tmp_path / "requests.jsonl").exists()


# ---------------------------------------------------------------- the assertions can fail


@pytest.fixture
def pair():
    """A request that both sides agree on."""
    did = [10.2 + n * ITL_S for n in range(TOKENS)]
    return Pair(
        seen=RequestRecord(
            user=0,
            index=0,
            is_warmup=False,
            sent_s=9.999,
            end_s=did[-1] + 0.002,
            chunks_s=tuple(at + 0.001 for at in did),
            prompt_tokens=9,
            output_tokens=TOKENS,
        ),
        did=Sent("", received_s=10.0, prompt_tokens=9, tokens=TOKENS, chunks_s=did, end_s=did[-1] + 0.001),
    )


def changed(pair, **seen):
    return Pair(msgspec.structs.replace(pair.seen, **seen), pair.did)


def test_the_assertions_hold_for_an_honest_pair(pair):
    assert_counts([pair])
    assert_nothing_is_seen_before_it_was_done([pair])
    assert_near([pair])


@pytest.mark.parametrize(
    "lie", [{"output_tokens": 24}, {"prompt_tokens": 8}, {"chunks_s": (1.0,)}, {"error": "it broke"}]
)
def test_the_counts_can_be_found_wrong(pair, lie):
    with pytest.raises(AssertionError):
        assert_counts([changed(pair, **lie)])


@pytest.mark.parametrize("early", [{"sent_s": 10.0001}, {"end_s": 10.5}, {"chunks_s": None}])
def test_what_is_seen_too_early_is_found(pair, early):
    if "chunks_s" in early:
        early = {"chunks_s": (*pair.seen.chunks_s[:-1], pair.did.chunks_s[-1])}
    with pytest.raises(AssertionError):
        assert_nothing_is_seen_before_it_was_done([changed(pair, **early)])


@pytest.mark.parametrize("name", ["TTFT", "E2E", "ITL"])
def test_a_biased_client_is_found(pair, name):
    seen = pair.seen
    late = {
        "TTFT": {"chunks_s": (seen.chunks_s[0] + 0.018, *seen.chunks_s[1:])},
        "E2E": {"end_s": seen.end_s + 0.02},
        # Bursts, as a client makes them that waits until its buffer is full.
        "ITL": {"chunks_s": tuple(seen.chunks_s[n // 4 * 4] for n in range(TOKENS))},
    }[name]
    with pytest.raises(AssertionError):
        assert_near([changed(pair, **late)])
