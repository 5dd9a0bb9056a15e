"""uvicorn's HTTP protocol with what it lacks towards strangers: bounds on a request's head, and a way to hang up."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT: Final = "proxy.abort"
"""Where the scope holds the function that cuts the client's connection at once; ASGI has no word for it."""

MAX_HEAD_BYTES: Final = 128 * 2**10
"""Twice what `guard` answers with 431: beyond this nobody is answered."""

HEAD_TIMEOUT_S: Final = 30.0
"""From connecting, or from a request's first byte, to the end of its head."""


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES + len(data):  # the last read may hold the body's beginning
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._is_in_head:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        if self.cycle is not None and not self.cycle.response_complete:
            # uvicorn would stop reading, and so never see that the client has left.
            raise ValueError("a request before the answer to the last one")
        super().on_headers_complete()
        self.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def _await_head(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
