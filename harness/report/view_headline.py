"""The headline: one sentence that is true over its whole interval, and what must be read with it."""

from collections.abc import Sequence
from typing import Final

from harness.records import Cell, CellState, Comparison, Run, Trial, Verdict
from harness.report import view_search, words
from harness.report.figures import Pooled, pooled, repeats_of, scenario_names, scenario_title, users_of
from harness.report.page import Side, Strip, Tile
from harness.report.view_sides import PRECISION_WARNING, pair, precisions_differ

DECIDED: Final = frozenset({Verdict.FASTER, Verdict.SLOWER})


def headline(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], sides: Sequence[Side]) -> str:
    """One plain sentence that is true over the whole interval."""
    if run.kind == "tune":
        return view_search.headline(run, trials)
    both = pair(sides)
    if both and run.comparisons:
        return compare_headline(run, *both)
    if run.kind == "compare":
        return "Nothing has been compared."
    return bench_headline(run, cells, sides)


def headline_rows(run: Run) -> list[Comparison]:
    """The headline's metric at every load of the scenario with the most loads, by users."""
    throughput = [row for row in run.comparisons if row.metric == "output_tok_s"]
    rows = throughput or [row for row in run.comparisons if row.metric == run.comparisons[0].metric]
    names = [row.scenario for row in rows]
    widest = max(names, key=names.count, default="")
    return sorted((row for row in rows if row.scenario == widest), key=lambda row: row.users)


def compare_headline(run: Run, baseline: Side, candidate: Side) -> str:
    """The largest load that has a ratio first, since it is what servers are bought for; then the smallest one.

    A load without a ratio is named, whatever the others say.
    """
    rows = headline_rows(run)
    judged = [row for row in rows if row.ratio]
    if not judged:
        return f"{headline_clause(rows[-1], baseline, candidate)}."
    top, low = judged[-1], judged[0]
    clauses = [headline_clause(top, baseline, candidate)]
    if low is not top:
        subject = "it" if top.verdict in DECIDED else candidate.named
        clauses.append(second_clause(low, subject, is_also=low.verdict is top.verdict))
    open_loads = [str(row.users) for row in rows if row.ratio is None]
    if open_loads:
        clauses.append(
            f"no ratio can be given for {words.listed(open_loads)} {'user' if open_loads == ['1'] else 'users'}"
        )
    return f"{'; '.join(clauses)}."


def headline_clause(row: Comparison, baseline: Side, candidate: Side) -> str:
    """ "At 50 users vLLM gave 3.42× (3.10–3.81) the tokens per second of llama.cpp, …"."""
    load = at(row.users)
    mixed = precisions_differ(baseline, candidate)
    left = f"{candidate.title} ({candidate.precision or 'precision not known'})" if mixed else candidate.title
    right = f"{baseline.title} ({baseline.precision or 'precision not known'})" if mixed else baseline.title
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


def second_clause(row: Comparison, subject: str, *, is_also: bool) -> str:
    """ "alone it was slower: 0.372× (0.361–0.384)"."""
    load = "alone" if row.users == 1 else f"at {words.plural(row.users, 'user')}"
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


def bench_headline(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> str:
    """Throughput of the first server in the scenario with the most loads: at the largest, then at the smallest."""
    by_width = sorted(scenario_names(run, cells), key=lambda name: -len(users_of(cells, name)))
    for side in sides:
        for scenario in by_width:
            loads = [
                (users, found)
                for users in users_of(cells, scenario)
                if (found := pooled(cells, side.role, scenario, users, "output_tok_s"))
            ]
            if loads:
                return bench_sentence(side, loads)
    return "Nothing was measured: there is no valid cell."


def bench_sentence(side: Side, loads: Sequence[tuple[int, Pooled]]) -> str:
    """ "At 50 users vLLM gave 557 output tokens per second (540–571 over 3 repeats); alone it gave 57.1 tok/s."."""
    (low_users, low), (users, top) = loads[0], loads[-1]
    shown = top.shown("")
    first = f"{at(users)} {side.named} gave {shown.text} output tokens per second"
    first += f" ({shown.interval} over {words.plural(top.repeats, 'repeat')})" if shown.interval else ""
    if low_users == users:
        return f"{first}."
    load = "alone" if low_users == 1 else f"at {low_users} users"
    return f"{first}; {load} it gave {low.shown('output_tok_s')}."


def at(users: int) -> str:
    """How a sentence begins that speaks of one load."""
    return "With 1 user" if users == 1 else f"At {users:,} users"


def cautions(cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[str, ...]:
    """What must be read together with the headline."""
    out = []
    both = pair(sides)
    if both and precisions_differ(*both):
        out.append(PRECISION_WARNING)
    bad = sum(1 for cell in cells if cell.state is not CellState.MEASURED)
    if bad:
        verb = "is invalid or failed and enters" if bad == 1 else "are invalid or failed and enter"
        out.append(f"{bad} of {words.plural(len(cells), 'cell')} {verb} no figure; the reasons are listed below.")
    if both and repeats_of(cells) == 1:
        out.append("One repeat only: nothing here shows how far a second one would differ.")
    return tuple(out)


def strip(run: Run, trials: Sequence[Trial], sides: Sequence[Side]) -> Strip | None:
    """The headline's figure at every load, so that no load is picked for the reader. None: there is none."""
    if run.kind == "tune":
        return view_search.strip(run, trials)
    both = pair(sides)
    if not run.comparisons or not both:
        return None
    rows = headline_rows(run)
    baseline, candidate = both
    return Strip(
        caption=(
            f"{words.long_metric(rows[0].metric)}, {candidate.title} ÷ {baseline.title}, in the scenario "
            f"“{scenario_title(run, rows[0].scenario)}”. Over 1× the first is faster; beneath it the interval"
            f"{words.confidence(row.ratio for row in rows)}."
        ),
        tiles=tuple(
            Tile(
                name=words.plural(row.users, "user"),
                figure=words.ratio(row.ratio),
                badge=words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO,
            )
            for row in rows
        ),
    )
