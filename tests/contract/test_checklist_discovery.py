"""Sections 7.1 to 7.15 of the contract: what is found out about the server, and how bodies are read."""

import datetime
import re
from typing import Any

import httpx
import pytest

from tests.contract.servers import Fake, Proxied, Starter, objects

HI = [{"role": "user", "content": "hi"}]


def test_01_the_root_says_that_ollama_is_running(proxy: Proxied) -> None:
    told, silent = proxy.http.get("/"), proxy.http.head("/")
    assert (told.status_code, told.text) == (200, "Ollama is running")
    assert told.headers["content-type"] == "text/plain; charset=utf-8"
    assert (silent.status_code, silent.content) == (200, b"")


@pytest.mark.parametrize("path", ["/api/tags", "/api/version"])
def test_02_lists_can_be_asked_for_by_head(proxy: Proxied, path: str) -> None:
    answer = proxy.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_03_a_digest_is_hexadecimal_and_outlives_a_restart(start: Starter, vllm: Fake) -> None:
    digests = []
    for _ in range(2):
        proxy = start.proxy("--upstream", vllm.url)
        (model,) = proxy.http.get("/api/tags").json()["models"]
        assert re.fullmatch("[0-9a-f]{64}", model["digest"])
        digests.append(model["digest"])
        proxy.stop()
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["smollm2", "smollm2:latest", "SmolLM2", "SMOLLM2:LATEST"])
def test_04_a_name_is_matched_without_case_or_tag_and_echoed(proxy: Proxied, vllm: Fake, name: str) -> None:
    names = [model["name"] for model in proxy.http.get("/api/tags").json()["models"]]
    assert "smollm2:latest" in names
    assert all(":" in it for it in names)
    assert proxy.generate(model=name)["model"] == name
    assert {line["model"] for line in proxy.lines("/api/chat", {"model": name, "messages": HI})} == {name}
    assert vllm.asked()["model"] == "smollm2"


def test_05_show_wants_a_model_that_there_is(proxy: Proxied) -> None:
    assert proxy.error("/api/show", {}, 400) == "model is required"
    assert proxy.error("/api/show", {"model": "nosuch"}, 404) == "model 'nosuch:latest' not found"
    assert proxy.http.get("/api/show").status_code == 405


def test_a_model_says_what_its_vllm_calls_itself(proxy: Proxied, vllm: Fake) -> None:
    """By which a simulated vLLM is known behind the proxy."""
    shown = proxy.post("/api/show", {"model": "smollm2"}).json()
    assert shown["model_info"]["vllm.version"] == httpx.get(f"{vllm.url}/version").json()["version"]


def test_06_the_context_length_is_the_same_wherever_it_is_told(proxy: Proxied) -> None:
    shown = proxy.post("/api/show", {"model": "smollm2"}).json()
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == 2048
    assert re.search(r"^num_ctx +2048$", shown["parameters"], re.M)
    proxy.generate()
    running = {model["name"]: model for model in proxy.http.get("/api/ps").json()["models"]}
    assert running["smollm2:latest"]["context_length"] == 2048


def test_07_the_version_is_one_that_clients_accept(proxy: Proxied) -> None:
    version = proxy.http.get("/api/version").json()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(-.*)?", version)
    assert tuple(map(int, version.partition("-")[0].split("."))) >= (0, 6, 4)


def test_08_without_models_lists_are_empty_and_no_null(start: Starter) -> None:
    proxy = start.proxy("--upstream", "http://127.0.0.1:9")
    assert proxy.http.get("/api/tags").json() == {"models": []}
    assert proxy.http.get("/api/ps").json() == {"models": []}
    proxy.stop()


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None])
def test_09_json_is_read_whatever_the_content_type(proxy: Proxied, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"model":"smollm2","prompt":"hi","stream":false}'
    answer = proxy.http.post("/api/generate", content=body, headers=headers)
    assert (answer.status_code, answer.json()["done"]) == (200, True)


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "embeddings", "show", "pull", "push", "create", "copy"])
def test_10_a_body_must_be_there(proxy: Proxied, path: str) -> None:
    answer = proxy.http.post(f"/api/{path}")
    assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})


def test_11_a_stream_that_is_null_streams(proxy: Proxied) -> None:
    for stream in ({}, {"stream": None}):
        answer = proxy.post("/api/generate", {"model": "smollm2", "prompt": "hi", **stream})
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert len(objects(answer.text)) > 2


def test_12_options_are_read_leniently(proxy: Proxied, vllm: Fake) -> None:
    proxy.generate(options=None)
    proxy.generate(options={"num_predict": 3.0, "num_ctx": 2048.0, "top_k": 7.9, "nosuch": {"a": 1}, "seed": None})
    assert (vllm.asked()["top_k"], max(vllm.asked().get("max_tokens", 0), 3)) == (7, 3)
    assert "nosuch" not in vllm.asked()
    for text in ("NaN", "Infinity", "-Infinity"):
        body = f'{{"model":"smollm2","prompt":"hi","options":{{"temperature":{text}}}}}'
        assert proxy.http.post("/api/generate", content=body.encode()).status_code == 400


def test_12_a_stop_that_is_a_string_is_refused_as_ollama_refuses_it(proxy: Proxied) -> None:
    """The recorded answer decides: `option "stop" must be of type array`."""
    body = {"model": "smollm2", "prompt": "hi", "options": {"stop": "e"}}
    assert proxy.error("/api/generate", body, 500) == 'option "stop" must be of type array'


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, 300), (60, 60), (90.5, 90.5), ("5m", 300), ("1h30m", 5400), ("5m0s", 300), (-1, None), ("-1m0s", None),
        ("1.5h", 5400), ("2h3m4.5s", 7384.5),
    ],
)  # fmt: skip
def test_13_keep_alive_is_told_by_ps(proxy: Proxied, given: Any, seconds: float | None) -> None:
    proxy.generate(keep_alive=0)  # a request that names none keeps what holds for a loaded model
    proxy.generate(keep_alive=given)
    now = datetime.datetime.now(datetime.UTC)
    running = {model["name"]: model for model in proxy.http.get("/api/ps").json()["models"]}
    text = running["smollm2:latest"]["expires_at"]
    left_s = (datetime.datetime.fromisoformat(text) - now).total_seconds()
    if seconds is None:
        assert left_s > 20 * 365 * 86400
    else:
        assert left_s == pytest.approx(seconds, abs=3)


@pytest.mark.parametrize("given", ["0", 0, "0s", 0.0])
def test_13_keep_alive_of_nothing_unloads(proxy: Proxied, given: Any) -> None:
    proxy.generate()
    proxy.generate(keep_alive=given)
    assert "smollm2:latest" not in [model["name"] for model in proxy.http.get("/api/ps").json()["models"]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("10", 'time: missing unit in duration "10"'),
        (True, "Unsupported type: 'bool'"),
        ("x", "time: invalid duration"),
    ],
)
def test_13_a_keep_alive_that_is_none_is_refused(proxy: Proxied, given: Any, text: str) -> None:
    body = {"model": "smollm2", "prompt": "hi", "stream": False, "keep_alive": given}
    assert text in proxy.error("/api/generate", body, 400)


@pytest.mark.parametrize("body", [{"model": "gone"}, {"name": "gone"}, {"model": "", "name": "gone"}])
def test_14_delete_has_a_body_and_two_spellings(proxy: Proxied, body: dict[str, str]) -> None:
    assert proxy.post("/api/copy", {"source": "smollm2", "destination": "gone"}).status_code == 200
    answer = proxy.http.request("DELETE", "/api/delete", json=body)
    assert (answer.status_code, answer.content) == (200, b"")
    assert proxy.http.request("DELETE", "/api/delete", json=body).status_code == 404


def test_15_a_role_is_lowered(proxy: Proxied, vllm: Fake) -> None:
    proxy.chat(messages=[{"role": "SYSTEM", "content": "Be brief."}, {"role": "USER", "content": "hi"}])
    assert [message["role"] for message in vllm.asked()["messages"]] == ["system", "user"]
