"""Charts of a page as SVG text for inline use: no global state, the same bytes for the same data.

Colours are CSS variables of the page, so that a chart follows its light or dark scheme and its printing.
Each series has its own marker and dash, so that colour is never needed to tell them apart.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from harness.report import words
from harness.report.page import LineChart, Point, Series, TrialChart, TrialMark

SVG: Final = "http://www.w3.org/2000/svg"
XLINK: Final = "http://www.w3.org/1999/xlink"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)

# matplotlib knows no CSS: it draws with these stand-ins, which become variables of the page.
INK, MUTED, GRID, PAPER, BAND = "#000001", "#000002", "#000003", "#000004", "#000005"
LOOK_COLOURS: Final = ("#000011", "#000012", "#000013", "#000014")
VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    BAND: "var(--band)",
    **{colour: f"var(--look-{look})" for look, colour in enumerate(LOOK_COLOURS, start=1)},
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one series is told from the others, with and without colour."""

    colour: str
    marker: str
    dash: tuple[float, tuple[float, ...]]


LOOKS: Final = (
    Look(colour=LOOK_COLOURS[0], marker="o", dash=(0, ())),
    Look(colour=LOOK_COLOURS[1], marker="s", dash=(0, (5, 2))),
    Look(colour=LOOK_COLOURS[2], marker="^", dash=(0, (1, 1))),
    Look(colour=LOOK_COLOURS[3], marker="D", dash=(0, (6, 1, 1, 1))),
)

STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "harness",
    "text.parse_math": False,  # a "$" in a title is a dollar
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
}

# Whoever runs this may have a matplotlibrc. The backend is left out: to read or set it loads pyplot.
DEFAULTS: Final[dict[Any, Any]] = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}

NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}

POINTS_PER_INCH: Final = 72.0
LINE_SIZE_PT: Final = (360.0, 260.0)
MARGIN_PT: Final = 44.0
LEGEND_LINE_PT: Final = 14.0
LABEL_GAP_PT: Final = 11.0


def svg(chart: LineChart | TrialChart) -> str:
    """The chart as one <svg> element with title and description."""
    with mpl.rc_context(), warnings.catch_warnings():
        # Characters that matplotlib's own font lacks are drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcParams.update(DEFAULTS | STYLE)
        figure = draw_lines(chart) if isinstance(chart, LineChart) else draw_trials(chart)
        sink = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata=NO_METADATA)  # type: ignore[no-untyped-call]
    return inline(sink.getvalue(), name=chart.name, title=chart.title, description=chart.description)


# ---------------------------------------------------------------- lines over users


def draw_lines(chart: LineChart) -> Figure:
    """One line per series, its bars over the repeats, its last value written at its end."""
    width, height = LINE_SIZE_PT
    legend_pt = LEGEND_LINE_PT * len(chart.series) + 4
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    top = 1 - (legend_pt + 16) / height
    axes = figure.add_axes((MARGIN_PT / width, 34 / height, (width - 2 * MARGIN_PT) / width, top - 34 / height))
    for one in chart.series:
        draw_series(axes, one)
    users_axis(axes, chart.ticks)
    value_axis(axes, chart)
    axes.set_xlabel("users", loc="right", labelpad=2)
    figure.text(2 / width, top + 6 / height, chart.unit, color=MUTED, va="bottom", ha="left")
    draw_legend(figure, chart.series)
    write_last_values(axes, chart)
    return figure


def draw_series(axes: Axes, series: Series) -> None:
    """The line, its markers and its bars."""
    look = look_of(series.look)
    at = [point.users for point in series.points]
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


def look_of(look: int) -> Look:
    """Looks are few; a series too many begins them again."""
    return LOOKS[(look - 1) % len(LOOKS)]


def users_axis(axes: Axes, ticks: Sequence[int]) -> None:
    """Logarithmic, with the ladder's own ticks and nothing between them."""
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in readable(ticks)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def readable(ticks: Sequence[int]) -> list[int]:
    """The ticks whose labels do not touch: the ends always, others where there is room."""
    room = math.log(ticks[-1] / ticks[0]) / 14 if ticks[-1] > ticks[0] else 0.0
    kept = [ticks[-1]]
    for tick in reversed(ticks[:-1]):
        if math.log(kept[-1] / tick) >= room and (tick == ticks[0] or math.log(tick / ticks[0]) >= room):
            kept.append(tick)
    return sorted({*kept, ticks[0]})


def value_axis(axes: Axes, chart: LineChart) -> None:
    """From zero, or logarithmic where the small values would vanish."""
    top = max(point.high for one in chart.series for point in one.points)
    if chart.is_log:
        bottom = min(point.low for one in chart.series for point in one.points)
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


def draw_legend(figure: Figure, series: Sequence[Series]) -> None:
    """Above the plot, one server a line: titles are long and phones are narrow."""
    handles = [
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
        for one in series
    ]
    figure.legend(
        handles,
        [printable(one.label) for one in series],
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        frameon=False,
        handlelength=3.4,
        borderaxespad=0.2,
        borderpad=0,
        labelspacing=0.45,
    )


def write_last_values(axes: Axes, chart: LineChart) -> None:
    """The value of each line's last point beside it, moved apart where they would touch."""
    ends: list[tuple[float, Series, Point]] = []
    for one in chart.series:
        last = one.points[-1]
        ends.append((axes.transData.transform((last.users, last.value))[1], one, last))
    ends.sort(key=lambda end: end[0])
    scale = POINTS_PER_INCH / axes.figure.dpi
    floor_pt = -math.inf
    for place, one, last in ends:
        at_pt = max(place * scale, floor_pt + LABEL_GAP_PT)
        floor_pt = at_pt
        axes.annotate(
            words.number(last.value),
            (last.users, last.value),
            xytext=(7, at_pt - place * scale),
            textcoords="offset points",
            va="center",
            ha="left",
            color=look_of(one.look).colour,
            annotation_clip=False,
        )


# ---------------------------------------------------------------- the search

ROW_PT: Final = 17.0
FLAG_PT: Final = 80.0
NAME_PT: Final = 34.0
PLOT_PT: Final = 330.0
HEAD_PT: Final = 46.0
FOOT_PT: Final = 34.0


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
    """Logarithmic, so that twice as fast and half as fast are equally far from 1."""
    known = [one.objective for one in marks if one.objective and one.objective[0] > 0]
    low = min([0.9, *(one[0] / 1.04 for one in known)])
    high = max([1.1, *(one[2] * 1.04 for one in known)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    steps = (
        0.01,
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        1.0,
        1.1,
        1.25,
        1.5,
        2.0,
        3.0,
        5.0,
        10.0,
        20.0,
        50.0,
        100.0,
    )
    axes.xaxis.set_major_locator(FixedLocator(spaced([step for step in steps if low <= step <= high], low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.grid(visible=True, axis="x", zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("objective, as a ratio to the defaults", loc="left", labelpad=3)


def spaced(steps: Sequence[float], low: float, high: float) -> list[float]:
    """The steps whose labels do not touch; 1 always stays."""
    room = math.log(high / low) / 9
    kept = [1.0]
    for step in sorted(steps, key=lambda step: abs(math.log(step))):
        if all(abs(math.log(step / other)) >= room for other in kept):
            kept.append(step)
    return sorted(kept)


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
            text = value if len(value) <= 11 else f"{value[:10]}…"
            write(at_pt, middle_pt, text, va="center", ha="right", weight=weight)


def broken(flag: str, *, width: int = 10, most: int = 3) -> list[str]:
    """A flag's name in at most three lines, cut at its dashes: ["max-num-", "batched-", "tokens"]."""
    lines = [""]
    for part in re.findall(r"[^-]*-?", flag):
        if lines[-1] and len(lines[-1]) + len(part) > width and len(lines) < most:
            lines.append("")
        lines[-1] += part
    return [line if len(line) <= width + 3 else f"{line[: width + 2]}…" for line in lines]


# ---------------------------------------------------------------- matplotlib's SVG made fit for a page


def inline(raw: bytes, *, name: str, title: str, description: str) -> str:
    """The drawing as an element of a page: ids of its own, the page's font and colours, words for who cannot see."""
    root = ET.fromstring(raw)
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", f"chart-{name}").strip("-")
    for parent in list(root.iter()):
        for child in list(parent):
            # The style sheet would reach the whole page.
            if child.tag in {f"{{{SVG}}}metadata", f"{{{SVG}}}style"}:
                parent.remove(child)
    for element in root.iter():
        rewrite(element, prefix=prefix)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", "chart")
    root.set("style", f"--width: {root.attrib['viewBox'].split()[2]}")
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        child.text = printable(text)
        root.insert(place, child)
    return ET.tostring(root, encoding="unicode")


def rewrite(element: ET.Element, *, prefix: str) -> None:
    """One element: its ids get a prefix, its colours become variables, its font becomes the page's."""
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.attrib['id']}")
    href = element.attrib.get(f"{{{XLINK}}}href", "")
    if href.startswith("#"):
        element.set(f"{{{XLINK}}}href", f"#{prefix}-{href[1:]}")
    for key in ("clip-path", "style"):
        if key in element.attrib:
            element.set(key, restyled(element.attrib[key], prefix=prefix))


def restyled(style: str, *, prefix: str) -> str:
    """CSS of one element in the page's terms."""
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    style = style.replace("url(#", f"url(#{prefix}-")
    # "font: italic 9px 'DejaVu Sans', …" → size and style stay, the family is the page's.
    style = re.sub(r"font: ([^;]*?)([\d.]+px) [^;]+", r"font: \1\2 var(--sans)", style)
    return re.sub(r"font-family: [^;]+", "font-family: var(--sans)", style)


def printable(text: str) -> str:
    """Without the control characters that no XML may hold."""
    return "".join(char if is_xml(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def is_xml(char: str) -> bool:
    """Whether a character may stand in an XML document."""
    return char in "\t\n\r" or (char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff")


Draw = Callable[[LineChart | TrialChart], str]
"""What turns a chart into markup; tests put the data in its place."""
