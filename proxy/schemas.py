"""Request bodies of Ollama's API, decoded by msgspec, and by Go's rules where msgspec refuses.

A field that is absent or null has its Go zero value, or None where Ollama tells absent from zero. Unknown fields are
passed over. What is refused is refused with Ollama's text, see `gojson`; what only we refuse is under *Caps*.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec

from proxy import gojson
from proxy.errors import OllamaError
from proxy.gojson import ANY, BOOL, INT, RAW, STRING, Blob, Checked, Fields, Items, Judged, Members, OrderedMembers, Own

# ---------------------------------------------------------------------------------------------------------------------
# Caps: more than anybody sends, little enough to bound one request's work

MAX_VALUES: Final = 2_000_000
"""Of one body, as `gojson.most_values` counts: 64 MiB of `{},` would otherwise become gigabytes."""
MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 512
MAX_INPUTS: Final = 10_000
MAX_CONTEXT_IDS: Final = 2**21
MAX_STOPS: Final = 256
MAX_IMAGES: Final = 64
MAX_IMAGE_BYTES: Final = 32 * 2**20


# ---------------------------------------------------------------------------------------------------------------------
# The requests


class ToolFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What an assistant called."""

    index: int = 0
    name: str = ""
    arguments: dict[str, object] = {}


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call within an assistant's message."""

    id: str = ""
    function: ToolFunction = ToolFunction()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a chat; `role` in lower case, images as the bytes they are."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[bytes] = []
    tool_calls: list[ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/generate"""

    model: str = ""
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = []
    stream: bool | None = None
    raw: bool = False
    format: msgspec.Raw | None = None
    """As it was sent; None for absent, null and ""."""

    keep_alive: float | None = None
    """Seconds, `math.inf` for ever, 0.0 to unload."""

    images: list[bytes] = []
    options: dict[str, object] = {}
    """As they were sent: `checked_options` is called when Ollama would, after the model was found."""

    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/chat; fields as in `GenerateRequest`."""

    model: str = ""
    messages: list[Message] = []
    stream: bool | None = None
    format: msgspec.Raw | None = None
    keep_alive: float | None = None
    tools: list[dict[str, object]] = []
    options: dict[str, object] = {}
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embed"""

    model: str = ""
    input: msgspec.Raw | None = None
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: float | None = None
    options: dict[str, object] = {}


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embeddings"""

    model: str = ""
    prompt: str = ""
    keep_alive: float | None = None
    options: dict[str, object] = {}


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one model, under either of two names for its name."""

    model: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """The model's name as the client spelled it; `name`, the older field, counts where `model` is empty."""
        return self.model or self.name


class PullRequest(_Named, frozen=True, kw_only=True):
    """POST /api/pull"""

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class PushRequest(_Named, frozen=True, kw_only=True):
    """POST /api/push"""

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class ShowRequest(_Named, frozen=True, kw_only=True):
    """POST /api/show"""

    system: str = ""
    template: str = ""
    verbose: bool = False
    options: dict[str, object] = {}


class CreateRequest(_Named, frozen=True, kw_only=True):
    """POST /api/create"""

    stream: bool | None = None
    quantize: str = ""
    draft_quantize: str = ""
    from_: str = msgspec.field(default="", name="from")
    remote_host: str = ""
    files: dict[str, str] = {}
    draft_files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: object = None
    """A text or a list of texts; not checked, as Ollama does not."""

    system: str = ""
    parameters: dict[str, object] = {}
    messages: list[Message] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, object] = {}
    quantization: str = ""


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/copy"""

    source: str = ""
    destination: str = ""


class DeleteRequest(_Named, frozen=True, kw_only=True):
    """DELETE /api/delete"""


Request = (
    GenerateRequest
    | ChatRequest
    | EmbedRequest
    | EmbeddingsRequest
    | PullRequest
    | PushRequest
    | ShowRequest
    | CreateRequest
    | CopyRequest
    | DeleteRequest
)
T = TypeVar("T", bound=Request)


# ---------------------------------------------------------------------------------------------------------------------
# keep_alive and think


def parsed_keep_alive(value: object) -> float | None:
    """Seconds for a decoded `keep_alive`: None for None, `math.inf` for anything negative.

    Raises:   OllamaError: 400 with Go's text.
    """
    try:
        return _kept_alive(value)
    except gojson.Refused as refusal:
        raise OllamaError(400, str(refusal)) from None


_GO_TYPES = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def _kept_alive(value: object) -> float | None:
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


_LEVELS = ("high", "medium", "low", "max")


def _thought(value: object) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in _LEVELS:
            return value
        raise gojson.Refused(
            f'invalid think value: {gojson.quoted(value)} (must be "high", "medium", "low", "max", true, or false)'
        )
    raise gojson.Refused('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def _judged_keep_alive(raw: bytes) -> object:
    return _kept_alive(gojson.value(raw, ANY, root=""))


def _judged_think(raw: bytes) -> object:
    try:
        return _thought(msgspec.json.decode(raw))
    except msgspec.ValidationError:  # a number beyond float64
        return _thought(0)


# ---------------------------------------------------------------------------------------------------------------------
# What msgspec decodes: every field may be null, and what has several forms has them all


_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _ToolFunction(msgspec.Struct):
    index: _Int64 | None = None
    name: str | None = None
    arguments: dict[str, object] | str | None = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _ToolFunction | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[bytes | None] | None = None
    tool_calls: list[_ToolCall | None] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _StrictMessage(_Message, forbid_unknown_fields=True):
    pass


class _Property(msgspec.Struct):
    anyOf: list["_Property | None"] | None = None  # noqa: N815
    type: str | list[str | None] | None = None
    description: str | None = None
    enum: list[object] | None = None
    properties: dict[str, "_Property | None"] | None = None
    required: list[str | None] | None = None


class _Parameters(msgspec.Struct):
    type: str | None = None
    required: list[str | None] | None = None
    properties: dict[str, _Property | None] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    parameters: _Parameters | None = None


class _Tool(msgspec.Struct):
    type: str | None = None
    function: _Function | None = None


_checked_tools = msgspec.json.Decoder(list[_Tool | None]).decode
_decoded_tools = msgspec.json.Decoder(list[dict[str, object] | None]).decode

_FORMS: Final[dict[str, object]] = {
    "keep_alive": float | str | None,
    "think": bool | str | None,
    "messages": list[_StrictMessage | None] | None,
    "tools": msgspec.Raw,
    "format": msgspec.Raw,
    "input": msgspec.Raw,
    "license": object,
    "top_logprobs": _Int64 | None,
    "dimensions": _Int64 | None,
    "context": list[_Int64 | None] | None,
    "images": list[bytes | None] | None,
    "files": dict[str, str | None] | None,
    "draft_files": dict[str, str | None] | None,
    "adapters": dict[str, str | None] | None,
}


def _wire_type(kind: type[msgspec.Struct], *, is_strict: bool) -> type[msgspec.Struct]:
    forms = _FORMS if is_strict else _FORMS | {"messages": list[_Message | None] | None}
    fields = [
        (field.name, forms.get(field.name, field.type | None), msgspec.field(default=None, name=field.encode_name))
        for field in msgspec.structs.fields(kind)
    ]
    return msgspec.defstruct(f"_{kind.__name__}", fields, forbid_unknown_fields=is_strict)


_KINDS: Final[tuple[type[Request], ...]] = (
    GenerateRequest, ChatRequest, EmbedRequest, EmbeddingsRequest, PullRequest, PushRequest, ShowRequest, CreateRequest,
    CopyRequest, DeleteRequest,
)  # fmt: skip
_WIRE: Final[dict[Any, type[msgspec.Struct]]] = {kind: _wire_type(kind, is_strict=False) for kind in _KINDS}

_Decode = Callable[[bytes], Any]
_DECODE: Final[dict[Any, _Decode]] = {kind: msgspec.json.Decoder(wire).decode for kind, wire in _WIRE.items()}
_DECODE_STRICTLY: Final[dict[Any, _Decode]] = {
    kind: msgspec.json.Decoder(_wire_type(kind, is_strict=True)).decode for kind in _KINDS
}

_KEYS: Final[dict[Any, frozenset[str]]] = {
    kind: frozenset(kind.__struct_encode_fields__) for kind in (*_KINDS, Message)
}
_decoded_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decoded_message_members = msgspec.json.Decoder(list[dict[str, msgspec.Raw] | None]).decode


def _wire(body: bytes, kind: type[msgspec.Struct]) -> object:
    """`body` as msgspec alone decodes it.

    msgspec passes over unknown keys, and to it `Model` is unknown, while Go takes it for `model`. So unknown keys are
    refused at first, and passed over only after a look that none of them is a known one in another case.
    """
    try:
        return _DECODE_STRICTLY[kind](body)
    except msgspec.ValidationError:
        members = _decoded_members(body)
        odd = _has_odd_case(members, kind)
        if not odd and "messages" in members:
            messages = _decoded_message_members(members["messages"]) or []
            odd = any(_has_odd_case(message, Message) for message in messages if message)
        if odd:
            raise
    return _DECODE[kind](body)


def _has_odd_case(members: dict[str, msgspec.Raw], kind: type[msgspec.Struct]) -> bool:
    known = _KEYS[kind]
    return any(gojson.folded(key) in known for key in members.keys() - known)


# ---------------------------------------------------------------------------------------------------------------------
# The same, as Go has it

_PROPERTY_FIELDS: dict[str, gojson.Shape] = {}
_PROPERTY = Fields("api.ToolProperty", _PROPERTY_FIELDS)
_PROPERTIES = OrderedMembers("api.ToolPropertiesMap", _PROPERTY, "ToolProperty")


def _judged_property_type(raw: bytes) -> object:
    try:
        return gojson.value(raw, STRING, root="")
    except gojson.Refused:
        return gojson.value(raw, Items("[]string", STRING), root="")


_PROPERTY_FIELDS.update({
    "anyOf": Items("[]api.ToolProperty", _PROPERTY),
    "type": Judged("api.PropertyType", _judged_property_type),
    "items": ANY,
    "description": STRING,
    "enum": Items("[]interface {}", ANY),
    "properties": _PROPERTIES,
    "required": Items("[]string", STRING),
})  # fmt: skip

_PARAMETERS = Fields("api.ToolFunctionParameters", {
    "type": STRING, "$defs": ANY, "items": ANY, "required": Items("[]string", STRING), "properties": _PROPERTIES,
})  # fmt: skip
_FUNCTION = Fields("api.ToolFunction", {"name": STRING, "description": STRING, "parameters": _PARAMETERS})
_TOOL = Checked("api.Tool", Fields("api.Tool", {"type": STRING, "items": ANY, "function": _FUNCTION}))
_IMAGES = Items("[]api.ImageData", Blob("api.ImageData"))
_CALL = Fields("api.ToolCall", {
    "id": STRING,
    "function": Fields("api.ToolCallFunction", {
        "index": INT,
        "name": STRING,
        "arguments": OrderedMembers("api.ToolCallFunctionArguments", ANY, "", takes_text=True),
    }),
})  # fmt: skip
_MESSAGE = Own("api.Message", Fields("api.Alias", {
    "role": STRING, "content": STRING, "thinking": STRING, "images": _IMAGES,
    "tool_calls": Items("[]api.ToolCall", _CALL), "tool_name": STRING, "tool_call_id": STRING,
}), "Alias")  # fmt: skip
_ANY_MAP = Members("map[string]interface {}", ANY)
_STRING_MAP = Members("map[string]string", STRING)

_SHAPES: Final[dict[str, gojson.Shape]] = {
    "context": Items("[]int", INT),
    "format": RAW,
    "keep_alive": Judged("api.Duration", _judged_keep_alive),
    "images": _IMAGES,
    "options": _ANY_MAP,
    "think": Judged("api.ThinkValue", _judged_think),
    "messages": Items("[]api.Message", _MESSAGE),
    "tools": Items("api.Tools", _TOOL),
    "input": ANY,
    "license": ANY,
    "files": _STRING_MAP,
    "draft_files": _STRING_MAP,
    "adapters": _STRING_MAP,
    "parameters": _ANY_MAP,
    "info": _ANY_MAP,
}
_PLAIN_SHAPES: Final[dict[object, gojson.Shape]] = {str: STRING, bool: BOOL, bool | None: BOOL, int: INT}


def _go_name(kind: type) -> str:
    return "EmbeddingRequest" if kind is EmbeddingsRequest else kind.__name__


def _shape(kind: type[msgspec.Struct]) -> Fields:
    return Fields(
        f"api.{_go_name(kind)}",
        {
            field.encode_name: _SHAPES[field.name] if field.name in _SHAPES else _PLAIN_SHAPES[field.type]
            for field in msgspec.structs.fields(kind)
        },
    )


_GO_SHAPES: Final[dict[Any, Fields]] = {kind: _shape(kind) for kind in _KINDS}


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def decoded(
    body: bytes,
    kind: type[T],
    *,
    max_depth: int,
    max_images: int = MAX_IMAGES,
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> T:
    """The request in `body`, whatever its Content-Type says.

    Raises:   OllamaError: 400, in Go's words, or ours for a cap.
    """
    if len(body) > MAX_VALUES and gojson.most_values(body) > MAX_VALUES:
        raise OllamaError(400, f"too many values in the request: at most {MAX_VALUES} are taken")
    try:
        request = _request(_wire(body, kind), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, gojson.Refused) as why:
        request = _request_as_go(body, kind, why, max_depth=max_depth)
    else:
        if gojson.depth(body, limit=max_depth) > max_depth:
            raise OllamaError(400, "exceeded max depth")
    _check_caps(request, max_images=max_images, max_image_bytes=max_image_bytes)
    return request


def _request_as_go(body: bytes, kind: type[T], why: Exception, *, max_depth: int) -> T:
    """The request as Go decodes it, slower by two orders of magnitude, or its refusal in Go's words."""
    if isinstance(why, RecursionError):
        raise OllamaError(400, "exceeded max depth")
    if not gojson.is_explained(body):
        raise OllamaError(400, f"invalid JSON: {why}")
    try:
        raw = gojson.first_value(body, max_depth=max_depth)
        found = gojson.value(raw, _GO_SHAPES[kind], root=_go_name(kind))
    except gojson.Refused as refusal:
        raise OllamaError(400, str(refusal) or "missing request body") from None
    members = cast("dict[str, object]", found or {})
    for name in {"tools", "input"} & members.keys():
        members[name] = msgspec.Raw(msgspec.json.encode(members[name]))
    return _request(msgspec.convert(members, _WIRE[kind]), kind)


def _request(wire: object, kind: type[T]) -> T:
    """The request from what was decoded; raises what msgspec and gojson raise."""
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        value = getattr(wire, name)
        if value is not None:
            finish = _FINISH.get(name)
            values[name] = finish(value) if finish else value
    return kind(**values)


def _messages(found: list[_Message | None]) -> list[Message]:
    return [_message(one) if one else Message() for one in found]


def _message(found: _Message) -> Message:
    role = found.role or ""
    return Message(
        role=role if role.islower() else role.lower(),
        content=found.content or "",
        thinking=found.thinking or "",
        images=_blobs(found.images) if found.images else [],
        tool_calls=[_tool_call(one) for one in found.tool_calls] if found.tool_calls else [],
        tool_name=found.tool_name or "",
        tool_call_id=found.tool_call_id or "",
    )


def _tool_call(found: _ToolCall | None) -> ToolCall:
    if not found or not found.function:
        return ToolCall(id=(found.id or "") if found else "")
    called = found.function
    arguments = called.arguments or {}
    if isinstance(arguments, str):
        arguments = _decoded_arguments(arguments.encode())
    function = ToolFunction(index=called.index or 0, name=called.name or "", arguments=arguments)
    return ToolCall(id=found.id or "", function=function)


_decoded_arguments = msgspec.json.Decoder(dict[str, object]).decode


def _tools(raw: msgspec.Raw) -> list[dict[str, object]]:
    if bytes(memoryview(raw)[:4]) in (b"null", b"[]"):
        return []
    _checked_tools(raw)  # what Ollama refuses; the tools themselves keep every key, for vLLM knows more than Ollama
    return [tool or {} for tool in _decoded_tools(raw)]


def _starts(raw: msgspec.Raw, start: bytes) -> bool:
    return bytes(memoryview(raw)[: len(start)]) == start


def _format(raw: msgspec.Raw) -> msgspec.Raw | None:
    text = bytes(raw).decode()  # msgspec passes over a Raw without a look at its UTF-8
    return None if text.strip() in ("null", '""') else msgspec.Raw(raw)


def _input(raw: msgspec.Raw) -> msgspec.Raw | None:
    if _starts(raw, b"null"):
        return None
    try:
        _decoded_texts(raw)
    except msgspec.ValidationError:
        msgspec.json.decode(raw)  # no texts: what it is, the handler asks; here only that Go would take its numbers
    return msgspec.Raw(raw)


_decoded_texts = msgspec.json.Decoder(str | list[str]).decode


def _blobs(found: list[bytes | None]) -> list[bytes]:
    return [one or b"" for one in found]


def _ids(found: list[int | None]) -> list[int]:
    return [one or 0 for one in found]


def _texts_by_name(found: dict[str, str | None]) -> dict[str, str]:
    return {name: text or "" for name, text in found.items()}


def _any_map(found: dict[str, object]) -> dict[str, object]:
    if any(map(gojson.is_beyond_float, found.values())):
        raise gojson.Refused
    return found


_FINISH: Final[dict[str, Callable[[Any], object]]] = {
    "keep_alive": _kept_alive,
    "think": _thought,
    "messages": _messages,
    "tools": _tools,
    "format": _format,
    "input": _input,
    "options": _any_map,
    "parameters": _any_map,
    "info": _any_map,
    "images": _blobs,
    "context": _ids,
    "files": _texts_by_name,
    "draft_files": _texts_by_name,
    "adapters": _texts_by_name,
}


def _check_caps(request: Request, *, max_images: int, max_image_bytes: int) -> None:
    match request:
        case GenerateRequest():
            _check_images(request.images, most=max_images, most_bytes=max_image_bytes)
            _at_most(len(request.context), MAX_CONTEXT_IDS, "context ids")
        case ChatRequest():
            _at_most(len(request.messages), MAX_MESSAGES, "messages")
            _at_most(len(request.tools), MAX_TOOLS, "tools")
            images = [image for message in request.messages if message.images for image in message.images]
            _check_images(images, most=max_images, most_bytes=max_image_bytes)
        case CreateRequest():
            _at_most(len(request.messages), MAX_MESSAGES, "messages")
        case EmbedRequest() if request.input is not None and _starts(request.input, b"["):
            _at_most(len(_decoded_items(request.input)), MAX_INPUTS, "inputs")


_decoded_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _check_images(images: list[bytes], *, most: int, most_bytes: int) -> None:
    _at_most(len(images), most, "images")
    for image in images:
        if len(image) > most_bytes:
            raise OllamaError(400, f"an image has {len(image)} bytes: at most {most_bytes} are taken")


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise OllamaError(400, f"too many {what}: {count}, at most {most} are taken")


# ---------------------------------------------------------------------------------------------------------------------
# Options

_INTEGER, _FLOAT, _BOOLEAN, _TEXTS = "integer", "float32", "boolean", "array"

OPTION_TYPES: Final = {
    "num_keep": _INTEGER,
    "seed": _INTEGER,
    "num_predict": _INTEGER,
    "top_k": _INTEGER,
    "top_p": _FLOAT,
    "min_p": _FLOAT,
    "typical_p": _FLOAT,
    "repeat_last_n": _INTEGER,
    "temperature": _FLOAT,
    "repeat_penalty": _FLOAT,
    "presence_penalty": _FLOAT,
    "frequency_penalty": _FLOAT,
    "stop": _TEXTS,
    "num_ctx": _INTEGER,
    "num_batch": _INTEGER,
    "num_gpu": _INTEGER,
    "main_gpu": _INTEGER,
    "use_mmap": _BOOLEAN,
    "num_thread": _INTEGER,
    "draft_num_predict": _INTEGER,
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
    if kind == _INTEGER and is_number:
        return _truncated(cast("float", value))
    if kind == _FLOAT and is_number:
        return math.inf if gojson.is_beyond_float(value) else float(cast("float", value))
    if kind == _BOOLEAN and isinstance(value, bool):
        return value
    if kind == _TEXTS and isinstance(value, list):
        if not all(isinstance(text, str) for text in value):
            raise OllamaError(500, f'option "{name}" must be of an array of strings')
        _at_most(len(value), MAX_STOPS, "stop strings")
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


# ---------------------------------------------------------------------------------------------------------------------
# The OpenAPI document

_Json = dict[str, Any]


def _or_null(schema: _Json) -> _Json:
    return {"anyOf": [schema, {"type": "null"}]}


_TEXT: _Json = {"type": "string"}
_MODEL_NAME: _Json = {
    "type": "string",
    "maxLength": 512,
    "description": "[host/][namespace/]model[:tag]; case does not matter, and `:latest` may be left out",
}
_BASE64: _Json = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "a png, jpeg, webp or gif, in base64 with padding; a data: URI is taken too",
}
_KEEP_ALIVE: _Json = {
    "anyOf": [
        {"type": "number", "description": "seconds; negative: for ever; 0: unload"},
        {"type": "string", "pattern": r"^[-+]?(0|(([0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h))+)$"},
    ],
    "description": "how long the model is said to stay loaded: seconds, or a duration such as 5m",
}
_OPTION_SCHEMAS: Final[dict[str, _Json]] = {
    _INTEGER: {"type": "number", "description": "a float is cut towards zero"},
    _FLOAT: {"type": "number"},
    _BOOLEAN: {"type": "boolean"},
    _TEXTS: {"type": "array", "items": _TEXT, "maxItems": MAX_STOPS},
}
_OPTIONS: _Json = {
    "type": "object",
    "properties": {name: _or_null(_OPTION_SCHEMAS[kind]) for name, kind in OPTION_TYPES.items()},
    "description": "unknown options are passed over",
}
_CALL_SCHEMA: _Json = {
    "type": "object",
    "properties": {
        "id": _or_null(_TEXT),
        "function": {
            "type": "object",
            "properties": {
                "index": _or_null({"type": "integer", "minimum": 0, "maximum": 2**31}),
                "name": _or_null(_TEXT),
                "arguments": {"type": "object", "description": "the same as a JSON string is taken too"},
            },
        },
    },
}
_MESSAGES: _Json = {
    "type": "array",
    "maxItems": MAX_MESSAGES,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "examples": ["system", "user", "assistant", "tool"]},
            "content": _or_null(_TEXT),
            "thinking": _or_null(_TEXT),
            "images": _or_null({"type": "array", "items": _BASE64, "maxItems": MAX_IMAGES}),
            "tool_calls": _or_null({"type": "array", "items": _CALL_SCHEMA}),
            "tool_name": _or_null(_TEXT),
            "tool_call_id": _or_null(_TEXT),
        },
    },
}
_TOOLS: _Json = {
    "type": "array",
    "maxItems": MAX_TOOLS,
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "type": {"type": "string", "const": "function"},
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": _TEXT,
                    "description": _TEXT,
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "type": _TEXT,
                            "required": {"type": "array", "items": _TEXT},
                            "properties": {"type": "object", "additionalProperties": {"type": "object"}},
                        },
                        "description": "a JSON Schema of type object",
                    },
                },
            },
        },
    },
}
_NAMES_TO_TEXTS: _Json = {"type": "object", "additionalProperties": _TEXT}

_FIELD_SCHEMAS: Final[dict[str, _Json]] = {
    "model": _MODEL_NAME,
    "name": _MODEL_NAME | {"description": "older form of `model`, which wins"},
    "source": _MODEL_NAME,
    "destination": _MODEL_NAME,
    "from": _MODEL_NAME,
    "context": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31}},
    "format": {"anyOf": [{"type": "string", "enum": ["", "json"]}, {"type": "object"}], "description": "a JSON Schema"},
    "keep_alive": _KEEP_ALIVE,
    "images": {"type": "array", "items": _BASE64, "maxItems": MAX_IMAGES},
    "options": _OPTIONS,
    "think": {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": list(_LEVELS)}]},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "messages": _MESSAGES,
    "tools": _TOOLS,
    "input": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": MAX_INPUTS}]},
    "dimensions": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "files": _NAMES_TO_TEXTS,
    "draft_files": _NAMES_TO_TEXTS,
    "adapters": _NAMES_TO_TEXTS,
    "license": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
    "parameters": _OPTIONS,
    "info": {"type": "object"},
    "stream": {"type": "boolean", "default": True},
}
_PLAIN_SCHEMAS: Final[dict[object, _Json]] = {
    str: _TEXT,
    bool: {"type": "boolean", "default": False},
    bool | None: {"type": "boolean"},
}
_REQUIRED: Final[dict[Any, list[_Json]]] = {CopyRequest: [{"required": ["source", "destination"]}]}


def openapi_body(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """OpenAPI's `requestBody` for a kind of request; JSON is read whatever the content type."""
    return {"required": True, "content": {"application/json": {"schema": body_schema(kind)}}}


def body_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a request body; what it takes is decoded, though a handler may still refuse it."""
    properties = {}
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        properties[name] = _or_null(_FIELD_SCHEMAS.get(name) or _PLAIN_SCHEMAS[field.type])
    either_name = [{"required": ["model"]}, {"required": ["name"]}]
    names = _REQUIRED.get(kind) or (either_name if issubclass(kind, _Named) else [{"required": ["model"]}])
    return {"type": "object", "properties": properties, "anyOf": names}
