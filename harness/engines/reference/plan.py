"""What the server was told to do: when each chunk is due, how long an answer is, and what goes wrong with it."""

import random
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

WORDS: Final = ("the", "river", "ran", "over", "old", "stones", "and", "sang", "to", "green", "hills")
SPLIT_WORD: Final = "café"


class Fault(StrEnum):
    """What can go wrong with one answer; each is a flag of the command."""

    DROP = "drop"
    """The connection is closed and not a byte was answered."""
    CLOSE_EARLY = "close-early"
    """The connection is closed in the middle of the answer."""
    END_EARLY = "end-early"
    """The response ends as HTTP wants it, but the answer in it does not: no finish reason, no end mark."""
    STALL = "stall"
    """From the middle on nothing more comes, and the connection stays open."""
    DUPLICATE = "duplicate"
    """One chunk of text comes twice."""
    GARBAGE = "garbage"
    """Bytes that are neither JSON nor UTF-8 stand where a chunk should."""
    HTTP_500 = "http-500"
    HTTP_503 = "http-503"


class When(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests a fault befalls: each with a chance, or all after the first so many."""

    chance: float = 0.0
    after: int | None = None
    """None: the chance decides."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Timing and faults; see the command's flags for what each is for."""

    model: str
    ttft_s: float
    itl_s: float
    tokens: int
    length_spread: float
    tokens_per_chunk: int
    has_role_chunk: bool
    splits_utf8: bool
    ignores_max_tokens: bool
    capacity: int | None
    seed: int
    faults: dict[Fault, When]
    fault_at_token: int | None
    die_after: int | None

    def fault(self, *, number: int, prompt: str) -> Fault | None:
        """What goes wrong with request `number` (from 1), if anything; one thing at most.

        The chances stand side by side on one draw, which the seed and the prompt decide: the same requests are hit
        in whichever order they come, and shares of faults add up.
        """
        for fault, when in self.faults.items():
            if when.after is not None and number > when.after:
                return fault
        chances = {fault: when.chance for fault, when in self.faults.items() if when.chance}
        drawn = _drawn(f"{self.seed}/fault/{prompt}") if chances else 1.0
        for fault, chance in chances.items():
            if drawn < chance:
                return fault
            drawn -= chance
        return None

    def length(self, max_tokens: int | None, *, prompt: str) -> tuple[int, str]:
        """How many tokens the answer to `prompt` gets, and why it ends there."""
        is_limited = max_tokens is not None and not self.ignores_max_tokens
        limit = max_tokens if max_tokens is not None and is_limited else self.tokens
        if not self.length_spread:
            return limit, "length" if is_limited else "stop"
        shorter = self.length_spread * _drawn(f"{self.seed}/length/{prompt}")
        return max(1, round(limit * (1 - shorter))), "stop"

    def fault_place(self, tokens: int) -> int:
        """After how many tokens a fault in mid-answer strikes an answer of so many."""
        return min(self.fault_at_token or max(1, tokens // 2), tokens)


def _drawn(seed: str) -> float:
    """Evenly from 0 to 1, the same for the same seed."""
    return random.Random(seed).random()


class Step(msgspec.Struct, frozen=True):
    """One chunk of text, when it is due and how many tokens it carries."""

    due_s: float
    text: str
    tokens: int


def timetable(plan: Plan, *, start_s: float, tokens: int) -> Iterator[Step]:
    """When each chunk of an answer that starts then is due; lazy, since a hundred may start at once.

    A chunk of n tokens is a step that yields n at once, as in speculative decoding: the first is due
    after the TTFT whatever n is, and steps lie n × ITL apart, so the token rate stays the same.
    """
    words = (SPLIT_WORD,) if plan.splits_utf8 else WORDS
    for first in range(0, tokens, plan.tokens_per_chunk):
        count = min(plan.tokens_per_chunk, tokens - first)
        text = "".join(f" {words[at % len(words)]}" for at in range(first, first + count))
        yield Step(start_s + plan.ttft_s + first * plan.itl_s, text, count)
