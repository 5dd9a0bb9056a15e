"""The options of a request, and what its images are."""

import math
from typing import Final, cast

from proxy import gojson
from proxy.errors import OllamaError
from proxy.schemas.requests import MAX_STOPS, at_most

INTEGER, FLOAT, BOOLEAN, TEXTS = "integer", "float32", "boolean", "array"

OPTION_TYPES: Final = {
    "num_keep": INTEGER,
    "seed": INTEGER,
    "num_predict": INTEGER,
    "top_k": INTEGER,
    "top_p": FLOAT,
    "min_p": FLOAT,
    "typical_p": FLOAT,
    "repeat_last_n": INTEGER,
    "temperature": FLOAT,
    "repeat_penalty": FLOAT,
    "presence_penalty": FLOAT,
    "frequency_penalty": FLOAT,
    "stop": TEXTS,
    "num_ctx": INTEGER,
    "num_batch": INTEGER,
    "num_gpu": INTEGER,
    "main_gpu": INTEGER,
    "use_mmap": BOOLEAN,
    "num_thread": INTEGER,
    "draft_num_predict": INTEGER,
}
"""Ollama's options and their types, as its error texts name them; any other option is passed over, as Ollama does."""


def checked_options(options: dict[str, object]) -> dict[str, object]:
    """The options that Ollama knows and that are not null; an integer is cut from a float towards zero.

    Raises:   OllamaError: 500 for a value of another type, as Ollama; 400 for too many stop strings.
    """
    return {
        name: _option(name, value, OPTION_TYPES[name])
        for name, value in options.items()
        if value is not None and name in OPTION_TYPES
    }


def _option(name: str, value: object, kind: str) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == INTEGER and is_number:
        return _truncated(cast("float", value))
    if kind == FLOAT and is_number:
        return math.inf if gojson.is_beyond_float(value) else float(cast("float", value))
    if kind == BOOLEAN and isinstance(value, bool):
        return value
    if kind == TEXTS and isinstance(value, list):
        if not all(isinstance(text, str) for text in value):
            raise OllamaError(500, f'option "{name}" must be of an array of strings')
        at_most(len(value), MAX_STOPS, "stop strings")
        return value
    raise OllamaError(500, f'option "{name}" must be of type {kind}')


def _truncated(number: float) -> int:
    """Go's int64(float64) on amd64: towards zero, and the smallest number for all that does not fit."""
    whole = int(number)
    return whole if -(2**63) <= whole < 2**63 else -(2**63)


# ---------------------------------------------------------------------------------------------------------------------
# Images

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
IMAGE_KINDS: Final = ("image/png", "image/jpeg", "image/webp", "image/gif")


def image_mime(data: bytes) -> str | None:
    """One of `IMAGE_KINDS` by the first bytes; None for anything else."""
    for magic, mime in _MAGIC:
        if data.startswith(magic):
            return mime
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
