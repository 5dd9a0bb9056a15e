"""The parts of a page, each in the words and the order in which it is read. Made by the `view_…` modules."""

from dataclasses import dataclass

from harness.records import EngineFacts
from harness.report.page_charts import LaunchChart, LineChart, ShareChart
from harness.report.words import Badge, Shown


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the servers that the page is about, with the look it has in every chart and table."""

    role: str
    part: str
    """Its part in the run: "baseline", "candidate", "winner"; empty where there is only one server."""
    title: str
    precision: str
    look: int
    """Colour, marker and dash: 1 for what is judged, 2 and 3 for what it is judged against."""
    facts: EngineFacts | None
    """None: the run ended before it was known how this server was started."""

    @property
    def named(self) -> str:
        """The title as the subject of a sentence: one with a comma is closed by another."""
        return f"{self.title}," if "," in self.title else self.title


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A name and what is so called."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An interval on a logarithmic strip, in percent of its width."""

    low: float
    value: float
    high: float
    one: float
    """Where both sides are equal."""


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """One line of targets.toml and what became of it."""

    name: str
    load: str
    metric: str
    ratio: Shown
    levels: tuple[str, str, str]
    """Done, target, stretch."""
    badge: Badge
    detail: str
    ceiling: str
    """What the card's data sheet says of it, in words."""
    ceiling_badge: Badge | None
    """None: nothing is known."""
    then: str
    """Empty where nothing had been measured."""
    absolute: str
    """Empty where no seconds apply to this card and model."""
    measured: str
    """The candidate's value that is held against `absolute`."""
    absolute_badge: Badge | None
    """None: no absolute target applies to this card and model."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets table."""

    heading: str
    rows: tuple[TargetRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ComparedRatio:
    """The candidate against one of the sides that it is compared with."""

    ratio: Shown
    bar: Bar | None
    badge: Badge | None
    """None: that side was not measured at this load."""
    ceiling: str
    """ "at most 45×" where the card's data sheet says so; empty otherwise."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One metric at one load."""

    metric: str
    short: str
    """The metric's name where there is little room."""
    values: tuple[str, ...]
    """Of each side, the candidate last."""
    ratios: tuple[ComparedRatio, ...]
    """Against each side but the candidate."""


@dataclass(frozen=True, kw_only=True)
class ComparedLoad:
    """All metrics at one load."""

    load: str
    rows: tuple[ComparisonRow, ...]
    reasons: tuple[str, ...]
    """Why something is missing or open."""


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """All comparisons of one scenario, by load."""

    title: str
    loads: tuple[ComparedLoad, ...]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """The candidate against one side, or against two beside each other."""

    tier: str
    """What is compared as what; empty where it was not recorded."""
    faults: tuple[str, ...]
    differences: tuple[str, ...]
    sides: tuple[Side, ...]
    """The candidate last."""
    heads: tuple[str, ...]
    """What each of them is called in the tables."""
    ratios: tuple[str, ...]
    """Headings of the ratios."""
    tables: tuple[ComparisonTable, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """What a run without comparisons measured in one scenario, by users and server."""

    title: str
    metrics: tuple[str, ...]
    loads: tuple[tuple[str, tuple[tuple[Side, tuple[Shown, ...]], ...]], ...]
    """Per load its servers, and of each one figure per metric."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChartGroup:
    """The charts of one scenario."""

    title: str
    charts: tuple[LineChart, ...]


@dataclass(frozen=True, kw_only=True)
class ScenarioTable:
    """Every value of every scenario, side by side."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """A property and its value in each scenario."""


@dataclass(frozen=True, kw_only=True)
class FairnessRow:
    """One property of each side."""

    name: str
    values: tuple[tuple[str, ...], ...]
    """Lines of text per side."""
    is_code: bool
    differs: bool
    """A condition that should be equal and is not."""


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """The servers next to each other: what makes their figures comparable, and how each was started."""

    tier: str
    """What the tier means; empty where nothing is compared."""
    sides: tuple[Side, ...]
    rows: tuple[FairnessRow, ...]
    """The manifest of a comparison; none where nothing is compared."""
    servers: tuple[Side, ...]
    settings: tuple[FairnessRow, ...]
    """Versions, flags and command lines of `servers`."""


@dataclass(frozen=True, kw_only=True)
class CeilingRow:
    """One server at one load against its ceilings: measured, limit and share of it, for each metric."""

    load: str
    side: Side
    metrics: tuple[tuple[Shown, str, str], ...]
    """Measured, "at most …" or "at least …", and the share of the ceiling that was reached."""
    is_above: bool
    """Something was measured that the card cannot do: its cells are invalid."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the card's data sheet allows, and how near the servers came."""

    missing: str
    """Why there are none; empty where there are some."""
    metrics: tuple[str, ...]
    tables: tuple[tuple[str, tuple[CeilingRow, ...]], ...]
    """By scenario."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Whether a machine or server changed while it was measured."""

    groups: tuple[tuple[str, tuple[LaunchChart, ...]], ...]
    """By scenario."""
    within: tuple[str, ...]
    """Sentences on the drift inside the cells."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReadingTable:
    """Telemetry of one kind: only the columns that anything is known of."""

    title: str
    heads: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, Side, tuple[str, ...]], ...]], ...]
    """By scenario: load, server, and a text for each column."""


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What the card, the machine and the servers said meanwhile."""

    tables: tuple[ReadingTable, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CapacityPart:
    """The largest load inside the limits that were asked."""

    sentence: str
    facts: tuple[Fact, ...]
    heads: tuple[str, ...]
    """Of the columns of shares."""
    steps: tuple[tuple[str, str, tuple[Shown, ...], Badge, str], ...]
    """Load, requests, shares, verdict, reason."""
    charts: tuple[ShareChart, ...]
    """One for each limit."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClientCheck:
    """Whether the measuring program was itself the limit."""

    rows: tuple[tuple[str, str, str, str], ...]
    """What, the median over cells, the worst of them, and the limit."""
    facts: tuple[Fact, ...]
    """The calibration of this machine."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One cell: its sub-rows are the latencies."""

    load: str
    place: str
    """ "block 2 repeat 1"."""
    badge: Badge
    requests: tuple[str, ...]
    """Lines of text: how many, how many failed, per second, at a time."""
    window: tuple[str, ...]
    """Lines of text: its length, the drift inside it."""
    throughput: Shown
    throughput_n: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """Per latency its name, and one text for each statistic of the group; empty for a failed cell."""
    client: tuple[str, ...]
    """Lines of text; none where the client left no account of itself."""
    reasons: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CellGroup:
    """The cells of one server in one scenario."""

    title: str
    stats: tuple[str, ...]
    """Statistics, and last "n"."""
    rows: tuple[CellRow, ...]
    is_folded: bool


@dataclass(frozen=True, kw_only=True)
class CellTable:
    """All cells of a run."""

    groups: tuple[CellGroup, ...]
    folded: str
    """What is folded away; empty where nothing is."""
    notes: tuple[str, ...]
