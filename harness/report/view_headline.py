"""The headline: one sentence that is true over its whole interval, and what must be read with it.

No ratio stands here without the tier of its comparison and the precision of both sides' weights.
"""

from collections.abc import Sequence
from typing import Final

from harness.records import Cell, Comparison, DefenceLaunch, Level, Run, Trial, Verdict
from harness.report import view_capacity, view_search, view_simulated, words
from harness.report.figures import (
    Pooled,
    blocks_of,
    by_load,
    level_of,
    levels_of,
    pooled,
    repeats_of,
    scenario_names,
    scenario_title,
)
from harness.report.page import Strip, Tile
from harness.report.page_parts import Side
from harness.report.view_fairness import lead
from harness.report.view_sides import BASELINE, CANDIDATE, pair

DECIDED: Final = frozenset({Verdict.FASTER, Verdict.SLOWER})
UNKNOWN_PRECISION: Final = "precision not known"


def headline(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], sides: Sequence[Side]) -> str:
    """One plain sentence that is true over the whole interval."""
    told = sentence(run, cells, trials, sides)
    for before in (lead(run), view_simulated.lead(run)):
        told = f"{before}{told[0].lower()}{told[1:]}" if before else told
    return told


def sentence(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], sides: Sequence[Side]) -> str:
    """The headline without what it must begin with."""
    if run.kind == "tune":
        return view_search.headline(run, trials)
    if run.capacity is not None:
        return view_capacity.headline(run.capacity, sides)
    both = pair(sides)
    if both and run.comparisons:
        return compare_headline(run, both[1], sides)
    if run.kind == "compare":
        return "Nothing has been compared."
    return bench_headline(run, cells, sides)


# ---------------------------------------------------------------- a comparison


def headline_rows(run: Run, against: str = BASELINE) -> list[Comparison]:
    """The headline's metric at every load of the scenario with the most loads, by load."""
    mine = [row for row in run.comparisons if row.against == against]
    throughput = [row for row in mine if row.metric == "output_tok_s"]
    rows = throughput or [row for row in mine if row.metric == mine[0].metric]
    names = [row.scenario for row in rows]
    widest = max(names, key=names.count, default="")
    return sorted((row for row in rows if row.scenario == widest), key=lambda row: by_load(level_of(row)))


def compare_headline(run: Run, candidate: Side, sides: Sequence[Side]) -> str:
    """The largest load that has a ratio first, since it is what servers are bought for; then the smallest one.

    A load without a ratio is named, whatever the others say. Where the baseline was measured with settings of its
    own too, the ratio to that is in the same sentence.
    """
    if run.manifest is None:
        return "No ratio can stand here: it was not recorded what was equal between the sides and what was not."
    baseline = next(side for side in sides if side.role == BASELINE)
    rows = headline_rows(run)
    judged = [row for row in rows if row.ratio]
    if not judged:
        return f"{headline_clause(rows[-1], baseline, candidate)}." if rows else "Nothing has been compared."
    top, low = judged[-1], judged[0]
    clauses = [headline_clause(top, baseline, candidate)]
    if low is not top:
        subject = "it" if top.verdict in DECIDED else candidate.named
        clauses.append(second_clause(low, subject, is_also=low.verdict is top.verdict))
    clauses += tuned_clauses(run, top, sides)
    without = [level_of(row) for row in rows if row.ratio is None]
    if without:
        clauses.append(f"no ratio can be given for {words.loads(without)}")
    return f"{'; '.join(clauses)}."


def headline_clause(row: Comparison, baseline: Side, candidate: Side) -> str:
    """ "At 50 users vLLM (bf16) gave 3.42× (3.10–3.81) the tokens per second of Ollama (q4_k_m), …"."""
    load = at(level_of(row))
    left, right = with_precision(candidate), with_precision(baseline)
    named = f"{left}," if "," in left else left
    what = "tokens per second" if row.metric == "output_tok_s" else f"speed in {words.short_metric(row.metric)}"
    figure = words.ratio(row.ratio)
    if row.ratio is None:
        return f"{load} no ratio of {named} to {right} can be given{because(row.reason)}"
    if row.verdict is Verdict.SAME:
        return f"{load} {named} gave as many {what} as {right}, within the noise: {figure}"
    if row.verdict is Verdict.UNDECIDED:
        return f"{load} the interval leaves open which is faster, {named} or {right}: {figure} the {what}"
    return f"{load} {named} gave {figure} the {what} of {right}"


def with_precision(side: Side) -> str:
    """ "vLLM 0.32.0, tuned (bf16)"."""
    return f"{side.title} ({side.precision or UNKNOWN_PRECISION})"


def tuned_clauses(run: Run, top: Comparison, sides: Sequence[Side]) -> list[str]:
    """ "at 50 users the ratio to Ollama 0.33.1, tuned (q4_k_m) is 12.1× (11.5–12.8)": one for each further baseline."""
    out = []
    for side in sides:
        if side.role in {BASELINE, CANDIDATE}:
            continue
        here = [row for row in headline_rows(run, side.role) if level_of(row) == level_of(top)]
        if not here:
            continue
        row, load = here[0], words.at_load(level_of(here[0]))
        named = with_precision(side)
        if row.ratio is None:
            out.append(f"no ratio to {named} can be given {load}{because(row.reason)}")
        else:
            is_open = row.verdict is Verdict.UNDECIDED
            open_words = ", which leaves open which is faster" if is_open else ""
            out.append(f"{load} the ratio to {named} is {words.ratio(row.ratio)}{open_words}")
    return out


def second_clause(row: Comparison, subject: str, *, is_also: bool) -> str:
    """ "alone it was slower: 0.372× (0.361–0.384)"."""
    load = words.at_load(level_of(row))
    figure = words.ratio(row.ratio)
    too = " too" if is_also else ""
    if row.verdict is Verdict.SAME:
        return f"{load} there was no difference{too}: {figure}"
    if row.verdict is Verdict.UNDECIDED:
        return f"{load} the interval leaves it open{too}: {figure}"
    return f"{load} {subject} was {row.verdict.value.lower()}{too}: {figure}"


def because(reason: str) -> str:
    """The reason in brackets, if there is one."""
    return f" ({reason.rstrip('.')})" if reason else ""


# ---------------------------------------------------------------- one server


def bench_headline(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> str:
    """Throughput of the first server in the scenario with the most loads: at the largest, then at the smallest."""
    by_width = sorted(scenario_names(run, cells), key=lambda name: -len(levels_of(cells, name)))
    for side in sides:
        for scenario in by_width:
            loads = [
                (level, found)
                for level in levels_of(cells, scenario)
                if (found := pooled(cells, side.role, scenario, level, "output_tok_s"))
            ]
            if loads:
                return bench_sentence(side, loads)
    return "Nothing was measured: there is no valid cell."


def bench_sentence(side: Side, loads: Sequence[tuple[Level, Pooled]]) -> str:
    """ "At 50 users vLLM gave 557 output tokens per second (540–571 over 3 repeats); alone it gave 57.1 tok/s."."""
    (lowest, low), (highest, top) = loads[0], loads[-1]
    shown = top.shown("")
    first = f"{at(highest)} {side.named} gave {shown.text} output tokens per second"
    first += f" ({shown.interval} over {words.plural(top.repeats, 'repeat')})" if shown.interval else ""
    if lowest == highest:
        return f"{first}."
    return f"{first}; {words.at_load(lowest)} it gave {low.shown('output_tok_s')}."


def at(level: Level) -> str:
    """How a sentence begins that speaks of one load."""
    if level == Level(users=1):
        return "With 1 user"
    return "Under the recorded requests" if level == Level() else f"At {words.load(level)}"


# ---------------------------------------------------------------- beside it


def cautions(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[str, ...]:
    """What must be read together with the headline."""
    out = list(run.manifest.differences) if run.manifest else []
    if pair(sides) and blocks_of(cells) == 1:
        once = repeats_of(cells) == 1
        out.append(
            "One repeat only: nothing here shows how far a second one would differ."
            if once
            else "One launch per side: what differs from launch to launch is in the ratios but not in their intervals."
        )
    return tuple(out)


def strip(
    run: Run, trials: Sequence[Trial], sides: Sequence[Side], launches: Sequence[DefenceLaunch] = ()
) -> Strip | None:
    """The headline's figure at every load, so that no load is picked for the reader. None: there is none."""
    if run.kind == "tune":
        return view_search.strip(run, trials, launches)
    both = pair(sides)
    if not run.comparisons or not both or run.manifest is None:
        return None
    rows = headline_rows(run)
    if not rows:
        return None
    baseline, candidate = both
    return Strip(
        caption=(
            f"{words.long_metric(rows[0].metric)}, {with_precision(candidate)} ÷ {with_precision(baseline)}, in the "
            f"scenario “{scenario_title(run, rows[0].scenario)}”. Over 1× the first is faster; beneath it the interval"
            f"{words.confidence(row.ratio for row in rows)}."
        ),
        tiles=tuple(
            Tile(
                name=words.load(level_of(row)),
                figure=words.ratio(row.ratio),
                badge=words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO,
            )
            for row in rows
        ),
    )
