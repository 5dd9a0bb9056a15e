"""What a client saw beside what the server did, request by request, and the assertions on both.

The reference engine runs in a process of its own and tells at GET /times when it wrote each chunk, on the clock that
the client reads too. So what is late here is the client and the way to it, and a late server is not.
"""

import contextlib
import itertools
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

import harness
from harness import load
from harness.records import ClosedLoop, LoadJob, OpenLoop, RequestRecord, Workload
from scenarios.prompts import prompt

ROOT = Path(harness.__file__).parents[1]
TTFT_S, ITL_S, TOKENS, WORDS = 0.2, 0.02, 25, 24


class Sent(msgspec.Struct):
    """A line of GET /times."""

    prompt_start: str
    received_s: float
    prompt_tokens: int
    tokens: int
    chunks_s: list[float]
    end_s: float | None
    fault: str | None = None


class Pair(msgspec.Struct):
    """One request, as the client saw it and as the server did it."""

    seen: RequestRecord
    did: Sent


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How late may be seen what was done; wide enough for server and client on two busy cores.

    The strict bars are those of `make bench-clients`. A client that is late by nature is found here all the same: it
    is late in the quickest tenth too, where other programs are not.
    """

    tenth_s: float = 0.004
    median_s: float = 0.015
    p95_s: float = 0.060
    gap_median_s: float = ITL_S / 10
    gap_p95_s: float = ITL_S


BOUNDS = Bounds()


# ---------------------------------------------------------------- server and load


@contextlib.contextmanager
def reference(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The engine of known timing: its process and its address."""
    told = ["--ttft-s", str(TTFT_S), "--itl-s", str(ITL_S), "--tokens", str(TOKENS)]
    argv = [sys.executable, "-m", "harness.engines.reference", "--port", "0", *told, *flags]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().split()[-1]
        finally:
            server.kill()


def job(
    url: str,
    folder: Path,
    *,
    api: str = "openai",
    users: int = 1,
    is_streamed: bool = True,
    requests: int = 2,
    output_tokens: int = TOKENS,
    timeout_s: float = 30.0,
    warmup_max_s: float = 0.0,
    open_loop: OpenLoop | None = None,
) -> LoadJob:
    """A closed loop of `users`, without a warm-up unless one is asked for; or the open loop that is given."""
    closed = ClosedLoop(
        users=(users,),
        requests_per_user=requests,
        min_s=0,
        max_s=30,
        warmup_max_s=warmup_max_s,
        request_timeout_s=timeout_s,
    )
    return LoadJob(
        url=url,
        api=api,
        dialect="vllm" if api == "openai" else "ollama",
        model="reference",
        workload=Workload(prompt_words=WORDS, output_tokens=output_tokens, is_streamed=is_streamed),
        load=open_loop or closed,
        users=0 if open_loop else users,
        rate_per_s=open_loop.rates_per_s[0] if open_loop else None,
        repeat=1,
        seed=7,
        is_first=False,
        requests_path=str(folder / "requests.jsonl"),
        client_path=str(folder / "client.json"),
    )


def driven(a_job: LoadJob, folder: Path, **more: Any) -> load.LoadResult:
    """What the client made of the job."""
    return load.drive(a_job, work=folder, log=folder / "load.log", **more)


def times(url: str) -> list[Sent]:
    """What the server did."""
    with urllib.request.urlopen(f"{url}/times") as answer:
        return [msgspec.json.decode(line, type=Sent) for line in answer.read().splitlines()]


def pairs(a_job: LoadJob, records: Iterable[RequestRecord]) -> list[Pair]:
    """Each record with what the server did for it; prompts are unique, so their starts tell."""
    seen, did = list(records), times(a_job.url)
    by_prompt = {sent.prompt_start: sent for sent in did}
    assert len(by_prompt) == len(did) == len(seen)
    return [Pair(one, by_prompt[prompt(a_job.seed, one.user, one.index, WORDS)[:40]]) for one in seen]


def measured(folder: Path, *flags: str, processes: int | None = None, **of_job: Any) -> list[Pair]:
    """One load on a server of its own; all its requests, warm-up included."""
    with reference(*flags) as (_, url):
        a_job = job(url, folder, **of_job)
        result = driven(a_job, folder, processes=processes)
        assert result.health is not None, result.trouble
        assert result.health.requests == len(result.records)
        return pairs(a_job, result.records)


# ---------------------------------------------------------------- what must hold


def assert_counts(found: list[Pair], *, tokens: int | None = TOKENS) -> None:
    """Tokens are the server's, to the last one; every chunk with text was seen once and no other was."""
    for pair in found:
        assert pair.seen.error is None
        assert pair.seen.output_tokens == pair.did.tokens
        assert tokens is None or pair.did.tokens == tokens
        assert pair.seen.prompt_tokens == pair.did.prompt_tokens
        assert len(pair.seen.chunks_s) == len(pair.did.chunks_s)


def assert_nothing_is_seen_before_it_was_done(found: list[Pair]) -> None:
    """Exact: both sides read one clock, and a cause comes before its effect."""
    for pair in found:
        assert pair.seen.sent_s < pair.did.received_s
        for seen_s, did_s in zip(pair.seen.chunks_s, pair.did.chunks_s, strict=True):
            assert seen_s > did_s
        assert pair.did.end_s is not None
        assert pair.did.end_s < pair.seen.end_s


def assert_near(found: list[Pair], bounds: Bounds = BOUNDS) -> None:
    """TTFT, E2E, TPOT and ITL are those of the server: their medians, their p95, and each token's own moment."""
    assert_late_within([p.seen.sent_s - p.did.received_s for p in found], "requests", bounds, is_early=True)
    streamed = [p for p in found if p.did.chunks_s]
    ttfts = [(p.seen.ttft_s, p.did.chunks_s[0] - p.did.received_s) for p in streamed]
    e2es = [(p.seen.e2e_s, p.did.end_s - p.did.received_s) for p in found]
    for name, both in (("TTFT", ttfts), ("E2E", e2es)):
        if both:
            assert all(seen > did for seen, did in both), name
            assert_late_within([seen - did for seen, did in both], name, bounds)
            assert_quantiles_near(both, name, median_s=bounds.median_s, p95_s=bounds.p95_s)
    late = [at - done for p in streamed for at, done in zip(p.seen.chunks_s, p.did.chunks_s, strict=True)]
    if not late:
        return
    assert_late_within(late, "tokens", bounds)
    many = [p for p in streamed if p.did.tokens > 1]
    tpots = [(p.seen.tpot_s, (p.did.end_s - p.did.chunks_s[0]) / (p.did.tokens - 1)) for p in many]
    gaps_near(streamed, bounds)
    assert_quantiles_near(tpots, "TPOT", median_s=bounds.gap_median_s, p95_s=bounds.gap_p95_s)


def gaps_near(found: list[Pair], bounds: Bounds) -> None:
    """The ITL's median and p95 are the server's."""
    seen, did = gaps(p.seen.chunks_s for p in found), gaps(p.did.chunks_s for p in found)
    if seen:
        for q, bound_s in ((0.5, bounds.gap_median_s), (0.95, bounds.gap_p95_s)):
            bias_s = quantile(seen, q) - quantile(did, q)
            assert abs(bias_s) < bound_s, f"ITL p{q * 100:g} is seen {bias_s * 1e3:.2f} ms off"


def assert_quantiles_near(both: list[tuple[float, float]], name: str, *, median_s: float, p95_s: float) -> None:
    """Median and p95 of what was seen are those of what was done, though not of the same requests."""
    for q, bound_s in ((0.5, median_s), (0.95, p95_s)):
        bias_s = quantile([seen for seen, _ in both], q) - quantile([did for _, did in both], q)
        assert abs(bias_s) < bound_s, f"{name} p{q * 100:g} is seen {bias_s * 1e3:.1f} ms off"


def assert_late_within(late_s: list[float], name: str, bounds: Bounds, *, is_early: bool = False) -> None:
    """How much later each was seen than done; `is_early`: how much sooner."""
    late = [-one for one in late_s] if is_early else late_s
    for q, bound_s in ((0.1, bounds.tenth_s), (0.5, bounds.median_s), (0.95, bounds.p95_s)):
        assert 0 < quantile(late, q) < bound_s, f"{name}: p{q * 100:g} is {quantile(late, q) * 1e3:.1f} ms late"


def gaps(streams: Iterable[Iterable[float]]) -> list[float]:
    """All gaps between neighbours."""
    return [later - sooner for moments in streams for sooner, later in itertools.pairwise(moments)]


def quantile(values: list[float], q: float) -> float:
    """The median, or for other shares the smallest value that so many do not exceed."""
    if q == 0.5:
        return median(values)
    ordered = sorted(values)
    return ordered[max(0, ceil(q * len(ordered)) - 1)]
