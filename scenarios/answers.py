"""What servers answer: the lines of a stream and whole answers, in OpenAI's and in Ollama's spelling. Pure."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a server's bytes can do to a decoder."""
Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one line of a stream, or a whole answer, says that matters here."""

    has_text: bool = False
    """Also of reasoning: a token is a token."""
    content: str = ""
    """What the next turn of a conversation repeats; reasoning is no part of it."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    is_last: bool = False
    error: str | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None  # older vLLM, llama.cpp
    reasoning: str | None = None  # vLLM
    thinking: str | None = None  # Ollama

    def has_text(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.thinking)


class _Choice(msgspec.Struct, gc=False):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _OpenAIChunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _OllamaLine(msgspec.Struct, gc=False):
    message: _Said | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    error: Any = None


_OPENAI: Final = msgspec.json.Decoder(_OpenAIChunk).decode
_OLLAMA: Final = msgspec.json.Decoder(_OllamaLine).decode
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


def openai_event(line: bytes) -> Event | None:
    """One line of a server-sent event stream; None for a blank line, a comment or another field."""
    if not line.startswith(_DATA):
        # A server that fails at once may answer a stream with a bare error object.
        return openai_answer(line) if line.startswith(b"{") else None
    data = line[len(_DATA) :].strip()
    return Event(is_last=True) if data == _DONE else openai_answer(data)


def openai_answer(data: bytes) -> Event:
    """The JSON of one streamed chunk, or of a whole answer."""
    chunk = _OPENAI(data)
    has_text, content, reason = False, "", None
    for choice in chunk.choices:
        said = choice.delta or choice.message
        if said is not None and said.has_text():
            has_text, content = True, content + (said.content or "")
        reason = reason or choice.finish_reason or None
    usage = chunk.usage
    if reason is None and usage is None and chunk.error is None:  # nearly every chunk, and each costs
        return Event(has_text=has_text, content=content)
    return Event(
        has_text=has_text,
        content=content,
        finish_reason=reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        error=error_text(chunk.error),
    )


def ollama_event(line: bytes) -> Event | None:
    """One line of an NDJSON stream, or a whole answer; None for a blank line."""
    if not line.strip():
        return None
    line_said = _OLLAMA(line)
    said = line_said.message
    has_text = said is not None and said.has_text()
    content = (said.content or "") if said is not None else ""
    if not line_said.done and line_said.error is None:  # nearly every line, and each costs
        return Event(has_text=has_text, content=content)
    return Event(
        has_text=has_text,
        content=content,
        # Old versions of Ollama give no reason with the last line.
        finish_reason=line_said.done_reason or ("done" if line_said.done else None),
        prompt_tokens=line_said.prompt_eval_count,
        output_tokens=line_said.eval_count,
        is_last=line_said.done,
        error=error_text(line_said.error),
    )


def refusal(status: int, body: bytes) -> str:
    """Why a request was refused, from a body in any of the shapes that servers use."""
    try:
        answer = msgspec.json.decode(body)
    except UNREADABLE:
        answer = body.decode(errors="replace")
    if isinstance(answer, dict):
        answer = answer.get("error") or answer.get("message") or answer.get("detail") or answer
    return f"HTTP {status}: {error_text(answer) or 'no reason given'}"


def error_text(error: object) -> str | None:
    """`error` as a short text: servers send a string or an object with a message."""
    if not error:
        return None
    if isinstance(error, dict):
        error = error.get("message") or error
    return str(error).strip()[:300]


class Api(msgspec.Struct, frozen=True):
    """One of the two protocols."""

    path: str
    event: Callable[[bytes], Event | None]
    answer: Callable[[bytes], Event | None]


APIS: Final = {
    "openai": Api("/v1/chat/completions", openai_event, openai_answer),
    "ollama": Api("/api/chat", ollama_event, ollama_event),
}

UNFINISHED: Final[dict[str | None, str]] = {
    None: "the answer ended without a finish reason",
    "abort": "the server aborted the answer",
    "error": "the server ended the answer with an error",
}
