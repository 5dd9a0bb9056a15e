"""OpenAI's and Anthropic's APIs under /v1: vLLM has them itself, so what it answers is relayed as it is.

What changes on the way to vLLM: the model's name becomes vLLM's id; only fields that are named here pass, since others
let a client run templates, fetch files or take more than its share; no address passes that vLLM would fetch from.
An alias stands for its model here, without its own system prompt and parameters.

What changes on the way back: errors, which read as Ollama's do. Ollama has /v1/embeddings honour `dimensions` for any
model, so these go through `embedding.py`.
"""

import base64
import functools
import logging
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy import multipart
from proxy.answers import JSON_TYPE, encoded, json_response
from proxy.catalog import Model
from proxy.dialects import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    TRANSCRIPTIONS,
    Dialect,
    checked_body,
    checked_for,
    error_body,
    upstream_body,
)
from proxy.embedding import Asked, Embedded, Embedding, shortest, texts_of
from proxy.embedding import found as found_embedder
from proxy.errors import ModelNotFound, OllamaError
from proxy.guard import RAW_SEND, BodyRefused, read_body
from proxy.names import parsed
from proxy.outlet import Outlet, give_up
from proxy.translate import full_name
from proxy.upstream import refusal
from proxy.worked import Worked

if TYPE_CHECKING:
    from proxy.app import Proxy

log = logging.getLogger(__name__)

PLAIN_JSON: Final = "application/json"
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


# ---------------------------------------------------------------- handlers


async def chat_completions(request: Request) -> Response:
    """OpenAI's chat: relayed to vLLM."""
    return await _relayed(request, CHAT)


async def completions(request: Request) -> Response:
    """OpenAI's older completions: relayed to vLLM."""
    return await _relayed(request, COMPLETIONS)


async def responses(request: Request) -> Response:
    """OpenAI's responses, without what is stored between them: relayed to vLLM."""
    return await _relayed(request, RESPONSES)


async def messages(request: Request) -> Response:
    """Anthropic's messages: relayed to vLLM."""
    return await _relayed(request, MESSAGES)


async def embeddings(request: Request) -> Response:
    """OpenAI's embeddings, of length 1 and cut to `dimensions` as Ollama does it."""
    received_ns = time.perf_counter_ns()
    proxy: Proxy = request.app.state.proxy
    try:
        body = await _body(request)
        asked = checked_body(body, EMBEDDINGS, max_depth=proxy.settings.max_depth)
    except OllamaError as why:
        return refused(why, EMBEDDINGS, content_type=JSON_TYPE)
    try:
        texts = texts_of(asked["input"])
        name = str(asked.get("model") or "")
        model = await found_embedder(proxy, name)
    except OllamaError as why:
        return refused(why, EMBEDDINGS)
    dimensions = asked.get("dimensions")
    is_base64 = str(asked.get("encoding_format") or "").lower() == "base64"
    return Embedding(
        proxy,
        Asked(
            name=name,
            model=model,
            texts=texts or [""],
            received_ns=received_ns,
            dimensions=dimensions if isinstance(dimensions, int) else 0,
        ),
        answer=lambda asked, done: embeddings_answer(asked, done, is_base64=is_base64),
        refused=lambda why: refused(why, EMBEDDINGS),
    )


async def transcriptions(request: Request) -> Response:
    """OpenAI's speech to text: the form is relayed to vLLM, field by field."""
    proxy: Proxy = request.app.state.proxy
    try:
        body = await _body(request)
        form = multipart.parsed(body, request.headers.get("content-type", ""), names=TRANSCRIPTIONS.fields)
        name = checked_form(form)
        model = await proxy.catalog.find(name)
    except OllamaError as why:
        return refused(why, TRANSCRIPTIONS, content_type=JSON_TYPE)
    parts = [
        msgspec.structs.replace(part, content=model.served_id.encode()) if part.name == "model" else part
        for part in form
    ]
    content_type, content = multipart.encoded(parts)
    return Relay(proxy, TRANSCRIPTIONS, name, model, content, headers={"content-type": content_type})


def checked_form(form: Sequence[multipart.Part]) -> str:
    """The model's name in a form that has all it needs."""
    fields = {part.name: part.content for part in form}
    if "file" not in fields:
        raise OllamaError(400, "file is required: http: no such file")
    if not fields.get("model"):
        raise OllamaError(400, "model is required")
    return fields["model"].decode("utf-8", "replace")


async def models(request: Request) -> Response:
    """The served models and aliases in OpenAI's form."""
    proxy: Proxy = request.app.state.proxy
    try:
        listed = await proxy.catalog.models()
    except OllamaError as why:
        return refused(why, CHAT)
    data = [model_card(model.name, model) for model in listed]
    return json_response({"object": "list", "data": data}, content_type=PLAIN_JSON)


async def model(request: Request) -> Response:
    """One model in OpenAI's form, under the name that was asked for."""
    proxy: Proxy = request.app.state.proxy
    asked: str = request.path_params["name"]
    try:
        found = await proxy.catalog.find(asked)
    except ModelNotFound:
        name = parsed(asked)
        return refused(ModelNotFound(name.short if name else asked), CHAT)
    except OllamaError as why:
        return refused(why, CHAT)
    return json_response(model_card(asked, found), content_type=PLAIN_JSON)


ROUTES: Final = (
    (("POST",), "/v1/chat/completions", chat_completions),
    (("POST",), "/v1/completions", completions),
    (("POST",), "/v1/embeddings", embeddings),
    (("POST",), "/v1/responses", responses),
    (("POST",), "/v1/messages", messages),
    (("POST",), "/v1/audio/transcriptions", transcriptions),
    (("GET",), "/v1/models", models),
    (("GET",), "/v1/models/{name}", model),
)
"""Every path under /v1 that is answered; no part of a client's path reaches vLLM."""


def model_card(shown: str, model: Model) -> dict[str, object]:
    """`model` as OpenAI lists models, under the name `shown`; owned by its namespace, as Ollama has it."""
    name = parsed(shown)
    return {
        "id": shown,
        "object": "model",
        "created": model.modified_ns // 10**9,
        "owned_by": name.namespace if name else "library",
    }


# ---------------------------------------------------------------- requests


async def _relayed(request: Request, dialect: Dialect) -> Response:
    proxy: Proxy = request.app.state.proxy
    try:
        body = await _body(request)
        asked = checked_body(body, dialect, max_depth=proxy.settings.max_depth)
    except OllamaError as why:
        return refused(why, dialect, content_type=JSON_TYPE)
    name = str(asked.get("model") or "")
    try:
        model = await _model(proxy, name, dialect)
        checked_for(asked, name, model, dialect)
    except OllamaError as why:
        return refused(why, dialect)
    if dialect is COMPLETIONS and not asked.get("prompt"):
        proxy.residency.used(model.name, None)
        return loaded(name, asked)
    content = msgspec.json.encode(upstream_body(asked, model, dialect))
    return Relay(proxy, dialect, name, model, content, headers=passed_headers(request))


async def _body(request: Request) -> bytes:
    body: bytes = await read_body(request.receive, request.scope["headers"], settings=request.app.state.proxy.settings)
    return body


async def _model(proxy: "Proxy", name: str, dialect: Dialect) -> Model:
    if not name:
        raise ModelNotFound("") if dialect is COMPLETIONS else OllamaError(400, "model is required")
    model = await proxy.catalog.find(name)
    if "completion" not in model.capabilities:
        raise OllamaError(400, f'"{name}" does not support {dialect.verb}')
    return model


def passed_headers(request: Request) -> dict[str, str]:
    """The client's headers that vLLM sees: an id for its log, and no other. Wire adds the proxy's own key."""
    given = request.headers.get("x-request-id", "")
    return {"x-request-id": given} if REQUEST_ID.fullmatch(given) else {}


# ---------------------------------------------------------------- answers


def refused(why: OllamaError, dialect: Dialect, *, content_type: str = PLAIN_JSON) -> Response:
    """An error in the form of the API that was asked."""
    response = json_response(error_body(why, dialect), status=why.status, content_type=content_type)
    if isinstance(why, BodyRefused):
        response.headers["connection"] = "close"
    return response


def loaded(name: str, asked: Mapping[str, Any]) -> Response:
    """What Ollama answers to a completion without a prompt: the model is loaded, and nothing is made."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    head = {
        "id": f"cmpl-{random.randrange(1000)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": "fp_ollama",
    }
    answer = head | {"choices": [{"text": "", "index": 0, "finish_reason": "load"}]}
    if not asked.get("stream"):
        return json_response(answer | {"usage": usage}, content_type=PLAIN_JSON)
    options = asked.get("stream_options")
    events = [answer]
    if isinstance(options, dict) and options.get("include_usage"):
        events.append(head | {"choices": [], "usage": usage})
    stream = b"".join(b"data: " + encoded(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return Response(stream, headers={"content-type": "text/event-stream"})


def embeddings_answer(asked: Asked, done: Embedded, *, is_base64: bool) -> Response:
    """What /v1/embeddings answers."""
    told: list[Any]
    if is_base64:
        told = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in done.vectors]
    else:
        told = shortest(done.vectors).tolist()
    data = [{"object": "embedding", "embedding": vector, "index": index} for index, vector in enumerate(told)]
    usage = {"prompt_tokens": done.prompt_tokens, "total_tokens": done.prompt_tokens}
    return json_response({"object": "list", "data": data, "model": asked.name, "usage": usage}, content_type=PLAIN_JSON)


class Relay(Worked):
    """vLLM's answer, byte for byte, as long as the client stays."""

    def __init__(
        self,
        proxy: "Proxy",
        dialect: Dialect,
        name: str,
        model: Model,
        content: bytes,
        *,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(proxy)
        self._dialect = dialect
        self._name = name
        self._model = model
        self._content = content
        self._passed = headers

    def _refused(self, why: OllamaError) -> Response:
        return refused(why, self._dialect)

    def _over(self) -> None:
        self._proxy.residency.used(self._model.name, None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = self._model.upstream.wire
        exchange = self._exchange = await wire.post(self._dialect.path, self._content, headers=self._passed)
        if exchange.status >= 300:
            raise self._worded(refusal(exchange.status, await exchange.read()))
        content_type = exchange.headers.get("content-type", PLAIN_JSON)
        if not content_type.startswith("text/event-stream"):
            whole = Response(await exchange.read(), exchange.status, headers={"content-type": content_type})
            await whole(scope, receive, send)
            return
        outlet = self._outlet = Outlet(
            send,
            exchange,
            stall_timeout_s=self._proxy.settings.stall_timeout_s,
            stalled=functools.partial(give_up, exchange, scope),
            piece_send=scope.get(RAW_SEND, send),
        )
        outlet.start(exchange.status, content_type.encode("latin-1"))
        exchange.deliver(outlet.write)
        if (broken := await exchange.ended) is not None:
            raise broken
        await outlet.finish()

    def _worded(self, why: OllamaError) -> OllamaError:
        """vLLM's refusal as Ollama puts it."""
        if "tool" in why.text and "--tool-call-parser" in why.text:
            return OllamaError(400, f"{full_name(self._name)} does not support tools")
        if why.text.startswith("suffix is only supported"):
            return OllamaError(400, f"{full_name(self._name)} does not support insert")
        if why.text.endswith("is not a multimodal model"):
            return OllamaError(400, "Multimodal data provided, but model does not support multimodal requests.")
        if why.status == 404:
            self._proxy.catalog.forget()  # vLLM was started again with another model
            return ModelNotFound(self._name)
        if why.status == 501:
            return OllamaError(400, f'"{self._name}" does not support {self._dialect.verb}')
        return why

    def _broken_off(self, why: OllamaError) -> bytes:
        """An event of its own, wherever vLLM's stream broke off."""
        told = encoded(error_body(why, self._dialect))
        return b"\n\n" + (b"event: error\n" if self._dialect.is_anthropic else b"") + b"data: " + told + b"\n\n"
