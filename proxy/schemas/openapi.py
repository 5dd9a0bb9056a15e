"""The OpenAPI document: what each request body may be."""

from typing import Any, Final

import msgspec

from proxy.schemas.forms import LEVELS
from proxy.schemas.options import BOOLEAN, FLOAT, INTEGER, OPTION_TYPES, TEXTS
from proxy.schemas.requests import MAX_IMAGES, MAX_INPUTS, MAX_MESSAGES, MAX_STOPS, MAX_TOOLS, CopyRequest, Named

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
    INTEGER: {"type": "number", "description": "a float is cut towards zero"},
    FLOAT: {"type": "number"},
    BOOLEAN: {"type": "boolean"},
    TEXTS: {"type": "array", "items": _TEXT, "maxItems": MAX_STOPS},
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
    "think": {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": list(LEVELS)}]},
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
    names = _REQUIRED.get(kind) or (either_name if issubclass(kind, Named) else [{"required": ["model"]}])
    return {"type": "object", "properties": properties, "anyOf": names}
