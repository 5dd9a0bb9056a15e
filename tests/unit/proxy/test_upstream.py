"""The control plane against a fake vLLM in a process of its own, and refusals as vLLM 0.32 words them (recorded)."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from proxy.errors import OllamaError, UpstreamBroke, UpstreamNotReady, UpstreamRefused, UpstreamUnreachable
from proxy.settings import Settings, UpstreamAddress
from proxy.upstream import Upstream, refusal
from tests.contract.servers import Fake, Starter

T = TypeVar("T")
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("servers"))
    yield starter
    starter.stop()


@pytest.fixture(scope="module")
def chat(start: Starter) -> Fake:
    return start.fake("--model", "m", "--root", "/models/m", "--max-model-len", "512", "--api-key", "secret")


@pytest.fixture(scope="module")
def embedder(start: Starter) -> Fake:
    return start.fake("--kind", "embed", "--model", "e")


@pytest.fixture(autouse=True)
def _fresh(chat: Fake) -> None:
    chat.forget()


def asked(url: str, question: Callable[[Upstream], Awaitable[T]], *, key: str | None = "secret") -> T:
    async def run() -> T:
        upstream = Upstream(UpstreamAddress(url=url), Settings(upstreams=(), upstream_api_key=key))
        try:
            return await question(upstream)
        finally:
            await upstream.aclose()

    return asyncio.run(run())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def seen(vllm: Fake) -> list[tuple[str, str]]:
    return [(one["method"], one["path"]) for one in vllm.http.get("/_requests").json()]


def body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}).encode()


# ---------------------------------------------------------------- questions


def test_the_served_models_are_told_with_their_context(chat: Fake) -> None:
    (model,) = asked(chat.url, lambda upstream: upstream.models())
    assert (model.id, model.root, model.max_model_len, model.parent) == ("m", "/models/m", 512, None)


def test_a_chat_server_generates_and_an_embedding_server_embeds(chat: Fake, embedder: Fake) -> None:
    assert asked(chat.url, lambda upstream: upstream.tasks()) == {"generate"}
    assert asked(embedder.url, lambda upstream: upstream.tasks()) == {"embed"}


def test_tasks_are_asked_once_and_cost_no_tokens(chat: Fake) -> None:
    async def twice(upstream: Upstream) -> None:
        await upstream.tasks()
        await upstream.tasks()

    asked(chat.url, twice)
    assert sorted(seen(chat)) == [("GET", "/v1/chat/completions"), ("GET", "/v1/embeddings")]


def test_tasks_are_asked_again_once_vllm_was_lost(chat: Fake) -> None:
    async def lost_between(upstream: Upstream) -> None:
        await upstream.tasks()
        chat.script({"path": "/v1/models", "hangup": True, "times": 2})
        with pytest.raises(UpstreamBroke):
            await upstream.models()
        await upstream.tasks()

    asked(chat.url, lost_between)
    assert seen(chat).count(("GET", "/v1/embeddings")) == 2


def test_health_is_a_yes_or_no_and_never_an_error(chat: Fake) -> None:
    assert asked(chat.url, lambda upstream: upstream.is_healthy())
    assert not asked(f"http://127.0.0.1:{free_port()}", lambda upstream: upstream.is_healthy())
    chat.script({"path": "/health", "status": 503})
    assert not asked(chat.url, lambda upstream: upstream.is_healthy())


def test_tokens_go_there_and_back(chat: Fake) -> None:
    ids = asked(chat.url, lambda upstream: upstream.tokenized({"model": "m", "prompt": "hello world"}))
    assert ids
    assert "hello" in asked(chat.url, lambda upstream: upstream.detokenized("m", ids))


def test_metrics_are_text(chat: Fake) -> None:
    assert "vllm:num_requests_running" in asked(chat.url, lambda upstream: upstream.metrics())


# ---------------------------------------------------------------- what goes wrong


def test_nothing_listening_is_502_without_an_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UpstreamUnreachable) as caught:
        asked(url, lambda upstream: upstream.models())
    assert caught.value.status == 502
    assert "127.0.0.1" not in caught.value.text


def test_a_server_that_keeps_silent_is_not_ready(chat: Fake) -> None:
    chat.script({"path": "/v1/models", "never_headers": True})
    with pytest.raises(UpstreamNotReady):
        asked(chat.url, lambda upstream: upstream.models(timeout_s=0.2))


def test_an_answer_that_does_not_come_is_504(chat: Fake) -> None:
    chat.script({"never_headers": True})
    with pytest.raises(OllamaError) as caught:
        asked(chat.url, lambda upstream: upstream.json("POST", "/v1/chat/completions", dict(QUESTION), timeout_s=0.2))
    assert caught.value.status == 504


def test_a_connection_that_dies_unanswered_is_replaced_once(chat: Fake) -> None:
    chat.script({"path": "/v1/models", "hangup": True})
    assert asked(chat.url, lambda upstream: upstream.models())


def test_an_answer_that_is_no_json_breaks(chat: Fake) -> None:
    chat.script({"path": "/v1/models", "status": 200, "body": "<html>"})
    with pytest.raises(UpstreamBroke):
        asked(chat.url, lambda upstream: upstream.models())


def test_a_redirect_is_not_followed(chat: Fake) -> None:
    chat.script({"path": "/v1/models", "status": 302, "body": "", "headers": {"location": "http://example.invalid/"}})
    with pytest.raises(UpstreamRefused) as caught:
        asked(chat.url, lambda upstream: upstream.models())
    assert caught.value.status == 500


def test_a_refused_key_is_the_proxys_fault_and_not_the_clients(chat: Fake) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        asked(chat.url, lambda upstream: upstream.models(), key="wrong")
    assert caught.value.status == 502


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "mapped"),
    [(400, 400), (401, 502), (403, 502), (413, 400), (422, 400), (429, 429), (500, 500), (502, 500), (503, 503)],
)
def test_every_status_has_its_counterpart(status: int, mapped: int) -> None:
    assert refusal(status, body("no")).status == mapped


@pytest.mark.parametrize(
    "told", [b'{"error":{"message":"no such thing"}}', b'{"error":"no such thing"}', b'{"detail":"no such thing"}',
             b'{"detail":[{"loc":["body"],"msg":"no such thing"}]}', b"no such thing"]
)  # fmt: skip
def test_every_shape_of_error_becomes_one_text(told: bytes) -> None:
    assert refusal(400, told).text == "no such thing"


@pytest.mark.parametrize("told", [b"", b"<html><body>502 Bad Gateway nginx</body></html>", b"{}", b"x" * 2**21])
def test_an_error_without_words_gets_some(told: bytes) -> None:
    assert refusal(500, told).text == "the model server failed"


def test_a_model_that_vllm_does_not_know_is_said_as_ollama_says_it() -> None:
    why = refusal(404, body("The model `nope` does not exist. Valid aliases: smol."))
    assert (why.status, why.text) == (404, "model 'nope' not found")


def test_a_missing_route_is_a_missing_ability() -> None:
    assert refusal(404, b'{"detail":"Not Found"}').status == 501


def test_an_engine_that_died_is_said_as_ollama_says_it() -> None:
    why = refusal(500, body("EngineCore encountered an issue. See stack trace (above) for the root cause."))
    assert (why.status, why.text) == (500, "an error was encountered while running the model: unexpected EOF")


def test_what_pydantic_complains_of_is_one_line() -> None:
    told = "1 validation error:\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a number', 'input': 'hot'}"  # noqa: E501
    assert refusal(400, body(told)).text == "temperature: Input should be a number"


@pytest.mark.parametrize(
    "told",
    [
        "failed to open /home/user/.cache/huggingface/hub/model.safetensors",
        "cannot reach http://10.0.0.7:8000/v1/models",
        "cannot reach 10.0.0.7:8000",
        'boom\nTraceback (most recent call last):\n  File "/usr/lib/vllm/engine.py", line 3, in run\nKeyError: 1',
        "<vllm.Engine object at 0x7f11deadbeef>",
    ],
)
def test_no_address_path_or_traceback_reaches_a_client(told: str) -> None:
    text = refusal(500, body(told)).text
    assert not any(leak in text for leak in ("/home", "/usr", "10.0.0.7", "Traceback", "0x7f", "http:"))


@pytest.mark.parametrize("told", ["'auto' and/or 'none'", "Qwen/Qwen3-8B does not support it", "a/b is no schema"])
def test_a_slash_alone_is_no_path(told: str) -> None:
    assert refusal(400, body(told)).text == told


def test_a_long_error_is_cut() -> None:
    assert len(refusal(400, body("word " * 10_000)).text) <= 2_001
