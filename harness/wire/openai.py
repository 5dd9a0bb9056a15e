"""An answer as OpenAI's API spells it and vLLM writes it: server-sent events, or whole."""

import time
from http import HTTPStatus
from typing import Any, Final

import msgspec

EVENTS: Final = "text/event-stream; charset=utf-8"
SSE_END: Final = b"data: [DONE]\n\n"

Choice = dict[str, Any]


class Chat:
    """An answer of /v1/chat/completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, number: int, *, model: str, prompt_tokens: int, has_usage: bool) -> None:
        self._prompt_tokens, self._has_usage = prompt_tokens, has_usage
        self._head = {"id": f"{self.prefix}-{number}", "created": int(time.time()), "model": model}
        # A thousand chunks a second differ in nothing but the text.
        self._before, self._after = self._event([self._piece("\0", None)]).split(msgspec.json.encode("\0"))

    def opening(self) -> bytes:
        """A chunk that names the role and carries no text."""
        return self._event([self._choice({"delta": {"role": "assistant", "content": ""}}, None)])

    def step(self, text: str) -> bytes:
        """One chunk of text."""
        return self._before + msgspec.json.encode(text) + self._after

    def last(self, text: str, reason: str) -> bytes:
        """The chunk that tells why the answer ends, with the last of its text or with none."""
        return self._event([self._piece(text, reason)])

    def closing(self, tokens: int) -> bytes:
        """Usage where it was asked for, and the end mark."""
        return (self._event([], usage=self._usage(tokens)) if self._has_usage else b"") + SSE_END

    def whole(self, text: str, tokens: int, reason: str) -> bytes:
        """The answer that is not streamed."""
        told = {"object": self.kind, "choices": [self._whole(text, reason)], "usage": self._usage(tokens)}
        return msgspec.json.encode(self._head | told)

    def _piece(self, text: str, reason: str | None) -> Choice:
        return self._choice({"delta": {"content": text} if text else {}}, reason)

    def _whole(self, text: str, reason: str) -> Choice:
        return self._choice({"message": {"role": "assistant", "content": text}}, reason)

    def _choice(self, said: Choice, reason: str | None) -> Choice:
        return {"index": 0, **said, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[Choice], **more: object) -> bytes:
        chunk = self._head | {"object": self.chunk_kind, "choices": choices} | more
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt = self._prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class Completion(Chat):
    """An answer of /v1/completions."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def opening(self) -> bytes:
        """Nothing: there are no roles."""
        return b""

    def _piece(self, text: str, reason: str | None) -> Choice:
        return self._choice({"text": text}, reason)

    def _whole(self, text: str, reason: str) -> Choice:
        return self._choice({"text": text}, reason)


def refusal(status: HTTPStatus, message: str, *, kind: str, param: str | None = None) -> bytes:
    """The body of an error."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status.value}})
