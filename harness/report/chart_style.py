"""What all charts have in common: colours, markers, type and sizes."""

from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl

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
    Look(colour=LOOK_COLOURS[2], marker="^", dash=(0, (2.5, 1.2))),
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

POINTS_PER_INCH: Final = 72.0


def look_of(look: int) -> Look:
    """Looks are few; a series too many begins them again."""
    return LOOKS[(look - 1) % len(LOOKS)]


def printable(text: str) -> str:
    """Without the control characters that no XML may hold."""
    return "".join(char if is_xml(char) else "\N{REPLACEMENT CHARACTER}" for char in text)


def is_xml(char: str) -> bool:
    """Whether a character may stand in an XML document."""
    return char in "\t\n\r" or (char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff")
