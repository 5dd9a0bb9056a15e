"""vLLM's answers as JSON objects, whole or chunk by chunk, in the form vLLM 0.32 was recorded to give them."""

import base64
import hashlib
import json
import math
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from vllm_dialect import Json, Vocabulary, chat_logprobs, completion_logprobs, usage

FINGERPRINT = "vllm-0.32.0-0647f685"


class Delta(NamedTuple):
    """What one chunk adds."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[Json] | None = None
    ids: tuple[int, ...] = ()
    delay_s: float = 0.0


class Answer(NamedTuple):
    """A whole generation, before it is cut into chunks."""

    id: str
    model: str
    prompt_ids: list[int]
    deltas: list[Delta]
    finish_reason: str | None
    stop_reason: str | None
    made: int


class Shape:
    """An answer as JSON objects: whole, or chunk by chunk."""

    kind = ""

    def __init__(self, body: Json, script: Json, answer: Answer, words: Vocabulary) -> None:
        self.body, self.script, self.answer, self.words = body, script, answer, words
        self.created = int(time.time())
        self.prompt_tokens: int = script.get("prompt_tokens", len(answer.prompt_ids))
        asked = body.get("stream_options") or {}
        self.usage = script.get("usage", "asked")
        self.has_usage = self.usage in {"asked", "every"} and bool(asked.get("include_usage"))
        self.has_usage_everywhere = self.usage == "every" or bool(asked.get("continuous_usage_stats"))

    def head(self, *, chunk: bool) -> Json:
        kind = f"{self.kind}.chunk" if chunk and self.kind == "chat.completion" else self.kind
        return {"id": self.answer.id, "object": kind, "created": self.created, "model": self.answer.model}

    def used(self, made: int) -> Json:
        brief = usage(self.prompt_tokens, made)
        return {name: value for name, value in brief.items() if value is not None}

    def chunks(self) -> Iterator[tuple[float, Json]]:
        """Each chunk with the pause before it; the chunk of the last delta carries finish_reason."""
        made = offset = 0
        *_, last = range(len(self.answer.deltas) or 1)
        for n, delta in enumerate(self.answer.deltas or [Delta()]):
            made += len(delta.ids)
            is_last = n == last and self.answer.finish_reason is not None
            chunk = {**self.head(chunk=True), "choices": [self.choice(delta, n, offset, is_last=is_last)]}
            offset += len(delta.text)
            if self.has_usage_everywhere or (is_last and self.usage == "finish"):
                chunk["usage"] = self.used(self.script.get("completion_tokens", made))
            yield delta.delay_s, chunk
        if self.has_usage:
            told = {**self.head(chunk=True), "choices": [], "usage": self.used(self.answer.made)}
            told["system_fingerprint"] = FINGERPRINT
            if "cached_tokens" in self.script:
                told["usage"]["prompt_tokens_details"] = {"cached_tokens": self.script["cached_tokens"]}
            if "metrics" in self.script:
                told["metrics"] = self.script["metrics"]
            yield 0.0, told

    def choice(self, delta: Delta, n: int, offset: int, *, is_last: bool) -> Json:
        raise NotImplementedError

    def ending(self, delta: Delta, *, is_last: bool) -> Json:
        ids = list(delta.ids) if self.body.get("return_token_ids") else None
        if not is_last:
            return {"finish_reason": None, "token_ids": ids}
        return {"finish_reason": self.answer.finish_reason, "stop_reason": self.answer.stop_reason, "token_ids": ids}

    def pieces(self, delta: Delta) -> list[str]:
        return [self.words.decode([i]) for i in delta.ids]

    def all(self) -> Delta:
        """All deltas as one."""
        deltas = self.answer.deltas
        ids = tuple(i for delta in deltas for i in delta.ids)
        return Delta("".join(d.text for d in deltas), "".join(d.reasoning for d in deltas), ids=ids)

    def whole(self) -> Json:
        told = {**self.head(chunk=False), "choices": [self.whole_choice()], "service_tier": None}
        cached = self.script.get("cached_tokens")
        told |= {"system_fingerprint": FINGERPRINT, "usage": usage(self.prompt_tokens, self.answer.made, cached=cached)}
        if self.usage == "never":
            del told["usage"]
        ids = self.answer.prompt_ids if self.body.get("return_token_ids") and self.kind == "chat.completion" else None
        metrics = self.script.get("metrics")
        return told | {"prompt_logprobs": None, "prompt_token_ids": ids, "kv_transfer_params": None, "metrics": metrics}

    def whole_choice(self) -> Json:
        raise NotImplementedError


class ChatShape(Shape):
    kind = "chat.completion"

    def chunks(self) -> Iterator[tuple[float, Json]]:
        """The role comes alone and at once."""
        ids = self.answer.prompt_ids if self.body.get("return_token_ids") else None
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        first = {**self.head(chunk=True), "choices": [choice], "prompt_token_ids": ids, "prompt_text": None}
        if self.has_usage_everywhere:
            first["usage"] = self.used(0)
        yield 0.0, first
        yield from super().chunks()

    def choice(self, delta: Delta, n: int, offset: int, *, is_last: bool) -> Json:
        said: Json = {self.script.get("reasoning_key", "reasoning"): delta.reasoning} if delta.reasoning else {}
        if delta.text or not (said or delta.tool_calls):
            said["content"] = delta.text
        if delta.tool_calls:
            said["tool_calls"] = delta.tool_calls
        logprobs = chat_logprobs(self.pieces(delta), self.body.get("top_logprobs") or 0)
        told = {"index": 0, "delta": said, "logprobs": logprobs if self.body.get("logprobs") else None}
        return told | self.ending(delta, is_last=is_last)

    def whole_choice(self) -> Json:
        every = self.all()
        key = self.script.get("reasoning_key", "reasoning")
        message: Json = {
            "role": "assistant",
            "content": every.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
        }
        message |= {"function_call": None, key: every.reasoning or None}
        calls = [
            {"id": call_id(call, n), "type": "function", "function": {"name": call["name"], "arguments": said(call)}}
            for n, call in enumerate(self.script.get("tool_calls", []))
        ]
        if calls:
            message |= {"tool_calls": calls, "content": every.text or None}
        logprobs = chat_logprobs(self.pieces(every), self.body.get("top_logprobs") or 0)
        told = {"index": 0, "message": message, "logprobs": logprobs if self.body.get("logprobs") else None}
        return told | {"stop_reason": None} | self.ending(every, is_last=True) | {"routed_experts": None}


class CompletionShape(Shape):
    kind = "text_completion"

    def logprobs(self, delta: Delta, offset: int) -> Json | None:
        top = self.body.get("logprobs")
        return None if top is None else completion_logprobs(self.pieces(delta), top, offset=offset)

    def choice(self, delta: Delta, n: int, offset: int, *, is_last: bool) -> Json:
        ids = self.answer.prompt_ids if self.body.get("return_token_ids") and n == 0 else None
        told = {"index": 0, "text": delta.text, "logprobs": self.logprobs(delta, offset), "stop_reason": None}
        return told | self.ending(delta, is_last=is_last) | {"prompt_token_ids": ids}

    def whole_choice(self) -> Json:
        every = self.all()
        ids = self.answer.prompt_ids if self.body.get("return_token_ids") else None
        told = {"index": 0, "text": every.text, "logprobs": self.logprobs(every, 0), "prompt_logprobs": None}
        return told | {"stop_reason": None} | self.ending(every, is_last=True) | {"prompt_token_ids": ids}


def said(call: Json) -> str:
    given = call.get("arguments", {})
    text: str = given if isinstance(given, str) else json.dumps(given)
    return text


def call_id(call: Json, n: int) -> str:
    return str(call.get("id", f"chatcmpl-tool-{n:016x}"))


def fragments(script: Json, words: Vocabulary) -> Iterator[Delta]:
    """Tool calls as vLLM streams them: name and id first, then bits of the arguments, the calls in turn."""
    size = script.get("fragment", 5)
    for n, call in enumerate(script["tool_calls"]):
        function = {"name": call["name"], "arguments": ""}
        opening = {"id": call_id(call, n), "type": "function", "index": n, "function": function}
        yield Delta(tool_calls=[opening], ids=tuple(words.encode(call["name"])))
    texts = [said(call) for call in script["tool_calls"]]
    for at in range(0, max(map(len, texts), default=0), size):
        for n, text in enumerate(texts):
            if bit := text[at : at + size]:
                yield Delta(tool_calls=[{"index": n, "function": {"arguments": bit}}], ids=tuple(words.encode(bit)))


def vector(text: str, length: int) -> list[float]:
    """Of length 1, and the same for the same text."""
    seeds = hashlib.shake_256(text.encode()).digest(2 * length)
    raw = [struct.unpack_from(">h", seeds, 2 * n)[0] / 32768 for n in range(length)]
    norm = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [x / norm for x in raw]


def encoded(values: list[float], form: str) -> list[float] | str:
    return values if form == "float" else base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
