"""An HTTP client that sends anything."""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

ANSWER_WITHIN_S = 20.0


class Asked(NamedTuple):
    """One request, as it goes over the wire."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    is_chunked: bool = False

    def wire(self) -> bytes:
        head = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        if not any(name.lower() == b"host" for name, _ in self.headers):
            head.append(b"host: localhost")
        head += [b"%b: %b" % header for header in self.headers]
        if self.is_chunked:
            sizes = (1, 7, 4096)
            pieces, at = [], 0
            while at < len(self.body):
                piece = self.body[at : at + sizes[len(pieces) % 3]]
                pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
                at += len(piece)
            return b"\r\n".join([*head, b"transfer-encoding: chunked", b"", b"".join([*pieces, b"0\r\n\r\n"])])
        return b"\r\n".join([*head, b"content-length: %d" % len(self.body), b"", self.body])

    @property
    def path(self) -> str:
        return re.split(rb"[?#]", self.target)[0].decode("latin-1")


class Answered(NamedTuple):
    """What came back; status 0: the connection was closed without a word."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


# ---------------------------------------------------------------- the client


class Client:
    """Sends each list of requests over connections that it keeps, one request at a time on each."""

    def __init__(self, address: tuple[str, int], *, connections: int) -> None:
        self._address = address
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._runner = asyncio.Runner()
        self._room = connections
        self.sent = 0

    def answers(self, requests: Sequence[Asked]) -> list[Answered]:
        """The answers, in the order of the requests."""
        return self._runner.run(self._all(requests))

    def close(self) -> None:
        self._runner.run(self._closed())
        self._runner.close()

    async def _all(self, requests: Sequence[Asked]) -> list[Answered]:
        room = asyncio.Semaphore(self._room)

        async def one(asked: Asked) -> Answered:
            async with room, asyncio.timeout(ANSWER_WITHIN_S):
                return await self._one(asked)

        return await asyncio.gather(*(one(asked) for asked in requests))

    async def _one(self, asked: Asked) -> Answered:
        is_used = bool(self._idle)
        reader, writer = self._idle.pop() if self._idle else await self._connected()
        self.sent += 1
        answered, is_kept = Answered(0, {}, b""), False
        try:
            writer.write(asked.wire())
            answered, is_kept = await read_answer(reader, is_head=asked.method == b"HEAD")
        except (ConnectionError, asyncio.IncompleteReadError):
            if is_used:  # an idle connection that the server was about to close
                writer.close()
                return await self._one(asked)
        if is_kept and answered.headers.get("connection", "").lower() != "close":
            self._idle.append((reader, writer))
        else:
            writer.close()
        return answered

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._address, limit=2**20)

    async def _closed(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
        self._idle.clear()


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool) -> tuple[Answered, bool]:
    """The next answer, and whether the connection can be used again."""
    while True:
        status, headers = read_head(await reader.readuntil(b"\r\n\r\n"))
        if status >= 200:
            break
    if is_head or status in (204, 304):
        return Answered(status, headers, b""), True
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return Answered(status, headers, b"".join(pieces)), True
    if "content-length" in headers:
        return Answered(status, headers, await reader.readexactly(int(headers["content-length"]))), True
    return Answered(status, headers, await reader.read()), False


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = (header.partition(":") for header in lines if header)
    return int(line.split()[1]), {name.lower(): value.strip() for name, _, value in headers}
