"""What Ollama answers beside generation: which models there are, what they are, which are loaded, names for them.

Nothing here fetches, stores or sends model files, and no host that a client names is ever asked.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from proxy import translate, weights
from proxy.answers import json_response, progress_response
from proxy.catalog import Catalog, Model, timestamp
from proxy.errors import ModelNotFound, OllamaError
from proxy.gojson import quoted
from proxy.guard import is_loopback, read_body
from proxy.names import INVALID_NAME, given, referenced
from proxy.schemas import (
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    PullRequest,
    PushRequest,
    ShowRequest,
    checked_options,
    decoded,
)
from proxy.settings import Settings
from proxy.upstream import Upstream

if TYPE_CHECKING:
    from proxy.app import Proxy

COPILOT: Final = "GitHubCopilotChat/"
PARAMETER_WIDTH: Final = 30
MAX_TENSORS: Final = 2_000
"""Of a model of experts there are tens of thousands: more are listed only where `verbose` asks for them."""

MAX_HASHED_BYTES: Final = 2**20
"""A larger upload is refused unread."""

PROGRESS_TYPE: Final = "application/json"
"""Of pull, push and create where they do not stream, unlike all other JSON."""

T = TypeVar("T", PullRequest, PushRequest, ShowRequest, CreateRequest, CopyRequest, DeleteRequest)


# ---------------------------------------------------------------- the server


async def root(_request: Request) -> Response:
    """What clients look for to see whether Ollama is there."""
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    """A version of Ollama's, by which clients tell what they may ask."""
    return json_response({"version": _proxy(request).settings.version})


async def status(_request: Request) -> Response:
    """That Ollama's cloud is not to be had here."""
    return json_response({"cloud": {"disabled": True, "source": "config"}})


async def me(_request: Request) -> Response:
    """There are no accounts; as Ollama answers where it cannot reach its own."""
    return json_response({"error": "account unavailable"}, status=503)


async def signout(_request: Request) -> Response:
    """There are no accounts; as Ollama answers where it cannot reach its own."""
    return json_response({"error": "there was an error signing out"}, status=500)


async def recommendations(_request: Request) -> Response:
    """No models to pull: none can be."""
    return json_response({"recommendations": []})


# ---------------------------------------------------------------- which models there are


async def tags(request: Request) -> Response:
    """All models, the latest changed first."""
    return json_response({"models": [listed(model) for model in await _proxy(request).catalog.models()]})


def listed(model: Model) -> dict[str, Any]:
    """A model as /api/tags has it."""
    details = {**model.details, "context_length": model.max_model_len}
    if model.facts.embedding_length is not None:
        details["embedding_length"] = model.facts.embedding_length
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified_at,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": details,
        "capabilities": list(model.capabilities),
    }


async def ps(request: Request) -> Response:
    """The models that would be loaded in Ollama, the longest kept first."""
    proxy = _proxy(request)
    running = await asyncio.gather(*(is_running(upstream) for upstream in proxy.upstreams))
    up = [upstream for upstream, runs in zip(proxy.upstreams, running, strict=True) if runs]
    loaded: list[tuple[int, dict[str, Any]]] = []
    for model in await proxy.catalog.models():
        ends_ns = proxy.residency.expires_ns(model.name, is_alias=model.is_alias)
        if ends_ns is not None and model.upstream in up:
            loaded.append((ends_ns, await resident(proxy.catalog, model, ends_ns)))
    loaded.sort(key=lambda entry: -(entry[0] // 10**9))
    return json_response({"models": [entry for _, entry in loaded]})


async def is_running(upstream: Upstream) -> bool:
    """Whether vLLM is up; one that sleeps holds no model."""
    if not await upstream.is_healthy():
        return False
    try:
        told = await upstream.json("GET", "/is_sleeping", None, timeout_s=2.0)
    except OllamaError:  # a server that cannot sleep has no such route
        return True
    return not (isinstance(told, dict) and told.get("is_sleeping") is True)


async def resident(catalog: Catalog, model: Model, ends_ns: int) -> dict[str, Any]:
    """A model as /api/ps has it."""
    served = catalog.served(model)
    taken = await catalog.memory.footprint(
        model.upstream, url=model.upstream.address.url, weights_bytes=served.size_bytes, facts=served.facts
    )
    return {
        "name": model.name,
        "model": model.name,
        "size": taken.size,
        "digest": model.digest,
        "details": {**model.details, "parent_model": ""},
        "expires_at": timestamp(ends_ns),
        "size_vram": taken.size_vram,
        "context_length": model.max_model_len,
    }


# ---------------------------------------------------------------- what a model is


async def show(request: Request) -> Response:
    """All that is known of one model."""
    proxy = _proxy(request)
    asked = await _asked(request, ShowRequest)
    if not asked.target:
        raise OllamaError(400, "model is required")
    try:
        model = await proxy.catalog.find(asked.target)
    except ModelNotFound:
        raise ModelNotFound(referenced(asked.target).name.short) from None
    answer = shown(model, system=asked.system or model.system, options=asked.options)
    if (version := await model.upstream.version()) is not None:
        answer["model_info"]["vllm.version"] = version
    if model.folder is not None:
        tensors = await asyncio.to_thread(weights.tensors, model.folder)
        if tensors and (asked.verbose or len(tensors) <= MAX_TENSORS):
            answer["tensors"] = tensors
    if request.headers.get("user-agent", "").startswith(COPILOT):
        answer["model_info"]["general.basename"] = asked.target
    return json_response(answer)


def shown(model: Model, *, system: str, options: dict[str, Any]) -> dict[str, Any]:
    """A model as /api/show has it; name, size and digest are additions of ours."""
    parameters = {"num_ctx": model.max_model_len, **model.parameters}
    answer: dict[str, Any] = {"license": "\n".join(model.license)} if model.license else {}
    answer |= {
        "modelfile": modelfile(model, system=system, parameters={**parameters, **options}),
        "parameters": "\n".join(
            f"{name:<{PARAMETER_WIDTH}} {value}" for name, value in _lines(parameters, is_sharp=True)
        ),
        "template": model.template,
    }
    if system:
        answer["system"] = system
    answer["details"] = model.details
    if model.messages:
        answer["messages"] = [{"role": message["role"], "content": _said(message)} for message in model.messages]
    return answer | {
        "model_info": dict(model.model_info),
        "capabilities": list(model.capabilities),
        "modified_at": model.modified_at,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.digest,
    }


def modelfile(model: Model, *, system: str, parameters: dict[str, Any]) -> str:
    """A Modelfile from which `ollama create` makes the same model."""
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}",
        "",
        f"FROM {model.base}",
        f"TEMPLATE {_quoted(model.template)}",
    ]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [f"PARAMETER {name} {_quoted(value)}" for name, value in _lines(parameters, is_sharp=False)]
    lines += [f"LICENSE {_quoted(text)}" for text in model.license]
    lines += [f"MESSAGE {message['role']} {_quoted(_said(message))}" for message in model.messages]
    return "\n".join(lines) + "\n"


def _lines(parameters: dict[str, Any], *, is_sharp: bool) -> list[tuple[str, str]]:
    """Name and value of each parameter, a list as several; `is_sharp` quotes texts, as Go's %#v does."""
    return [
        (name, _go_value(value, is_sharp=is_sharp))
        for name, values in sorted(parameters.items())
        for value in (values if isinstance(values, list) else [values])
    ]


def _go_value(value: object, *, is_sharp: bool) -> str:
    if isinstance(value, str):
        return quoted(value) if is_sharp else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return msgspec.json.encode(value).decode()


def _quoted(text: str) -> str:
    """As Modelfiles quote: a text of several lines, or with blanks at its ends."""
    if "\n" not in text and not text.startswith(" ") and not text.endswith(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _said(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


# ---------------------------------------------------------------- names for models


async def copy(request: Request) -> Response:
    """A second name for a model."""
    proxy = _administered(request)
    asked = await _asked(request, CopyRequest)
    await proxy.catalog.copy(asked.source, asked.destination)
    return Response()


async def delete(request: Request) -> Response:
    """One alias less; what vLLM serves stays."""
    proxy = _administered(request)
    asked = await _asked(request, DeleteRequest)
    if not asked.target.strip():
        raise OllamaError(400, "model is required")
    proxy.residency.unload(await proxy.catalog.delete(asked.target))
    return Response()


async def create(request: Request) -> Response:
    """An alias of a served model with a system prompt, parameters, messages and license of its own."""
    proxy = _administered(request)
    asked = await _asked(request, CreateRequest)
    name = given(asked.target)
    if name is None:
        raise OllamaError(400, INVALID_NAME)
    is_streamed = asked.stream is not False
    try:
        if not asked.from_:
            _refuse_unless_from(asked)
        parent = await proxy.catalog.find(asked.from_)
        _refuse_unsupported(asked, parent)
        licenses = _licenses(asked.license)
        bare = msgspec.structs.replace(parent, system="", messages=[])
        messages = translate.chat_messages(asked.messages, bare)
        await proxy.catalog.create(
            name,
            parent,
            system=asked.system,
            parameters=_checked_parameters(asked.parameters),
            messages=messages,
            licenses=licenses,
        )
    except ModelNotFound:
        return _progress([{"status": "pulling manifest"}], error=NO_MANIFEST, is_streamed=is_streamed)
    except OllamaError as why:
        return json_response({"error": why.text}, status=why.status, content_type=PROGRESS_TYPE)
    proxy.residency.unload(name.short)
    own = [part for part in (asked.system, asked.parameters, messages, *licenses) if part]
    lines = [f"using existing layer sha256:{parent.digest}"]
    lines += [f"creating new layer sha256:{hashlib.sha256(msgspec.json.encode(part)).hexdigest()}" for part in own]
    return _progress(
        [{"status": line} for line in (*lines, "writing manifest", "success")], error=None, is_streamed=is_streamed
    )


def _refuse_unless_from(asked: CreateRequest) -> None:
    if asked.files or asked.adapters or asked.draft_files:
        raise OllamaError(400, "creating a model from files is not supported: this server serves what vLLM has loaded")
    raise OllamaError(400, "neither 'from' or 'files' was specified")


def _refuse_unsupported(asked: CreateRequest, parent: Model) -> None:
    """What vLLM fixes at its start, or an alias cannot hold."""
    unsupported = {
        "files": asked.files,
        "adapters": asked.adapters,
        "draft files": asked.draft_files,
        "quantize": asked.quantize or asked.quantization or asked.draft_quantize,
        "template": asked.template if asked.template.strip() != parent.template else "",
        "renderer": asked.renderer,
        "parser": asked.parser,
        "remote_host": asked.remote_host,
    }
    for what, value in unsupported.items():
        if value:
            raise OllamaError(400, f"{what}: not supported, vLLM serves the model as it was started")


def _licenses(license_: object) -> list[str]:
    """The texts; refused in Go's words where they are none."""
    if license_ is None or license_ == "":
        return []
    if isinstance(license_, str):
        return [license_]
    if not isinstance(license_, list):
        raise OllamaError(500, f"json: cannot unmarshal {_json_kind(license_)} into Go value of type []string")
    for text in license_:
        if not isinstance(text, str):
            raise OllamaError(500, f"json: cannot unmarshal {_json_kind(text)} into Go value of type string")
    return license_


def _json_kind(value: object) -> str:
    return {bool: "bool", dict: "object", list: "array", str: "string"}.get(type(value), "number")


def _checked_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """As they were sent; refused where a request's options would be."""
    try:
        checked_options(parameters)
    except OllamaError as why:
        raise OllamaError(400, why.text) from None
    return parameters


# ---------------------------------------------------------------- model files, of which there are none

NO_MANIFEST: Final = "pull model manifest: file does not exist"


async def pull(request: Request) -> Response:
    """Success for a model that is served; nothing else can be had."""
    proxy = _administered(request)
    asked = await _asked(request, PullRequest)
    referenced(asked.target)
    is_streamed = asked.stream is not False
    lines = [{"status": "pulling manifest"}]
    try:
        await proxy.catalog.find(asked.target)
    except ModelNotFound:
        return _progress(lines, error=NO_MANIFEST, is_streamed=is_streamed)
    lines += [{"status": line} for line in ("verifying sha256 digest", "writing manifest", "success")]
    return _progress(lines, error=None, is_streamed=is_streamed)


async def push(request: Request) -> Response:
    """Always an error: there is nothing to push."""
    proxy = _proxy(request)
    asked = await _asked(request, PushRequest)
    if not asked.target:
        raise OllamaError(400, "model is required")
    lines = [{"status": "retrieving manifest"}]
    error = "push is not supported: this server stores no model files"
    try:
        await proxy.catalog.find(asked.target)
    except OllamaError as why:
        lines.append({"status": "couldn't retrieve manifest"})
        error = why.text
    return _progress(lines, error=error, is_streamed=asked.stream is not False)


async def blob_exists(request: Request) -> Response:
    """404: no model files are stored."""
    digest = _digest(request)
    return json_response({"error": f"blob {quoted(digest)} not found"}, status=404)


async def blob_upload(request: Request) -> Response:
    """501: model files are not taken. A small one is compared with its digest first, as Ollama does."""
    proxy = _administered(request)
    digest = _digest(request)
    length = request.headers.get("content-length", "")
    if length.isdigit() and len(length) < 10 and int(length) <= MAX_HASHED_BYTES:
        body = await read_body(request.receive, request.scope["headers"], settings=proxy.settings)
        got = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if got != digest.replace("-", ":"):
            raise OllamaError(400, f"digest mismatch, expected {quoted(digest)}, got {quoted(got)}")
    raise OllamaError(501, "model files are not stored: this server serves what vLLM has loaded")


def _digest(request: Request) -> str:
    digest: str = request.path_params["digest"]
    if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
        raise OllamaError(400, "invalid digest format")
    return digest


# ---------------------------------------------------------------- shared


def _proxy(request: Request) -> "Proxy":
    proxy: Proxy = request.app.state.proxy
    return proxy


def _administered(request: Request) -> "Proxy":
    """What handlers share, for one that changes something. Raises OllamaError 403 where that is not allowed."""
    proxy = _proxy(request)
    if not may_administer(proxy.settings):
        raise OllamaError(
            403, "copy, create, delete and pull are not allowed on this server (--allow-admin allows them)"
        )
    return proxy


def may_administer(settings: Settings) -> bool:
    """What was set; else whether only this machine can reach the server."""
    return is_loopback(settings.host) if settings.allow_admin is None else settings.allow_admin


async def _asked(request: Request, kind: type[T]) -> T:
    settings = _proxy(request).settings
    body = await read_body(request.receive, request.scope["headers"], settings=settings)
    return decoded(body, kind, max_depth=settings.max_depth)


def _progress(lines: Sequence[dict[str, Any]], *, error: str | None, is_streamed: bool) -> Response:
    """Statuses, and the error that ends them: a last line, or all there is where nothing streams."""
    if error is None:
        return progress_response(lines, stream=is_streamed)
    if is_streamed:
        return progress_response([*lines, {"error": error}], stream=True)
    return json_response({"error": error}, status=500, content_type=PROGRESS_TYPE)
