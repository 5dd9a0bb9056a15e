"""Ollama's own command line, pointed at the proxy: HARNESS_OLLAMA_BIN, or `ollama` on the PATH (7.58)."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.servers import Fake, Proxied

Command = Callable[..., str]
BINARY = os.environ.get("HARNESS_OLLAMA_BIN") or shutil.which("ollama")
pytestmark = pytest.mark.skipif(not BINARY, reason="no ollama: name it in HARNESS_OLLAMA_BIN, or put it on the PATH")


@pytest.fixture
def ollama(proxy: Proxied, tmp_path: Path) -> Command:
    """Runs `ollama WORDS` against the proxy; what it says, and on stderr where it is to fail or to be verbose."""

    def run(*words: str, code: int = 0) -> str:
        assert BINARY is not None
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OLLAMA_HOST": proxy.url}
        done = subprocess.run(
            [BINARY, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr if code or "--verbose" in words else done.stdout

    return run


def test_58_list_names_every_model(ollama: Command) -> None:
    lines = ollama("list").splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert {line.split()[0] for line in lines[1:]} >= {"smollm2:latest", "minilm:latest", "thinker:latest"}


def test_58_run_prints_the_answer(ollama: Command, vllm: Fake) -> None:
    vllm.script({"text": "Forty-two."})
    assert "Forty-two." in ollama("run", "smollm2", "What is it?")
    assert vllm.asked()["messages"][-1]["content"] == "What is it?"


def test_58_run_is_verbose_with_figures(ollama: Command) -> None:
    told = ollama("run", "--verbose", "smollm2", "hi")
    for figure in ("total duration", "prompt eval count", "eval count", "eval rate"):
        assert figure in told


def test_58_run_keeps_to_a_format_and_thinks(ollama: Command, thinker: Fake) -> None:
    assert json.loads(ollama("run", "--format", "json", "smollm2", "Give JSON.")) == {"answer": 42}
    thinker.script({"reasoning": "I wonder.", "text": "So."})
    said = ollama("run", "thinker", "Well?")
    assert "I wonder." in said
    assert "So." in said


def test_58_show_tells_of_the_model(ollama: Command) -> None:
    told = ollama("show", "smollm2")
    for word in ("architecture", "llama", "context length", "2048", "Capabilities", "completion", "tools"):
        assert word in told
    assert "FROM" in ollama("show", "--modelfile", "smollm2")
    assert "num_ctx" in ollama("show", "--parameters", "smollm2")


def test_58_ps_and_stop_follow_what_is_loaded(ollama: Command) -> None:
    ollama("run", "smollm2", "hi", "--keepalive", "10m")
    assert "smollm2:latest" in ollama("ps")
    ollama("stop", "smollm2")
    assert "smollm2:latest" not in ollama("ps")


def test_58_copies_are_made_used_and_removed(ollama: Command) -> None:
    ollama("cp", "smollm2", "mine")
    assert "mine:latest" in ollama("list")
    assert ollama("run", "mine", "hi").strip()
    ollama("rm", "mine")
    assert "mine:latest" not in ollama("list")
    assert "served" in ollama("rm", "smollm2", code=1)


def test_58_a_model_is_created_from_a_modelfile(ollama: Command, vllm: Fake, tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text('FROM smollm2\nSYSTEM "You are a parrot."\nPARAMETER temperature 0.25\n')
    ollama("create", "parrot", "-f", str(file))
    ollama("run", "parrot", "hi")
    assert vllm.asked()["messages"][0] == {"role": "system", "content": "You are a parrot."}
    assert vllm.asked()["temperature"] == 0.25
    ollama("rm", "parrot")


def test_58_pull_succeeds_for_what_is_served_only(ollama: Command) -> None:
    ollama("pull", "smollm2")
    assert "file does not exist" in ollama("pull", "nosuch", code=1)
    assert "Error" in ollama("run", "nosuch", "hi", code=1)


def test_58_an_embedding_model_is_run(ollama: Command) -> None:
    assert json.loads(ollama("run", "minilm", "hello"))
