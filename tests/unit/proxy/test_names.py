"""Ollama's names: what is legal, what is filled in, what is one and the same model."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import OllamaError
from proxy.names import parsed, referenced, served_name

PART = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=80)


@pytest.mark.parametrize(
    ("text", "short", "full"),
    [
        ("llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("llama3:8B", "llama3:8B", "registry.ollama.ai/library/llama3:8B"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B:latest", "registry.ollama.ai/Qwen/Qwen3-8B:latest"),
        ("Library/x", "x:latest", "registry.ollama.ai/Library/x:latest"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("host:5000/ns/m", "host:5000/ns/m:latest", "host:5000/ns/m:latest"),
        ("http://x/y/z", "x/y/z:latest", "x/y/z:latest"),
        ("_a.b-c", "_a.b-c:latest", "registry.ollama.ai/library/_a.b-c:latest"),
    ],
)
def test_what_is_left_out_of_a_name_is_filled_in(text: str, short: str, full: str) -> None:
    name = parsed(text)
    assert name is not None
    assert (name.short, name.full) == (short, full)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":tag",
        "a b",
        "../x",
        "..",
        "a/../b",
        "/models/Qwen3",
        "//a",
        "a//b",
        "n.s/m",
        "a%2fb",
        "a\\b",
        "a\x00",
        "a\n",
        "é",
        "١",
        "-a",
        "a/b/c/d",
        "m" * 81,
        "m:" + "t" * 81,
        "x" * 5_000,
        "a@sha256:0",
    ],
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert parsed(text) is None


def test_a_part_may_have_80_characters_and_a_host_350() -> None:
    name = parsed(f"{'h' * 350}/{'n' * 80}/{'m' * 80}:{'t' * 80}")
    assert name is not None
    assert parsed(f"{'h' * 351}/n/m") is None


@given(namespace=PART, model=PART, tag=PART)
def test_a_short_name_is_the_same_model_again(namespace: str, model: str, tag: str) -> None:
    name = parsed(f"{namespace}/{model}:{tag}")
    assert name is not None
    for text in (name.short, name.full, name.short.upper(), name.full.upper()):
        again = parsed(text)
        assert again is not None
        assert again.key == name.key


@given(st.text(max_size=40))
def test_no_text_makes_a_name_that_could_leave_a_folder(text: str) -> None:
    name = parsed(text)
    if name is not None:
        assert not {"", ".", ".."} & {name.host, name.namespace, name.model, name.tag}
        assert not set(name.full) & set("\\%\x00\n ")


def test_spaces_around_and_the_suffix_local_are_dropped() -> None:
    assert referenced(" llama3 ").name.short == "llama3:latest"
    assert referenced("llama3:local").name.short == "llama3:latest"
    assert referenced("llama3:8b:LOCAL").name.short == "llama3:8b"


@pytest.mark.parametrize("text", ["m:cloud", "m:20b-cloud", "m:Cloud", "m:20b:cloud"])
def test_a_name_of_ollamas_cloud_is_told(text: str) -> None:
    assert referenced(text).is_cloud
    assert not referenced("m:20b").is_cloud
    assert not referenced("my-cloud").is_cloud


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "invalid model name"),
        ("a b", "invalid model name"),
        ("x:local:cloud", 'use either :local or :cloud, not both: "x:local:cloud"'),
    ],
)
def test_what_cannot_be_referred_to_is_refused_as_ollama_does(text: str, told: str) -> None:
    with pytest.raises(OllamaError) as caught:
        referenced(text)
    assert (caught.value.status, caught.value.text) == (400, told)


@pytest.mark.parametrize(
    ("served_id", "short"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B:latest"),
        ("/models/Qwen3", "Qwen3:latest"),
        ("/models/Qwen 3 (new)/", "Qwen-3-new:latest"),
        ("C:\\models\\m", "m:latest"),
        ("name:cloud", "name-cloud:latest"),
        ("/", "model:latest"),
        ("é", "model:latest"),
        ("a/b/c/d", "d:latest"),
        ("/x/" + "m" * 300, "m" * 80 + ":latest"),
    ],
)
def test_every_id_of_vllm_gets_a_legal_name(served_id: str, short: str) -> None:
    assert served_name(served_id).short == short


@given(st.text(max_size=200))
def test_a_made_name_can_be_asked_for(served_id: str) -> None:
    name = served_name(served_id)
    again = referenced(name.short)
    assert again.name.key == name.key
    assert not again.is_cloud
