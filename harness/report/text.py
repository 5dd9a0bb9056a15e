"""A run on the console: plain text, one line per thing, columns that line up.

Everything says in words what it means; nothing here prints.
"""

from collections.abc import Sequence
from typing import Final

from harness.records import Cell, CellState, Comparison, ModelEntry, Run, Trial
from harness.report import serve, words
from harness.report.figures import estimate_of, missing, scenario_title
from harness.report.view_search import flag_texts, trial_objective
from harness.report.words import DASH, duration, si

__all__ = [
    "cell_line",
    "cells_table",
    "comparison_table",
    "duration",
    "models_table",
    "serve_line",
    "si",
    "trials_table",
]

PROGRESS: Final = ("output_tok_s", "ttft_s.p50", "e2e_s.p50")
COLUMNS: Final = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "e2e_s.p50")


def cell_line(cell: Cell) -> str:
    """One cell as a progress line: "candidate  concurrent  50 users  repeat 2  557 tok/s (540–571)  TTFT p50 …"."""
    parts = [cell.role, cell.scenario, words.plural(cell.users, "user"), f"repeat {cell.repeat}"]
    if cell.state is not CellState.FAILED:
        parts += [progress_figure(cell, metric) for metric in PROGRESS if has_metric(cell, metric)]
        parts.append(words.plural(cell.requests, "request"))
    if cell.failures:
        parts.append(f"{cell.failures:,} failed")
    if cell.state is not CellState.MEASURED:
        parts.append(f"{cell.state.value}: {'; '.join(cell.reasons) or 'no reason was recorded'}")
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


# ---------------------------------------------------------------- tables


def cells_table(cells: Sequence[Cell]) -> str:
    """All cells of a measurement, a line each; reasons below the table."""
    head = ["scenario", "users", "repeat", "state", *(words.short_metric(metric) for metric in COLUMNS), "requests"]
    rows = [
        [
            cell.scenario,
            f"{cell.users:,}",
            str(cell.repeat),
            cell.state.value,
            *(str(cell_figure(cell, metric)) if has_metric(cell, metric) else "n/a" for metric in COLUMNS),
            f"{cell.requests:,}" + (f" ({cell.failures:,} failed)" if cell.failures else ""),
        ]
        for cell in cells
    ]
    below = [
        f"{cell.scenario}, {words.plural(cell.users, 'user')}, repeat {cell.repeat} is {cell.state.value}: "
        f"{one_line('; '.join(cell.reasons) or 'no reason was recorded')}"
        for cell in cells
        if cell.state is not CellState.MEASURED
    ]
    if any(DASH in row for cell, row in zip(cells, rows, strict=True) if cell.state is not CellState.FAILED):
        below.append(f"{DASH} {words.FOOTNOTES[words.TOO_FEW]}")
    return "\n".join([columns([head, *rows], right={1, 2, 4, 5, 6, 7, 8}), *below])


def comparison_table(run: Run) -> str:
    """Both sides per scenario, users and metric, with ratio, verdict and target."""
    titles = {facts.role: facts.title for facts in run.engines}
    out = [f"{titles.get('candidate', 'candidate')} against {titles.get('baseline', 'baseline')}"]
    if not run.comparisons:
        return f"{out[0]}: nothing has been compared"
    for name in dict.fromkeys(row.scenario for row in run.comparisons):
        mine = [row for row in run.comparisons if row.scenario == name]
        rows = [["users", "metric", "baseline", "candidate", "ratio", "verdict", "target", ""]]
        rows += [comparison_line(row) for row in mine]
        out += ["", scenario_title(run, name), columns(rows, right={0, 2, 3})]
    out += ["", "over 1× the candidate is faster; in brackets the interval that holds the true ratio"]
    return "\n".join(out)


def comparison_line(row: Comparison) -> list[str]:
    """One line of the table; the last column says why something is missing or open."""
    badge = words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO
    return [
        f"{row.users:,}",
        words.short_metric(row.metric),
        words.measure(row.metric, row.baseline),
        words.measure(row.metric, row.candidate),
        str(words.ratio(row.ratio)),
        badge.text,
        target_words(row),
        row.reason,
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


def trials_table(trials: Sequence[Trial]) -> str:
    """All trials in the order asked, with what came of each."""
    if not trials:
        return "no trials"
    rows = [["trial", "outcome", "objective", "flags", "why"]]
    rows += [
        [
            str(one.number),
            one.outcome.value,
            str(trial_objective(one)),
            " ".join(flag_texts(one.flags)) or "vLLM's defaults",
            one.reason,
        ]
        for one in sorted(trials, key=lambda one: one.number)
    ]
    return columns(rows, right={0})


def serve_line(run: Run) -> str:
    """The `vllm serve` command of the settings that the run is about, with what is still to be put into it."""
    return "\n".join(filter(None, [serve.line(run) or "no settings have been chosen", serve.caveat(run)]))


def models_table(entries: Sequence[ModelEntry]) -> str:
    """The registry: each model under its names on both sides."""
    rows = [["name", "parameters", "Hugging Face", "Ollama", "licence"]]
    rows += [
        [
            one.name,
            si(one.shape.parameters),
            one.hf_id,
            one.ollama_tags.get(one.ollama_default, DASH),
            f"{one.license}{', must be accepted' if one.is_gated else ''}",
        ]
        for one in entries
    ]
    return columns(rows, right={1})


def columns(rows: Sequence[Sequence[str]], *, right: set[int] | frozenset[int] = frozenset()) -> str:
    """Rows with two spaces between columns; those in `right` end together. The last column may run on."""
    plain = [[one_line(text) for text in row] for row in rows]
    widths = [max(len(row[place]) for row in plain) for place in range(len(plain[0]))]
    lines = (
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in plain
    )
    return "\n".join(line.rstrip() for line in lines)


def one_line(text: str) -> str:
    """Without line breaks and control characters: what an engine logged must not steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
