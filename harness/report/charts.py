"""Charts of a page as SVG text for inline use: no global state, the same bytes for the same data.

Colours are CSS variables of the page, so that a chart follows its light or dark scheme and its printing.
Each series has its own marker and dash, so that colour is never needed to tell them apart.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness.report.chart_front import draw_front
from harness.report.chart_launches import draw_launches
from harness.report.chart_lines import draw_lines
from harness.report.chart_progress import draw_progress
from harness.report.chart_shares import draw_shares
from harness.report.chart_style import DEFAULTS, GRID, POINTS_PER_INCH, STYLE, VARIABLES, printable
from harness.report.chart_trials import draw_trials
from harness.report.page_charts import Chart, FrontChart, LaunchChart, LineChart, ProgressChart, ShareChart, TrialChart

SVG: Final = "http://www.w3.org/2000/svg"
XLINK: Final = "http://www.w3.org/1999/xlink"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)

NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg(chart: Chart, mark: str = "") -> str:
    """The chart as one <svg> element with title and description.

    Args:  mark: what must be read with it wherever it is copied to, as "simulated"; stands across the drawing.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        # Characters that matplotlib's own font lacks are drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcParams.update(DEFAULTS | STYLE)
        figure = drawn(chart)
        if mark:
            stamp(figure, mark)
        sink = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata=NO_METADATA)  # type: ignore[no-untyped-call]
    return inline(sink.getvalue(), name=chart.name, title=marked(chart.title, mark), description=chart.description)


def marked(title: str, mark: str) -> str:
    """The title with the mark behind it."""
    return f"{title} ({mark})" if mark else title


def stamp(figure: Figure, mark: str) -> None:
    """The mark in large, pale letters behind the plot."""
    box = figure.axes[0].get_position()
    size = min(34.0, box.width * figure.get_figwidth() * POINTS_PER_INCH / len(mark))
    across, up = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    figure.text(across, up, mark.upper(), fontsize=size, color=GRID, ha="center", va="center", weight="bold", zorder=-1)


def drawn(chart: Chart) -> Figure:
    """Each kind of chart by what draws it."""
    match chart:
        case LineChart():
            return draw_lines(chart)
        case LaunchChart():
            return draw_launches(chart)
        case ShareChart():
            return draw_shares(chart)
        case ProgressChart():
            return draw_progress(chart)
        case FrontChart():
            return draw_front(chart)
        case TrialChart():
            return draw_trials(chart)


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


Draw = Callable[[Chart, str], str]
"""What turns a chart and the mark that it bears into markup; tests put the data in its place."""
