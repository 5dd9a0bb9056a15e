"""A client that goes away ends its request: in every phase, and at once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work`; whether it ended by itself, and not because the client closed its connection.

    ASGI tells of a closed connection only those who ask, so a task asks all the while. `work` is cancelled wherever it
    waits: for vLLM's headers, for a token, for a slow client. The body of the request must have been read before.
    """
    me = asyncio.current_task()
    assert me is not None
    before = me.cancelling()
    is_over = False

    def cancel(_: "asyncio.Task[None]") -> None:
        if not is_over:
            me.cancel()

    gone = asyncio.ensure_future(_disconnected(receive))
    gone.add_done_callback(cancel)
    try:
        await work
    except asyncio.CancelledError:
        if not gone.done() or gone.cancelled():
            raise
        if me.uncancel() > before:
            raise  # somebody else has cancelled us as well
        if (why := gone.exception()) is not None:
            raise why from None
        return False
    finally:
        is_over = True
        gone.cancel()
    return True


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
