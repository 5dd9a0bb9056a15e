"""`python -m proxy`, which is also `harness proxy`: flags → Settings, checks that name what to do, uvicorn."""

import contextlib
import ctypes
import errno
import gc
import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from proxy.app import created
from proxy.errors import OllamaError
from proxy.guard import is_loopback
from proxy.names import parsed
from proxy.schemas import parsed_keep_alive
from proxy.server import Protocol
from proxy.settings import Settings, UpstreamAddress

PROGRAM = os.environ.get("PROXY_PROG", "python -m proxy")
BACKLOG = 2048
PR_SET_PDEATHSIG = 1
SETTINGS_VARIABLE = "PROXY_SETTINGS"
"""Where a worker process reads what the first one was told: a file, since it may hold keys."""


def upstream_address(text: str) -> UpstreamAddress:
    """`[NAME=]URL`, checked. Raises click.BadParameter."""
    name, separator, url = text.rpartition("=") if "=" in text.split("://", 1)[0] else ("", "", text)
    if not separator:
        url = text
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as why:
        raise click.BadParameter(f"{url} is no http://host:port: {why}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter(f"{url} is no http://host:port")
    if parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment or "@" in parts.netloc:
        raise click.BadParameter(f"{url}: only scheme, host and port, without path, query or password")
    if name and parsed(name) is None:
        raise click.BadParameter(f"{name} is no model name as Ollama knows them, such as qwen2.5:1.5b")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return UpstreamAddress(
        url=f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}", name=name or None
    )


def key_in(path: Path | None) -> str | None:
    """The key in a file, without the line's end. Raises click.BadParameter where there is none."""
    if path is None:
        return None
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as why:
        raise click.BadParameter(f"{path} cannot be read: {why}") from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise click.BadParameter(f"{path} holds no key: one line of printable ASCII without blanks")
    return key


def capabilities_of(pairs: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`NAME=a,b` pairs. Raises click.BadParameter."""
    known = ("completion", "tools", "insert", "vision", "embedding", "thinking")
    found = {}
    for pair in pairs:
        name, separator, listed = pair.rpartition("=")
        words = tuple(word for word in listed.split(",") if word)
        if not separator or parsed(name) is None or not words or any(word not in known for word in words):
            raise click.BadParameter(f"{pair}: expected NAME=… with some of {', '.join(known)}")
        found[name] = words
    return found


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    required=True,
    metavar="[NAME=]URL",
    help="A running vLLM server, as http://host:port. With NAME= clients see its model under that name. Repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=11434, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes; one carries some 10,000 tokens a second.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Ask clients for the key in this file (Authorization: Bearer).",
)
@click.option("--upstream-api-key-file", type=click.Path(path_type=Path), help="The key that vLLM asks for.")
@click.option(
    "--origins",
    multiple=True,
    metavar="ORIGIN",
    help="Browser origin to allow beside Ollama's own list; * is a wildcard. Repeatable.",
)
@click.option(
    "--allow-admin/--no-allow-admin",
    default=None,
    help="copy, create, delete and pull  [default: only while bound to loopback]",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where aliases are kept  [default: in memory]")
@click.option(
    "--keep-alive", default="5m", show_default=True, help="Told by /api/ps where a request names none; -1s is for ever."
)
@click.option(
    "--defaults",
    "sampling_defaults",
    default="ollama",
    show_default=True,
    type=click.Choice(["ollama", "model"]),
    help="Sampling where a request names none: Ollama's (temperature 0.8, …), or the model's own.",
)
@click.option(
    "--num-ctx",
    default="ignore",
    show_default=True,
    type=click.Choice(["ignore", "reject"]),
    help="A request's num_ctx, which vLLM fixes at its start.",
)
@click.option(
    "--capabilities",
    multiple=True,
    metavar="NAME=a,b",
    help="Capabilities of a model, in place of those found out. Repeatable.",
)
@click.option(
    "--max-requests",
    default=2048,
    show_default=True,
    type=click.IntRange(1),
    help="Requests to vLLM at a time; one more gets 503.",
)
@click.option(
    "--max-body-mib", default=64.0, show_default=True, type=click.FloatRange(0.001), help="Largest body of a request."
)
@click.option(
    "--body-timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="For a client to send its body.",
)
@click.option(
    "--stall-timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="For a client to take what it was sent.",
)
@click.option(
    "--read-timeout",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Longest silence of vLLM within an answer  [default: none]",
)
@click.option(
    "--version",
    "told_version",
    default="0.33.0",
    show_default=True,
    help="The version of Ollama that /api/version tells.",
)
def main(
    *,
    upstreams: tuple[str, ...],
    host: str,
    port: int,
    workers: int,
    api_key_file: Path | None,
    upstream_api_key_file: Path | None,
    origins: tuple[str, ...],
    allow_admin: bool | None,
    state_dir: Path | None,
    keep_alive: str,
    sampling_defaults: str,
    num_ctx: str,
    capabilities: tuple[str, ...],
    max_requests: int,
    max_body_mib: float,
    body_timeout: float,
    stall_timeout: float,
    read_timeout: float | None,
    told_version: str,
) -> None:
    """Ollama's HTTP API in front of vLLM: clients of Ollama change a port and nothing else."""
    try:
        seconds = parsed_keep_alive(keep_alive)
    except OllamaError as why:
        raise click.BadParameter(why.text, param_hint="--keep-alive") from None
    addresses = tuple(upstream_address(text) for text in upstreams)
    names = [address.name.lower() for address in addresses if address.name]
    if len(set(names)) != len(names):
        raise click.BadParameter("two servers cannot have one name", param_hint="--upstream")
    if not all(math.isfinite(value) for value in (max_body_mib, body_timeout, stall_timeout, read_timeout or 0.0)):
        raise click.UsageError("limits of size and time are finite numbers")
    if state_dir is not None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise click.BadParameter(f"{state_dir}: {why.strerror}", param_hint="--state-dir") from None
    settings = Settings(
        upstreams=addresses,
        is_supervised=os.environ.get("PROXY_SUPERVISED") == "1",
        host=host,
        port=port,
        workers=workers,
        api_key=key_in(api_key_file),
        upstream_api_key=key_in(upstream_api_key_file),
        origins=origins,
        allow_admin=allow_admin,
        state_dir=state_dir,
        keep_alive_s=-1.0 if seconds is None or math.isinf(seconds) else seconds,
        sampling_defaults=sampling_defaults,
        num_ctx=num_ctx,
        capabilities=capabilities_of(capabilities),
        version=told_version,
        max_body_bytes=round(max_body_mib * 2**20),
        max_requests=max_requests,
        body_timeout_s=body_timeout,
        stall_timeout_s=stall_timeout,
        read_timeout_s=read_timeout,
    )
    if not is_loopback(host) and settings.api_key is None:
        click.echo(f"warning: whoever reaches {host}:{port} may use this server: no --api-key-file was given", err=True)
    serve(settings)


def serve(settings: Settings) -> None:
    """Listen, tell where, and answer until a signal ends it."""
    try:
        listener = listening_socket(settings.host, settings.port)
    except OSError as why:
        click.echo(f"error: cannot listen on {settings.host}:{settings.port}: {why.strerror or why}", err=True)
        taken = "is Ollama running there? Stop it, or choose another port with --port"
        hint = taken if why.errno == errno.EADDRINUSE else "--host takes an address of this machine, --port a free port"
        click.echo(f"hint: {hint}", err=True)
        sys.exit(3)
    set_up_logging()
    with tempfile.TemporaryDirectory(prefix="ollama-proxy-") as runtime:
        os.environ["PROXY_RUNTIME_DIR"] = runtime
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        if settings.workers == 1:
            _run(settings, listener, address)
        else:
            told = Path(runtime) / "settings.json"
            told.touch(mode=0o600)
            told.write_bytes(msgspec.json.encode(settings))
            os.environ[SETTINGS_VARIABLE] = str(told)
            click.echo(f"listening on {address}")
            sys.stdout.flush()
            Multiprocess(_config("proxy.__main__:from_environment", workers=settings.workers), [listener]).run()


def set_up_logging() -> None:
    """Warnings to stderr, but no line for every request that is not HTTP: a stranger could fill the disk."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid HTTP request" not in record.getMessage())


def _config(app: ASGIApp | str, *, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        loop="uvloop",
        http=Protocol,
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def from_environment() -> ASGIApp:
    """The application of a worker process."""
    set_up_logging()
    if sys.platform == "linux":  # a worker must not outlive who watches it, however that one ends
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return created(msgspec.json.decode(Path(os.environ[SETTINGS_VARIABLE]).read_bytes(), type=Settings))


def _run(settings: Settings, listener: socket.socket, address: str) -> None:
    server = _Told(_config(created(settings)), address)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


class _Told(uvicorn.Server):
    """uvicorn, saying where it listens once it does."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM without raising them anew: what is temporary goes, and the exit code is 0."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()  # what was imported stays: the collector need not look at it again and again
        if not self.should_exit:
            click.echo(f"listening on {self._address}")
            sys.stdout.flush()


if __name__ == "__main__":
    main(prog_name=PROGRAM)
