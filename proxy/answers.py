"""Answers in the form that Ollama's clients read: JSON with its charset, and NDJSON, one object a line."""

from collections.abc import AsyncIterator, Iterable

import msgspec
from starlette.responses import Response, StreamingResponse

JSON_TYPE = "application/json; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
MAX_ERROR_CHARS = 1_500
"""Errors repeat what was asked for; a name of a megabyte is not repeated."""

_encode = msgspec.json.Encoder().encode


def encoded(value: object) -> bytes:
    """JSON that no client splits in the middle: U+0085, U+2028 and U+2029 leave escaped.

    httpx's `iter_lines`, on which the Python client stands, takes the three for line ends; msgspec writes them raw.
    """
    return unsplittable(_encode(value))


def unsplittable(data: bytes) -> bytes:
    """`data`, UTF-8 JSON, with the characters escaped that some clients take for line ends."""
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data


def json_response(value: object, *, status: int = 200, content_type: str = JSON_TYPE) -> Response:
    """One JSON object."""
    return Response(encoded(value), status_code=status, headers={"content-type": content_type})


def error_response(status: int, text: str) -> Response:
    """`{"error": text}`, the only form of an error that Ollama's clients know."""
    if len(text) > MAX_ERROR_CHARS:
        text = text[:MAX_ERROR_CHARS] + "…"
    return json_response({"error": text}, status=status)


def progress_response(lines: Iterable[object], *, stream: bool) -> Response:
    """What pull, push and create answer: every status on a line of its own, or the last one alone."""
    steps = list(lines)
    if not stream:
        return json_response(steps[-1], content_type="application/json")

    async def body() -> AsyncIterator[bytes]:
        for step in steps:
            yield encoded(step) + b"\n"

    return StreamingResponse(body(), headers={"content-type": NDJSON_TYPE})
