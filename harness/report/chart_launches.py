"""Each cell of one load in the order of the launches: does the machine, or a server, change from one to the next?"""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from harness.report.chart_style import GRID, MUTED, PAPER, POINTS_PER_INCH, look_of, printable
from harness.report.page_charts import LaunchChart, Series

SIZE_PT: Final = (300.0, 150.0)
LEFT_PT: Final = 40.0
LEAST_SPAN: Final = 5.0
"""Percent around the mean that are always in sight, so that noise of 0.1% does not look like a fall."""


def draw_launches(chart: LaunchChart) -> Figure:
    """A mark with its interval for each cell; a band for every second launch."""
    width, height = SIZE_PT
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    axes = figure.add_axes((LEFT_PT / width, 32 / height, (width - LEFT_PT - 8) / width, (height - 52) / height))
    axes.set_xlim(0.5, len(chart.launches) + 0.5)
    axes.axhline(100.0, color=MUTED, linewidth=1, zorder=1)
    for edge in range(1, len(chart.launches)):
        axes.axvline(edge + 0.5, color=GRID, linewidth=0.8, zorder=0)
    for one in chart.series:
        draw_cells(axes, one)
    points = [point for one in chart.series for point in one.points]
    reach = max([LEAST_SPAN, *(abs(bound - 100.0) for point in points for bound in (point.low, point.high))]) * 1.08
    axes.set_ylim(max(100.0 - reach, 0.0), 100.0 + reach)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}%"))
    axes.grid(visible=True, axis="y", zorder=0)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(FixedLocator([float(place) for place in range(1, len(chart.launches) + 1)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: printable(chart.launches[round(value) - 1])))
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("launches, in the order they were made", loc="right", labelpad=2)
    figure.text(2 / width, (height - 4) / height, "tok/s, of the server's mean", color=MUTED, va="top", ha="left")
    return figure


def draw_cells(axes: Axes, series: Series) -> None:
    """The cells of one server: they are no line, since the other server ran between them."""
    look = look_of(series.look)
    axes.errorbar(
        [point.x for point in series.points],
        [point.value for point in series.points],
        yerr=[
            [max(point.value - point.low, 0.0) for point in series.points],
            [max(point.high - point.value, 0.0) for point in series.points],
        ],
        color=look.colour,
        linestyle="none",
        marker=look.marker,
        markersize=5.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        elinewidth=1.1,
        capsize=2,
        capthick=1.1,
        zorder=3,
    )
