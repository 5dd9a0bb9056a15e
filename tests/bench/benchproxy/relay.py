"""The floor: a bare TCP relay on uvloop, which looks at nothing. `python -m benchproxy.relay UPSTREAM_PORT`.

What it adds, this machine charges for any process between client and server.
"""

import asyncio
import sys

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections: what it reads goes out at the other."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other:
            self.other.write(data)
        else:
            self.early.append(data)

    def connection_lost(self, why: Exception | None) -> None:
        if self.other:
            self.other.close()


class Client(Side):
    """The client's side, which opens the other one."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self.upstream_port = upstream_port

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.opening = asyncio.get_running_loop().create_task(self.join())

    async def join(self) -> None:
        loop = asyncio.get_running_loop()
        transport, upstream = await loop.create_connection(Side, "127.0.0.1", self.upstream_port)
        self.other, upstream.other = transport, self.transport
        if self.transport.is_closing():
            transport.close()
        for piece in self.early:
            transport.write(piece)


async def serve(upstream_port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Client(upstream_port), "127.0.0.1", 0, backlog=4096)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
