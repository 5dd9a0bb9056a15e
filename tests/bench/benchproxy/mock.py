"""A vLLM that costs next to nothing: the routes and the bytes of vLLM 0.32, tokens at a fixed pace.

Each token's text holds the `perf_counter_ns` at which it was written: `@123@`. On Linux that clock is
CLOCK_MONOTONIC, the same in every process, so a reader knows how long the token was under way.

`POST /bench/pace` sets what every later answer is: {"tokens": n, "itl_s": x, "first_s": x}. What a request asks for
(max_tokens) plays no part, so that a proxy that drops it is measured with the same load.
"""

import asyncio
import json
import sys
from time import perf_counter_ns

import httptools
import uvloop

MODEL = b"bench"
EVENT_HEAD = (
    b'{"id":"chatcmpl-5c6f1e1c0d4b4f0fa3b2c1d0e9f80716","object":"chat.completion.chunk","created":1795353152,"model":"'
    + MODEL
    + b'","choices":['
)
ROLE = EVENT_HEAD + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
TOKEN = EVENT_HEAD + b'{"index":0,"delta":{"content":" @%d@"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
LAST = (
    EVENT_HEAD
    + b'{"index":0,"delta":{"content":" @%d@"},"logprobs":null,"finish_reason":"length","stop_reason":null,'
    + b'"token_ids":null}]}'
)
USAGE = EVENT_HEAD + b'],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}'
WHOLE = (
    b'{"id":"chatcmpl-5c6f1e1c0d4b4f0fa3b2c1d0e9f80716","object":"chat.completion","created":1795353152,"model":"'
    + MODEL
    + b'","choices":[{"index":0,"message":{"role":"assistant","content":"%s","refusal":null,"annotations":null,'
    + b'"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length",'
    + b'"stop_reason":null,"token_ids":null}],"service_tier":null,"system_fingerprint":null,'
    + b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":null},'
    + b'"prompt_logprobs":null,"prompt_token_ids":null,"kv_transfer_params":null}'
)
MODELS = (
    b'{"object":"list","data":[{"id":"'
    + MODEL
    + b'","object":"model","created":1795353152,"owned_by":"vllm","root":"'
    + MODEL
    + b'","parent":null,"max_model_len":40960,"permission":[]}]}'
)
PROMPT_TOKENS = 12
DATE = b"date: Sun, 22 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    + DATE
    + b"content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STATUS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed"}
CHAT = b"/v1/chat/completions"


class Pace:
    """What every answer is, from the next request on."""

    tokens = 50
    itl_s = 0.02
    first_s = 0.02


def events(*payloads: bytes) -> bytes:
    """Server-sent events, each in an HTTP chunk of its own, as uvicorn writes them."""
    return b"".join(b"%x\r\ndata: %s\n\n\r\n" % (len(payload) + 8, payload) for payload in payloads)


class Connection(asyncio.Protocol):
    """One client: requests one after another, one answer at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.timer: asyncio.TimerHandle | None = None
        self.url = b""
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def connection_lost(self, why: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body = b"", []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, piece: bytes) -> None:
        self.body.append(piece)

    def on_message_complete(self) -> None:
        self.keep = self.parser.should_keep_alive()
        path, method = self.url.partition(b"?")[0], self.parser.get_method()
        if path == CHAT and method == b"POST":
            self.generate(json.loads(b"".join(self.body)))
        elif path == CHAT:
            self.answer(405, b'{"detail":"Method Not Allowed"}')
        elif path == b"/v1/models":
            self.answer(200, MODELS)
        elif path == b"/version":
            self.answer(200, b'{"version":"0.32.0"}')
        elif path == b"/health":
            self.answer(200, b"")
        elif path == b"/bench/pace":
            for name, value in json.loads(b"".join(self.body)).items():
                setattr(Pace, name, value)
            self.answer(200, b"{}")
        else:
            self.answer(404, b'{"detail":"Not Found"}')

    def answer(self, status: int, body: bytes) -> None:
        """A whole answer."""
        head = b"HTTP/1.1 %d %s\r\n%scontent-length: %d\r\ncontent-type: application/json\r\n\r\n"
        self.transport.write(head % (status, STATUS[status], DATE, len(body)) + body)
        self.done()

    def done(self) -> None:
        self.timer = None
        if not self.keep:
            self.transport.close()

    def generate(self, request: dict) -> None:
        """Start the answer: vLLM's headers come at once, its first event with the first token."""
        self.start_s = self.loop.time() + Pace.first_s
        self.tokens, self.itl_s, self.sent = Pace.tokens, Pace.itl_s, 0
        self.wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        if request.get("stream"):
            self.transport.write(STREAM_HEAD)
            self.timer = self.loop.call_at(self.start_s, self.first)
        else:
            self.timer = self.loop.call_at(self.start_s + (self.tokens - 1) * self.itl_s, self.whole)

    def first(self) -> None:
        self.transport.write(events(ROLE))
        self.next()

    def next(self) -> None:
        """Write one token, or several where the pace is 0."""
        while True:
            self.sent += 1
            is_last = self.sent == self.tokens
            self.transport.write(events((LAST if is_last else TOKEN) % perf_counter_ns()))
            if is_last:
                return self.end()
            if self.itl_s:
                self.timer = self.loop.call_at(self.start_s + self.sent * self.itl_s, self.next)
                return None

    def end(self) -> None:
        if self.wants_usage:
            self.transport.write(events(USAGE % (PROMPT_TOKENS, PROMPT_TOKENS + self.tokens, self.tokens)))
        self.transport.write(events(b"[DONE]"))
        self.transport.write(b"0\r\n\r\n")
        self.done()

    def whole(self) -> None:
        text = b" @%d@" % perf_counter_ns() * self.tokens
        self.answer(200, WHOLE % (text, PROMPT_TOKENS, PROMPT_TOKENS + self.tokens, self.tokens))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
