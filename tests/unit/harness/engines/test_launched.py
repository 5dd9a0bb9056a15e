"""The way in: by the engine's name, or to a server that runs already."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from harness import engines
from harness.engines.process import free_port, process_group, wait_ready
from harness.engines.talk import get, is_listed
from harness.errors import (
    EngineBadFlag,
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineModelNotFound,
    EngineNotFound,
    UsageError,
)
from harness.records import LaunchSpec

FAKES = Path(__file__).parents[3] / "fakes"


@contextmanager
def running(words: list[str], tmp_path: Path, *, port: int, env: dict[str, str] | None = None) -> Iterator[str]:
    """A server that somebody else has started; its address."""
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, *words]
    with process_group(argv, log=tmp_path / "stranger.log", env={**os.environ, **(env or {})}) as process:
        with httpx.Client(base_url=url, trust_env=False) as http:
            wait_ready(process, lambda: get(http, "/") is not None, title="it", port=port, timeout_s=20, died=died)
        yield url


def died() -> EngineError:
    return EngineCrashed("it died")


def reference_words(port: int) -> list[str]:
    return ["-m", "harness.engines.reference", "--port", str(port), "--model", "reference"]


# ---------------------------------------------------------------- by name


def test_an_unknown_engine_is_refused_with_the_list(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="tgi", model="m")
    with pytest.raises(UsageError, match="there is no engine 'tgi'") as caught:
        engines.launched(spec, log=tmp_path / "engine.log")
    assert caught.value.hint == "choose one of vllm, proxied, ollama, llamacpp, reference, simulated"


def test_the_reference_engine_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="reference", model="reference", flags={"ttft-s": 0.01, "itl-s": 0.001})
    with engines.launched(spec, log=tmp_path / "engine.log") as engine:
        assert (engine.name, engine.title, engine.api, engine.dialect) == (
            *("reference", "reference engine", "openai", "plain"),
        )
        body = {"model": engine.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}
        answer = httpx.post(f"{engine.url}/v1/chat/completions", json=body, trust_env=False).json()
        assert answer["usage"]["completion_tokens"] == 7
    with pytest.raises(httpx.ConnectError):
        httpx.get(engine.url, trust_env=False)


def test_the_reference_engine_can_be_asked_as_ollama(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="reference", model="reference", api="ollama")
    with engines.launched(spec, log=tmp_path / "engine.log") as engine:
        assert engine.api == "ollama"


def test_our_own_programs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package need not be installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with engines.launched(LaunchSpec(engine="reference", model="reference"), log=tmp_path / "engine.log"):
        pass


def test_a_flag_that_the_reference_engine_does_not_know_is_a_bad_flag(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="reference", model="reference", flags={"speed": 11})
    with (
        pytest.raises(EngineBadFlag, match="does not know the flag --speed 11"),
        engines.launched(spec, log=tmp_path / "engine.log"),
    ):
        pass


def test_a_server_that_never_gets_ready_hangs(tmp_path: Path) -> None:
    port = free_port()
    argv = [sys.executable, str(FAKES / "server.py"), "--port", str(port), "--ready-after-s", "60"]
    with (
        process_group(argv, log=tmp_path / "e.log", env=os.environ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        pytest.raises(EngineHung, match="server was not ready after 1 s"),
    ):
        wait_ready(process, lambda: _is_ok(http), title="server", port=port, timeout_s=1.0, died=died)


def _is_ok(http: httpx.Client) -> bool:
    answer = get(http, "/health")
    return answer is not None and answer.status_code == 200


def test_no_xllamacpp_says_how_to_get_it(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    empty.chmod(0o755)
    spec = LaunchSpec(engine="llamacpp", model="m", source="m.gguf", program=str(empty))
    with pytest.raises(EngineNotFound, match="has no xllamacpp") as caught, engines.launched(spec, log=tmp_path / "l"):
        pass
    assert caught.value.hint == "pip install xllamacpp"


# ---------------------------------------------------------------- by address


@pytest.mark.parametrize(
    ("api", "seen"), [("openai", ("openai", "plain")), ("ollama", ("ollama", "ollama")), (None, ("ollama", "ollama"))]
)
def test_a_running_server_is_used_and_left_as_it_was(tmp_path: Path, api: str | None, seen: tuple[str, str]) -> None:
    """A server with both APIs is Ollama, which is to be measured by its own."""
    port = free_port()
    with running(reference_words(port), tmp_path, port=port) as url:
        spec = LaunchSpec(engine="", model="reference", url=f"{url}/v1/", api=api)
        with engines.launched(spec, log=tmp_path / "engine.log") as engine:
            assert (engine.api, engine.dialect) == seen
            assert (engine.url, engine.pid, engine.log, engine.argv) == (url, None, None, ())
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200
    assert not (tmp_path / "engine.log").exists()


def test_an_openai_server_is_told_from_ollama(tmp_path: Path) -> None:
    port = free_port()
    with running([str(FAKES / "server.py"), "--port", str(port), "--model", "a/b"], tmp_path, port=port) as url:
        spec = LaunchSpec(engine="vllm", model="small", source="a/b", url=url)
        with engines.launched(spec, log=tmp_path / "engine.log") as engine:
            assert (engine.name, engine.api, engine.model) == ("vllm", "openai", "a/b")
            assert engine.title.endswith(f"at {url}")


def test_ollama_is_asked_for_its_version_and_what_is_loaded(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "fake.json").write_text('{"models": ["small:latest"]}')
    env = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(tmp_path)}
    with running([str(FAKES / "ollama.py"), "serve"], tmp_path, port=port, env=env) as url:
        spec = LaunchSpec(engine="ollama", model="Small", url=url)
        with engines.launched(spec, log=tmp_path / "engine.log") as engine:
            assert engine.title == f"Ollama 0.33.0-rc2 at {url}"
            assert engine.resolved["context-tokens"] == 4096
            assert engine.weights_bytes is None, "its files may lie on another machine"


def test_a_model_that_the_server_has_not_is_refused_with_its_list(tmp_path: Path) -> None:
    port = free_port()
    with running(reference_words(port), tmp_path, port=port) as url:
        spec = LaunchSpec(engine="vllm", model="qwen", url=url, api="openai")
        with (
            pytest.raises(EngineModelNotFound, match="has no model qwen") as caught,
            engines.launched(spec, log=tmp_path / "l"),
        ):
            pass
        assert caught.value.hint == "it has: reference"


def test_no_server_at_an_address_is_told(tmp_path: Path) -> None:
    spec = LaunchSpec(engine="vllm", model="m", url=f"http://127.0.0.1:{free_port()}")
    with (
        pytest.raises(EngineNotFound, match="answers as an OpenAI or Ollama server"),
        engines.launched(spec, log=tmp_path / "l"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "listed", "api", "is_there"),
    [
        ("qwen", ["qwen:latest"], "ollama", True),
        ("QWEN:latest", ["qwen:latest"], "ollama", True),
        ("host:80/a/qwen", ["host:80/a/qwen:latest"], "ollama", True),
        ("qwen:7b", ["qwen:latest"], "ollama", False),
        ("qwen", ["qwen:latest"], "openai", False),
        ("a/B", ["a/b"], "openai", False),
    ],
)
def test_ollama_fills_in_the_tag_and_ignores_case(name: str, listed: list[str], api: str, is_there: bool) -> None:
    assert is_listed(name, listed, api=api) is is_there
