"""The application: which path is answered by what, and what every answer has in common.

FastAPI routes and documents; the bodies are read by our own decoder, since Ollama takes JSON whatever its content
type and refuses it in Go's words.
"""

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from proxy import embedding, generation, library, passthrough
from proxy.answers import error_response
from proxy.catalog import Catalog
from proxy.errors import OllamaError, ServerBusy
from proxy.guard import BodyRefused, ClientGone, Guard, allowed_methods
from proxy.residency import Residency
from proxy.schemas import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    PullRequest,
    PushRequest,
    ShowRequest,
    openapi_body,
)
from proxy.settings import Settings
from proxy.upstream import Upstream

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class Proxy:
    """What all handlers share: one of it in every worker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.upstreams = [Upstream(address, settings) for address in settings.upstreams]
        self.catalog = Catalog(settings, self.upstreams)
        self.residency = Residency(settings)
        self._room = -(-settings.max_requests // settings.workers)
        self._running = 0

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Room for one more request to vLLM. Raises ServerBusy where there is none."""
        if self._running >= self._room:
            raise ServerBusy
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def aclose(self) -> None:
        """Close every connection to vLLM."""
        await self.catalog.aclose()
        for upstream in self.upstreams:
            await upstream.aclose()


ROUTES: tuple[tuple[tuple[str, ...], str, Handler, type | None], ...] = (
    (("POST",), "/api/chat", generation.chat, ChatRequest),
    (("POST",), "/api/generate", generation.generate, GenerateRequest),
    (("GET", "HEAD"), "/", library.root, None),
    (("GET", "HEAD"), "/api/version", library.version, None),
    (("GET",), "/api/status", library.status, None),
    (("GET", "HEAD"), "/api/tags", library.tags, None),
    (("GET",), "/api/ps", library.ps, None),
    (("POST",), "/api/show", library.show, ShowRequest),
    (("POST",), "/api/embed", embedding.embed, EmbedRequest),
    (("POST",), "/api/embeddings", embedding.embeddings, EmbeddingsRequest),
    (("POST",), "/api/pull", library.pull, PullRequest),
    (("POST",), "/api/push", library.push, PushRequest),
    (("POST",), "/api/create", library.create, CreateRequest),
    (("POST",), "/api/copy", library.copy, CopyRequest),
    (("DELETE",), "/api/delete", library.delete, DeleteRequest),
    (("HEAD",), "/api/blobs/{digest}", library.blob_exists, None),
    (("POST",), "/api/blobs/{digest}", library.blob_upload, None),
    (("POST",), "/api/me", library.me, None),
    (("POST",), "/api/signout", library.signout, None),
    (("GET",), "/api/experimental/model-recommendations", library.recommendations, None),
)
"""Ollama's own paths, those asked most first, since they are tried in order; /v1 is `passthrough.ROUTES`."""


def created(settings: Settings) -> ASGIApp:
    """The whole application behind its guard."""
    proxy = Proxy(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await proxy.catalog.models()  # the first request need not wait for it; a vLLM that is away is no fault
        for upstream in proxy.upstreams:
            if not settings.is_supervised and not await upstream.is_healthy():
                log.warning("vLLM does not answer at %s yet: its models are listed when it does", upstream.address.url)
        yield
        await proxy.aclose()

    app = FastAPI(
        title="Ollama's API in front of vLLM",
        version=settings.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.proxy = proxy
    for methods, path, handler, body in ROUTES:
        _add(app, methods, path, handler, {} if body is None else {"requestBody": openapi_body(body)})
    for methods, path, handler in passthrough.ROUTES:
        _add(app, methods, path, handler, {"requestBody": ANY_OBJECT} if "POST" in methods else {})
    app.add_exception_handler(OllamaError, _refused)
    app.add_exception_handler(HTTPException, _no_such_page)
    app.add_exception_handler(ClientGone, _nobody)
    app.add_exception_handler(Exception, _our_fault)
    return Guard(app, settings=settings)


ANY_OBJECT = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
"""The body of /v1: OpenAI's and Anthropic's documents tell its fields."""

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"anyOf": [{"type": "string"}, {"type": "object"}]}},
}
ANSWERS: dict[str, Any] = {
    "2XX": {"description": "Done; a stream is NDJSON, an object a line.", "content": {"*/*": {}}},
    "4XX": {"description": "Refused.", "content": {"application/json": {"schema": ERROR_SCHEMA}, "text/plain": {}}},
    "5XX": {"description": "Failed.", "content": {"application/json": {"schema": ERROR_SCHEMA}}},
}
DIGEST = "^sha256[:-][0-9a-fA-F]{64}$"


def _add(app: FastAPI, methods: tuple[str, ...], path: str, handler: Handler, extra: dict[str, Any]) -> None:
    """Route `path`, and document it: FastAPI sees neither our bodies nor our parameters."""
    for name in re.findall(r"{(\w+)}", path):
        schema = {"type": "string", "pattern": DIGEST} if name == "digest" else {"type": "string", "minLength": 1}
        extra = extra | {"parameters": [{"name": name, "in": "path", "required": True, "schema": schema}]}
    for method in methods:
        app.add_api_route(
            path,
            handler,
            methods=[method],
            operation_id=f"{method.lower()}{path}",
            response_model=None,
            response_class=Response,
            openapi_extra=extra,
            responses=cast(dict[int | str, dict[str, Any]], ANSWERS),
            description=(handler.__doc__ or "").strip(),
        )


async def _refused(_: Request, why: Exception) -> Response:
    assert isinstance(why, OllamaError)
    answer = error_response(why.status, why.text)
    if isinstance(why, BodyRefused):
        answer.headers["connection"] = "close"  # what is left of the body is not read
    return answer


async def _no_such_page(request: Request, why: Exception) -> Response:
    """Gin's pages for an unknown path and for a wrong method; the latter lists the methods there are."""
    assert isinstance(why, HTTPException)
    if why.status_code == 405:
        allowed = allowed_methods(request.url.path) or ""
        return PlainTextResponse(
            "405 method not allowed", 405, headers={"allow": allowed, "content-type": "text/plain"}
        )
    if why.status_code == 404:
        shorter = request.url.path.removesuffix("/")
        if shorter != request.url.path and allowed_methods(shorter):
            return Response(status_code=301 if request.method == "GET" else 307, headers={"location": shorter})
        return PlainTextResponse("404 page not found", 404, headers={"content-type": "text/plain"})
    return error_response(why.status_code, str(why.detail))


async def _nobody(_request: Request, _why: Exception) -> Response:
    """A client left while it sent its body: whatever is answered is read by nobody."""
    return Response(status_code=generation.CANCELED)


async def _our_fault(_request: Request, _why: Exception) -> Response:
    """A bug: the log has the traceback, the client a sentence."""
    return error_response(500, "internal error of the proxy, see its log")
