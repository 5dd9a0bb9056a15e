"""The streaming client against a server of real sockets: reuse, loss, aborts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.errors import UpstreamBroke, UpstreamUnreachable
from proxy.settings import Settings, UpstreamAddress
from proxy.wire import Wire

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next of `answers`, the last one for ever; counts what happens to it."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.lost = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                self.asked.set()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                await answer(self.requests[-1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[Wire]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    address = UpstreamAddress(url=f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    wire = Wire(address, Settings(upstreams=(address,), upstream_api_key="secret"))
    try:
        yield wire
    finally:
        await wire.aclose()
        listener.close()
        await asyncio.sleep(0)


def says(data: bytes) -> Answer:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


async def hangs_up(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError


async def never_ends(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED + b"3\r\nabc\r\n")
    await writer.drain()


async def never_answers(_: bytes, _writer: asyncio.StreamWriter) -> None:
    return


def test_a_request_carries_our_key_and_body_and_the_answer_is_read_whole() -> None:
    async def go() -> None:
        server = Server(says(WHOLE))
        async with served(server) as wire:
            exchange = await wire.post("/v1/x", b'{"a":1}')
            assert (exchange.status, await exchange.read()) == (200, b"ok")
            (request,) = server.requests
            assert request.startswith(b"POST /v1/x HTTP/1.1\r\n")
            assert b"authorization: Bearer secret\r\n" in request
            assert request.endswith(b'\r\n\r\n{"a":1}')

    asyncio.run(go())


def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async def go() -> None:
        server = Server(says(CHUNKED + b"1\r\na\r\n0\r\n\r\n"), says(WHOLE))
        async with served(server) as wire:
            assert await (await wire.post("/a", b"")).read() == b"a"
            assert await (await wire.post("/b", b"")).read() == b"ok"
            assert server.connections == 1

    asyncio.run(go())


def test_a_kept_connection_that_dies_unanswered_costs_no_request() -> None:
    async def go() -> None:
        server = Server(says(WHOLE), hangs_up, says(WHOLE))
        async with served(server) as wire:
            await (await wire.post("/a", b"")).read()
            assert await (await wire.post("/b", b"")).read() == b"ok"
            assert server.connections == 2

    asyncio.run(go())


def test_a_new_connection_that_dies_unanswered_is_an_error() -> None:
    async def go() -> None:
        async with served(Server(hangs_up)) as wire:
            with pytest.raises(UpstreamBroke):
                await wire.post("/a", b"")

    asyncio.run(go())


def test_nobody_listening_is_said_without_the_address() -> None:
    async def go() -> None:
        async with served(Server(says(WHOLE))) as wire:
            pass
        with pytest.raises(UpstreamUnreachable) as caught:
            await wire.post("/a", b"")
        assert "127.0.0.1" not in caught.value.text

    asyncio.run(go())


@pytest.mark.parametrize(
    "cut", [CHUNKED + b"5\r\nab", CHUNKED + b"2\r\nab\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"]
)
def test_an_answer_that_is_cut_breaks(cut: bytes) -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(cut)
        writer.close()
        raise ConnectionResetError

    async def go() -> None:
        async with served(Server(answer)) as wire:
            exchange = await wire.post("/a", b"")
            with pytest.raises(UpstreamBroke):
                await exchange.read()

    asyncio.run(go())


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()
        raise ConnectionResetError

    async def go() -> None:
        async with served(Server(answer)) as wire:
            assert await (await wire.post("/a", b"")).read() == b"all of it"

    asyncio.run(go())


def test_what_is_not_http_breaks() -> None:
    async def go() -> None:
        async with served(Server(says(b"hello there\r\n\r\n"))) as wire:
            with pytest.raises(UpstreamBroke):
                await wire.post("/a", b"")

    asyncio.run(go())


def test_an_abort_closes_the_connection_at_once() -> None:
    async def go() -> None:
        server = Server(never_ends)
        async with served(server) as wire:
            exchange = await wire.post("/a", b"")
            exchange.abort()
            await asyncio.wait_for(server.lost.wait(), 0.5)
            assert isinstance(exchange.ended.result(), UpstreamBroke)

    asyncio.run(go())


def test_cancelling_the_wait_for_headers_closes_the_connection_at_once() -> None:
    async def go() -> None:
        server = Server(never_answers)
        async with served(server) as wire:
            task = asyncio.create_task(wire.post("/a", b""))
            await server.asked.wait()
            task.cancel()
            await asyncio.wait_for(server.lost.wait(), 0.5)

    asyncio.run(go())


def test_silence_beyond_the_read_timeout_breaks_the_answer() -> None:
    async def go() -> None:
        async with served(Server(never_ends)) as wire:
            wire.read_timeout_s = 0.05
            exchange = await wire.post("/a", b"")
            with pytest.raises(UpstreamBroke, match="in time"):
                await asyncio.wait_for(exchange.read(), 2)

    asyncio.run(go())
