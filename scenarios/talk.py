"""What is asked next: single questions, and conversations that say again all that was said before. Pure."""

from typing import Any

import msgspec

from harness.records import LoadJob
from scenarios.prompts import prompt, system

Message = dict[str, Any]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as it is asked of whatever server."""

    user: int
    index: int
    turn: int = 0
    messages: list[Message]
    output_tokens: int
    due_s: float | None = None
    keeps_text: bool = False
    """The answer's text is wanted: it is part of the next question."""


class Talk:
    """One user's conversations, one after another, of `turns` turns each; `first_turns` is for the first one."""

    def __init__(self, job: LoadJob, user: int, *, turns: int = 1, first_turns: int | None = None) -> None:
        self._job, self._user = job, user
        self._turns = turns
        self._turns_now = turns if first_turns is None else first_turns
        self._opening: Message = {
            "role": "system",
            "content": system(job.seed, shared_words=job.workload.shared_prefix_words),
        }
        self._said = [self._opening]
        self._turn = 0
        self._asked = 0

    def question(
        self, *, words: int | None = None, output_tokens: int | None = None, due_s: float | None = None
    ) -> Question:
        """The next one: all that was said in this conversation, and something that was never asked before.

        `words` and `output_tokens` are those of the workload where they are not given.
        """
        work = self._job.workload
        text = prompt(self._job.seed, self._user, self._asked, work.prompt_words if words is None else words)
        self._asked += 1
        return Question(
            user=self._user,
            index=self._asked - 1,
            turn=self._turn,
            messages=[*self._said, {"role": "user", "content": text}],
            output_tokens=work.output_tokens if output_tokens is None else output_tokens,
            due_s=due_s,
            keeps_text=self._turn + 1 < self._turns_now,
        )

    def answered(self, question: Question, text: str | None) -> None:
        """Go on to the next turn, or to a new conversation after the last one.

        `text` None: the request failed. What was said before no longer hangs together, so a new conversation begins.
        """
        self._turn += 1
        if text is None or self._turn >= self._turns_now:
            self._said, self._turn, self._turns_now = [self._opening], 0, self._turns
        else:
            self._said = [*question.messages, {"role": "assistant", "content": text}]
