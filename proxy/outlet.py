"""The way to a client: pieces are written in the loop step in which they are made; a slow client pauses vLLM.

ASGI's `send` is a coroutine, yet a server that has room writes at once and never waits. So the first step of each is
taken on the spot; only where it waits (the client reads slower than the model writes) does a task take over, and the
exchange with vLLM is paused until there is room again. Nothing is ever queued without bound.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Protocol

from starlette.types import Message, Scope, Send

from proxy.errors import UpstreamBroke
from proxy.server import ABORT
from proxy.wire import Exchange


def give_up(exchange: Exchange, scope: Scope) -> None:
    """End vLLM's work and the connection of a client that does not read."""
    exchange.end(UpstreamBroke("the client does not read"))
    if (abort := scope.get(ABORT)) is not None:
        abort()


class Source(Protocol):
    """What can be made to wait: the exchange with vLLM."""

    def pause(self) -> None:
        """Bring nothing more for now."""

    def resume(self) -> None:
        """Go on."""


class Outlet:
    """Sends a streamed answer to one client."""

    def __init__(
        self,
        send: Send,
        source: Source,
        *,
        stall_timeout_s: float,
        stalled: Callable[[], None],
        piece_send: Send | None = None,
    ) -> None:
        """`stalled` is called where the client has taken nothing for `stall_timeout_s`: it ends both connections.

        `piece_send` is the server's own `send`, around which middleware has wrapped `send` to see how answers begin:
        pieces of a body, one for every token, need not pass all of it.
        """
        self._send = send
        self._piece_send = piece_send or send
        self._source = source
        self._stall_timeout_s = stall_timeout_s
        self._stalled = stalled
        self._waiting: list[Message] = []
        self._task: asyncio.Task[None] | None = None
        self.has_started = False

    def start(self, status: int, content_type: bytes) -> None:
        """Send status and headers."""
        self.has_started = True
        headers = [(b"content-type", content_type)]
        self._push({"type": "http.response.start", "status": status, "headers": headers}, self._send)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._push({"type": "http.response.body", "body": data, "more_body": True}, self._piece_send)

    async def finish(self) -> None:
        """Send what still waits, and the end; a client that does not take it within the limit is given up."""
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                if self._task is not None:
                    await self._task
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            self._stalled()

    def close(self) -> None:
        """Give up what still waits."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def _push(self, message: Message, send: Send) -> None:
        if self._task is not None:
            self._waiting.append(message)
            return
        step: Any = send(message)
        try:
            obstacle = step.send(None)
        except StopIteration:
            return
        self._source.pause()
        self._task = asyncio.ensure_future(self._drain(step, obstacle))

    async def _drain(self, step: Coroutine[Any, Any, None], obstacle: Any) -> None:
        try:
            async with asyncio.timeout(self._stall_timeout_s) as limit:
                await _rest(step, obstacle)
                while self._waiting:
                    limit.reschedule(asyncio.get_running_loop().time() + self._stall_timeout_s)
                    await self._send(self._waiting.pop(0))
        except TimeoutError:
            self._stalled()
            return
        self._task = None
        self._source.resume()


@coroutine
def _rest(step: Coroutine[Any, Any, None], obstacle: Any) -> Generator[Any, Any, None]:
    """Awaits the rest of a coroutine whose first step was taken outside a task and met `obstacle`, a future."""
    while True:
        thrown: BaseException | None = None
        try:
            yield obstacle
        except BaseException as why:  # noqa: BLE001  (handed on to the coroutine, not handled)
            thrown = why
        try:
            obstacle = step.send(None) if thrown is None else step.throw(thrown)
        except StopIteration:
            return
