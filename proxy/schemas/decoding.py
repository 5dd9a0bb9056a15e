"""From a request's body to its record, or to the refusal that Ollama would give."""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from proxy import gojson
from proxy.errors import OllamaError
from proxy.schemas.forms import kept_alive, thought
from proxy.schemas.go_shapes import GO_SHAPES, go_name
from proxy.schemas.requests import (
    MAX_CONTEXT_IDS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_VALUES,
    ChatRequest,
    CreateRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    Request,
    T,
    ToolCall,
    ToolFunction,
    at_most,
)
from proxy.schemas.wire import WIRE, WireMessage, WireToolCall, checked_tools, decoded_tools, from_wire


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
        request = _request(from_wire(body, kind), kind)
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
        found = gojson.value(raw, GO_SHAPES[kind], root=go_name(kind))
    except gojson.Refused as refusal:
        raise OllamaError(400, str(refusal) or "missing request body") from None
    members = cast("dict[str, object]", found or {})
    for name in {"tools", "input"} & members.keys():
        members[name] = msgspec.Raw(msgspec.json.encode(members[name]))
    return _request(msgspec.convert(members, WIRE[kind]), kind)


def _request(wire: object, kind: type[T]) -> T:
    """The request from what was decoded; raises what msgspec and gojson raise."""
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        value = getattr(wire, name)
        if value is not None:
            finish = _FINISH.get(name)
            values[name] = finish(value) if finish else value
    return kind(**values)


def _messages(found: list[WireMessage | None]) -> list[Message]:
    return [_message(one) if one else Message() for one in found]


def _message(found: WireMessage) -> Message:
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


def _tool_call(found: WireToolCall | None) -> ToolCall:
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
    checked_tools(raw)  # what Ollama refuses; the tools themselves keep every key, for vLLM knows more than Ollama
    return [tool or {} for tool in decoded_tools(raw)]


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
    "keep_alive": kept_alive,
    "think": thought,
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
            at_most(len(request.context), MAX_CONTEXT_IDS, "context ids")
        case ChatRequest():
            at_most(len(request.messages), MAX_MESSAGES, "messages")
            at_most(len(request.tools), MAX_TOOLS, "tools")
            images = [image for message in request.messages if message.images for image in message.images]
            _check_images(images, most=max_images, most_bytes=max_image_bytes)
        case CreateRequest():
            at_most(len(request.messages), MAX_MESSAGES, "messages")
        case EmbedRequest() if request.input is not None and _starts(request.input, b"["):
            at_most(len(_decoded_items(request.input)), MAX_INPUTS, "inputs")


_decoded_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _check_images(images: list[bytes], *, most: int, most_bytes: int) -> None:
    at_most(len(images), most, "images")
    for image in images:
        if len(image) > most_bytes:
            raise OllamaError(400, f"an image has {len(image)} bytes: at most {most_bytes} are taken")
