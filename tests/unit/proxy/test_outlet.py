"""Pieces go out at once while the client reads, and wait, with vLLM paused, while it does not."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from proxy.outlet import Outlet


class Source:
    """Counts pauses and resumptions in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")


class Client:
    """ASGI's `send` of a server whose buffer is full until `room` is set."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.got: list[bytes] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if not self.room.is_set():
            await self.room.wait()
        if message["type"] == "http.response.body":
            self.got.append(message["body"])


def test_pieces_leave_in_the_step_in_which_they_come() -> None:
    async def go() -> None:
        client, source = Client(), Source()
        client.room.set()
        outlet = Outlet(client.send, source, stall_timeout_s=1, stalled=lambda: None)
        outlet.start(200, b"text/plain")
        outlet.write(b"a")
        assert client.got == [b"a"]
        assert source.told == []

    asyncio.run(go())


def test_a_slow_client_pauses_the_source_and_gets_everything_in_order() -> None:
    async def go() -> None:
        client, source = Client(), Source()
        outlet = Outlet(client.send, source, stall_timeout_s=5, stalled=lambda: None)
        outlet.start(200, b"text/plain")
        for piece in (b"a", b"b", b"c"):
            outlet.write(piece)
        await asyncio.sleep(0.01)
        assert (client.got, source.told) == ([], ["pause"])
        client.room.set()
        await outlet.finish()
        assert client.got == [b"a", b"b", b"c", b""]
        assert source.told == ["pause", "resume"]
        client.room.clear()
        outlet.write(b"d")
        client.room.set()
        await asyncio.sleep(0.01)
        assert client.got[-1] == b"d"

    asyncio.run(go())


def test_a_client_that_takes_nothing_is_given_up() -> None:
    async def go() -> None:
        stalled = asyncio.Event()
        outlet = Outlet(Client().send, Source(), stall_timeout_s=0.05, stalled=stalled.set)
        outlet.write(b"a")
        await asyncio.wait_for(stalled.wait(), 2)

    asyncio.run(go())


def test_closing_gives_up_what_still_waits() -> None:
    async def go() -> None:
        client = Client()
        outlet = Outlet(client.send, Source(), stall_timeout_s=5, stalled=lambda: None)
        outlet.write(b"a")
        outlet.write(b"b")
        outlet.close()
        client.room.set()
        await asyncio.sleep(0.01)
        assert client.got == []

    asyncio.run(go())
