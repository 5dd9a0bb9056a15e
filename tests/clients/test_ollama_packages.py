"""ollama for Python, sync and async, and for npm: the same calls, the same answers."""

import json
import math
from typing import Any

import pytest

from tests.clients.calls import OPTIONS, UNKNOWN, assert_failed, assert_final, streamed, text_of
from tests.clients.conftest import Ask
from tests.clients.servers import SUNNY, THOUGHT, WITH_THOUGHT, Target

pytestmark = pytest.mark.timeout(600)
Seen = dict[str, Any]


@pytest.fixture(params=["ollama_python", "ollama_python_async", "ollama_npm"])
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def seen(client: str, target: Target, ask: Ask) -> Seen:
    return ask(client, target)


def listed(seen: Seen) -> list[str]:
    return [model["model"] for model in seen["models"]]


# ---------------------------------------------------------------- discovery


def test_list_names_the_models_with_tag_digest_size_and_time(seen: Seen, target: Target) -> None:
    models = {model["model"]: model for model in seen["list"]["models"]}
    for name in filter(None, (target.chat, target.embed)):
        model = models[f"{name}:latest"]
        assert len(model["digest"]) == 64
        assert int(model["size"]) > 0
        assert model["modified_at"]
        if not target.is_scripted:  # it has no weights to tell of
            assert model["details"]["family"]
            assert model["details"]["parameter_size"]
    assert len({model["digest"] for model in models.values()}) == len(models), "llm-ollama keeps capabilities by digest"


def test_show_tells_architecture_context_and_capabilities(seen: Seen) -> None:
    show = seen["show"]
    about = show.get("modelinfo") or show["model_info"]  # Python calls it otherwise
    assert about[f"{about['general.architecture']}.context_length"] > 0
    assert "completion" in show["capabilities"]
    assert show["modelfile"]
    assert show["template"]
    assert show["details"]["quantization_level"]


def test_a_loaded_model_is_running_for_the_time_it_was_loaded_for(seen: Seen, target: Target) -> None:
    assert seen["load"]["done_reason"] == "load"
    assert seen["load"]["response"] == ""
    running = {model["model"]: model for model in seen["ps"]["models"]}[f"{target.chat}:latest"]
    assert running["expires_at"]
    assert int(running["size"]) > 0
    assert running["context_length"] > 0


def test_unload_is_one_object_and_ps_forgets_the_model(seen: Seen, target: Target) -> None:
    assert seen["unload"]["done_reason"] == "unload"
    assert f"{target.chat}:latest" not in listed(seen["unloaded_ps"])
    assert seen["chat_load"]["done_reason"] == "load"
    assert seen["chat_load"]["message"]["role"] == "assistant"


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("step", ["generate", "raw", "system", "chat", "turns", "think_not", "after_left"])
def test_a_whole_answer_has_text_counts_and_times(seen: Seen, target: Target, step: str) -> None:
    model = (target.thinking or target.chat) if step == "think_not" else target.chat
    assert text_of(seen[step])
    assert_final(seen[step], model=model, most_tokens=OPTIONS["num_predict"])


def test_no_sampling_options_are_needed(seen: Seen, target: Target) -> None:
    assert_final(seen["defaults"], model=target.chat, most_tokens=3)
    assert seen["defaults"]["done_reason"] == "length"


@pytest.mark.parametrize(("whole", "parts"), [("generate", "generate_stream"), ("chat", "chat_stream")])
def test_a_stream_says_what_the_whole_answer_says(seen: Seen, target: Target, whole: str, parts: str) -> None:
    assert streamed(seen[parts], model=target.chat) == text_of(seen[whole])
    assert seen[parts][-1]["eval_count"] == seen[whole]["eval_count"]


def test_another_spelling_is_the_same_model_and_comes_back_as_it_was_sent(seen: Seen, target: Target) -> None:
    assert seen["chat_tagged"]["model"] == f"{target.chat.upper()}:latest"
    assert text_of(seen["chat_tagged"]) == text_of(seen["chat"])


def test_logprobs_come_for_each_token_with_their_rivals(seen: Seen) -> None:
    answer = seen["logprobs"]
    assert "".join(item["token"] for item in answer["logprobs"]) == (answer.get("thinking") or "") + answer["response"]
    assert all(item["logprob"] <= 0 for item in answer["logprobs"])
    assert all(len(item["top_logprobs"]) == 2 for item in answer["logprobs"])


def test_format_json_gives_json(seen: Seen, target: Target) -> None:
    assert text_of(seen["json"]).lstrip().startswith("{")
    if seen["json"]["done_reason"] == "stop":
        assert isinstance(json.loads(text_of(seen["json"])), dict)


def test_a_schema_is_kept_to(seen: Seen, target: Target) -> None:
    for text in (text_of(seen["schema"]), streamed(seen["schema_stream"], model=target.chat)):
        assert isinstance(json.loads(text)["city"], str)


# ---------------------------------------------------------------- tools and thoughts


def test_tools_are_called_with_objects_and_the_result_is_answered(seen: Seen, target: Target) -> None:
    for step in ("tools", "tools_result", "tools_answer"):
        assert_final(seen[step], model=target.tools or "")
    parts = seen["tools_stream"]
    assert_final(parts[-1], model=target.tools or "")
    if not target.is_scripted:
        return
    called = [seen["tools"], *[part for part in parts if part["message"].get("tool_calls")]]
    assert len(called) == 2
    for answer in called:
        [call] = answer["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert call["function"]["arguments"] == {"city": "Paris"}
    assert [part["done_reason"] for part in parts if part["done"]] == ["stop"]
    assert text_of(seen["tools_result"]) == text_of(seen["tools_answer"]) == SUNNY


def test_thoughts_come_apart_from_the_answer(seen: Seen, target: Target) -> None:
    if not target.thinking:
        assert_failed(seen["think_refused"], status=400, text=f'"{target.chat}" does not support thinking')
        return
    for step in ("think", "think_low", "think_not"):
        assert_final(seen[step], model=target.thinking)
    parts = seen["think_stream"]
    assert_final(parts[-1], model=target.thinking)
    if not target.is_scripted:
        return
    assert seen["think"]["message"]["thinking"] == THOUGHT
    assert text_of(seen["think"]) == WITH_THOUGHT
    assert "".join(part["message"].get("thinking") or "" for part in parts) == THOUGHT
    assert streamed(parts, model=target.thinking) == WITH_THOUGHT
    assert seen["think_low"]["thinking"] == THOUGHT
    assert not seen["think_not"]["message"].get("thinking")


# ---------------------------------------------------------------- embeddings


def test_embeddings_have_length_one_and_close_things_are_close(seen: Seen, target: Target) -> None:
    cat, dog, engine = seen["embed"]["embeddings"]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-3) for vector in (cat, dog, engine))
    assert seen["embed"]["prompt_eval_count"] > 0
    assert seen["embed_one"]["embeddings"][0] == pytest.approx(cat, abs=0.02)
    assert len(seen["embed_cut"]["embeddings"][0]) == 8
    assert math.isclose(math.hypot(*seen["embed_cut"]["embeddings"][0]), 1, abs_tol=1e-3)
    if target.kind == "vllm":  # the only one here whose model was made for it
        assert dot(cat, dog) > dot(cat, engine)


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_the_older_call_gives_one_flat_vector(seen: Seen) -> None:
    assert set(seen["embeddings"]) == {"embedding"}
    assert len(seen["embeddings"]["embedding"]) == len(seen["embed"]["embeddings"][0])


def test_each_model_refuses_the_other_kinds_work(seen: Seen, target: Target) -> None:
    assert_failed(seen["embed_chats"], status=400, text=f'"{target.embed}" does not support chat')
    assert_failed(seen["chat_embeds"], status=501, text="embeddings")


# ---------------------------------------------------------------- models made and removed


def test_a_copy_is_listed_used_and_deleted(seen: Seen, client: str) -> None:
    name = {"ollama_python": "copied-sync", "ollama_python_async": "copied-async", "ollama_npm": "copied-npm"}[client]
    assert seen["copy"]["status"] == "success"
    assert f"{name}:latest" in listed(seen["copied_list"])
    assert text_of(seen["copied_chat"]) == text_of(seen["chat"])
    assert seen["delete"]["status"] == "success"
    assert f"{name}:latest" not in listed(seen["deleted_list"])
    assert_failed(seen["deleted_chat"], status=404, text=f"model '{name}' not found")


def test_a_created_model_has_its_system_prompt_and_parameters(seen: Seen) -> None:
    assert seen["create"][-1]["status"] == "success"
    show = seen["created_show"]
    assert "num_predict" in show["parameters"]
    assert '"|"' in show["parameters"]
    assert show["license"] == "For tests only."
    assert "You are a pirate." in show["modelfile"]
    assert seen["created_chat"]["eval_count"] <= 3
    assert seen["created_delete"]["status"] == "success"


def test_a_served_model_is_pulled_and_nothing_is_pushed(seen: Seen, target: Target) -> None:
    if target.kind != "ollama":
        assert seen["pull"]["status"] == "success"
        assert seen["pull_stream"][-1]["status"] == "success"
        assert all(part["status"] for part in seen["pull_stream"])
    for step in ("push", "push_stream", "create_unknown"):
        assert "failed" in seen[step], seen[step]
        assert seen[step]["text"]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("call", UNKNOWN)
def test_an_unknown_model_is_404_in_ollamas_words(seen: Seen, call: str) -> None:
    assert_failed(seen[f"unknown_{call}"], status=404, text="""model ['"]nope(:latest)?['"] not found""")


def test_an_unknown_model_is_404_before_a_stream_begins_and_for_a_copy(seen: Seen) -> None:
    assert_failed(seen["unknown_stream"], status=404, text="model 'nope' not found")
    assert_failed(seen["unknown_copy"], status=404, text='model "nope" not found')


def test_bad_values_are_refused_in_ollamas_words(seen: Seen) -> None:
    assert_failed(seen["bad_option"], status=500, text='option "num_ctx" must be of type integer')
    assert_failed(seen["bad_keep_alive"], status=400, text='time: missing unit in duration "?.?10')
    assert_failed(seen["bad_think"], status=400, text='invalid think value: "sideways"')


def test_an_image_for_a_model_that_cannot_see_is_refused(seen: Seen) -> None:
    assert_failed(seen["image"], status=400, text="image|vision|[Mm]ultimodal")


def test_leaving_a_stream_is_no_error_and_ends_the_work_upstream(seen: Seen, target: Target) -> None:
    assert len(seen["left"]) == 2
    if target.upstream:
        assert seen["still_running"] == 0


def test_several_at_once_are_all_answered(target: Target, ask: Ask) -> None:
    seen = ask("ollama_python_async", target)
    assert len(seen["together"]) == 4
    for answer in seen["together"]:
        assert_final(answer, model=target.chat)
