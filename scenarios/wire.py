"""One connection to a server: a request goes out, its answer comes in piece by piece, each with its moment.

The answer is read where the event loop says that bytes are there, and not by the greenlet that waits for it: no token
waits for the turn of a greenlet before it is timed, and none costs two switches between greenlets and a read in vain.
"""

import contextlib
import functools
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import gevent.socket
import gevent.ssl
from gevent.event import AsyncResult
from gevent.hub import get_hub
from gevent.monkey import get_original
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPResponse

Clock = Callable[[], float]

READ_BYTES: Final = 16 * 1024
READABLE: Final = 1
"""gevent's mark for a watcher of incoming bytes."""


class Sink(Protocol):
    """Where an answer goes. What it raises ends the request and is raised by `post`."""

    def headers(self, status: int, now_s: float) -> None: ...
    def body(self, piece: bytes, now_s: float) -> None: ...


class StaleConnection(Exception):
    """The server closed a kept connection just as it was used again: not a byte of an answer came."""


class Transport(Protocol):
    """One user's way to the server: `open`, which tells whether a new connection had to be made, then `post`.

    `post` returns with the answer's last byte. It raises StaleConnection on a connection that had been used before,
    never on a new one.
    """

    def open(self) -> bool: ...
    def post(self, path: str, body: bytes, sink: Sink) -> None: ...


class Connection:
    """A user's connection, kept from one request to the next as long as the server keeps it."""

    def __init__(self, url: str, *, timeout_s: float, clock: Clock = time.perf_counter) -> None:
        parts = urlsplit(url)
        self._is_secure = parts.scheme == "https"
        self._address = parts.hostname or "", parts.port or (443 if self._is_secure else 80)
        host, port = self._address
        self._prefix = parts.path.rstrip("/")
        self._host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._timeout_s, self._clock = timeout_s, clock
        self._socket: Any = None
        self._is_used = False

    def open(self) -> bool:
        """Have a connection that stands, a new one where the server has closed the old one.

        All waiting is done here: what follows `open` is sent at once.
        Returns:  whether it is a new one.
        """
        if self._socket is not None and not _is_silent(self._socket):
            self.close()
        is_new = self._socket is None
        if is_new:
            self._socket = self._connected()
        return is_new

    def post(self, path: str, body: bytes, sink: Sink) -> None:
        """Send one request and give its answer to `sink` as it comes."""
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: vllm-harness\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        reading = _Reading(self._socket, sink, clock=self._clock, is_secure=self._is_secure)
        was_used, self._is_used = self._is_used, True
        is_kept = False
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(head.encode("ascii") + body)
            self._socket.settimeout(0)
            reading.run()
            is_kept = not reading.should_close()
        except (ConnectionError, HTTPConnectionClosed):
            if was_used and not reading.has_begun:
                raise StaleConnection from None
            raise
        finally:
            if not is_kept:
                self.close()

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._is_used = None, False

    def _connected(self) -> Any:
        connected = gevent.socket.create_connection(self._address, self._timeout_s)
        # Or the end of a prompt of several packets waits for the first ones to be acknowledged.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _tls().wrap_socket(connected, server_hostname=self._address[0]) if self._is_secure else connected


def connect(transport: Transport) -> None:
    """Have the connection stand before anything is timed.

    A hundred that are opened in one instant cost tens of milliseconds. A server that cannot be reached
    is the matter of the request that follows.
    """
    with contextlib.suppress(OSError):
        transport.open()


@functools.cache
def _tls() -> Any:
    """One for the process: each costs tens of milliseconds of reading certificates."""
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which asks for a certificate of that name
    context.load_default_certs()
    return context


def _is_silent(connected: Any) -> bool:
    """Whether nothing has come since the last answer: what does come then is the server hanging up."""
    look = get_original("select", "poll")()  # gevent's own would give the turn to another greenlet
    look.register(connected.fileno(), select.POLLIN)
    return not look.poll(0)


class _Reading(HTTPResponse):  # type: ignore[misc]  # geventhttpclient is untyped
    """One answer on its way in."""

    def __init__(self, connected: Any, sink: Sink, *, clock: Clock, is_secure: bool) -> None:
        super().__init__(method="POST")
        self.has_begun = False
        """A byte of it has come."""
        # Without TLS straight from the kernel: gevent's way there costs a tenth of what a token costs.
        self._receive = connected.recv if is_secure else functools.partial(os.read, connected.fileno())
        self._sink, self._clock, self._is_secure = sink, clock, is_secure
        self._is_told = False
        self._end = AsyncResult()
        self._watcher = get_hub().loop.io(connected.fileno(), READABLE)

    def run(self) -> None:
        """Wait for the end of the answer. Raises what went wrong on the way."""
        self._watcher.start(self._on_bytes)
        try:
            self._end.get()
        finally:
            self._watcher.stop()
            self._watcher.close()

    def _on_bytes(self) -> None:
        """Called by the event loop, where nothing may be raised and nothing may wait."""
        try:
            while self._take(self._receive(READ_BYTES), self._clock()):
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except Exception as error:  # noqa: BLE001 - goes to the greenlet that waits
            self._watcher.stop()
            self._end.set_exception(error)

    def _take(self, data: bytes, now_s: float) -> bool:
        """Pass on what came. Returns whether there may be more that no event will tell of."""
        if not data and not self.has_begun:
            raise HTTPConnectionClosed("connection closed.")
        self.has_begun = True
        try:
            self.feed(data)
        finally:
            self._tell(now_s)
        if self.message_complete and self._is_told:
            self._watcher.stop()
            self._end.set(None)
            return False
        if not data:
            raise HTTPParseError("connection closed before end of the headers")
        return self._is_secure

    def _tell(self, now_s: float) -> None:
        if not self._is_told and self.headers_complete and self.get_code() >= HTTPStatus.OK:
            self._is_told = True
            self._sink.headers(self.get_code(), now_s)
        if self._body_buffer:
            piece = bytes(self._body_buffer)
            self._body_buffer.clear()
            self._sink.body(piece, now_s)
