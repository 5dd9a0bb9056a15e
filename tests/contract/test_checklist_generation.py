"""Sections 7.16 to 7.35 of the contract: what generate and chat make of a request and of vLLM's answer."""

import base64
import json
from typing import Any

import httpx
import pytest

from tests.contract.servers import Fake, Json, Proxied, assert_stream, text_of

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 24
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 24
WEBP = b"RIFF\x1a\0\0\0WEBPVP8 " + b"\0" * 16


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), ("5m0s", "load"), (0, "unload"), ("0s", "unload")])
def test_16_to_load_or_unload_is_one_object_even_of_a_stream(
    proxy: Proxied, vllm: Fake, keep_alive: Any, reason: str
) -> None:
    asked = {"model": "smollm2", "stream": True, "keep_alive": keep_alive}
    for path, inner in (
        ("/api/generate", {"response": ""}),
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
    ):
        answer = proxy.post(path, asked)
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        told = answer.json()
        assert told.pop("created_at").endswith("Z")
        assert told == {"model": "smollm2", **inner, "done": True, "done_reason": reason}
    assert vllm.requests() == []


@pytest.mark.parametrize("more", [{"system": "x"}, {"template": "x"}, {"context": [1]}])
def test_17_raw_mode_excludes_what_a_template_would_use(proxy: Proxied, more: Json) -> None:
    body = {"model": "smollm2", "prompt": "hi", "raw": True, **more}
    assert proxy.error("/api/generate", body, 400) == "raw mode does not support template, system, or context"


def test_18_without_a_model_chat_and_generate_differ(proxy: Proxied) -> None:
    assert proxy.error("/api/chat", {"messages": HI}, 400) == "model is required"
    assert proxy.error("/api/generate", {"prompt": "hi"}, 404) == "model '' not found"


def test_19_the_text_of_the_finish_chunk_is_kept(proxy: Proxied, vllm: Fake) -> None:
    for path, key in (("/api/chat", "content"), ("/api/generate", "response")):
        vllm.script({"text": "one two three", "finish_reason": "length", "tokens_per_chunk": 3})
        asked: Json = {"model": "smollm2", "messages": HI} if key == "content" else {"model": "smollm2", "prompt": "hi"}
        lines = proxy.lines(path, {**asked, "options": {"num_predict": 3}})
        assert_stream(lines)
        assert text_of(lines, key) == "one two three"
        assert lines[-1]["done_reason"] == "length"


@pytest.mark.parametrize("usage", ["asked", "finish", "every"])
def test_20_usage_is_taken_wherever_it_comes(proxy: Proxied, vllm: Fake, usage: str) -> None:
    vllm.script({"text": "one two three", "usage": usage, "prompt_tokens": 77, "completion_tokens": 5})
    last = proxy.lines("/api/chat", {"model": "smollm2", "messages": HI})[-1]
    assert (last["prompt_eval_count"], last["eval_count"]) == (77, 5)


@pytest.mark.parametrize("done", [True, False])
def test_20_usage_that_never_comes_does_not_lose_the_answer(proxy: Proxied, vllm: Fake, done: bool) -> None:
    vllm.script({"text": "one two three", "usage": "never", "done": done})
    lines = proxy.lines("/api/chat", {"model": "smollm2", "messages": HI})
    assert text_of(lines) == "one two three"
    assert lines[-1]["done"] is True
    assert lines[-1].get("eval_count", 4) in {3, 4}
    vllm.script({"text": "one two three", "usage": "never", "done": done})
    told = proxy.lines("/api/generate", {"model": "smollm2", "prompt": "hi"})[-1]
    assert told["eval_count"] in {3, 4}  # their ids were counted


def test_21_durations_are_nanoseconds_and_tokens_are_no_chunks(proxy: Proxied, vllm: Fake) -> None:
    vllm.script({"text": "a b c d e f g h i", "tokens_per_chunk": 3, "delay_first_s": 0.1, "delay_s": 0.02})
    lines = proxy.lines("/api/generate", {"model": "smollm2", "prompt": "hi"})
    last = lines[-1]
    assert last["eval_count"] == 10  # the end token counts
    assert len(lines) == 4
    assert 0.1e9 <= last["prompt_eval_duration"] < 1e9
    assert 0.04e9 <= last["eval_duration"] < 1e9
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"]


@pytest.mark.parametrize("stream", [True, False])
def test_22_a_tool_call_ends_with_stop(proxy: Proxied, vllm: Fake, stream: bool) -> None:
    vllm.script({"tool_calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]})
    body = {"model": "smollm2", "messages": HI, "tools": [WEATHER]}
    last = proxy.lines("/api/chat", body)[-1] if stream else proxy.chat(**body)
    assert last["done_reason"] == "stop"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("split", [0, 11])
def test_23_fragments_of_two_calls_become_two_objects(proxy: Proxied, vllm: Fake, stream: bool, split: int) -> None:
    calls = [
        {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}, "id": "call_a"},
        {"name": "get_weather", "arguments": {"city": "Zürich\u2028"}, "id": "call_b"},
    ]
    vllm.script({"tool_calls": calls, "fragment": 4, "split_bytes": split})
    body = {"model": "smollm2", "messages": HI, "tools": [WEATHER]}
    lines = proxy.lines("/api/chat", body) if stream else [proxy.chat(**body)]
    found = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert [call["function"] for call in found] == [
        {"index": n, "name": call["name"], "arguments": call["arguments"]} for n, call in enumerate(calls)
    ]
    assert all(isinstance(call["id"], str) and call["id"] for call in found)
    assert text_of(lines) == ""


@pytest.mark.parametrize("stream", [True, False])
def test_23_arguments_that_are_no_json_never_leave_as_a_string(proxy: Proxied, vllm: Fake, stream: bool) -> None:
    vllm.script({"tool_calls": [{"name": "get_weather", "arguments": '{"city": "Par'}], "finish_reason": "length"})
    body = {"model": "smollm2", "messages": HI, "tools": [WEATHER], "stream": stream}
    answer = proxy.post("/api/chat", body)
    for line in answer.text.splitlines():
        for call in json.loads(line).get("message", {}).get("tool_calls", []):
            assert isinstance(call["function"]["arguments"], dict)


def test_23_a_call_without_arguments_has_an_empty_object(proxy: Proxied, vllm: Fake) -> None:
    vllm.script({"tool_calls": [{"name": "now", "arguments": ""}]})
    lines = proxy.lines("/api/chat", {"model": "smollm2", "messages": HI, "tools": [WEATHER]})
    (call,) = [call for line in lines for call in line["message"].get("tool_calls", [])]
    assert call["function"]["arguments"] == {}


@pytest.mark.parametrize("stream", [True, False])
def test_24_an_empty_list_of_tools_is_not_sent(proxy: Proxied, vllm: Fake, stream: bool) -> None:
    assert (
        proxy.post("/api/chat", {"model": "smollm2", "messages": HI, "tools": [], "stream": stream}).status_code == 200
    )
    assert "tools" not in vllm.asked()


def test_25_a_tool_s_result_finds_its_call_by_name(proxy: Proxied, vllm: Fake) -> None:
    calls = [{"function": {"name": name, "arguments": {"n": n}}} for n, name in enumerate(("first", "second"))]
    proxy.chat(
        tools=[WEATHER],
        messages=[
            *HI,
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_name": "second", "content": "2"},
            {"role": "tool", "tool_name": "first", "content": "1"},
        ],
    )
    _, said, *results = vllm.asked()["messages"]
    ids = {call["function"]["name"]: call["id"] for call in said["tool_calls"]}
    assert len(set(ids.values())) == 2
    assert [json.loads(call["function"]["arguments"]) for call in said["tool_calls"]] == [{"n": 0}, {"n": 1}]
    assert all(call["type"] == "function" for call in said["tool_calls"])
    assert [(it["role"], it["tool_call_id"], it["content"]) for it in results] == [
        ("tool", ids["second"], "2"),
        ("tool", ids["first"], "1"),
    ]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("stream", [True, False])
def test_26_reasoning_becomes_thinking_once(proxy: Proxied, thinker: Fake, key: str, stream: bool) -> None:
    for path, field in (("/api/chat", "content"), ("/api/generate", "response")):
        thinker.script({"reasoning": "two and two", "reasoning_key": key, "text": "four"})
        body: Json = {"model": "thinker", "think": True, "messages": HI}
        if field == "response":
            body = {"model": "thinker", "think": True, "prompt": "2+2?"}
        lines = proxy.lines(path, body) if stream else [proxy.post(path, {**body, "stream": False}).json()]
        assert text_of(lines, "thinking") == "two and two"
        assert text_of(lines, field) == "four"


def test_27_only_false_may_be_said_to_a_model_that_does_not_think(proxy: Proxied, vllm: Fake, thinker: Fake) -> None:
    for think in (True, "low", "max"):
        body = {"model": "smollm2", "messages": HI, "think": think}
        assert proxy.error("/api/chat", body, 400) == '"smollm2" does not support thinking'
    assert proxy.chat(think=False)["done"] is True
    told = proxy.chat(model="thinker", think=False)
    assert "thinking" not in told["message"]
    assert thinker.asked()["chat_template_kwargs"]["enable_thinking"] is False


def test_28_a_schema_reaches_vllm_with_a_name(proxy: Proxied, vllm: Fake) -> None:
    schema = {"type": "object", "properties": {"zeta": {"type": "string"}, "alpha": {"type": "integer"}}}
    for path in ("generate", "chat"):
        told = getattr(proxy, path)(format=schema)
        shape = vllm.asked()["response_format"]
        assert (shape["type"], bool(shape["json_schema"]["name"])) == ("json_schema", True)
        assert list(shape["json_schema"]["schema"]["properties"]) == ["zeta", "alpha"]
        assert json.loads(told.get("response") or told["message"]["content"]) == {"zeta": "text", "alpha": 1}
        getattr(proxy, path)(format="json")
        assert vllm.asked()["response_format"] == {"type": "json_object"}
        for nothing in ("", None):
            getattr(proxy, path)(format=nothing)
            assert "response_format" not in vllm.asked()


@pytest.mark.parametrize(("data", "mime"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")])
def test_29_an_image_is_sent_with_its_kind(proxy: Proxied, vllm: Fake, data: bytes, mime: str) -> None:
    plain = base64.b64encode(data).decode()
    for given in (plain, f"data:{mime};base64,{plain}"):
        proxy.chat(messages=[{"role": "user", "content": "what is it?", "images": [given]}])
        proxy.generate(images=[given])
        for asked in vllm.requests()[-2:]:
            parts = asked["body"]["messages"][-1]["content"]
            assert [it["image_url"]["url"] for it in parts if it["type"] == "image_url"] == [
                f"data:{mime};base64,{plain}"
            ]


def test_29_what_is_no_base64_is_refused(proxy: Proxied, vllm: Fake) -> None:
    text = proxy.error("/api/generate", {"model": "smollm2", "prompt": "x", "images": ["!!notbase64"]}, 400)
    assert text.endswith("illegal base64 data at input byte 0")
    assert vllm.requests() == []


def test_30_no_character_ends_a_line_but_the_line_s_end(proxy: Proxied, vllm: Fake) -> None:
    """httpx's iter_lines, on which the Python client stands, splits at these as well."""
    text = "a\u2028b\u2029c\u0085d"
    vllm.script({"pieces": [text, text]}, {"pieces": [text, text]})
    for path, body in (("/api/chat", {"messages": HI}), ("/api/generate", {"prompt": "hi"})):
        with proxy.http.stream("POST", path, json={"model": "smollm2", **body}) as answer:
            lines = [json.loads(line) for line in answer.iter_lines()]
        assert text_of(lines, "content" if "messages" in body else "response") == 2 * text
    vllm.script({"text": text})
    assert proxy.chat()["message"]["content"] == text


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_31_the_stream_may_come_in_any_pieces(proxy: Proxied, vllm: Fake, size: int, newline: str) -> None:
    words = ["héllo", " 🙂", " 世界", "\n", "data: x", "\r\n", '"\\']
    vllm.script({"pieces": words, "split_bytes": size, "newline": newline, "comment_every": 2})
    lines = proxy.lines("/api/chat", {"model": "smollm2", "messages": HI})
    assert_stream(lines)
    assert text_of(lines) == "".join(words)


def test_32_a_chunk_of_many_tokens_is_one_line(proxy: Proxied, vllm: Fake) -> None:
    vllm.script({"pieces": [{"text": "one two three four", "tokens": 9}]})
    lines = proxy.lines("/api/chat", {"model": "smollm2", "messages": HI})
    assert text_of(lines) == "one two three four"
    assert lines[-1]["eval_count"] == 10


@pytest.mark.parametrize("given", [-1, -2, 0, 10**9, 5])
@pytest.mark.parametrize("raw", [True, False])
def test_33_any_length_may_be_asked_for(proxy: Proxied, vllm: Fake, given: int, raw: bool) -> None:
    told = proxy.generate(raw=raw, prompt="hi there", options={"num_predict": given})
    assert told["done"] is True
    asked = vllm.asked()
    wanted = asked.get("max_tokens", asked.get("max_completion_tokens"))
    if given == 5:
        assert wanted == 5
        assert (told["eval_count"], told["done_reason"]) == (5, "length")
    elif given == 0:
        assert wanted in {None, 1, 2048}  # to be ended at once, or not at all as the recorded Ollama does
    else:
        assert told["response"].endswith("red light.")


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0}, {"top_k": -1}, {"top_k": -7}, {"top_p": 0}, {"top_p": 1.5}, {"top_p": -1}, {"temperature": 3},
        {"temperature": -1}, {"temperature": 0}, {"repeat_penalty": 0}, {"repeat_penalty": -1}, {"presence_penalty": 5},
        {"frequency_penalty": -9}, {"min_p": 2}, {"min_p": -1}, {"stop": ["", "a", "a"]},
        {"stop": ["1", "2", "3", "4", "5", "6"]}, {"seed": -1}, {"seed": 2**40}, {"repeat_last_n": 0},
        {"typical_p": 0.5}, {"mirostat": 2, "tfs_z": 0.5, "numa": True},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["generate", "chat"])
def test_34_no_option_is_beyond_what_vllm_takes(proxy: Proxied, options: Json, path: str) -> None:
    assert getattr(proxy, path)(options=options)["done"] is True


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [{"raw": True}, {}, {"messages": HI}], ids=["raw", "generate", "chat"])
def test_35_logprobs_have_one_form_on_every_route(proxy: Proxied, vllm: Fake, stream: bool, body: Json) -> None:
    vllm.script({"text": "one two", "finish_reason": "length"})
    path = "/api/chat" if "messages" in body else "/api/generate"
    asked = {"model": "smollm2", "prompt": "hi", "logprobs": True, "top_logprobs": 2, "stream": stream, **body}
    if path == "/api/chat":
        del asked["prompt"]
    asked["options"] = {"num_predict": 2}
    answer: httpx.Response = proxy.post(path, asked)
    found = [it for line in answer.text.splitlines() for it in json.loads(line).get("logprobs", [])]
    assert [(it["token"], it["logprob"], bytes(it["bytes"]).decode()) for it in found] == [
        ("one", -0.25, "one"),
        (" two", -0.25, " two"),
    ]
    assert all([top["logprob"] for top in it["top_logprobs"]] == [-0.25, -1.25] for it in found)
    assert all(set(top) == {"token", "logprob", "bytes"} for it in found for top in it["top_logprobs"])


def test_an_earlier_context_stands_before_a_prompt_with_a_template_of_its_own(proxy: Proxied, vllm: Fake) -> None:
    asked = {"model": "smollm2", "prompt": "hi", "template": "x{{ .Prompt }}", "context": [1, 2], "stream": False}
    answer = proxy.http.post("/api/generate", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["context"][:2] == [1, 2]
