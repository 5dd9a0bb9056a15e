"""Embeddings: /api/embed, its predecessor /api/embeddings, and what /v1/embeddings shares with them.

vLLM is asked for base64, which holds every float32 as it is. Whatever the model's pooler does, vectors leave
here with length 1, as Ollama's do.
"""

import base64
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.answers import error_response, json_response
from proxy.catalog import Model
from proxy.errors import ModelNotFound, OllamaError, UpstreamBroke
from proxy.guard import read_body
from proxy.schemas import MAX_INPUTS, EmbeddingsRequest, EmbedRequest, decoded
from proxy.translate import merged_options
from proxy.upstream import refusal
from proxy.worked import Worked

if TYPE_CHECKING:
    from proxy.app import Proxy

log = logging.getLogger(__name__)

FloatRows: TypeAlias = npt.NDArray[np.float32]
"""One row for every text."""

DoubleRows: TypeAlias = npt.NDArray[np.float64]

CANNOT_EMBED: Final = "This server does not support embeddings. Start it with `--embeddings`"
"""Ollama's own words for a model that only generates (recorded)."""

TOO_LONG: Final = "the input length exceeds the context length"
NOTHING_LEFT: Final = "input exceeds maximum context length and cannot be truncated further"
"""What Ollama says of a text that has no token at all (recorded)."""


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's answer: one vector of length 1 for every text, in the order of the texts."""

    vectors: FloatRows
    prompt_tokens: int
    load_ns: int
    """From the request's receipt to its being sent to vLLM."""

    total_ns: int


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What vLLM is to embed."""

    name: str
    """The model as the client spelled it."""

    model: Model
    texts: list[str]
    received_ns: int
    is_truncated: bool = True
    """A text beyond the model's context is cut, rather than refused."""

    dimensions: int = 0
    """Numbers kept of each vector; 0 and negative: all."""

    keep_alive_s: float | None = None


# ---------------------------------------------------------------- Ollama's two endpoints


async def embed(request: Request) -> Response:
    """One vector for each text; without any, loads the model."""
    received_ns = time.perf_counter_ns()
    proxy: Proxy = request.app.state.proxy
    body = await read_body(request.receive, request.scope["headers"], settings=proxy.settings)
    asked = decoded(body, EmbedRequest, max_depth=proxy.settings.max_depth)
    texts = texts_of(None if asked.input is None else msgspec.json.decode(asked.input))
    model = await found(proxy, asked.model)
    merged_options(asked.options, model)
    if not texts:
        proxy.residency.used(model.name, asked.keep_alive)
        return json_response({"model": asked.model, "embeddings": []})
    return Embedding(
        proxy,
        Asked(
            name=asked.model,
            model=model,
            texts=texts,
            received_ns=received_ns,
            is_truncated=asked.truncate is not False,
            dimensions=asked.dimensions,
            keep_alive_s=asked.keep_alive,
        ),
        answer=embed_answer,
        refused=lambda why: error_response(why.status, why.text),
    )


async def embeddings(request: Request) -> Response:
    """The older endpoint: one text, one vector, nothing else; a text that is too long is refused."""
    received_ns = time.perf_counter_ns()
    proxy: Proxy = request.app.state.proxy
    body = await read_body(request.receive, request.scope["headers"], settings=proxy.settings)
    asked = decoded(body, EmbeddingsRequest, max_depth=proxy.settings.max_depth)
    if not asked.model:
        raise OllamaError(400, "model is required")
    model = await found(proxy, asked.model)
    merged_options(asked.options, model)
    if not asked.prompt:
        proxy.residency.used(model.name, asked.keep_alive)
        return json_response({"embedding": []})
    return Embedding(
        proxy,
        Asked(
            name=asked.model,
            model=model,
            texts=[asked.prompt],
            received_ns=received_ns,
            is_truncated=False,
            keep_alive_s=asked.keep_alive,
        ),
        answer=lambda _, done: json_response({"embedding": done.vectors[0].astype(np.float64).tolist()}),
        refused=lambda why: error_response(500 if why.text in (CANNOT_EMBED, TOO_LONG) else why.status, why.text),
    )


def texts_of(told: object) -> list[str]:
    """The texts of `input`: a string or a list of strings; none of them in "", [] and null."""
    if told is None or told == "":
        return []
    if isinstance(told, str):
        return [told]
    if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
        raise OllamaError(400, "invalid input type")
    if len(told) > MAX_INPUTS:
        raise OllamaError(400, f"too many inputs: {len(told)}, at most {MAX_INPUTS} are taken")
    return told


async def found(proxy: "Proxy", name: str) -> Model:
    """The model of that name. Where there is none, the error reads as Ollama's embedding endpoints word it."""
    if not name:
        raise ModelNotFound("")
    try:
        return await proxy.catalog.find(name)
    except ModelNotFound:
        raise _not_found(name) from None


def _not_found(name: str) -> OllamaError:
    return OllamaError(404, f'model "{name}" not found, try pulling it first')


def embed_answer(asked: Asked, done: Embedded) -> Response:
    """What /api/embed answers, its numbers written as Ollama writes float32."""
    answer: dict[str, object] = {
        "model": asked.name,
        "embeddings": shortest(done.vectors).tolist(),
        "total_duration": done.total_ns,
        "load_duration": done.load_ns,
    }
    if done.prompt_tokens:
        answer["prompt_eval_count"] = done.prompt_tokens
    return json_response(answer)


# ---------------------------------------------------------------- numbers


def normalised(vectors: FloatRows, dimensions: int = 0) -> FloatRows:
    """The first `dimensions` numbers of every row, scaled to length 1. A row of zeros stays one."""
    kept = vectors[:, :dimensions] if dimensions > 0 else vectors
    lengths = np.linalg.norm(kept.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise OllamaError(500, "embedding contains NaN or Inf values")
    scaled: FloatRows = (kept / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def shortest(vectors: FloatRows) -> DoubleRows:
    """Numbers that print in the fewest digits that still read as the same float32, as Go prints them.

    Tried with nine digits, which always do, and then with fewer. A float64 printed as it is would show digits that
    float32 does not have.
    """
    exact = vectors.astype(np.float64)
    sizes = np.abs(exact)
    decades = np.floor(np.log10(np.where(sizes > 0, sizes, 1.0)))
    found = exact
    for digits in (9, 8, 7, 6):
        scale = 10.0 ** np.clip(digits - 1 - decades, -22, 22)  # powers of ten that float64 holds exactly
        rounded = np.rint(exact * scale) / scale
        found = np.where(rounded.astype(np.float32) == vectors, rounded, found)
    return found


# ---------------------------------------------------------------- vLLM's side


class _Item(msgspec.Struct, frozen=True):
    index: int
    embedding: str | list[float]


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Item]
    usage: _Usage | None = None


def request_body(asked: Asked) -> bytes:
    """The request to vLLM. It is not told of `dimensions`, which it grants only to models trained for them."""
    body: dict[str, object] = {"model": asked.model.served_id, "input": asked.texts, "encoding_format": "base64"}
    if asked.is_truncated:
        body["truncate_prompt_tokens"] = -1
    return msgspec.json.encode(body)


def understood(body: bytes, asked: Asked, *, sent_ns: int) -> Embedded:
    """vLLM's answer in numbers. Raises: UpstreamBroke where it is not one vector for every text."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        items = sorted(answer.data, key=lambda item: item.index)
        vectors = np.stack([_floats(item.embedding) for item in items])
    except (msgspec.DecodeError, ValueError):  # of no number at all, or of rows of several lengths, too
        raise UpstreamBroke("the model server's answer could not be understood") from None
    if [item.index for item in items] != list(range(len(asked.texts))):
        raise UpstreamBroke("the model server did not embed every input")
    return Embedded(
        vectors=normalised(vectors, asked.dimensions),
        prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
        load_ns=max(1, sent_ns - asked.received_ns),
        total_ns=time.perf_counter_ns() - asked.received_ns,
    )


def _floats(told: str | list[float]) -> FloatRows:
    if isinstance(told, list):
        return np.array(told, dtype=np.float32)
    return np.frombuffer(base64.b64decode(told, validate=True), dtype="<f4").astype(np.float32, copy=False)


def embedding_refusal(why: OllamaError, asked: Asked) -> OllamaError:
    """vLLM's refusal in the words of Ollama's embedding endpoints."""
    if why.status == 501:
        return OllamaError(501, CANNOT_EMBED)
    if why.status == 404:
        return _not_found(asked.name)
    if why.status == 400 and "maximum context length" in why.text:
        return OllamaError(400, TOO_LONG)
    if why.status == 400 and "empty" in why.text:
        return OllamaError(400, NOTHING_LEFT)
    return why


class Embedding(Worked):
    """An answer that is asked of vLLM while somebody still waits for it."""

    def __init__(
        self,
        proxy: "Proxy",
        asked: Asked,
        *,
        answer: Callable[[Asked, Embedded], Response],
        refused: Callable[[OllamaError], Response],
    ) -> None:
        super().__init__(proxy)
        self._asked = asked
        self._made = answer
        self._worded = refused

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._made(self._asked, await self._embedded())
        await response(scope, receive, send)

    def _refused(self, why: OllamaError) -> Response:
        return self._worded(why)

    def _over(self) -> None:
        self._proxy.residency.used(self._asked.model.name, self._asked.keep_alive_s)

    async def _embedded(self) -> Embedded:
        asked = self._asked
        sent_ns = time.perf_counter_ns()
        exchange = self._exchange = await asked.model.upstream.wire.post("/v1/embeddings", request_body(asked))
        body = await exchange.read()
        if exchange.status != 200:
            if exchange.status == 404:
                self._proxy.catalog.forget()  # vLLM was started again with another model
            raise embedding_refusal(refusal(exchange.status, body), asked)
        return understood(body, asked, sent_ns=sent_ns)
