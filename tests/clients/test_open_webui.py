"""Open WebUI's Ollama router: what its pages ask for, and what it gives them."""

from typing import Any

import pytest

from tests.clients.calls import assert_final, streamed
from tests.clients.conftest import Ask
from tests.clients.servers import Target

pytestmark = pytest.mark.timeout(600)
Seen = dict[str, Any]


@pytest.fixture
def seen(target: Target, ask: Ask) -> Seen:
    return ask("open_webui", target)


def only(answer: Seen) -> Any:
    """The one object of a good answer."""
    assert answer["status"] == 200, answer
    [found] = answer["lines"]
    return found


def test_a_connection_is_verified_and_its_version_compared(seen: Seen) -> None:
    assert only(seen["verify"])["version"].replace(".", "").split("-")[0].isdigit()
    assert only(seen["version"]) == {"version": only(seen["verify"])["version"]}


def test_models_are_listed_by_tagged_name_with_the_time_they_are_loaded_until(seen: Seen, target: Target) -> None:
    models = {model["model"]: model for model in only(seen["tags"])["models"]}
    model = models[f"{target.chat}:latest"]
    assert isinstance(model["expires_at"], int), "it parsed what /api/ps told"
    assert model["digest"]
    assert {model["model"] for model in only(seen["tags_0"])["models"]} == set(models)
    assert f"{target.chat}:latest" in [running["model"] for running in only(seen["ps"])["models"]]
    assert "completion" in only(seen["show"])["capabilities"]


def test_a_chat_is_streamed_whole_and_by_the_openai_route(seen: Seen, target: Target) -> None:
    model = f"{target.chat}:latest"
    assert seen["chat"]["type"] == "application/x-ndjson"
    text = streamed(seen["chat"]["lines"], model=model)
    whole = only(seen["chat_whole"])
    assert_final(whole, model=model)
    assert whole["message"]["content"] == text
    assert streamed(seen["generate"]["lines"], model=model)
    assert only(seen["chat_openai"])["choices"][0]["message"]["content"]
    assert f"{target.chat}:latest" in [found["id"] for found in only(seen["v1_models"])["data"]]


def test_a_refusal_is_shown_in_the_servers_words(seen: Seen) -> None:
    assert seen["chat_bad"]["status"] == 500
    assert seen["chat_bad"]["lines"][0]["detail"] == 'option "num_ctx" must be of type integer'


def test_models_are_copied_made_and_deleted(seen: Seen) -> None:
    assert only(seen["copy"]) is True
    assert only(seen["copy_show"])["details"]
    assert only(seen["delete"]) is True
    assert seen["deleted_show"]["status"] == 400
    assert seen["create"]["lines"][-1] == {"status": "success"}
    assert only(seen["create_delete"]) is True


def test_a_served_model_is_pulled_and_an_unknown_one_told(seen: Seen, target: Target) -> None:
    if target.kind != "ollama":
        assert seen["pull"]["lines"][-1] == {"status": "success"}
    assert seen["pull_unknown"]["lines"][-1].get("error") or seen["pull_unknown"]["status"] >= 400


def test_a_model_is_unloaded(seen: Seen) -> None:
    assert only(seen["unload"]) == {"status": True}


def test_documents_are_embedded(seen: Seen) -> None:
    embedded = only(seen["embed"])["embeddings"]
    assert len(embedded) == 2
    assert len(only(seen["embeddings"])["embedding"]) == len(embedded[0])
