"""Comparisons of such cells, targets, and the trials of a search."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from harness.records import (
    Cell,
    CellState,
    Comparison,
    Outcome,
    Target,
    Trial,
    Verdict,
)
from tests.unit.harness.report.recorded_cells import BLOCKS, REPEATS, SCENARIOS, TUNED, estimate

METRICS = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50", "e2e_s.p95")


def values(cells: Iterable[Cell], name: str) -> list[float]:
    field, _, stat = name.partition(".")
    found = [getattr(one, field) for one in cells if one.state is CellState.MEASURED]
    found = [one.get(stat) if stat else one for one in found]
    return [one.value for one in found if one is not None]


def compared(
    cells: Sequence[Cell], targets: Sequence[Target], against: Sequence[str] = ("baseline",)
) -> tuple[Comparison, ...]:
    """Ratios with an interval of 4% either way; what is judged follows the rules of the harness."""
    out = []
    for role in against:
        for one in SCENARIOS:
            for level in one.levels:
                here = [c for c in cells if (c.scenario, c.users) == (one.name, level.users)]
                for name in METRICS:
                    both = [values([c for c in here if c.role == which], name) for which in (role, "candidate")]
                    if any(both):
                        wanted = targets if role == "baseline" else ()
                        row = comparison(one.name, level.users, name, both[0], both[1], wanted)
                        out.append(with_ceiling(msgspec.structs.replace(row, against=role), here))
    return tuple(out)


def with_ceiling(row: Comparison, cells: Sequence[Cell]) -> Comparison:
    """The candidate's ceiling over what the baseline reached, and whether that leaves room for the target."""
    limits = [one.ceilings["output_tok_s"] for one in cells if one.role == "candidate" and one.ceilings]
    if row.metric != "output_tok_s" or not limits or row.baseline is None:
        return row
    ceiling = max(limits) / row.baseline
    reach = "reachable" if ceiling >= (row.target or 0) else f"unreachable: at most {ceiling:.2f}x"
    return msgspec.structs.replace(row, ceiling_ratio=ceiling, reach=reach if row.target else "")


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
            reason=f"{len(old)} of {BLOCKS * REPEATS} repeats of the baseline count, 2 are needed",
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
