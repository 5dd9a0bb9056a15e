"""What vLLM makes of its flags on a card: its own defaults, what it lowers, what it refuses."""

import re
from collections.abc import Mapping
from typing import Final

from harness.records import Flags, FlagValue, GpuProfile, ModelShape, Record
from harness.roofline import GIB, KV_BYTES, VLLM_SHARE

MODELLED: Final = frozenset(
    {
        "async-scheduling", "block-size", "compilation-config", "cudagraph-capture-sizes", "dtype",
        "enable-chunked-prefill", "enable-prefix-caching", "enforce-eager", "gpu-memory-utilization", "kv-cache-dtype",
        "kv-cache-memory-bytes", "long-prefill-token-threshold", "max-cudagraph-capture-size", "max-model-len",
        "max-num-active-seqs", "max-num-batched-tokens", "max-num-seqs", "optimization-level", "performance-mode",
        "quantization", "stream-interval",
    }
)  # fmt: skip
"""Flags that change what the simulated vLLM does."""
WITHOUT_EFFECT: Final = frozenset(
    {
        "api-key", "chat-template", "disable-log-stats", "disable-uvicorn-access-log", "enable-log-requests",
        "generation-config", "host", "model", "port", "seed", "served-model-name", "shutdown-timeout", "tokenizer",
        "trust-remote-code",
    }
)  # fmt: skip
"""Flags of vLLM that change no time and no memory here."""
DTYPES: Final = frozenset({"auto", "bfloat16", "float16", "half"})
QUANTIZED: Final = {"fp8": "fp8", "awq": "int4", "awq_marlin": "int4", "gptq": "int4", "gptq_marlin": "int4"}
"""Precision of `roofline` by the name of vLLM's method."""
NO_GRAPHS: Final = frozenset({"0", "NONE"})
SUFFIXES: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


class Refused(Exception):
    """Flags with which vLLM does not start; `log_text` is what it writes."""

    def __init__(self, log_text: str) -> None:
        super().__init__(log_text)
        self.log_text = log_text


class Settings(Record, frozen=True, kw_only=True):
    """All that matters of one launch, after defaults."""

    batched_tokens: int
    sequences: int
    active_sequences: int
    """At most so many run, of the `sequences` that graphs and buffers are made for."""
    context_tokens: int | None
    """None: as long as fits into the memory."""
    memory_ratio: float
    cache_bytes: int | None
    """KV cache as it was asked for. None: what is left of `memory_ratio`."""
    kv_number_bytes: float
    precision: str
    block_tokens: int
    long_prefill_tokens: int
    is_chunked: bool
    has_prefix_cache: bool
    is_async: bool
    is_compiled: bool
    capture_sizes: tuple[int, ...]
    """Batch sizes with a CUDA graph; empty: none has one."""
    stream_interval: int

    @property
    def compile_key(self) -> tuple[object, ...]:
        """Launches of equal keys find each other's compiled code."""
        return (
            self.batched_tokens, self.sequences, self.context_tokens, self.precision, self.kv_number_bytes,
            self.is_compiled,
        )  # fmt: skip


def settings(flags: Flags, *, profile: GpuProfile, shape: ModelShape, precision: str) -> Settings:
    """Source of the defaults: vLLM 0.32, engine/arg_utils.py and config/.

    Raises: Refused, with what vLLM's argparse or its configuration writes.
    """
    given = {name.removeprefix("no-"): False if name.startswith("no-") else value for name, value in flags.items()}
    if unknown := [name for name in given if name not in MODELLED | WITHOUT_EFFECT]:
        raise Refused(f"api_server.py: error: unrecognized arguments: {' '.join(f'--{name}' for name in unknown)}")
    context = _context(given, shape)
    batched, sequences = _batch_limits(given, profile=profile, context=context or shape.max_context_tokens)
    active = _count(given, "max-num-active-seqs") or sequences
    ratio = _number(given, "gpu-memory-utilization", VLLM_SHARE)
    if not 0 < ratio <= 1:
        raise Refused(_invalid("CacheConfig", f"gpu_memory_utilization must be in (0, 1], got {ratio}"))
    kv_name = str(given.get("kv-cache-dtype", "auto"))
    if kv_name != "auto" and kv_name not in KV_BYTES:
        raise Refused(f"api_server.py: error: argument --kv-cache-dtype: invalid choice: '{kv_name}'")
    if str(given.get("dtype", "auto")) not in DTYPES:
        raise Refused(f"api_server.py: error: argument --dtype: invalid choice: '{given['dtype']}'")
    method = str(given.get("quantization", ""))
    if method and method not in QUANTIZED:
        raise Refused(f"api_server.py: error: argument --quantization: invalid choice: '{method}'")
    is_compiled, sizes = _graphs(given, sequences=sequences, batched=batched)
    return Settings(
        batched_tokens=batched,
        sequences=sequences,
        active_sequences=active,
        context_tokens=context,
        memory_ratio=ratio,
        cache_bytes=_count(given, "kv-cache-memory-bytes"),
        kv_number_bytes=2.0 if kv_name == "auto" else KV_BYTES[kv_name],
        precision=QUANTIZED.get(method, precision),
        block_tokens=_count(given, "block-size") or 16,
        long_prefill_tokens=_count(given, "long-prefill-token-threshold") or 0,
        is_chunked=given.get("enable-chunked-prefill", True) is True,
        has_prefix_cache=given.get("enable-prefix-caching", True) is True,
        is_async=given.get("async-scheduling", True) is True,
        is_compiled=is_compiled,
        capture_sizes=sizes,
        stream_interval=_count(given, "stream-interval") or 1,
    )


def _context(given: Mapping[str, FlagValue], shape: ModelShape) -> int | None:
    known = shape.max_context_tokens
    asked = given.get("max-model-len", known)
    if asked in ("auto", -1):
        return None
    context = _count(given, "max-model-len") or known
    if context > known:
        raise Refused(
            _invalid(
                "ModelConfig",
                f"User-specified max_model_len ({context}) is greater than the derived max_model_len "
                f"(max_position_embeddings={known} or model_max_length=None in model's config.json).",
            )
        )
    return context


def _batch_limits(given: Mapping[str, FlagValue], *, profile: GpuProfile, context: int) -> tuple[int, int]:
    """(tokens, sequences) of a step; where only one of the two is given, vLLM fits the other one to it."""
    memory = profile.memory_bytes or 0
    is_a100 = "A100" in profile.title
    batched = 16384 if memory >= 160 * GIB else 8192 if memory >= 70 * GIB and not is_a100 else 2048
    sequences = 1024 if memory >= 70 * GIB and not is_a100 else 256
    if given.get("performance-mode") == "throughput":
        batched, sequences = 2 * batched, 2 * sequences
    asked_batched, asked_sequences = _count(given, "max-num-batched-tokens"), _count(given, "max-num-seqs")
    if asked_sequences is not None:
        batched = min(batched, asked_sequences * context)
    found = asked_batched or batched, asked_sequences or min(sequences, asked_batched or sequences)
    if found[0] < found[1]:
        raise Refused(
            _invalid(
                "SchedulerConfig",
                f"max_num_batched_tokens ({found[0]}) must be greater than or equal to max_num_seqs ({found[1]}).",
            )
        )
    return found


def _graphs(given: Mapping[str, FlagValue], *, sequences: int, batched: int) -> tuple[bool, tuple[int, ...]]:
    """Whether the model is compiled, and the batch sizes that get a graph.

    vLLM's list: 1, 2, 4, then each 8th up to 256, then each 16th, up to twice the sequences, 512 and the batch.
    """
    level = str(given.get("optimization-level", "2")).removeprefix("O")
    if given.get("enforce-eager") is True or level == "0":
        return False, ()
    chosen = str(given.get("compilation-config", ""))
    mode = re.search(r'"?cudagraph_mode"?\s*[:=]\s*"?(\w+)', chosen)
    if mode is not None and mode[1] in NO_GRAPHS:
        return True, ()
    most = min(_count(given, "max-cudagraph-capture-size") or min(2 * sequences, 512), batched)
    if sizes := str(given.get("cudagraph-capture-sizes", "")):
        return True, tuple(sorted({int(size) for size in re.findall(r"\d+", sizes)}))
    fine = range(1, 33) if given.get("performance-mode") == "interactivity" else (1, 2, 4)
    steps = sorted({*fine, *range(8, 256, 8), *range(256, most + 1, 16)})
    return True, tuple(size for size in steps if size <= most)


def _invalid(config: str, why: str) -> str:
    """A pydantic error as vLLM's log has it."""
    return f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {config}\n  Value error, {why}\n"


def _number(given: Mapping[str, FlagValue], name: str, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"api_server.py: error: argument --{name}: invalid float value: '{value}'")
    return float(value)


def _count(given: Mapping[str, FlagValue], name: str) -> int | None:
    """As vLLM reads it: 8k is 8000, 8K is 8192. None: not given."""
    value = given.get(name)
    if value is None:
        return None
    found = None if isinstance(value, bool) else re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG]?)", str(value))
    if found is None:
        raise Refused(f"api_server.py: error: argument --{name}: invalid int value: '{value}'")
    return int(float(found[1]) * SUFFIXES[found[2]])
