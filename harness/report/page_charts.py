"""The data of a page's charts, in the units they are drawn in. Made by `view`, drawn by `charts`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place of a series, in the chart's unit; low = high where there is no interval."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One server's points."""

    label: str
    look: int
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A metric over the load."""

    name: str
    title: str
    unit: str
    is_log: bool
    x_label: str
    """ "users" or "requests per second"."""
    ticks: tuple[float, ...]
    series: tuple[Series, ...]
    ceilings: tuple[Series, ...] = ()
    """What each server cannot pass; none where it is not known."""
    description: str


@dataclass(frozen=True, kw_only=True)
class LaunchChart:
    """Each cell of one load in percent of its server's mean, in the order of the launches."""

    name: str
    title: str
    launches: tuple[str, ...]
    """Names under the axis; a launch stands at its place in this list, its repeats side by side."""
    series: tuple[Series, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class ShareChart:
    """The share of requests that kept a limit over the load, against the share that is asked."""

    name: str
    title: str
    x_label: str
    points: tuple[Point, ...]
    """In percent."""
    kinds: tuple[str, ...]
    """Of each point: "inside", "outside" or "undecided"."""
    asked: float
    """In percent."""
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
class ProgressMark:
    """One launch of a search in its course."""

    name: str
    x: float
    ratio: tuple[float, float, float] | None
    """Low, value, high. None: it gave no figure."""
    kind: str
    """"whole", "stopped", "failed" or "final": the winner, measured again."""


@dataclass(frozen=True, kw_only=True)
class ProgressChart:
    """The objective of every launch of a search and the best of them so far, over launches or minutes."""

    name: str
    title: str
    x_label: str
    marks: tuple[ProgressMark, ...]
    best: tuple[tuple[float, float], ...]
    """Where the line of the best so far begins a step, and how high."""
    end: float
    """Where the search ended."""
    last: float
    """Where the study ended."""
    lowest: float
    """Down to where it is drawn: what lies below is an arrow at the foot."""
    description: str


@dataclass(frozen=True, kw_only=True)
class FrontMark:
    """One trial by two objectives; low, value, high of each."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    is_front: bool


@dataclass(frozen=True, kw_only=True)
class FrontChart:
    """Two objectives against each other."""

    name: str
    title: str
    x_label: str
    y_label: str
    marks: tuple[FrontMark, ...]
    description: str


Chart = LineChart | LaunchChart | ShareChart | TrialChart | ProgressChart | FrontChart
