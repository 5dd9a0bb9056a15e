"""How many tokens a second our client takes in: 100 streams of 150 tok/s to 4 Locust processes."""

import os
import time
from pathlib import Path

from benchproxy import machine

from benchclients.rounds import Row, reference, times
from benchclients.tools import MODEL
from harness import load
from harness.records import ClosedLoop, LoadJob, Workload

USERS, RATE_TOK_S, PROCESSES = 100, 150.0, 4
TTFT_S = 0.2
SETTLE_S, HELD_S = 3.0, 10.0
"""Into the load, and how long it is looked at; all streams are under way then."""


def measured(number: int, *, scratch: Path, cores: machine.Cores) -> Row:
    """One run. Every user has one answer, which lasts longer than is looked at."""
    tokens = round((SETTLE_S + HELD_S + 4.0) * RATE_TOK_S)
    before_s, server_cpu_s = time.perf_counter(), 0.0
    with reference("--itl-s", repr(1 / RATE_TOK_S)) as (url, pid):
        before = machine.busy([os.getpid()], cores)
        result = load.drive(
            _job(url, tokens=tokens, folder=scratch),
            work=scratch,
            log=scratch / "load.log",
            processes=PROCESSES,
        )
        after = machine.busy([os.getpid()], cores)
        server_cpu_s = machine.cpu_s(pid)
        did = times(url)
    if result.health is None:
        raise ValueError(result.trouble)
    from_s = max(one.received_s for one in did) + SETTLE_S
    to_s = from_s + HELD_S
    seen = sum(from_s <= at_s < to_s for record in result.records for at_s in record.chunks_s)
    sent = sum(from_s <= at_s < to_s for one in did for at_s in one.chunks_s)
    health = result.health
    return {
        "round": number,
        "offered_tok_s": USERS * RATE_TOK_S,
        "sent_tok_s": sent / HELD_S,
        "seen_tok_s": seen / HELD_S,
        "share": seen / HELD_S / (USERS * RATE_TOK_S),
        "share_of_sent": seen / sent,
        "failures": sum(record.error is not None for record in result.records),
        "cpu_ratios": list(health.cpu_ratios),
        "cpu_ratio": health.cpu_ratio,
        "lag_p50_ms": health.lag_p50_s * 1e3,
        "lag_p99_ms": health.lag_p99_s * 1e3,
        "server_cpu_ratio": server_cpu_s / (time.perf_counter() - before_s),
        "foreign_cores": machine.foreign_cores(before, after),
    }


def _job(url: str, *, tokens: int, folder: Path) -> LoadJob:
    return LoadJob(
        url=url,
        api="openai",
        dialect="vllm",
        model=MODEL,
        workload=Workload(prompt_words=16, output_tokens=tokens, is_streamed=True),
        load=ClosedLoop(
            users=(USERS,),
            requests_per_user=1,
            min_requests=1,
            min_s=0,
            max_s=120,
            warmup_max_s=0,
            request_timeout_s=90,
        ),
        users=USERS,
        repeat=1,
        seed=1,
        requests_path=str(folder / "requests.jsonl"),
        client_path=str(folder / "client.json"),
    )
