"""Cells as a run would have measured them: figures of the right size, the same ones every time."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.records import (
    Calibration,
    Cell,
    CellState,
    ClientHealth,
    ClosedLoop,
    EngineFacts,
    Estimate,
    Host,
    Level,
    Metric,
    Run,
    Sampling,
    Scenario,
    SideManifest,
    Target,
    TelemetrySummary,
    Trial,
    Workload,
)

LLAMACPP = "llama.cpp, the engine inside Ollama"
LADDER = (1, 5, 10, 50, 100)
BLOCKS, REPEATS = 2, 2
BASELINE_TOK_S = {1: 372.0, 5: 369.0, 10: 362.0, 50: 366.0, 100: 361.0}
BASELINE_TUNED_TOK_S = {1: 370.0, 5: 690.0, 10: 767.0, 50: 832.0, 100: 754.0}
CANDIDATE_TOK_S = {1: 358.0, 5: 1523.0, 10: 3462.0, 50: 12237.0, 100: 17873.0}


@dataclass(frozen=True)
class Recorded:
    """All that a run folder holds, and the targets."""

    run: Run
    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    targets: tuple[Target, ...] = ()


def estimate(value: float, *, spread: float = 0.03, n: int = 300, unit: str = "s") -> Estimate:
    return Estimate(value=value, low=value * (1 - spread), high=value * (1 + spread), confidence=0.95, n=n, unit=unit)


def metric(p50: float, *, tail: float, n: int) -> Metric:
    return {
        "p50": estimate(p50, n=n),
        "p90": estimate(p50 * (1 + 0.7 * (tail - 1)), spread=0.06, n=n) if n >= 36 else None,
        "p95": estimate(p50 * tail, spread=0.08, n=n) if n >= 72 else None,
        "p99": estimate(p50 * (1.1 * tail), spread=0.1, n=n) if n >= 368 else None,
    }


def scenario(name: str, title: str, *, users: tuple[int, ...], is_streamed: bool, tokens: int, words: int) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        workload=Workload(prompt_words=words, output_tokens=tokens, is_streamed=is_streamed),
        load=ClosedLoop(users=users, requests_per_user=3 if len(users) > 1 else 20, min_s=20, max_s=300),
    )


SCENARIOS = (
    scenario(
        "sequential", "One request after another, whole answers", users=(1,), is_streamed=False, tokens=64, words=64
    ),
    scenario("concurrent", "Many users at once, streamed", users=LADDER, is_streamed=True, tokens=128, words=192),
    scenario("streaming", "One user reading along, streamed", users=(1,), is_streamed=True, tokens=64, words=64),
)

HOST = Host(
    cpu="AMD EPYC 9354 32-Core Processor",
    cores=16,
    memory_bytes=128 * 2**30,
    os="Linux 6.8.0, glibc 2.36",
    python="3.11.7",
    gpu="NVIDIA GeForce RTX 4090",
    gpu_driver="570.86.15",
)

TUNED = {"max-num-batched-tokens": 16384, "max-num-seqs": 128, "max-model-len": 4096}


def vllm_facts(role: str, suffix: str, flags: dict[str, int | float | str | bool]) -> EngineFacts:
    return EngineFacts(
        role=role,
        engine="vllm",
        title=f"vLLM 0.32.0{suffix}",
        version="0.32.0",
        precision="bf16",
        flags=flags,
        resolved={**flags, "max-model-len": flags.get("max-model-len", 32768), "dtype": "bfloat16"},
        argv=("python", "-m", "vllm.entrypoints.openai.api_server", "--model", "Qwen/Qwen2.5-1.5B-Instruct"),
        env={"VLLM_NO_USAGE_STATS": "1", "VLLM_ATTENTION_BACKEND": "FLASH_ATTN"},
        weights_bytes=3_090_000_000,
        log=f"engine-{role.replace(' ', '-')}-vllm.log",
        launch_s=97.3,
    )


LLAMACPP_FACTS = EngineFacts(
    role="baseline",
    engine="llamacpp",
    title=LLAMACPP,
    version="0.2.14",
    precision="q4_1",
    resolved={"slots": 1, "context-tokens": 4096, "threads": 8},
    argv=("python", "-m", "harness.engines.llamacpp", "--model", "model.Q4_1.gguf", "--slots", "1"),
    slots=1,
    weights_bytes=1_020_000_000,
    log="engine-baseline-llamacpp.log",
    launch_s=2.84,
)
TUNED_FACTS = msgspec.structs.replace(
    LLAMACPP_FACTS,
    role="baseline tuned",
    title=f"{LLAMACPP}, 100 slots",
    flags={"flash-attention": "on", "context-tokens": 4096},
    resolved={"slots": 100, "context-tokens": 4096, "threads": 8},
    slots=100,
    log="engine-baseline-tuned-llamacpp.log",
)


def in_blocks(*sides: EngineFacts) -> tuple[EngineFacts, ...]:
    """Each launch of each side."""
    return tuple(
        msgspec.structs.replace(facts, block=block, launch_s=(facts.launch_s or 0) + 0.2 * block)
        for block in range(1, BLOCKS + 1)
        for facts in sides
    )


def side_manifest(facts: EngineFacts, **more: object) -> SideManifest:
    is_vllm = facts.engine == "vllm"
    return msgspec.structs.replace(
        SideManifest(
            role=facts.role,
            title=facts.title,
            version=facts.version,
            weights_precision=facts.precision,
            weights_bytes=facts.weights_bytes,
            kv_precision="bfloat16" if is_vllm else "f16",
            context_tokens=4096,
            sequences=128 if is_vllm else facts.slots,
            prompt_tokens_mean=271.4 if is_vllm else 272.0,
            output_tokens_mean=112.3,
            sampling=Sampling(),
            prefix_cache="on",
            prefix_hit_ratio=0.113 if is_vllm else None,
            keep_alive="forever",
        ),
        **more,
    )


CALIBRATION = Calibration(
    users=10,
    requests=120,
    ttft_bias_s=0.00042,
    itl_bias_s=0.000031,
    e2e_bias_s=0.00058,
    cpu_ratio=0.071,
    measured_utc="2026-11-22T13:20:00+00:00",
    harness_version="0.1.0",
    host="AMD EPYC 9354 32-Core Processor, 16 cores",
)
CEILING_TOK_S = {"vllm": 430.0, "llamacpp": 910.0}
"""Of one sequence; the memory's bandwidth over what a token reads."""


def readings(facts: EngineFacts, users: int, tok_s: float) -> TelemetrySummary:
    is_vllm = facts.engine == "vllm"
    power_w = 190.0 + 60 * math.log10(users) if is_vllm else 171.0
    return TelemetrySummary(
        samples=41,
        has_gpu=True,
        engine_rss_peak_bytes=3_900_000_000,
        engine_cpu_mean_ratio=1.08,
        machine_cpu_mean_ratio=0.11,
        gpu_memory_peak_bytes=21_800_000_000 if is_vllm else 2_300_000_000,
        gpu_power_mean_w=power_w,
        energy_j=power_w * 20.4,
        energy_per_token_j=power_w / tok_s,
        gpu_clock_mean_hz=2.52e9,
        gpu_clock_min_hz=2.49e9,
        gpu_temperature_max_c=64.0,
        gpu_pcie="gen4 x16",
        foreign_pids=(),
        running_mean=float(users) if is_vllm else None,
        waiting_mean=0.0 if is_vllm else None,
        waiting_max=1.0 if is_vllm else None,
        kv_used_max_ratio=0.004 * users if is_vllm else None,
        preemptions=0.0 if is_vllm else None,
        prefix_hit_ratio=0.113 if is_vllm else None,
    )


def health(users: int) -> ClientHealth:
    cpu_ratio = 0.031 + 0.004 * users
    return ClientHealth(
        cpu_ratio=cpu_ratio,
        cpu_ratios=(cpu_ratio,),
        lag_p50_s=0.00008,
        lag_p99_s=0.0011,
        send_lag_p50_s=0.00021,
        send_lag_p99_s=0.0024,
        rtt_p50_s=0.00011,
        started_s=10.0,
        stopped_s=30.4,
        ended_s=31.0,
        warmup_s=4.2,
        is_steady=True,
        requests=12 * users,
    )


def cell(
    role: str,
    facts: EngineFacts,
    one: Scenario,
    level: Level,
    *,
    block: int,
    repeat: int,
    tok_s: float,
    slots: int | None,
    drift: float = 1.0,
) -> Cell:
    """A measured cell whose times agree with its throughput."""
    tokens, users = one.workload.output_tokens, level.users or 8
    at_once = users if slots is None else min(users, slots)
    itl_s = at_once / tok_s
    ttft_s = 0.018 + 0.0004 * users if slots is None else 0.011 + (users - at_once) * tokens / tok_s
    least = one.load.requests_per_user * users if isinstance(one.load, ClosedLoop) else 0
    n = max(least, int(20 * tok_s / tokens))
    latency: dict[str, Metric] = {"e2e_s": metric(tokens * users / tok_s + 0.01, tail=1.12, n=n)}
    if one.workload.is_streamed:
        latency |= {
            "ttft_s": metric(ttft_s, tail=1.6, n=n),
            "itl_s": metric(itl_s, tail=1.9, n=n),
            "tpot_s": metric(itl_s * 1.01, tail=1.2, n=n),
        }
    return Cell(
        engine=facts.engine,
        title=facts.title,
        role=role,
        model="qwen2.5-1.5b",
        scenario=one.name,
        users=level.users,
        rate_per_s=level.rate_per_s,
        block=block,
        repeat=repeat,
        state=CellState.MEASURED,
        requests=n,
        window_s=20.4,
        **latency,
        output_tok_s=estimate(tok_s, spread=0.02, n=10, unit="tok/s"),
        requests_per_s=estimate(tok_s / tokens, spread=0.03, n=10, unit="requests/s"),
        in_flight_mean=0.997 * users,
        drift_ratio=estimate(drift, spread=0.03, n=10, unit="ratio"),
        prompt_tokens_mean=271.4 if facts.engine == "vllm" else 272.0,
        output_tokens_mean=float(tokens),
        client=health(users),
        telemetry=readings(facts, users, tok_s),
        ceilings={"output_tok_s": ceiling_tok_s(facts, at_once), "ttft_s": 0.0051, "itl_s": 0.0011},
        requests_file=f"requests/{role}-{one.name}-{level.name}-{block}-{repeat}.jsonl",
    )


def ceiling_tok_s(facts: EngineFacts, at_once: int) -> float:
    """Nearly as many times as there are sequences, since all share the reading of the weights."""
    return CEILING_TOK_S[facts.engine] * at_once / (1 + 0.004 * at_once)


def side(
    role: str,
    facts: EngineFacts,
    tok_s: dict[int, float],
    *,
    slots: int | None,
    seed: int,
    blocks: int = BLOCKS,
    repeats: int = REPEATS,
) -> list[Cell]:
    """All cells of one server, block by block."""
    chance = random.Random(seed)
    return [
        cell(
            role,
            facts,
            one,
            level,
            block=block,
            repeat=repeat,
            tok_s=tok_s[level.users] * chance.uniform(0.975, 1.025),
            slots=slots,
            drift=chance.uniform(0.985, 1.015),
        )
        for block in range(1, blocks + 1)
        for one in SCENARIOS
        for level in one.levels
        for repeat in range(1, repeats + 1)
    ]


def alternated(*sides: Sequence[Cell]) -> list[Cell]:
    """In the order in which they are launched: A B, B A."""
    return [
        one
        for block in range(1, BLOCKS + 1)
        for cells in (sides if block % 2 else tuple(reversed(sides)))
        for one in cells
        if one.block == block
    ]
