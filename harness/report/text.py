"""A run on the console: plain text, one line per thing, columns that line up.

Everything says in words what it means; nothing here prints.
"""

from collections.abc import Sequence
from typing import Final

from harness.records import Cell, CellState, Comparison, Run, Trial
from harness.report import serve, view_capacity, view_cells, view_simulated, words
from harness.report.columns import columns, one_line
from harness.report.figures import estimate_of, level_of, missing, scenario_title
from harness.report.view_fairness import tier
from harness.report.view_sides import COMPARED, is_synthetic
from harness.report.view_trials import flag_texts, trial_objective
from harness.report.words import DASH, duration, si

__all__ = [
    "capacity_table",
    "cell_line",
    "cells_table",
    "comparison_table",
    "duration",
    "serve_line",
    "si",
    "trials_table",
    "validity_line",
]

PROGRESS: Final = ("output_tok_s", "ttft_s.p50", "e2e_s.p50")
COLUMNS: Final = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "e2e_s.p50")


def cell_line(cell: Cell) -> str:
    """One cell as a progress line: "candidate  concurrent  50 users  block 1 repeat 2  557 tok/s (540–571)  …"."""
    parts = ["simulated"] if cell.is_simulated else []
    parts += [cell.role, cell.scenario, words.load(level_of(cell)), view_cells.place(cell)]
    if cell.state is not CellState.FAILED:
        parts += [progress_figure(cell, metric) for metric in PROGRESS if has_metric(cell, metric)]
        parts.append(words.plural(cell.requests, "request"))
    if cell.failures:
        parts.append(f"{cell.failures:,} failed")
    if cell.state is not CellState.MEASURED:
        parts.append(f"{cell.state.value}: {'; '.join(cell.reasons) or 'no reason was recorded'}")
    if cell.flags:
        parts.append(f"flagged: {'; '.join(cell.flags)}")
    return "  ".join(one_line(part) for part in parts)


def progress_figure(cell: Cell, metric: str) -> str:
    """Throughput with its interval; latencies by their name, as a bare value."""
    if metric == "output_tok_s":
        return str(cell_figure(cell, metric))
    return f"{words.short_metric(metric)} {cell_figure(cell, metric).text}"


def has_metric(cell: Cell, metric: str) -> bool:
    """Whether the metric can exist for this cell; an answer in one piece has no first token."""
    return cell.state is CellState.FAILED or missing(cell, metric).mark != words.NOT_STREAMED


def cell_figure(cell: Cell, metric: str) -> words.Shown:
    """A cell's figure, or a dash."""
    found = estimate_of(cell, metric)
    return words.Shown(text=DASH) if found is None else words.estimate(metric, found)


def validity_line(cells: Sequence[Cell]) -> str:
    """ "42 cells: 40 measured, 1 flagged, 1 INVALID"."""
    return view_cells.counts(cells)


# ---------------------------------------------------------------- tables


def cells_table(cells: Sequence[Cell]) -> str:
    """All cells of a measurement, a line each; reasons and flags below the table."""
    head = ["scenario", "load", "cell", "state", *(words.short_metric(metric) for metric in COLUMNS), "requests"]
    rows = [
        [
            cell.scenario,
            words.load(level_of(cell)),
            view_cells.place(cell),
            words.cell_badge(cell).text,
            *(str(cell_figure(cell, metric)) if has_metric(cell, metric) else "n/a" for metric in COLUMNS),
            f"{cell.requests:,}" + (f" ({cell.failures:,} failed)" if cell.failures else ""),
        ]
        for cell in cells
    ]
    below = [f"{place_of(cell)} is {words.cell_badge(cell).text}: {why(cell)}" for cell in cells if why(cell)]
    if any(DASH in row for cell, row in zip(cells, rows, strict=True) if cell.state is not CellState.FAILED):
        below.append(f"{DASH} {words.FOOTNOTES[words.TOO_FEW]}")
    return "\n".join([columns([head, *rows], right={1, 4, 5, 6, 7, 8}), validity_line(cells), *below])


def place_of(cell: Cell) -> str:
    """ "concurrent, 50 users, block 1 repeat 2"."""
    return f"{cell.scenario}, {words.load(level_of(cell))}, {view_cells.place(cell)}"


def why(cell: Cell) -> str:
    """What speaks against a cell, in one line; empty where nothing does."""
    reasons = () if cell.state is CellState.MEASURED else cell.reasons or ("no reason was recorded",)
    return one_line("; ".join((*reasons, *cell.flags)))


def comparison_table(run: Run) -> str:
    """What is compared as what, then both sides per scenario, load and metric, with ratio, verdict and target."""
    titles = {facts.role: facts.title for facts in run.engines}
    out = [f"{titles.get('candidate', 'candidate')} against {titles.get('baseline', 'baseline')}"]
    if not run.comparisons:
        return f"{out[0]}: nothing has been compared"
    out += simulated_lines(run)
    out += [one_line(line) for line in manifest_lines(run)]
    against = [role for role in COMPARED if any(row.against == role for row in run.comparisons)]
    for name in dict.fromkeys(row.scenario for row in run.comparisons):
        for role in against:
            mine = [row for row in run.comparisons if (row.scenario, row.against) == (name, role)]
            if mine:
                title = scenario_title(run, name)
                out += ["", f"{title}, against the {role}: {titles.get(role, role)}" if len(against) > 1 else title]
                out.append(comparison_rows(mine))
    out += ["", "over 1× the candidate is faster; in brackets the interval that holds the true ratio"]
    return "\n".join(out)


def manifest_lines(run: Run) -> list[str]:
    """The tier with both precisions, and every difference; said before any ratio."""
    synthetic = ["synthetic weights: random, of the model's shape; they show speed and nothing else"]
    out = synthetic if is_synthetic(run) else []
    if run.manifest is None:
        return ["what was equal between the sides and what was not is not recorded", *out]
    return [
        tier(run),
        *out,
        *(f"no fair comparison: {one}" for one in run.manifest.faults),
        *(f"differs: {one}" for one in run.manifest.differences),
    ]


def comparison_rows(rows: Sequence[Comparison]) -> str:
    """One table; columns that no row has anything for are left out."""
    head = ["load", "metric", "baseline", "candidate", "ratio", "verdict", "target", "ceiling", ""]
    lines = [head, *(comparison_line(row) for row in rows)]
    kept = [place for place in range(len(head)) if place < 6 or any(line[place] for line in lines[1:])]
    return columns([[line[place] for place in kept] for line in lines], right={0, 2, 3})


def comparison_line(row: Comparison) -> list[str]:
    """One line of the table; the last column says why something is missing or open."""
    badge = words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO
    is_absent = row.ratio is None and row.reason.startswith("0 of 0 ")
    return [
        words.load(level_of(row)),
        words.short_metric(row.metric),
        words.measure(row.metric, row.baseline),
        words.measure(row.metric, row.candidate),
        str(words.ratio(row.ratio)),
        words.NOT_MEASURED.text if is_absent else badge.text,
        target_words(row),
        ceiling_words(row),
        "" if is_absent else row.reason,
    ]


def target_words(row: Comparison) -> str:
    """ "2× met"; with seconds where those apply; empty without a target."""
    parts = []
    if row.target is not None:
        verdict = words.MET[row.met] if row.ratio else words.NOT_MEASURED
        parts.append(f"{words.times(row.target)} {verdict.text}")
    if row.absolute_s is not None:
        verdict = words.NOT_MEASURED if row.candidate is None else words.MET[row.absolute_met]
        parts.append(f"{words.seconds(row.absolute_s)} {verdict.text}")
    return ", ".join(parts)


def ceiling_words(row: Comparison) -> str:
    """ "at most 45.2×, reachable"; empty where nothing is known."""
    limit = [] if row.ceiling_ratio is None else [f"at most {words.number(row.ceiling_ratio)}×"]
    return ", ".join([*limit, *([row.reach] if row.reach else [])])


def simulated_lines(run: Run) -> list[str]:
    """What must stand above figures that no engine gave; none above those of a measurement."""
    match view_simulated.mark(run):
        case "":
            return []
        case view_simulated.WHOLE:
            return ["SIMULATED: no engine ran; nothing here is a measurement."]
        case _:
            found = view_simulated.banner(run)
            return [f"{found.title}: {found.text}"] if found else []


def capacity_table(run: Run) -> str:
    """The largest load inside the limits, and every load that was tried."""
    found = view_capacity.capacity_part(run)
    if found is None or run.capacity is None:
        return "no capacity was looked for"
    rows = [["load", "requests", *found.heads, "verdict", "why"]]
    rows += [
        [load, requests, *(str(one) for one in shares), badge.text, reason]
        for load, requests, shares, badge, reason in found.steps
    ]
    return "\n".join([*simulated_lines(run), view_capacity.headline(run.capacity, ()), columns(rows, right={0, 1})])


def trials_table(trials: Sequence[Trial], *, is_simulated: bool = False) -> str:
    """All trials in the order asked, with what came of each."""
    if not trials:
        return "no trials"
    rows = [["trial", "outcome", f"objective{' (simulated)' if is_simulated else ''}", "flags", "why"]]
    rows += [
        [
            str(one.number),
            words.outcome_badge(one.outcome, is_simulated=is_simulated).text,
            str(trial_objective(one)),
            " ".join(flag_texts(one.flags)) or "vLLM's defaults",
            one.reason,
        ]
        for one in sorted(trials, key=lambda one: one.number)
    ]
    below = words.footnotes(trial_objective(one).mark for one in trials)
    return "\n".join([columns(rows, right={0}), *below])


def serve_line(run: Run) -> str:
    """The `vllm serve` command of the settings that the run is about, with what is still to be put into it."""
    return "\n".join(filter(None, [serve.line(run) or "no settings have been chosen", serve.caveat(run)]))
