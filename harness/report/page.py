"""What a page holds, in the words and the order in which it is read. Made by `view`, printed by `html`."""

from dataclasses import dataclass

from harness.records import EngineFacts
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
    """Colour, marker and dash: 1 for what is judged, 2 for what it is judged against."""
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
class Banner:
    """A run that did not end as it should."""

    tone: str
    title: str
    text: str


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
class ComparisonRow:
    """One metric at one load."""

    metric: str
    short: str
    """The metric's name where there is little room."""
    baseline: str
    candidate: str
    ratio: Shown
    bar: Bar | None
    badge: Badge


@dataclass(frozen=True, kw_only=True)
class ComparedLoad:
    """All metrics at one number of users."""

    users: str
    rows: tuple[ComparisonRow, ...]
    reasons: tuple[str, ...]
    """Why something is missing or open."""


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """All comparisons of one scenario, by users."""

    title: str
    loads: tuple[ComparedLoad, ...]


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """What a run without comparisons measured in one scenario, by users and server."""

    title: str
    metrics: tuple[str, ...]
    loads: tuple[tuple[str, tuple[tuple[Side, tuple[Shown, ...]], ...]], ...]
    """Per load its servers, and of each one figure per metric."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One load of a series, in the chart's unit; low = high where there was one repeat."""

    users: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One server's line."""

    label: str
    look: int
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A metric over users."""

    name: str
    title: str
    unit: str
    is_log: bool
    ticks: tuple[int, ...]
    series: tuple[Series, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class TrialMark:
    """One trial as a row of the search chart."""

    name: str
    values: tuple[str, ...]
    """One per flag of the chart."""
    objective: tuple[float, float, float] | None
    """Low, value, high. None: `says` stands in its place."""
    says: str
    is_winner: bool


@dataclass(frozen=True, kw_only=True)
class TrialChart:
    """The objective of each trial with its interval, beside the flags that made it."""

    name: str
    title: str
    flags: tuple[str, ...]
    marks: tuple[TrialMark, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class ChartGroup:
    """The charts of one scenario."""

    title: str
    charts: tuple[LineChart, ...]


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial in words."""

    number: int
    badge: Badge
    objective: Shown
    bar: Bar | None
    flags: tuple[str, ...]
    launch: str
    wall: str
    reason: str
    is_winner: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that were measured, and how they were found."""

    command: str
    """Ready to copy; empty where no vLLM was started."""
    notes: tuple[str, ...]
    facts: tuple[Fact, ...]
    trials: tuple[TrialRow, ...]
    trial_notes: tuple[str, ...]
    chart: TrialChart | None
    """None: there was no search."""


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
    """Both sides next to each other."""

    warning: str
    sides: tuple[Side, ...]
    rows: tuple[FairnessRow, ...]


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """One cell: its sub-rows are the latencies."""

    users: str
    repeat: int
    badge: Badge
    requests: str
    failures: str
    """Empty where none failed."""
    window: str
    throughput: Shown
    throughput_n: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """Per latency its name, and one text for each statistic of the group; empty for a failed cell."""
    client: tuple[str, ...]
    """Lines of text; none where the client left no account of itself."""
    reasons: tuple[str, ...]


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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A cell whose figures enter nothing."""

    where: str
    badge: Badge
    reasons: tuple[str, ...]


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
    sides: tuple[Side, ...]
    joiner: str
    """Between the sides' names: "against" or "and"."""
    banner: Banner | None
    headline: str
    cautions: tuple[str, ...]
    strip: Strip | None
    targets: Targets | None
    comparisons: tuple[ComparisonTable, ...]
    comparison_notes: tuple[str, ...]
    signs: str
    """What the signs of the verdicts mean, where there is no room for their words."""
    figures: tuple[FigureTable, ...]
    charts: tuple[ChartGroup, ...]
    chart_notes: tuple[str, ...]
    settings: Settings | None
    scenarios: ScenarioTable | None
    """None: the run names none."""
    method: tuple[Fact, ...]
    glossary: tuple[Fact, ...]
    fairness: Fairness | None
    cells: CellTable
    problems: tuple[Problem, ...]
    machine: tuple[Fact, ...]
    commands: tuple[Fact, ...]
    """How to repeat: a command line and what it does."""
    limits: tuple[str, ...]
    raw: tuple[Fact, ...]
    made_by: str
