"""What a card's data sheet and a model's shape allow at most: memory, times and tokens per second.

Ceilings, not forecasts: an engine stays below them, and a figure above them is a broken measurement, unless one of
their assumptions did not hold. These are: every forward pass reads every weight once (but for the input embedding,
of which it reads rows), it gives each sequence one token at most, and nothing is done that need not be. So
speculative decoding, which gives several tokens a pass, has no ceiling here (`ceilings_for` gives none).

Where something may or may not cost time, it costs none: the card's last-level cache holds what it can from one pass
to the next, arithmetic and memory traffic overlap wholly, prompts are computed while others decode, activations and
writes are free, a shared or repeated prompt is computed once and its KV cache read once.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from harness.records import (
    ClosedLoop,
    FlagValue,
    GpuProfile,
    LaunchSpec,
    Level,
    ModelShape,
    Record,
    Replay,
    Scenario,
)

BITS: Final = {"bf16": 16.0, "f16": 16.0, "fp8": 8.0, "int4": 4 + 20 / 128, "q8_0": 8.5, "q4_1": 5.0}
"""Bits per weight of a layer's matrices, scales included. int4 (AWQ, GPTQ): groups of 128 with a scale of 16 bits and
a zero point of 4. q8_0, q4_1: blocks of 32 with one or two numbers of 16 bits. q4_k_m is a mixture: `q4_k_m_bits`."""
CLOCK_ALLOWANCE: Final = 1.15
"""How much more arithmetic than rated a card is taken to do where its clock was not read, or its rated one is not
known: cards clock above their rated boost, by up to 12% where it was looked at (RTX 4060: 2.75 GHz, rated 2.46)."""
Q4_K, Q5_0, Q6_K, Q8_0 = 4.5, 5.5, 6.5625, 8.5
SUPER_BLOCK = 256
PRECISIONS: Final = ("bf16", "fp8", "int4", "f16", "q8_0", "q4_k_m", "q4_1")
GGUF_PRECISIONS: Final = frozenset({"f16", "q8_0", "q4_k_m", "q4_1"})
"""Those of Ollama and llama.cpp; the others are vLLM's."""
KV_BYTES: Final = {
    "bf16": 2.0, "bfloat16": 2.0, "f16": 2.0, "float16": 2.0, "f32": 4.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32,
}  # fmt: skip
"""Bytes of one number of the KV cache, by the names that the engines have for them."""


WIDTHS: Final = {
    **dict.fromkeys(("f16", "fp16", "float16", "half", "bf16", "bfloat16"), "16 bit"),
    **dict.fromkeys(("f32", "fp32", "float32", "float"), "32 bit"),
}
"""Precisions that cost the same bytes; all others are a kind of their own."""


def width(precision: str) -> str:
    """How wide numbers of this precision are, under one name for all that are equally wide."""
    return WIDTHS.get(precision.casefold(), precision.casefold())


# ---------------------------------------------------------------- the model


class Weights(Record, frozen=True, kw_only=True):
    """Bytes of a model's weights in one precision."""

    layers_bytes: float
    head_bytes: float
    """The output projection, which is the embedding matrix where the two are tied."""
    embedding_bytes: float
    """The input embedding where it is a matrix of its own, else 0."""

    @property
    def total_bytes(self) -> float:
        """What lies in memory."""
        return self.layers_bytes + self.head_bytes + self.embedding_bytes

    @property
    def read_bytes(self) -> float:
        """What a forward pass reads: all but the input embedding, of which it takes a row for each token."""
        return self.layers_bytes + self.head_bytes


def weights(shape: ModelShape, precision: str) -> Weights:
    """The weights in `precision`, one of PRECISIONS.

    fp8 and int4 are as published checkpoints have them: both embeddings stay in 16 bits.
    """
    table = shape.vocab * shape.hidden
    small = shape.parameters - table * (1 if shape.is_tied else 2) - layer_parameters(shape)
    head_bits = embedding_bits = 16.0 if precision in {"fp8", "int4"} else BITS.get(precision, 0.0)
    if precision == "q4_k_m":
        layers_bits = q4_k_m_bits(shape)
        head_bits = Q8_0 if shape.hidden % SUPER_BLOCK else Q6_K
        embedding_bits = Q5_0 if shape.hidden % SUPER_BLOCK else Q4_K
    else:
        layers_bits = BITS[precision] * layer_parameters(shape)
    return Weights(
        layers_bytes=layers_bits / 8 + 2 * small,
        head_bytes=table * head_bits / 8,
        embedding_bytes=0.0 if shape.is_tied else table * embedding_bits / 8,
    )


def matrices(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Of each matrix of a layer the count of weights, and the length of a row."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "query": (shape.hidden * queries, shape.hidden),
        "key": (shape.hidden * keys, shape.hidden),
        "value": (shape.hidden * keys, shape.hidden),
        "output": (queries * shape.hidden, queries),
        "gate": (shape.hidden * shape.intermediate, shape.hidden),
        "up": (shape.hidden * shape.intermediate, shape.hidden),
        "down": (shape.intermediate * shape.hidden, shape.intermediate),
    }


def layer_parameters(shape: ModelShape) -> int:
    """Weights in the matrices of all layers; norms and biases are the rest."""
    return shape.layers * sum(count for count, _ in matrices(shape).values())


def q4_k_m_bits(shape: ModelShape) -> float:
    """Bits of all layers in llama.cpp's mixture Q4_K_M (llama-quant.cpp).

    Q4_K, and Q6_K for the value and down matrices of the first and last eighth of the layers and of every third
    one between. Rows that are no multiple of 256 take Q5_0 and Q8_0 instead. Llama 3.1 8B: 4.89 bits on average.
    """
    eighth = shape.layers // 8
    last = 7 * shape.layers // 8
    bits = 0.0
    for layer in range(shape.layers):
        is_more = layer < eighth or layer >= last or (layer - eighth) % 3 == 2
        for name, (count, row) in matrices(shape).items():
            is_whole = row % SUPER_BLOCK == 0
            if is_more and name in {"value", "down"}:
                bits += count * (Q6_K if is_whole else Q8_0)
            else:
                bits += count * (Q4_K if is_whole else Q5_0)
    return bits


def kv_token_bytes(shape: ModelShape, number_bytes: float = 2.0) -> float:
    """Bytes of KV cache for one token of one sequence: a key and a value for each KV head of each layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * number_bytes


# ---------------------------------------------------------------- the roof


class Roof(Record, frozen=True, kw_only=True):
    """What a card does at most in a second, and what a model asks of it."""

    bandwidth_bytes_s: float
    flop_s: float
    cache_bytes: float
    read_bytes: float
    """Of weights, by each forward pass."""
    kv_token_bytes: float
    layers_flop: float
    """For each token that goes through the layers."""
    head_flop: float
    """For each token whose successor is wanted."""
    attention_flop: float
    """For each token, and each one that it looks back on."""


class Work(Record, frozen=True, kw_only=True):
    """One request."""

    prompt_tokens: float
    output_tokens: float
    fresh_tokens: float
    """Of the prompt, so many must be computed; the others may be in a prefix cache, once for all users."""

    @property
    def decode_context(self) -> float:
        """Mean length of what the tokens after the first look back on."""
        return self.prompt_tokens + max(self.output_tokens - 2, 0) / 2


def cold(*, prompt_tokens: float, output_tokens: float) -> Work:
    """A request of which no cache knows anything."""
    return Work(prompt_tokens=prompt_tokens, output_tokens=output_tokens, fresh_tokens=prompt_tokens)


def roof(
    profile: GpuProfile,
    shape: ModelShape,
    precision: str,
    *,
    kv_number_bytes: float = 2.0,
    cards: int = 1,
    clock_ratio: float = 1.0,
) -> Roof | None:
    """The roof of `cards` equal cards, as if nothing had to pass between them.

    Args:     clock_ratio: by how much they compute faster than at the rated clock.
    Returns:  None where the profile has no figures (a CPU) or the precision is not one of PRECISIONS.
    """
    flop_s = peak_flop_s(profile, precision)
    if profile.bandwidth_bytes_s is None or flop_s is None or precision not in PRECISIONS:
        return None
    return Roof(
        bandwidth_bytes_s=cards * profile.bandwidth_bytes_s,
        flop_s=cards * flop_s * clock_ratio,
        cache_bytes=cards * (profile.cache_bytes or 0),
        read_bytes=weights(shape, precision).read_bytes,
        kv_token_bytes=kv_token_bytes(shape, kv_number_bytes),
        layers_flop=2.0 * layer_parameters(shape),
        head_flop=2.0 * shape.vocab * shape.hidden,
        attention_flop=4.0 * shape.layers * shape.heads * shape.head_dim,
    )


def peak_flop_s(profile: GpuProfile, precision: str) -> float | None:
    """The fastest way in which an engine may multiply weights of this precision.

    vLLM: fp8 in fp8 where the card can, else, as int4, in 16 bits. llama.cpp: f16 with 16-bit accumulation,
    quantised weights in 8-bit integers or as f16.
    """
    ways = [profile.flops_bf16]
    if precision == "fp8":
        ways.append(profile.flops_fp8)
    if precision in GGUF_PRECISIONS:
        ways.append(profile.flops_fp16)
    if precision in GGUF_PRECISIONS - {"f16"}:
        ways.append(profile.flops_int8)
    return max((way for way in ways if way is not None), default=None)


def clock_ratio_of(profile: GpuProfile, clock_hz: float | None) -> float:
    """The highest clock that was measured over the rated one, at least 1; CLOCK_ALLOWANCE where one is not known.

    Memory has no such reserve: its clock is fixed, so ceilings of bandwidth are the data sheet's.
    """
    if clock_hz is None or profile.boost_hz is None:
        return CLOCK_ALLOWANCE
    return max(1.0, clock_hz / profile.boost_hz)


def pass_s(at: Roof, *, moved_bytes: float, flop: float) -> float:
    """Least time of one forward pass that touches so many bytes and does so much arithmetic."""
    return max(max(0.0, moved_bytes - at.cache_bytes) / at.bandwidth_bytes_s, flop / at.flop_s)


def token_flop(at: Roof, context_tokens: float) -> float:
    """Arithmetic for one more token of a sequence of this length."""
    return at.layers_flop + at.head_flop + at.attention_flop * context_tokens


def prefill_flop(at: Roof, work: Work) -> float:
    """Arithmetic up to the first token; each fresh token looks back on all before it."""
    mean_context = work.prompt_tokens - work.fresh_tokens / 2
    return work.fresh_tokens * (at.layers_flop + at.attention_flop * mean_context) + at.head_flop


def least_ttft_s(at: Roof, work: Work) -> float:
    """The prompt in one pass, alone on the card."""
    return pass_s(at, moved_bytes=at.read_bytes, flop=prefill_flop(at, work))


def decode_step_s(at: Roof, *, users: float, context_tokens: float) -> float:
    """One pass that gives each of `users` sequences a token: the weights once, the KV cache of each."""
    return pass_s(
        at,
        moved_bytes=at.read_bytes + users * at.kv_token_bytes * context_tokens,
        flop=users * token_flop(at, context_tokens),
    )


def least_e2e_s(at: Roof, work: Work) -> float:
    """A whole answer, alone on the card. A step at the mean context takes no longer than the mean step."""
    step_s = decode_step_s(at, users=1, context_tokens=work.decode_context)
    return least_ttft_s(at, work) + max(work.output_tokens - 1, 0) * step_s


def most_output_tok_s(at: Roof, work: Work, *, sequences: int) -> float:
    """Output tokens per second at most, in the long run, with so many requests under way.

    The smallest of three bounds, each of which holds by itself:
    - memory: a pass gives at most one token to each sequence, so every token bears its share of reading the weights,
      and the KV cache of its own sequence. Prompts are computed in the same passes, for no traffic at all.
    - arithmetic: each answer takes that of its prompt and of its tokens, whatever runs beside it.
    - one after another: no answer takes less time than alone on the card, and only `sequences` are under way.
    """
    tokens = max(work.output_tokens, 1.0)
    later = tokens - 1
    own_context = work.decode_context - (work.prompt_tokens - work.fresh_tokens)
    kv_bytes = at.kv_token_bytes * max(own_context, 0.0) * later / tokens
    fixed_bytes = at.read_bytes - at.cache_bytes
    # Weights that all lie in the cache make small passes the cheaper ones.
    moved_bytes = min(max(0.0, fixed_bytes / share + kv_bytes) for share in (1, sequences))
    flop = (prefill_flop(at, work) + later * token_flop(at, work.decode_context)) / tokens
    per_token_s = max(moved_bytes / at.bandwidth_bytes_s, flop / at.flop_s)
    return min(1 / per_token_s, sequences * tokens / least_e2e_s(at, work))


def mean_e2e_s(at: Roof, work: Work, *, users: int) -> float:
    """Mean time of a whole answer at least, where each of `users` always has one request under way.

    Little's law: users = answers per second x mean time, and of answers there are no more than the throughput allows.
    It bounds the mean. Of a median it is the bound only where users are served alike.
    """
    return users * max(work.output_tokens, 1.0) / most_output_tok_s(at, work, sequences=users)


# ---------------------------------------------------------------- ceilings of a cell


def ceilings(at: Roof, work: Work, *, users: int, slots: int | None = None) -> dict[str, float]:
    """By metric: at most so many `output_tok_s`, at least such a `ttft_s`, `itl_s` and `e2e_s`.

    The times are those of a request that is alone on the card: with many users an engine may still serve some of
    them alone and let the others wait, so no larger time is a bound for a median.
    Args:     users: of a closed loop. 0: another load, whose throughput is what was sent; it has only times.
              slots: how many the engine computes at a time at most. None: as many as come.
    """
    out = {
        "ttft_s": least_ttft_s(at, work),
        "itl_s": decode_step_s(at, users=1, context_tokens=work.prompt_tokens),
    }
    if users:
        out["e2e_s"] = least_e2e_s(at, work)
        out["output_tok_s"] = most_output_tok_s(at, work, sequences=min(users, slots or users))
    return out


def ceilings_for(
    spec: LaunchSpec,
    scenario: Scenario,
    level: Level,
    *,
    profile: GpuProfile | None,
    card: str | None,
    shape: ModelShape | None,
    slots: int | None,
    prompt_tokens: float | None,
    output_tokens: float | None,
    clock_hz: float | None = None,
) -> dict[str, float]:
    """`Cell.ceilings` of a cell that was measured; {} where none can be known for certain.

    That is: no profile, or one without figures; a card that is not the profile's; a model of unknown shape; weights
    of a precision not known here, or changed by a flag; speculative decoding; a server that was not started by us.
    Args:     card: as NVML calls it (`Host.gpu`). None: there is none.
              slots: how many requests the engine computes at a time (`EngineFacts.slots`). None: vLLM, whose flag
              max-num-seqs counts where it is given.
              prompt_tokens, output_tokens: means over the cell's answers, as the server counted them. None: it did
              not; without output tokens only `ttft_s` and `itl_s` have a bound.
              clock_hz: the highest that was read of the card while the cell was measured. None: it was not read.
    """
    if profile is None or shape is None or spec.url or not is_card(profile, card) or is_unbounded(spec.flags):
        return {}
    at = roof(
        profile,
        shape,
        spec.precision,
        kv_number_bytes=kv_number_bytes(spec),
        cards=cards(spec.flags),
        clock_ratio=clock_ratio_of(profile, clock_hz),
    )
    if at is None:
        return {}
    work = least_work(scenario, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    users = level.users if isinstance(scenario.load, ClosedLoop) and output_tokens is not None else 0
    sequences = spec.flags.get("max-num-seqs")
    if slots is None and isinstance(sequences, int):
        slots = sequences * cards(spec.flags)
    return ceilings(at, work, users=users, slots=slots)


def least_work(scenario: Scenario, *, prompt_tokens: float | None, output_tokens: float | None) -> Work:
    """The least that a request of this scenario asks for.

    A word is one token or more. Only the words of a request's own are sure to be in no prefix cache: the chat
    template, a shared prefix and earlier turns may be. Where prompts differ in length, in conversations and traces,
    the mean says nothing of the median, and the shortest that is possible counts.
    """
    workload = scenario.workload
    words = 1 if isinstance(scenario.load, Replay) else workload.prompt_words
    is_uneven = workload.turns > 1 or isinstance(scenario.load, Replay)
    prompt = words if is_uneven or prompt_tokens is None else prompt_tokens
    output = workload.output_tokens if output_tokens is None else output_tokens
    return Work(prompt_tokens=prompt, output_tokens=output, fresh_tokens=min(words, prompt))


def is_card(profile: GpuProfile, card: str | None) -> bool:
    """Whether the card that is there is the one that the profile's figures are of."""
    return card is not None and card.casefold() in (name.casefold() for name in profile.nvml_names)


def is_unbounded(flags: Mapping[str, FlagValue]) -> bool:
    """Whether a flag gives several tokens a pass (speculation), or other weights than the precision says."""
    return any(name.startswith(("spec", "draft", "model-draft", "quantization")) for name in flags)


def kv_number_bytes(spec: LaunchSpec) -> float:
    """Bytes of one number of the KV cache. A name that is not known here counts 0, so that the bound still holds.

    Unless told, vLLM takes 16 bits, or what an fp8 checkpoint wants, which may be 8.
    """
    names = [spec.flags.get(flag) for flag in ("kv-cache-dtype", "cache-type-k", "cache-type-v")]
    names.append(spec.env.get("OLLAMA_KV_CACHE_TYPE"))
    given = [KV_BYTES.get(str(name), 0.0) for name in names if name not in {None, "auto"}]
    return min(given, default=1.0 if spec.precision == "fp8" else 2.0)


def cards(flags: Mapping[str, FlagValue]) -> int:
    """How many cards vLLM spreads a model over."""
    sizes = [flags.get(f"{kind}-parallel-size") for kind in ("tensor", "pipeline", "data")]
    return math.prod(size for size in sizes if isinstance(size, int))


# ---------------------------------------------------------------- memory

VLLM_SHARE = 0.92
"""vLLM's own gpu-memory-utilization (0.32)."""
BLOCK_TOKENS = 16
GIB = 2**30
FIXED_RESERVE_BYTES = GIB
CONTEXTS: Final = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)


class Fit(Record, frozen=True, kw_only=True):
    """How many sequences of one length the KV cache holds at a time."""

    context_tokens: int
    sequences: int


class MemoryPlan(Record, frozen=True, kw_only=True):
    """How a card's memory would be spent on one model."""

    engine: str
    memory_bytes: int
    usable_bytes: float
    """What the engine takes of it: vLLM its share, Ollama all."""
    weights_bytes: float
    reserve_bytes: float
    """For everything else; an estimate: see `reserve_bytes`."""
    kv_cache_bytes: float
    """What is left. Under 0: so much is missing for the weights alone."""
    kv_token_bytes: float
    kv_cache_tokens: int
    longest_tokens: int
    """The longest context that one sequence can have here; the model's own where it fits."""
    fits: tuple[Fit, ...]

    def sequences(self, context_tokens: int) -> int:
        """How many sequences of this length fit at a time."""
        return self.kv_cache_tokens // (-(-context_tokens // BLOCK_TOKENS) * BLOCK_TOKENS)

    def missing_bytes(self, context_tokens: int) -> float:
        """By how much one sequence of this length does not fit; 0 where it does."""
        return max(0.0, context_tokens * self.kv_token_bytes - self.kv_cache_bytes)


def memory_plan(profile: GpuProfile, shape: ModelShape, precision: str) -> MemoryPlan | None:
    """The plan of the engine that takes this precision. None: the profile does not say how much memory there is."""
    if profile.memory_bytes is None:
        return None
    is_vllm = precision not in GGUF_PRECISIONS and not profile.is_predict_only
    usable = profile.memory_bytes * (VLLM_SHARE if is_vllm else 1.0)
    reserve = reserve_bytes(profile.memory_bytes, shape) if is_vllm else FIXED_RESERVE_BYTES
    held = weights(shape, precision).total_bytes
    left = usable - held - reserve
    blocks = max(0, int(left // (kv_token_bytes(shape) * BLOCK_TOKENS)))
    plan = MemoryPlan(
        engine="vLLM" if is_vllm else "Ollama",
        memory_bytes=profile.memory_bytes,
        usable_bytes=usable,
        weights_bytes=held,
        reserve_bytes=reserve,
        kv_cache_bytes=left,
        kv_token_bytes=kv_token_bytes(shape),
        kv_cache_tokens=blocks * BLOCK_TOKENS,
        longest_tokens=min(blocks * BLOCK_TOKENS, shape.max_context_tokens),
        fits=(),
    )
    contexts = [tokens for tokens in CONTEXTS if tokens <= shape.max_context_tokens]
    fits = tuple(Fit(context_tokens=tokens, sequences=plan.sequences(tokens)) for tokens in contexts)
    return msgspec.structs.replace(plan, fits=fits)


def reserve_bytes(memory_bytes: int, shape: ModelShape) -> float:
    """An estimate of what vLLM needs besides weights and KV cache, with its own batch limits for a card of this size.

    1 GiB for the CUDA context, libraries and graphs; activations of one full batch in 16 bits, and the logits of all
    sequences twice in 32 bits. vLLM measures it at its start: for Llama 3 8B on 80 GB its log had 3.05 GiB
    (1.79 outside torch, 1.26 of activations) where this gives 2.7.
    """
    is_large = memory_bytes >= 70 * GIB
    batched_tokens, sequences = (8192, 1024) if is_large else (2048, 256)
    activations = batched_tokens * 2 * (2 * shape.intermediate + 4 * shape.hidden)
    logits = sequences * shape.vocab * 4 * 2
    return FIXED_RESERVE_BYTES + activations + logits
