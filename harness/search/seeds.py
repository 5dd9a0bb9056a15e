"""Where a search begins: what the plan says, what won on a similar card, and a careful start."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from harness import presets as known_presets
from harness.records import Flags, GpuProfile, Preset
from harness.search.axes import Demand
from harness.search.space import BATCHED, CONTEXT, SEQS, Seed, Space, key_of

CONSERVATIVE_START: Final[Flags] = {BATCHED: 16384, SEQS: 256, CONTEXT: 4096}
"""Of the planning document, for 24 GB."""
BUSY_FACTOR: Final = 16
"""A batch of so many times the tokens at which arithmetic outweighs reading the weights has nothing left to gain."""


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
    wanted = [Seed(flags=proposal(space, profile, demand), origin="memory plan")]
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
    """The fewest sequences that hold the load, the shortest context, batches that keep the arithmetic busy.

    Of the flags that may be left to vLLM those that are likely to help; the search finds out which do.
    """
    flags: Flags = {}
    for axis in space.axes:
        steps = [step for step in axis.steps if isinstance(step, int) and not isinstance(step, bool)]
        match axis.flag:
            case name if name == SEQS:
                least = demand.most_users
            case name if name == CONTEXT:
                least = demand.needed_tokens
            case name if name == BATCHED:
                least = busy_tokens(profile, demand)
            case _:
                if axis.likely is not None:
                    flags[axis.flag] = axis.likely
                continue
        flags[axis.flag] = next((step for step in steps if step >= least), steps[-1])
    return flags


def busy_tokens(profile: GpuProfile, demand: Demand) -> int:
    """Tokens a pass from which on larger passes gain nothing, but at least one prompt beside all that decode."""
    least = demand.most_users + demand.prompt_tokens
    if profile.bandwidth_bytes_s is None or profile.flops_bf16 is None:
        return least
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
    """Settings that won for this model, by card; the user's own before the published ones."""
    found = {card: known_presets.find_preset(results, gpu=card, model=model) for card in cards}
    return {card: known[1] for card, known in found.items() if known is not None}
