"""The search for settings, drawn as a row per trial."""

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from harness.report.chart_ratio import ends, label_ratios
from harness.report.chart_style import BAND, INK, LOOK_COLOURS, MUTED, PAPER, POINTS_PER_INCH, printable
from harness.report.page_charts import TrialChart, TrialMark

ROW_PT: Final = 17.0
FLAG_PT: Final = 80.0
NAME_PT: Final = 34.0
PLOT_PT: Final = 330.0
HEAD_PT: Final = 46.0
FOOT_PT: Final = 34.0
MOST_LETTERS: Final = 13
"""Of a value in its column."""
LEAST: Final = 1.1
"""The axis reaches at least from 1/1.1 to 1.1."""


def draw_trials(chart: TrialChart) -> Figure:
    """A row per trial: its flags as a table, its objective with interval beside them."""
    left = NAME_PT + FLAG_PT * len(chart.flags)
    width, height = left + PLOT_PT, HEAD_PT + ROW_PT * len(chart.marks) + FOOT_PT
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    plot_width = (PLOT_PT - 18) / width
    axes = figure.add_axes((left / width, FOOT_PT / height, plot_width, ROW_PT * len(chart.marks) / height))
    axes.set_ylim(len(chart.marks) - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    ratio_axis(axes, chart.marks)
    axes.axvline(1.0, color=MUTED, linewidth=1, zorder=1)
    for row, mark in enumerate(chart.marks):
        draw_mark(axes, row, mark)
    write_flags(figure, chart, width_pt=width)
    return figure


def ratio_axis(axes: Axes, marks: Sequence[TrialMark]) -> None:
    """What all intervals fit on."""
    low, high = ends((bound for one in marks if one.objective for bound in one.objective), least=LEAST)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    label_ratios(axes.xaxis, low, high, most=9)
    axes.grid(visible=True, axis="x", zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("objective, as a ratio to the defaults", loc="left", labelpad=3)


def draw_mark(axes: Axes, row: int, mark: TrialMark) -> None:
    """The interval of one trial, or its outcome in words where there is none that counts."""
    if mark.is_winner:
        axes.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0, zorder=0)
    start = axes.get_xlim()[0]
    if mark.objective is None or mark.objective[0] <= 0:
        is_failed = mark.says != "the defaults"
        if is_failed:
            axes.plot([start * 1.0], [row], marker="x", color=MUTED, markersize=5, markeredgewidth=1.4, clip_on=False)
        else:
            axes.plot([1.0], [row], marker="s", color=LOOK_COLOURS[1], markersize=6, zorder=3)
        axes.annotate(
            printable(mark.says),
            (start if is_failed else 1.0, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            style="italic",
        )
        return
    low, value, high = mark.objective
    colour = LOOK_COLOURS[0] if not mark.says else MUTED
    axes.plot([low, high], [row, row], color=colour, linewidth=2.4 if mark.is_winner else 1.6, zorder=2)
    marker, size = ("D", 7.0) if mark.is_winner else ("o", 5.5)
    face = colour if not mark.says else PAPER
    axes.plot([value], [row], marker=marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)
    says = "the winner" if mark.is_winner else mark.says
    if says:
        is_right = math.log(high / start) < 0.7 * math.log(axes.get_xlim()[1] / start)
        axes.annotate(
            printable(says),
            (high if is_right else low, row),
            xytext=(6 if is_right else -6, 0),
            textcoords="offset points",
            va="center",
            ha="left" if is_right else "right",
            color=INK if mark.is_winner else MUTED,
            style="normal" if mark.is_winner else "italic",
        )


def write_flags(figure: Figure, chart: TrialChart, *, width_pt: float) -> None:
    """The table to the left of the plot."""
    height_pt = figure.get_size_inches()[1] * POINTS_PER_INCH

    def write(x_pt: float, y_pt: float, text: str, **how: Any) -> None:
        figure.text(x_pt / width_pt, y_pt / height_pt, printable(text), **how)

    head_pt = height_pt - HEAD_PT + 6
    write(2, head_pt, "trial", color=MUTED, va="bottom")
    for column, flag in enumerate(chart.flags):
        for line, part in enumerate(reversed(broken(flag))):
            at_pt = NAME_PT + FLAG_PT * (column + 1) - 14
            write(at_pt, head_pt + 11 * line, part, color=MUTED, va="bottom", ha="right")
    for row, mark in enumerate(chart.marks):
        middle_pt = height_pt - HEAD_PT - ROW_PT * (row + 0.5)
        weight = "bold" if mark.is_winner else "normal"
        write(22, middle_pt, mark.name, va="center", ha="right", weight=weight)
        for column, value in enumerate(mark.values):
            at_pt = NAME_PT + FLAG_PT * (column + 1) - 14
            text = value if len(value) <= MOST_LETTERS else f"{value[: MOST_LETTERS - 1]}…"
            write(at_pt, middle_pt, text, va="center", ha="right", weight=weight)


def broken(flag: str, *, width: int = 10, most: int = 3) -> list[str]:
    """A flag's name in at most three lines, cut at its dashes: ["max-num-", "batched-", "tokens"]."""
    lines = [""]
    for part in re.findall(r"[^-]*-?", flag):
        if lines[-1] and len(lines[-1]) + len(part) > width and len(lines) < most:
            lines.append("")
        lines[-1] += part
    return [line if len(line) <= width + 3 else f"{line[: width + 2]}…" for line in lines]
