"""What is read of the machine and of the engine while a cell is measured."""

from enum import StrEnum

from harness.records.base import Record


class ProcessReading(Record, frozen=True, kw_only=True):
    """One process of the engine."""

    pid: int
    name: str
    rss_bytes: int
    cpu_ratio: float | None = None
    """CPU seconds per second since the sample before. None: there was none."""


class TelemetrySample(Record, frozen=True, kw_only=True):
    """One look at the engine and, where there is one, the GPU; None: it is not known here."""

    t_s: float
    """On the clock of the requests."""
    engine_rss_bytes: int | None = None
    """Of its processes together; what two of them share counts for both. None: it is not ours, or has ended."""
    engine_cpu_ratio: float | None = None
    """CPU seconds per second over the engine's whole process group."""
    processes: tuple[ProcessReading, ...] = ()
    machine_cpu_ratio: float | None = None
    """Share of all cores that anything used, 0 to 1."""
    gpu_memory_bytes: int | None = None
    """None: this machine has no GPU that NVML can see."""
    gpu_power_w: float | None = None
    gpu_energy_j: float | None = None
    """Counter of the card since its driver was loaded."""
    gpu_temperature_c: float | None = None
    gpu_clock_hz: float | None = None
    """Of the multiprocessors."""
    gpu_memory_clock_hz: float | None = None
    gpu_utilization_ratio: float | None = None
    gpu_throttle: tuple[str, ...] = ()
    """Why the clocks were held down, in NVML's words, and of `PowerCap` in its own; being idle is no such reason.
    Empty too where it does not say."""
    gpu_pcie: str | None = None
    """ "gen4 x16": the link as it is now."""
    gpu_foreign_pids: tuple[int, ...] | None = None
    """Programs on the card that are not the engine's. None: it cannot be told, as where NVML does not show the
    engine's own, in a container."""
    engine: dict[str, float] = {}
    """The engine's own metrics, under the names of `EngineMetric`."""


class EngineMetric(StrEnum):
    """Names in `TelemetrySample.engine`, the same for all engines."""

    RUNNING = "running"
    """Requests that are being computed."""
    WAITING = "waiting"
    KV_USED_RATIO = "kv_used_ratio"
    PREEMPTIONS = "preemptions"
    """Counter."""
    PREFIX_QUERIES = "prefix_queries_tokens"
    """Counter: prompt tokens looked up in the prefix cache."""
    PREFIX_HITS = "prefix_hits_tokens"
    """Counter: of them found there."""
    PROMPT_TOKENS = "prompt_tokens"
    """Counter."""
    OUTPUT_TOKENS = "output_tokens"
    """Counter."""


class PowerCap(StrEnum):
    """Words in `TelemetrySample.gpu_throttle` for a card that drew all the power it may."""

    USUAL = "the card's usual power limit"
    """What its maker set: how a card runs that has enough to do."""
    LOWERED = "a power limit set below the card's usual one"
    UNKNOWN = "software power cap"
    """NVML does not tell the limits, or the run is of before they were read."""


class TelemetrySummary(Record, frozen=True, kw_only=True):
    """The samples of one cell's window; None: not known here, as on a machine without a GPU."""

    samples: int
    has_gpu: bool
    engine_rss_peak_bytes: int | None = None
    engine_cpu_mean_ratio: float | None = None
    machine_cpu_mean_ratio: float | None = None
    gpu_memory_peak_bytes: int | None = None
    gpu_power_mean_w: float | None = None
    energy_j: float | None = None
    energy_per_token_j: float | None = None
    """Of the whole card, per output token of the window."""
    gpu_clock_mean_hz: float | None = None
    gpu_clock_min_hz: float | None = None
    gpu_clock_max_hz: float | None = None
    gpu_temperature_max_c: float | None = None
    throttle: dict[str, float] = {}
    """Share of the samples by reason, 0 to 1."""
    gpu_pcie: str | None = None
    foreign_pids: tuple[int, ...] | None = None
    """None: it cannot be told, or there is no card."""
    running_mean: float | None = None
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_used_max_ratio: float | None = None
    preemptions: float | None = None
    """During the window."""
    prefix_hit_ratio: float | None = None
    """Prompt tokens found in the prefix cache over tokens looked up, in the window."""
