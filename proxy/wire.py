"""One streamed exchange with vLLM: bytes are pushed to the reader in the loop step in which they arrive.

Written on httptools, the parser of uvicorn, because this is the path that every token takes: httpx with its aiohttp
transport and aiohttp itself both cost more per token than the whole budget (DECISIONS.md has the figures). What is not
per token goes through httpx (`upstream.py`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from proxy.errors import UpstreamBroke, unreachable
from proxy.settings import Settings, UpstreamAddress

log = logging.getLogger(__name__)

IDLE_S = 4.0
"""vLLM's server closes a connection after 5 s without a request (VLLM_HTTP_TIMEOUT_KEEP_ALIVE)."""

STALE_S = 0.5
"""A kept connection that was closing already says so at once; one that is lost later took the request with it."""

MAX_IDLE = 256
MAX_WHOLE_BYTES = 256 * 2**20
"""Of an answer that is read whole; the largest are embeddings of a long list."""


class Exchange:
    """One request and its answer. Ends once: whole, broken, or aborted by us."""

    def __init__(self, connection: "_Connection") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case."""

        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[bool] = loop.create_future()
        """Resolves when status and headers are there: True; or when they never will be: False."""

        self.ended: asyncio.Future[UpstreamBroke | None] = loop.create_future()
        """Resolves with None after the last byte, with the error where the answer broke off."""

        self.got_bytes = False
        self.was_lost = False
        """The connection ended under it, by vLLM's doing and not by ours."""

        self._connection: _Connection | None = connection
        self._sink: Callable[[bytes], None] | None = None
        self._early: list[bytes] = []

    def deliver(self, sink: Callable[[bytes], None]) -> None:
        """Give every piece of the body to `sink`, beginning with what is there already."""
        self._sink = sink
        early, self._early = self._early, []
        if early:
            sink(b"".join(early))

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamBroke where it is cut, or larger than any answer should be."""
        pieces: list[bytes] = []
        size = 0

        def collect(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > MAX_WHOLE_BYTES:
                self.end(UpstreamBroke("the model server's answer is too large"))
                return
            pieces.append(data)

        self.deliver(collect)
        broken = await self.ended
        if broken is not None:
            raise broken
        return b"".join(pieces)

    def pause(self) -> None:
        """Read nothing more from vLLM for now: the client is slower than the model."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()

    def abort(self) -> None:
        """Close the connection at once, which is how vLLM learns that nobody wants the answer."""
        self.end(UpstreamBroke("request canceled"))

    def end(self, broken: UpstreamBroke | None) -> None:
        """Close the books; the connection goes back to the pool after a whole answer, and is cut otherwise."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.release(is_whole=broken is None)
        if not self.answered.done():
            self.answered.set_result(False)
        if not self.ended.done():
            self.ended.set_result(broken)

    def receive(self, data: bytes) -> None:
        """Take a piece of the body from the connection."""
        if self._sink is None:
            self._early.append(data)
        else:
            self._sink(data)


class _Connection(asyncio.Protocol):
    """A connection to vLLM, used for one exchange after another."""

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._pieces: list[bytes] = []
        self._is_complete = False
        self._is_kept = False
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_byte_s = 0.0
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, request: bytes) -> Exchange:
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._is_complete = self._is_kept = False
        exchange = self._exchange = Exchange(self)
        self._transport.write(request)
        if self._wire.read_timeout_s is not None:
            self._last_byte_s = time.monotonic()
            self._watch(self._wire.read_timeout_s)
        return exchange

    def release(self, *, is_whole: bool) -> None:
        exchange, self._exchange = self._exchange, None
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is None:
            return
        if is_whole and exchange is not None and self._is_kept:
            self.resume()
            self._wire.put_back(self)
        else:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._last_byte_s = time.monotonic()
            self._transport.resume_reading()

    def _watch(self, limit_s: float) -> None:
        """End the exchange after `limit_s` of silence; checked once per limit rather than armed per byte."""
        silent_s = 0.0 if self._is_paused else time.monotonic() - self._last_byte_s
        if silent_s >= limit_s and self._exchange is not None:
            self._exchange.end(UpstreamBroke("the model server does not answer in time"))
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(limit_s - silent_s, 0.01), self._watch, limit_s)

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._parser is None:
            self.close()  # vLLM speaks without having been asked
            return
        exchange.got_bytes = True
        if self._timer is not None:
            self._last_byte_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as why:
            log.warning("vLLM's answer is not HTTP: %s", why)
            exchange.end(UpstreamBroke())
            return
        if self._pieces:
            pieces = self._pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            exchange.receive(body)
        if self._is_complete:
            exchange.end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._wire.forget(self)
        exchange = self._exchange
        if exchange is None:
            return
        is_ended_by_close = exchange.answered.done() and not (
            "content-length" in exchange.headers or "transfer-encoding" in exchange.headers
        )
        exchange.was_lost = True
        exchange.end(None if is_ended_by_close and exc is None else UpstreamBroke())

    # ------------------------------------------------------------ httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._parser is not None:
            exchange.status = self._parser.get_status_code()
            if not exchange.answered.done():
                exchange.answered.set_result(True)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_complete = True
        # llhttp forgets it with the next byte.
        self._is_kept = self._parser is not None and self._parser.should_keep_alive()


class Wire:
    """The pool of connections to one vLLM server."""

    def __init__(self, address: UpstreamAddress, settings: Settings) -> None:
        parts = urlsplit(address.url)
        self._host = parts.hostname or "127.0.0.1"
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._is_supervised = settings.is_supervised
        self._connect_timeout_s = settings.connect_timeout_s
        self.read_timeout_s = settings.read_timeout_s
        host = f"[{self._host}]" if ":" in self._host else self._host
        key = settings.upstream_api_key
        self._head = (
            f"host: {host}:{self._port}\r\naccept-encoding: identity\r\n"
            + (f"authorization: Bearer {key}\r\n" if key else "")
        ).encode("latin-1")
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> Exchange:
        """Send a request; comes back with status and headers there, the body still to come (`deliver` or `read`).

        Raises `unreachable` where nothing answers, UpstreamBroke where the connection is lost before an answer.
        A kept connection that is lost at once, unanswered, was closing already: such a request is sent once more.
        """
        head = {"content-type": "application/json", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        request = (
            f"POST {path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n".encode("latin-1")
            + self._head
            + b"\r\n"
            + body
        )
        kept = self._kept()
        if kept is not None:
            began_s = time.monotonic()
            exchange = await self._answered(kept.begin(request))
            is_stale = exchange.was_lost and not exchange.got_bytes and time.monotonic() - began_s < STALE_S
            if not is_stale:
                return _with_status(exchange)
        exchange = await self._answered((await self._connected()).begin(request))
        return _with_status(exchange)

    async def aclose(self) -> None:
        """Close what is idle; exchanges under way are their callers' to abort."""
        for connection in self._idle[:]:
            connection.close()
        self._idle.clear()

    def put_back(self, connection: _Connection) -> None:
        """Keep a connection for the next exchange."""
        if len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection is gone; it may have been waiting in the pool."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _kept(self) -> _Connection | None:
        """The connection used last, if vLLM surely still holds it."""
        now_s = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and now_s - connection.idle_since_s < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=True if self._tls else None
                )
        except (OSError, TimeoutError) as why:
            log.warning("vLLM cannot be reached: %s", why)
            raise unreachable(is_supervised=self._is_supervised) from why
        return connection

    async def _answered(self, exchange: Exchange) -> Exchange:
        try:
            await exchange.answered
        except asyncio.CancelledError:
            exchange.abort()
            raise
        return exchange


def _with_status(exchange: Exchange) -> Exchange:
    """`exchange`, if it has an answer. Raises the reason why it has none."""
    if exchange.status:
        return exchange
    broken = exchange.ended.result() if exchange.ended.done() else None
    raise broken or UpstreamBroke()
