"""`harness worker`, and the options that let other machines send a part of the load."""

import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import click

from harness import worker
from harness.cli.common import Duration, cli, options, output_options, say
from harness.errors import UsageError
from harness.records import Fleet

HOST = re.compile(r"(?!-)[A-Za-z0-9._@:\[\]-]+")
PORT = 5557
"""Locust's own."""

fleet_options = options(
    click.option("--workers", "hosts", metavar="HOST,HOST", help="Machines that send the load, started over ssh."),
    click.option("--expect-workers", type=click.IntRange(1), help="Wait for so many `harness worker` instead."),
    click.option("--bind", help="This machine's address, as the workers reach it. Anyone who does can join."),
    click.option("--bind-port", type=click.IntRange(1, 65_535), default=PORT, show_default=True, help="Its port."),
)


def fleet_of(
    *, hosts: str | None, expect_workers: int | None, bind: str | None, bind_port: int, url: str | None
) -> Fleet | None:
    """What the options name. None: this machine sends the load itself. Raises: UsageError."""
    if hosts is None and expect_workers is None:
        if bind is not None:
            raise UsageError("--bind goes with --workers or --expect-workers", hint="leave it out")
        return None
    if hosts is not None and expect_workers is not None:
        raise UsageError("name either --workers or --expect-workers, not both", hint="--workers starts them over ssh")
    if url is None or is_loopback(urlsplit(url).hostname or ""):
        raise UsageError(
            "other machines cannot reach an engine on this one's loopback address",
            hint="start the server on an address that they reach, and name it: --url http://10.0.0.1:8000",
        )
    if bind is None:
        raise UsageError("the workers must know where to find this machine", hint="--bind 10.0.0.1")
    names = tuple(name for name in (hosts or "").split(",") if name)
    if hosts is not None and (not names or not all(HOST.fullmatch(name) for name in names)):
        raise UsageError(f"--workers {hosts!r} is no list of hosts", hint="--workers host1,host2")
    return Fleet(bind=bind, port=bind_port, workers=expect_workers or len(names), hosts=names)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Address(click.ParamType[tuple[str, int]]):
    """10.0.0.1:5557."""

    name = "HOST[:PORT]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Locust's port where none is named."""
        if isinstance(value, tuple):
            return value
        try:
            parts = urlsplit(f"//{value}")
            host, port = parts.hostname, parts.port or PORT
        except ValueError:
            host, port = None, PORT
        if not host:
            self.fail(f"{value!r} is not an address such as 10.0.0.1:{PORT}", param, ctx)
        return host, port


@cli.command("worker")
@output_options
@click.option("--master", type=Address(), required=True, help="Where `harness bench --bind` listens.")
@click.option(
    "--idle", "idle_s", type=Duration(), default="30m", show_default=True, help="End when no load came so long."
)
@click.option("--ends-with-stdin", is_flag=True, help="End when stdin is closed, as under ssh.")
def worker_command(
    *, is_json: bool, results: object, master: tuple[str, int], idle_s: float, ends_with_stdin: bool
) -> int:
    """Send a part of the load that `harness bench --expect-workers` on another machine asks for.

    Both sides trust each other: whoever reaches the master's port can join, and a worker sends what a master tells it.
    """
    del is_json, results
    host, port = master
    worker.work(host, port, idle_s=idle_s, ends_with_stdin=ends_with_stdin, say=say)
    return 0
