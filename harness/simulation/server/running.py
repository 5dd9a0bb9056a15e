"""One server from its command line to its end."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

from harness.simulation import build
from harness.simulation.machine import PARSE_S, Crashed, Machine, Server
from harness.simulation.server import told
from harness.simulation.server.live import Live
from harness.simulation.server.options import Given, Options, given
from harness.simulation.server.service import Service
from harness.simulation.settings import Refused
from harness.simulation.startup import load_s
from harness.wire.connection import Connection
from harness.wire.ticker import Ticker

PRECISION: Final = "bf16"
"""Of weights that nobody quantized."""
BACKLOG: Final = 2048
FAREWELL_S: Final = 0.2
"""Between the engine's death and the server's: its clients read why."""


def run(options: Options, words: Sequence[str]) -> int:
    """A simulated vLLM with this command line of vLLM's, until it is told to end. Returns the exit code.

    Raises:  SystemExit, of argparse, where it refuses the command line.
    """
    asked = given(words)
    version = build.version_of(options.simulation.profile.name, speed=options.speed)
    told.simulated(options)
    told.parsed(asked)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((asked.host, asked.port))
        except OSError as error:
            told.write(f"Traceback (most recent call last):\nOSError: [Errno {error.errno}] {error.strerror}")
            return 1
        began_s, machine = time.perf_counter(), Machine(options.simulation)

        def wait(until_s: float) -> None:
            left_s = until_s / options.launch_speed - (time.perf_counter() - began_s)
            time.sleep(max(0.0, left_s))

        try:
            server = machine.launch(asked.flags, precision=PRECISION)
        except Refused as refusal:
            wait(machine.now_s)
            return told.refused(refusal.log_text)
        wait(PARSE_S)
        told.configured(server, asked, version=version)
        wait(load_s(server.plan))
        told.loaded(server)
        wait(server.launch_s)
        told.cached(server)
        return asyncio.run(_serve(server, asked, listening=listening, speed=options.speed, version=version))


async def _serve(server: Server, asked: Given, *, listening: socket.socket, speed: float, version: str) -> int:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not end.done():
            end.set_result(code)

    def die(crash: Crashed) -> None:
        told.crashed(crash.log_text)
        loop.call_later(FAREWELL_S, stop, 1)

    live = Live(server, speed=speed, ticker=Ticker(loop), on_death=die)
    is_developed = os.environ.get("VLLM_SERVER_DEV_MODE", "0") == "1"
    service = Service(live, asked, version=version, is_developed=is_developed)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, 0)
    await loop.create_server(lambda: Connection(service), sock=listening, backlog=BACKLOG)
    told.ready(asked)
    code = await end
    told.stopped(live)
    return code
