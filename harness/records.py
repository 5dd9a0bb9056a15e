"""The types that flow from a TOML file to a report: frozen, units in the names, unknown keys refused.

One way through them: `Scenario` + `LaunchSpec` → `LoadJob` → `RequestRecord`s → `Cell` →
`Comparison`, and for a search `Trial`; `Run` says where all of them come from.
"""

from enum import StrEnum

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records. A changed copy is `msgspec.structs.replace`."""


FlagValue = int | float | str | bool
Flags = dict[str, FlagValue]
"""Engine flags by their command-line name without dashes: {"max-num-seqs": 128, "enforce-eager": True}."""


# ---------------------------------------------------------------- what is measured on, and what with


class SearchSpace(Record, frozen=True, kw_only=True):
    """The ladders that `harness tune` searches, ascending. Short, so that compile caches are hit."""

    max_num_batched_tokens: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    max_model_len: tuple[int, ...]
    users: tuple[int, ...] = (1, 5, 10, 50, 100)
    """Levels that each candidate is measured at."""
    repeats: int = 3
    trials: int = 12
    """Candidates besides the baseline, where the command line names neither trials nor a budget."""


class GpuProfile(Record, frozen=True, kw_only=True):
    """A card as `gpus.toml` describes it; `cpu` is the profile of a machine without one."""

    name: str
    title: str
    memory_bytes: int | None = None
    """Device memory. None for the CPU profile: the machine's own memory is shared with everything else."""
    bandwidth_bytes_s: float | None = None
    """Peak memory bandwidth from the data sheet. None for the CPU profile."""
    source: str = ""
    nvml_names: tuple[str, ...] = ()
    """Names under which NVML reports this card, compared without case."""
    default_model: str
    search: SearchSpace
    vllm_flags: Flags = {}
    """Flags that every vLLM launch on this card gets, the baseline included."""
    vllm_env: dict[str, str] = {}
    is_cpu: bool = False


class ModelShape(Record, frozen=True, kw_only=True):
    """Sizes of a decoder-only transformer, in counts."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    parameters: int
    max_context_tokens: int
    is_tied: bool
    """The output projection is the embedding matrix."""


class ModelEntry(Record, frozen=True, kw_only=True):
    """One model under its names on both sides."""

    name: str
    title: str
    hf_id: str
    ollama_tags: dict[str, str] = {}
    """Ollama tag by precision: {"q4_k_m": "qwen2.5:1.5b-instruct-q4_K_M", "f16": …}."""
    ollama_default: str = ""
    """Key of `ollama_tags` that `ollama pull NAME` gives by default."""
    license: str
    is_gated: bool = False
    """The licence must be accepted on Hugging Face before the weights can be fetched."""
    shape: ModelShape
    gguf_package: str | None = None
    """Python package that carries the GGUF file. None: the weights come from a model hub."""
    gguf_file: str | None = None
    """Path of the GGUF file inside `gguf_package`."""


class ModelFiles(Record, frozen=True, kw_only=True):
    """Where a model lies on this machine, as each engine wants it, and in which precision."""

    model: str
    vllm_source: str | None = None
    """Folder with config.json, tokenizer and safetensors, or a Hugging Face id."""
    vllm_precision: str = ""
    gguf_path: str | None = None
    gguf_precision: str = ""
    """Of `gguf_path`, or of `ollama_tag` where there is no file."""
    ollama_tag: str | None = None


class Sampling(Record, frozen=True, kw_only=True):
    """Sampling values, sent explicitly and equal to every engine; the defaults are greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit, on every engine (sent to vLLM as its own 0)."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Workload(Record, frozen=True, kw_only=True):
    """What one request asks for."""

    prompt_words: int
    """English words of the unique part; tokens are counted by the server, never by us."""
    output_tokens: int
    is_streamed: bool
    sampling: Sampling = Sampling()


class ClosedLoop(Record, frozen=True, kw_only=True):
    """A fixed number of users, each sending its next request when the last one has ended."""

    users: tuple[int, ...]
    requests_per_user: int
    """Each user ends at least so many requests, however long that takes (up to `max_s`)."""
    min_requests: int = 8
    """and all users together at least so many: a median needs 6 for its interval."""
    min_s: float
    """and goes on until this much time has passed."""
    max_s: float
    """No request is sent after this; a request in flight is waited for up to `request_timeout_s`."""
    warmup_output_tokens: int = 4
    """Before a level's first repeat each user sends one request of this many tokens, left out of all figures."""
    request_timeout_s: float = 600.0


class Scenario(Record, frozen=True, kw_only=True):
    """A named load: one TOML file in scenarios/."""

    name: str
    title: str
    workload: Workload
    load: ClosedLoop


class Target(Record, frozen=True, kw_only=True):
    """One row of targets.toml: how much faster than the baseline, and for one card and model how fast."""

    name: str
    scenario: str
    users: int
    metric: str
    """`output_tok_s`, or a latency with its statistic: `e2e_s.p50`, `ttft_s.p50`."""
    done_ratio: float
    target_ratio: float
    stretch_ratio: float | None = None
    absolute_s: float | None = None
    """Target of `absolute_metric` in seconds. It counts only on `gpu` with `model`."""
    absolute_metric: str | None = None
    then_s: float | None = None
    """What the planning document had measured, for the same metric."""
    gpu: str | None = None
    model: str | None = None


class LaunchSpec(Record, frozen=True, kw_only=True):
    """All that is needed to start an engine, or to speak to one that already runs."""

    engine: str
    model: str
    """Registry name, for people."""
    source: str = ""
    """What the engine loads: a folder, a GGUF file, an Ollama tag, or an id on a running server."""
    precision: str = ""
    flags: Flags = {}
    env: dict[str, str] = {}
    program: str | None = None
    """vLLM's Python interpreter or Ollama's binary. None: found by probing."""
    url: str | None = None
    """A server that already runs: nothing is launched and nothing is stopped."""
    api: str | None = None
    """With `url`: "openai" or "ollama"."""
    slots: int = 1
    """Parallel slots of llama.cpp and Ollama. 1 is what Ollama gives by default."""
    ready_timeout_s: float = 900.0


# ---------------------------------------------------------------- what Locust is told and writes


class LoadJob(Record, frozen=True, kw_only=True):
    """One cell as the Locust process reads it from a JSON file."""

    url: str
    api: str
    """"openai" (SSE from /v1/chat/completions) or "ollama" (NDJSON from /api/chat)."""
    dialect: str
    """Which extra request fields the server takes: "vllm", "llamacpp", "ollama" or "plain"."""
    model: str
    workload: Workload
    load: ClosedLoop
    users: int
    repeat: int
    seed: int
    has_warmup: bool
    requests_path: str
    """JSONL of `RequestRecord`; with several processes each appends its index to the stem."""
    client_path: str
    """JSON of `ClientHealth`, written when the load has ended."""


class RequestRecord(Record, frozen=True, kw_only=True):
    """One request as the client saw it; times in seconds on the client's monotonic clock."""

    user: int
    index: int
    """How many requests this user had sent before, warm-up included."""
    is_warmup: bool
    sent_s: float
    end_s: float
    chunks_s: tuple[float, ...] = ()
    """Arrival of each chunk that carried text. Empty for an answer that was not streamed."""
    headers_s: float | None = None
    """None: no response ever came."""
    prompt_tokens: int | None = None
    """As the server counted them. None: it did not say."""
    output_tokens: int | None = None
    """As the server counted them. None: it did not say."""
    finish_reason: str | None = None
    """Why the answer ended, in the server's words. None: it did not say."""
    error: str | None = None
    """What went wrong, in words. None: nothing did."""
    status: int | None = None
    """HTTP status. None: no response ever came."""

    @property
    def ttft_s(self) -> float | None:
        """From sending to the first chunk that carries text; a role alone is no answer yet."""
        return self.chunks_s[0] - self.sent_s if self.chunks_s else None

    @property
    def e2e_s(self) -> float:
        """From sending to the end of the answer."""
        return self.end_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """(E2E − TTFT) / (output tokens − 1), as vLLM defines it."""
        if self.ttft_s is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


class ClientHealth(Record, frozen=True, kw_only=True):
    """Whether the measuring client was itself the limit, for one cell and over all its processes."""

    cpu_ratio: float
    """CPU seconds of the busiest client process per second of measured load; 1.0 is a full core."""
    lag_p50_s: float
    """How late the event loop woke up from a short sleep."""
    lag_p99_s: float
    started_s: float
    """When the first measured request could be sent (all users are there, warm-up is over)."""
    stopped_s: float
    """When the first user had nothing more to send: from here on fewer users are in flight."""
    ended_s: float
    """When the last answer had ended."""
    processes: int = 1


class TelemetrySample(Record, frozen=True, kw_only=True):
    """One look at the engine's processes and, where there is one, the GPU."""

    t_s: float
    engine_rss_bytes: int
    engine_cpu_ratio: float | None = None
    """CPU seconds per second over the engine's whole process group. None for the first sample."""
    gpu_memory_bytes: int | None = None
    """None: this machine has no GPU that NVML can see."""
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None
    gpu_clock_hz: float | None = None


# ---------------------------------------------------------------- what comes out


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
    repeat: int
    state: CellState
    reasons: tuple[str, ...] = ()
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
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    client: ClientHealth | None = None
    engine_rss_peak_bytes: int | None = None
    gpu_memory_peak_bytes: int | None = None
    requests_file: str = ""
    """Relative to the run folder."""


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
    reason: str = ""


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
    log: str = ""
    launch_s: float | None = None


class Host(Record, frozen=True, kw_only=True):
    """The machine, as far as it bears on the figures."""

    cpu: str
    cores: int
    memory_bytes: int
    os: str
    python: str
    gpu: str | None = None
    """None: no GPU that NVML can see."""
    gpu_driver: str | None = None


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
    preset: Preset | None = None
    """The winner of a search, or the settings that the candidate of a comparison ran with."""
    tuned_in: str = ""
    """For a comparison: the run that found `preset`; its trials are copied to this run's folder."""
    notes: tuple[str, ...] = ()
    """What a reader must know: simulated parts, one launch per side, a machine without a GPU."""
    error: str = ""
