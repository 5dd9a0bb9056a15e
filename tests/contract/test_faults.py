"""vLLM that is slow, gone, coming back, out of memory or not vLLM at all: clear errors in JSON, and the proxy lives."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.contract.servers import Fake, Json, Proxied, Starter, objects, wait_until

HI = [{"role": "user", "content": "hi"}]
CHAT: Json = {"model": "smollm2", "messages": HI}
BROKE = "an error was encountered while running the model: unexpected EOF"
ASKED: tuple[tuple[str, Json], ...] = (
    ("/api/chat", {"model": "smollm2", "messages": HI}),
    ("/api/chat", {"model": "smollm2", "messages": HI, "stream": False}),
    ("/api/generate", {"model": "smollm2", "prompt": "hi"}),
    ("/api/generate", {"model": "smollm2", "prompt": "hi", "raw": True, "stream": False}),
)


@pytest.fixture
def pair(start: Starter) -> Iterator[tuple[Fake, Proxied]]:
    """A vLLM that may be killed, and a proxy that knows it."""
    vllm = start.fake("--model", "smollm2")
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}")
    assert proxy.generate()["done"] is True
    yield vllm, proxy
    proxy.stop()
    vllm.stop()


def assert_clear(answer: httpx.Response, status: set[int], *, about: Fake) -> str:
    """An error of Ollama's form that tells nothing of the inside."""
    assert answer.status_code in status, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert set(answer.json()) == {"error"}
    text: str = answer.json()["error"]
    assert text
    assert str(about.port) not in text
    assert "Traceback" not in text
    assert "<html" not in text
    return text


def test_a_vllm_that_is_killed_in_mid_stream_ends_it_with_an_error(pair: tuple[Fake, Proxied]) -> None:
    vllm, proxy = pair
    vllm.script({"pieces": ["word "] * 200, "delay_s": 0.02})
    threading.Timer(0.4, vllm.kill).start()
    lines = objects(proxy.post("/api/chat", CHAT).text)
    assert len(lines) > 2
    assert lines[-1] == {"error": BROKE}
    assert all(line["done"] is False for line in lines[:-1])
    assert_clear(proxy.post("/api/chat", CHAT), {502}, about=vllm)


def test_a_vllm_that_is_killed_before_a_whole_answer(pair: tuple[Fake, Proxied]) -> None:
    vllm, proxy = pair
    vllm.script({"never_headers": True})
    threading.Timer(0.3, vllm.kill).start()
    assert_clear(proxy.post("/api/chat", {**CHAT, "stream": False}), {500, 502}, about=vllm)


def test_a_vllm_that_comes_back_is_used_again(start: Starter) -> None:
    vllm = start.fake("--model", "smollm2")
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}")
    assert proxy.chat()["done"] is True
    vllm.kill()
    assert_clear(proxy.post("/api/chat", CHAT), {502}, about=vllm)
    assert [model["name"] for model in proxy.http.get("/api/tags").json()["models"]] == ["smollm2:latest"]
    again = start.fake("--model", "smollm2", "--port", str(vllm.port))
    again.script({"status": 503, "body": {"error": "loading"}}, {"status": 503, "body": ""})
    assert_clear(proxy.post("/api/chat", CHAT), {503}, about=vllm)
    assert_clear(proxy.post("/api/chat", {**CHAT, "stream": False}), {503}, about=vllm)
    assert proxy.chat()["done"] is True
    proxy.stop()


def test_a_vllm_that_starts_after_the_proxy_is_found(start: Starter) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    proxy = start.proxy("--upstream", f"smollm2=http://127.0.0.1:{port}")
    assert proxy.http.get("/api/tags").json() == {"models": []}
    assert proxy.post("/api/chat", CHAT).status_code in {404, 502, 503}
    start.fake("--model", "smollm2", "--port", str(port))
    assert wait_until(lambda: proxy.http.get("/api/tags").json()["models"], within_s=30, every_s=0.2)
    assert proxy.chat()["done"] is True
    proxy.stop()


def test_another_model_behind_the_same_address_is_noticed(start: Starter) -> None:
    vllm = start.fake("--model", "first")
    proxy = start.proxy("--upstream", vllm.url)
    assert proxy.chat(model="first")["done"] is True
    vllm.kill()
    start.fake("--model", "second", "--port", str(vllm.port))
    assert proxy.post("/api/chat", {"model": "first", "messages": HI}).status_code == 404
    assert proxy.chat(model="second")["done"] is True
    proxy.stop()


@pytest.mark.parametrize(("path", "body"), ASKED)
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"status": 500, "body": {"error": {"message": "CUDA out of memory.", "code": 500}}}, {500}),
        ({"status": 500, "body": "Internal Server Error", "content_type": "text/plain"}, {500}),
        ({"status": 502, "body": "<html><h1>Bad Gateway</h1></html>", "content_type": "text/html"}, {500, 502}),
        ({"status": 429, "body": {"error": {"message": "slow down", "code": 429}}}, {429}),
        ({"status": 413, "body": {"detail": "too large"}}, {400}),
        ({"status": 422, "body": {"detail": [{"loc": ["body"], "msg": "bad"}]}}, {400}),
        ({"status": 400, "body": "[1, 2"}, {400}),
        ({"status": 401, "body": {"error": "Unauthorized"}}, {502}),
        ({"status": 403, "body": {}}, {502}),
        ({"status": 301, "body": "", "headers": {"location": "http://127.0.0.1:1/"}}, {500, 502}),
        ({"status": 200, "body": "<html>hello</html>", "content_type": "text/html"}, {500, 502}),
        ({"status": 200, "body": "not json"}, {500, 502}),
        ({"status": 200, "body": "[1]"}, {500, 502}),
        ({"status": 200, "body": ""}, {500, 502}),
        ({"garbage": True}, {500, 502}),
        ({"hangup": True, "times": 3}, {500, 502}),
    ],
    ids=lambda it: json.dumps(it)[:50] if isinstance(it, dict) and "status" in it else "",
)
def test_whatever_comes_instead_of_an_answer_is_a_clear_error(
    proxy: Proxied, vllm: Fake, script: Json, status: set[int], path: str, body: Json
) -> None:
    vllm.script(script)
    assert_clear(proxy.post(path, body), status, about=vllm)
    vllm.forget()
    assert proxy.generate()["done"] is True


@pytest.mark.parametrize(
    "raw",
    [
        "data: {not json}\n\ndata: [DONE]\n\n",
        "data: [1,2]\n\n",
        "data: 5\n\ndata: null\n\n",
        'data: {"choices":[{"index":0,"delta":5}]}\n\n',
        'data: {"choices":{"a":1}}\n\n',
        "<html>hello</html>",
        "\n\n\n\n",
        "",
        "data: [DONE]\n\n",
        'data: {"object":"error","message":"old style","code":500}\n\ndata: [DONE]\n\n',
    ],
)
def test_a_stream_of_garbage_is_a_clear_error(proxy: Proxied, vllm: Fake, raw: str) -> None:
    for path, body in ASKED[::2]:
        vllm.script({"raw": raw})
        assert_clear(proxy.post(path, body), {500, 502}, about=vllm)


def test_garbage_after_the_first_token_is_the_last_line(proxy: Proxied, vllm: Fake) -> None:
    good = 'data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
    for bad in ("data: {oops\n\n", 'data: {"error":{"message":"boom","code":500}}\n\ndata: [DONE]\n\n'):
        vllm.script({"raw": good + bad})
        lines = objects(proxy.post("/api/chat", CHAT).text)
        assert lines[0]["message"]["content"] == "word"
        assert set(lines[-1]) == {"error"}
        assert all(line["done"] is False for line in lines[:-1])


def test_embeddings_that_are_none_are_a_clear_error(proxy: Proxied, embedder: Fake) -> None:
    body = {"model": "minilm", "input": ["a", "b"]}
    for script, status in (
        ({"status": 500, "body": {"error": {"message": "CUDA out of memory.", "code": 500}}}, {500}),
        ({"status": 200, "body": "no json"}, {500, 502}),
        ({"status": 200, "body": {"data": []}}, {500, 502}),
        ({"embeddings": [[0.0, 0.0]]}, {500, 502}),
        ({"garbage": True}, {500, 502}),
        ({"hangup": True, "times": 3}, {500, 502}),
    ):
        embedder.script(script)
        assert_clear(proxy.post("/api/embed", body), status, about=embedder)
        embedder.forget()


def test_a_slow_list_of_models_does_not_hang_the_clients(start: Starter) -> None:
    vllm = start.fake("--model", "smollm2")
    vllm.script({"path": "/v1/models", "delay_headers_s": 60, "times": None})
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}")
    started_s = time.monotonic()
    assert proxy.http.get("/api/tags").json() == {"models": []}
    assert time.monotonic() - started_s < 15  # the list takes a minute
    assert_clear(proxy.post("/api/chat", CHAT), {404, 502, 503, 504}, about=vllm)
    vllm.forget()
    assert wait_until(lambda: proxy.http.get("/api/tags").json()["models"], within_s=30, every_s=0.2)
    proxy.stop()


def test_a_slow_answer_is_waited_for(proxy: Proxied, vllm: Fake) -> None:
    vllm.script({"delay_headers_s": 0.6}, {"delay_first_s": 0.6})
    early, late = (proxy.lines("/api/chat", CHAT)[-1] for _ in range(2))
    assert early["total_duration"] >= 0.6e9
    assert early["load_duration"] >= 0.6e9
    assert late["prompt_eval_duration"] >= 0.6e9


def test_one_server_down_leaves_the_other_in_service(start: Starter, vllm: Fake) -> None:
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}", "--upstream", "gone=http://127.0.0.1:9")
    assert proxy.chat()["done"] is True
    assert "smollm2:latest" in [model["name"] for model in proxy.http.get("/api/tags").json()["models"]]
    assert proxy.post("/api/chat", {"model": "gone", "messages": HI}).status_code in {404, 502}
    proxy.stop()


def test_idle_connections_that_vllm_closes_are_not_seen_by_clients(pair: tuple[Fake, Proxied]) -> None:
    """vLLM closes a connection after 5 s; one that is being closed must not take a request."""
    vllm, proxy = pair
    proxy.generate()
    vllm.script(*({"hangup": True} for _ in range(1)))
    assert proxy.generate()["done"] is True
    time.sleep(5.2)
    assert proxy.generate()["done"] is True
