"""What clients ask: their prompts as tokens, what vLLM refuses of it, and the answer that they will get."""

import re
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from harness.simulation import scheduler
from harness.simulation.blocks import Segment

CHAT: Final = "/v1/chat/completions"
COMPLETION: Final = "/v1/completions"
COMPLETION_TOKENS: Final = 16
"""Of an answer to /v1/completions that sets no limit."""
TOKEN: Final = re.compile(r"\w+|[^\w\s]")
"""A word or a sign is a token."""
WORDS: Final = ("the", "river", "ran", "over", "old", "stones", "and", "sang", "to", "green", "hills")
BEGIN, END = "<|im_start|>", "<|im_end|>"


class Refused(Exception):
    """A request that vLLM answers with an error."""

    def __init__(self, status: HTTPStatus, message: str, *, kind: str = "BadRequestError", param: str | None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is to be answered."""

    is_chat: bool
    prompt: list[str]
    """Its tokens."""
    pieces: list[str]
    """The answer's text, token by token; a stop string and what follows it are left out."""
    reason: str
    """Why the answer ends there."""
    is_streamed: bool
    has_usage: bool

    def sequence(self, *, block_tokens: int) -> "TextSequence":
        """As the engine gets it."""
        return TextSequence(self.prompt, answer_tokens=len(self.pieces), block_tokens=block_tokens)


class TextSequence(scheduler.Sequence):
    """A sequence whose blocks are known by all the tokens up to their end, as vLLM's prefix cache knows them."""

    def __init__(self, prompt: list[str], *, answer_tokens: int, block_tokens: int) -> None:
        answer = [WORDS[at % len(WORDS)] for at in range(answer_tokens)]
        self._block_tokens = block_tokens
        self._blocks = segments(prompt + answer, block_tokens=block_tokens)
        super().__init__(None, segments(prompt, block_tokens=block_tokens), answer=None, output_tokens=answer_tokens)

    @property
    def whole(self) -> tuple[Segment, ...]:
        """The full blocks of the prompt and of what is known of the answer."""
        return self._blocks[: self.target // self._block_tokens]


def segments(tokens: Sequence[str], *, block_tokens: int) -> tuple[Segment, ...]:
    """Full blocks under the names of all that was said up to their end, and what is left."""
    found: list[Segment] = []
    name = 0
    for at in range(0, len(tokens), block_tokens):
        block = tuple(tokens[at : at + block_tokens])
        name = hash((name, block))
        found.append(Segment(name, len(block)))
    return tuple(found)


def question(path: str, payload: dict[str, Any], *, names: Collection[str], context_tokens: int) -> Question:
    """Raises: Refused, with vLLM's words."""
    _check_model(payload.get("model"), names)
    is_chat = path == CHAT
    prompt = _chat_tokens(payload.get("messages")) if is_chat else _prompt_tokens(payload.get("prompt"))
    if payload.get("n", 1) != 1:
        raise _bad("the simulated vLLM gives one answer to a request", param="n")
    if payload.get("stream_options") and not payload.get("stream"):
        raise _bad("Stream options can only be defined when `stream=True`.", param="stream_options")
    pieces, reason = _answer(_limit(payload, is_chat=is_chat, prompt=len(prompt), context=context_tokens), payload)
    return Question(
        is_chat=is_chat,
        prompt=prompt,
        pieces=pieces,
        reason=reason,
        is_streamed=bool(payload.get("stream")),
        has_usage=bool((payload.get("stream_options") or {}).get("include_usage")),
    )


def _check_model(name: object, names: Collection[str]) -> None:
    if name and name not in names:
        text = f"The model `{name}` does not exist."
        raise Refused(HTTPStatus.NOT_FOUND, text, kind="NotFoundError", param="model")


def _chat_tokens(messages: object) -> list[str]:
    """Of a conversation in the chat template that most small models have."""
    if not isinstance(messages, list) or not messages:
        raise _bad("Field required", param="messages")
    found: list[str] = []
    for message in messages:
        if not isinstance(message, dict):
            raise _bad("Input should be a valid dictionary", param="messages")
        found += [BEGIN, str(message.get("role")), *TOKEN.findall(_text(message.get("content"))), END]
    return [*found, BEGIN, "assistant"]


def _text(content: object) -> str:
    """A message's content, which OpenAI also allows to be a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")


def _prompt_tokens(prompt: object) -> list[str]:
    """Of a text, or of a list of token ids."""
    found = TOKEN.findall(prompt) if isinstance(prompt, str) else prompt
    if not isinstance(found, list) or not found or any(isinstance(one, list) for one in found):
        raise _bad("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    return [str(one) for one in found]


def _limit(payload: dict[str, Any], *, is_chat: bool, prompt: int, context: int) -> int:
    """Tokens of the answer."""
    name = "max_completion_tokens" if is_chat and payload.get("max_completion_tokens") is not None else "max_tokens"
    asked = payload.get(name)
    if asked is None and not is_chat:
        asked = COMPLETION_TOKENS
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int)):
        raise _bad("Input should be a valid integer", param=name)
    if asked is not None and asked < 1:
        raise _bad(f"{name} must be at least 1, got {asked}.", param=name)
    if prompt >= context:
        raise _bad(
            f"This model's maximum context length is {context} tokens. However, your prompt contains at least "
            f"{context + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
            "length of the input prompt.",
            param="input_tokens",
        )
    if asked is not None and prompt + asked > context:
        raise _bad(
            f"This model's maximum context length is {context} tokens. However, you requested {asked} output tokens "
            f"and your prompt contains {prompt} input tokens, for a total of {prompt + asked} tokens.",
            param="input_tokens",
        )
    return context - prompt if asked is None else asked


def _answer(tokens: int, payload: dict[str, Any]) -> tuple[list[str], str]:
    """The pieces of the answer's text, and why it ends."""
    pieces = [f" {WORDS[at % len(WORDS)]}" for at in range(tokens)]
    asked = payload.get("stop")
    stops = [asked] if isinstance(asked, str) else asked or []
    if "" in stops:
        raise _bad("stop cannot contain an empty string.", param="stop")
    text = "".join(pieces)
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return pieces, "length"
    start, stop = min(found)
    end = start + len(stop)
    cut: list[str] = []
    at = 0
    for piece in pieces:  # the token in which the stop string ends is the last one that is made
        if at >= end:
            break
        cut.append(piece[: max(0, start - at)])
        at += len(piece)
    return cut, "stop"


def _bad(message: str, *, param: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message, param=param)
