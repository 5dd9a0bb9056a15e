"""Whole runs of every kind, with everything that can go wrong in them."""

import msgspec

from harness.records import (
    Capacity,
    CapacityStep,
    Cell,
    CellState,
    ClosedLoop,
    Estimate,
    Host,
    Level,
    Load,
    Manifest,
    OpenLoop,
    Preset,
    Replay,
    Run,
    RunState,
    Scenario,
    Slo,
    TelemetrySummary,
    Tier,
    Workload,
)
from harness.store import RESULTS_VERSION
from tests.unit.harness.report.recorded_cells import (
    BASELINE_TOK_S,
    BASELINE_TUNED_TOK_S,
    CALIBRATION,
    CANDIDATE_TOK_S,
    HOST,
    LADDER,
    LLAMACPP_FACTS,
    SCENARIOS,
    TUNED,
    TUNED_FACTS,
    Recorded,
    alternated,
    cell,
    estimate,
    in_blocks,
    side,
    side_manifest,
    vllm_facts,
)
from tests.unit.harness.report.recorded_comparisons import TARGETS, TRIALS, compared

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
    """As people run them, in alternating blocks, against the defaults and the best of the baseline's own settings."""
    candidate = vllm_facts("candidate", ", tuned", dict(TUNED))
    cells = alternated(
        side("baseline", LLAMACPP_FACTS, BASELINE_TOK_S, slots=1, seed=1),
        side("baseline tuned", TUNED_FACTS, BASELINE_TUNED_TOK_S, slots=100, seed=7),
        side("candidate", candidate, CANDIDATE_TOK_S, slots=None, seed=2),
    )
    cells = [spoiled(one) for one in cells]
    sides = (LLAMACPP_FACTS, TUNED_FACTS, candidate)
    run = Run(
        version=RESULTS_VERSION,
        id="20261122T140312Z-compare-qwen2.5-1.5b-rtx4090",
        command="harness compare --baseline llamacpp --model qwen2.5-1.5b --repeats 2",
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
        engines=in_blocks(*sides),
        comparisons=compared(cells, TARGETS, ("baseline", "baseline tuned")),
        objective="",
        preset=PRESET,
        manifest=Manifest(
            tier=Tier.AS_RUN,
            sides=tuple(side_manifest(facts) for facts in sides),
            differences=(
                "Precision of the weights: q4_1 (baseline), q4_1 (baseline tuned), bf16 (candidate).",
                "Sequences computed at a time, at most: 1 (baseline), 100 (baseline tuned), 128 (candidate).",
            ),
        ),
        calibration=CALIBRATION,
        tuned_in=PRESET.run,
        notes=("The baseline's own settings, each tried once: 4 slots: 650 tok/s, 100 slots: 754 tok/s.",),
    )
    return Recorded(run=run, cells=tuple(cells), trials=TRIALS, targets=TARGETS)


def spoiled(one: Cell) -> Cell:
    """Some of the cells went wrong, and one counts with a word of caution."""
    place = (one.role, one.scenario, one.users, one.block, one.repeat)
    if place == ("candidate", "concurrent", 100, 2, 2):
        return msgspec.structs.replace(
            one,
            state=CellState.INVALID,
            reasons=("the client was the limit: it used 97% of a core, over 90%",),
            client=msgspec.structs.replace(one.client, cpu_ratio=0.97) if one.client else None,
        )
    if place == ("candidate", "concurrent", 50, 2, 1) and one.telemetry:
        reason = "software thermal slowdown"
        return msgspec.structs.replace(
            one,
            flags=(f"the card's clocks were held down in 12% of the samples: {reason}",),
            telemetry=msgspec.structs.replace(one.telemetry, throttle={reason: 0.12}, gpu_clock_min_hz=1.98e9),
        )
    if place[:3] == ("baseline", "concurrent", 100) and place[3:] != (1, 1):
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
            requests_per_s=None,
            in_flight_mean=None,
            drift_ratio=None,
            telemetry=None,
            ceilings={},
        )
    return one


CPU_HOST = Host(
    cpu="Intel(R) Xeon(R) Platinum 8481C",
    cores=2,
    memory_bytes=24 * 2**30,
    os="Linux 6.8.0, glibc 2.36",
    python="3.11.7",
)


def without_card(one: Cell) -> Cell:
    """The same cell on a machine without a GPU."""
    summary = TelemetrySummary(
        samples=41,
        has_gpu=False,
        engine_rss_peak_bytes=1_300_000_000,
        engine_cpu_mean_ratio=1.86,
        machine_cpu_mean_ratio=0.97,
        running_mean=one.telemetry.running_mean if one.telemetry else None,
    )
    return msgspec.structs.replace(one, telemetry=summary, ceilings={})


def equal_recorded() -> Recorded:
    """Equal conditions on synthetic weights, on a machine without a GPU, never calibrated."""
    base = msgspec.structs.replace(
        LLAMACPP_FACTS, precision="f16", slots=100, is_synthetic=True, resolved={"slots": 100, "context-tokens": 4096}
    )
    candidate = msgspec.structs.replace(vllm_facts("candidate", ", defaults", {}), is_synthetic=True)
    slow = {users: rate / 10 for users, rate in BASELINE_TUNED_TOK_S.items()}
    fast = {users: rate / 40 for users, rate in CANDIDATE_TOK_S.items()}
    cells = [
        without_card(one)
        for one in alternated(
            side("baseline", base, slow, slots=100, seed=11), side("candidate", candidate, fast, slots=None, seed=12)
        )
    ]
    run = msgspec.structs.replace(
        compare_recorded().run,
        id="20261123T090000Z-compare-qwen2.5-1.5b-cpu",
        command="harness compare --baseline llamacpp --tier equal",
        host=CPU_HOST,
        gpu="cpu",
        engines=in_blocks(base, candidate),
        comparisons=compared(cells, TARGETS),
        preset=None,
        tuned_in="",
        manifest=Manifest(
            tier=Tier.EQUAL,
            sides=tuple(side_manifest(facts, is_synthetic=True, context_tokens=4096) for facts in (base, candidate)),
        ),
        calibration=None,
        notes=("Measured on a CPU: the figures say nothing about a GPU.",),
    )
    return Recorded(run=run, cells=tuple(cells), trials=(), targets=TARGETS)


def tune_recorded() -> Recorded:
    """The search behind the settings of the comparison."""
    base = vllm_facts("baseline", ", defaults", {})
    best = vllm_facts("trial 4", ", trial 4", dict(TUNED))
    third = vllm_facts("trial 1", ", trial 1", dict(TRIALS[1].flags))
    cells: list[Cell] = []
    for facts, factor, seed in ((base, 0.72, 3), (third, 0.86, 4), (best, 1.0, 5)):
        tok_s = {users: CANDIDATE_TOK_S[users] * factor for users in LADDER}
        found = side(facts.role, facts, tok_s, slots=None, seed=seed, blocks=1, repeats=3)
        cells += [one for one in found if one.scenario == "concurrent"]
    run = Run(
        version=RESULTS_VERSION,
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
    cells = side("bench", facts, BASELINE_TOK_S, slots=1, seed=6, blocks=1, repeats=3)
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


def open_scenario(name: str, title: str, load: Load, *, turns: int = 1, shared: int = 0) -> Scenario:
    work = Workload(prompt_words=192, output_tokens=128, is_streamed=True, turns=turns, shared_prefix_words=shared)
    return Scenario(name=name, title=title, workload=work, load=load)


OPEN_SCENARIOS = (
    open_scenario("rush", "Requests that come by chance", OpenLoop(rates_per_s=(0.5, 2.0, 8.0, 32.0), duration_s=60)),
    open_scenario("monday", "A recorded morning", Replay(trace="monday.jsonl", speed=2.0)),
    open_scenario(
        "chat",
        "Conversations",
        ClosedLoop(users=(4, 16), requests_per_user=8, min_s=20, max_s=300, ramp_s=5),
        turns=4,
        shared=400,
    ),
)


def open_recorded() -> Recorded:
    """One vLLM under requests that come by themselves, a replay and conversations; too much at the highest rate."""
    facts = vllm_facts("bench", "", {})
    rates = {0.5: 64.0, 2.0: 256.0, 8.0: 1020.0, 32.0: 3460.0}
    cells = [
        cell(
            "bench",
            facts,
            one,
            level,
            block=1,
            repeat=repeat,
            tok_s=(rates[level.rate_per_s] if level.rate_per_s else 90.0 * (level.users or 6)) * (1 + 0.01 * repeat),
            slots=None,
        )
        for one in OPEN_SCENARIOS
        for level in one.levels
        for repeat in (1, 2, 3)
    ]
    over = "offered 32 requests/s, 27 ended per second: over the server's capacity, so latencies depend on how long"
    cells = [
        msgspec.structs.replace(one, state=CellState.INVALID, reasons=(f"{over} one measures",))
        if one.rate_per_s == 32.0
        else one
        for one in (msgspec.structs.replace(one, ceilings={"ttft_s": 0.0051, "itl_s": 0.0021}) for one in cells)
    ]
    run = msgspec.structs.replace(
        bench_recorded().run,
        id="20261124T080000Z-bench-qwen2.5-1.5b-rtx4090",
        command="harness bench --engine vllm --scenario rush",
        scenarios=OPEN_SCENARIOS,
        engines=(facts,),
    )
    return Recorded(run=run, cells=tuple(cells), trials=())


SLOS = (
    Slo(metric="ttft_s", share=0.95, limit_s=0.5, text="ttft:p95<500ms"),
    Slo(metric="e2e_s", share=0.99, limit_s=4.0, text="e2e:p99<4s"),
)


def wilson(value: float, low: float, high: float, n: int) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=n, unit="share")


def capacity_step(level: float, kept: Estimate, *, is_inside: bool | None, reason: str = "") -> CapacityStep:
    """All that fails fails by the second limit; half of it by the first too."""
    missed = (1 - kept.value) / 2
    shares = (wilson(1 - missed, 1 - missed * 1.3 - 0.002, 1 - missed * 0.7, kept.n), kept)
    return CapacityStep(level=level, requests=kept.n, kept=kept, shares=shares, is_inside=is_inside, reason=reason)


def capacity_recorded() -> Recorded:
    """A bracket from 40 to 48 users, found by doubling and halving; one level stays open."""
    facts = vllm_facts("capacity", "", {})
    steps = (
        capacity_step(8, wilson(1.0, 0.990, 1.0, 400), is_inside=True),
        capacity_step(32, wilson(0.996, 0.9915, 0.999, 500), is_inside=True),
        capacity_step(128, wilson(0.412, 0.373, 0.452, 600), is_inside=False),
        capacity_step(64, wilson(0.845, 0.814, 0.872, 600), is_inside=False),
        capacity_step(48, wilson(0.958, 0.943, 0.969, 900), is_inside=False),
        capacity_step(
            44,
            wilson(0.989, 0.984, 0.993, 2400),
            is_inside=None,
            reason="98.9% of 2400 requests kept e2e:p99<4s; the interval from 98.4% to 99.3% straddles 0.99",
        ),
        capacity_step(40, wilson(0.996, 0.9908, 0.998, 1500), is_inside=True),
    )
    run = msgspec.structs.replace(
        bench_recorded().run,
        id="20261125T080000Z-capacity-qwen2.5-1.5b-rtx4090",
        command="harness capacity --engine vllm --slo 'ttft:p95<500ms' --slo 'e2e:p99<4s'",
        kind="capacity",
        scenarios=(SCENARIOS[1],),
        engines=(facts,),
        capacity=Capacity(
            unit="users",
            slos=SLOS,
            level=40,
            above=48,
            is_resolved=False,
            steps=steps,
            reason="between 40 and 48 users no level could be decided",
        ),
    )
    cells = [
        cell(
            "capacity", facts, SCENARIOS[1], Level(users=int(step.level)), block=1, repeat=1, tok_s=90.0 * step.level,
            slots=None,
        )
        for step in steps
    ]  # fmt: skip
    return Recorded(run=run, cells=tuple(cells), trials=())
