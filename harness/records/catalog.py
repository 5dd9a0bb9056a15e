"""What is measured on, and what with: cards, models, targets, and how an engine is launched."""

from harness.records.base import Flags, FlagValue, Record


class SearchSpace(Record, frozen=True, kw_only=True):
    """The ladders that `harness tune` searches, ascending. Short, so that compile caches are hit."""

    max_num_batched_tokens: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    max_model_len: tuple[int, ...]
    gpu_memory_utilization: tuple[float, ...] = (0.95,)
    """Shares of the card's memory to try besides vLLM's own; only searched where the KV cache is short of room."""
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
    boost_hz: float | None = None
    """Rated clock of the multiprocessors that the figures of arithmetic are at. None: not published."""
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


class KnownFlag(Record, frozen=True, kw_only=True):
    """One flag that an installed engine takes, as its own command line defines it."""

    name: str
    """Without dashes. A switch stands under its positive name only."""
    kind: str
    """"bool", "int", "float", "json" or "str"; "" where the engine could only be asked for names."""
    choices: tuple[FlagValue, ...] = ()
    """All values that it takes. Empty: any of its kind."""
    default: FlagValue | None = None
    """None: worked out at the start, or no single value."""


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


class CrashRegion(Record, frozen=True, kw_only=True):
    """Settings with which a simulated engine dies, at its start or under load."""

    flags: dict[str, int]
    """It dies where each of these, as the engine resolved it, is at least so large,"""
    at_most: dict[str, int] = {}
    """each of these at most so large,"""
    users: int = 1
    """and so many sequences are in one step. 0: it does not even start."""
    log_text: str = ""
    """What its log says then."""
    is_hang: bool = False
    """It does not die there, but stands still: it takes requests and answers none."""

    def holds(self, resolved: Flags) -> bool:
        """Whether an engine of these settings is in the region."""
        found = {name: value for name, value in resolved.items() if isinstance(value, int)}
        is_over = all(name in found and found[name] >= least for name, least in self.flags.items())
        return is_over and all(name in found and found[name] <= most for name, most in self.at_most.items())


class Simulation(Record, frozen=True, kw_only=True):
    """What a simulated engine is made of: a card, a model, and how uneven both are."""

    profile: GpuProfile
    shape: ModelShape
    seed: int = 1
    """The same seed gives the same records."""
    launch_noise_ratio: float = 0.01
    """Standard deviation of a launch's speed, by which all its cells are faster or slower,"""
    cell_noise_ratio: float = 0.005
    """of a cell's,"""
    step_noise_ratio: float = 0.03
    """and of a step's."""
    drift_ratio_per_hour: float = 0.0
    """By so much steps become slower, as on a card that gets warm."""
    crashes: tuple[CrashRegion, ...] = ()


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
    simulation: Simulation | None = None
    """Of the engine "simulated". None: a real one."""
