"""Synthetic runs: figures of the right size, the same ones every time, with everything that can go wrong in them."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from harness.records import (
    Cell,
    CellState,
    ClientHealth,
    ClosedLoop,
    Comparison,
    EngineFacts,
    Estimate,
    Host,
    Metric,
    Outcome,
    Preset,
    Run,
    RunState,
    Scenario,
    Target,
    Trial,
    Verdict,
    Workload,
)

LLAMACPP = "llama.cpp, the engine inside Ollama"
LADDER = (1, 5, 10, 50, 100)
BASELINE_TOK_S = {1: 372.0, 5: 369.0, 10: 362.0, 50: 366.0, 100: 361.0}
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
    return {"p50": estimate(p50, n=n), "p95": estimate(p50 * tail, spread=0.08, n=n) if n >= 72 else None}


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
    log="engine-baseline-llamacpp.log",
    launch_s=2.84,
)


def cell(
    role: str, facts: EngineFacts, one: Scenario, users: int, repeat: int, *, tok_s: float, slots: int | None
) -> Cell:
    """A measured cell whose times agree with its throughput."""
    tokens, per_user = one.workload.output_tokens, tok_s / users
    at_once = users if slots is None else min(users, slots)
    itl_s = at_once / tok_s
    ttft_s = 0.018 + 0.0004 * users if slots is None else 0.011 + (users - 1) * tokens / tok_s
    n = max(one.load.requests_per_user * users, int(20 * tok_s / tokens))
    latency: dict[str, Metric] = {"e2e_s": metric(tokens / per_user + 0.01, tail=1.12, n=n)}
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
        users=users,
        repeat=repeat,
        state=CellState.MEASURED,
        requests=n,
        window_s=20.4,
        **latency,
        output_tok_s=estimate(tok_s, spread=0.02, n=10, unit="tok/s"),
        prompt_tokens_mean=271.4 if facts.engine == "vllm" else 272.0,
        output_tokens_mean=float(tokens),
        client=ClientHealth(
            cpu_ratio=0.031 + 0.004 * users,
            lag_p50_s=0.00008,
            lag_p99_s=0.0011,
            started_s=10.0,
            stopped_s=30.4,
            ended_s=31.0,
        ),
        engine_rss_peak_bytes=3_900_000_000,
        gpu_memory_peak_bytes=21_800_000_000 if facts.engine == "vllm" else 2_300_000_000,
        requests_file=f"requests/{role}-{one.name}-{users}-{repeat}.jsonl",
    )


def side(role: str, facts: EngineFacts, tok_s: dict[int, float], *, slots: int | None, seed: int) -> list[Cell]:
    chance = random.Random(seed)
    return [
        cell(role, facts, one, users, repeat, tok_s=tok_s[users] * chance.uniform(0.975, 1.025), slots=slots)
        for one in SCENARIOS
        for users in one.load.users
        for repeat in (1, 2, 3)
    ]


METRICS = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50", "e2e_s.p95")


def values(cells: Iterable[Cell], name: str) -> list[float]:
    field, _, stat = name.partition(".")
    found = [getattr(one, field) for one in cells if one.state is CellState.MEASURED]
    found = [one.get(stat) if stat else one for one in found]
    return [one.value for one in found if one is not None]


def compared(cells: Sequence[Cell], targets: Sequence[Target]) -> tuple[Comparison, ...]:
    """Ratios with an interval of 4% either way; what is judged follows the rules of the harness."""
    out = []
    for one in SCENARIOS:
        for users in one.load.users:
            here = [c for c in cells if (c.scenario, c.users) == (one.name, users)]
            for name in METRICS:
                both = [values([c for c in here if c.role == role], name) for role in ("baseline", "candidate")]
                if any(both):
                    out.append(comparison(one.name, users, name, both[0], both[1], targets))
    return tuple(out)


def mean(found: Sequence[float]) -> float | None:
    return math.prod(found) ** (1 / len(found)) if found else None


def comparison(
    name: str, users: int, what: str, old: Sequence[float], new: Sequence[float], targets: Sequence[Target]
) -> Comparison:
    baseline, candidate = mean(old), mean(new)
    if baseline is None or candidate is None or min(len(old), len(new)) < 2:
        return Comparison(
            scenario=name,
            users=users,
            metric=what,
            baseline=baseline,
            candidate=candidate,
            verdict=Verdict.UNDECIDED,
            reason=f"{len(old)} of 3 repeats of the baseline count, 2 are needed",
        )
    ratio = candidate / baseline if what == "output_tok_s" else baseline / candidate
    found = estimate(ratio, spread=0.04, n=6, unit="ratio")
    verdict = Verdict.UNDECIDED
    if found.low > 1.02:
        verdict = Verdict.FASTER
    elif found.high < 0.98:
        verdict = Verdict.SLOWER
    row = Comparison(
        scenario=name,
        users=users,
        metric=what,
        baseline=baseline,
        candidate=candidate,
        ratio=found,
        verdict=verdict,
        reason="the interval reaches over 1: more repeats" if verdict is Verdict.UNDECIDED else "",
    )
    for target in targets:
        if (target.scenario, target.users) != (name, users):
            continue
        if target.metric == what:
            met = True if found.low >= target.target_ratio else False if found.high < target.target_ratio else None
            row = msgspec.structs.replace(
                row, target=target.target_ratio, done=target.done_ratio, stretch=target.stretch_ratio, met=met
            )
        if target.absolute_metric == what:
            row = msgspec.structs.replace(
                row, absolute_s=target.absolute_s, absolute_met=candidate <= (target.absolute_s or 0)
            )
    return row


CARD = {"gpu": "rtx4090", "model": "qwen2.5-1.5b"}
TARGETS = (
    Target(
        name="sequential",
        scenario="sequential",
        users=1,
        metric="e2e_s.p50",
        done_ratio=2,
        target_ratio=2,
        stretch_ratio=5,
        absolute_metric="e2e_s.p50",
        then_s=0.232,
        absolute_s=0.2,
        **CARD,
    ),
    Target(
        name="concurrent-5",
        scenario="concurrent",
        users=5,
        metric="output_tok_s",
        done_ratio=1.5,
        target_ratio=2,
        absolute_metric="e2e_s.p50",
        then_s=7.57,
        absolute_s=3.0,
        **CARD,
    ),
    Target(
        name="concurrent-50", scenario="concurrent", users=50, metric="output_tok_s", done_ratio=1.5, target_ratio=2
    ),
    Target(
        name="streaming",
        scenario="streaming",
        users=1,
        metric="e2e_s.p50",
        done_ratio=1.5,
        target_ratio=2,
        absolute_metric="e2e_s.p50",
        then_s=0.617,
        absolute_s=0.5,
        **CARD,
    ),
)

TRIALS = (
    Trial(number=0, flags={}, outcome=Outcome.MEASURED, launch_s=94.2, wall_s=412.0, log="engine-baseline-vllm.log"),
    Trial(
        number=1,
        flags={"max-num-batched-tokens": 16384, "max-num-seqs": 256, "max-model-len": 4096},
        outcome=Outcome.MEASURED,
        objective=estimate(1.18, spread=0.03, n=30, unit="ratio"),
        launch_s=101.0,
        wall_s=405.0,
    ),
    Trial(
        number=2,
        flags={"max-num-batched-tokens": 2048, "max-num-seqs": 32, "max-model-len": 2048},
        outcome=Outcome.MEASURED,
        objective=estimate(0.61, spread=0.02, n=30, unit="ratio"),
        launch_s=98.0,
        wall_s=451.0,
    ),
    Trial(
        number=3,
        flags={"max-num-batched-tokens": 16384, "max-num-seqs": 256, "max-model-len": 32768},
        outcome=Outcome.OUT_OF_MEMORY,
        constraints={"memory_short_gib": 1.4},
        reason="vLLM needs 1.40 GiB more for one request of 32768 tokens (log: engine-trial-3-vllm.log)",
        wall_s=61.0,
    ),
    Trial(number=4, flags=TUNED, outcome=Outcome.MEASURED, objective=estimate(1.37, spread=0.05, n=30), wall_s=399.0),
    Trial(
        number=5,
        flags={"max-num-batched-tokens": 8192, "max-num-seqs": 128, "max-model-len": 4096},
        outcome=Outcome.MEASURED,
        objective=estimate(1.02, spread=0.06, n=30, unit="ratio"),
        launch_s=96.0,
        wall_s=402.0,
    ),
    Trial(
        number=6,
        flags={"max-num-batched-tokens": 8192, "max-num-seqs": 64, "max-model-len": 4096},
        outcome=Outcome.INVALID,
        reason="the client was the limit: it used 97% of a core",
        launch_s=99.0,
        wall_s=420.0,
    ),
    Trial(
        number=7,
        flags={"max-num-batched-tokens": 4096, "max-num-seqs": 128, "max-model-len": 2048},
        outcome=Outcome.HUNG,
        reason="vLLM 0.32.0 was not ready within 900 s",
        wall_s=900.0,
    ),
)

PRESET = Preset(
    gpu="rtx4090",
    model="qwen2.5-1.5b",
    flags=TUNED,
    is_default=False,
    objective="balanced: geometric mean of the ratios of output tokens per second at 1, 5, 10, 50 and 100 users",
    ratio=estimate(1.37, spread=0.05, n=30, unit="ratio"),
    vllm_version="0.32.0",
    gpu_title="NVIDIA GeForce RTX 4090",
    run="20261121T090000Z-tune-qwen2.5-1.5b-rtx4090",
    created_utc="2026-11-21T10:12:00+00:00",
)


def compare_recorded() -> Recorded:
    candidate = vllm_facts("candidate", ", tuned", dict(TUNED))
    cells = [
        *side("baseline", LLAMACPP_FACTS, BASELINE_TOK_S, slots=1, seed=1),
        *side("candidate", candidate, CANDIDATE_TOK_S, slots=None, seed=2),
    ]
    cells = [spoiled(one) for one in cells]
    run = Run(
        version=1,
        id="20261122T140312Z-compare-qwen2.5-1.5b-rtx4090",
        command="harness compare --baseline llamacpp --model qwen2.5-1.5b --repeats 3",
        kind="compare",
        state=RunState.DONE,
        started_utc="2026-11-22T14:03:12+00:00",
        ended_utc="2026-11-22T14:44:40+00:00",
        harness_version="0.1.0",
        host=HOST,
        gpu="rtx4090",
        model="qwen2.5-1.5b",
        seed=1,
        scenarios=SCENARIOS,
        engines=(LLAMACPP_FACTS, candidate),
        comparisons=compared(cells, TARGETS),
        objective="",
        preset=PRESET,
        tuned_in=PRESET.run,
        notes=(
            "The weights differ in precision: q4_1 for the baseline, bf16 for the candidate. A ratio then is not the "
            "engine's alone.",
            "One launch per side, the baseline first: what differs from launch to launch, and drift of the machine "
            "between the two, is in the ratios but not in their intervals.",
        ),
    )
    return Recorded(run=run, cells=tuple(cells), trials=TRIALS, targets=TARGETS)


def spoiled(one: Cell) -> Cell:
    """Two of the cells went wrong."""
    place = (one.role, one.scenario, one.users, one.repeat)
    if place == ("candidate", "concurrent", 100, 3):
        return msgspec.structs.replace(
            one,
            state=CellState.INVALID,
            reasons=("the client was the limit: it used 97% of a core",),
            client=msgspec.structs.replace(one.client, cpu_ratio=0.97) if one.client else None,
        )
    if place[:3] == ("baseline", "concurrent", 100) and one.repeat > 1:
        return msgspec.structs.replace(
            one,
            state=CellState.FAILED,
            reasons=("all 300 requests failed",),
            requests=0,
            failures=300,
            window_s=None,
            ttft_s={},
            itl_s={},
            tpot_s={},
            e2e_s={},
            output_tok_s=None,
        )
    return one


def tune_recorded() -> Recorded:
    """The search behind the settings of the comparison."""
    base = vllm_facts("baseline", ", defaults", {})
    best = vllm_facts("trial 4", ", trial 4", dict(TUNED))
    third = vllm_facts("trial 1", ", trial 1", dict(TRIALS[1].flags))
    cells: list[Cell] = []
    for facts, factor, seed in ((base, 0.72, 3), (third, 0.86, 4), (best, 1.0, 5)):
        tok_s = {users: CANDIDATE_TOK_S[users] * factor for users in LADDER}
        found = side(facts.role, facts, tok_s, slots=None, seed=seed)
        cells += [one for one in found if one.scenario == "concurrent"]
    run = Run(
        version=1,
        id=PRESET.run,
        command="harness tune --gpu rtx4090 --model qwen2.5-1.5b --budget 60m",
        kind="tune",
        state=RunState.DONE,
        started_utc="2026-11-21T09:00:00+00:00",
        ended_utc="2026-11-21T10:12:00+00:00",
        harness_version="0.1.0",
        host=HOST,
        gpu="rtx4090",
        model="qwen2.5-1.5b",
        seed=1,
        scenarios=(SCENARIOS[1],),
        engines=(base, third, best),
        objective="balanced",
        preset=PRESET,
        notes=(
            "The winner was chosen as the best of 4 candidates from one launch each, by the same figures that are "
            "shown for it: such a figure is too good on average. A comparison measures it anew.",
        ),
    )
    return Recorded(run=run, cells=tuple(cells), trials=TRIALS)


def bench_recorded() -> Recorded:
    """llama.cpp alone, whole answers and streamed ones."""
    facts = msgspec.structs.replace(LLAMACPP_FACTS, role="bench")
    cells = side("bench", facts, BASELINE_TOK_S, slots=1, seed=6)
    run = msgspec.structs.replace(
        tune_recorded().run,
        id="20261120T080000Z-bench-qwen2.5-1.5b-rtx4090",
        command="harness bench --engine llamacpp --model qwen2.5-1.5b",
        kind="bench",
        scenarios=SCENARIOS,
        engines=(facts,),
        objective="",
        preset=None,
        notes=(),
    )
    return Recorded(run=run, cells=tuple(cells), trials=())


@pytest.fixture
def compared_run() -> Recorded:
    return compare_recorded()


@pytest.fixture
def tuned_run() -> Recorded:
    return tune_recorded()


@pytest.fixture
def benched_run() -> Recorded:
    return bench_recorded()


@pytest.fixture
def some_estimate() -> Callable[..., Estimate]:
    return estimate
