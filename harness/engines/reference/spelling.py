"""How the two APIs spell questions, answers and refusals."""

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec

from harness.engines.reference.plan import Plan
from harness.wire import openai

GARBAGE: Final = b"{\xff\xfe\x00 no chunk of any API"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One question, whichever API it came by."""

    prompt: str
    prompt_tokens: int
    """Words of all messages: a count anyone can check."""
    is_streamed: bool
    max_tokens: int | None
    """None: the request sets no limit."""
    has_usage: bool = True
    """The client asked for a usage chunk at the end of the stream."""


def asked(payload: dict[str, Any], *, streams_by_default: bool) -> Request:
    """The question in the body of a chat or generate request of either API."""
    messages = payload.get("messages") or [{"content": payload.get("prompt", "")}]
    texts = [_text(message.get("content")) for message in messages]
    options = payload.get("options") or {}
    limit = payload.get("max_completion_tokens", payload.get("max_tokens", options.get("num_predict")))
    return Request(
        prompt=texts[-1],
        prompt_tokens=sum(len(text.split()) for text in texts),
        is_streamed=bool(payload.get("stream", streams_by_default)),
        max_tokens=int(limit) if limit is not None and int(limit) > 0 else None,
        has_usage=bool((payload.get("stream_options") or {}).get("include_usage")),
    )


def _text(content: object) -> str:
    """A message's content, which OpenAI also allows to be a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content)
    return str(content or "")


class OpenAI:
    """Server-sent events as vLLM writes them."""

    content_type: Final = openai.EVENTS
    sends_headers_first: Final = True

    def __init__(self, plan: Plan, request: Request, number: int) -> None:
        self._plan = plan
        self._chat = openai.Chat(
            number, model=plan.model, prompt_tokens=request.prompt_tokens, has_usage=request.has_usage
        )
        self.step = self._chat.step

    def opening(self) -> bytes:
        """A chunk that names the role and carries no text."""
        return self._chat.opening() if self._plan.has_role_chunk else b""

    def closing(self, tokens: int, reason: str, _spent_s: float) -> bytes:
        """Finish reason, usage where it was asked for, end mark."""
        return self._chat.last("", reason) + self._chat.closing(tokens)

    def whole(self, text: str, tokens: int, reason: str, _spent_s: float) -> bytes:
        """The answer that was not streamed."""
        return self._chat.whole(text, tokens, reason)

    def garbage(self) -> bytes:
        """An event that holds no JSON."""
        return b"data: " + GARBAGE + b"\n\n"


class Ollama:
    """Lines of JSON as Ollama writes them; response headers come with the first token, as there."""

    content_type: Final = "application/x-ndjson"
    sends_headers_first: Final = False

    def __init__(self, plan: Plan, request: Request, _number: int, *, is_chat: bool = True) -> None:
        self._plan, self._request, self._is_chat = plan, request, is_chat

    def opening(self) -> bytes:
        """Nothing: Ollama has no chunk without text."""
        return b""

    def step(self, text: str) -> bytes:
        """One line of text."""
        return self._line(text, done=False)

    def closing(self, tokens: int, reason: str, spent_s: float) -> bytes:
        """The line with done: true and the counts."""
        return self.whole("", tokens, reason, spent_s)

    def whole(self, text: str, tokens: int, reason: str, spent_s: float) -> bytes:
        """The answer that was not streamed: the last line, with all of the text."""
        return self._line(
            text,
            done=True,
            done_reason=reason,
            total_duration=_ns(spent_s),
            load_duration=1,
            prompt_eval_count=self._request.prompt_tokens,
            prompt_eval_duration=_ns(self._plan.ttft_s),
            eval_count=tokens,
            eval_duration=_ns((tokens - 1) * self._plan.itl_s),
        )

    def garbage(self) -> bytes:
        """A line that holds no JSON."""
        return GARBAGE + b"\n"

    def _line(self, text: str, **more: object) -> bytes:
        said: dict[str, object] = (
            {"message": {"role": "assistant", "content": text}} if self._is_chat else {"response": text}
        )
        head = {"model": self._plan.model, "created_at": _now()}
        return msgspec.json.encode(head | said | more) + b"\n"


Dialect = OpenAI | Ollama
SPEAKS: Final[dict[str, Callable[[Plan, Request, int], Dialect]]] = {
    "/v1/chat/completions": OpenAI,
    "/api/chat": Ollama,
    "/api/generate": lambda plan, request, number: Ollama(plan, request, number, is_chat=False),
}
REFERENCE: Final = "reference"
"""What it calls itself: nobody is to take its figures for those of an engine."""
TROUBLE: Final = {
    HTTPStatus.INTERNAL_SERVER_ERROR: ("InternalServerError", "EngineCore encountered an issue. See stack trace."),
    HTTPStatus.SERVICE_UNAVAILABLE: ("ServiceUnavailableError", "server busy, please try again"),
}


def is_ollama(path: str) -> bool:
    """Whether a path belongs to Ollama's API."""
    return path.startswith("/api/")


def refusal(status: HTTPStatus, message: str, *, path: str, kind: str = "invalid_request_error") -> bytes:
    """The body of an error, as vLLM or as Ollama writes it."""
    if is_ollama(path):
        return msgspec.json.encode({"error": message})
    return openai.refusal(status, message, kind=kind)


def trouble(status: HTTPStatus, *, path: str) -> bytes:
    """The body of a server's own failure."""
    kind, message = TROUBLE[status]
    return refusal(status, message, path=path, kind=kind)


def pages(plan: Plan) -> dict[str, object]:
    """What clients ask to learn whether a server is there and what it has."""
    entry = {"name": plan.model, "model": plan.model, "modified_at": _now(), "size": 1, "digest": "0" * 64}
    return {
        "/health": {"status": "ok"},
        "/v1/models": {"object": "list", "data": [{"id": plan.model, "object": "model"}]},
        "/api/version": {"version": "0.0.0"},
        "/version": {"version": REFERENCE},
        "/api/tags": {"models": [entry]},
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def halves(data: bytes) -> tuple[bytes, bytes]:
    """`data` cut inside its first character of several bytes, or in the middle where it has none."""
    cut = next((at + 1 for at, byte in enumerate(data) if byte >= 0x80), len(data) // 2)
    return data[:cut], data[cut:]
