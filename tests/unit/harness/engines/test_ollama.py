"""Ollama without Ollama: the fake of tests/fakes gives the answers that the real one was recorded to give."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from harness.engines.ollama import environment, find, launched, without_settings
from harness.errors import (
    EngineBadFlag,
    EngineCrashed,
    EngineModelNotFound,
    EngineNotFound,
    EngineOutOfMemory,
    EnginePortTaken,
)
from harness.records import LaunchSpec

FAKE = Path(__file__).parents[3] / "fakes" / "ollama.py"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program that is called as `ollama` is."""
    path = tmp_path / "bin" / "ollama"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file that is uploaded as it is."""
    path = tmp_path / "Small-Model.Q4_1.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 70_000)
    return path


def spec_for(
    binary: Path, tmp_path: Path, *, source: str, env: dict[str, str] | None = None, slots: int = 1
) -> LaunchSpec:
    return LaunchSpec(
        engine="ollama",
        model="small 135m",
        source=source,
        program=str(binary),
        env={"OLLAMA_MODELS": str(tmp_path / "store"), **(env or {})},
        slots=slots,
        ready_timeout_s=20,
    )


def requests(log: Path, path: str) -> list[dict[str, object]]:
    """Bodies that the fake has got at `path`."""
    return [json.loads(body) for body in re.findall(rf"^POST {path} (.*)$", log.read_text(), re.MULTILINE)]


# ---------------------------------------------------------------- the server


def test_no_ollama_says_how_to_get_one_and_what_works_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineNotFound, match="no `ollama` on PATH") as caught:
        find()
    assert "https://ollama.com/install.sh" in caught.value.hint
    assert "--baseline llamacpp" in caught.value.hint


def test_a_given_binary_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineNotFound, match="there is no program /no/such/ollama"):
        find("/no/such/ollama")


def test_the_binary_on_path_is_found(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    assert find() == binary


def test_a_default_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = LaunchSpec(engine="ollama", model="small", source="small")
    assert environment(spec, port=4711) == {
        "OLLAMA_HOST": "127.0.0.1:4711",
        "OLLAMA_MODELS": str(tmp_path / "vllm-harness" / "ollama"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NO_CLOUD": "1",
    }


def test_settings_of_a_users_shell_do_not_pass_for_defaults() -> None:
    assert without_settings({"OLLAMA_NUM_PARALLEL": "8", "HOME": "/root"}) == {"HOME": "/root"}


def test_slots_are_asked_for_and_told(
    binary: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_FLASH_ATTENTION", "1")
    log = tmp_path / "engine.log"
    with launched(spec_for(binary, tmp_path, source=str(gguf), slots=4), log=log) as engine:
        assert engine.slots == 4
    assert "OLLAMA_NUM_PARALLEL=4\n" in log.read_text()
    assert "OLLAMA_FLASH_ATTENTION" not in log.read_text()


def test_the_size_of_the_weights_is_the_files_or_else_what_the_store_says(
    binary: Path, gguf: Path, tmp_path: Path
) -> None:
    with launched(spec_for(binary, tmp_path, source=str(gguf)), log=tmp_path / "engine.log") as engine:
        facts = engine.facts(role="baseline", precision="q4_1", flags={})
        assert facts.weights_bytes == gguf.stat().st_size
    pulled = spec_for(binary, tmp_path, source="small:135m", env={"FAKE_OLLAMA_HAS": "small:135m"})
    with launched(pulled, log=tmp_path / "engine.log") as engine:
        assert engine.weights_bytes == 92115712


def test_slots_that_the_spec_sets_itself_are_those_that_are_told(binary: Path, gguf: Path, tmp_path: Path) -> None:
    spec = spec_for(binary, tmp_path, source=str(gguf), env={"OLLAMA_NUM_PARALLEL": "7"})
    with launched(spec, log=tmp_path / "engine.log") as engine:
        assert engine.slots == 7


def test_flags_are_refused_because_ollama_has_none(binary: Path, tmp_path: Path) -> None:
    spec = LaunchSpec(engine="ollama", model="m", source="m", program=str(binary), flags={"num-parallel": 4})
    with (
        pytest.raises(EngineBadFlag, match="takes no flags, and was given --num-parallel"),
        launched(spec, log=tmp_path / "l"),
    ):
        pass


def test_a_port_that_was_taken_meanwhile_is_told(tmp_path: Path, gguf: Path) -> None:
    unlucky = tmp_path / "ollama"
    unlucky.write_text('#!/bin/sh\necho "Error: listen tcp $OLLAMA_HOST: bind: address already in use"; exit 1\n')
    unlucky.chmod(0o755)
    with (
        pytest.raises(EnginePortTaken, match=r"another program listens on port \d+ that Ollama was given"),
        launched(spec_for(unlucky, tmp_path, source=str(gguf)), log=tmp_path / "engine.log"),
    ):
        pass


# ---------------------------------------------------------------- the model


def test_a_gguf_file_is_uploaded_created_and_loaded(binary: Path, gguf: Path, tmp_path: Path) -> None:
    log, digest = tmp_path / "engine.log", hashlib.sha256(gguf.read_bytes()).hexdigest()
    with launched(spec_for(binary, tmp_path, source=str(gguf)), log=log) as engine:
        assert engine.title == "Ollama 0.33.0-rc2"
        assert (engine.api, engine.dialect, engine.slots) == ("ollama", "ollama", 1)
        assert engine.model == f"small-135m:{digest[:12]}"
        assert engine.resolved == {"context-tokens": 4096, "size-bytes": 209505483, "size-vram-bytes": 0}
    assert f"POST /api/blobs {gguf.stat().st_size} bytes" in log.read_text()
    assert requests(log, "/api/create") == [
        {"model": engine.model, "files": {gguf.name: f"sha256:{digest}"}, "stream": False}
    ]
    assert requests(log, "/api/generate") == [{"model": engine.model, "keep_alive": -1}]


def test_the_same_file_is_not_brought_again(binary: Path, gguf: Path, tmp_path: Path) -> None:
    for name in ("first.log", "second.log"):
        with launched(spec_for(binary, tmp_path, source=str(gguf)), log=tmp_path / name):
            pass
    second = (tmp_path / "second.log").read_text()
    assert "POST /api/generate" in second
    assert not {"POST /api/blobs", "POST /api/create"} & set(re.findall(r"POST /api/\w+", second))


def test_another_file_under_the_same_name_is_another_model(binary: Path, gguf: Path, tmp_path: Path) -> None:
    names = []
    for content in (b"GGUF one", b"GGUF two"):
        gguf.write_bytes(content)
        with launched(spec_for(binary, tmp_path, source=str(gguf)), log=tmp_path / "engine.log") as engine:
            names.append(engine.model)
    assert len(set(names)) == 2


def test_a_tag_that_is_not_there_is_pulled_once(binary: Path, tmp_path: Path) -> None:
    spec = spec_for(binary, tmp_path, source="qwen2.5", env={"FAKE_OLLAMA_HAS": "qwen2.5"})
    for name in ("first.log", "second.log"):
        with launched(spec, log=tmp_path / name) as engine:
            assert engine.model == "qwen2.5"
    assert requests(tmp_path / "first.log", "/api/pull") == [{"model": "qwen2.5"}]
    assert requests(tmp_path / "second.log", "/api/pull") == []


def test_a_pull_that_fails_is_told_in_ollamas_words(binary: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(
            EngineModelNotFound, match=r"could not pull qwen2.5:1.5b: pull model manifest: .* no such host"
        ) as caught,
        launched(spec_for(binary, tmp_path, source="qwen2.5:1.5b"), log=tmp_path / "engine.log"),
    ):
        pass
    assert "registry.ollama.ai" in caught.value.hint


def test_a_file_that_is_not_there_is_told(binary: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(EngineModelNotFound, match=r"there is no GGUF file /no/such\.gguf"),
        launched(spec_for(binary, tmp_path, source="/no/such.gguf"), log=tmp_path / "engine.log"),
    ):
        pass


def test_a_model_too_large_for_the_machine_is_out_of_memory(binary: Path, gguf: Path, tmp_path: Path) -> None:
    refusal = "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"
    spec = spec_for(binary, tmp_path, source=str(gguf), env={"FAKE_OLLAMA_REFUSES": refusal})
    with pytest.raises(EngineOutOfMemory) as caught, launched(spec, log=tmp_path / "engine.log"):
        pass
    assert caught.value.short_bytes == pytest.approx(2.5 * 2**30, rel=1e-6)


def test_an_unknown_refusal_is_told_in_ollamas_words(binary: Path, gguf: Path, tmp_path: Path) -> None:
    spec = spec_for(binary, tmp_path, source=str(gguf), env={"FAKE_OLLAMA_REFUSES": "llama-server binary not found"})
    with (
        pytest.raises(EngineCrashed, match="failed: Error: llama-server binary not found"),
        launched(spec, log=tmp_path / "l"),
    ):
        pass


def test_a_server_that_ends_while_it_loads_has_crashed(binary: Path, gguf: Path, tmp_path: Path) -> None:
    spec = spec_for(binary, tmp_path, source=str(gguf), env={"FAKE_OLLAMA_DIES_LOADING": "1"})
    with pytest.raises(EngineCrashed) as caught, launched(spec, log=tmp_path / "engine.log"):
        pass
    assert "nil pointer dereference" in caught.value.hint
