"""The two fields that may be written in several forms: `keep_alive` and `think`."""

import math
import re
from typing import Final, cast

import msgspec

from proxy import gojson
from proxy.errors import OllamaError
from proxy.gojson import ANY


def parsed_keep_alive(value: object) -> float | None:
    """Seconds for a decoded `keep_alive`: None for None, `math.inf` for anything negative.

    Raises:   OllamaError: 400 with Go's text.
    """
    try:
        return kept_alive(value)
    except gojson.Refused as refusal:
        raise OllamaError(400, str(refusal)) from None


_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def kept_alive(value: object) -> float | None:
    """`parsed_keep_alive`, refused in Go's way."""
    if value is None:
        return None
    if isinstance(value, str):
        seconds = duration_s(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if gojson.is_beyond_float(value):
            raise gojson.Refused("time: invalid duration")
        seconds = float(value)
    else:
        raise gojson.Refused(f"Unsupported type: '{_GO_TYPES.get(type(value), type(value).__name__)}'")
    return math.inf if seconds < 0 else abs(seconds)


_UNITS_NS: Final = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_NUMBER = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?")
_UNIT = re.compile(r"[^.0-9]*")


def duration_s(text: str) -> float:
    """Seconds of a Go duration such as `1h30m`, `-1.5s` or `300ms`.

    Raises:   Refused: with the text of Go's time.ParseDuration.
    """
    invalid = gojson.Refused(f"time: invalid duration {_quoted_duration(text)}")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest or len(rest) > gojson.LONGEST_QUOTE:
        raise invalid
    total_ns, place = 0, 0
    while place < len(rest):
        number = cast("re.Match[str]", _NUMBER.match(rest, place))
        whole, fraction = number[1], number[3] or ""
        if not whole and not fraction:
            raise invalid
        unit = cast("re.Match[str]", _UNIT.match(rest, number.end()))[0]
        if int(whole or "0") > 2**63:
            raise invalid
        if not unit:
            raise gojson.Refused(f"time: missing unit in duration {_quoted_duration(text)}")
        if unit not in _UNITS_NS:
            raise gojson.Refused(f"time: unknown unit {_quoted_duration(unit)} in duration {_quoted_duration(text)}")
        scale = _UNITS_NS[unit]
        total_ns += int(whole or "0") * scale
        if fraction:
            digits = fraction[:18]  # Go, too, stops where its 63 bits are full
            total_ns += int(digits) * scale // 10 ** len(digits)
        if total_ns > 2**63:
            raise invalid
        place = number.end() + len(unit)
    if text[0] == "-":
        return -total_ns / 1e9
    if total_ns > 2**63 - 1:
        raise invalid
    return total_ns / 1e9


def _quoted_duration(text: str) -> str:
    """As Go's package time quotes: what is not plain ASCII byte by byte."""
    said = []
    for byte in text[: gojson.LONGEST_QUOTE].encode():
        if byte in b'"\\':
            said.append("\\" + chr(byte))
        elif byte < 0x20 or byte >= 0x80:
            said.append(f"\\x{byte:02x}")
        else:
            said.append(chr(byte))
    return '"' + "".join(said) + '"'


LEVELS = ("high", "medium", "low", "max")


def thought(value: object) -> bool | str | None:
    """A decoded `think`, one of the four levels where it is a text. Raises Refused."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in LEVELS:
            return value
        raise gojson.Refused(
            f'invalid think value: {gojson.quoted(value)} (must be "high", "medium", "low", "max", true, or false)'
        )
    raise gojson.Refused('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def judged_keep_alive(raw: bytes) -> object:
    """`kept_alive` of what is not decoded yet."""
    return kept_alive(gojson.value(raw, ANY, root=""))


def judged_think(raw: bytes) -> object:
    """`thought` of what is not decoded yet."""
    try:
        return thought(msgspec.json.decode(raw))
    except msgspec.ValidationError:  # a number beyond float64
        return thought(0)
