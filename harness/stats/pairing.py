"""Baseline cells against candidate cells: a ratio, a verdict and a target for each load and metric."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from harness.records import Cell, CellState, Comparison, Estimate, Level, Target, Verdict
from harness.stats.estimate import Blocks, ratio
from harness.stats.verdict import NOISE_RATIO, is_met, verdict

METRICS = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50", "e2e_s.p95")
HIGHER_IS_BETTER = frozenset({"output_tok_s", "requests_per_s"})
"""All other metrics are times."""
PRECISE_METRICS = ("output_tok_s", "ttft_s.p50", "e2e_s.p50")
"""What `--precision` holds for besides metrics with a target: those that a reader decides by."""
MAX_LENGTH_DIFFERENCE = 0.01
"""Answers whose mean lengths differ by more are not the same work. Of prompts that is found out prompt by prompt, in
the fairness manifest: a faster side answers more of them, and these are not equally long."""


def value(cell: Cell, metric: str) -> float | None:
    """The cell's figure called `metric`, for example "e2e_s.p50". None where the cell has none."""
    name, _, statistic = metric.partition(".")
    found = getattr(cell, name)
    estimate = found.get(statistic) if statistic else found
    return None if estimate is None else estimate.value


def level_of(row: Cell | Comparison | Target) -> Level:
    """The load that a cell, a row or a target is of."""
    return Level(users=row.users, rate_per_s=None if isinstance(row, Target) else row.rate_per_s)


def comparisons(
    baseline: Sequence[Cell],
    candidate: Sequence[Cell],
    *,
    targets: Sequence[Target],
    gpu: str,
    model: str,
    against: str = "baseline",
    faults: Sequence[str] = (),
) -> tuple[Comparison, ...]:
    """One row per scenario, level and metric that either side measured or a target names, in the order measured.

    A target whose figure is missing has its row too, with the reason: left out, it would count as met.

    Args:  against: the baseline's role. faults: of the manifest; where there is one, no row has a ratio.
    """
    loads = dict.fromkeys((cell.scenario, level_of(cell)) for cell in (*baseline, *candidate))
    rows = []
    for scenario, level in loads:
        old, new = (
            [c for c in side if (c.scenario, level_of(c)) == (scenario, level)] for side in (baseline, candidate)
        )
        here = [target for target in targets if (target.scenario, level_of(target)) == (scenario, level)]
        aimed = {target.metric for target in here}
        for metric in dict.fromkeys((*METRICS, *sorted(aimed))):
            if metric in aimed or any(value(cell, metric) is not None for cell in (*old, *new)):
                row = comparison(
                    old, new, scenario=scenario, level=level, metric=metric, against=against, faults=faults
                )
                rows.append(with_target(row, new, targets=here, gpu=gpu, model=model))
    return tuple(rows)


def comparison(
    baseline: Sequence[Cell],
    candidate: Sequence[Cell],
    *,
    scenario: str,
    level: Level,
    metric: str,
    against: str = "baseline",
    faults: Sequence[str] = (),
) -> Comparison:
    """The ratio over blocks and repeats, over 1 where the candidate is faster; only MEASURED cells enter."""
    sides = [by_block(side, metric) for side in (baseline, candidate)]
    old, new = (flat(side) for side in sides)
    reason = " ".join(faults) or why_not(baseline, candidate, values=(old, new), metric=metric, against=against)
    slow, fast = sides if metric in HIGHER_IS_BETTER else reversed(sides)
    found = None if reason else ratio([(slow, fast)])
    mean = geometric_mean(old)
    return Comparison(
        scenario=scenario,
        users=level.users,
        rate_per_s=level.rate_per_s,
        against=against,
        metric=metric,
        baseline=mean,
        candidate=geometric_mean(new),
        ratio=found,
        verdict=verdict(found),
        reason=reason or "; ".join(filter(None, (why_undecided(found), caveat(found, baseline, candidate)))),
        ceiling_ratio=ceiling_ratio(candidate, metric, baseline=mean),
    )


# ---------------------------------------------------------------- which values count


def by_block(cells: Sequence[Cell], metric: str, *, blocks: Collection[int] | None = None) -> list[list[float]]:
    """The metric of each MEASURED cell that has it, launch by launch; an empty list for a launch without any.

    Args:  blocks: numbers of the launches, where they are more than those of `cells`.
    """
    numbers = sorted({cell.block for cell in cells} if blocks is None else blocks)
    return [valid_values([cell for cell in cells if cell.block == number], metric) for number in numbers]


def valid_values(cells: Sequence[Cell], metric: str) -> list[float]:
    """The metric of each MEASURED cell that has it."""
    found = [value(cell, metric) for cell in cells if cell.state == CellState.MEASURED]
    return [v for v in found if v is not None]


def flat(blocks: Blocks) -> list[float]:
    """All values, whichever launch they are of."""
    return [value for block in blocks for value in block]


def why_not(
    baseline: Sequence[Cell],
    candidate: Sequence[Cell],
    *,
    values: tuple[Sequence[float], Sequence[float]],
    metric: str,
    against: str,
) -> str:
    """Why no ratio may be formed; empty where it may."""
    for name, cells, found in zip((against, "candidate"), (baseline, candidate), values, strict=True):
        if len(found) < 2:
            bad = [cell for cell in cells if cell.state != CellState.MEASURED]
            because = f": {bad[0].state}, {'; '.join(bad[0].reasons)}" if bad else ""
            if len(found) < len(cells) and not bad:
                because = f": too few requests in a repeat for an interval around {metric}"
            return f"{len(found)} of {len(cells)} repeats of the {name} count, 2 are needed{because}"
        launched = {cell.block for cell in cells}
        counting = {cell.block for cell in cells if valid_values([cell], metric)}
        if len(counting) < 2 <= len(launched):
            return (
                f"only one of {len(launched)} launches of the {name} has figures that count: its luck would be in them"
            )
    if metric.startswith("e2e"):
        old, new = mean_output_tokens(baseline), mean_output_tokens(candidate)
        if is_other_work(old, new):
            return f"answers differ in length ({old:.1f} and {new:.1f} tokens): whole answers are not the same work"
    return ""


def caveat(found: Estimate | None, baseline: Sequence[Cell], candidate: Sequence[Cell]) -> str:
    """What a ratio is of besides the engines; empty where answers are equally long, or there is no ratio."""
    old, new = mean_output_tokens(baseline), mean_output_tokens(candidate)
    if found is None or not is_other_work(old, new):
        return ""
    return f"answers differ in length ({old:.1f} and {new:.1f} tokens): the ratio is of that too, not of engines alone"


def is_other_work(old: float | None, new: float | None) -> bool:
    """Whether two mean counts of tokens are known and differ by more than 1%."""
    return bool(old and new and max(old, new) / min(old, new) - 1 > MAX_LENGTH_DIFFERENCE)


def why_undecided(found: Estimate | None) -> str:
    """Why values on both sides gave no verdict; empty where they gave one."""
    if found is None:
        return "a repeat measured a value that is not positive: no ratio can be formed"
    if verdict(found) != Verdict.UNDECIDED:
        return ""
    return f"the interval reaches over a limit of {NOISE_RATIO:.0%} around 1: more repeats"


def mean_output_tokens(cells: Sequence[Cell]) -> float | None:
    """Over the MEASURED cells, each weighed by its requests. None where nothing was counted."""
    return mean_count(cells, lambda cell: cell.output_tokens_mean)


def mean_count(cells: Sequence[Cell], count: Callable[[Cell], float | None]) -> float | None:
    """A mean per request over the MEASURED cells. None where nothing was counted."""
    counted = [
        (found, cell.requests)
        for cell in cells
        if cell.state == CellState.MEASURED and (found := count(cell)) is not None
    ]
    requests = sum(n for _, n in counted)
    return sum(mean * n for mean, n in counted) / requests if requests else None


def geometric_mean(values: Sequence[float]) -> float | None:
    """None for no values or one that is not positive."""
    if not values or min(values) <= 0:
        return None
    return math.exp(sum(map(math.log, values)) / len(values))


# ---------------------------------------------------------------- targets and ceilings


def with_target(
    row: Comparison, candidate: Sequence[Cell], *, targets: Sequence[Target], gpu: str, model: str
) -> Comparison:
    """The row with what targets.toml says of it; absolute times only on the card and model they were set for."""
    for target in targets:
        if target.metric == row.metric:
            row = msgspec.structs.replace(
                row,
                target=target.target_ratio,
                done=target.done_ratio,
                stretch=target.stretch_ratio,
                met=is_met(row.ratio, target.target_ratio),
                reach=reach(target.target_ratio, row.ceiling_ratio, alike=alike_ratio(candidate, row)),
            )
        if target.absolute_metric == row.metric and target.absolute_s and (target.gpu, target.model) == (gpu, model):
            times = by_block(candidate, row.metric)
            against = ratio([(times, [[target.absolute_s] * max(2, len(flat(times)))])])
            row = msgspec.structs.replace(row, absolute_s=target.absolute_s, absolute_met=is_met(against, 1.0))
    return row


def ceiling_ratio(candidate: Sequence[Cell], metric: str, *, baseline: float | None) -> float | None:
    """The largest ratio that the card allows the candidate over what the baseline measured. None: not known.

    More per second is better up to a ceiling: ceiling over baseline. Times are better down to a floor: baseline over
    floor. Where cells were given different limits, the most generous one counts.
    """
    known = [limit for cell in candidate if (limit := limit_of(cell, metric)) is not None]
    if not known or not baseline:
        return None
    return max(known) / baseline if metric in HIGHER_IS_BETTER else baseline / min(known)


def limit_of(cell: Cell, metric: str) -> float | None:
    """What the data sheet allows the cell at best in this metric; None where it is not known, or says nothing.

    The time between two tokens is never less on average than that of the gaps, whatever it is called; a whole answer
    takes the time to its first token and then a gap for each other one.
    """
    name, limits = metric.partition(".")[0], cell.ceilings
    if name == "tpot_s":
        limit = limits.get(name, limits.get("itl_s"))
    elif name == "e2e_s" and name not in limits:
        limit = whole_answer_s(limits, output_tokens=cell.output_tokens_mean)
    else:
        limit = limits.get(name)
    return limit if limit and limit > 0 else None


def whole_answer_s(limits: Mapping[str, float], *, output_tokens: float | None) -> float | None:
    """The least time for an answer of so many tokens. None where a part of it is not known."""
    if "ttft_s" not in limits or "itl_s" not in limits or output_tokens is None:
        return None
    return limits["ttft_s"] + limits["itl_s"] * max(output_tokens - 1, 0.0)


def alike_ratio(candidate: Sequence[Cell], row: Comparison) -> float | None:
    """The largest ratio of whole answers where the users of a closed loop are served alike. None: nothing is added.

    Little's law bounds their mean: users x tokens of an answer over the most tokens per second. A median may be less,
    where a server serves some users first and lets the others wait.
    """
    means_s = [
        cell.users * cell.output_tokens_mean / cell.ceilings["output_tok_s"]
        for cell in candidate
        if cell.users > 1 and cell.output_tokens_mean and cell.ceilings.get("output_tok_s")
    ]
    return row.baseline / min(means_s) if row.metric.startswith("e2e_s") and row.baseline and means_s else None


def reach(target: float, ceiling: float | None, *, alike: float | None = None) -> str:
    """The target against the largest ratio that the card allows, in words; empty where that is not known.

    Args:  alike: the largest where users are served alike, which the text then names as what it assumes.
    """
    if ceiling is None:
        return ""
    if target > ceiling:
        return f"unreachable: at most {ceiling:.2f}x"
    if alike is not None and target > alike:
        return f"unreachable: at most {alike:.2f}x where all users are served alike"
    return "reachable"


# ---------------------------------------------------------------- what is not known well enough yet


def wanting(rows: Sequence[Comparison], *, precision_ratio: float) -> tuple[tuple[str, Level], ...]:
    """The loads that need more repeats, in the order of the rows.

    A row asks for more where its metric has a target or is one that a reader decides by, and half of the interval is
    over `precision_ratio` of the value. Never by its verdict: who measures until the interval lies on one side of a
    limit is wrong far more often than the interval says (simulated, 12 looks: 9.6% instead of 2.5%). A row without a
    ratio asks for nothing: its reason is not one that repeats mend.
    """
    return tuple(dict.fromkeys((row.scenario, level_of(row)) for row in rows if wants_more(row, precision_ratio)))


def wants_more(row: Comparison, precision_ratio: float) -> bool:
    """Whether this row is not known well enough."""
    is_asked = row.target is not None or row.metric in PRECISE_METRICS
    return row.ratio is not None and is_asked and half_width_ratio(row.ratio) > precision_ratio


def half_width_ratio(found: Estimate) -> float:
    """Half of the interval over the value."""
    return (found.high - found.low) / 2 / found.value


# ---------------------------------------------------------------- the objective of a search


def objective(
    baseline: Sequence[Cell], candidate: Sequence[Cell], *, metric: str, levels: Sequence[int]
) -> Estimate | None:
    """Candidate over baseline on `metric`, over 1 is better, as the geometric mean over `levels`.

    Returns:  None where a level has fewer than two valid repeats on a side: a mean over fewer levels is another figure.
    """
    numbers = [sorted({cell.block for cell in side}) for side in (baseline, candidate)]
    loads = []
    for users in levels:
        old, new = (
            by_block([c for c in side if c.users == users], metric, blocks=blocks)
            for side, blocks in zip((baseline, candidate), numbers, strict=True)
        )
        loads.append((old, new) if metric in HIGHER_IS_BETTER else (new, old))
    return ratio(loads)
