"""Two objectives against each other: every trial, and the front of those that no other one beats in both."""

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report.chart_ratio import ends, label_ratios
from harness.report.chart_style import INK, LOOK_COLOURS, MUTED, PAPER, POINTS_PER_INCH, printable
from harness.report.page_charts import FrontChart, FrontMark

SIZE_PT: Final = (460.0, 320.0)
LEFT_PT: Final = 48.0
LEAST: Final = 1.05
NEAR_PT: Final = (26.0, 12.0)
"""Labels nearer than this, across and up, would touch."""


def draw_front(chart: FrontChart) -> Figure:
    """Marks with their intervals both ways; the front full and joined, the others hollow."""
    width, height = SIZE_PT
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    axes = figure.add_axes((LEFT_PT / width, 36 / height, (width - LEFT_PT - 20) / width, (height - 60) / height))
    left, right = ends((bound for mark in chart.marks for bound in mark.x), least=LEAST)
    low, high = ends((bound for mark in chart.marks for bound in mark.y), least=LEAST)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    label_ratios(axes.xaxis, left, right, most=8)
    label_ratios(axes.yaxis, low, high, most=9)
    axes.grid(visible=True, zorder=0)
    axes.set_axisbelow(True)
    axes.axvline(1.0, color=MUTED, linewidth=1, zorder=1)
    axes.axhline(1.0, color=MUTED, linewidth=1, zorder=1)
    members = sorted((mark.x[1], mark.y[1]) for mark in chart.marks if mark.is_front)
    axes.step([x for x, _ in members], [y for _, y in members], where="pre", color=LOOK_COLOURS[0], linewidth=1.6)
    for mark in chart.marks:
        draw_mark(axes, mark)
    write_names(axes, chart.marks)
    axes.set_xlabel(printable(chart.x_label), loc="right", labelpad=2)
    figure.text(2 / width, 1 - 4 / height, printable(chart.y_label), color=MUTED, va="top", ha="left")
    return figure


def draw_mark(axes: Axes, mark: FrontMark) -> None:
    """One trial; the baseline is a square."""
    colour = LOOK_COLOURS[1] if mark.name == "0" else LOOK_COLOURS[0] if mark.is_front else MUTED
    (x_low, x, x_high), (y_low, y, y_high) = mark.x, mark.y
    axes.errorbar(
        [x],
        [y],
        xerr=[[max(x - x_low, 0.0)], [max(x_high - x, 0.0)]],
        yerr=[[max(y - y_low, 0.0)], [max(y_high - y, 0.0)]],
        color=colour,
        linestyle="none",
        marker="s" if mark.name == "0" else "o",
        markersize=6,
        markerfacecolor=colour if mark.is_front else PAPER,
        markeredgecolor=colour,
        elinewidth=1.0,
        zorder=3 if mark.is_front else 2,
    )


def write_names(axes: Axes, marks: Sequence[FrontMark]) -> None:
    """The number of each trial beside it: those of the front that lie together share a label, others give way."""
    scale = POINTS_PER_INCH / axes.figure.dpi
    groups: list[tuple[float, float, list[FrontMark]]] = []
    for mark in sorted(marks, key=lambda one: (not one.is_front, one.name != "0", one.x[1])):
        across, up = (float(place) * scale for place in axes.transData.transform((mark.x[1], mark.y[1])))
        near = next(
            (one for one in groups if abs(one[0] - across) < NEAR_PT[0] and abs(one[1] - up) < NEAR_PT[1]), None
        )
        if near is None:
            groups.append((across, up, [mark]))
        elif mark.is_front or mark.name == "0":
            near[2].append(mark)
    for _, _, found in groups:
        first = found[-1]
        is_right = math.log(first.x[1]) > 0.8 * math.log(axes.get_xlim()[1])
        axes.annotate(
            ", ".join("defaults" if one.name == "0" else printable(one.name) for one in found),
            (first.x[1], first.y[1]),
            xytext=(-5 if is_right else 5, 4),
            textcoords="offset points",
            ha="right" if is_right else "left",
            color=INK if first.is_front else MUTED,
            annotation_clip=False,
        )
