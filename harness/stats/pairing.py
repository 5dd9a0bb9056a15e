"""Baseline cells against candidate cells: a ratio, a verdict and a target for each load and metric."""

import math
from collections.abc import Sequence

import msgspec

from harness.records import Cell, CellState, Comparison, Estimate, Target, Verdict
from harness.stats.estimate import ratio
from harness.stats.verdict import NOISE_RATIO, is_met, verdict

METRICS = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50", "e2e_s.p95")
MAX_LENGTH_DIFFERENCE = 0.01
"""Answers whose mean lengths differ by more are not the same work: no verdict on whole answers then."""


def value(cell: Cell, metric: str) -> float | None:
    """The cell's figure called `metric`, for example "e2e_s.p50". None where the cell has none."""
    name, _, statistic = metric.partition(".")
    found = getattr(cell, name)
    estimate = found.get(statistic) if statistic else found
    return None if estimate is None else estimate.value


def comparisons(
    baseline: Sequence[Cell], candidate: Sequence[Cell], *, targets: Sequence[Target], gpu: str, model: str
) -> tuple[Comparison, ...]:
    """One row per scenario, users and metric that either side measured or a target names, in the order measured.

    A target whose figure is missing has its row too, with the reason: left out, it would count as met.
    """
    loads = dict.fromkeys((cell.scenario, cell.users) for cell in (*baseline, *candidate))
    rows = []
    for scenario, users in loads:
        ours = [[c for c in side if (c.scenario, c.users) == (scenario, users)] for side in (baseline, candidate)]
        aimed = {target.metric for target in targets if (target.scenario, target.users) == (scenario, users)}
        for metric in dict.fromkeys((*METRICS, *sorted(aimed))):
            if metric in aimed or any(value(cell, metric) is not None for side in ours for cell in side):
                row = comparison(ours[0], ours[1], scenario=scenario, users=users, metric=metric)
                rows.append(with_target(row, ours[1], targets=targets, gpu=gpu, model=model))
    return tuple(rows)


def comparison(
    baseline: Sequence[Cell], candidate: Sequence[Cell], *, scenario: str, users: int, metric: str
) -> Comparison:
    """The ratio over repeats, over 1 where the candidate is faster; cells that are not MEASURED stay out."""
    sides = [valid_values(side, metric) for side in (baseline, candidate)]
    reason = why_not(baseline, candidate, sides=sides, metric=metric)
    slow, fast = (sides[0], sides[1]) if metric == "output_tok_s" else (sides[1], sides[0])
    found = None if reason else ratio([(slow, fast)])
    return Comparison(
        scenario=scenario,
        users=users,
        metric=metric,
        baseline=geometric_mean(sides[0]),
        candidate=geometric_mean(sides[1]),
        ratio=found,
        verdict=verdict(found),
        reason=reason or why_undecided(found),
    )


def valid_values(cells: Sequence[Cell], metric: str) -> list[float]:
    """The metric of each MEASURED cell that has it."""
    found = [value(cell, metric) for cell in cells if cell.state == CellState.MEASURED]
    return [v for v in found if v is not None]


def why_not(
    baseline: Sequence[Cell], candidate: Sequence[Cell], *, sides: Sequence[Sequence[float]], metric: str
) -> str:
    """Why no ratio may be formed; empty where it may."""
    for name, cells, values in zip(("baseline", "candidate"), (baseline, candidate), sides, strict=True):
        if len(values) < 2:
            bad = [cell for cell in cells if cell.state != CellState.MEASURED]
            because = f": {bad[0].state}, {'; '.join(bad[0].reasons)}" if bad else ""
            if len(values) < len(cells) and not bad:
                because = f": too few requests in a repeat for an interval around {metric}"
            return f"{len(values)} of {len(cells)} repeats of the {name} count, 2 are needed{because}"
    if metric.startswith("e2e"):
        old, new = mean_output_tokens(baseline), mean_output_tokens(candidate)
        if old and new and max(old, new) / min(old, new) - 1 > MAX_LENGTH_DIFFERENCE:
            return f"answers differ in length ({old:.1f} and {new:.1f} tokens): whole answers are not the same work"
    return ""


def why_undecided(found: Estimate | None) -> str:
    """Why values on both sides gave no verdict; empty where they gave one."""
    if found is None:
        return "a repeat measured a value that is not positive: no ratio can be formed"
    if verdict(found) != Verdict.UNDECIDED:
        return ""
    return f"the interval reaches over a limit of {NOISE_RATIO:.0%} around 1: more repeats"


def mean_output_tokens(cells: Sequence[Cell]) -> float | None:
    """Over the MEASURED cells, each weighed by its requests. None where nothing was counted."""
    counted = [
        (cell.output_tokens_mean, cell.requests)
        for cell in cells
        if cell.state == CellState.MEASURED and cell.output_tokens_mean is not None
    ]
    requests = sum(n for _, n in counted)
    return sum(mean * n for mean, n in counted) / requests if requests else None


def geometric_mean(values: Sequence[float]) -> float | None:
    """None for no values or one that is not positive."""
    if not values or min(values) <= 0:
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


def with_target(
    row: Comparison, candidate: Sequence[Cell], *, targets: Sequence[Target], gpu: str, model: str
) -> Comparison:
    """The row with what targets.toml says of it; absolute times only on the card and model they were set for."""
    for target in targets:
        if (target.scenario, target.users) != (row.scenario, row.users):
            continue
        if target.metric == row.metric:
            row = msgspec.structs.replace(
                row,
                target=target.target_ratio,
                done=target.done_ratio,
                stretch=target.stretch_ratio,
                met=is_met(row.ratio, target.target_ratio),
            )
        if target.absolute_metric == row.metric and target.absolute_s and (target.gpu, target.model) == (gpu, model):
            times = valid_values(candidate, row.metric)
            against = ratio([(times, [target.absolute_s] * len(times))]) if times else None
            row = msgspec.structs.replace(row, absolute_s=target.absolute_s, absolute_met=is_met(against, 1.0))
    return row


def objective(
    baseline: Sequence[Cell], candidate: Sequence[Cell], *, metric: str, levels: Sequence[int]
) -> Estimate | None:
    """Candidate over baseline on `metric`, over 1 is better, as the geometric mean over `levels`.

    Returns:  None where a level has fewer than two valid repeats on a side: a mean over fewer levels is another figure.
    """
    pairs = []
    for users in levels:
        old, new = (valid_values([c for c in side if c.users == users], metric) for side in (baseline, candidate))
        pairs.append((old, new) if metric == "output_tok_s" else (new, old))
    return ratio(pairs)
