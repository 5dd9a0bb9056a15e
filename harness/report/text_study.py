"""A search on the console: its trials, the defence of its winner, what it cost, and what it ends with."""

from collections.abc import Sequence

from harness.records import DefenceLaunch, Run, Trial
from harness.report import view_defence, view_front, view_progress, view_simulated, view_trials
from harness.report.columns import columns
from harness.report.page_study import JudgedTable
from harness.report.text import serve_line, simulated_lines, trials_table


def study_text(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch]) -> str:
    """All that a search came to, part by part; what there was nothing of is left out."""
    mark = " (simulated)" if view_simulated.is_search(run) else ""
    parts = [
        "\n".join([*simulated_lines(run), trials_table(trials, is_simulated=bool(mark))]),
        "\n".join((*view_trials.lessons(trials), *view_trials.stops(trials))),
        "\n".join([*kept_lines(trials), *front_lines(run, trials)]),
        *(judged_lines(table, mark) for table in view_defence.tables(run, trials)),
        cost_lines(trials, launches, mark),
        "\n".join(filter(None, [view_defence.verdict_text(run), serve_line(run)])),
    ]
    return "\n\n".join(part for part in parts if part)


def judged_lines(table: JudgedTable, mark: str) -> str:
    """The finals or the ablation, a line for each side."""
    rows = [["", f"to {table.control}", *table.objectives, "verdict", "why"]]
    rows += [
        [row.name, str(row.ratio), *(str(one) for one in row.each), row.badge.text, row.reason or row.worth]
        for row in table.rows
    ]
    return f"{table.heading}{mark}\n{columns(rows)}"


def cost_lines(trials: Sequence[Trial], launches: Sequence[DefenceLaunch], mark: str) -> str:
    """Launches and time of each stage; empty where nothing was launched."""
    found = view_progress.stages(trials, launches)
    if not found:
        return ""
    rows = [[f"stage{mark}", "launches", "time", "of these"]]
    rows += [[row.name, row.launches, row.time, row.lost] for row in found]
    return columns(rows, right={1, 2})


def kept_lines(trials: Sequence[Trial]) -> list[str]:
    """Who kept the limits; nothing where none was asked."""
    found = view_front.kept_table(trials)
    return [] if found is None else [found.sentence]


def front_lines(run: Run, trials: Sequence[Trial]) -> list[str]:
    """The settings that no others beat in all objectives; nothing where there is one objective."""
    found = view_front.front(run, trials)
    if found is None:
        return []
    rows = [["on the front", *found.names, "flags"]]
    rows += [[name, *(str(one) for one in ratios), " ".join(flags)] for name, ratios, flags in found.rows]
    return [found.sentence, columns(rows)]
