"""Whether a machine or server changed while it was measured, in words: from launch to launch, and within cells."""

import statistics
from collections.abc import Sequence
from typing import Final

from harness.records import Cell, CellState, Level, Run
from harness.report import words
from harness.report.figures import level_of, levels_of, scenario_names, scenario_title
from harness.report.page_charts import LaunchChart, Point, Series
from harness.report.page_parts import Drift, Side

SPREAD: Final = 0.6
"""Room for the repeats of one launch, where the next launch is 1 away."""


def drift(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> Drift | None:
    """None: nothing was measured twice, and no cell tells of its own drift."""
    here = [cell for cell in cells if any(cell.role == side.role for side in sides)]
    groups = []
    for name in scenario_names(run, here):
        charts = (launch_chart(here, sides, name, level) for level in levels_of(here, name))
        drawn = tuple(chart for chart in charts if chart is not None)
        if drawn:
            groups.append((scenario_title(run, name), drawn))
    within = within_words(run, here, sides)
    if not groups and not within:
        return None
    notes = (
        (
            "Each mark is a cell, in percent of the mean of all cells of its server at this load; the bar is its "
            "interval. A server that slows down, or a machine that gets hot, shows as a slope over the launches. "
            "Cells that do not count are left out.",
        )
        if groups
        else ()
    )
    return Drift(groups=tuple(groups), within=within, notes=notes)


# ---------------------------------------------------------------- from launch to launch


def launch_chart(cells: Sequence[Cell], sides: Sequence[Side], scenario: str, level: Level) -> LaunchChart | None:
    """The cells of one load in the order of the launches. None: no server has two that count."""
    mine = [cell for cell in cells if cell.scenario == scenario and level_of(cell) == level]
    valid = [cell for cell in mine if cell.state is CellState.MEASURED and cell.output_tok_s is not None]
    launches = list(dict.fromkeys((cell.role, cell.block) for cell in mine))
    found = [(side, [cell for cell in valid if cell.role == side.role]) for side in sides]
    if all(len(own) < 2 for _, own in found):
        return None
    series = tuple(
        Series(label=side.title, look=side.look, points=points_of(own, mine, launches)) for side, own in found if own
    )
    return LaunchChart(
        name=f"launches-{scenario}-{level.name}",
        title=words.load(level),
        launches=tuple(str(place) for place in range(1, len(launches) + 1)),
        series=series,
        description=" ".join(
            f"{one.label}: {', '.join(f'{words.number(p.value)}% in launch {round(p.x)}' for p in one.points)}."
            for one in series
        ),
    )


def points_of(
    cells: Sequence[Cell], all_cells: Sequence[Cell], launches: Sequence[tuple[str, int]]
) -> tuple[Point, ...]:
    """One server's cells in percent of their mean, the repeats of a launch side by side."""
    values = [cell.output_tok_s for cell in cells if cell.output_tok_s is not None]
    mean = statistics.fmean(one.value for one in values)
    out = []
    for cell, found in zip(cells, values, strict=True):
        launch = (cell.role, cell.block)
        together = [one for one in all_cells if (one.role, one.block) == launch]
        step = SPREAD / max(len(together), 2)
        offset = (together.index(cell) - (len(together) - 1) / 2) * step
        value, low, high = (100 * one / mean if mean else 0.0 for one in (found.value, found.low, found.high))
        out.append(Point(x=launches.index(launch) + 1 + offset, value=value, low=low, high=high))
    return tuple(out)


# ---------------------------------------------------------------- within cells


def within_words(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[str, ...]:
    """A sentence for each server, with the loads whose interval leaves out 1."""
    out = []
    for side in sides:
        known = [
            (cell, cell.drift_ratio)
            for cell in cells
            if cell.role == side.role and cell.state is CellState.MEASURED and cell.drift_ratio is not None
        ]
        if not known:
            continue
        low, high = (f"{one:.2f}×" for one in (min(r.value for _, r in known), max(r.value for _, r in known)))
        told = f"between {low} and {high} of" if low != high else f"{low}"
        drifted = [(cell, found) for cell, found in known if found.low > 1 or found.high < 1]
        where = dict.fromkeys(
            f"{scenario_title(run, cell.scenario)}, {words.load(level_of(cell))}" for cell, _ in drifted
        )
        text = (
            f"{side.named} gave in the second half of a cell {told} the tokens per second of the first "
            f"({words.plural(len(known), 'cell')})"
        )
        if drifted:
            text += f"; in {len(drifted)} of them the interval leaves out 1: {'; '.join(where)}"
        out.append(f"{text}.")
    return tuple(out)
