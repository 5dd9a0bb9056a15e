"""A client's connection: its requests one after another."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from harness.wire.http import Call, NotHttp, taken


class UnderWay(Protocol):
    """An answer that is not out yet."""

    def close(self) -> None:
        """Its client has gone."""


class Service(Protocol):
    """Who answers."""

    def take(self, call: Call, connection: "Connection", *, received_s: float) -> None:
        """Answer one request, at once or by and by; `connection.ended` says when it is out."""


class Connection(asyncio.Protocol):
    """One client's connection: reads requests and has the server answer one at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._received_s = 0.0
        self._is_reading = False
        self._answer: UnderWay | None = None
        self._is_last = False
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio has a connection for us."""
        self._transport = cast("asyncio.Transport", transport)
        self.write: Callable[[bytes], None] = self._transport.write

    def data_received(self, data: bytes) -> None:
        """Note when it came, and read it later: to read a hundred requests that come at once takes 10 ms."""
        self._received_s = time.perf_counter()
        self._buffer += data
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._read)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has hung up, or we have; what is under way ends here."""
        self.is_lost = True
        if self._answer is not None:
            self._answer.close()

    def begin(self, answer: UnderWay) -> None:
        """Until `ended` this answer has the connection."""
        self._answer = answer

    def ended(self) -> None:
        """The answer is out; on to the next request."""
        self._answer = None
        if self._is_last:
            self.close()
        elif self._buffer:
            self._read()

    def close(self) -> None:
        """Hang up, after what was written is out."""
        self._transport.close()

    def _read(self) -> None:
        self._is_reading = False
        if self._answer is not None or self._transport.is_closing():
            return
        try:
            call = taken(self._buffer)
        except NotHttp:
            self.close()
            return
        if call is not None:
            self._is_last = not call.is_kept_alive
            self._service.take(call, self, received_s=self._received_s)
