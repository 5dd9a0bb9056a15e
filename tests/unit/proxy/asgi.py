"""The application in the test's own process: asked over ASGI, while what stands behind it are real servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from proxy.app import created
from proxy.settings import Settings
from tests.contract.servers import wait_until


@asynccontextmanager
async def application(settings: Settings) -> AsyncIterator[Any]:
    """The application between its start and its end."""
    app: Any = created(settings)
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, heard.put))
    told.put_nowait({"type": "lifespan.startup"})
    assert (await heard.get())["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        told.put_nowait({"type": "lifespan.shutdown"})
        await heard.get()
        await life
        await asyncio.sleep(0.01)  # the sockets close in a step of their own


def answer(settings: Settings, path: str, body: object = None, *, method: str = "POST", **more: Any) -> httpx.Response:
    """What one request is answered."""

    async def run() -> httpx.Response:
        async with application(settings) as app:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                if body is not None:
                    more["json"] = body
                return await client.request(method, path, **more)

    return asyncio.run(run())


def left_by_client(settings: Settings, path: str, body: bytes, *, once: Callable[[], object]) -> list[dict[str, Any]]:
    """What was sent to a client that hangs up as soon as `once` is true."""
    sent: list[dict[str, Any]] = []
    told = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if told:
            return told.pop()
        assert await asyncio.to_thread(wait_until, once)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
             "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http",
             "server": ("localhost", 80), "client": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip

    async def run() -> None:
        async with application(settings) as app:
            await app(scope, receive, send)

    asyncio.run(run())
    return sent
