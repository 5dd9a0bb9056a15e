"""What a search may try: axes, each a short ladder of one flag's values, and what memory they ask for. Pure.

Ladders are searched by their place (0, 1, 2 …), so that equal steps are equal factors; ladders and no continua, so
that compile keys repeat.
"""

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from harness.records import Flags, FlagValue, Record
from harness.roofline import KV_BYTES, VLLM_SHARE

BATCHED: Final = "max-num-batched-tokens"
SEQS: Final = "max-num-seqs"
ACTIVE: Final = "max-num-active-seqs"
CONTEXT: Final = "max-model-len"
SHARE: Final = "gpu-memory-utilization"
KV_SIZE: Final = "kv-cache-memory-bytes"
KV_TYPE: Final = "kv-cache-dtype"
CHUNKED: Final = "enable-chunked-prefill"
MOST_GRAPHED: Final = "max-cudagraph-capture-size"
CONTEXT_GRAIN: Final = 16
"""A context is a whole number of vLLM's blocks."""

Places = tuple[int, ...]
"""Of each axis of a space the step that is taken."""


class Cost(StrEnum):
    """What a value that this study has not launched with before costs."""

    NONE = "none"
    """Nothing: it can be changed while the engine runs."""
    LAUNCH = "launch"
    """A launch, whose compiled kernels and graphs are found in the cache."""
    COMPILE = "compile"
    """A launch that compiles anew: the flag is part of vLLM's compile key."""


class Axis(Record, frozen=True, kw_only=True):
    """One flag and the values that it may take."""

    flag: str
    steps: tuple[FlagValue | None, ...]
    """None: the flag is not sent, which leaves it to vLLM."""
    is_ordered: bool = True
    """Neighbours on the ladder are alike."""
    cost: Cost = Cost.LAUNCH
    effect: float = 0.05
    """How much of the objective may hang on it, as a logarithm of a ratio: a guess to begin with."""
    likely: FlagValue | None = None
    """What the plan begins with, where there is a reason to: the search finds out whether it holds."""
    knee: FlagValue | None = None
    """Beyond this step little changes, as for room for more sequences than there are users. None: it has no such."""


class MemoryNeed(Record, frozen=True, kw_only=True):
    """What vLLM asks of a card's memory, by the plan that `roofline.memory_plan` makes; an estimate."""

    memory_bytes: int
    fixed_bytes: float
    """Weights, context and libraries."""
    batched_token_bytes: float
    sequence_bytes: float
    kv_token_bytes: float
    """At 16 bits a number."""

    def work_bytes(self, flags: Flags) -> float:
        """For activations and logits, which grow with the batch."""
        return count(flags, BATCHED) * self.batched_token_bytes + count(flags, SEQS) * self.sequence_bytes

    def kv_bytes(self, flags: Flags) -> float:
        """What is left for the KV cache, or what was asked for it. Under 0: not even weights and batch fit."""
        asked = flags.get(KV_SIZE)
        if isinstance(asked, int):
            return float(asked)
        share = flags.get(SHARE, VLLM_SHARE)
        return float(share) * self.memory_bytes - self.fixed_bytes - self.work_bytes(flags)

    def missing_bytes(self, flags: Flags) -> float:
        """By how much one sequence of the whole context does not fit; 0 where it does."""
        number_bytes = KV_BYTES.get(str(flags.get(KV_TYPE, "")), 2.0)
        wanted = count(flags, CONTEXT) * self.kv_token_bytes * number_bytes / 2
        return max(0.0, wanted - self.kv_bytes(flags))


class Space(Record, frozen=True, kw_only=True):
    """All candidates of a study: one step of each axis, on top of `base`."""

    axes: tuple[Axis, ...]
    base: Flags = {}
    """Sent with every candidate."""
    defaults: Flags = {}
    """What vLLM takes by itself on this card, as far as known: where the baseline lies."""
    memory: MemoryNeed | None = None
    """None: not known, as on a CPU; nothing is cut then."""
    slack_bytes: float = 0.0
    """So much may be missing by the plan, which is an estimate, before a candidate is cut unseen."""

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return math.prod(len(axis.steps) for axis in self.axes)

    def flags_at(self, places: Places) -> Flags:
        """The candidate there."""
        chosen = {
            axis.flag: axis.steps[place]
            for axis, place in zip(self.axes, places, strict=True)
            if axis.steps[place] is not None
        }
        return {**self.base, **{flag: value for flag, value in chosen.items() if value is not None}}

    def places_of(self, flags: Mapping[str, FlagValue]) -> Places:
        """The candidate nearest to `flags`: on a ladder of numbers the step just below or at it.

        A flag that is not given counts as what vLLM takes by itself, where that is known.
        """
        return tuple(self._place(axis, flags) for axis in self.axes)

    def everywhere(self) -> Iterator[Places]:
        """All candidates, the last axis moving fastest."""
        for number in range(self.size):
            yield self.at(number)

    def at(self, number: int) -> Places:
        """Candidate number so and so of `everywhere`."""
        places = []
        for axis in reversed(self.axes):
            number, place = divmod(number, len(axis.steps))
            places.append(place)
        return tuple(reversed(places))

    def compile_key(self, places: Places) -> Places:
        """Candidates that agree in it share what vLLM has compiled."""
        return tuple(place for axis, place in zip(self.axes, places, strict=True) if axis.cost == Cost.COMPILE)

    def missing_bytes(self, flags: Flags) -> float:
        """By how much these flags surely do not fit; 0 where they may."""
        return 0.0 if self.memory is None else max(0.0, self.memory.missing_bytes(flags) - self.slack_bytes)

    def _place(self, axis: Axis, flags: Mapping[str, FlagValue]) -> int:
        left_to_vllm = axis.steps.index(None) if None in axis.steps else None
        value = flags.get(axis.flag)
        if value is None:
            if left_to_vllm is not None:
                return left_to_vllm
            value = self.defaults.get(axis.flag)
        if value in axis.steps:
            return axis.steps.index(value)
        numbers = {place: number for place, step in enumerate(axis.steps) if (number := number_of(step)) is not None}
        wanted = number_of(value)
        if not axis.is_ordered or wanted is None or not numbers:
            return left_to_vllm or 0
        below = [place for place, number in numbers.items() if number <= wanted]
        if below:
            return max(below, key=lambda place: numbers[place])
        return min(numbers, key=lambda place: numbers[place]) if left_to_vllm is None else left_to_vllm


class Seed(Record, frozen=True, kw_only=True):
    """A candidate to begin with, and who says so."""

    flags: Flags
    origin: str


def number_of(value: object) -> float | None:
    """None: it is none, as a switch."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(flags: Flags, name: str) -> int:
    """A count among flags; 0 where it is not given, so that nothing is said to be needed for it."""
    value = flags.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def key_of(flags: Mapping[str, FlagValue]) -> str:
    """The same text for the same flags, in whatever order."""
    return msgspec.json.encode(dict(sorted(flags.items()))).decode()
