"""The types that flow from a TOML file to a report: frozen, units in the names, unknown keys refused.

One way through them: `Scenario` + `LaunchSpec` → `LoadJob` → `RequestRecord`s → `Cell` →
`Comparison`, and for a search `Trial`; `Run` says where all of them come from.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

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
    flops_bf16: float | None = None
    """Peak dense tensor operations per second in bf16 with 32-bit accumulation, from the data sheet."""
    flops_fp8: float | None = None
    """None: the card has no such units."""
    flops_fp16: float | None = None
    """The same in fp16 with 16-bit accumulation, which llama.cpp uses. None: no faster than `flops_bf16`."""
    flops_int8: float | None = None
    """The same in 8-bit integers, in which llama.cpp multiplies quantised weights. None: the card has no such units."""
    cache_bytes: int | None = None
    """Last-level cache: so much may still be there from the step before. None: not published."""
    pcie: str = ""
    """Generation and width of the link at its best, as in "gen4 x16". Empty: no such link."""
    is_predict_only: bool = False
    """No engine of ours is launched on it: its figures serve `harness predict` alone."""
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
    vllm_bytes: int | None = None
    """Size of the safetensors. None: they are not on this machine yet."""
    gguf_bytes: int | None = None
    is_synthetic: bool = False
    """Random weights, made by `harness models synth`."""


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
    shared_prefix_words: int = 0
    """Words of a system message that all requests of a cell share, so that a prefix cache has something to keep."""
    turns: int = 1
    """Over 1: a conversation of so many turns, each of which sends all that was said before; then a new one begins."""


class ClosedLoop(Record, frozen=True, kw_only=True, tag_field="kind", tag="closed"):
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
    warmup_max_s: float = 60.0
    """The load is held from the first moment on; measuring begins when it is steady, or after this long, unsteady."""
    ramp_s: float = 0.0
    """The users come one after another, evenly over this time, instead of all at once."""
    request_timeout_s: float = 600.0


class OpenLoop(Record, frozen=True, kw_only=True, tag_field="kind", tag="open"):
    """Requests that come when they come, whether or not the ones before have ended."""

    rates_per_s: tuple[float, ...]
    """Levels, in requests per second. With "ramp" the rate rises evenly from 0 to the level."""
    arrivals: Literal["poisson", "constant", "ramp"] = "poisson"
    duration_s: float
    """Requests are due for this long, warm-up not included."""
    warmup_s: float = 10.0
    """Before it the same load, left out of all figures. A ramp has none."""
    max_in_flight: int = 1000
    """A request that would be one more is not sent and counts as failed: the server is far over its limit."""
    request_timeout_s: float = 600.0


class Replay(Record, frozen=True, kw_only=True, tag_field="kind", tag="replay"):
    """Requests at recorded moments, of recorded lengths: an open loop with one level."""

    trace: str
    """JSONL of `TraceLine`. In a scenario's file the path is relative to that file; here it is absolute."""
    speed: float = 1.0
    """2.0: twice as fast as recorded."""
    max_in_flight: int = 1000
    request_timeout_s: float = 600.0


Load = ClosedLoop | OpenLoop | Replay


class Level(Record, frozen=True, kw_only=True):
    """One load of a scenario: so many users, or so many requests per second; a replay has neither."""

    users: int = 0
    rate_per_s: float | None = None

    @property
    def name(self) -> str:
        """For people and file names: "50", "2.5rps" or "replay"."""
        return f"{self.rate_per_s:g}rps" if self.rate_per_s is not None else str(self.users or "replay")


class TraceLine(Record, frozen=True, kw_only=True):
    """One request of a trace."""

    at_s: float
    """When it is due, from the trace's begin."""
    prompt_words: int
    output_tokens: int
    session: str | None = None
    """Lines of one session are turns of one conversation. A turn whose answer before has not ended yet waits for it."""


class Scenario(Record, frozen=True, kw_only=True):
    """A named load: one TOML file in scenarios/."""

    name: str
    title: str
    workload: Workload
    load: Load

    @property
    def levels(self) -> tuple[Level, ...]:
        """All loads of the scenario, in its order."""
        match self.load:
            case ClosedLoop(users=users):
                return tuple(Level(users=count) for count in users)
            case OpenLoop(rates_per_s=rates):
                return tuple(Level(rate_per_s=rate) for rate in rates)
            case _:
                return (Level(),)

    def at(self, levels: Iterable[Level]) -> "Scenario":
        """The same scenario with these levels; what a run records must be what it did."""
        chosen = tuple(levels)
        match self.load:
            case ClosedLoop():
                load: Load = msgspec.structs.replace(self.load, users=tuple(level.users for level in chosen))
            case OpenLoop():
                rates = tuple(level.rate_per_s for level in chosen if level.rate_per_s is not None)
                load = msgspec.structs.replace(self.load, rates_per_s=rates)
            case _:
                load = self.load
        return msgspec.structs.replace(self, load=load)


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
    is_synthetic: bool = False
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
    """One cell as a Locust process reads it from a JSON file."""

    url: str
    api: str
    """"openai" (SSE from /v1/chat/completions) or "ollama" (NDJSON from /api/chat)."""
    dialect: str
    """Which extra request fields the server takes: "vllm", "llamacpp", "ollama" or "plain"."""
    model: str
    workload: Workload
    load: Load
    users: int
    """Of a closed loop, all processes together; 0 for the others."""
    rate_per_s: float | None = None
    """The level of an open loop."""
    repeat: int
    seed: int
    is_first: bool = True
    """The level was not measured in this launch before: it may have to compile first, and is warmed up for longer."""
    requests_path: str
    """JSONL of `RequestRecord`; with several processes each appends its index to the stem."""
    client_path: str
    """JSON of `ClientHealth`, written when the load has ended."""


class Fleet(Record, frozen=True, kw_only=True):
    """Machines that send the load in this one's place."""

    bind: str
    """This machine's address, as they reach it."""
    port: int
    workers: int
    hosts: tuple[str, ...] = ()
    """Those that are started over ssh; none where they come by themselves."""


class LoadShare(Record, frozen=True, kw_only=True):
    """The part of a job that one Locust process does, as it reads it from a JSON file."""

    job: LoadJob
    """Of all processes, but with the paths of this one's own records and health."""
    part: int
    """Which process this is, from 0."""
    parts: int
    first_user: int
    users: int
    """Of a closed loop: this process has so many users, numbered from `first_user`."""


class RequestRecord(Record, frozen=True, kw_only=True):
    """One request as the client saw it; times in seconds on the client's monotonic clock."""

    user: int
    """Unique over all processes. In an open loop each arrival, in a replay each conversation is a user of its own."""
    index: int
    """How many requests this user had sent before, warm-up included."""
    is_warmup: bool
    due_s: float | None = None
    """When an open loop wanted it sent. None: a closed loop, which sends when it can."""
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
    asked_tokens: int | None = None
    """The most that the request asked for."""
    finish_reason: str | None = None
    """Why the answer ended, in the server's words. None: it did not say."""
    error: str | None = None
    """What went wrong, in words. None: nothing did."""
    status: int | None = None
    """HTTP status. None: no response ever came."""

    turn: int = 0
    """Which turn of its conversation it was, from 0."""

    @property
    def began_s(self) -> float:
        """What latencies count from: the moment it was due, or else was sent. A queue in our client is a wait too."""
        return self.sent_s if self.due_s is None else self.due_s

    @property
    def ttft_s(self) -> float | None:
        """From the begin to the first chunk that carries text; a role alone is no answer yet."""
        return self.chunks_s[0] - self.began_s if self.chunks_s else None

    @property
    def e2e_s(self) -> float:
        """From the begin to the end of the answer."""
        return self.end_s - self.began_s

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
    cpu_ratios: tuple[float, ...] = ()
    """The same of each process."""
    lag_p50_s: float
    """How late the event loop woke up from a short sleep."""
    lag_p99_s: float
    lag_max_s: float = 0.0
    """How long it stood still at a stretch."""
    send_lag_p50_s: float | None = None
    """How much later than due (open loop), or than the end of the answer before (closed loop), requests were sent."""
    send_lag_p99_s: float | None = None
    rtt_p50_s: float | None = None
    """Time to connect to the server, before the load: one round trip. None: it was not measured."""
    started_s: float
    """When measuring began: requests sent (or due) before are warm-up."""
    stopped_s: float
    """When the first user had nothing more to send, or the last request was due: from here on the load is less."""
    ended_s: float
    """When the last answer had ended."""
    warmup_s: float = 0.0
    """From the first request to `started_s`."""
    is_steady: bool | None = None
    """Whether the level had become steady by `started_s`. None: it was not looked at."""
    requests: int = 0
    """Requests that were begun, warm-up included: as many records must be there."""
    wall_step_s: float = 0.0
    """How far the wall clock moved against the monotonic one, which all times are on."""
    suspended_s: float = 0.0
    """How long the machine slept meanwhile."""
    clock_error_s: float | None = None
    """How far off the clock of another machine may be on which a part of the load ran. None: all ran on this one."""
    processes: int = 1


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
    """Why the clocks were held down, in NVML's words; being idle is no such reason. Empty too where it does not say."""
    gpu_pcie: str | None = None
    """ "gen4 x16": the link as it is now."""
    gpu_foreign_pids: tuple[int, ...] = ()
    """Programs on the card that are not the engine's. Empty too where its own are not seen, as in a container."""
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
    gpu_temperature_max_c: float | None = None
    throttle: dict[str, float] = {}
    """Share of the samples by reason, 0 to 1."""
    gpu_pcie: str | None = None
    foreign_pids: tuple[int, ...] = ()
    running_mean: float | None = None
    waiting_mean: float | None = None
    waiting_max: float | None = None
    kv_used_max_ratio: float | None = None
    preemptions: float | None = None
    """During the window."""
    prefix_hit_ratio: float | None = None
    """Prompt tokens found in the prefix cache over tokens looked up, in the window."""


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


# ---------------------------------------------------------------- what makes a comparison fair


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


# ---------------------------------------------------------------- objectives of service


class Slo(Record, frozen=True, kw_only=True):
    """ "ttft:p95<500ms": 95 of 100 requests have their first token within half a second."""

    metric: str
    """`ttft_s`, `itl_s` (mean of one answer's gaps), `tpot_s` or `e2e_s`."""
    share: float
    """0.95 for p95: of all requests, failed ones included, at least so many must keep the limit."""
    limit_s: float
    text: str
    """As it was written."""


class CapacityStep(Record, frozen=True, kw_only=True):
    """One level that a search for the capacity tried."""

    level: float
    """Users, or requests per second."""
    requests: int
    kept: Estimate | None
    """Share of the requests that kept every limit, with its Wilson interval. None: there were none."""
    shares: tuple[Estimate, ...] = ()
    """The same for each limit alone, in the order of the SLOs; empty where the figures do not count."""
    is_inside: bool | None
    """None: the interval straddles what the SLO asks."""
    reason: str = ""


class Capacity(Record, frozen=True, kw_only=True):
    """The largest load inside an SLO."""

    unit: Literal["users", "requests/s"]
    slos: tuple[Slo, ...]
    level: float | None
    """The largest level that was shown to be inside. None: not even the smallest one was."""
    above: float | None
    """The smallest level that was shown to be outside. None: none was, the capacity may be larger."""
    is_resolved: bool
    """The two lie as near to one another as was asked."""
    steps: tuple[CapacityStep, ...]
    reason: str = ""


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
    gpu_memory_bytes: int | None = None
    gpu_power_limit_w: float | None = None
    """What the driver lets the card draw."""


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
