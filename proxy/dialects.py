"""The APIs under /v1 as data: which fields of a request pass to vLLM, what is refused of it, and how errors read. Pure.

The texts are Ollama's, as it words them for a body that it cannot decode or a model that lacks an ability.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from proxy import gojson
from proxy.catalog import Model
from proxy.errors import OllamaError

MAX_CHOICES: Final = 8
"""Of `n`: every choice costs as much as a request of its own."""

EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")
"""Reasoning efforts that Ollama takes, in the order in which it lists them."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One of vLLM's endpoints, and what of a request to it passes."""

    path: str
    go_name: str
    """The type that Ollama decodes the body into; its errors name it."""

    fields: frozenset[str]
    """What is sent on; anything else is dropped, as Ollama passes over what it does not know."""

    types: Mapping[str, str]
    """Field → Go type: what Ollama would refuse, is."""

    verb: str = "chat"
    """What a model must be able to do: `"m" does not support chat`."""

    is_anthropic: bool = False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAMPLING: Final = _names(
    "temperature top_p top_k min_p seed stop frequency_penalty presence_penalty repetition_penalty logit_bias "
    "max_tokens min_tokens ignore_eos stop_token_ids skip_special_tokens include_stop_str_in_output n"
)
_COMMON: Final = _names("model stream stream_options user response_format return_token_ids")
_NUMBERS: Final = {
    "temperature": "float64",
    "top_p": "float64",
    "frequency_penalty": "float64",
    "presence_penalty": "float64",
    "max_tokens": "int",
    "seed": "int",
    "stream": "bool",
    "stream_options": "openai.StreamOptions",
}

CHAT: Final = Dialect(
    path="/v1/chat/completions",
    go_name="ChatCompletionRequest",
    fields=_SAMPLING
    | _COMMON
    | _names(
        "messages tools tool_choice parallel_tool_calls logprobs top_logprobs max_completion_tokens reasoning_effort "
        "continue_final_message add_generation_prompt"
    ),
    types=_NUMBERS
    | {
        "model": "string",
        "messages": "[]openai.Message",
        "response_format": "openai.ResponseFormat",
        "tools": "[]api.Tool",
        "reasoning": "openai.Reasoning",
        "reasoning_effort": "string",
        "logprobs": "bool",
        "top_logprobs": "int",
    },
)
COMPLETIONS: Final = Dialect(
    path="/v1/completions",
    go_name="CompletionRequest",
    fields=_SAMPLING | _COMMON | _names("prompt suffix logprobs"),
    types={name: kind.replace("float64", "float32") for name, kind in _NUMBERS.items()}
    | {"model": "string", "suffix": "string", "logprobs": "int"},
    verb="generate",
)
EMBEDDINGS: Final = Dialect(
    path="/v1/embeddings",
    go_name="EmbedRequest",
    fields=_names("model input dimensions encoding_format"),
    types={"model": "string", "dimensions": "int", "encoding_format": "string"},
)
RESPONSES: Final = Dialect(
    path="/v1/responses",
    go_name="ResponsesRequest",
    fields=_names(
        "model input instructions max_output_tokens metadata parallel_tool_calls reasoning service_tier stream "
        "temperature top_p top_k text tool_choice tools top_logprobs truncation user include"
    ),
    types={
        "model": "string",
        "instructions": "string",
        "temperature": "float64",
        "top_p": "float64",
        "max_output_tokens": "int",
        "stream": "bool",
    },
)
MESSAGES: Final = Dialect(
    path="/v1/messages",
    go_name="MessagesRequest",
    fields=_names(
        "model messages max_tokens system temperature top_p top_k stop_sequences stream tools tool_choice metadata "
        "thinking output_config"
    ),
    types={
        "model": "string",
        "max_tokens": "int",
        "messages": "[]anthropic.MessageParam",
        "temperature": "float64",
        "top_p": "float64",
        "top_k": "int",
        "stop_sequences": "[]string",
        "stream": "bool",
    },
    is_anthropic=True,
)
TRANSCRIPTIONS: Final = Dialect(
    path="/v1/audio/transcriptions",
    go_name="TranscriptionRequest",
    fields=_names("file model language prompt response_format temperature stream timestamp_granularities[]"),
    types={},
    verb="transcription",
)


# ---------------------------------------------------------------- requests


def checked_body(body: bytes, dialect: Dialect, *, max_depth: int) -> dict[str, Any]:
    """The request's fields, names as vLLM has them. Raises what Ollama says while it decodes a body: 400."""
    try:
        told: object = msgspec.json.decode(gojson.first_value(body, max_depth=max_depth))
    except gojson.Refused as why:
        raise OllamaError(400, str(why) or "EOF") from None
    except msgspec.DecodeError as why:
        raise OllamaError(400, f"invalid JSON: {why}") from None
    if told is None:
        told = {}
    if not isinstance(told, dict):
        package = "anthropic" if dialect.is_anthropic else "openai"
        raise OllamaError(
            400, f"json: cannot unmarshal {_kind(told)} into Go value of type {package}.{dialect.go_name}"
        )
    known = {gojson.folded(name): name for name in dialect.fields | dialect.types.keys()}
    asked = {known[folded]: value for key, value in told.items() if (folded := gojson.folded(key)) in known}
    for name, value in asked.items():
        _check_type(name, value, dialect)
    if dialect is CHAT:
        _check_chat(asked)
    if dialect is COMPLETIONS and not isinstance(asked.get("prompt"), (str, list, type(None))):
        _unfit(_kind(asked["prompt"]), "CompletionRequest.prompt", "string")
    if dialect is EMBEDDINGS:
        _check_embeddings(asked)
    if dialect is MESSAGES:
        _check_messages(asked)
    _check_effort(asked)
    check_media(asked)
    return asked


_KINDS: Final[dict[type, str]] = {str: "string", bool: "bool", int: "number", float: "number", list: "array"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "object")


def _check_type(name: str, value: object, dialect: Dialect) -> None:
    wanted = dialect.types.get(name)
    if wanted is None or value is None:
        return
    kind = _kind(value)
    takes = {"string": "string", "bool": "bool", "int": "number", "float64": "number", "float32": "number"}.get(
        wanted, "array" if wanted.startswith("[]") else "object"
    )
    told = kind
    if wanted == "int" and kind == "number" and not (isinstance(value, int) and -(2**63) <= value < 2**63):
        told = f"number {value}"
    elif kind == takes:
        return
    _unfit(told, f"{dialect.go_name}.{name}", wanted)


def _unfit(told: str, field: str, wanted: str) -> NoReturn:
    raise OllamaError(400, f"json: cannot unmarshal {told} into Go struct field {field} of type {wanted}")


_PARTS: Final = _names("text image_url input_audio audio_url video_url refusal thinking")
"""Types of a message's parts that vLLM reads."""

_GO_KINDS: Final[dict[type, str]] = {bool: "bool", int: "float64", float: "float64", dict: "map[string]interface {}"}


def _check_chat(asked: dict[str, Any]) -> None:
    if not asked.get("messages"):
        raise OllamaError(400, "[] is too short - 'messages'")
    for message in asked["messages"]:
        if not isinstance(message, dict):
            _unfit(_kind(message), "ChatCompletionRequest.messages", "openai.Message")
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise OllamaError(400, "invalid message content type: <nil>")
        if not isinstance(content, (str, list, type(None))):
            raise OllamaError(400, f"invalid message content type: {_GO_KINDS[type(content)]}")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict) or str(part.get("type")) not in _PARTS:
                raise OllamaError(400, "invalid message format")


def _check_embeddings(asked: dict[str, Any]) -> None:
    if asked.get("input") is None or asked["input"] == []:
        raise OllamaError(400, "invalid input")
    encoding = str(asked.get("encoding_format") or "float")
    if encoding.lower() not in ("float", "base64"):
        raise OllamaError(
            400, f"Invalid value for 'encoding_format' = {encoding[:80]}. Supported values: ['float', 'base64']."
        )


def _check_messages(asked: dict[str, Any]) -> None:
    if not asked.get("model"):
        raise OllamaError(400, "model is required")
    if (asked.get("max_tokens") or 0) <= 0:
        raise OllamaError(400, "max_tokens is required and must be positive")
    if not asked.get("messages"):
        raise OllamaError(400, "messages is required")


def effort_of(asked: Mapping[str, Any]) -> object:
    """The reasoning effort that a request names, in either of two places; None: it names none."""
    reasoning = asked.get("reasoning")
    named = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return named or asked.get("reasoning_effort") or None


def _check_effort(asked: dict[str, Any]) -> None:
    effort = effort_of(asked)
    if effort is not None and effort not in EFFORTS:
        listed = ", ".join(f'"{one}"' for one in EFFORTS[:-1])
        said = gojson.quoted(str(effort)[:80])
        raise OllamaError(400, f'invalid reasoning value: {said} (must be {listed}, or "{EFFORTS[-1]}")')


IMAGE_URL: Final = "image URLs are not currently supported, please use base64 encoded data instead"
IMAGE_SOURCE: Final = "invalid image source type: url. Only base64 images are supported."
_NOT_READ: Final = _names("parameters input_schema schema json_schema arguments metadata")
"""Members that vLLM hands to the model or to its grammar: an address within them is never fetched."""


def check_media(asked: object) -> None:
    """Refuses every address that vLLM would fetch from: media travel within the request (`data:`), as with Ollama."""
    waiting: list[object] = [asked]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, dict):
            continue
        if node.get("type") == "url" and "url" in node:
            raise OllamaError(400, IMAGE_SOURCE)
        for key, value in node.items():
            if key in _NOT_READ or (key == "input" and node.get("type") == "tool_use"):
                continue
            if key.endswith("_url"):
                address = value.get("url") if isinstance(value, dict) else value
                if isinstance(address, str) and not address.startswith("data:"):
                    raise OllamaError(400, IMAGE_URL)
            waiting.append(value)


def checked_for(asked: dict[str, Any], name: str, model: Model, dialect: Dialect) -> None:
    """Refuses what this model, or the proxy, does not do; Ollama does so after it has found the model."""
    if dialect is CHAT and not 0 <= (asked.get("top_logprobs") or 0) <= 20:
        raise OllamaError(400, "top_logprobs must be between 0 and 20")
    if effort_of(asked) not in (None, "none") and "thinking" not in model.capabilities:
        raise OllamaError(400, f'"{name}" does not support thinking')
    choices = asked.get("n")
    if isinstance(choices, int) and choices > MAX_CHOICES:
        raise OllamaError(400, f"n is {choices}, at most {MAX_CHOICES} are made")
    wanted = asked.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") not in (None, "text", "json_object", "json_schema"):
        raise OllamaError(400, "response_format must be of type text, json_object or json_schema")
    tools = asked.get("tools")
    if dialect is RESPONSES and isinstance(tools, list):
        for tool in tools:
            if not isinstance(tool, dict) or tool.get("type") != "function":
                raise OllamaError(400, "only tools of type function are supported")


def upstream_body(asked: dict[str, Any], model: Model, dialect: Dialect) -> dict[str, Any]:
    """What vLLM is sent: the fields that pass, with its own id for the model.

    What means nothing to Ollama, and what vLLM refuses, is left out: no tools, no suffix, options of no stream.
    """
    body = {name: value for name, value in asked.items() if name in dialect.fields} | {"model": model.served_id}
    if not body.get("suffix"):
        body.pop("suffix", None)
    if not body.get("stream"):
        body.pop("stream_options", None)
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema" and not wanted.get("json_schema"):
        del body["response_format"]
    if not body.get("tools"):
        body.pop("tools", None)
        body.pop("tool_choice", None)
    if dialect is CHAT:
        body.pop("reasoning_effort", None)
        if (effort := effort_of(asked)) is not None:
            body["reasoning_effort"] = _known_effort(effort)
    elif (effort := effort_of(asked)) is not None:
        body["reasoning"] = {**body["reasoning"], "effort": _known_effort(effort)}
    return body


def _known_effort(effort: object) -> object:
    return "max" if effort == "ultra" else effort  # which vLLM does not know


# ---------------------------------------------------------------- errors


_OPENAI_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES: Final = _OPENAI_TYPES | {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(why: OllamaError, dialect: Dialect) -> dict[str, object]:
    """OpenAI's or Anthropic's error object."""
    if dialect.is_anthropic:
        told = {"type": _ANTHROPIC_TYPES.get(why.status, "api_error"), "message": why.text}
        return {"type": "error", "error": told, "request_id": f"req_{secrets.token_hex(12)}"}
    kind = _OPENAI_TYPES.get(why.status, "api_error")
    return {"error": {"message": why.text, "type": kind, "param": None, "code": None}}
