"""Embeddings, as Ollama 0.33 answers (recorded), in front of a fake vLLM in a process of its own."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.embedding import normalised, shortest, texts_of
from proxy.errors import OllamaError
from proxy.settings import Settings, UpstreamAddress
from tests.contract.servers import Fake, Starter, wait_until
from tests.unit.proxy.asgi import answer, left_by_client

Json = dict[str, Any]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("servers"))
    yield starter
    starter.stop()


@pytest.fixture(scope="module")
def embedder(start: Starter) -> Fake:
    return start.fake("--kind", "embed", "--model", "e", "--max-model-len", "32", "--embedding-length", "8")


@pytest.fixture(scope="module")
def chat(start: Starter) -> Fake:
    return start.fake("--model", "c")


@pytest.fixture(autouse=True)
def _fresh(embedder: Fake) -> None:
    embedder.forget()


@pytest.fixture
def settings(embedder: Fake, chat: Fake) -> Settings:
    return Settings(upstreams=(UpstreamAddress(url=embedder.url), UpstreamAddress(url=chat.url)))


def whole(settings: Settings, path: str, body: object) -> Json:
    response = answer(settings, path, body)
    assert response.status_code == 200, response.text
    told: Json = response.json()
    return told


def error(settings: Settings, path: str, body: object) -> tuple[int, str]:
    response = answer(settings, path, body)
    return response.status_code, response.json()["error"]


# ---------------------------------------------------------------- /api/embed


def test_one_text_gives_one_vector_of_length_one(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[3.0, 4.0]]})
    told = whole(settings, "/api/embed", {"model": "E:latest", "input": "hi"})
    assert (told["model"], told["embeddings"]) == ("E:latest", [[0.6, 0.8]])
    assert told["prompt_eval_count"] > 0
    assert 0 < told["load_duration"] <= told["total_duration"]


def test_vectors_come_in_the_order_of_the_texts(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[1.0, 0.0], [0.0, 1.0]], "is_reversed": True})
    assert whole(settings, "/api/embed", {"model": "e", "input": ["a", "b"]})["embeddings"] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("dimensions", "vector"), [(2, [0.6, 0.8]), (9, [0.36, 0.48, 0.8]), (-1, [0.36, 0.48, 0.8])])
def test_dimensions_cut_and_scale_again(
    settings: Settings, embedder: Fake, dimensions: int, vector: list[float]
) -> None:
    embedder.script({"embeddings": [[0.36, 0.48, 0.8]]})
    told = whole(settings, "/api/embed", {"model": "e", "input": "hi", "dimensions": dimensions})
    assert told["embeddings"][0] == pytest.approx(vector)


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}, {"input": None}])
def test_no_text_loads_the_model(settings: Settings, body: Json) -> None:
    assert whole(settings, "/api/embed", {"model": "e", **body}) == {"model": "e", "embeddings": []}


def test_a_model_that_only_generates_loads_too_and_refuses_texts(settings: Settings) -> None:
    assert whole(settings, "/api/embed", {"model": "c", "input": []}) == {"model": "c", "embeddings": []}
    status, text = error(settings, "/api/embed", {"model": "c", "input": "hi"})
    assert (status, text) == (501, "This server does not support embeddings. Start it with `--embeddings`")


@pytest.mark.parametrize("told", [5, True, {"a": 1}, [1], ["a", 1], [["a"]]])
def test_an_input_of_another_kind_is_refused_before_the_model_is_looked_up(settings: Settings, told: object) -> None:
    assert error(settings, "/api/embed", {"model": "nosuch", "input": told}) == (400, "invalid input type")


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("nosuch", 404, 'model "nosuch" not found, try pulling it first'),
        ("", 404, "model '' not found"),
        ("a b", 400, "invalid model name"),
    ],
)
def test_an_unknown_model_is_refused_in_ollamas_words(settings: Settings, name: str, status: int, text: str) -> None:
    assert error(settings, "/api/embed", {"model": name, "input": "hi"}) == (status, text)


def test_a_long_text_is_cut_unless_that_is_forbidden(settings: Settings) -> None:
    long = "word " * 100
    assert whole(settings, "/api/embed", {"model": "e", "input": long})["prompt_eval_count"] <= 32
    refused = error(settings, "/api/embed", {"model": "e", "input": long, "truncate": False})
    assert refused == (400, "the input length exceeds the context length")


def test_an_option_of_another_type_is_refused(settings: Settings) -> None:
    refused = error(settings, "/api/embed", {"model": "e", "input": "hi", "options": {"num_ctx": "x"}})
    assert refused == (500, 'option "num_ctx" must be of type integer')


def test_what_only_vllm_knows_does_not_reach_it(settings: Settings, embedder: Fake) -> None:
    whole(settings, "/api/embed", {"model": "e", "input": "hi", "mm_processor_kwargs": {}, "priority": 1})
    assert set(embedder.asked()) == {"model", "input", "encoding_format", "truncate_prompt_tokens"}


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 200, "body": {"data": []}},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": {"data": [{"index": 0, "embedding": "not base64"}]}},
        {"hangup": True, "times": 2},
    ],
)
def test_an_answer_that_makes_no_sense_is_500(settings: Settings, embedder: Fake, reply: Json) -> None:
    embedder.script(reply)
    status, text = error(settings, "/api/embed", {"model": "e", "input": "hi"})
    assert status == 500
    assert isinstance(text, str)


def test_a_number_that_is_none_is_refused(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[float("3.5e38"), 1.0]]})
    assert error(settings, "/api/embed", {"model": "e", "input": "hi"})[0] == 500


def test_a_client_that_leaves_ends_vllms_work(settings: Settings, embedder: Fake) -> None:
    embedder.script({"never_headers": True})
    body = json.dumps({"model": "e", "input": "hi"}).encode()
    left_by_client(settings, "/api/embed", body, once=lambda: embedder.running() == 1)
    assert wait_until(lambda: embedder.running() == 0, within_s=1)


# ---------------------------------------------------------------- /api/embeddings


def test_the_older_endpoint_answers_one_flat_vector_and_nothing_else(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[3.0, 4.0]]})
    told = whole(settings, "/api/embeddings", {"model": "e", "prompt": "hi"})
    assert told == {"embedding": [float(np.float32(0.6)), float(np.float32(0.8))]}  # with float64's digits: recorded


@pytest.mark.parametrize("name", ["e", "c"])
def test_the_older_endpoint_loads_without_a_prompt(settings: Settings, name: str) -> None:
    assert whole(settings, "/api/embeddings", {"model": name}) == {"embedding": []}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"prompt": "hi"}, 400, "model is required"),
        ({"model": "nosuch"}, 404, 'model "nosuch" not found, try pulling it first'),
        ({"model": "c", "prompt": "hi"}, 500, "This server does not support embeddings. Start it with `--embeddings`"),
        ({"model": "e", "prompt": "word " * 100}, 500, "the input length exceeds the context length"),
    ],
)
def test_the_older_endpoint_refuses_with_its_own_statuses(
    settings: Settings, body: Json, status: int, text: str
) -> None:
    assert error(settings, "/api/embeddings", body) == (status, text)


# ---------------------------------------------------------------- numbers


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_the_digits_read_as_the_same_float32(numbers: list[float]) -> None:
    vectors = np.array([numbers], dtype=np.float32)
    read = np.array(msgspec.json.decode(msgspec.json.encode(shortest(vectors).tolist())), dtype=np.float32)
    assert (read == vectors).all()


@pytest.mark.parametrize("text", ["0.1", "-0.020432878", "0.00011139252", "-0.00085064664", "0.3205653", "1.0", "0.5"])
def test_a_float32_shows_only_the_digits_that_it_has(text: str) -> None:
    """The numbers are from recorded answers."""
    assert str(shortest(np.array([[text]], dtype=np.float32))[0, 0]) == text


@given(st.lists(st.floats(0.125, 1024, width=32), min_size=1, max_size=20), st.integers(1, 25))
def test_whatever_is_kept_has_length_one(numbers: list[float], dimensions: int) -> None:
    (kept,) = normalised(np.array([numbers], dtype=np.float32), dimensions)
    assert len(kept) == min(len(numbers), dimensions)
    assert np.linalg.norm(kept) == pytest.approx(1, abs=1e-5)


def test_zeros_stay_zeros() -> None:
    assert normalised(np.zeros((1, 3), dtype=np.float32)).tolist() == [[0, 0, 0]]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(OllamaError, match="NaN or Inf"):
        normalised(np.array([[np.nan, 1]], dtype=np.float32))


def test_texts_are_counted() -> None:
    with pytest.raises(OllamaError, match="too many inputs"):
        texts_of(["x"] * 10_001)
