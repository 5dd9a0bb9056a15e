"""Two sides judged: the verdicts, and what was equal between them and what was not."""

from enum import StrEnum

from harness.records.base import Record
from harness.records.cells import Estimate
from harness.records.loads import Sampling


class Verdict(StrEnum):
    """What an interval around a ratio supports, and no more."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    UNDECIDED = "UNDECIDED"


class Comparison(Record, frozen=True, kw_only=True):
    """Candidate against baseline on one metric at one load; a ratio over 1 is a faster candidate."""

    scenario: str
    users: int
    rate_per_s: float | None = None
    against: str = "baseline"
    """Role of the side that the candidate is compared with: "baseline", or "baseline tuned"."""
    metric: str
    baseline: float | None = None
    """Mean over repeats, in the metric's unit. None: no valid cell."""
    candidate: float | None = None
    ratio: Estimate | None = None
    """None where it cannot be had; `reason` says why."""
    verdict: Verdict
    target: float | None = None
    """The ratio aimed at. None: targets.toml has none for this row."""
    done: float | None = None
    stretch: float | None = None
    met: bool | None = None
    """None: no target, or the interval straddles it."""
    absolute_s: float | None = None
    """Target in seconds, only where card and model are those it was set for."""
    absolute_met: bool | None = None
    ceiling_ratio: float | None = None
    """The largest ratio that the card's data sheet allows the candidate over this baseline. None: not known."""
    reach: str = ""
    """The target against that ceiling, in words: "reachable", or "unreachable: …" with the figure."""
    reason: str = ""


class Tier(StrEnum):
    """What two engines are compared as; figures of one tier never stand beside those of the other."""

    AS_RUN = "as-run"
    """What people run: Ollama's own quantisation and settings against vLLM's weights."""
    EQUAL = "equal"
    """The same precision, slots for all users, the same context."""


class SideManifest(Record, frozen=True, kw_only=True):
    """One side of a comparison, as far as it decides how fast it may be; None or empty: it did not say."""

    role: str
    title: str
    version: str
    weights_precision: str
    weights_bytes: int | None = None
    kv_precision: str = ""
    context_tokens: int | None = None
    """Of one sequence."""
    sequences: int | None = None
    """How many it computes at a time at most: Ollama's slots, vLLM's max-num-seqs."""
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    sampling: Sampling
    prefix_cache: str = ""
    """ "on", "off", or empty."""
    prefix_hit_ratio: float | None = None
    keep_alive: str = ""
    is_synthetic: bool = False
    """Random weights of a model's shape: they show speed, and nothing else."""


class Manifest(Record, frozen=True, kw_only=True):
    """What was equal and what was not."""

    tier: Tier
    sides: tuple[SideManifest, ...]
    faults: tuple[str, ...] = ()
    """Differences that allow no ratio at all."""
    differences: tuple[str, ...] = ()
    """Differences that a reader must know: a ratio is of the engine and of these."""
