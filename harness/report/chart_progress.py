"""The course of a search: each launch with its interval, and the best of them so far as a line of steps."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import MaxNLocator

from harness.report.chart_ratio import ends, label_ratios
from harness.report.chart_style import BAND, INK, LOOK_COLOURS, MUTED, PAPER, POINTS_PER_INCH
from harness.report.page_charts import ProgressChart, ProgressMark

SIZE_PT: Final = (380.0, 250.0)
LEFT_PT: Final = 44.0
RIGHT_PT: Final = 14.0
FOOT_PT: Final = 34.0
HEAD_PT: Final = 22.0
LEAST: Final = 1.03
"""The axis reaches at least from 1/1.03 to 1.03, so that noise does not look like a cliff."""


def draw_progress(chart: ProgressChart) -> Figure:
    """The best so far as steps, all launches as marks, the finals behind a shaded stretch."""
    width, height = SIZE_PT
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    box = (
        LEFT_PT / width,
        FOOT_PT / height,
        (width - LEFT_PT - RIGHT_PT) / width,
        (height - FOOT_PT - HEAD_PT) / height,
    )
    axes = figure.add_axes(box)
    known = [bound for mark in chart.marks if mark.ratio for bound in mark.ratio]
    low, high = ends(known, least=LEAST, air=1.02)
    low = max(low, chart.lowest)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    label_ratios(axes.yaxis, low, high, most=8)
    axes.set_xlim(0, chart.last * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.grid(visible=True, axis="y", zorder=0)
    axes.set_axisbelow(True)
    axes.axhline(1.0, color=MUTED, linewidth=1, zorder=1)
    if chart.last > chart.end:
        shade_defence(axes, chart)
    draw_best(axes, chart)
    for mark in chart.marks:
        draw_mark(axes, mark)
    axes.set_xlabel(chart.x_label, loc="right", labelpad=2)
    figure.text(2 / width, 1 - 4 / height, "ratio to vLLM's defaults", color=MUTED, va="top", ha="left")
    return figure


def shade_defence(axes: Axes, chart: ProgressChart) -> None:
    """The stretch in which nothing was searched any more."""
    axes.axvspan(chart.end, chart.last, color=BAND, alpha=0.55, linewidth=0, zorder=0)
    is_wide = chart.last - chart.end > 0.2 * chart.last
    axes.annotate(
        "defence",
        ((chart.end + chart.last) / 2, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center" if is_wide else "right",
        va="bottom",
        color=MUTED,
        annotation_clip=False,
    )


def draw_best(axes: Axes, chart: ProgressChart) -> None:
    """Steps from each new best to the end of the search."""
    if chart.best:
        places = [x for x, _ in chart.best] + [chart.end]
        values = [value for _, value in chart.best] + [chart.best[-1][1]]
        axes.step(places, values, where="post", color=LOOK_COLOURS[0], linewidth=2.0, zorder=2)


def draw_mark(axes: Axes, mark: ProgressMark) -> None:
    """A dot with its interval; hollow where it was stopped, a cross at the foot where there is no figure."""
    foot = axes.get_ylim()[0]
    if mark.ratio is None or mark.ratio[1] <= foot:
        sign: str | int = "x" if mark.ratio is None else CARETDOWN
        axes.plot([mark.x], [foot], marker=sign, color=MUTED, markersize=7, markeredgewidth=1.0, clip_on=False)
        return
    low, value, high = mark.ratio
    colour = {"final": LOOK_COLOURS[2], "stopped": MUTED}.get(mark.kind, LOOK_COLOURS[0])
    axes.errorbar(
        [mark.x],
        [value],
        yerr=[[max(value - low, 0.0)], [max(high - value, 0.0)]],
        color=colour,
        linestyle="none",
        marker={"final": "D", "stopped": "v"}.get(mark.kind, "o"),
        markersize=7 if mark.kind == "final" else 5.0,
        markerfacecolor=PAPER if mark.kind == "stopped" else colour,
        markeredgecolor=INK if mark.kind == "final" else colour,
        markeredgewidth=0.8,
        elinewidth=1.2,
        capsize=2.5,
        capthick=1.2,
        zorder=4 if mark.kind == "final" else 3,
    )
