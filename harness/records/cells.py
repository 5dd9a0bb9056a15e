"""What comes out of a measurement: estimates with their intervals, and the cell that they are of."""

from enum import StrEnum

from harness.records.base import Record
from harness.records.requests import ClientHealth
from harness.records.telemetry import TelemetrySummary


class Estimate(Record, frozen=True, kw_only=True):
    """A value and the interval that holds the true one with `confidence`."""

    value: float
    low: float
    high: float
    confidence: float
    n: int
    unit: str


class CellState(StrEnum):
    """What a cell's figures are worth."""

    MEASURED = "MEASURED"
    INVALID = "INVALID"
    """There are figures, but the reasons say why they enter no ratio."""
    FAILED = "FAILED"
    """There are no figures."""


Metric = dict[str, Estimate | None]
"""An estimate by statistic ("p50", "p95"). None where there are too few values for an interval."""


class Cell(Record, frozen=True, kw_only=True):
    """One engine, scenario, number of users and repeat, measured."""

    engine: str
    title: str
    """For people: "vLLM 0.32.0, tuned" or "llama.cpp, the engine inside Ollama"."""
    role: str
    """"baseline" or "candidate" in a comparison, "trial 3" in a search, "bench" otherwise."""
    model: str
    scenario: str
    users: int
    """Of a closed loop; 0 for the others."""
    rate_per_s: float | None = None
    """The level of an open loop, in requests per second. None: a closed loop or a replay."""
    block: int = 1
    """Which launch of this role it was measured in; blocks of baseline and candidate alternate."""
    repeat: int
    """Within the block, from 1."""
    state: CellState
    reasons: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """What a reader must know of this cell although its figures count: throttling, strangers, preemptions."""
    requests: int = 0
    """Measured requests that ended well."""
    failures: int = 0
    window_s: float | None = None
    """Length of the steady window. None: the level was never held."""
    ttft_s: Metric = {}
    itl_s: Metric = {}
    tpot_s: Metric = {}
    e2e_s: Metric = {}
    output_tok_s: Estimate | None = None
    requests_per_s: Estimate | None = None
    """Answers that ended in the window."""
    in_flight_mean: float | None = None
    """Requests under way at a time, over the window: the concurrency that was really reached."""
    drift_ratio: Estimate | None = None
    """tok/s of the window's second half over its first: 1 where nothing drifts."""
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    client: ClientHealth | None = None
    telemetry: TelemetrySummary | None = None
    ceilings: dict[str, float] = {}
    """What the data sheet allows, by metric: at most so many `output_tok_s`, at least such a `ttft_s` and `itl_s`."""
    requests_file: str = ""
    """Relative to the run folder."""
    is_simulated: bool = False
    """No engine ran: the figures come from a simulation."""
