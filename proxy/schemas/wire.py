"""What msgspec decodes: every field may be null, and what has several forms has them all."""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from proxy import gojson
from proxy.schemas.requests import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    PullRequest,
    PushRequest,
    Request,
    ShowRequest,
)

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _ToolFunction(msgspec.Struct):
    index: _Int64 | None = None
    name: str | None = None
    arguments: dict[str, object] | str | None = None


class WireToolCall(msgspec.Struct):
    """A `ToolCall`."""

    id: str | None = None
    function: _ToolFunction | None = None


class WireMessage(msgspec.Struct):
    """A `Message`."""

    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[bytes | None] | None = None
    tool_calls: list[WireToolCall | None] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _StrictMessage(WireMessage, forbid_unknown_fields=True):
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


checked_tools = msgspec.json.Decoder(list[_Tool | None]).decode
decoded_tools = msgspec.json.Decoder(list[dict[str, object] | None]).decode

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
    forms = _FORMS if is_strict else _FORMS | {"messages": list[WireMessage | None] | None}
    fields = [
        (field.name, forms.get(field.name, field.type | None), msgspec.field(default=None, name=field.encode_name))
        for field in msgspec.structs.fields(kind)
    ]
    return msgspec.defstruct(f"_{kind.__name__}", fields, forbid_unknown_fields=is_strict)


KINDS: Final[tuple[type[Request], ...]] = (
    GenerateRequest, ChatRequest, EmbedRequest, EmbeddingsRequest, PullRequest, PushRequest, ShowRequest, CreateRequest,
    CopyRequest, DeleteRequest,
)  # fmt: skip
WIRE: Final[dict[Any, type[msgspec.Struct]]] = {kind: _wire_type(kind, is_strict=False) for kind in KINDS}

_Decode = Callable[[bytes], Any]
_DECODE: Final[dict[Any, _Decode]] = {kind: msgspec.json.Decoder(wire).decode for kind, wire in WIRE.items()}
_DECODE_STRICTLY: Final[dict[Any, _Decode]] = {
    kind: msgspec.json.Decoder(_wire_type(kind, is_strict=True)).decode for kind in KINDS
}

_KEYS: Final[dict[Any, frozenset[str]]] = {kind: frozenset(kind.__struct_encode_fields__) for kind in (*KINDS, Message)}
_decoded_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decoded_message_members = msgspec.json.Decoder(list[dict[str, msgspec.Raw] | None]).decode


def from_wire(body: bytes, kind: type[msgspec.Struct]) -> object:
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
