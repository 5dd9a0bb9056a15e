"""LangChain, llm and LiteLLM: what they make of the answers, which is stricter than the answers' form."""

import json
import math
from typing import Any

import pytest

from tests.clients.conftest import Ask
from tests.clients.servers import SUNNY, THOUGHT, WITH_THOUGHT, Target

pytestmark = pytest.mark.timeout(600)
Seen = dict[str, Any]


def assert_no_failure(seen: Seen, *but: str) -> None:
    failed = {step: told for step, told in seen.items() if isinstance(told, dict) and "failed" in told}
    assert set(failed) == set(but), failed


def test_a_failed_step_is_found() -> None:
    with pytest.raises(AssertionError, match="no such"):
        assert_no_failure({"one": {"failed": "Error", "text": "no such"}})


# ---------------------------------------------------------------- langchain-ollama


@pytest.fixture
def langchain(target: Target, ask: Ask) -> Seen:
    return ask("langchain", target)


def test_langchain_does_all_it_can_do(langchain: Seen) -> None:
    assert_no_failure(langchain, "unknown", "validate_unknown")
    assert "not found" in langchain["unknown"]["text"]
    assert "not found" in langchain["validate_unknown"]["text"], "it looks into /api/tags"


def test_langchain_counts_tokens_and_keeps_what_ended_the_answer(langchain: Seen, target: Target) -> None:
    answer = langchain["invoke"]
    assert answer["content"]
    assert answer["usage"]["input_tokens"] > 0
    assert 0 < answer["usage"]["output_tokens"] <= 12
    assert answer["metadata"]["done_reason"] in ("stop", "length")
    assert answer["metadata"]["model"] == target.chat
    assert answer["metadata"]["total_duration"] > 0


def test_langchain_streams_the_same_text_sync_and_async(langchain: Seen) -> None:
    text = langchain["invoke"]["content"]
    assert len(langchain["stream"]) > 2
    assert "".join(part["content"] for part in langchain["stream"]) == text
    assert "".join(langchain["async"]["parts"]) == langchain["async"]["whole"]["content"]
    assert "".join(langchain["llm_stream"]) == langchain["llm"]


def test_langchain_parses_a_schema_and_json(langchain: Seen) -> None:
    assert langchain["json"]["content"].lstrip().startswith("{")
    assert langchain["schema"]["city"]


def test_langchain_calls_tools_and_answers_their_results(langchain: Seen, target: Target) -> None:
    first, last = langchain["tools"]["first"], langchain["tools"]["last"]
    assert first["invalid_tool_calls"] == []
    assert last["metadata"]["done"] is True
    if target.is_scripted:
        [call] = first["tool_calls"]
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
        assert last["content"] == SUNNY


def test_langchain_gets_thoughts_only_where_it_asks(langchain: Seen, target: Target) -> None:
    if target.is_scripted:
        assert langchain["thinking"]["reasoning"] == THOUGHT
        assert langchain["thinking"]["content"] == WITH_THOUGHT
        assert not langchain["no_thinking"]["reasoning"]


def test_langchain_embeds(langchain: Seen) -> None:
    assert [len(vector) for vector in langchain["embed"]] == [len(langchain["embed_query"])] * 3
    assert math.isclose(math.hypot(*langchain["embed_query"]), 1, abs_tol=1e-3)


# ---------------------------------------------------------------- llm


@pytest.fixture
def llm(target: Target, ask: Ask) -> Seen:
    return ask("llm", target)


def test_llm_finds_the_models_with_and_without_tag_by_what_they_can(llm: Seen, target: Target) -> None:
    assert f"{target.chat}:latest" in llm["models"]
    ids = dict(llm["ids"])
    assert f"ollama/{target.chat}" in ids[f"ollama/{target.chat}:latest"]
    assert f"ollama/{target.embed}:latest" not in ids, "a model that embeds is none that chats"


def test_llm_does_all_it_can_do(llm: Seen) -> None:
    assert_no_failure(llm, "bad_option")


def test_llm_says_the_same_as_command_whole_and_stream(llm: Seen) -> None:
    assert llm["command"] == "".join(llm["stream"]).strip() == llm["async"].strip()
    assert len(llm["stream"]) > 1
    text, usage = llm["whole"]["text"], llm["whole"]["usage"]
    assert text
    assert usage[0] > 0
    assert 0 < usage[1] <= 12
    assert all(llm["conversation"])


def test_llm_keeps_to_a_schema_and_calls_tools(llm: Seen, target: Target) -> None:
    assert llm["schema"]["city"]
    if target.is_scripted:
        assert llm["tools"] == {"text": SUNNY, "calls": [["get_weather", {"city": "Paris"}]]}


def test_llm_embeds(llm: Seen) -> None:
    vector = json.loads(llm["embed"])
    assert vector == pytest.approx(llm["embed_many"][0], abs=0.02)
    assert len(llm["embed_many"]) == 2


# ---------------------------------------------------------------- litellm


@pytest.fixture
def litellm(target: Target, ask: Ask) -> Seen:
    return ask("litellm", target)


@pytest.fixture(params=["ollama", "ollama_chat"])
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def text_of(answer: Seen) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_litellm_does_all_it_can_do(litellm: Seen) -> None:
    assert_no_failure(litellm, "ollama unknown", "ollama_chat unknown")
    for unknown in ("ollama unknown", "ollama_chat unknown"):
        assert "model 'nope' not found" in litellm[unknown]["text"]


def test_litellm_answers_whole_streamed_and_async_alike(litellm: Seen, route: str) -> None:
    answer = litellm[f"{route} whole"]
    assert text_of(answer)
    assert text_of(litellm[f"{route} async"]) == text_of(answer)
    assert "".join(litellm[f"{route} async stream"]) == text_of(answer)
    stream = litellm[f"{route} stream"]
    assert "".join(stream["texts"]) == text_of(answer)
    assert stream["finish"]
    assert answer["usage"]["prompt_tokens"] > 0
    assert 0 < answer["usage"]["completion_tokens"] <= 12


def test_litellm_keeps_to_a_schema(litellm: Seen, route: str) -> None:
    assert json.loads(text_of(litellm[f"{route} schema"]))["city"]


def test_litellm_calls_tools_and_learns_from_show_that_it_may(litellm: Seen, target: Target) -> None:
    tools = litellm["ollama_chat tools"]
    if target.is_scripted:
        [call] = tools["first"]["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
        assert tools["first"]["choices"][0]["finish_reason"] == "tool_calls"
        assert text_of(tools["last"]) == SUNNY
    assert litellm["info"]["max_input_tokens"] or litellm["info"]["max_tokens"]


def test_litellm_gets_thoughts(litellm: Seen, target: Target) -> None:
    if target.is_scripted:
        assert litellm["ollama_chat thinking"]["choices"][0]["message"]["reasoning_content"]


def test_litellm_embeds(litellm: Seen) -> None:
    vectors = [item["embedding"] for item in litellm["embed"]["data"]]
    assert len(vectors) == 2
    assert litellm["async embed"]["data"][0]["embedding"] == pytest.approx(vectors[0], abs=0.02)
