"""The parts of a page that tell of a search: what was asked, tried and learned, and how its winner was defended."""

from dataclasses import dataclass

from harness.report.page_charts import FrontChart, ProgressChart, TrialChart
from harness.report.page_parts import Bar, Fact
from harness.report.words import Badge, Shown


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial in words."""

    number: int
    badge: Badge
    objective: Shown
    bar: Bar | None
    flags: tuple[str, ...]
    origin: str
    """Where the candidate comes from; empty for the baseline, and in runs of early versions."""
    launch: str
    wall: str
    reason: str
    is_winner: bool


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What one part of a study cost."""

    name: str
    launches: str
    lost: str
    """How many of them failed or were stopped early; empty where none was."""
    time: str
    share: str
    """Of the time of all launches."""


@dataclass(frozen=True, kw_only=True)
class KeptTable:
    """The share of requests that kept each limit, for each trial."""

    sentence: str
    """Whether anybody kept all limits, and who came nearest."""
    limits: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Shown, ...], Badge], ...]


@dataclass(frozen=True, kw_only=True)
class Front:
    """Several objectives: the trials that no other one beats in all of them."""

    sentence: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Shown, ...], tuple[str, ...]], ...]
    """Of the front: trial, its ratio in each objective, its flags."""
    chart: FrontChart | None
    """None: fewer than two objectives have figures."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JudgedRow:
    """Settings that were measured again, against others that took turns with them."""

    name: str
    flags: tuple[str, ...]
    ratio: Shown
    bar: Bar | None
    each: tuple[Shown, ...]
    """For each objective, where there are several."""
    agreement: Shown
    launches: int
    badge: Badge
    worth: str
    """What the flag that was left out is worth, in words; empty in the finals."""
    reason: str
    is_winner: bool


@dataclass(frozen=True, kw_only=True)
class JudgedTable:
    """The finals, or the ablation."""

    heading: str
    lead: str
    control: str
    """What the ratios are to."""
    objectives: tuple[str, ...]
    """None of them where there is only one."""
    has_agreement: bool
    rows: tuple[JudgedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PresetPart:
    """The file that a search ends with."""

    facts: tuple[Fact, ...]
    heads: tuple[str, ...]
    loads: tuple[tuple[str, tuple[tuple[Shown, Shown], ...]], ...]
    """By load: figure and ratio of each metric."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that were measured, and how they were found."""

    command: str
    """Ready to copy; empty where no settings were chosen."""
    notes: tuple[str, ...]
    facts: tuple[Fact, ...]
    """What was asked."""
    ladders: tuple[tuple[str, str], ...]
    """Flags and the values that the search might try."""
    trials: tuple[TrialRow, ...]
    trial_notes: tuple[str, ...]
    chart: TrialChart | None
    """None: there was no search."""
    lessons: tuple[str, ...]
    """What failed and what was learned from it."""
    stops: tuple[str, ...]
    """What was stopped early, and why."""
    progress: tuple[ProgressChart, ...]
    progress_notes: tuple[str, ...]
    stages: tuple[StageRow, ...]
    stage_notes: tuple[str, ...]
    kept: KeptTable | None
    """None: no limits were asked."""
    front: Front | None
    """None: there is one objective."""
    judged: tuple[JudgedTable, ...]
    verdict: str
    """What the defence came to; empty where there was none."""
    preset: PresetPart | None
    """None: there is no preset, or it is another run's."""
