"""What a search tried, what it learned, and the settings that it ended with."""

from enum import StrEnum

from harness.records.base import Flags, Record
from harness.records.cells import Estimate


class Outcome(StrEnum):
    """How a trial ended."""

    MEASURED = "measured"
    INVALID = "invalid"
    OUT_OF_MEMORY = "out of memory"
    CONTEXT_TOO_LONG = "context too long"
    BAD_FLAG = "bad flag"
    CRASHED = "crashed"
    HUNG = "hung"


class Trial(Record, frozen=True, kw_only=True):
    """One candidate of a search: what was asked, what came of it."""

    number: int
    flags: Flags
    outcome: Outcome
    objective: Estimate | None = None
    """Ratio to the baseline, over 1 is better. None: no figures, or this is the baseline itself."""
    constraints: dict[str, float] = {}
    """By how much it was infeasible; over 0 is infeasible."""
    fits_tokens: int | None = None
    """The longest context that the engine said would fit. None: it said nothing of the kind."""
    reason: str = ""
    log: str = ""
    """Engine log, relative to the run folder."""
    launch_s: float | None = None
    """Seconds from start to ready. None: it never was."""
    wall_s: float = 0.0


class Preset(Record, frozen=True, kw_only=True):
    """Settings that won a search, and where that is known from: presets/<gpu>/<model>.toml."""

    gpu: str
    model: str
    flags: Flags
    is_default: bool
    """True: nothing beat vLLM's own defaults; `flags` is then what these need to start, mostly nothing."""
    objective: str
    ratio: Estimate | None = None
    """The winner against the baseline. None: there was no winner."""
    vllm_version: str
    gpu_title: str
    run: str
    created_utc: str
