"""What is turned away before any handler runs: foreign pages, foreign names for this host, strangers, endless bodies.

Bodies are read as JSON whatever their Content-Type, so a page of any site could post to a proxy on the same machine:
the check of `Origin` is what keeps it out. The check of `Host` keeps out a site whose name was made to point to this
machine (DNS rebinding, CVE-2024-28224).
"""

import asyncio
import functools
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final

import psutil
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.answers import JSON_TYPE, encoded
from proxy.errors import OllamaError
from proxy.settings import Settings

Headers = list[tuple[bytes, bytes]]

RAW_SEND: Final = "proxy.send"
"""Where the scope holds the server's own `send`: what is sent per token need not pass FastAPI's wrappers of it."""

MAX_URL_BYTES: Final = 8 * 2**10
MAX_HEADER_BYTES: Final = 64 * 2**10
LINGER_S: Final = 1.0
"""How long a refused body is still read: a client that is cut off while it sends may never see why."""

_LOCAL_ORIGINS = ("localhost", "127.0.0.1", "0.0.0.0")
_APP_ORIGINS = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")

_GET, _GET_HEAD, _POST = "GET", "HEAD, GET", "POST"
_METHODS: Final = {
    "/": _GET_HEAD,
    "/api/version": _GET_HEAD,
    "/api/status": _GET,
    "/api/tags": _GET_HEAD,
    "/api/ps": _GET,
    "/api/show": _POST,
    "/api/generate": _POST,
    "/api/chat": _POST,
    "/api/embed": _POST,
    "/api/embeddings": _POST,
    "/api/pull": _POST,
    "/api/push": _POST,
    "/api/create": _POST,
    "/api/copy": _POST,
    "/api/delete": "DELETE",
    "/api/me": _POST,
    "/api/signout": _POST,
    "/api/experimental/web_search": _POST,
    "/api/experimental/web_fetch": _POST,
    "/api/experimental/model-recommendations": _GET,
    "/v1/chat/completions": _POST,
    "/v1/completions": _POST,
    "/v1/embeddings": _POST,
    "/v1/responses": _POST,
    "/v1/audio/transcriptions": _POST,
    "/v1/messages": _POST,
    "/v1/models": _GET,
}
_METHODS_BELOW: Final = {"/api/blobs": "HEAD, POST", "/api/user/keys": "DELETE", "/v1/models": _GET}

_ALLOWED_HEADERS: Final = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    b"X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    b"X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    b"X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_PREFLIGHT: Final[Headers] = [
    (b"access-control-allow-headers", _ALLOWED_HEADERS),
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"access-control-max-age", b"43200"),
]
_PREFLIGHT_VARY: Final[Headers] = [
    (b"vary", b"Origin"),
    (b"vary", b"Access-Control-Request-Method"),
    (b"vary", b"Access-Control-Request-Headers"),
]


class ClientGone(Exception):
    """The client closed its connection before its request was whole: there is nobody to answer."""


class BodyRefused(OllamaError):
    """The body was not read to its end: the answer has to close the connection (`connection: close`)."""


def allowed_methods(path: str) -> str | None:
    """The `Allow` header of Ollama's answers for a known path, as its router orders the methods; None: unknown."""
    known = _METHODS.get(path)
    if known is None:
        parent, _, last = path.rpartition("/")
        known = _METHODS_BELOW.get(parent) if last else None
    return known


class Guard:
    """ASGI middleware around the whole application; a good request passes with its `send` as it came.

    In Ollama's order: Origin, then Host. Then come the checks Ollama does not have: lengths and the API key.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._checks_host = is_loopback(settings.host)
        self._is_open_to_all_origins = "*" in settings.origins
        self._is_allowed_origin = _origin_pattern(settings.origins).fullmatch
        self._authorization = None if settings.api_key is None else settings.api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        server_send = send
        origin = host = authorization = None
        header_bytes = 0
        for name, value in scope["headers"]:
            header_bytes += len(name) + len(value)
            if name == b"host":
                if host is not None:
                    await _refuse(send, 400, "more than one Host header")
                    return
                host = value
            elif name == b"origin" and origin is None:
                origin = value
            elif name == b"authorization" and authorization is None:
                authorization = value
        path: str = scope["path"]

        host = host or b""
        if origin and origin not in (b"http://" + host, b"https://" + host):
            if not self._is_open_to_all_origins and not self._is_allowed_origin(origin):
                await _turn_away(send, scope)
                return
            if scope["method"] == "OPTIONS":
                await _answer(send, 204, self._preflight(origin) + _allow(scope))
                return
            send = _with_headers(send, self._plain(origin))
        if self._checks_host:
            kind = _kind_of_host(host)
            if kind == "foreign":
                await _turn_away(send, scope)
                return
            if kind == "name" and scope["method"] == "OPTIONS":
                await _answer(send, 204, _allow(scope))
                return
        if header_bytes > MAX_HEADER_BYTES:
            await _refuse(send, 431, "the request's headers are too long")
        elif len(path) + len(scope["query_string"]) > MAX_URL_BYTES:
            await _refuse(send, 414, "the request's URL is too long")
        elif not path.isprintable():
            await _refuse(send, 400, "the request's path is not valid")
        elif self._authorization is not None and path != "/" and not self._is_known(authorization):
            await _refuse(send, 401, "unauthorized")
        else:
            scope[RAW_SEND] = server_send
            await self._app(scope, receive, send)

    def _is_known(self, authorization: bytes | None) -> bool:
        scheme, _, key = (authorization or b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._authorization or b"")

    def _plain(self, origin: bytes) -> Headers:
        if self._is_open_to_all_origins:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def _preflight(self, origin: bytes) -> Headers:
        if self._is_open_to_all_origins:
            return [*_PREFLIGHT, (b"access-control-allow-origin", b"*")]
        return [*_PREFLIGHT, (b"access-control-allow-origin", origin), *_PREFLIGHT_VARY]


def _origin_pattern(origins: tuple[str, ...]) -> re.Pattern[bytes]:
    """What allowed origins look like; a port of the local ones is digits, which Ollama leaves to the browser."""
    local = "|".join(re.escape(host) for host in _LOCAL_ORIGINS)
    kinds = [rf"https?://(?:{local})(?::[0-9]*)?", *(re.escape(scheme) + ".*" for scheme in _APP_ORIGINS)]
    kinds += [".*".join(re.escape(part) for part in origin.split("*")) for origin in origins]
    return re.compile("|".join(kinds).encode())


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@functools.lru_cache(maxsize=256)
def _kind_of_host(host: bytes) -> str:
    name = _name_of(host)
    if is_local_name(name):
        return "name"
    return "address" if is_local_address(name) else "foreign"


def _name_of(host: bytes) -> str:
    """The `Host` header without its port, as Go splits it: brackets go only together with a port."""
    text = host.decode("latin-1")
    if text.startswith("["):
        name, closed, port = text[1:].partition("]:")
        return name if closed and ":" not in port else text
    name, colon, port = text.partition(":")
    return name if colon and ":" not in port else text


def is_local_name(name: str) -> bool:
    """Whether `name` is one that no public name server gives away."""
    name = name.lower()
    return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(
        (".localhost", ".local", ".internal")
    )


_PRIVATE = [ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]


def is_local_address(name: str) -> bool:
    """Whether `name` is an IP address that is loopback, private, unspecified, or this machine's own."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    return any(address in network for network in _PRIVATE) or str(address) in _own_addresses()


def _own_addresses() -> set[str]:
    found = (one.address for addresses in psutil.net_if_addrs().values() for one in addresses)
    return {address.partition("%")[0] for address in found}


def _allow(scope: Scope) -> Headers:
    methods = allowed_methods(scope["path"])
    if methods is None or scope["method"] in methods.split(", "):
        return []
    return [(b"allow", methods.encode())]


def _with_headers(send: Send, headers: Headers) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sent


async def _turn_away(send: Send, scope: Scope) -> None:
    """Ollama's 403; after a request with a body the connection ends, for nobody will read it."""
    headers = _allow(scope)
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
        headers.append((b"connection", b"close"))
    await _answer(send, 403, headers, empty=True)


async def _answer(send: Send, status: int, headers: Headers, *, empty: bool = False, body: bytes = b"") -> None:
    if empty or body:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, text: str) -> None:
    """`{"error": text}`, and the end of the connection: what follows on it was not read."""
    headers = [(b"content-type", JSON_TYPE.encode()), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await _answer(send, status, headers, body=encoded({"error": text}))


async def read_body(
    receive: Receive,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    settings: Settings,
    linger_s: float = LINGER_S,
) -> bytes:
    """The whole body, which is never longer than `settings.max_body_bytes` in memory, whatever the headers say.

    Raises:   BodyRefused: 413 too long, 408 too slow, 415 compressed (a small body may hide a large one).
              ClientGone: the client closed its connection meanwhile.
    """
    most = settings.max_body_bytes
    refusal, has_sent = None, True
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            refusal = BodyRefused(415, "compressed request bodies are not supported: send the body as it is")
        elif name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > most):
            refusal = BodyRefused(413, "request body too large")
        elif name == b"expect":  # who waits for `100 Continue` has sent nothing yet
            has_sent = False
    if refusal:
        if has_sent:
            await _drained(receive, linger_s)
        raise refusal
    chunks: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = await _received(receive)
                chunk = message.get("body", b"")
                length += len(chunk)
                if length > most:
                    break
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise BodyRefused(408, f"the request body did not arrive within {settings.body_timeout_s:g} s") from None
    chunks.clear()
    if message.get("more_body", False):
        await _drained(receive, linger_s)
    raise BodyRefused(413, "request body too large")


async def _received(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


async def _drained(receive: Receive, linger_s: float) -> None:
    """Reads and drops for a moment, so that a client which answers only after it sent all gets to hear the refusal."""
    try:
        async with asyncio.timeout(linger_s):
            while (await _received(receive)).get("more_body", False):
                pass
    except TimeoutError:
        pass
