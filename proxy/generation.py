"""POST /api/generate and /api/chat: from a client's request to vLLM's answer, in Ollama's order of checks."""

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy import translate
from proxy.answers import NDJSON_TYPE, encoded, json_response
from proxy.catalog import Model
from proxy.errors import ModelNotFound, OllamaError, UpstreamBroke
from proxy.guard import RAW_SEND, read_body
from proxy.outlet import Outlet, give_up
from proxy.reply import Clock, Kind, Reply, Stamp, ThinkSplitter
from proxy.schemas import ChatRequest, GenerateRequest, decoded
from proxy.settings import Settings
from proxy.translate import Asked, Think
from proxy.upstream import refusal
from proxy.wire import Exchange
from proxy.worked import Worked

if TYPE_CHECKING:
    from proxy.app import Proxy

log = logging.getLogger(__name__)

T = TypeVar("T", GenerateRequest, ChatRequest)
CANCELED = 499
"""nginx's status for a client that left; nobody reads it, logs do."""

EMPTY_MESSAGE = {"role": "assistant", "content": ""}


async def generate(request: Request) -> Response:
    """Completes a prompt; without one, loads or unloads the model."""
    received_ns = Clock.steady_ns()
    proxy: Proxy = request.app.state.proxy
    asked = await asked_of(request, GenerateRequest)
    checked_top_logprobs(asked.top_logprobs)
    model = await proxy.catalog.find(asked.model)
    if not asked.prompt and asked.keep_alive == 0:
        proxy.residency.unload(model.name)
        return loaded(asked.model, "unload", kind="generate")
    if asked.raw and (asked.template or asked.system or asked.context):
        raise OllamaError(400, "raw mode does not support template, system, or context")
    translate.checked_thinking(asked.think, model, asked.model)
    checked_capability(model, asked.model, "generate")
    translate.merged_options(asked.options, model)
    if not asked.prompt:
        proxy.residency.used(model.name, asked.keep_alive)
        return loaded(asked.model, "load", kind="generate")
    if asked.images and "vision" not in model.capabilities:
        raise OllamaError(400, f"{translate.full_name(asked.model)} does not support vision")
    upstream_request = translate.generate_asked(asked, model, settings=proxy.settings)
    if asked.debug_render_only:
        return Rendered(proxy, asked, upstream_request, model, kind="generate")
    reply = Reply(
        kind="generate",
        model=asked.model,
        is_streamed=asked.stream is not False,
        received_ns=received_ns,
        splitter=splitter_for(asked.think, model),
        shows_thinking=asked.think is not False,
        has_context=not asked.raw,
        earlier_ids=(),
        has_logprobs=asked.logprobs,
    )
    return Generation(
        proxy,
        model,
        upstream_request,
        reply,
        truncates=asked.truncate is not False,
        keep_alive_s=asked.keep_alive,
        context=asked.context,
    )


async def chat(request: Request) -> Response:
    """Answers a conversation; without messages, loads or unloads the model."""
    received_ns = Clock.steady_ns()
    proxy: Proxy = request.app.state.proxy
    asked = await asked_of(request, ChatRequest)
    checked_top_logprobs(asked.top_logprobs)
    if not asked.model:
        raise OllamaError(400, "model is required")
    model = await proxy.catalog.find(asked.model)
    if not asked.messages and asked.keep_alive == 0:
        proxy.residency.unload(model.name)
        return loaded(asked.model, "unload", kind="chat")
    translate.checked_thinking(asked.think, model, asked.model)
    checked_capability(model, asked.model, "chat")
    translate.merged_options(asked.options, model)
    if not asked.messages:
        proxy.residency.used(model.name, asked.keep_alive)
        return loaded(asked.model, "load", kind="chat")
    if "vision" not in model.capabilities and any(message.images for message in asked.messages):
        raise OllamaError(400, f"{translate.full_name(asked.model)} does not support vision")
    upstream_request = translate.chat_asked(asked, model, settings=proxy.settings)
    if asked.debug_render_only:
        return Rendered(proxy, asked, upstream_request, model, kind="chat")
    reply = Reply(
        kind="chat",
        model=asked.model,
        is_streamed=asked.stream is not False,
        received_ns=received_ns,
        splitter=splitter_for(asked.think, model),
        shows_thinking=asked.think is not False,
        has_logprobs=asked.logprobs,
    )
    return Generation(
        proxy, model, upstream_request, reply, truncates=asked.truncate is not False, keep_alive_s=asked.keep_alive
    )


# ---------------------------------------------------------------- checks


async def asked_of(request: Request, kind: type[T]) -> T:
    """The request's body, read within the limits of size and time."""
    settings: Settings = request.app.state.proxy.settings
    body = await read_body(request.receive, request.scope["headers"], settings=settings)
    return decoded(
        body,
        kind,
        max_depth=settings.max_depth,
        max_images=settings.max_images,
        max_image_bytes=settings.max_image_bytes,
    )


def checked_top_logprobs(count: int) -> None:
    """Refuses what Ollama refuses first of all."""
    if not 0 <= count <= 20:
        raise OllamaError(400, "top_logprobs must be between 0 and 20")


def checked_capability(model: Model, name: str, verb: str) -> None:
    """Refuses to generate with a model that only embeds."""
    if "completion" not in model.capabilities:
        raise OllamaError(400, f'"{name}" does not support {verb}')


def splitter_for(think: Think, model: Model) -> ThinkSplitter | None:
    """Who tells thinking and text apart where vLLM may not: None where nothing is to be told apart."""
    if model.has_reasoning_parser or not translate.is_thinking(think, model):
        return None
    return ThinkSplitter(is_inside=model.facts.opens_thinking)


@functools.cache
def warn_of_stops() -> None:
    """Say once, not at every request, that vLLM has to be started for more."""
    log.warning("vLLM takes %d stop strings, the rest is ignored (VLLM_MAX_STOP_STRINGS)", translate.VLLM_STOPS)


def is_too_long(why: OllamaError) -> bool:
    """Whether vLLM refused a prompt for its length."""
    return why.status == 400 and "maximum context length" in why.text


# ---------------------------------------------------------------- answers without the model


def loaded(name: str, reason: str, *, kind: Kind) -> Response:
    """The one object that answers a request to load or unload, also where a stream was asked for."""
    answer: dict[str, Any] = {"model": name, "created_at": created_at()}
    answer |= {"message": EMPTY_MESSAGE} if kind == "chat" else {"response": ""}
    return json_response(answer | {"done": True, "done_reason": reason})


def created_at() -> str:
    """Now, as Ollama writes it."""
    return Stamp()(Clock.wall_ns()).decode()


async def turn_ids(asked: Asked, model: Model, *, has_context: bool = False) -> list[int]:
    """Token ids of what vLLM is asked, as its template renders it; after a context, without a beginning of text."""
    names = ("messages", "tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt", "prompt")
    fields: dict[str, Any] = {name: asked.body[name] for name in names if name in asked.body}
    if has_context and "prompt" in fields:
        fields["add_special_tokens"] = False
    return await model.upstream.tokenized({"model": model.served_id, **fields})


class Rendered(Worked):
    """What the model would have been prompted with, and how many images; nothing is run."""

    def __init__(
        self, proxy: "Proxy", request: GenerateRequest | ChatRequest, asked: Asked, model: Model, *, kind: Kind
    ) -> None:
        super().__init__(proxy)
        self._render = functools.partial(rendered_only, request, asked, model, kind=kind)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._render()
        await answer(scope, receive, send)


async def rendered_only(request: GenerateRequest | ChatRequest, asked: Asked, model: Model, *, kind: Kind) -> Response:
    """The answer of `Rendered`."""
    if "prompt" in asked.body:
        text = asked.body["prompt"]
    else:
        text = await model.upstream.detokenized(model.served_id, await turn_ids(asked, model))
    images = (
        len(request.images) if isinstance(request, GenerateRequest) else sum(len(m.images) for m in request.messages)
    )
    info: dict[str, Any] = {"rendered_template": text}
    if images:
        info["image_count"] = images
    answer: dict[str, Any] = {"model": request.model, "created_at": created_at()}
    answer |= {"message": {"role": "", "content": ""}} if kind == "chat" else {"response": ""}
    return json_response(answer | {"done": False, "_debug_info": info})


# ---------------------------------------------------------------- answers of the model


class Generation(Worked):
    """An answer of vLLM's, told as it comes.

    Status and headers leave with the first line, as Ollama's do: an error before it has its own status. An error after
    it is a last line `{"error": …}`, and no line says `done`.
    """

    def __init__(
        self,
        proxy: "Proxy",
        model: Model,
        asked: Asked,
        reply: Reply,
        *,
        truncates: bool,
        keep_alive_s: float | None,
        context: list[int] | None = None,
    ) -> None:
        """`context`: token ids that stand before what is asked, from an earlier answer."""
        super().__init__(proxy)
        self._context = context
        self._model = model
        self._asked = asked
        self._reply = reply
        self._truncates = truncates
        self._keep_alive_s = keep_alive_s

    def _broken_off(self, why: OllamaError) -> bytes:
        return encoded({"error": why.text}) + b"\n"

    def _over(self) -> None:
        self._proxy.residency.used(self._model.name, self._keep_alive_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._context:
            turn = await turn_ids(self._asked, self._model, has_context=True)
            self._asked = translate.continued(self._asked, [*self._context, *turn])
        exchange = await self._accepted()
        reply = self._reply
        if not self._asked.is_streamed:
            reply.feed_whole(await exchange.read())
        else:
            # Pieces go straight from one socket to the other; this task only waits for the end.
            outlet = self._outlet = Outlet(
                send,
                exchange,
                piece_send=scope.get(RAW_SEND, send),
                stall_timeout_s=self._proxy.settings.stall_timeout_s,
                stalled=functools.partial(give_up, exchange, scope),
            )

            def deliver(data: bytes) -> None:
                lines = reply.feed(data)
                if lines:
                    if not outlet.has_started:
                        outlet.start(200, NDJSON_TYPE.encode())
                    outlet.write(lines)
                if reply.failure is not None:
                    exchange.end(reply.failure if isinstance(reply.failure, UpstreamBroke) else UpstreamBroke())

            exchange.deliver(deliver)
            broken = await exchange.ended
            if broken is None and reply.failure is None and reply.lacks_usage:
                await self._count()
            if lines := reply.end():
                if not outlet.has_started:
                    outlet.start(200, NDJSON_TYPE.encode())
                outlet.write(lines)
        if reply.failure is not None:
            raise reply.failure
        if reply.has_reasoning:
            self._proxy.catalog.saw_reasoning(self._model)
        if self._outlet is not None and self._outlet.has_started:
            await self._outlet.finish()
        else:
            await json_response(reply.whole())(scope, receive, send)

    async def _count(self) -> None:
        """Count tokens by vLLM's own tokenizer, where its answer did not bring the usage that was asked for."""
        upstream, model = self._model.upstream, self._model.served_id
        prompt = self._asked.body.get("prompt")
        prompt_ids = prompt if isinstance(prompt, list) else await turn_ids(self._asked, self._model)
        said = await upstream.tokenized({"model": model, "prompt": self._reply.said, "add_special_tokens": False})
        self._reply.counted(prompt_tokens=len(prompt_ids), tokens=len(said))

    async def _accepted(self) -> Exchange:
        """vLLM's answer, from its status on. Raises what Ollama would say where vLLM refuses."""
        exchange = await self._posted()
        if exchange.status == 400 and len(self._asked.body.get("stop", [])) > translate.VLLM_STOPS:
            refused = refusal(exchange.status, await exchange.read())
            if "stop" not in refused.text:
                raise refused
            warn_of_stops()
            self._asked.body["stop"] = self._asked.body["stop"][: translate.VLLM_STOPS]
            exchange = await self._posted()
        if exchange.status >= 300:
            why = await self._why_refused(exchange)
            if not (self._truncates and is_too_long(why)):
                raise why
            await self._shorten()
            exchange = await self._posted()
            if exchange.status >= 300:
                raise await self._why_refused(exchange)
        if self._asked.is_streamed:
            self._reply.accepted()
        return exchange

    async def _shorten(self) -> None:
        """Cut a prompt that does not fit, as Ollama does: the oldest turns go first.

        The system prompt and the last message stay. vLLM cannot shift its context while it generates, so room for the
        answer is kept: what was asked for, at most half of the context. Where even the last message is too long, vLLM
        keeps the end of the prompt.
        """
        body, limit = self._asked.body, self._model.max_model_len
        wanted = body["max_tokens"]
        room = limit - (min(wanted, limit // 2) if wanted < limit else limit // 4)
        messages = body.get("messages")
        if messages:
            system = [message for message in messages if message["role"] == "system"]
            turns = [message for message in messages if message["role"] != "system"]

            async def fits(dropped: int) -> bool:
                body["messages"] = system + turns[dropped:]
                return len(await turn_ids(self._asked, self._model)) <= room

            low, high = 1, len(turns) - 1
            while low < high:
                middle = (low + high) // 2
                if await fits(middle):
                    high = middle
                else:
                    low = middle + 1
            if high > 0 and await fits(high):
                return
            body["messages"] = system + turns[-1:]
        body["truncate_prompt_tokens"] = room

    async def _posted(self) -> Exchange:
        body = msgspec.json.encode(self._asked.body)
        if not self._asked.is_streamed:
            self._reply.accepted()  # the head of a whole answer comes when all is over
        self._exchange = await self._model.upstream.wire.post(self._asked.path, body)
        return self._exchange

    async def _why_refused(self, exchange: Exchange) -> OllamaError:
        why = refusal(exchange.status, await exchange.read())
        name = self._reply.model
        if "tool" in why.text and "--enable-auto-tool-choice" in why.text:
            return OllamaError(400, f"{translate.full_name(name)} does not support tools")
        if exchange.status == 404:
            self._proxy.catalog.forget()  # vLLM was started again with another model
            return ModelNotFound(name)
        return why
