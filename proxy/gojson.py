"""JSON as Go's encoding/json takes it, and why it refuses what it refuses, in its words.

Ollama 0.33 is built with Go's second encoding/json, so the texts are of that one (`in string`,
`GenerateRequest.images.0`), not of the first (`in string literal`, `GenerateRequest.images`). Nothing here is on the
way of a good request: msgspec decodes that alone, and only a body that msgspec refuses comes here, to be accepted after
all or explained.

What Go takes and msgspec does not: keys in any case, invalid UTF-8 and half surrogates (both become U+FFFD), anything
after the first JSON value, null for every field, line breaks in base64, an array of bytes for an image.
"""

import base64
import binascii
import contextlib
import re
from collections.abc import Callable
from typing import Final

import msgspec

EXPLAINED_VALUES: Final = 100_000
EXPLAINED_ESCAPES: Final = 1_000_000
REPAIRED_BYTES: Final = 4 * 2**20
"""A larger body is refused in msgspec's words: the search for Go's is slow, and other requests wait for it."""

LONGEST_QUOTE: Final = 1000
"""Characters of a request that an answer repeats."""

BLANK: Final = b" \t\r\n"

_STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HEX_START = re.compile(rb"\\u[0-9a-fA-F]{0,4}")
_INTEGER = re.compile(rb"-?[0-9]+")
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}

_OPENERS = bytes.maketrans(b"[]", b"{}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_decoded_any = msgspec.json.Decoder().decode
_decoded_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decoded_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decoded_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Refused(Exception):
    """Go would not take it; the message is Go's."""


# ---------------------------------------------------------------------------------------------------------------------
# Go's quoting


def quoted_rune(data: bytes) -> str:
    """The first character of `data` in single quotes, as Go prints it in a syntax error."""
    for length in range(1, 5):
        try:
            return "'" + _escaped(data[:length].decode(), "'") + "'"
        except UnicodeDecodeError:
            continue
    return f"'\\x{data[0]:x}'"


def quoted(text: str | bytes) -> str:
    """Go's %q: double quotes, with everything escaped that does not print; of a very long text the beginning."""
    text = text[:LONGEST_QUOTE]
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    return '"' + "".join(_escaped(character, '"') for character in text) + '"'


_SHORT = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


def _escaped(character: str, quote: str) -> str:
    code = ord(character)
    if character == quote:
        return "\\" + quote
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # one invalid byte, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# ---------------------------------------------------------------------------------------------------------------------
# Syntax


def syntax_error(body: bytes, *, max_depth: int = 10_000) -> str | None:
    """What Go says of `body`'s syntax; None where it would parse it. Only the first JSON value counts."""
    try:
        value_end(body, max_depth=max_depth)
    except Refused as refusal:
        return str(refusal)
    return None


def value_end(body: bytes, *, max_depth: int) -> int:
    """The offset behind the first JSON value of `body`; what follows is none of Go's business.

    Raises:   Refused: the value is broken, cut off, or nested deeper than `max_depth`.
    """
    place, closers = 0, bytearray()  # the brackets that are open, innermost last
    wanted = "value"
    while True:
        place = _skipped(body, place)
        if place >= len(body):
            raise Refused("unexpected EOF")
        byte = body[place]
        if wanted.startswith("value"):
            if byte == 0x5D and wanted == "value or end":
                closers.pop()
                place, wanted = place + 1, "next"
            elif byte in b"{[":
                if len(closers) >= max_depth:
                    raise Refused("exceeded max depth")
                closers.append(byte + 2)
                place, wanted = place + 1, "key or end" if byte == 0x7B else "value or end"
            else:
                place, wanted = _scalar_end(body, place), "next"
        elif wanted.startswith("key"):
            if byte == 0x7D and wanted == "key or end":
                closers.pop()
                place, wanted = place + 1, "next"
            elif byte == 0x22:
                place, wanted = _string_end(body, place), "colon"
            else:
                raise Refused(f"invalid character {_rune(body, place)} looking for beginning of object key string")
        elif wanted == "colon":
            if byte != 0x3A:
                raise Refused(f"invalid character {_rune(body, place)} after object key")
            place, wanted = place + 1, "value"
        elif byte == 0x2C:
            place, wanted = place + 1, "key" if closers[-1] == 0x7D else "value"
        elif byte == closers[-1]:
            closers.pop()
            place += 1
        else:
            after = "object key:value pair" if closers[-1] == 0x7D else "array element"
            raise Refused(f"invalid character {_rune(body, place)} after {after}")
        if wanted == "next" and not closers:
            return place


def _skipped(body: bytes, place: int) -> int:
    return _end(_SPACE, body, place)


def _rune(body: bytes, place: int) -> str:
    return quoted_rune(body[place : place + 4])


def _scalar_end(body: bytes, place: int) -> int:
    byte = body[place]
    if byte == 0x22:
        return _string_end(body, place)
    if byte in _LITERALS:
        return _literal_end(body, place, _LITERALS[byte])
    if byte == 0x2D or 0x30 <= byte <= 0x39:
        return _number_end(body, place)
    raise Refused(f"invalid character {_rune(body, place)} looking for beginning of value")


def _string_end(body: bytes, place: int) -> int:
    match = _STRING.match(body, place)
    end = match.end() if match else place
    rest = body[end : end + 6]
    if rest[:1] == b'"':
        return end + 1
    if len(rest) < 2 and rest in (b"", b"\\"):
        raise Refused("unexpected EOF")
    if rest[:1] != b"\\":
        raise Refused(f"invalid character {_rune(body, end)} in string")
    if rest[1:2] != b"u":
        raise Refused(_bad_escape(rest[:2]))
    if len(rest) < 6 and _HEX_START.fullmatch(rest):
        raise Refused("unexpected EOF")
    raise Refused(_bad_escape(rest))


def _bad_escape(escape: bytes) -> str:
    text = escape.decode(errors="surrogateescape")
    plain = all(one.isprintable() and one not in " `\ufffd" for one in text)
    return f"invalid escape sequence {f'`{text}`' if plain else quoted(escape)} in string"


def _literal_end(body: bytes, place: int, literal: bytes) -> int:
    for offset, byte in enumerate(literal):
        if place + offset >= len(body):
            raise Refused("unexpected EOF")
        if body[place + offset] != byte:
            said = f"in literal {literal.decode()} (expecting '{chr(byte)}')"
            raise Refused(f"invalid character {_rune(body, place + offset)} {said}")
    return place + len(literal)


def _number_end(body: bytes, place: int) -> int:
    match = _NUMBER.match(body, place)
    end = match.end() if match else place + 1  # a lone minus
    if match:
        if body[end : end + 1] == b"." and b"." not in match[0] and b"e" not in match[0].lower():
            end += 1
        elif body[end : end + 1] in (b"e", b"E") and b"e" not in match[0].lower():
            end += 2 if body[end + 1 : end + 2] in (b"+", b"-") else 1
        else:
            return end
    if end >= len(body):
        raise Refused("unexpected EOF")
    raise Refused(f"invalid character {_rune(body, end)} in numeric literal")


def depth(body: bytes, *, limit: int) -> int:
    """How deeply the brackets of `body`, which is valid JSON, are nested, counted up to `limit` + 1.

    Every round takes the innermost pairs away, so the work is a few passes in C, however many brackets there are.
    """
    if body.count(b"{") + body.count(b"[") <= limit:
        return 0  # not the depth, but no more than the limit: enough, and almost free
    outside_strings = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside_strings.translate(_OPENERS, _NOT_BRACKETS)
    rounds = 0
    while brackets and rounds <= limit:
        brackets = brackets.replace(b"{}", b"")
        rounds += 1
    return rounds


def most_values(body: bytes) -> int:
    """An upper bound of how many values `body` holds; what looks like one within a string counts, too."""
    return body.count(b",") + body.count(b"{") + body.count(b"[") + 1


def is_explained(body: bytes) -> bool:
    """Whether there is time to read `body` as Go does."""
    return most_values(body) <= EXPLAINED_VALUES and body.count(b"\\") <= EXPLAINED_ESCAPES


def first_value(body: bytes, *, max_depth: int) -> bytes:
    """The first JSON value of `body` in a form that msgspec takes: whole UTF-8, no half surrogates, nothing behind it.

    Raises:   Refused: with Go's text for a broken body; Go's io.EOF, a body without a value, has no text (empty).
    """
    if not body.strip(BLANK):
        raise Refused("")
    try:
        _decoded_raw(body)
    except RecursionError:
        raise Refused("exceeded max depth") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not is_explained(body):
            raise Refused(f"invalid JSON: {error}") from None
        body = body[: value_end(body, max_depth=max_depth)]
    if depth(body, limit=max_depth) > max_depth:
        raise Refused("exceeded max depth")
    return _repaired(body)


def _repaired(body: bytes) -> bytes:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        if len(body) > REPAIRED_BYTES:
            raise Refused(f"invalid JSON: {error.reason}") from None
        body = body.decode(errors="replace").encode()
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(lambda match: b"\\ufffd" if match[1] else match[0], body)
    return body


# ---------------------------------------------------------------------------------------------------------------------
# Go's types


class Shape(msgspec.Struct, frozen=True):
    """What a Go type takes; `go_name` is how Go prints it."""

    go_name: str


class Text(Shape, frozen=True):
    """string"""


class Bool(Shape, frozen=True):
    """bool"""


class Int(Shape, frozen=True):
    """A whole number of 64 bits, or of `bits` without a sign."""

    bits: int = 64


class Anything(Shape, frozen=True):
    """any: every JSON value whose numbers fit a float64."""


class Unread(Shape, frozen=True):
    """json.RawMessage: kept as it was written."""


class Blob(Shape, frozen=True):
    """[]byte: base64, or an array of small numbers."""


class Items(Shape, frozen=True):
    """A slice."""

    item: Shape


class Members(Shape, frozen=True):
    """A map with string keys."""

    member: Shape


class Fields(Shape, frozen=True):
    """A struct: the keys it knows, in any case; others are passed over."""

    fields: dict[str, Shape]


class Own(Shape, frozen=True):
    """A type with an UnmarshalJSON of its own that calls Unmarshal: the path in Go's texts begins anew, at `root`."""

    inner: Shape
    root: str


class OrderedMembers(Shape, frozen=True):
    """Ollama's ordered map: it reads objects by another library, which says odd things of anything else."""

    member: Shape
    root: str
    takes_text: bool = False
    """An object as a JSON string is taken too, as OpenAI's clients send arguments; Ollama refuses it."""


class Judged(Shape, frozen=True):
    """A type whose UnmarshalJSON does as it likes: `judge` gives the value or raises Refused."""

    judge: Callable[[bytes], object]


class Checked(Shape, frozen=True):
    """Refused as `inner` refuses, but kept as the plain JSON value, with the keys that `inner` does not know."""

    inner: Shape


STRING: Final = Text("string")
BOOL: Final = Bool("bool")
INT: Final = Int("int")
ANY: Final = Anything("interface {}")
RAW: Final = Unread("json.RawMessage")
_BYTE: Final = Int("uint8", bits=8)

NOT_AN_OBJECT: Final = "Value looks like object, but can't find closing '}' symbol"

_KINDS = {
    ord('"'): "string",
    ord("t"): "bool",
    ord("f"): "bool",
    ord("["): "array",
    ord("{"): "object",
    ord("n"): "null",
}


def value(raw: bytes, shape: Shape, *, root: str) -> object:
    """What Go would make of `raw`, one valid JSON value, as plain values: names as Go's tags have them, nulls left out.

    Args:     root: name of the Go type that is decoded into; "" for one without a name.
    Raises:   Refused: a value of another type; the text is Go's for the first one.
    """
    return _value(raw, shape, root, "")


def _value(raw: bytes, shape: Shape, root: str, path: str) -> object:
    kind = _kind(raw)
    if kind == "null" and not isinstance(shape, Unread):
        return None
    match shape:
        case Text() if kind == "string":
            return _decoded_any(raw)
        case Bool() if kind == "bool":
            return _decoded_any(raw)
        case Int() if kind == "number":
            return _whole(raw, shape, root, path)
        case Anything():
            return _any(raw, root, path)
        case Unread():
            return msgspec.Raw(raw)
        case Blob() if kind == "string":
            return _bytes(str(_decoded_any(raw)), shape, root, path)
        case Blob() if kind == "array":
            members = [_value(item, _BYTE, root, f"{path}.{n}") for n, item in _items(raw)]
            return bytes(member if isinstance(member, int) else 0 for member in members)
        case Items() if kind == "array":
            values = (_value(item, shape.item, root, f"{path}.{n}") for n, item in _items(raw))
            return [zero(shape.item) if one is None else one for one in values]
        case Members() if kind == "object":
            return {key: _value(one, shape.member, root, _below(path, key)) for key, one in _members(raw)}
        case Fields() if kind == "object":
            return _fields(raw, shape, root, path)
        case Own():
            return _value(raw, shape.inner, shape.root, "")
        case OrderedMembers():
            return _ordered(raw, shape, kind)
        case Judged():
            return shape.judge(raw)
        case Checked():
            _value(raw, shape.inner, root, path)
            return _decoded_any(raw)
    raise _unfit(kind, shape.go_name, root, path)


def zero(shape: Shape) -> object:
    """What Go holds where nothing was said, for an item of a slice."""
    match shape:
        case Text():
            return ""
        case Bool():
            return False
        case Int():
            return 0
        case Blob():
            return b""
        case Items():
            return []
        case Anything():
            return None
        case Own():
            return zero(shape.inner)
    return {}


def _kind(raw: bytes) -> str:
    place = _skipped(raw, 0)
    return _KINDS.get(raw[place], "number")


def _items(raw: bytes) -> list[tuple[int, bytes]]:
    return [(n, bytes(item)) for n, item in enumerate(_decoded_items(raw))]


def _members(raw: bytes) -> list[tuple[str, bytes]]:
    return [(key, bytes(member)) for key, member in _decoded_members(raw).items()]


def _below(path: str, key: str) -> str:
    return f"{path}.{key[:LONGEST_QUOTE].replace('~', '~0').replace('/', '~1')}"


def folded(key: str) -> str:
    """`key` as Go compares names: without case, the long s and the Kelvin sign included."""
    return key.replace("ſ", "s").lower()


def _fields(raw: bytes, shape: Fields, root: str, path: str) -> dict[str, object]:
    known = {folded(name): name for name in shape.fields}
    found: dict[str, object] = {}
    for key, member in _members(raw):
        name = known.get(folded(key))
        if name is not None:
            made = _value(member, shape.fields[name], root, _below(path, key))
            if made is not None:
                found[name] = made
    return found


def _ordered(raw: bytes, shape: OrderedMembers, kind: str) -> object:
    if kind == "string" and shape.takes_text:
        try:
            text = first_value(str(_decoded_any(raw)).encode(), max_depth=128)
        except Refused:
            raise Refused(NOT_AN_OBJECT) from None
        raw, kind = text, _kind(text)
    if kind != "object":
        raise Refused(NOT_AN_OBJECT)
    return {key: _value(member, shape.member, shape.root, "") for key, member in _members(raw)}


def _whole(raw: bytes, shape: Int, root: str, path: str) -> int:
    literal = raw.strip(BLANK)
    low, high = (0, 255) if shape.bits == 8 else (-(2**63), 2**63 - 1)
    if len(literal) <= 20 and _INTEGER.fullmatch(literal):
        number = int(literal)
        if low <= number <= high:
            return number
    raise _unfit(f"number {literal[:LONGEST_QUOTE].decode()}", shape.go_name, root, path)


def _any(raw: bytes, root: str, path: str) -> object:
    with contextlib.suppress(msgspec.ValidationError):  # a number beyond float64: find it
        found = _decoded_any(raw)
        if not is_beyond_float(found):
            return found
    kind = _kind(raw)
    if kind == "array":
        return [_any(item, root, f"{path}.{n}") for n, item in _items(raw)]
    if kind == "object":
        return {key: _any(member, root, _below(path, key)) for key, member in _members(raw)}
    raise _unfit(f"number {raw.strip(BLANK)[:LONGEST_QUOTE].decode()}", "float64", root, path)


def is_beyond_float(found: object) -> bool:
    """Whether `found` is a whole number that no float64 holds: Python has such numbers, Go's any has not."""
    return isinstance(found, int) and not -(2**1023) < found < 2**1023


def _bytes(text: str, shape: Shape, root: str, path: str) -> bytes:
    if text.startswith("data:"):  # Ollama refuses these; other servers of its API take them
        head, comma, rest = text.partition(",")
        if comma and head.endswith(";base64"):
            text = rest
    try:
        return decoded_base64(text)
    except Refused as refusal:
        raise Refused(f"{_unfit('string', shape.go_name, root, path)}: {refusal}") from None


def _unfit(what: str, go_name: str, root: str, path: str) -> Refused:
    if not path:
        return Refused(f"json: cannot unmarshal {what} into Go value of type {go_name}")
    last = path.rpartition(".")[2]
    into = "" if last and not last.strip("0123456789") else "Go struct field "
    return Refused(f"json: cannot unmarshal {what} into {into}{root}{path} of type {go_name}")


def decoded_base64(text: str) -> bytes:
    """Standard base64 with padding; line breaks are passed over.

    Raises:   Refused: `illegal base64 data at input byte n`, with n as Go counts it.
    """
    packed = text.replace("\n", "").replace("\r", "")
    if len(packed) % 4 == 0:
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(packed, validate=True)
    raise Refused(f"illegal base64 data at input byte {_illegal_at(text)}")


_ALPHABET = re.compile(rb"[A-Za-z0-9+/\r\n]*+")
_BREAKS = re.compile(rb"[\r\n]*+")


def _illegal_at(text: str) -> int:
    """Where Go's decoder stops: at the byte that does not belong, or before a last group that is too short."""
    data = text.encode()
    good = _end(_ALPHABET, data, 0)
    filled = (good - data.count(b"\n", 0, good) - data.count(b"\r", 0, good)) % 4
    if good == len(data):
        return len(data) - filled
    if data[good] != 0x3D or filled < 2:
        return good
    behind = _end(_BREAKS, data, good + 1)
    if filled == 2:  # a second = is due
        if behind == len(data):
            return len(data)
        if data[behind] != 0x3D:
            return behind - 1
        behind = _end(_BREAKS, data, behind + 1)
    return behind


def _end(pattern: re.Pattern[bytes], data: bytes, place: int) -> int:
    match = pattern.match(data, place)
    return match.end() if match else place
