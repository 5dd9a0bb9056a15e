"""The space of a card, a model and a load: which axes apply, their ladders, and what cannot fit cut away. Pure."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from harness import roofline
from harness.errors import UsageError
from harness.records import Flags, FlagValue, GpuProfile, KnownFlag, ModelShape, Record, Scenario
from harness.search.space import (
    ACTIVE,
    BATCHED,
    CHUNKED,
    CONTEXT,
    CONTEXT_GRAIN,
    KV_SIZE,
    KV_TYPE,
    MOST_GRAPHED,
    SEQS,
    SHARE,
    Axis,
    Cost,
    MemoryNeed,
    Space,
)

GIB: Final = 2**30
SPARE_TOKENS: Final = 32
"""Chat templates and counting differences, on top of the longest request."""
TOKENS_PER_WORD: Final = 2.0
"""Of a prompt that no server has counted yet; a plain English word is 1.3."""
SLACK_RATIO: Final = 0.05
"""Of a card's memory: so far off may the plan be before it forbids anything."""
LARGE_BYTES: Final = 70 * GIB
"""From here on vLLM takes larger batches by itself (EngineArgs.get_batch_defaults)."""

ALLOWABLE: Final = {
    "kv-fp8": "a KV cache in 8 bits: half the memory, answers may differ",
    "speculation": "n-gram speculation: several tokens a pass, answers may differ",
    "quantisation": "weights in 8 bits, made at the start: answers differ",
    "wide": "flags of second rank, of which each can give a few percent: more launches",
}
"""What is only searched when it is asked for, by the name that asks for it."""

NGRAM: Final = '{"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":4}'
DECODE_GRAPHS: Final = '{"cudagraph_mode":"FULL_DECODE_ONLY"}'
PIECEWISE: Final = '{"cudagraph_mode":"PIECEWISE"}'


class Aim(StrEnum):
    """What is to become fast, as far as the plan proposes other settings for it."""

    ANSWERS = "answers"
    """Whole ones: tokens per second, their times, the time per token."""
    FIRST_TOKENS = "first tokens"
    GAPS = "gaps"
    """Between the pieces of an answer as they arrive."""


class Demand(Record, frozen=True, kw_only=True):
    """What the load asks of an engine."""

    most_users: int
    """Requests under way at a time, at the largest load."""
    prompt_tokens: int
    output_tokens: int
    needed_tokens: int
    """The longest request, with some to spare."""
    is_prefix_shared: bool = False
    """Prompts begin alike, so that a prefix cache has something to keep."""
    aim: Aim = Aim.ANSWERS


def aim_of(metrics: Collection[str]) -> Aim:
    """Of objectives and limits, whose metrics are named as in `stats.pairing`."""
    names = {metric.partition(".")[0] for metric in metrics}
    if "itl_s" in names:
        return Aim.GAPS
    return Aim.FIRST_TOKENS if names == {"ttft_s"} else Aim.ANSWERS


def demand_of(scenario: Scenario, *, most_users: int, prompt_tokens: float | None, aim: Aim = Aim.ANSWERS) -> Demand:
    """Of a scenario.

    Args:  prompt_tokens: the longest mean over a cell, as a server counted it. None: none has yet.
    """
    workload = scenario.workload
    words = workload.prompt_words + workload.shared_prefix_words
    prompt = TOKENS_PER_WORD * words * workload.turns if prompt_tokens is None else prompt_tokens
    return Demand(
        most_users=most_users,
        prompt_tokens=max(1, round(prompt)),
        output_tokens=workload.output_tokens,
        needed_tokens=int(prompt * 1.1) + workload.output_tokens * workload.turns + SPARE_TOKENS,
        is_prefix_shared=workload.shared_prefix_words > 0 or workload.turns > 1,
        aim=aim,
    )


def space_for(
    profile: GpuProfile,
    shape: ModelShape,
    *,
    precision: str,
    schema: Mapping[str, KnownFlag],
    demand: Demand,
    allow: Collection[str] = (),
    is_shared: bool = False,
) -> Space:
    """All that is worth trying there.

    Args:     schema: what the installed vLLM takes: an axis whose flag or value it does not know is left out.
              allow: names of ALLOWABLE.
              is_shared: a desktop holds a part of the card, so that shares of it are not repeatable.
    Raises:   UsageError: nothing fits, with what would; a name in `allow` that there is not.
    """
    for name in allow:
        if name not in ALLOWABLE:
            raise UsageError(f"there is nothing called {name!r} to allow", hint=f"choose of {', '.join(ALLOWABLE)}")
    refuse_unfit(profile, shape, precision, demand=demand, allow=allow)
    need = memory_need(profile, shape, precision)
    wanted = [*main_axes(profile, shape, demand=demand), *memory_axes(profile, need, demand, is_shared=is_shared)]
    wanted += optional_axes(profile, precision=precision, demand=demand, allow=allow)
    return Space(
        axes=tuple(known for axis in wanted if (known := within(axis, schema)) is not None),
        defaults=defaults_of(profile, shape),
        memory=need,
        slack_bytes=0.0 if need is None else SLACK_RATIO * need.memory_bytes,
    )


def within(axis: Axis, schema: Mapping[str, KnownFlag]) -> Axis | None:
    """The axis with what this vLLM takes of it. None: too little is left to choose from."""
    steps = tuple(step for step in axis.steps if step is None or accepts(schema, axis.flag, step))
    is_sent = any(step is not None for step in steps)
    if not is_sent or (len(steps) < 2 and axis.flag not in {BATCHED, SEQS, CONTEXT}):
        return None
    return msgspec.structs.replace(axis, steps=steps, likely=axis.likely if axis.likely in steps else None)


def accepts(schema: Mapping[str, KnownFlag], flag: str, value: FlagValue) -> bool:
    """Whether this vLLM has the flag and takes the value."""
    known = schema.get(flag.partition(".")[0])
    if known is None:
        return False
    if known.kind == "bool" or isinstance(value, bool):
        return known.kind in {"bool", ""} and isinstance(value, bool)
    return not known.choices or str(value) in {str(choice) for choice in known.choices}


# ---------------------------------------------------------------- axes


def main_axes(profile: GpuProfile, shape: ModelShape, *, demand: Demand) -> Iterator[Axis]:
    """The three that always count. All are always sent: vLLM derives the one that is missing from the others."""
    ladders = profile.search
    yield Axis(flag=BATCHED, steps=ladders.max_num_batched_tokens, cost=Cost.COMPILE, effect=0.08)
    knee = next((step for step in ladders.max_num_seqs if step >= demand.most_users), None)
    yield Axis(flag=SEQS, steps=ladders.max_num_seqs, cost=Cost.COMPILE, effect=0.15, knee=knee)
    yield Axis(flag=CONTEXT, steps=contexts(profile, shape, demand=demand), cost=Cost.COMPILE, effect=0.005)


def contexts(profile: GpuProfile, shape: ModelShape, *, demand: Demand) -> tuple[int, ...]:
    """The ladder's steps that hold the load; where none does, the shortest context that does."""
    steps = tuple(
        step for step in profile.search.max_model_len if demand.needed_tokens <= step <= shape.max_context_tokens
    )
    return steps or (min(up_to_grain(demand.needed_tokens, 256), shape.max_context_tokens),)


def memory_axes(profile: GpuProfile, need: MemoryNeed | None, demand: Demand, *, is_shared: bool) -> Iterator[Axis]:
    """More room for the KV cache, where the load would fill what there is."""
    if need is None:
        return
    usual: Flags = {BATCHED: profile.search.max_num_batched_tokens[0], SEQS: profile.search.max_num_seqs[0]}
    room = need.kv_bytes(usual)
    if is_shared:
        # A share of a card that a desktop also uses is a different size each day; bytes are not.
        steps = tuple(int(room * part) // GIB * GIB for part in (0.7, 0.8, 0.9))
        yield Axis(flag=KV_SIZE, steps=tuple(dict.fromkeys(step for step in steps if step > 0)), effect=0.05)
    elif demand.most_users * demand.needed_tokens * need.kv_token_bytes > room / 2:
        shares = profile.search.gpu_memory_utilization
        yield Axis(flag=SHARE, steps=(None, *shares), effect=0.05, likely=shares[-1] if shares else None)


def optional_axes(profile: GpuProfile, *, precision: str, demand: Demand, allow: Collection[str]) -> Iterator[Axis]:
    """Flags that may be left to vLLM, the safe ones and those that were asked for."""
    if not demand.is_prefix_shared:
        # Nothing to find there, so looking and keeping is work for nothing.
        yield Axis(flag="enable-prefix-caching", steps=(None, False), is_ordered=False, effect=0.02, likely=False)
    # Graphs for each size up to 32. "throughput" only doubles limits that are not sent, and both always are.
    yield Axis(flag="performance-mode", steps=(None, "interactivity"), is_ordered=False, cost=Cost.COMPILE, effect=0.02)
    if "wide" in allow:
        yield from wide_axes(profile, demand)
    if "kv-fp8" in allow and profile.flops_fp8 is not None:
        # Half of what each pass reads of it, and twice the room. So it is for weights, and twice the arithmetic.
        yield Axis(flag=KV_TYPE, steps=(None, "fp8"), is_ordered=False, cost=Cost.COMPILE, effect=0.1, likely="fp8")
    if "quantisation" in allow and profile.flops_fp8 is not None and precision == "bf16":
        yield Axis(flag="quantization", steps=(None, "fp8"), is_ordered=False, cost=Cost.COMPILE, effect=0.3,
                   likely="fp8")  # fmt: skip
    if "speculation" in allow:
        yield Axis(flag="speculative-config", steps=(None, NGRAM), is_ordered=False, cost=Cost.COMPILE, effect=0.2)


def wide_axes(profile: GpuProfile, demand: Demand) -> Iterator[Axis]:
    """Second rank. Not among them: api-server-count, which has no effect on the way in which we start vLLM."""
    active = tuple(step for step in (8, 16, 32, 64, 128) if step < demand.most_users)
    yield Axis(flag=ACTIVE, steps=(None, *reversed(active)), effect=0.1)
    yield Axis(flag="async-scheduling", steps=(None, False), is_ordered=False, effect=0.05)
    # Fewer and larger pieces are less work for host and client.
    yield Axis(flag="stream-interval", steps=(None, 4, 16), effect=0.03, likely=16)
    yield Axis(flag="compilation-config", steps=(None, DECODE_GRAPHS, PIECEWISE),
               is_ordered=False, cost=Cost.COMPILE, effect=0.05)  # fmt: skip
    if not profile.is_cpu:
        # By itself vLLM captures up to 512 tokens: steps that mix prompts and answers are larger, and start kernels
        # one by one.
        yield Axis(flag=MOST_GRAPHED, steps=(None, 1024, 2048), cost=Cost.COMPILE, effect=0.05)
    yield Axis(flag="optimization-level", steps=(None, 1, 3), is_ordered=False, cost=Cost.COMPILE, effect=0.03)
    yield Axis(flag="block-size", steps=(None, 32, 64), cost=Cost.COMPILE, effect=0.02)
    if max(profile.search.max_num_batched_tokens) >= demand.needed_tokens:
        # Whole prompts only: a piece of one brings no first token. vLLM takes it where a batch holds the whole context,
        # which `violations` knows.
        likely = False if demand.aim == Aim.FIRST_TOKENS else None
        yield Axis(flag=CHUNKED, steps=(None, False), is_ordered=False, effect=0.03, likely=likely)
    if demand.prompt_tokens >= 1024:
        yield Axis(flag="long-prefill-token-threshold", steps=(None, 2048, 512), effect=0.05)


def defaults_of(profile: GpuProfile, shape: ModelShape) -> Flags:
    """What vLLM takes by itself on such a card; {} where that is not known.

    Source: EngineArgs.get_batch_defaults in vllm/engine/arg_utils.py, and the model's own length.
    """
    if profile.memory_bytes is None:
        return {}
    is_large = profile.memory_bytes >= LARGE_BYTES and profile.name != "a100"
    is_largest = profile.memory_bytes >= 160 * GIB
    batched = 16384 if is_largest else 8192 if is_large else 2048
    seqs = 1024 if profile.memory_bytes >= LARGE_BYTES else 256
    return {BATCHED: batched, SEQS: seqs, CONTEXT: shape.max_context_tokens, SHARE: roofline.VLLM_SHARE}


# ---------------------------------------------------------------- memory


def memory_need(profile: GpuProfile, shape: ModelShape, precision: str) -> MemoryNeed | None:
    """None: the profile does not say how much memory there is."""
    if profile.memory_bytes is None or precision not in roofline.PRECISIONS:
        return None
    return MemoryNeed(
        memory_bytes=profile.memory_bytes,
        fixed_bytes=roofline.weights(shape, precision).total_bytes + roofline.FIXED_RESERVE_BYTES,
        batched_token_bytes=2 * (2 * shape.intermediate + 4 * shape.hidden),
        sequence_bytes=shape.vocab * 4 * 2,
        kv_token_bytes=roofline.kv_token_bytes(shape),
    )


def refuse_unfit(
    profile: GpuProfile, shape: ModelShape, precision: str, *, demand: Demand, allow: Collection[str] = ()
) -> None:
    """Nothing, where one request of the load fits on the card. Raises: UsageError with what would fit."""
    if demand.needed_tokens > shape.max_context_tokens:
        raise UsageError(
            f"the longest request has {demand.needed_tokens:,} tokens and the model's context is "
            f"{shape.max_context_tokens:,}",
            hint="choose a scenario with shorter prompts or answers, or another model",
        )
    need = memory_need(profile, shape, precision)
    if need is None:
        return
    smallest: Flags = {
        BATCHED: profile.search.max_num_batched_tokens[0],
        SEQS: profile.search.max_num_seqs[0],
        CONTEXT: up_to_grain(demand.needed_tokens, CONTEXT_GRAIN),
    }
    if "kv-fp8" in allow and profile.flops_fp8 is not None:
        smallest[KV_TYPE] = "fp8"
    missing = need.missing_bytes(smallest) - SLACK_RATIO * need.memory_bytes
    if missing <= 0:
        return
    weights = roofline.weights(shape, precision).total_bytes
    raise UsageError(
        f"no setting fits: the weights in {precision} take {weights / GIB:.1f} of {need.memory_bytes / GIB:.0f} GiB on "
        f"{profile.name}, and one request of {demand.needed_tokens:,} tokens is "
        f"{need.missing_bytes(smallest) / GIB:.1f} GiB too many",
        hint=f"what would fit: {', or '.join(ways_to_fit(profile, shape, precision, smallest)) or 'a larger card'}",
    )


def ways_to_fit(profile: GpuProfile, shape: ModelShape, precision: str, smallest: Flags) -> list[str]:
    """Shorter requests, other precisions of vLLM's."""
    need = memory_need(profile, shape, precision)
    ways = []
    if need is not None and (room := need.kv_bytes(smallest)) > CONTEXT_GRAIN * need.kv_token_bytes:
        ways.append(f"requests of {int(room // need.kv_token_bytes):,} tokens or less")
    held = roofline.weights(shape, precision).total_bytes
    for other in roofline.PRECISIONS:
        if other in roofline.GGUF_PRECISIONS or roofline.weights(shape, other).total_bytes >= held:
            continue
        lighter = memory_need(profile, shape, other)
        if lighter is not None and not lighter.missing_bytes(smallest):
            ways.append(f"{other} weights")
    return ways


def up_to_grain(tokens: int, grain: int) -> int:
    """The next multiple of `grain`."""
    return -(-tokens // grain) * grain
