"""Surfaces that nobody chose: drawn by a rule from a seed, one draw to develop the search on and one held out.

The rule draws card, model, loads, objective, lengths, flags beside the usual ones, and crash regions. Whatever does not
fit on its card is passed over; where vLLM's defaults are already within the limit there is nothing to find, so that
surface is rejected, and how many were is told. A draw goes on until it has enough surfaces.

The held out draw was written down here, and committed, before anything of it was computed. It was evaluated once, when
the search was final; whoever changes the search after having seen it takes a new seed.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from benchtuner.surfaces import DEVELOPMENT, HELD_OUT, OPTIONAL, USUAL, Setup, Surface, simulated
from harness import config
from harness.errors import UsageError

CARDS = ("rtx4060", "rtx3090", "rtx4090", "rtx5090", "l4", "a100", "h100", "h200")
MODELS = ("qwen2.5-1.5b", "llama-3.2-3b", "llama-3.1-8b")
OBJECTIVES = ("throughput", "latency", "ttft")
LOADS = (1, 5, 10, 20, 50, 100)
MOST_LOADS = 3
PROMPT_WORDS = (64, 192, 450, 900, 1800)
OUTPUT_TOKENS = (64, 128, 256)
MOST_EXTRA = 2
MOST_CANDIDATES = 200
"""So that exhaustion of a surface takes half a minute of one core."""
CRASH_SHARE = 0.5
LIMITED = ("max-num-batched-tokens", "max-num-seqs")
MOST_DRAWN = 60


@dataclass(frozen=True, kw_only=True)
class Draw:
    """So many surfaces of one seed."""

    group: str
    seed: int
    surfaces: int = 6


DRAWS = (Draw(group=DEVELOPMENT, seed=1), Draw(group=HELD_OUT, seed=2))


def setups(draw: Draw) -> Iterator[Setup]:
    """All that the rule gives, one after another, whether or not there is something to find."""
    for number in count(1):
        found = setup(random.Random(f"surface/{draw.seed}/{number}"))
        if found is not None:
            yield replace(found, group=draw.group, number=number)


def setup(draws: random.Random, *, cards: Sequence[str] = CARDS, models: Sequence[str] = MODELS) -> Setup | None:
    """One surface by the rule. None: the model or its longest request does not fit on the card."""
    card = draws.choice(cards)
    loads = tuple(sorted(draws.sample(LOADS, draws.randint(1, MOST_LOADS))))
    found = Setup(
        gpu=card,
        model=draws.choice(models),
        users=loads,
        objective=draws.choice(OBJECTIVES),
        prompt_words=draws.choice(PROMPT_WORDS),
        output_tokens=draws.choice(OUTPUT_TOKENS),
        usual=tuple(flag for flag in USUAL if flag not in OPTIONAL),
        crashes=(crash(draws, card, loads),) if draws.random() < CRASH_SHARE else (),
    )
    try:
        usual = found.space.defaults
        if any(all(usual[flag] >= least for flag, least in flags) for flags, _ in found.crashes):
            found = replace(found, crashes=())  # vLLM's defaults run everywhere: without a baseline there is no tuning
        for flag in draws.sample(OPTIONAL, len(OPTIONAL)):
            wider = replace(found, extra=(*found.extra, flag))
            is_axis = any(axis.flag == flag for axis in wider.space.axes)
            if is_axis and len(found.extra) < MOST_EXTRA and wider.space.size <= MOST_CANDIDATES:
                found = wider
    except UsageError:
        return None
    return found


def crash(draws: random.Random, card: str, loads: tuple[int, ...]) -> tuple[tuple[tuple[str, int], ...], int]:
    """A region in the upper half of one or both ladders, from one of the loads on."""
    search = config.gpu_profile(card).search
    ladders = dict(zip(LIMITED, (search.max_num_batched_tokens, search.max_num_seqs), strict=True))
    flags = draws.sample(LIMITED, draws.randint(1, 2))
    least = tuple((flag, draws.choice(ladders[flag][len(ladders[flag]) // 2 :])) for flag in sorted(flags))
    return least, draws.choice(loads)


def drawn(draw: Draw, *, within: float, cache: Path, jobs: int, say: Callable[[str], None]) -> list[Surface]:
    """The first surfaces of a draw on which there is something to find."""
    found: list[Surface] = []
    looked_at = 0
    for setup in setups(draw):
        surface = simulated(setup, cache=cache, jobs=jobs)
        looked_at += 1
        if surface.best > within:
            found.append(surface)
        say(f"{setup.name}: {'taken' if surface.best > within else 'nothing to find'}")
        if len(found) == draw.surfaces or looked_at == MOST_DRAWN:
            break
    rejected = looked_at - len(found)
    say(f"{draw.group}: {len(found)} surfaces; on {rejected} of {looked_at} drawn vLLM's defaults are within the limit")
    return found
