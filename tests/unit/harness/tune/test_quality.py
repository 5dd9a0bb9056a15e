"""Answers to the fixed questions: asked greedily, compared one by one, refused where too few agree."""

import json
from types import SimpleNamespace

import httpx
import pytest

from harness.errors import EngineCrashed, EngineOutOfMemory
from harness.tune import quality


def engine(check=lambda: None):
    return SimpleNamespace(model="m", title="vLLM", url="http://127.0.0.1:1", log=None, check=check)


def asked(respond) -> httpx.Client:
    return httpx.Client(base_url="http://engine", transport=httpx.MockTransport(respond))


def test_a_question_is_asked_greedily():
    bodies = []

    def respond(request):
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": "Paris."}}]})

    assert quality.answer(asked(respond), engine(), "Where?") == "Paris."
    assert bodies[0]["temperature"] == 0
    assert bodies[0]["max_tokens"] == quality.ANSWER_TOKENS
    assert bodies[0]["messages"] == [{"role": "user", "content": "Where?"}]


@pytest.mark.parametrize(
    "response", [httpx.Response(500), httpx.Response(200, text="no JSON"), httpx.Response(200, json={"choices": []})]
)
def test_an_engine_that_does_not_answer_has_failed(response):
    with pytest.raises(EngineCrashed, match="did not answer"):
        quality.answer(asked(lambda request: response), engine(), "Where?")


def test_an_engine_that_has_died_says_of_what():
    def died():
        raise EngineOutOfMemory("no memory")

    def respond(request):
        raise httpx.ConnectError("gone")

    with pytest.raises(EngineOutOfMemory):
        quality.answer(asked(respond), engine(died), "Where?")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        ({"content": None, "reasoning_content": "Let me think"}, "Let me think"),
        ({"content": "Paris.", "reasoning": "Easy. "}, "Paris.Easy. "),
        ({}, ""),
    ],
)
def test_an_answer_without_a_text_is_none_and_thoughts_count(message, text):
    """As a text, None would be equal to every other None."""
    response = httpx.Response(200, json={"choices": [{"message": message}]})
    assert quality.answer(asked(lambda request: response), engine(), "Where?") == text


def test_two_engines_that_say_nothing_do_not_agree():
    silent = [""] * 32
    assert quality.agreement(silent, silent) is None
    assert "answered none" in quality.refusal(None)
    most = ["", " \n"] * 12 + ["Paris."] * 8
    found = quality.agreement(most, most)
    assert (found.value, found.n) == (1.0, 8)
    assert "8 of 8 greedy answers are the baseline's (24 more it left without an answer)" in quality.refusal(found)
    spoken = ["Paris."] * 32
    assert quality.agreement(silent, spoken).value == 0.0, "falling silent is a change"


def test_an_answer_that_is_only_the_beginning_of_the_other_one_is_another():
    assert quality.agreement(["Paris"] * 32, ["Paris, which"] * 32).value == 0.0


@pytest.mark.parametrize(("equal", "is_refused"), [(32, False), (28, False), (27, True), (0, True)])
def test_surely_seven_of_ten_answers_must_be_the_same(equal, is_refused):
    ours = [str(n) if n < equal else "other" for n in range(32)]
    found = quality.agreement(ours, [str(n) for n in range(32)])
    assert found.n == 32
    assert bool(quality.refusal(found)) == is_refused


ANSWERS = tuple(f"{n}." for n in range(32))


def test_answers_are_kept_for_later(tmp_path):
    assert quality.known(tmp_path, "trial 3") is None
    quality.keep(tmp_path, "trial 3", ANSWERS)
    assert quality.known(tmp_path, "trial 3") == ANSWERS


@pytest.mark.parametrize("kept", [b'["a", "b"]', b'{"Another question?": "a"}', b"{", b"\xff", b""])
def test_answers_to_other_questions_or_in_a_damaged_file_are_asked_anew(tmp_path, kept):
    quality.path_of(tmp_path, "trial 3").write_bytes(kept)
    assert quality.known(tmp_path, "trial 3") is None
