"""The share of requests that kept a limit over the load, against the share that is asked."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report.chart_lines import load_axis
from harness.report.chart_style import LOOK_COLOURS, MUTED, PAPER, POINTS_PER_INCH
from harness.report.page_charts import Point, ShareChart

SIZE_PT: Final = (380.0, 220.0)
LEFT_PT: Final = 44.0
MARKERS: Final = {"inside": "o", "outside": "X", "undecided": "D"}
"""Full, crossed and hollow, so that no colour is needed."""


def draw_shares(chart: ShareChart) -> Figure:
    """A mark with its interval for each level that was tried, and a line for what is asked."""
    width, height = SIZE_PT
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    axes = figure.add_axes((LEFT_PT / width, 34 / height, (width - LEFT_PT - 66) / width, (height - 74) / height))
    for kind in MARKERS:
        points = [point for point, its in zip(chart.points, chart.kinds, strict=True) if its == kind]
        if points:
            draw_kind(axes, kind, points)
    load_axis(axes, sorted({point.x for point in chart.points}))
    low = min([*(point.low for point in chart.points), chart.asked])
    axes.set_ylim(max(low - 0.06 * (100.0 - low) - 1.0, -2.0), 100.0 + 0.06 * (100.0 - low) + 0.5)
    axes.axhline(chart.asked, color=MUTED, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
    axes.annotate(
        f"{chart.asked:.10g}% asked",
        (1.0, chart.asked),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        ha="left",
        color=MUTED,
    )
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}%" if value <= 100.0 else ""))
    axes.grid(visible=True, axis="y", zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.x_label, loc="right", labelpad=2)
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.4,
        borderaxespad=0.2,
        borderpad=0,
    )
    return figure


def draw_kind(axes: Axes, kind: str, points: list[Point]) -> None:
    """All levels of one verdict."""
    is_open = kind == "undecided"
    colour = LOOK_COLOURS[1] if kind == "outside" else LOOK_COLOURS[0]
    axes.errorbar(
        [point.x for point in points],
        [point.value for point in points],
        yerr=[
            [max(point.value - point.low, 0.0) for point in points],
            [max(point.high - point.value, 0.0) for point in points],
        ],
        color=colour,
        label=kind,
        linestyle="none",
        marker=MARKERS[kind],
        markersize=7,
        markerfacecolor=PAPER if is_open else colour,
        markeredgecolor=colour if is_open else PAPER,
        markeredgewidth=1.2 if is_open else 0.8,
        elinewidth=1.4,
        capsize=3,
        capthick=1.4,
        clip_on=False,
        zorder=3,
    )
