"""A server of exactly known timing that speaks the APIs of vLLM and of Ollama.

What a client measures against it is the client's own bias. It answers with tokens on an absolute
timetable: request received → `ttft_s` → first token, then one every `itl_s`. GET /times tells when
each chunk was really handed to the kernel, so a late server is not taken for a slow client.

    python -m harness.engines.reference --port 0 --ttft-s 0.2 --itl-s 0.02 --tokens 100
"""

import argparse
import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, SupportsIndex

import msgspec

HOST: Final = "127.0.0.1"
KEPT_ANSWERS: Final = 20_000
"""How many answers GET /times remembers: a soak must not fill the memory."""
WORDS: Final = ("the", "river", "ran", "over", "old", "stones", "and", "sang", "to", "green", "hills")
SPLIT_WORD: Final = "café"
SSE_END: Final = b"data: [DONE]\n\n"


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was told to do; see `parser` for what each is for."""

    model: str
    ttft_s: float
    itl_s: float
    tokens: int
    tokens_per_chunk: int
    has_role_chunk: bool
    splits_utf8: bool
    ignores_max_tokens: bool
    fail_after_tokens: int | None
    stall_after_tokens: int | None
    capacity: int | None


class Sent(msgspec.Struct, kw_only=True):
    """What the server did for one request: a line of GET /times. Seconds of time.perf_counter."""

    prompt_start: str
    """The first characters of the last message: prompts begin with a nonce, so it names the request."""
    received_s: float
    prompt_tokens: int
    tokens: int = 0
    """Tokens sent so far."""
    chunks_s: list[float] = []
    """Just before each chunk with text was written (a split one: before its last part). The first is the
    first token. Empty for an answer that is not streamed."""
    end_s: float | None = None
    """Just before the last bytes were written. None: still under way, or broken off."""


class Step(msgspec.Struct, frozen=True):
    """One chunk of text, when it is due and how many tokens it carries."""

    due_s: float
    text: str
    tokens: int


def timetable(timing: Timing, *, start_s: float, tokens: int) -> Iterator[Step]:
    """When each chunk of an answer that starts then is due; lazy, since a hundred may start at once.

    A chunk of n tokens is a step that yields n at once, as in speculative decoding: the first is due
    after the TTFT whatever n is, and steps lie n × ITL apart, so the token rate stays the same.
    """
    words = (SPLIT_WORD,) if timing.splits_utf8 else WORDS
    for first in range(0, tokens, timing.tokens_per_chunk):
        count = min(timing.tokens_per_chunk, tokens - first)
        text = "".join(f" {words[at % len(words)]}" for at in range(first, first + count))
        yield Step(start_s + timing.ttft_s + first * timing.itl_s, text, count)


# ---------------------------------------------------------------- the two APIs: how an answer is spelled


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
    texts = [str(message.get("content") or "") for message in messages]
    options = payload.get("options") or {}
    limit = payload.get("max_completion_tokens", payload.get("max_tokens", options.get("num_predict")))
    return Request(
        prompt=texts[-1],
        prompt_tokens=sum(len(text.split()) for text in texts),
        is_streamed=bool(payload.get("stream", streams_by_default)),
        max_tokens=int(limit) if limit is not None and int(limit) > 0 else None,
        has_usage=bool((payload.get("stream_options") or {}).get("include_usage")),
    )


class OpenAI:
    """Server-sent events as vLLM writes them."""

    content_type: Final = "text/event-stream; charset=utf-8"
    sends_headers_first: Final = True

    def __init__(self, timing: Timing, request: Request) -> None:
        self.timing, self.request = timing, request
        self.head = {"id": "chatcmpl-reference", "created": int(time.time()), "model": timing.model}

    def opening(self) -> bytes:
        """A chunk that names the role and carries no text."""
        if not self.timing.has_role_chunk:
            return b""
        return self._event([self._choice({"role": "assistant", "content": ""})])

    def step(self, text: str) -> bytes:
        """One chunk of text."""
        return self._event([self._choice({"content": text})])

    def closing(self, tokens: int, reason: str, _spent_s: float) -> bytes:
        """Finish reason, usage where it was asked for, end mark."""
        events = self._event([self._choice({}, reason)])
        if self.request.has_usage:
            events += self._event([], usage=self._usage(tokens))
        return events + SSE_END

    def whole(self, text: str, tokens: int, reason: str, _spent_s: float) -> bytes:
        """The answer that was not streamed."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return msgspec.json.encode(
            self.head | {"object": "chat.completion", "choices": [choice], "usage": self._usage(tokens)}
        )

    def _choice(self, delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _event(self, choices: list[dict[str, object]], **more: object) -> bytes:
        chunk = self.head | {"object": "chat.completion.chunk", "choices": choices} | more
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _usage(self, tokens: int) -> dict[str, int]:
        prompt = self.request.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


class Ollama:
    """Lines of JSON as Ollama writes them; response headers come with the first token, as there."""

    content_type: Final = "application/x-ndjson"
    sends_headers_first: Final = False

    def __init__(self, timing: Timing, request: Request, *, is_chat: bool = True) -> None:
        self.timing, self.request, self.is_chat = timing, request, is_chat

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
            prompt_eval_count=self.request.prompt_tokens,
            prompt_eval_duration=_ns(self.timing.ttft_s),
            eval_count=tokens,
            eval_duration=_ns((tokens - 1) * self.timing.itl_s),
        )

    def _line(self, text: str, **more: object) -> bytes:
        said: dict[str, object] = (
            {"message": {"role": "assistant", "content": text}} if self.is_chat else {"response": text}
        )
        head = {"model": self.timing.model, "created_at": _now()}
        return msgspec.json.encode(head | said | more) + b"\n"


Dialect = OpenAI | Ollama
SPEAKS: Final[dict[str, Callable[[Timing, Request], Dialect]]] = {
    "/v1/chat/completions": OpenAI,
    "/api/chat": Ollama,
    "/api/generate": lambda timing, request: Ollama(timing, request, is_chat=False),
}


def pages(timing: Timing) -> dict[str, object]:
    """What clients ask to learn whether a server is there and what it has."""
    entry = {"name": timing.model, "model": timing.model, "modified_at": _now(), "size": 1, "digest": "0" * 64}
    return {
        "/health": {"status": "ok"},
        "/v1/models": {"object": "list", "data": [{"id": timing.model, "object": "model"}]},
        "/api/version": {"version": "0.0.0"},
        "/api/tags": {"models": [entry]},
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


# ---------------------------------------------------------------- HTTP/1.1 with keep-alive, as little as needed


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, read whole."""

    method: str
    path: str
    body: bytes
    is_kept_alive: bool
    received_s: float


class PunctualReader(asyncio.StreamReader):
    """Notes when bytes came in, not when a handler gets to them: of 100 requests at once that is 10 ms."""

    fed_s = 0.0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.fed_s = time.perf_counter()
        super().feed_data(data)


async def next_call(reader: PunctualReader) -> Call | None:
    """The next request on this connection; None when the client has hung up."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.split("\r\n")
        method, target, _version = request_line.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
        return None
    return Call(
        method=method,
        path=target.partition("?")[0],
        body=body,
        is_kept_alive=headers.get("connection", "").lower() != "close",
        received_s=reader.fed_s,
    )


def plain(status: HTTPStatus, body: bytes, content_type: str = "application/json; charset=utf-8") -> bytes:
    """A whole response of known length."""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked_head(content_type: str) -> bytes:
    """The headers of a stream."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    """`data` framed for a chunked stream; nothing for nothing, since an empty chunk would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def halves(data: bytes) -> tuple[bytes, bytes]:
    """`data` cut inside its first character of several bytes, or in the middle where it has none."""
    cut = next((at + 1 for at, byte in enumerate(data) if byte >= 0x80), len(data) // 2)
    return data[:cut], data[cut:]


# ---------------------------------------------------------------- the server


class ReferenceServer:
    """Answers each connection's requests one after another, all of them on their timetables."""

    def __init__(self, timing: Timing, *, times: Path | None = None) -> None:
        self.timing = timing
        self.sent: deque[Sent] = deque(maxlen=KEPT_ANSWERS)
        self._times = times
        self._slots: contextlib.AbstractAsyncContextManager[None] = (
            asyncio.Semaphore(timing.capacity) if timing.capacity else contextlib.nullcontext()
        )

    def connection(self) -> asyncio.Protocol:
        """What a new connection is given to."""
        reader = PunctualReader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._serve(reader, writer))

    async def _serve(self, reader: PunctualReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        try:
            while (call := await next_call(reader)) and not writer.is_closing():
                await self._answer(call, reader, writer)
                if not call.is_kept_alive:
                    break
        finally:
            writer.close()

    async def _answer(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if call.method == "GET":
            writer.write(self._page(call.path))
            return
        speaks = SPEAKS.get(call.path)
        if call.method != "POST" or speaks is None:
            writer.write(_refusal(HTTPStatus.NOT_FOUND, f"{call.method} {call.path} is unknown", path=call.path))
            return
        try:
            payload = msgspec.json.decode(call.body, type=dict[str, Any])
            request = asked(payload, streams_by_default=_is_ollama(call.path))
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
            writer.write(_refusal(HTTPStatus.BAD_REQUEST, f"not a chat request: {error}", path=call.path))
            return
        sent = Sent(prompt_start=request.prompt[:40], received_s=call.received_s, prompt_tokens=request.prompt_tokens)
        self.sent.append(sent)
        dialect = speaks(self.timing, request)
        async with self._slots:
            start_s = time.perf_counter() if self.timing.capacity else call.received_s
            if request.is_streamed:
                await self._stream(dialect, request, sent, start_s, reader, writer)
            else:
                await self._whole(dialect, request, sent, start_s, writer)
        self._note(sent)

    def _page(self, path: str) -> bytes:
        if path == "/times":
            lines = b"".join(msgspec.json.encode(sent) + b"\n" for sent in self.sent)
            return plain(HTTPStatus.OK, lines, "application/x-ndjson")
        page = pages(self.timing).get(path)
        if page is None:
            return _refusal(HTTPStatus.NOT_FOUND, f"GET {path} is unknown", path=path)
        return plain(HTTPStatus.OK, msgspec.json.encode(page))

    def _length(self, request: Request) -> tuple[int, str]:
        """How many tokens the answer gets, and why it ends there."""
        if request.max_tokens is None or self.timing.ignores_max_tokens:
            return self.timing.tokens, "stop"
        return request.max_tokens, "length"

    async def _stream(
        self,
        dialect: Dialect,
        request: Request,
        sent: Sent,
        start_s: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        tokens, reason = self._length(request)
        pending = chunked_head(dialect.content_type) + chunk(dialect.opening())
        if dialect.sends_headers_first:
            writer.write(pending)
            pending = b""
        async for step in _on_time(timetable(self.timing, start_s=start_s, tokens=tokens)):
            if writer.is_closing():
                return
            first, last = halves(dialect.step(step.text)) if self.timing.splits_utf8 else (b"", dialect.step(step.text))
            if first:
                writer.write(pending + chunk(first))
                pending = b""
                await asyncio.sleep(0.001)  # so that the parts travel in packets of their own
            sent.chunks_s.append(time.perf_counter())
            writer.write(pending + chunk(last))
            pending = b""
            sent.tokens += step.tokens
            if self.timing.fail_after_tokens is not None and sent.tokens >= self.timing.fail_after_tokens:
                writer.transport.abort()
                return
            if self.timing.stall_after_tokens is not None and sent.tokens >= self.timing.stall_after_tokens:
                await reader.read()  # until the client has had enough
                return
        sent.end_s = time.perf_counter()
        writer.write(chunk(dialect.closing(tokens, reason, sent.end_s - sent.received_s)) + b"0\r\n\r\n")

    async def _whole(
        self, dialect: Dialect, request: Request, sent: Sent, start_s: float, writer: asyncio.StreamWriter
    ) -> None:
        tokens, reason = self._length(request)
        steps = list(timetable(self.timing, start_s=start_s, tokens=tokens))
        await _sleep_until(steps[-1].due_s)
        sent.end_s = time.perf_counter()
        sent.tokens = tokens
        text = "".join(step.text for step in steps)
        writer.write(plain(HTTPStatus.OK, dialect.whole(text, tokens, reason, sent.end_s - sent.received_s)))

    def _note(self, sent: Sent) -> None:
        if self._times is not None:
            with self._times.open("ab", buffering=0) as sink:
                sink.write(msgspec.json.encode(sent) + b"\n")


async def _on_time(steps: Iterable[Step]) -> AsyncIterator[Step]:
    """Each step when it is due: by the timetable, so that one late step does not delay the rest."""
    for step in steps:
        await _sleep_until(step.due_s)
        yield step


async def _sleep_until(due_s: float) -> None:
    """Never back before `due_s`."""
    await asyncio.sleep(due_s - time.perf_counter())


def _refusal(status: HTTPStatus, message: str, *, path: str) -> bytes:
    error = message if _is_ollama(path) else {"message": message, "code": status.value}
    return plain(status, msgspec.json.encode({"error": error}))


def _is_ollama(path: str) -> bool:
    return path.startswith("/api/")


# ---------------------------------------------------------------- the command


def parser() -> argparse.ArgumentParser:
    """The flags, each with what it is for."""
    flags = argparse.ArgumentParser(prog="python -m harness.engines.reference", description=__doc__)
    add = flags.add_argument
    add("--port", type=int, default=0, help="port on loopback; 0 picks a free one (default 0)")
    add("--model", default="reference", help="name under which the model is listed (default reference)")
    add("--ttft-s", type=float, default=0.2, help="seconds until the first token (default 0.2)")
    add("--itl-s", type=float, default=0.02, help="seconds between tokens (default 0.02)")
    add("--tokens", type=_positive, default=100, help="tokens of an answer without a limit (default 100)")
    add("--tokens-per-chunk", type=_positive, default=1, help="tokens that one chunk carries (default 1)")
    add(
        "--role-chunk",
        dest="has_role_chunk",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open OpenAI streams at once with a chunk that has a role and no text, as vLLM does",
    )
    add(
        "--split-utf8",
        dest="splits_utf8",
        action="store_true",
        help="cut each chunk inside a character, into two packets",
    )
    add(
        "--ignore-max-tokens",
        dest="ignores_max_tokens",
        action="store_true",
        help="answer with --tokens whatever a request asks for",
    )
    add("--fail-after-tokens", type=_positive, help="drop each connection after so many tokens")
    add("--stall-after-tokens", type=_positive, help="send nothing more after so many tokens")
    add("--capacity", type=_positive, help="answers under way at once; further requests queue")
    add("--times", type=Path, help="append to this file what GET /times tells, as each answer ends")
    return flags


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


async def _run(timing: Timing, *, port: int, times: Path | None) -> None:
    server = ReferenceServer(timing, times=times)
    # The backlog must hold all users of a level that connect in one instant.
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(server.connection, HOST, port, backlog=1024)
    bound = listening.sockets[0].getsockname()[1]
    print(f"reference engine ready on http://{HOST}:{bound}", flush=True)  # noqa: T201 - awaited by whoever started it
    await listening.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; SIGTERM keeps its default action, which ends the process at once."""
    flags = parser().parse_args(argv)
    timing = msgspec.convert(vars(flags), Timing)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(timing, port=flags.port, times=flags.times))


if __name__ == "__main__":
    main()
