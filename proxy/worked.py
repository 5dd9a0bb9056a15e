"""What all answers that vLLM works for have in common: admission, a client that may leave, and the tidying up after."""

import logging
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.answers import error_response
from proxy.departure import unless_client_leaves
from proxy.errors import OllamaError
from proxy.outlet import Outlet
from proxy.wire import Exchange

if TYPE_CHECKING:
    from proxy.app import Proxy

log = logging.getLogger(__name__)


class Worked(Response):
    """An answer that is asked of vLLM while somebody still waits for it; vLLM's work ends with the client's stay."""

    def __init__(self, proxy: "Proxy") -> None:
        super().__init__()
        self._proxy = proxy
        self._exchange: Exchange | None = None
        self._outlet: Outlet | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work() -> None:
            try:
                async with self._proxy.admitted():
                    await self._answer(scope, receive, send)
            except OllamaError as why:
                if self._outlet is None or not self._outlet.has_started:
                    await self._refused(why)(scope, receive, send)
                    return
                self._outlet.write(self._broken_off(why))
                await self._outlet.finish()

        try:
            if not await unless_client_leaves(receive, work()):
                log.debug("a client left: request canceled")
        finally:
            self._over()
            if self._exchange is not None:
                self._exchange.abort()
            if self._outlet is not None:
                self._outlet.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask vLLM, and send what it says. Raises OllamaError, before or after the first piece was sent."""
        raise NotImplementedError

    def _refused(self, why: OllamaError) -> Response:
        """The whole answer to a request that failed before any of its answer was sent."""
        return error_response(why.status, why.text)

    def _broken_off(self, why: OllamaError) -> bytes:
        """The last piece of a streamed answer that failed within."""
        raise NotImplementedError

    def _over(self) -> None:
        """The request has ended, however it did."""
