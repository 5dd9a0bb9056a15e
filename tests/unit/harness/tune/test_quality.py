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


@pytest.mark.parametrize(("equal", "is_refused"), [(32, False), (28, False), (27, True), (0, True)])
def test_surely_seven_of_ten_answers_must_be_the_same(equal, is_refused):
    ours = [str(n) if n < equal else "other" for n in range(32)]
    found = quality.agreement(ours, [str(n) for n in range(32)])
    assert found.n == 32
    assert bool(quality.refusal(found)) == is_refused


def test_answers_are_kept_for_later(tmp_path):
    assert quality.known(tmp_path, "trial 3") is None
    quality.keep(tmp_path, "trial 3", ("a", "b"))
    assert quality.known(tmp_path, "trial 3") == ("a", "b")
