"""HTTP/1.1 by hand: requests are read, and answers written or broken off, byte by byte."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple

from vllm_dialect import Json


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        """The JSON; text where it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return self.content.decode(errors="replace")


class Left(Exception):
    """The connection is over, by our own doing."""


class Out:
    """The answer's way to the client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.split_bytes = 0

    async def send(self, data: bytes) -> None:
        step = self.split_bytes or len(data) or 1
        for at in range(0, len(data), step):
            self.writer.write(data[at : at + step])
            await self.writer.drain()
            if self.split_bytes:
                await asyncio.sleep(0)

    async def head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"date: {formatdate(usegmt=True)}",
            "server: uvicorn",
        ]
        lines += [f"{name}: {value}" for name, value in {"content-type": content_type, **headers}.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def whole(
        self, status: int, body: object, *, content_type: str = "application/json", headers: Json | None = None
    ) -> None:
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        content = text.encode()
        await self.head(status, content_type, {"content-length": str(len(content)), **(headers or {})})
        await self.send(content)

    async def chunk(self, content: bytes) -> None:
        if content:
            await self.send(b"%x\r\n%b\r\n" % (len(content), content))

    def end(self, how: str) -> None:
        """Closes now; `reset`: the client's next read fails instead of ending."""
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(1, 13, linger)
            self.writer.transport.abort()
        raise Left


async def read_request(reader: asyncio.StreamReader, ahead: bytes) -> Asked | None:
    """The next request; None where the client has closed."""
    line = ahead + await reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split()
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        content = b"".join([chunk async for chunk in chunks_of(reader)])
    else:
        content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, target.partition("?")[0], headers, content)


async def chunks_of(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
