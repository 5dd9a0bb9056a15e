"""Lines and whole answers of both APIs, as servers of many versions write them."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios import answers


def delta(finish_reason=None, **fields):
    return json.dumps({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}).encode()


ROLE = delta(role="assistant", content="")
USAGE = b'{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13}}'


def test_a_role_only_chunk_is_not_the_first_token():
    assert answers.openai_event(b"data: " + ROLE).has_text is False
    assert answers.openai_event(b"data: " + delta(role="assistant", content=None)).has_text is False


@pytest.mark.parametrize("key", ["content", "reasoning", "reasoning_content"])
def test_reasoning_is_text_whatever_the_version_calls_it(key):
    assert answers.openai_event(b"data: " + delta(**{key: "hm"})).has_text is True


def test_the_thinking_of_ollama_is_text():
    line = b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    assert answers.ollama_event(line).has_text is True


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b": keep-alive\n", b"event: message\n", b"id: 7\n", b"retry: 3\n"])
def test_what_is_no_data_says_nothing(line):
    assert answers.openai_event(line) is None


def test_a_blank_line_of_ollama_says_nothing():
    assert answers.ollama_event(b"\n") is None


@pytest.mark.parametrize("line", [b"data:[DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]"])
def test_the_end_mark_is_known_with_and_without_blanks(line):
    assert answers.openai_event(line) == answers.Event(is_last=True)


def test_a_usage_chunk_has_counts_and_no_text():
    event = answers.openai_event(b"data: " + USAGE)
    assert (event.prompt_tokens, event.output_tokens, event.has_text) == (11, 2, False)


def test_the_chunk_that_finishes_may_carry_the_last_text():
    event = answers.openai_event(b"data: " + delta("stop", content="end"))
    assert (event.has_text, event.finish_reason) == (True, "stop")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'data: {"error":{"message":"engine died","code":500}}\n', "engine died"),
        (b'data: {"error":"Unauthorized"}\n', "Unauthorized"),
        (b'{"error":{"message":"no such model"}}\n', "no such model"),
    ],
)
def test_an_error_in_a_stream_is_told_in_the_words_of_the_server(line, words):
    assert answers.openai_event(line).error == words


def test_an_error_line_of_ollama_is_told_in_its_words():
    line = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
    assert answers.ollama_event(line).error == "an error was encountered while running the model: unexpected EOF"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"too long","type":"x"}}', "HTTP 400: too long"),
        (b'{"error":"model \'x\' not found"}', "HTTP 400: model 'x' not found"),
        (b'{"detail":"Not Found"}', "HTTP 400: Not Found"),
        (b"<html>nginx</html>", "HTTP 400: <html>nginx</html>"),
        (b"", "HTTP 400: no reason given"),
    ],
)
def test_a_refusal_is_told_whatever_its_shape(body, words):
    assert answers.refusal(400, body) == words


@given(st.binary(max_size=200))
def test_no_line_does_worse_than_not_being_json(line):
    for event_of in (answers.openai_event, answers.ollama_event, answers.openai_answer):
        try:
            event = event_of(line)
        except msgspec.MsgspecError:
            continue
        assert event is None or isinstance(event, answers.Event)


def test_the_text_of_a_chunk_is_kept_and_reasoning_is_no_part_of_it():
    """What the next turn of a conversation repeats is the answer, not how it was found."""
    assert answers.openai_event(b"data: " + delta(content=" upon")).content == " upon"
    assert answers.openai_event(b"data: " + delta(reasoning="hm")).content == ""
    assert answers.ollama_event(b'{"message":{"content":"I","thinking":"hm"},"done":false}\n').content == "I"
    assert answers.openai_answer(b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}').content == "hi"
