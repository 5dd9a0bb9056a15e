"""Sections 7.51 to 7.57 of the contract: who may ask, how much, and what reaches vLLM."""

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.contract.servers import Fake, Json, Proxied, Starter

HI = [{"role": "user", "content": "hi"}]
CHAT: Json = {"model": "smollm2", "messages": HI, "stream": False}


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null", "ftp://localhost"])
def test_51_a_foreign_origin_is_refused_before_anything_runs(proxy: Proxied, vllm: Fake, origin: str) -> None:
    for method, path in (("POST", "/api/chat"), ("GET", "/api/tags"), ("POST", "/v1/chat/completions")):
        answer = proxy.http.request(method, path, json=CHAT, headers={"origin": origin})
        assert (answer.status_code, answer.content) == (403, b"")
        assert "access-control-allow-origin" not in answer.headers
    assert vllm.requests() == []


@pytest.mark.parametrize(
    "origin", ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8080", "app://x", "vscode-webview://x"]
)
def test_51_local_origins_are_served(proxy: Proxied, origin: str) -> None:
    answer = proxy.http.get("/api/tags", headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "Origin" in answer.headers["vary"]
    asking = {"origin": origin, "access-control-request-method": "POST"}
    asked = proxy.http.request("OPTIONS", "/api/chat", headers=asking)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == origin
    assert "POST" in asked.headers["access-control-allow-methods"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:11434", "localhost.evil.example", "8.8.8.8"])
def test_51_a_foreign_host_is_refused_on_loopback(proxy: Proxied, host: str) -> None:
    """A page that rebinds its own name to 127.0.0.1 sends its own Host (CVE-2024-28224)."""
    answer = proxy.http.get("/api/tags", headers={"host": host})
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1234", "127.0.0.1:1", "x.localhost", "nas.local", "192.168.1.2"]
)
def test_51_a_local_host_is_served(proxy: Proxied, host: str) -> None:
    assert proxy.http.get("/api/tags", headers={"host": host}).status_code == 200


def test_52_a_body_beyond_the_limit_is_refused_while_it_comes(proxy: Proxied) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model":"smollm2","prompt":"'
        for _ in range(12):
            yield b"x" * 2**20
        yield b'"}'

    chunked = proxy.http.post("/api/generate", content=pieces())
    known = proxy.http.post("/api/generate", content=b"x" * (9 * 2**20))
    for answer in (chunked, known):
        assert answer.status_code in {400, 413}
        assert set(answer.json()) == {"error"}


def test_52_a_body_that_nests_too_deep_is_refused(proxy: Proxied) -> None:
    for deep in ("[" * 200_000, '{"a":' * 100_000, "[" * 5_000 + "]" * 5_000):
        body = f'{{"model":"smollm2","prompt":"hi","format":{deep}'.encode()
        assert proxy.http.post("/api/generate", content=body).status_code == 400
    assert proxy.generate()["done"] is True


NAMES = [
    "../../x",
    "a%2f..",
    "x" * 5000,
    "a/../../b",
    "/etc/passwd",
    "a b",
    "a\0b",
    "a\nb",
    "..",
    ".",
    "é",
    ":",
    "a:b:c",
]


@pytest.mark.parametrize("name", NAMES)
def test_53_a_name_that_is_none_reaches_nobody(proxy: Proxied, vllm: Fake, name: str) -> None:
    for path, body in (
        ("/api/generate", {"model": name, "prompt": "hi"}),
        ("/api/chat", {"model": name, "messages": HI}),
        ("/api/show", {"model": name}),
        ("/api/embed", {"model": name, "input": "x"}),
        ("/api/pull", {"model": name, "stream": False}),
        ("/api/copy", {"source": "smollm2", "destination": name}),
        ("/api/copy", {"source": name, "destination": "b"}),
        ("/api/create", {"model": name, "from": "smollm2", "stream": False}),
        ("/v1/chat/completions", {"model": name, "messages": HI}),
    ):
        answer = proxy.post(path, body)
        assert answer.status_code in {400, 404, 500}, (path, answer.text)
        assert set(answer.json()) == {"error"}, path
    assert proxy.http.request("DELETE", "/api/delete", json={"model": name}).status_code in {400, 404}
    assert vllm.requests() == []


PRIVATE: Json = {
    "chat_template": "{{ x }}", "chat_template_kwargs": {"a": 1}, "kv_transfer_params": {}, "vllm_xargs": {"a": 1},
    "priority": 7, "structured_outputs": {"regex": "a"}, "n": 3, "prompt_logprobs": 1, "mm_processor_kwargs": {"a": 1},
    "truncate_prompt_tokens": 3, "ignore_eos": True, "min_tokens": 3, "guided_json": {}, "cache_salt": "x", "user": "x",
    "logit_bias": {"1": 1}, "request_id": "x", "stream_options": {"include_usage": False}, "echo": True,
    "add_special_tokens": True, "documents": [], "tool_choice": "required", "session_id": "x", "best_of": 2,
}  # fmt: skip
SENT = {
    "model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop",
    "logprobs", "top_logprobs", "return_token_ids", "skip_special_tokens", "add_special_tokens", "response_format",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("raw", [True, False])
def test_54_unknown_fields_do_not_reach_vllm(proxy: Proxied, vllm: Fake, path: str, raw: bool) -> None:
    body = {"model": "smollm2", "stream": False, "options": PRIVATE, **PRIVATE}
    body |= {"messages": HI} if path == "/api/chat" else {"prompt": "hi", "raw": raw}
    assert proxy.post(path, body).status_code == 200
    (asked,) = vllm.requests()
    assert set(asked["body"]) <= SENT
    assert asked["body"].get("add_special_tokens") in {None, True, False}
    assert asked["body"].get("stream_options") in (None, {"include_usage": True})


def test_54_headers_do_not_reach_vllm(proxy: Proxied, vllm: Fake) -> None:
    private = {
        "cookie": "a=b", "authorization": "Bearer mine", "x-forwarded-for": "1.2.3.4", "x-openwebui-user-name": "x",
        "x-vllm-priority": "1", "x-session-id": "x", "x-data-parallel-rank": "0",
    }  # fmt: skip
    for path in ("/api/chat", "/v1/chat/completions"):
        proxy.post(path, CHAT, headers=private)
        assert not set(private) & set(vllm.requests()[-1]["headers"]), path


def test_54_v1_does_not_let_vllm_fetch_addresses(proxy: Proxied, vllm: Fake) -> None:
    for url in ("http://127.0.0.1:1/x.png", "file:///etc/passwd", "https://evil.example/x.png"):
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        answer = proxy.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": parts}]})
        assert answer.status_code == 400
    assert vllm.requests() == []


def test_55_a_body_that_dribbles_in_times_out(proxy: Proxied) -> None:
    with socket.create_connection(proxy.address, timeout=10) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{")
        started_s = time.monotonic()
        for _ in range(3):
            time.sleep(0.2)
            client.sendall(b" ")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert time.monotonic() - started_s < 9
        assert answer.status in {400, 408}
        assert set(json.loads(answer.read())) == {"error"}


def test_56_a_key_is_asked_for_everywhere_but_at_the_root(start: Starter, vllm: Fake) -> None:
    key = start.folder / "client-key"
    key.write_text("open sesame\n".replace(" ", "-"))
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}", "--api-key-file", str(key))
    assert proxy.http.get("/").status_code == 200
    routes = [("GET", "/api/tags"), ("POST", "/api/chat"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")]
    for method, path in routes:
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": "open-sesame"}):
            refused = proxy.http.request(method, path, json=CHAT, headers=wrong)
            assert refused.status_code == 401
            assert "unauthorized" in refused.text
        right = {"authorization": "Bearer open-sesame"}
        assert proxy.http.request(method, path, json=CHAT, headers=right).status_code == 200
    assert "open-sesame" not in json.dumps(vllm.http.get("/_requests").json())
    proxy.stop()
