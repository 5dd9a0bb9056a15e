"""What a page holds, from its head to its foot. Made by `view`, printed by `html`."""

from dataclasses import dataclass

from harness.report.page_parts import (
    CapacityPart,
    Ceilings,
    CellTable,
    ChartGroup,
    ClientCheck,
    Comparisons,
    Drift,
    Fact,
    Fairness,
    FigureTable,
    ScenarioTable,
    Side,
    Targets,
    Telemetry,
)
from harness.report.page_study import Settings
from harness.report.words import Badge, Shown


@dataclass(frozen=True, kw_only=True)
class Banner:
    """A run that did not end as it should, or whose figures no engine gave."""

    tone: str
    title: str
    text: str
    more: tuple[str, ...] = ()
    """What else must be known, a sentence or two each."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure of the strip under the headline."""

    name: str
    figure: Shown
    badge: Badge | None = None
    """None: nothing is judged here."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The headline figure at every load."""

    caption: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Cells of one server and load that are not simply measured, all for the same reasons."""

    where: str
    badge: Badge
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Validity:
    """How many cells count, and the client's own account of itself."""

    counts: str
    is_clean: bool
    problems: tuple[Problem, ...]
    """The first of them."""
    more: str
    """How many are not among these; empty where all are."""
    client: str
    """One sentence; details stand in a section of their own."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the index lists; lies in the page as JSON."""

    id: str
    kind: str
    state: str
    model: str
    gpu: str
    started_utc: str
    headline: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the index."""

    href: str
    id: str
    kind: str
    state: str
    """Empty for a run that ended as it should."""
    model: str
    gpu: str
    date: str
    headline: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """A run as its page says it, in the order in which it is read."""

    summary: Summary
    kind: str
    date: str
    took: str
    title: str
    tier: str
    """What is compared as what; empty where nothing is."""
    sides: tuple[Side, ...]
    joiner: str
    """Between the sides' names: "against" or "and"."""
    mark: str
    """ "simulated", or "partly simulated": stands at every heading of figures. Empty: all was measured."""
    banner: Banner | None
    headline: str
    faults: tuple[str, ...]
    """Differences that allow no ratio."""
    cautions: tuple[str, ...]
    strip: Strip | None
    validity: Validity
    capacity: CapacityPart | None
    targets: Targets | None
    comparisons: Comparisons | None
    signs: str
    """What the signs of the verdicts mean, where there is no room for their words."""
    figures: tuple[FigureTable, ...]
    charts: tuple[ChartGroup, ...]
    chart_notes: tuple[str, ...]
    ceilings: Ceilings | None
    """None: nothing was measured."""
    drift: Drift | None
    """None: no load was measured twice, and no cell tells of its own drift."""
    settings: Settings | None
    scenarios: ScenarioTable | None
    """None: the run names none."""
    method: tuple[Fact, ...]
    glossary: tuple[Fact, ...]
    fairness: Fairness | None
    telemetry: Telemetry | None
    """None: nothing was read."""
    client: ClientCheck | None
    """None: no cell has the client's account of itself."""
    cells: CellTable
    problems: tuple[Problem, ...]
    machine: tuple[Fact, ...]
    commands: tuple[Fact, ...]
    """How to repeat: a command line and what it does."""
    limits: tuple[str, ...]
    raw: tuple[Fact, ...]
    made_by: str
