"""Where everything comes from: the machine, the engines, the run."""

from enum import StrEnum

from harness.records.base import Flags, Record
from harness.records.comparisons import Comparison, Manifest
from harness.records.loads import Scenario
from harness.records.search import Asked, Defence, Preset
from harness.records.service import Capacity


class Calibration(Record, frozen=True, kw_only=True):
    """How far the client is off against the reference engine, whose timing is known."""

    users: int
    requests: int
    ttft_bias_s: float
    """Median of what the client saw minus what the server did."""
    itl_bias_s: float
    e2e_bias_s: float
    cpu_ratio: float
    measured_utc: str
    harness_version: str
    host: str
    """Processor and cores: the figures are of this machine alone."""


class EngineFacts(Record, frozen=True, kw_only=True):
    """Which server stood on one side of a run, as it was really started."""

    role: str
    engine: str
    title: str
    version: str
    precision: str
    flags: Flags = {}
    """What we passed."""
    resolved: Flags = {}
    """What the engine's own log says it took; empty where it says nothing."""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """What we set, and what vLLM took over from our own environment by its name."""
    slots: int | None = None
    """None: not a thing this engine has."""
    weights_bytes: int | None = None
    """Size of the weights' files. None: it is not known."""
    is_synthetic: bool = False
    block: int = 1
    log: str = ""
    launch_s: float | None = None
    is_simulated: bool = False
    """No engine ran: all that it did was computed, on a virtual clock or behind a server that says so."""


class Host(Record, frozen=True, kw_only=True):
    """The machine, as far as it bears on the figures."""

    cpu: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    gpu: str | None = None
    """None: no GPU that NVML can see."""
    gpu_id: str = ""
    """Tells one card from others of its kind. Empty: not known."""
    gpu_driver: str | None = None
    gpu_memory_bytes: int | None = None
    gpu_power_limit_w: float | None = None
    """What the driver lets the card draw."""
    gpu_default_power_limit_w: float | None = None
    """What its maker set. None: it does not tell."""


class RunState(StrEnum):
    """How far a run got."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class Run(Record, frozen=True, kw_only=True):
    """run.json: everything about a run but its cells and trials."""

    version: int
    id: str
    command: str
    """The command line that would repeat it."""
    kind: str
    """"bench", "tune" or "compare"."""
    state: RunState
    started_utc: str
    ended_utc: str | None = None
    """None: it has not ended, or was killed."""
    harness_version: str
    host: Host
    gpu: str
    model: str
    seed: int
    scenarios: tuple[Scenario, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    objective: str = ""
    asked: Asked | None = None
    """What a search was to do. None: nothing was searched, or by an early version."""
    preset: Preset | None = None
    """The winner of a search, or the settings that the candidate of a comparison ran with."""
    defence: Defence | None = None
    """How the winner of a search was defended. None: it was not."""
    front: tuple[int, ...] = ()
    """With several objectives: the trials that no other one beats in all of them. Empty: there is one objective."""
    manifest: Manifest | None = None
    """None: nothing was compared."""
    capacity: Capacity | None = None
    calibration: Calibration | None = None
    """The client's own error on this machine. None: `harness doctor` was never run here."""
    tuned_in: str = ""
    """For a comparison: the run that found `preset`; its trials are copied to this run's folder."""
    notes: tuple[str, ...] = ()
    """What a reader must know: simulated parts, one launch per side, a machine without a GPU."""
    error: str = ""
    is_simulated: bool = False
    """At least one of its engines was simulated: what comes from that says nothing of any real card."""
