"""What the simulated users ask: prompts as counts of tokens, conversations that say again all that was said before.

It follows scenarios/talk.py and scenarios/prompts.py, which make the texts that real engines get: the same turns, the
same drawn first lengths, the same parts that a prefix cache may know.
"""

import random
from collections.abc import Iterator
from typing import Final

from harness.records import LoadJob, OpenLoop, Record
from harness.simulation.blocks import Segment
from harness.simulation.scheduler import Sequence

TOKENS_PER_WORD: Final = 1.0
"""Of the words of scenarios/prompts.py, which are common ones. This and the three below: counted with SmolLM2's
tokenizer and chat template on 40 prompts of each length; 192 words are 216.8 tokens with their sentence."""
SYSTEM_TOKENS: Final = 11
"""The system message that all requests begin with, with the template's marks around it."""
SHARED_TOKENS: Final = 28
"""Of a shared document beside its words."""
QUESTION_TOKENS: Final = 34
"""Of each question beside its words: the nonce that no server has seen, the sentence around them, the marks."""


class Asked(Record, frozen=True, kw_only=True):
    """One request."""

    user: int
    index: int
    turn: int
    segments: tuple[Segment, ...]
    output_tokens: int
    due_s: float | None = None

    @property
    def answer(self) -> tuple[object, ...]:
        """Name of the answer, where a prompt repeats it."""
        return (self.segments[-1].name, "answer")

    def sequence(self) -> Sequence:
        """As the engine gets it."""
        return Sequence(self, self.segments, answer=self.answer, output_tokens=self.output_tokens)


class Talk:
    """One user's conversations, one after another."""

    def __init__(self, job: LoadJob, user: int, *, turns: int, first_turns: int) -> None:
        self._job, self._user = job, user
        self._turns, self._turns_now = turns, first_turns
        self._said = opening(job)
        self._turn = self._asked = 0

    def question(
        self, *, words: int | None = None, output_tokens: int | None = None, due_s: float | None = None
    ) -> Asked:
        """The next one; lengths are the workload's where they are not given."""
        work = self._job.workload
        own = QUESTION_TOKENS + round(TOKENS_PER_WORD * (work.prompt_words if words is None else words))
        self._asked += 1
        return Asked(
            user=self._user,
            index=self._asked - 1,
            turn=self._turn,
            segments=(*self._said, Segment((self._job.seed, self._user, self._asked - 1), own)),
            output_tokens=work.output_tokens if output_tokens is None else output_tokens,
            due_s=due_s,
        )

    def answered(self, asked: Asked, *, is_ok: bool) -> None:
        """Go on to the next turn, or to a new conversation."""
        self._turn += 1
        if not is_ok or self._turn >= self._turns_now:
            self._said, self._turn, self._turns_now = opening(self._job), 0, self._turns
        else:
            self._said = (*asked.segments, Segment(asked.answer, asked.output_tokens))


def opening(job: LoadJob) -> tuple[Segment, ...]:
    """The system message: the same in every cell, but for a shared document that is a cell's own."""
    shared = job.workload.shared_prefix_words
    if not shared:
        return (Segment("system", SYSTEM_TOKENS),)
    return (
        Segment("system", SYSTEM_TOKENS),
        Segment((job.seed, "shared"), SHARED_TOKENS + round(TOKENS_PER_WORD * shared)),
    )


def drawn_count(seed: int, user: int, what: str, most: int) -> int:
    """A number from 1 to `most`, the one that scenarios/prompts.py draws."""
    return random.Random(f"{what}/{seed}/{user}").randint(1, most)


def arrivals_s(load: OpenLoop, *, rate_per_s: float, seed: int) -> Iterator[float]:
    """When the requests of an open loop are due, warm-up included, as scenarios/arrivals.py has them."""
    whole_s = load.duration_s + (0.0 if load.arrivals == "ramp" else load.warmup_s)
    draws = random.Random(f"arrivals/{seed}")
    at_s, number = 0.0, 0
    while True:
        match load.arrivals:
            case "poisson":
                at_s += draws.expovariate(rate_per_s)
            case "constant":
                at_s = number / rate_per_s
            case "ramp":
                at_s = (2 * whole_s * (number + 0.5) / rate_per_s) ** 0.5
        if at_s >= whole_s:
            return
        yield at_s
        number += 1
