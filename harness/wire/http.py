"""HTTP/1.1 with keep-alive, as little as is needed."""

from http import HTTPStatus
from typing import Final

import msgspec

HEAD_END: Final = b"\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
MOST_HEAD_BYTES: Final = 64 * 1024


class NotHttp(Exception):
    """What came is no request that this server reads."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, read whole."""

    method: str
    path: str
    body: bytes
    is_kept_alive: bool
    headers: dict[str, str] = {}
    """By their names in lower case."""


def taken(buffer: bytearray) -> Call | None:
    """The first request in `buffer`, which it is taken out of. None: it is not whole yet. Raises: NotHttp."""
    head_end = buffer.find(HEAD_END)
    if head_end < 0:
        if len(buffer) > MOST_HEAD_BYTES:
            raise NotHttp
        return None
    request_line, *lines = bytes(buffer[:head_end]).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        method, target, _version = request_line.split(" ", 2)
        body_start, length = head_end + len(HEAD_END), int(headers.get("content-length", "0"))
    except ValueError:
        raise NotHttp from None
    if len(buffer) < body_start + length:
        return None
    body = bytes(buffer[body_start : body_start + length])
    del buffer[: body_start + length]
    return Call(
        method=method,
        path=target.partition("?")[0],
        body=body,
        is_kept_alive=headers.get("connection", "").lower() != "close",
        headers=headers,
    )


def plain_head(status: HTTPStatus, length: int, content_type: str = "application/json; charset=utf-8") -> bytes:
    """The headers of a response of known length."""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n"
    return head.encode() + b"\r\n"


def plain(status: HTTPStatus, body: bytes, content_type: str = "application/json; charset=utf-8") -> bytes:
    """A whole response."""
    return plain_head(status, len(body), content_type) + body


def chunked_head(content_type: str) -> bytes:
    """The headers of a stream."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    """`data` framed for a chunked stream; nothing for nothing, since an empty chunk would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
