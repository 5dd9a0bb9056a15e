"""vLLM's events → Ollama's answer. Pure: bytes in, bytes out; the clock is an argument.

One `Reply` follows one answer. `feed` takes whatever bytes arrived and returns the NDJSON lines they make, joined, so
that one read becomes one send; `end` is told that vLLM has closed. A whole answer (`stream: false`) is collected.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from proxy.answers import encoded, unsplittable
from proxy.errors import OllamaError, UpstreamBroke
from proxy.sse import EventSplitter
from proxy.upstream import refusal

Kind = Literal["generate", "chat"]

DONE_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "function_call": "stop",
    "content_filter": "stop",
}
"""vLLM's finish_reason → Ollama's done_reason; `abort` and `error` are no ends but failures."""

SHORTEST_NS = 1000
"""What Ollama reports as eval_duration of a single token; zero would be left out, and clients divide by it."""


# ---------------------------------------------------------------- what is read of vLLM's events


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None


class _Metrics(msgspec.Struct, gc=False):
    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    metrics: _Metrics | None = None
    prompt_token_ids: list[int] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


def _plain_text(chunk: _Event) -> str | None:
    """The text of a chunk that brings text and nothing else; None or empty where there is more to see."""
    if len(chunk.choices) != 1 or chunk.usage is not None or chunk.error is not None:
        return None
    choice = chunk.choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None:
        return None
    if delta.reasoning is not None or delta.reasoning_content is not None or delta.tool_calls is not None:
        return None
    return delta.content


class Stamp:
    """The time as Ollama writes it: RFC 3339, UTC, nanoseconds."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def __call__(self, now_ns: int) -> bytes:
        second, ns = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        return b"%s%09dZ" % (self._prefix, ns)


class Clock:
    """Now, twice: for people, and for durations. Nanoseconds."""

    wall_ns: Callable[[], int] = staticmethod(time.time_ns)
    steady_ns: Callable[[], int] = staticmethod(time.perf_counter_ns)


class Reply:
    """Ollama's answer to one request of /api/generate or /api/chat, as it grows."""

    def __init__(
        self,
        *,
        kind: Kind,
        model: str,
        is_streamed: bool,
        received_ns: int,
        splitter: "ThinkSplitter | None" = None,
        shows_thinking: bool = True,
        has_context: bool = False,
        earlier_ids: tuple[int, ...] = (),
        has_logprobs: bool = False,
        clock: type[Clock] = Clock,
    ) -> None:
        """`received_ns` is `clock.steady_ns()` at the moment the request came.

        `splitter` finds thinking in the text where vLLM does not; `shows_thinking` is off for `think: false`, where
        what the model thinks all the same is text. `has_context` fills the legacy `context` of generate, which
        begins with `earlier_ids`.
        """
        self._kind = kind
        self._is_streamed = is_streamed
        self._clock = clock
        self._received_ns = received_ns
        self._accepted_ns = received_ns
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._splitter = splitter
        self._shows_thinking = shows_thinking
        self._has_context = has_context
        self._has_logprobs = has_logprobs
        self._events = EventSplitter()
        self._stamp = Stamp()
        self._name = unsplittable(_encode(model))
        self.model = model
        self._all: list[str] = []
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[Any] = []
        self._calls: dict[int, _Call] = {}
        self._emitted_calls: list[dict[str, Any]] = []
        self._ids = list(earlier_ids)
        self._usage: _Usage | None = None
        self._seen_tokens = 0
        self._metrics: _Metrics | None = None
        self._finish: str | None = None
        self.is_done = False
        """The last line has been made; nothing follows."""

        self.failure: OllamaError | None = None
        """Why there will be no whole answer. Nothing follows."""

        self.has_reasoning = False
        """vLLM separates thinking by itself."""

        if kind == "chat":
            self._before = b'","message":{"role":"assistant","content":'
            self._after = b'},"done":false'
        else:
            self._before = b'","response":'
            self._after = b',"done":false'
        self._head = b'{"model":' + self._name + b',"created_at":"'
        self._plain_end = self._after + b"}\n"
        self._is_plain = is_streamed and splitter is None and not has_context and not has_logprobs
        self._steady_ns, self._wall_ns = clock.steady_ns, clock.wall_ns

    # ------------------------------------------------------------ what arrives

    def accepted(self) -> None:
        """vLLM has taken the request: what came before was waiting, what follows is work."""
        self._accepted_ns = self._clock.steady_ns()

    def feed(self, data: bytes) -> bytes:
        """The lines that `data` makes, possibly none. After a failure or the end: nothing, for ever."""
        if self.is_done or self.failure is not None:
            return b""
        lines: list[bytes] = []
        try:
            for event in self._events.feed(data):
                if event == b"[DONE]":
                    if not self.lacks_usage:
                        self._close(lines)
                    break
                chunk = _decode(event)
                if self._is_plain and (text := _plain_text(chunk)):
                    lines.append(self._line(text))
                    continue
                self._take(chunk, lines)
                if self.failure is not None:
                    break
        except msgspec.DecodeError:
            self.failure = UpstreamBroke("the model server's answer cannot be read")
        except OllamaError as why:
            self.failure = why
        return lines[0] if len(lines) == 1 else b"".join(lines)

    @property
    def lacks_usage(self) -> bool:
        """vLLM has not told how many tokens there were: somebody has to count (`counted`) before the end."""
        return self._usage is None and not self._seen_tokens

    @property
    def said(self) -> str:
        """Everything that was generated, to be counted where vLLM does not."""
        return "".join(self._all)

    def counted(self, *, prompt_tokens: int, tokens: int) -> None:
        """Take the place of the usage that vLLM did not send."""
        self._usage = _Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens)

    def end(self) -> bytes:
        """vLLM's answer is over: the last line, or the failure where it ended too early."""
        lines: list[bytes] = []
        if not self.is_done and self.failure is None:
            self._close(lines)
        return b"".join(lines)

    def feed_whole(self, data: bytes) -> None:
        """The answer of a request that was not streamed from vLLM."""
        try:
            event = _decode(data)
            for choice in event.choices:
                for index, call in enumerate((choice.message and choice.message.tool_calls) or ()):
                    call.index = index  # a whole answer numbers its calls by their places
            self._take(event, [])
        except msgspec.DecodeError:
            self.failure = UpstreamBroke("the model server's answer cannot be read")
        # When the first token came is not known: evaluation is bounded by the whole.
        self._first_ns, self._last_ns = self._accepted_ns, self._clock.steady_ns()
        if self.failure is None:
            self._close([])

    def _take(self, event: _Event, lines: list[bytes]) -> None:
        if event.error is not None:
            self.failure = refusal(500, _encode({"error": event.error}))
            return
        if event.usage is not None:
            self._usage = event.usage
        if event.metrics is not None:
            self._metrics = event.metrics
        if event.prompt_token_ids is not None:
            self._ids += event.prompt_token_ids
        if not event.choices:
            return
        choice = event.choices[0]
        if choice.prompt_token_ids is not None:
            self._ids += choice.prompt_token_ids
        if choice.token_ids is not None:
            self._seen_tokens += len(choice.token_ids)
            self._ids += choice.token_ids
        delta = choice.delta or choice.message
        thinking = ""
        if delta is None:
            text = choice.text or ""
        else:
            text = delta.content or ""
            thinking = delta.reasoning or delta.reasoning_content or ""
            if delta.tool_calls:
                self._take_calls(delta.tool_calls)
        if thinking:
            self.has_reasoning = True
            if not self._shows_thinking:
                thinking, text = "", thinking + text
        elif text and self._splitter is not None and not self.has_reasoning:
            thinking, text = self._splitter.feed(text)
        if text or thinking or choice.logprobs is not None:
            self._say(text, thinking, choice.logprobs, lines)
        if choice.finish_reason is not None:
            self._finish = choice.finish_reason

    def _say(self, text: str, thinking: str, logprobs: Any, lines: list[bytes]) -> None:
        """One line of text, or a piece of the whole answer."""
        self._mark()
        self._all += (thinking, text)
        items = converted_logprobs(logprobs) if self._has_logprobs and logprobs is not None else None
        if not self._is_streamed:
            self._text.append(text)
            self._thinking.append(thinking)
            if items:
                self._logprobs += items
            return
        if not text and not thinking and not items:
            return
        line = self._head + self._stamp(self._clock.wall_ns()) + self._before + _encode(text)
        if thinking:
            line += b',"thinking":' + _encode(thinking)
        line += self._after
        if items:
            line += b',"logprobs":' + _encode(items)
        lines.append(unsplittable(line + b"}\n"))

    def _line(self, text: str) -> bytes:
        """One line of nothing but text: what nearly every token becomes, so this is the path to keep short."""
        self._all.append(text)
        now_ns = self._last_ns = self._steady_ns()
        if self._first_ns is None:
            self._first_ns = now_ns
        said = _encode(text)
        if not text.isascii():
            said = unsplittable(said)
        return b"".join((self._head, self._stamp(self._wall_ns()), self._before, said, self._plain_end))

    def _mark(self) -> None:
        now_ns = self._clock.steady_ns()
        if self._first_ns is None:
            self._first_ns = now_ns
        self._last_ns = now_ns

    # ------------------------------------------------------------ tools

    def _take_calls(self, pieces: list[_Call]) -> None:
        """Fragments are joined by index. Calls are told at the end, since fragments of several may come mixed."""
        self._mark()
        for piece in pieces:
            call = self._calls.get(piece.index)
            if call is None:
                call = self._calls[piece.index] = _Call(index=piece.index, function=_Function(name="", arguments=""))
            if piece.id:
                call.id = piece.id
            if piece.function is not None and call.function is not None:
                call.function.name = (call.function.name or "") + (piece.function.name or "")
                call.function.arguments = (call.function.arguments or "") + (piece.function.arguments or "")

    def _tell_calls(self, lines: list[bytes]) -> None:
        told: list[dict[str, Any]] = []
        for index in sorted(self._calls):
            call = self._calls.pop(index)
            assert call.function is not None
            arguments = parsed_arguments(call.function.arguments or "")
            if self._finish == "length" and not call.function.arguments:
                continue  # cut before the first argument: nobody knows what the model meant to call it with
            if arguments is None:
                # Cut within the call, or nonsense: what the model wrote is text, not a call with half its arguments.
                self._say(call.function.arguments or "", "", None, lines)
                continue
            function = {"index": index, "name": call.function.name or "", "arguments": arguments}
            told.append({"id": call.id or f"call_{index}", "function": function})
        if not told:
            return
        if not self._is_streamed:
            self._emitted_calls += told
            return
        message = {"role": "assistant", "content": "", "tool_calls": told}
        lines.append(
            encoded({"model": self.model, "created_at": self._now(), "message": message, "done": False}) + b"\n"
        )

    # ------------------------------------------------------------ the end

    def _close(self, lines: list[bytes]) -> None:
        if self._splitter is not None:
            thinking, text = self._splitter.end()
            if text or thinking:
                self._say(text, thinking, None, lines)
        if self._finish not in DONE_REASONS and self._finish in (None, "abort", "error"):
            self.failure = (
                UpstreamBroke() if self._finish is None else UpstreamBroke("the model server gave the answer up")
            )
            return
        self._tell_calls(lines)
        self.is_done = True
        if self._is_streamed:
            lines.append(encoded(self._last()) + b"\n")

    def whole(self) -> dict[str, Any]:
        """The answer as one object, for `stream: false`."""
        return self._last()

    def _last(self) -> dict[str, Any]:
        """The object with `done: true`: everything where not streamed, the metrics alone otherwise."""
        thinking = "".join(self._thinking)
        answer: dict[str, Any] = {"model": self.model, "created_at": self._now()}
        if self._kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text)}
            if thinking:
                message["thinking"] = thinking
            if self._emitted_calls:
                message["tool_calls"] = self._emitted_calls
            answer["message"] = message
        else:
            answer["response"] = "".join(self._text)
            if thinking:
                answer["thinking"] = thinking
        answer |= {"done": True, "done_reason": DONE_REASONS.get(self._finish or "", "stop")}
        if self._has_context:
            answer["context"] = self._ids
        answer |= self._durations()
        if self._logprobs:
            answer["logprobs"] = self._logprobs
        return answer

    def _durations(self) -> dict[str, int]:
        """Counts from vLLM's usage, durations from its metrics where it gives them, else from the arrival of tokens.

        Nanoseconds. What is zero or unknown is left out, as Ollama does.
        """
        now_ns = self._clock.steady_ns()
        prefill_ns = (self._first_ns - self._accepted_ns) if self._first_ns is not None else now_ns - self._accepted_ns
        eval_ns = (self._last_ns - self._first_ns) if self._first_ns is not None and self._last_ns is not None else 0
        if self._metrics is not None and self._metrics.time_to_first_token_ms:
            prefill_ns = round(self._metrics.time_to_first_token_ms * 1e6)
        if self._metrics is not None and self._metrics.generation_time_ms:
            eval_ns = round(self._metrics.generation_time_ms * 1e6)
        figures: dict[str, int] = {
            "total_duration": now_ns - self._received_ns,
            "load_duration": self._accepted_ns - self._received_ns,
        }
        prompt_tokens = self._usage.prompt_tokens if self._usage else None
        tokens = self._usage.completion_tokens if self._usage else None
        if tokens is None and self._seen_tokens:
            tokens = self._seen_tokens
        if prompt_tokens is not None:
            figures["prompt_eval_count"] = prompt_tokens
            details = self._usage.prompt_tokens_details if self._usage else None
            if details is not None and details.cached_tokens is not None:
                figures["prompt_eval_cached_count"] = details.cached_tokens
        figures["prompt_eval_duration"] = max(prefill_ns, SHORTEST_NS)
        if tokens is not None:
            figures["eval_count"] = tokens
        figures["eval_duration"] = max(eval_ns, SHORTEST_NS)
        return figures

    def _now(self) -> str:
        return self._stamp(self._clock.wall_ns()).decode()


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """A call's arguments; None where `text` is no JSON object."""
    if not text.strip():
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def converted_logprobs(found: Any) -> list[dict[str, Any]]:
    """vLLM's logprobs, of chat or of completions, in the one shape that Ollama has."""
    if not isinstance(found, dict):
        return []
    if isinstance(found.get("content"), list):
        return [_logprob(item) for item in found["content"] if isinstance(item, dict)]
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or []
    items = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=False)):
        top = tops[index] if index < len(tops) else None
        item: dict[str, Any] = {"token": token, "logprob": value, "bytes": list(str(token).encode())}
        if isinstance(top, dict) and top:
            item["top_logprobs"] = [
                {"token": other, "logprob": its, "bytes": list(other.encode())} for other, its in top.items()
            ]
        items.append(item)
    return items


def _logprob(item: dict[str, Any]) -> dict[str, Any]:
    kept = {name: item[name] for name in ("token", "logprob", "bytes") if item.get(name) is not None}
    if item.get("top_logprobs"):
        kept["top_logprobs"] = [_logprob(top) for top in item["top_logprobs"] if isinstance(top, dict)]
    return kept


class ThinkSplitter:
    """Thinking and text told apart by `<think>` and `</think>`, for a vLLM without a reasoning parser.

    A tag may be split over pieces: what could be the beginning of one is held back until it is known.
    """

    OPENING, CLOSING = "<think>", "</think>"

    def __init__(self, *, is_inside: bool = False) -> None:
        """`is_inside`: the prompt ends with the opening tag, so the answer begins within the thinking."""
        self._state: Literal["before", "inside", "after", "text"] = "inside" if is_inside else "before"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """(thinking, text) that are certain after this piece."""
        text = self._held + text
        self._held = ""
        if self._state == "before":
            start = text.lstrip()
            if start.startswith(self.OPENING):
                self._state, text = "inside", start[len(self.OPENING) :].lstrip("\n")
            elif self.OPENING.startswith(start):
                self._held = text
                return "", ""
            else:
                self._state = "text"
        thinking = ""
        if self._state == "inside":
            thinking, tag, rest = text.partition(self.CLOSING)
            if not tag:
                keep = _overlap(thinking, self.CLOSING)
                self._held = thinking[len(thinking) - keep :]
                return thinking[: len(thinking) - keep], ""
            self._state, text = "after", rest
        if self._state == "after":
            text = text.lstrip("\n")
            if text:
                self._state = "text"
        return thinking, text

    def end(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "inside" else ("", held)


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` could begin `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)
