"""multipart/form-data: taken apart and put together again, so that only known fields reach vLLM."""

import re
import secrets
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from proxy.errors import OllamaError

MAX_PARTS: Final = 32

_BOUNDARY: Final = re.compile(
    r'multipart/form-data\s*;.*?\bboundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE
)
_NAME: Final = re.compile(
    rb'^content-disposition:\s*form-data\s*;.*?\bname="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE
)
_FILENAME: Final = re.compile(rb'^content-disposition:.*?\bfilename="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)
_SAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


class Part(msgspec.Struct, frozen=True):
    """One field of a form."""

    name: str
    content: bytes
    filename: str | None = None
    """None: no file."""


def parsed(body: bytes, content_type: str, *, names: Collection[str]) -> list[Part]:
    """The fields called one of `names`; of fields with one name, the first. Raises: OllamaError 400, Go's words."""
    found = _BOUNDARY.match(content_type)
    if found is None:
        raise OllamaError(400, "failed to parse multipart form: request Content-Type isn't multipart/form-data")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(delimiter, MAX_PARTS + 1)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise OllamaError(400, "failed to parse multipart form: multipart: NextPart: EOF")
    parts: dict[str, Part] = {}
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = _NAME.search(head.removeprefix(b"\r\n"))
        if name is None:
            continue
        text = name[1].decode("utf-8", "replace")
        filename = _FILENAME.search(head)
        if text in names and text not in parts:
            parts[text] = Part(text, content, None if filename is None else _safe(filename[1]))
    return list(parts.values())


def encoded(parts: Sequence[Part]) -> tuple[str, bytes]:
    """Content type and body of a form, under a boundary that no field holds."""
    boundary = secrets.token_hex(24)
    body = bytearray()
    for part in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'.encode()
        if part.filename is not None:
            body += f'; filename="{part.filename}"\r\nContent-Type: application/octet-stream'.encode()
        body += b"\r\n\r\n" + part.content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", bytes(body)


def _safe(filename: bytes) -> str:
    return _SAFE.sub("_", filename.decode("utf-8", "replace"))[-80:] or "file"
