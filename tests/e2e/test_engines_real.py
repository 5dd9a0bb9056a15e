"""Real engines on the CPU with the small model: one launch of each, one streamed answer from each.

vLLM: `make venv-vllm`, or HARNESS_VLLM_PYTHON=path/of/python. llama.cpp: `pip install xllamacpp`. The model:
`make model`.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest

from harness import engines, models
from harness.engines import Engine
from harness.errors import EngineNotFound, HarnessError
from harness.records import LaunchSpec, ModelFiles

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m"
OUTPUT_TOKENS = 16


def missing(what: str, *, get_it: str) -> NoReturn:
    """Skips, naming what is missing; in CI, where all must be there, fails."""
    said = f"{what}; get it with: {get_it}"
    if os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)


@pytest.fixture(scope="module")
def model_files() -> ModelFiles:
    try:
        return models.files(MODEL)
    except HarnessError as error:
        missing(f"{MODEL} is not on this machine ({error.message})", get_it="make model")


def streamed(engine: Engine) -> tuple[str, dict[str, Any]]:
    """The text of one streamed chat answer, and its usage as the server counted it."""
    body = {
        "model": engine.model,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    text, usage = "", {}
    with httpx.stream("POST", f"{engine.url}/v1/chat/completions", json=body, timeout=120, trust_env=False) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                usage = event.get("usage") or usage
    return text, usage


def group_of(engine: Engine) -> set[int]:
    """Ids of the engine's processes."""
    assert engine.pid is not None
    leader = psutil.Process(engine.pid)
    return {leader.pid, *(child.pid for child in leader.children(recursive=True))}


def assert_gone(pids: set[int]) -> None:
    assert not {pid for pid in pids if lives(pid)}


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_living_process_is_not_gone() -> None:
    with pytest.raises(AssertionError):
        assert_gone({os.getpid()})


@pytest.mark.timeout(600)
def test_vllm_starts_answers_tells_what_it_took_and_is_gone(model_files: ModelFiles, tmp_path: Path) -> None:
    try:
        program = str(engines.find_vllm(os.environ.get("HARNESS_VLLM_PYTHON")).python)
    except EngineNotFound as error:
        missing(f"vLLM is not installed ({error.message})", get_it="make venv-vllm")
    if model_files.vllm_source is None:
        missing(f"{MODEL} is here, but not as vLLM wants it", get_it="make model")
    spec = LaunchSpec(
        engine="vllm",
        model=MODEL,
        source=model_files.vllm_source,
        program=program,
        flags={"enforce-eager": True, "max-model-len": 1024},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        ready_timeout_s=400,
    )
    with engines.launched(spec, log=tmp_path / "engine.log") as engine:
        text, usage = streamed(engine)
        assert text
        assert usage["completion_tokens"] == OUTPUT_TOKENS
        assert engine.resolved["max-model-len"] == 1024
        assert engine.resolved["max-num-seqs"] > 1, "a default, which only the server itself tells"
        assert engine.resolved["max-num-batched-tokens"] >= 1024
        assert engine.resolved["kv-cache-tokens"] > 1024
        engine.check()
        pids = group_of(engine)
        assert len(pids) > 1, "vLLM is a tree of processes"
    assert_gone(pids)


def test_llama_cpp_starts_as_ollama_starts_it_answers_and_stops_promptly(
    model_files: ModelFiles, tmp_path: Path
) -> None:
    if model_files.gguf_path is None:
        missing(f"{MODEL} is not here as a GGUF file", get_it="make model")
    spec = LaunchSpec(engine="llamacpp", model=MODEL, source=model_files.gguf_path, ready_timeout_s=120)
    try:
        running = engines.launched(spec, log=tmp_path / "engine.log")
        with running as engine:
            text, usage = streamed(engine)
            assert text
            assert usage["completion_tokens"] == OUTPUT_TOKENS
            assert (engine.resolved["slots"], engine.resolved["context-tokens"]) == (1, 4096)
            pids, stopping = group_of(engine), time.monotonic()
    except EngineNotFound as error:
        missing(error.message, get_it=error.hint)
    assert time.monotonic() - stopping < 15
    assert_gone(pids)


def test_ollama_takes_the_gguf_file_answers_and_is_gone(model_files: ModelFiles, tmp_path: Path) -> None:
    """Never fails for want of Ollama: its releases are not in the package registry that CI has."""
    try:
        program = str(engines.find_ollama(os.environ.get("HARNESS_OLLAMA_BIN")))
    except EngineNotFound as error:
        pytest.skip(f"{error.message}; {error.hint}")
    if model_files.gguf_path is None:
        missing(f"{MODEL} is not here as a GGUF file", get_it="make model")
    spec = LaunchSpec(
        engine="ollama",
        model=MODEL,
        source=model_files.gguf_path,
        program=program,
        env={"OLLAMA_MODELS": str(tmp_path / "store")},
        ready_timeout_s=120,
    )
    with engines.launched(spec, log=tmp_path / "engine.log") as engine:
        text, usage = streamed(engine)
        assert text
        assert usage["completion_tokens"] <= OUTPUT_TOKENS
        assert engine.resolved["context-tokens"] == 4096
        pids = group_of(engine)
        assert len(pids) > 1, "Ollama runs the model in a process of its own"
    assert_gone(pids)
