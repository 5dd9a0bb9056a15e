"""The same requests as Go decodes them, in the words of `gojson`."""

from typing import Any, Final

import msgspec

from proxy import gojson
from proxy.gojson import ANY, BOOL, INT, RAW, STRING, Blob, Checked, Fields, Items, Judged, Members, OrderedMembers, Own
from proxy.schemas.forms import judged_keep_alive, judged_think
from proxy.schemas.requests import EmbeddingsRequest
from proxy.schemas.wire import KINDS

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
    "keep_alive": Judged("api.Duration", judged_keep_alive),
    "images": _IMAGES,
    "options": _ANY_MAP,
    "think": Judged("api.ThinkValue", judged_think),
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


def go_name(kind: type) -> str:
    """What Ollama's source calls a kind of request."""
    return "EmbeddingRequest" if kind is EmbeddingsRequest else kind.__name__


def _shape(kind: type[msgspec.Struct]) -> Fields:
    return Fields(
        f"api.{go_name(kind)}",
        {
            field.encode_name: _SHAPES[field.name] if field.name in _SHAPES else _PLAIN_SHAPES[field.type]
            for field in msgspec.structs.fields(kind)
        },
    )


GO_SHAPES: Final[dict[Any, Fields]] = {kind: _shape(kind) for kind in KINDS}
