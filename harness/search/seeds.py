"""Where a search begins: what the plan says, what won on a similar card, and a careful start."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from harness import presets as known_presets
from harness.errors import ConfigInvalid
from harness.records import Flags, GpuProfile, Preset
from harness.search.axes import Aim, Demand
from harness.search.space import BATCHED, CHUNKED, CONTEXT, SEQS, Axis, Seed, Space, count, key_of

CONSERVATIVE_START: Final[Flags] = {BATCHED: 16384, SEQS: 256, CONTEXT: 4096}
"""Of the planning document, for 24 GB."""
BUSY_FACTOR: Final = 16
"""A batch of so many times the tokens at which arithmetic outweighs reading the weights has nothing left to gain."""

MOST_GRAPHED_TOKENS: Final = 512


def seeds_for(
    space: Space,
    profile: GpuProfile,
    *,
    demand: Demand,
    presets: Mapping[str, Preset] | None = None,
    profiles: Mapping[str, GpuProfile] | None = None,
) -> tuple[Seed, ...]:
    """The first candidates, best guess first, each once; all of them lie on the ladders.

    Args:  presets: settings that won for this model, by the card's name.
           profiles: of those cards.
    """
    plan = proposal(space, profile, demand)
    wanted = [Seed(flags=plan, origin="memory plan")]
    if demand.aim != Aim.ANSWERS:
        # Longer passes, fewer prompts cut in two: which weighs more hangs on how prompts come together.
        larger = {axis.flag: step_from(axis, count(plan, BATCHED) + 1) for axis in space.axes if axis.flag == BATCHED}
        wanted.append(Seed(flags=plan | larger, origin="memory plan, larger batch"))
    near = nearest(profile, presets or {}, profiles or {})
    if near is not None and not near.is_default:
        wanted.append(Seed(flags=near.flags, origin=f"preset of the {near.gpu}"))
    wanted.append(Seed(flags=CONSERVATIVE_START, origin="conservative start"))
    found: dict[str, Seed] = {}
    for seed in wanted:
        flags = space.flags_at(space.places_of(seed.flags))
        found.setdefault(key_of(flags), Seed(flags=flags, origin=seed.origin))
    return tuple(found.values())


def proposal(space: Space, profile: GpuProfile, demand: Demand) -> Flags:
    """The fewest sequences that hold the load, the shortest context, the smallest batch that does what the load needs.

    Of the flags that may be left to vLLM those that are likely to help; the search finds out which do.
    """
    is_tight = is_cache_short(space, demand)
    flags: Flags = {axis.flag: axis.likely for axis in space.axes if axis.likely is not None}
    if is_tight:
        flags.pop("enable-prefix-caching", None)  # who had to give way finds its blocks there when it comes back
    if demand.aim == Aim.GAPS:
        flags.pop("stream-interval", None)  # larger pieces are longer gaps
    least = {SEQS: sequences(demand), CONTEXT: demand.needed_tokens}
    flags |= {axis.flag: step_from(axis, least[axis.flag]) for axis in space.axes if axis.flag in least}
    batch = batch_tokens(profile, demand, is_tight=is_tight)
    if flags.get(CHUNKED) is False:
        batch = max(batch, count(flags, CONTEXT))
    return flags | {axis.flag: step_from(axis, batch) for axis in space.axes if axis.flag == BATCHED}


def sequences(demand: Demand) -> int:
    """All users at a time, and where first tokens or gaps count so many that a pass that a prompt joins has a graph.

    vLLM captures graphs for twice the sequences, 512 tokens at most (`_set_cudagraph_sizes` in vllm/config/vllm.py).
    """
    joined = demand.most_users + demand.prompt_tokens
    if demand.aim == Aim.ANSWERS or joined > MOST_GRAPHED_TOKENS:
        return demand.most_users
    return max(demand.most_users, -(-joined // 2))


def step_from(axis: Axis, least: int) -> int:
    """The first step of a ladder of counts that is no less; the last one where all are."""
    steps = [step for step in axis.steps if isinstance(step, int)]
    return next((step for step in steps if step >= least), steps[-1])


def is_cache_short(space: Space, demand: Demand) -> bool:
    """Whether all users' requests, grown to their ends, would not lie in the KV cache together."""
    if space.memory is None:
        return False
    smallest = {axis.flag: axis.steps[0] for axis in space.axes if axis.flag in {BATCHED, SEQS}}
    held_tokens = demand.most_users * (demand.prompt_tokens + demand.output_tokens)
    return held_tokens * space.memory.kv_token_bytes > space.memory.kv_bytes(
        {flag: step for flag, step in smallest.items() if step is not None}
    )


def batch_tokens(profile: GpuProfile, demand: Demand, *, is_tight: bool) -> int:
    """Of a pass: one prompt beside all that decode, or so many that larger passes gain nothing.

    First tokens and gaps wait for the pass that they are in, and a larger one is only longer; where the KV cache is
    short, what a larger batch takes of memory is missing there.
    """
    least = demand.most_users + demand.prompt_tokens
    is_known = profile.bandwidth_bytes_s is not None and profile.flops_bf16 is not None
    if is_tight or demand.aim != Aim.ANSWERS or not is_known:
        return least
    assert profile.bandwidth_bytes_s is not None
    assert profile.flops_bf16 is not None
    return max(least, int(BUSY_FACTOR * profile.flops_bf16 / profile.bandwidth_bytes_s))


def nearest(profile: GpuProfile, presets: Mapping[str, Preset], profiles: Mapping[str, GpuProfile]) -> Preset | None:
    """The preset of the card that is most alike in memory and bandwidth; the card's own first of all."""
    if profile.name in presets:
        return presets[profile.name]
    distances = {name: distance(profile, profiles[name]) for name in presets if name in profiles and not profile.is_cpu}
    known = {name: far for name, far in distances.items() if far is not None}
    return presets[min(known, key=lambda name: (known[name], name))] if known else None


def distance(one: GpuProfile, other: GpuProfile) -> float | None:
    """How many doublings two cards lie apart in memory and bandwidth. None: no figures."""
    pairs = [(one.memory_bytes, other.memory_bytes), (one.bandwidth_bytes_s, other.bandwidth_bytes_s)]
    if any(not here or not there for here, there in pairs):
        return None
    return math.hypot(*(math.log2(here / there) for here, there in pairs if here and there))


def presets_of(model: str, *, results: Path, cards: Iterable[str]) -> dict[str, Preset]:
    """Settings that won for this model, by card; the user's own before the published ones. A damaged one is no seed."""
    found: dict[str, Preset] = {}
    for card in cards:
        with contextlib.suppress(ConfigInvalid):  # its own message tells people to search anew
            if (known := known_presets.find_preset(results, gpu=card, model=model)) is not None:
                found[card] = known[1]
    return found
