"""Figures over the load: as charts, and as tables where nothing is compared, in words."""

from collections.abc import Sequence
from typing import Final

from harness.records import Cell, CellState, Level, Run
from harness.report import view_ceilings, words
from harness.report.figures import (
    LATENCIES,
    cells_at,
    known_latencies,
    level_of,
    levels_of,
    missing,
    pooled,
    repeats_of,
    scenario_names,
    scenario_title,
)
from harness.report.page_charts import LineChart, Point, Series
from harness.report.page_parts import ChartGroup, FigureTable, Side
from harness.report.view_ceilings import x_of
from harness.report.words import Shown

CHARTED: Final = ("output_tok_s", "ttft_s.p50", "e2e_s.p50", "itl_s.p50")
OPEN_CHARTED: Final = ("output_tok_s", "ttft_s.p50", "ttft_s.p95", "e2e_s.p50")
"""In an open loop it is the queue that grows: the slowest requests show it first."""
FIGURES: Final = ("output_tok_s", "requests_per_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50")
# From here on a linear axis hides the smaller values.
LOG_FROM_RATIO: Final = 20.0


# ---------------------------------------------------------------- charts


def chart_groups(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[ChartGroup, ...]:
    """The charts of every scenario that was measured at more than one load."""
    out = []
    for name in scenario_names(run, cells):
        levels = levels_of(cells, name)
        if len(levels) < 2:
            continue
        metrics = CHARTED if levels[0].rate_per_s is None else OPEN_CHARTED
        charts = tuple(
            chart for metric in metrics if (chart := line_chart(cells, sides, name, metric, levels)) is not None
        )
        if charts:
            out.append(ChartGroup(title=scenario_title(run, name), charts=charts))
    return tuple(out)


def line_chart(
    cells: Sequence[Cell], sides: Sequence[Side], scenario: str, metric: str, levels: Sequence[Level]
) -> LineChart | None:
    """One metric of all sides over the load, with what none can pass. None: nobody has a figure."""
    found = {
        side.role: [(level, one) for level in levels if (one := pooled(cells, side.role, scenario, level, metric))]
        for side in sides
    }
    values = [one.value for points in found.values() for _, one in points]
    if not values:
        return None
    factor, unit = words.scale(metric, max(values))
    series = tuple(
        Series(
            label=side.title,
            look=side.look,
            points=tuple(
                Point(x=x_of(level), value=one.value * factor, low=one.low * factor, high=one.high * factor)
                for level, one in found[side.role]
            ),
        )
        for side in sides
        if found[side.role]
    )
    limits = [view_ceilings.series(cells, side, scenario, levels) for side in sides if metric == "output_tok_s"]
    ceilings = tuple(one for one in limits if one is not None)
    drawn = [point for one in (*series, *ceilings) for point in one.points]
    bottom, top = min(point.low for point in drawn), max(point.value for point in drawn)
    is_log = bottom > 0 and top / bottom > LOG_FROM_RATIO
    is_open = levels[0].rate_per_s is not None
    return LineChart(
        name=f"{scenario}-{metric}",
        title=words.long_metric(metric),
        unit=f"{unit}, logarithmic" if is_log else unit,
        is_log=is_log,
        x_label="requests per second" if is_open else "users",
        ticks=tuple(x_of(level) for level in levels),
        series=series,
        ceilings=ceilings,
        description=" ".join(
            f"{one.label}: {', '.join(f'{words.number(p.value)} {unit} at {p.x:g}' for p in one.points)} "
            f"{'requests per second' if is_open else 'users'}."
            for one in (*series, *ceilings)
        ),
    )


def chart_notes(run: Run, cells: Sequence[Cell], sides: Sequence[Side], *, has_charts: bool) -> tuple[str, ...]:
    """How to read the charts, and what is not in them."""
    if not has_charts:
        what = "Every scenario has one load only" if cells else "There are no cells"
        return (f"{what}: there is nothing to draw.",)
    points = (
        "Points are the geometric mean of the repeats, bars run from the smallest to the largest repeat."
        if repeats_of(cells) > 1
        else "Points are single measurements: with one repeat there is no range to draw."
    )
    out = [f"{points} The load is on a logarithmic axis whose ticks are the loads that were measured."]
    if any("output_tok_s" in cell.ceilings for cell in cells):
        out.append(
            "Dotted, with a hollow mark at its end: the most tokens per second that the card's data sheet allows the "
            "server with that mark."
        )
    gaps = sorted(
        {
            f"{side.title} at {words.load(level_of(cell))} ({scenario_title(run, cell.scenario)})"
            for side in sides
            for cell in cells
            if cell.role == side.role
            and not any(
                other.state is CellState.MEASURED for other in cells_at(cells, cell.role, cell.scenario, level_of(cell))
            )
        }
    )
    if gaps:
        out.append(f"Not drawn, since no repeat was valid: {'; '.join(gaps)}.")
    return tuple(out)


# ---------------------------------------------------------------- tables


def figure_tables(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[FigureTable, ...]:
    """What was measured, where nothing is compared."""
    tables = (figure_table(run, name, cells, sides) for name in scenario_names(run, cells))
    return tuple(table for table in tables if table.loads)


def figure_table(run: Run, name: str, cells: Sequence[Cell], sides: Sequence[Side]) -> FigureTable:
    """One scenario, by load and server."""
    here = [cell for cell in cells if cell.scenario == name]
    known = known_latencies(here)
    has_rate = any(cell.requests_per_s is not None for cell in here)
    wanted = {"output_tok_s", *known, *(["requests_per_s"] if has_rate else [])}
    metrics = [metric for metric in FIGURES if words.split_metric(metric)[0] in wanted]
    loads = []
    for level in levels_of(here, name):
        mine = [(side, cells_at(here, side.role, name, level)) for side in sides]
        lines = tuple((side, tuple(figure(own, metric) for metric in metrics)) for side, own in mine if own)
        if lines:
            loads.append((words.load(level), lines))
    return FigureTable(
        title=scenario_title(run, name),
        metrics=tuple(words.short_metric(metric) for metric in metrics),
        loads=tuple(loads),
        notes=(
            "Geometric mean of the valid repeats, in brackets the smallest and the largest of them."
            if repeats_of(here) > 1
            else "One repeat, so there is no range.",
            *of_the_search(run),
            *words.footnotes(one.mark for _, lines in loads for _, shown in lines for one in shown),
            *whole_answers(known),
        ),
    )


def of_the_search(run: Run) -> tuple[str, ...]:
    """Of which launches the figures are, where the winner was launched more than once."""
    is_defended = run.defence is not None and run.defence.winner is not None
    return ("Of the launches of the search; the preset's figures are those of the finals.",) if is_defended else ()


def figure(cells: Sequence[Cell], metric: str) -> Shown:
    """The repeats of one load taken together, or why there is nothing to take."""
    valid = [cell for cell in cells if cell.state is CellState.MEASURED]
    if not valid:
        return Shown(text=cells[0].state.value)
    found = pooled(valid, valid[0].role, valid[0].scenario, level_of(valid[0]), metric)
    return found.shown(metric) if found else missing(valid[0], metric)


def whole_answers(known: Sequence[str]) -> tuple[str, ...]:
    """Why a table has fewer latencies than others."""
    gone = [words.short_metric(name) for name in LATENCIES if name not in known]
    return (f"No {words.listed(gone, last='or')}: {words.FOOTNOTES[words.NOT_STREAMED]}.",) if gone else ()
