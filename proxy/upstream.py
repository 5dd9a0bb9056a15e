"""One vLLM server: what it serves, what it can do, and what its refusals mean in Ollama's words.

Everything here is asked rarely and answered whole, over httpx. Answers that stream go through `Upstream.wire`.
"""

import asyncio
import re
import time
from functools import cached_property
from typing import Final, TypeVar

import httpx
import msgspec

from proxy.errors import OllamaError, UpstreamBroke, UpstreamNotReady, UpstreamRefused, unreachable
from proxy.settings import Settings, UpstreamAddress
from proxy.wire import STALE_S, Wire

KEEPALIVE_S: Final = 4.0
"""Below the 5 s after which vLLM closes an idle connection: one that is reused must not be closing."""

MAX_CONNECTIONS: Final = 128
MAX_ANSWER_BYTES: Final = 128 * 2**20
"""2,048 embeddings of 8,192 numbers in base64 fit; metrics and model lists are thousands of times smaller."""

MAX_ERROR_BYTES: Final = 2**20
MAX_TEXT: Final = 2_000
"""Characters of an error that reach the client."""

QUICK_S: Final = 2.0
"""For what vLLM answers out of its own process, without its engine."""

TASKS_S: Final = 10.0
"""How long `tasks` is believed: vLLM needs longer than that to come back with another model."""

TASK_PATHS: Final = {"generate": "/v1/chat/completions", "embed": "/v1/embeddings"}
"""Task → a route that vLLM registers only for models of that task."""

T = TypeVar("T")


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of vLLM's /v1/models: a base model under one of its names, or a LoRA adapter."""

    id: str
    root: str
    """Where the weights came from: a repository's name or a folder."""

    parent: str | None = None
    """The base model's id; None: this is a base model."""

    max_model_len: int | None = None
    """Tokens of prompt and answer together; None for an adapter."""

    created: int = 0
    """Of no use: vLLM puts the time of the question here."""


class _Card(msgspec.Struct, frozen=True):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    created: int = 0


class _Cards(msgspec.Struct, frozen=True):
    data: list[_Card]


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Prompt(msgspec.Struct, frozen=True):
    prompt: str


class Upstream:
    """The control plane of one vLLM server."""

    def __init__(self, address: UpstreamAddress, settings: Settings) -> None:
        self.address = address
        self._settings = settings
        self._is_supervised = settings.is_supervised
        self._tasks: tuple[float, frozenset[str]] | None = None
        key = settings.upstream_api_key
        # Two pools: a tokenizer that hangs must not keep anybody from asking whether vLLM is well.
        self._http, self._worker = (
            httpx.AsyncClient(
                base_url=address.url,
                headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {}),
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=settings.connect_timeout_s),  # the whole exchange has its own limit
                limits=httpx.Limits(
                    max_connections=MAX_CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=KEEPALIVE_S
                ),
            )
            for _ in range(2)
        )

    @cached_property
    def wire(self) -> Wire:
        """The streaming side of the same server."""
        return Wire(self.address, self._settings)

    async def aclose(self) -> None:
        """Close the connections that are idle; what is under way is its caller's to end."""
        if "wire" in self.__dict__:
            await self.wire.aclose()
        await self._http.aclose()
        await self._worker.aclose()

    async def models(self, *, timeout_s: float = QUICK_S) -> list[ServedModel]:
        """What /v1/models lists, in its order.

        Raises: UpstreamUnreachable: nothing listens; UpstreamNotReady: no answer within `timeout_s`, or 503;
        UpstreamRefused: any other refusal, such as of the proxy's key.
        """
        try:
            status, body = await self._exchange("GET", "/v1/models", None, timeout_s=timeout_s)
        except TimeoutError:
            raise UpstreamNotReady from None
        if status != httpx.codes.OK:
            raise refusal(status, body)
        return [
            ServedModel(
                id=card.id,
                root=card.root or card.id,
                parent=card.parent,
                max_model_len=card.max_model_len,
                created=card.created,
            )
            for card in _understood(body, _Cards).data
        ]

    async def is_healthy(self) -> bool:
        """Whether vLLM is up and its engine alive."""
        try:
            status, _ = await self._exchange("GET", "/health", None, timeout_s=QUICK_S)
        except (OllamaError, TimeoutError):
            return False
        return status == httpx.codes.OK

    async def version(self) -> str | None:
        """What vLLM calls itself; a simulated one says there that it is one. None: it does not say."""
        try:
            told = await self._asked("GET", "/version", None, _Version, timeout_s=QUICK_S)
        except OllamaError:
            return None
        return told.version

    async def json(self, method: str, path: str, body: dict[str, object] | None, *, timeout_s: float | None) -> object:
        """The decoded answer to one question, if vLLM answers 2xx.

        Cancelled, it closes its connection, by which vLLM drops the work.
        Raises: what `refusal` makes of another status; OllamaError 504 after `timeout_s` (None: waits for ever).
        """
        return await self._asked(method, path, body, object, timeout_s=timeout_s)

    async def metrics(self) -> str:
        """vLLM's Prometheus page."""
        try:
            status, body = await self._exchange("GET", "/metrics", None, timeout_s=2 * QUICK_S)
        except TimeoutError:
            raise _silent() from None
        if status != httpx.codes.OK:
            raise refusal(status, body)
        return body.decode("utf-8", "replace")

    async def tokenized(self, body: dict[str, object]) -> list[int]:
        """Token ids of a prompt, or of messages in the model's template: `body` is a request of /tokenize."""
        return (await self._asked("POST", "/tokenize", body, _Tokens, timeout_s=30)).tokens

    async def detokenized(self, model: str, ids: list[int]) -> str:
        """The text of token ids; `model` is an id that vLLM serves."""
        return (await self._asked("POST", "/detokenize", {"model": model, "tokens": ids}, _Prompt, timeout_s=30)).prompt

    async def tasks(self) -> frozenset[str]:
        """`{"generate"}`, `{"embed"}` or both, from the routes that vLLM has registered for its model.

        A GET of a POST route is refused before anything runs: with 405 where the route exists, with 404 where not.
        """
        now_s = time.monotonic()
        if self._tasks is not None and now_s - self._tasks[0] < TASKS_S:
            return self._tasks[1]
        try:
            answers = await asyncio.gather(
                *(self._exchange("GET", path, None, timeout_s=QUICK_S) for path in TASK_PATHS.values())
            )
        except TimeoutError:
            raise UpstreamNotReady from None
        for status, body in answers:
            if status not in (httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_FOUND):
                raise refusal(status, body)
        found = frozenset(
            task
            for task, (status, _) in zip(TASK_PATHS, answers, strict=True)
            if status == httpx.codes.METHOD_NOT_ALLOWED
        )
        # A server that hides its routes from GET is taken for one that generates, as nearly all do.
        self._tasks = (now_s, found or frozenset({"generate"}))
        return self._tasks[1]

    async def _asked(
        self, method: str, path: str, body: dict[str, object] | None, kind: type[T], *, timeout_s: float | None
    ) -> T:
        try:
            status, answer = await self._exchange(method, path, body, timeout_s=timeout_s)
        except TimeoutError:
            raise _silent() from None
        if not httpx.codes.is_success(status):
            raise refusal(status, answer)
        return _understood(answer, kind)

    async def _exchange(
        self, method: str, path: str, body: dict[str, object] | None, *, timeout_s: float | None
    ) -> tuple[int, bytes]:
        """Status and whole body. An idle connection that vLLM closed as it was reused is replaced, once."""
        content = None if body is None else msgspec.json.encode(body)
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(timeout_s):
            try:
                return await self._attempt(method, path, content)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if asyncio.get_running_loop().time() - began_s > STALE_S:
                    self._tasks = None
                    raise _lost(error, is_supervised=self._is_supervised) from None
                try:
                    return await self._attempt(method, path, content)
                except httpx.TransportError as error:
                    self._tasks = None
                    raise _lost(error, is_supervised=self._is_supervised) from None
            except httpx.TransportError as error:
                self._tasks = None
                raise _lost(error, is_supervised=self._is_supervised) from None

    async def _attempt(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes]:
        headers = {} if content is None else {"content-type": "application/json"}
        client = self._http if content is None else self._worker
        async with client.stream(method, path, content=content, headers=headers) as answer:
            whole = bytearray()
            async for piece in answer.aiter_raw():
                whole += piece
                if len(whole) > MAX_ANSWER_BYTES:
                    raise UpstreamBroke("the model server's answer is too long")
            return answer.status_code, bytes(whole)


def _lost(error: httpx.TransportError, *, is_supervised: bool) -> OllamaError:
    """Nothing was there, or it went away before its answer was whole (500)."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
        return unreachable(is_supervised=is_supervised)
    return UpstreamBroke()


def _silent() -> OllamaError:
    return OllamaError(504, "the model server did not answer in time")


def _understood(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        raise UpstreamBroke("the model server's answer could not be understood") from None


_FALLBACK: Final = {
    400: "the model server refused the request",
    404: "the model server does not know the model",
    429: "the model server has too many requests, please try again",
    500: "the model server failed",
    501: "the model server does not support this request",
}

_MAPPED: Final = {400: 400, 404: 404, 413: 400, 422: 400, 429: 429, 501: 501}


def refusal(status: int, body: bytes) -> OllamaError:
    """vLLM's error as Ollama would put it.

    vLLM words an error as `{"error":{"message":…}}`, `{"error":"…"}` or `{"detail":…}`; what stands in front of it, as
    text or HTML. The text that leaves here holds no address, no path on the server's disk and no traceback.
    """
    if status in (401, 403):
        return UpstreamRefused(502, "the model server refused the proxy's key")
    if status == 503:
        return UpstreamNotReady()
    text = message(body)
    if "EngineCore encountered" in text or "EngineDead" in text:
        return UpstreamBroke()
    if status == 405 or (status == 404 and text in ("Not Found", "")):  # no such route: not this model's task
        return UpstreamRefused(501, _FALLBACK[501])
    mapped = _MAPPED.get(status, 400 if 400 <= status < 500 else 500)
    if status == 404 and (unknown := re.match(r"The model `([^`]*)` does not exist", text)):
        return UpstreamRefused(404, f"model '{unknown[1]}' not found")
    return UpstreamRefused(mapped, text or _FALLBACK[mapped])


def message(body: bytes) -> str:
    """The sentence within an error's body, fit for a client; "" where there is none."""
    if len(body) > MAX_ERROR_BYTES:
        return ""
    try:
        told: object = msgspec.json.decode(body)
    except msgspec.DecodeError:
        text = body[: 4 * MAX_TEXT].decode("utf-8", "replace")
        return "" if text.lstrip().startswith("<") else _presentable(text)
    return _presentable(_sentence(told))


def _sentence(told: object) -> str:
    if isinstance(told, str):
        return told
    if isinstance(told, dict):
        for key in ("error", "message", "detail", "msg"):
            if told.get(key):
                return _sentence(told[key])
    if isinstance(told, list):  # FastAPI's list of what is wrong with a body
        return "; ".join(text for item in told if (text := _sentence(item)))
    return ""


_LEAKS: Final = (
    (re.compile(r"Traceback \(most recent call last\):.*", re.DOTALL), ""),
    (re.compile(r'\s*File "[^"]*", line \d+(, in \S+)?'), ""),
    (re.compile(r" at 0x[0-9a-fA-F]+"), ""),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\blocalhost:\d+\b"), "<address>"),
    (re.compile(r"(?<![\w.~<>/-])~?/(?:[\w.+@=-]+/)*[\w.+@=-]*[\w](?=[^\w]|$)"), "<path>"),
)


_COMPLAINT: Final = re.compile(r"'loc': '(?:body\.)?([^']*)', 'msg': (?:'((?:[^'\\]|\\.)*)'|\"([^\"]*)\")")
"""One of the lines that vLLM writes of a body that is not as it should be."""

_BRANCH: Final = re.compile(r"\.[A-Z]\w*")
"""Which of vLLM's own types a complaint is about; a client knows none of them."""


def _presentable(text: str) -> str:
    text = text[: 4 * MAX_TEXT]
    if " validation error" in text[:40] and (complaints := _COMPLAINT.findall(text)):
        told = (f"{_BRANCH.sub('', field)}: {one or other}" for field, one, other in complaints)
        text = "; ".join(list(dict.fromkeys(told))[:3])
    for leak, instead in _LEAKS:
        text = leak.sub(instead, text)
    text = "".join(char if char.isprintable() or char in "\n\t" else " " for char in text).strip()
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
