"""Sections 7.36 to 7.50 of the contract: errors, embeddings and what manages models (aborts: test_aborts.py)."""

import json
import math
import threading
from typing import Any

import httpx
import pytest

from tests.contract.servers import Fake, Json, Proxied, Starter, objects, wait_until

HI = [{"role": "user", "content": "hi"}]
BROKE = "an error was encountered while running the model: unexpected EOF"
CHAT: Json = {"model": "smollm2", "messages": HI}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_36_what_vllm_refuses_is_refused_with_its_words(proxy: Proxied, vllm: Fake, path: str, stream: bool) -> None:
    told = {"error": {"message": "Grammar error: too deep", "type": "BadRequestError", "param": None, "code": 400}}
    vllm.script({"status": 400, "body": told})
    body = {"model": "smollm2", "messages": HI, "prompt": "hi", "stream": stream}
    assert proxy.error(path, body, 400) == "Grammar error: too deep"


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_37_an_error_in_the_stream_is_its_last_line(proxy: Proxied, vllm: Fake, path: str) -> None:
    vllm.script({"error_after": 4})
    lines = objects(proxy.post(path, {"model": "smollm2", "messages": HI, "prompt": "hi"}).text)
    assert set(lines[-1]) == {"error"}
    assert lines[-1]["error"] == BROKE
    assert all(line["done"] is False for line in lines[:-1])
    assert len(lines) > 1


def test_37_an_error_before_any_text_has_its_own_status(proxy: Proxied, vllm: Fake) -> None:
    for after in (0, 1):
        vllm.script({"error_after": after})
        assert proxy.error("/api/chat", CHAT, 500) == BROKE


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_38_a_stream_that_is_cut_ends_with_an_error(proxy: Proxied, vllm: Fake, path: str, how: str) -> None:
    vllm.script({"cut_after": 4, "cut_how": how, "delay_s": 0.01})
    lines = objects(proxy.post(path, {"model": "smollm2", "messages": HI, "prompt": "hi"}).text)
    assert lines[-1] == {"error": BROKE}
    assert all(line["done"] is False for line in lines[:-1])


def test_38_a_stream_that_ends_without_finish_is_an_error(proxy: Proxied, vllm: Fake) -> None:
    for done in (True, False):
        vllm.script({"finish_reason": None, "done": done, "usage": "never"})
        lines = objects(proxy.post("/api/chat", CHAT).text)
        assert set(lines[-1]) == {"error"}


@pytest.mark.parametrize("how", ["close", "reset"])
def test_38_a_whole_answer_that_is_cut_is_an_error(proxy: Proxied, vllm: Fake, how: str) -> None:
    vllm.script({"cut_after": 1, "cut_how": how})
    assert proxy.error("/api/chat", {**CHAT, "stream": False}, 500) == BROKE


def test_39_without_vllm_every_request_for_it_fails_clearly(start: Starter, vllm: Fake) -> None:
    gone = start.fake("--model", "gone")
    proxy = start.proxy("--upstream", f"gone={gone.url}")
    assert proxy.post("/api/generate", {"model": "gone", "prompt": "hi", "stream": False}).status_code == 200
    gone.kill()
    for path, body in (
        ("/api/chat", {"messages": HI}),
        ("/api/generate", {"prompt": "hi"}),
        ("/api/chat", {"messages": HI, "stream": False}),
    ):
        text = proxy.error(path, {"model": "gone", **body}, 502)
        assert gone.url not in text
        assert str(gone.port) not in text
    assert proxy.http.get("/").status_code == 200
    assert proxy.http.get("/api/tags").status_code == 200
    proxy.stop()


def test_40_a_full_queue_is_503(start: Starter, vllm: Fake) -> None:
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}", "--max-requests", "1")
    vllm.script({"never_headers": True})
    holder = threading.Thread(target=_asks_in_vain, args=(proxy,))
    holder.start()
    assert wait_until(lambda: vllm.running() == 1)
    text = proxy.error("/api/chat", CHAT, 503)
    assert text == "server busy, please try again.  maximum pending requests exceeded"
    holder.join()
    assert wait_until(lambda: vllm.running() == 0)
    assert proxy.chat()["done"] is True
    proxy.stop()


def _asks_in_vain(proxy: Proxied) -> None:
    with pytest.raises(httpx.ReadTimeout):
        proxy.post("/api/chat", CHAT, timeout=0.6)


def test_41_a_key_that_vllm_refuses_is_not_the_client_s_fault(start: Starter) -> None:
    guarded = start.fake("--model", "smollm2", "--api-key", "sesame")
    proxy = start.proxy("--upstream", f"smollm2={guarded.url}")
    assert "key" in proxy.error("/api/chat", CHAT, 502)
    key = start.folder / "key"
    key.write_text("sesame\n")
    knowing = start.proxy("--upstream", f"smollm2={guarded.url}", "--upstream-api-key-file", str(key))
    assert knowing.chat()["done"] is True
    assert guarded.requests()[-1]["headers"]["authorization"] == "Bearer sesame"
    for it in (knowing, proxy, guarded):
        it.stop()


def test_44_embed_gives_a_vector_of_length_1_for_each_text(proxy: Proxied, embedder: Fake) -> None:
    for given, count in (("hello", 1), (["hello", "world"], 2), (["", "x"], 2)):
        told = proxy.post("/api/embed", {"model": "minilm", "input": given}).json()
        assert set(told) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
        assert len(told["embeddings"]) == count
    empty: tuple[Json, ...] = ({"input": ""}, {"input": []}, {})
    for nothing in empty:
        assert proxy.post("/api/embed", {"model": "minilm", **nothing}).json() == {"model": "minilm", "embeddings": []}
    for wrong in (5, [1, 2], [[1, 2]], {"a": 1}, [None]):
        assert proxy.error("/api/embed", {"model": "minilm", "input": wrong}, 400) == "invalid input type"
    embedder.script({"embeddings": [[3.0, 4.0, 0.0, 12.0]]})
    assert proxy.post("/api/embed", {"model": "minilm", "input": "x"}).json()["embeddings"] == [
        pytest.approx([3 / 13, 4 / 13, 0, 12 / 13], abs=1e-6)
    ]


def test_44_dimensions_cut_and_normalise_again(proxy: Proxied) -> None:
    whole = proxy.post("/api/embed", {"model": "minilm", "input": "hello"}).json()["embeddings"][0]
    (short,) = proxy.post("/api/embed", {"model": "minilm", "input": "hello", "dimensions": 4}).json()["embeddings"]
    norm = math.sqrt(sum(x * x for x in whole[:4]))
    assert short == pytest.approx([x / norm for x in whole[:4]], abs=1e-6)


def test_44_a_text_that_is_too_long_is_cut_unless_forbidden(proxy: Proxied) -> None:
    text = "word " * 300
    told = proxy.post("/api/embed", {"model": "minilm", "input": text}).json()
    assert told["prompt_eval_count"] == 256
    body = {"model": "minilm", "input": text, "truncate": False}
    assert proxy.error("/api/embed", body, 400) == "the input length exceeds the context length"


def test_45_the_old_route_gives_one_flat_vector(proxy: Proxied) -> None:
    told = proxy.post("/api/embeddings", {"model": "minilm", "prompt": "hello"}).json()
    assert set(told) == {"embedding"}
    assert len(told["embedding"]) == 16
    assert all(isinstance(x, float) for x in told["embedding"])
    assert proxy.post("/api/embeddings", {"model": "minilm", "prompt": ""}).json() == {"embedding": []}


def test_46_vectors_are_in_the_order_of_their_index(proxy: Proxied, embedder: Fake) -> None:
    straight = proxy.post("/api/embed", {"model": "minilm", "input": ["a", "b", "c"]}).json()["embeddings"]
    embedder.script({"is_reversed": True})
    assert proxy.post("/api/embed", {"model": "minilm", "input": ["a", "b", "c"]}).json()["embeddings"] == straight


def test_47_a_copy_is_a_name_that_can_be_listed_used_and_deleted(proxy: Proxied, vllm: Fake) -> None:
    answer = proxy.post("/api/copy", {"source": "smollm2", "destination": "mine/copy:v1"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert "mine/copy:v1" in [model["name"] for model in proxy.http.get("/api/tags").json()["models"]]
    assert proxy.chat(model="mine/copy:v1")["model"] == "mine/copy:v1"
    assert vllm.asked()["model"] == "smollm2"
    assert proxy.http.request("DELETE", "/api/delete", json={"model": "mine/copy:v1"}).status_code == 200
    assert proxy.post("/api/chat", {**CHAT, "model": "mine/copy:v1"}).status_code == 404
    refused = proxy.http.request("DELETE", "/api/delete", json={"model": "smollm2"})
    assert refused.status_code in {400, 403}
    assert set(refused.json()) == {"error"}
    assert proxy.chat()["done"] is True


def test_48_what_is_served_is_pulled_at_once(proxy: Proxied) -> None:
    for body in ({"model": "smollm2"}, {"name": "smollm2"}, {"model": "smollm2", "insecure": True}):
        assert [line["status"] for line in proxy_lines(proxy, "/api/pull", body)][-1] == "success"
    whole = proxy.post("/api/pull", {"model": "smollm2", "stream": False})
    assert (whole.json(), whole.headers["content-type"]) == ({"status": "success"}, "application/json")
    lines = proxy_lines(proxy, "/api/pull", {"model": "nosuch"})
    assert "error" in lines[-1]
    assert all("success" not in line.values() for line in lines)
    assert set(proxy.post("/api/pull", {"model": "nosuch", "stream": False}).json()) == {"error"}


def proxy_lines(proxy: Proxied, path: str, body: Any) -> list[Json]:
    answer = proxy.post(path, body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return objects(answer.text)


def test_49_what_was_created_is_used(proxy: Proxied, vllm: Fake) -> None:
    body = {
        "model": "parrot", "from": "smollm2", "system": "You are a parrot.",
        "parameters": {"temperature": 0.25, "stop": ["END", "STOP"], "num_predict": 7},
        "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Polly."}],
    }  # fmt: skip
    assert [line["status"] for line in proxy_lines(proxy, "/api/create", body)][-1] == "success"
    proxy.chat(model="parrot")
    asked = vllm.asked()
    assert [it["content"] for it in asked["messages"]] == ["You are a parrot.", "Who?", "Polly.", "hi"]
    assert (asked["temperature"], asked["stop"]) == (0.25, ["END", "STOP"])
    assert asked.get("max_tokens", asked.get("max_completion_tokens")) == 7
    proxy.chat(model="parrot", messages=[{"role": "system", "content": "No."}, *HI], options={"temperature": 1})
    assert vllm.asked()["temperature"] == 1
    assert "You are a parrot." not in json.dumps(vllm.asked()["messages"])
    proxy.generate(model="parrot")
    assert vllm.asked()["messages"][0]["content"] == "You are a parrot."
    shown = proxy.post("/api/show", {"model": "parrot"}).json()
    assert shown["system"] == "You are a parrot."
    assert proxy.http.request("DELETE", "/api/delete", json={"model": "parrot"}).status_code == 200


def test_50_a_push_is_never_a_success(proxy: Proxied) -> None:
    assert proxy.error("/api/push", {}, 400) == "model is required"
    answer = proxy.post("/api/push", {"model": "smollm2"})
    lines = objects(answer.text if answer.text.endswith("\n") else answer.text + "\n")
    assert "error" in lines[-1]
    assert all("success" not in line.values() for line in lines)
    assert "error" in proxy.post("/api/push", {"model": "smollm2", "stream": False}).json()
