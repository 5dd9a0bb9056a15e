"""The port that clients know."""

import errno
import socket

from harness.engines import talk
from harness.errors import EnginePortTaken, UsageError


def reachable(host: str) -> str:
    """`host` as part of an address that this machine can ask."""
    if host in {"", "0.0.0.0"}:
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def refuse_taken_port(host: str, port: int) -> None:
    """Nothing, where the proxy can listen there. Raises: EnginePortTaken; UsageError: the address is not ours."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise UsageError(
                f"cannot listen on {host} port {port}: {error.strerror}",
                hint="choose other ones with --host and --port",
            ) from error
        raise taken_port(host, port) from error


def taken_port(host: str, port: int) -> EnginePortTaken:
    """The error for a port that somebody has, who is asked whether it is Ollama."""
    with talk.client(f"http://{reachable(host)}:{port}") as http:
        is_ollama = isinstance(talk.get_json(http, "/api/version"), dict)
    other = f"--port {port + 1}" if port < 65_535 else "another --port"
    if is_ollama:
        return EnginePortTaken(
            f"Ollama, or something that answers as it does, listens on port {port}",
            hint=f"stop it (systemctl stop ollama, or quit its app), or say {other}",
        )
    return EnginePortTaken(
        f"another program listens on port {port}",
        hint=f"find it with: ss -ltnp 'sport = :{port}'; or say {other}",
    )
