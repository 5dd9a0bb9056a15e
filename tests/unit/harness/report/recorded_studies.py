"""Searches with all that can happen in them: failures to learn from, stops, finals, ablation, fronts, limits."""

import dataclasses

import msgspec

from harness.records import (
    Asked,
    Cell,
    Defence,
    DefenceLaunch,
    EngineFacts,
    Estimate,
    Flags,
    Judged,
    Ladder,
    Outcome,
    Preset,
    PresetFigure,
    Trial,
)
from tests.unit.harness.report.recorded_cells import Recorded
from tests.unit.harness.report.recorded_runs import PRESET, tune_recorded

replace = msgspec.structs.replace
BEST: Flags = {"max-num-batched-tokens": 16384, "max-num-seqs": 128, "max-model-len": 4096}


def ratio(value: float, low: float, high: float, *, n: int = 6) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=n, unit="ratio")


def share(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, confidence=0.95, n=600, unit="share")


def trial(number: int, flags: Flags, outcome: Outcome = Outcome.MEASURED, **more: object) -> Trial:
    return replace(Trial(number=number, flags=flags, outcome=outcome, origin="search", wall_s=240.0), **more)


TRIALS = (
    trial(0, {}, origin="", launch_s=90.0),
    trial(1, BEST, objective=ratio(1.3, 1.25, 1.35), origin="memory plan", launch_s=95.0),
    trial(2, {"max-num-seqs": 256}, objective=ratio(1.1, 1.06, 1.14), origin="conservative start", retries=1),
    trial(
        3,
        {**BEST, "max-num-batched-tokens": 65536},
        Outcome.OUT_OF_MEMORY,
        constraints={"memory_short_gib": 1.2},
        reason="vLLM needs 1.20 GiB more",
        wall_s=60.0,
    ),
    trial(
        4,
        {**BEST, "max-model-len": 131072},
        Outcome.CONTEXT_TOO_LONG,
        constraints={"context": 0.4},
        fits_tokens=93632,
        reason="131072 tokens do not fit",
        wall_s=60.0,
    ),
    trial(5, {"block-size": 7}, Outcome.BAD_FLAG, reason="argument --block-size: invalid choice: 7", wall_s=9.0),
    trial(6, {"max-num-seqs": 512}, Outcome.CRASHED, died_under_users=100, launch_s=91.0, reason="it ended with -11"),
    trial(
        7,
        {"max-num-seqs": 8},
        Outcome.STOPPED,
        partial=ratio(0.2, 0.19, 0.21),
        stopped="surely behind trial 1 at 100 users, whatever its other loads give",
        reason="surely behind trial 1 at 100 users, whatever its other loads give",
        wall_s=130.0,
    ),
    trial(8, {**BEST, "max-num-seqs": 64}, objective=ratio(1.2, 1.15, 1.25)),
)

FINALS = (
    Judged(name="trial 1", flags=BEST, ratio=ratio(1.27, 1.22, 1.32), launches=3, agreement=share(0.969, 0.84, 0.99)),
    Judged(name="trial 8", flags=TRIALS[8].flags, ratio=ratio(1.03, 0.99, 1.07), launches=3),
    Judged(
        name="trial 2",
        flags=TRIALS[2].flags,
        ratio=None,
        launches=0,
        agreement=share(0.5, 0.34, 0.66),
        is_refused=True,
        reason="16 of 32 greedy answers are the baseline's: at least 34% agree, and 70% are asked",
    ),
)
REMOVALS = (
    Judged(
        name="without max-num-batched-tokens",
        flags={"max-num-seqs": 128, "max-model-len": 4096},
        ratio=ratio(1.0, 0.98, 1.02),
        launches=2,
    ),
    Judged(
        name="without max-num-seqs",
        flags={"max-num-batched-tokens": 16384, "max-model-len": 4096},
        ratio=ratio(0.82, 0.79, 0.85),
        launches=2,
    ),
    Judged(
        name="without max-model-len",
        flags={"max-num-batched-tokens": 16384, "max-num-seqs": 128},
        ratio=ratio(1.01, 0.98, 1.04),
        launches=2,
    ),
)
DEFENCE = Defence(
    round=1,
    trials=8,
    blocks=3,
    finalists=(1, 8, 2),
    finals=FINALS,
    winner=1,
    ablation_blocks=2,
    removals=REMOVALS,
    confirmation=Judged(name="reduced", flags={"max-num-seqs": 128}, ratio=ratio(0.995, 0.98, 1.01), launches=2),
    dropped=("max-num-batched-tokens", "max-model-len"),
    flags={"max-num-seqs": 128},
    is_done=True,
    reason="trial 1 won.",
)
LAUNCHES = tuple(
    DefenceLaunch(
        stage=stage, round=1, role=role, block=block, flags={}, outcome=Outcome.MEASURED, launch_s=80.0, wall_s=200.0
    )
    for stage, roles, blocks in (
        ("finals", ("final baseline", "final trial 1", "final trial 8"), 3),
        ("ablation", ("ablation winner", "ablation without max-num-seqs"), 2),
        ("confirmation", ("confirmation winner", "confirmation reduced"), 2),
    )
    for block in range(1, blocks + 1)
    for role in roles
)
ASKED = Asked(
    objectives={"balanced": "geometric mean of the ratios of output tokens per second at 1 and 100 users"},
    users=(100, 1),
    repeats=2,
    trials=8,
    budget_s=7200.0,
    ladders=(
        Ladder(flag="max-num-seqs", steps=(None, 64, 128, 256)),
        Ladder(flag="enable-prefix-caching", steps=(None, False)),
    ),
)
FIGURES = (
    PresetFigure(
        scenario="concurrent",
        users=100,
        metric="output_tok_s",
        value=Estimate(value=18300.0, low=17700.0, high=18900.0, confidence=0.95, n=6, unit="tok/s"),
        ratio=ratio(1.29, 1.26, 1.33),
    ),
    PresetFigure(scenario="concurrent", users=100, metric="e2e_s.p95"),
)
KEPT_PRESET: Preset = replace(
    PRESET,
    flags=DEFENCE.flags,
    ratio=FINALS[0].ratio,
    vllm_versions=">=0.32,<0.33",
    driver="580.65.06",
    harness_version="0.1.0",
    precision="bf16",
    figures=FIGURES,
    is_defended=True,
)
ACCURACY = "Simulated: on 15 recorded points its tok/s are within 5% (median) of what was measured, worst +16%."


def study_recorded() -> Recorded:
    """A winner that was defended, with failures on the way."""
    found = tune_recorded()
    run = replace(found.run, preset=KEPT_PRESET, defence=DEFENCE, asked=ASKED)
    return dataclasses.replace(found, run=run, trials=TRIALS)


def simulated_recorded() -> Recorded:
    """The same from a simulation."""
    found = study_recorded()
    engines = tuple(simulated_facts(one) for one in found.run.engines)
    run = replace(
        found.run,
        host=replace(found.run.host, gpu=None),
        engines=engines,
        preset=replace(KEPT_PRESET, is_simulated=True, driver=""),
        notes=("Simulated: no engine ran and no card was used.", ACCURACY),
        is_simulated=True,
    )
    return dataclasses.replace(found, run=run, cells=tuple(simulated_cell(one) for one in found.cells))


def simulated_facts(facts: EngineFacts) -> EngineFacts:
    return replace(facts, engine="simulated", title=f"simulated {facts.title}", is_simulated=True, argv=())


def simulated_cell(cell: Cell) -> Cell:
    return replace(cell, engine="simulated", title=f"simulated {cell.title}", is_simulated=True)


def two_objectives() -> Recorded:
    """Throughput and latency, no winner yet."""
    found = study_recorded()
    pairs = {1: (1.3, 0.9), 2: (1.1, 1.05), 8: (1.2, 0.85)}
    trials = tuple(
        replace(
            one,
            objectives={
                name: ratio(value, value - 0.02, value + 0.02)
                for name, value in zip(("throughput", "latency"), pairs[one.number], strict=True)
            },
        )
        if one.number in pairs
        else one
        for one in TRIALS
    )
    asked = replace(
        ASKED, objectives={"throughput": "ratio of tok/s at 100 users", "latency": "ratio of E2E at 1 user"}
    )
    run = replace(found.run, preset=None, defence=None, asked=asked, front=(1, 2))
    return dataclasses.replace(found, run=run, trials=trials)


LIMITS = ("ttft:p95<30ms", "e2e:p99<1500ms")


def with_limits(shares: dict[int, tuple[Estimate, Estimate]]) -> Recorded:
    """What share of the requests of some trials kept each limit."""
    trials = tuple(
        replace(one, kept=dict(zip(LIMITS, shares[one.number], strict=True))) if one.number in shares else one
        for one in TRIALS
    )
    found = study_recorded()
    return dataclasses.replace(found, run=replace(found.run, asked=replace(ASKED, slos=LIMITS)), trials=trials)
