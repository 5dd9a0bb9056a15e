"""A metric over the load, drawn as a line per server, with the ceilings that none can pass."""

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.report import words
from harness.report.chart_style import MUTED, PAPER, POINTS_PER_INCH, look_of, printable
from harness.report.page_charts import LineChart, Point, Series

LINE_SIZE_PT: Final = (360.0, 260.0)
MARGIN_PT: Final = 44.0
LEGEND_LINE_PT: Final = 14.0
LABEL_GAP_PT: Final = 11.0
USUAL_LINES: Final = 4
"""Of a legend; more make the chart higher, not the plot lower."""
LEGEND_LETTERS: Final = 52
"""In a line of the legend; the reader's font may be wider than the one that is measured with."""
CEILING_DASH: Final = (0, (0.9, 2.4))


def draw_lines(chart: LineChart) -> Figure:
    """One line per series, its bars over the repeats, its last value written at its end."""
    width, height = LINE_SIZE_PT
    lines = sum(len(wrapped(one.label)) for one in chart.series) + bool(chart.ceilings)
    height += LEGEND_LINE_PT * max(lines - USUAL_LINES, 0)
    legend_pt = LEGEND_LINE_PT * lines + 4
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    top = 1 - (legend_pt + 16) / height
    axes = figure.add_axes((MARGIN_PT / width, 34 / height, (width - 2 * MARGIN_PT) / width, top - 34 / height))
    for one in chart.ceilings:
        draw_ceiling(axes, one)
    for one in chart.series:
        draw_series(axes, one)
    load_axis(axes, chart.ticks)
    value_axis(axes, chart)
    axes.set_xlabel(chart.x_label, loc="right", labelpad=2)
    figure.text(2 / width, top + 6 / height, chart.unit, color=MUTED, va="bottom", ha="left")
    draw_legend(figure, chart)
    write_last_values(axes, chart)
    return figure


def draw_series(axes: Axes, series: Series) -> None:
    """The line, its markers and its bars."""
    look = look_of(series.look)
    at = [point.x for point in series.points]
    axes.errorbar(
        at,
        [point.value for point in series.points],
        yerr=[
            [max(point.value - point.low, 0.0) for point in series.points],
            [max(point.high - point.value, 0.0) for point in series.points],
        ],
        color=look.colour,
        linestyle=look.dash,
        linewidth=1.8,
        marker=look.marker,
        markersize=5.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        elinewidth=1.4,
        capsize=3,
        capthick=1.4,
        zorder=3,
    )


def draw_ceiling(axes: Axes, series: Series) -> None:
    """A thin line of dots with a hollow mark at its end: nothing was measured there."""
    axes.plot(
        [point.x for point in series.points],
        [point.value for point in series.points],
        color=look_of(series.look).colour,
        linestyle=CEILING_DASH,
        linewidth=1.3,
        marker=look_of(series.look).marker,
        markersize=5.5,
        markerfacecolor=PAPER,
        markevery=[len(series.points) - 1],
        clip_on=False,
        zorder=2,
    )


def load_axis(axes: Axes, ticks: Sequence[float]) -> None:
    """Logarithmic, with the ladder's own ticks and nothing between them."""
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(readable(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def readable(ticks: Sequence[float]) -> list[float]:
    """The ticks whose labels do not touch: the ends always, others where there is room."""
    room = math.log(ticks[-1] / ticks[0]) / 14 if ticks[-1] > ticks[0] else 0.0
    kept = [ticks[-1]]
    for tick in reversed(ticks[:-1]):
        if math.log(kept[-1] / tick) >= room and (tick == ticks[0] or math.log(tick / ticks[0]) >= room):
            kept.append(tick)
    return sorted({*kept, ticks[0]})


def value_axis(axes: Axes, chart: LineChart) -> None:
    """From zero, or logarithmic where the small values would vanish."""
    drawn = [point for one in (*chart.series, *chart.ceilings) for point in one.points]
    top = max(point.high for point in drawn)
    if chart.is_log:
        bottom = min(point.low for point in drawn)
        axes.set_yscale("log")
        axes.set_ylim(bottom / 1.3, top * 1.3)
        decades = math.log10(top / bottom)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        steps = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
        axes.yaxis.set_major_locator(steps)
        axes.set_ylim(0, max([1.02 * top, *steps.tick_values(0, top)]) or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(visible=True, axis="y", zorder=0)
    axes.set_axisbelow(True)


def draw_legend(figure: Figure, chart: LineChart) -> None:
    """Above the plot, one line for each: titles are long and phones are narrow."""
    measured = [
        Line2D(
            [],
            [],
            color=look_of(one.look).colour,
            linestyle=look_of(one.look).dash,
            linewidth=1.8,
            marker=look_of(one.look).marker,
            markersize=5.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.8,
        )
        for one in chart.series
    ]
    limits = [Line2D([], [], color=MUTED, linestyle=CEILING_DASH, linewidth=1.3)] if chart.ceilings else []
    figure.legend(
        [*measured, *limits],
        [*("\n".join(wrapped(one.label)) for one in chart.series), *(["ceiling of each"] if chart.ceilings else [])],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        frameon=False,
        handlelength=3.4,
        borderaxespad=0.2,
        borderpad=0,
        labelspacing=0.45,
    )


def wrapped(label: str) -> list[str]:
    """A series' name in lines that end inside the chart."""
    return textwrap.wrap(printable(label), LEGEND_LETTERS, break_long_words=True) or [""]


def write_last_values(axes: Axes, chart: LineChart) -> None:
    """The value of each line's last point beside it, moved apart where they would touch."""
    ends: list[tuple[float, Series, Point]] = []
    for one in chart.series:
        last = one.points[-1]
        ends.append((axes.transData.transform((last.x, last.value))[1], one, last))
    ends.sort(key=lambda end: end[0])
    scale = POINTS_PER_INCH / axes.figure.dpi
    floor_pt = -math.inf
    for place, one, last in ends:
        at_pt = max(place * scale, floor_pt + LABEL_GAP_PT)
        floor_pt = at_pt
        axes.annotate(
            words.number(last.value),
            (last.x, last.value),
            xytext=(7, at_pt - place * scale),
            textcoords="offset points",
            va="center",
            ha="left",
            color=look_of(one.look).colour,
            annotation_clip=False,
        )
