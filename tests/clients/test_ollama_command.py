"""The command `ollama` of Ollama itself, with OLLAMA_HOST pointing at the server."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.servers import Target, ollama_binary

pytestmark = pytest.mark.timeout(600)
Command = Callable[..., str]


class Failed(Exception):
    """It ended with another status than 0."""


@pytest.fixture
def ollama(target: Target, tmp_path: Path) -> Command:
    """What `ollama WORDS` prints."""
    binary = ollama_binary()

    def run(*words: str, text: str = "", with_stderr: bool = False) -> str:
        done = subprocess.run(
            [str(binary), *words],
            input=text,
            env={"PATH": os.defpath, "HOME": str(tmp_path), "OLLAMA_HOST": target.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise Failed(done.stderr + done.stdout)
        return done.stdout + done.stderr * with_stderr

    return run


def test_list_show_and_version(ollama: Command, target: Target) -> None:
    header, *rows = ollama("list").splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    row = next(row.split() for row in rows if row.startswith(f"{target.chat}:latest "))
    assert re.fullmatch(r"[0-9a-f]{12}", row[1])
    assert row[3] in ("B", "KB", "MB", "GB")
    shown = ollama("show", target.chat)
    assert "context length" in shown
    assert re.search(r"Capabilities\s+completion", shown)
    assert ollama("show", "--modelfile", target.chat).startswith("# Modelfile")
    assert re.search(r"ollama version is \d+\.\d+\.\d+", ollama("--version"))


@pytest.fixture
def brief(ollama: Command, target: Target, tmp_path: Path) -> str:
    """A model that stops early: the command has no flag for that."""
    (tmp_path / "Brief").write_text(f"FROM {target.chat}\nPARAMETER num_predict 32\n")
    ollama("create", "command-brief", "-f", "Brief")
    return "command-brief"


def test_run_answers_and_ps_and_stop_follow(ollama: Command, brief: str) -> None:
    assert ollama("run", brief, "Answer with one word. The sky is", "--keepalive", "10m").strip()
    header, *rows = ollama("ps").splitlines()
    assert "PROCESSOR" in header
    row = next(row for row in rows if row.startswith(f"{brief}:latest "))
    assert re.search(r"100% (CPU|GPU)|\d+%/\d+% CPU/GPU", row)
    assert re.search(r"\d+ minutes from now", row)
    ollama("stop", brief)
    left = [row for row in ollama("ps").splitlines() if row.startswith(f"{brief}:latest ")]
    assert not left or "Stopping" in left[0]


def test_run_verbose_divides_counts_by_times(ollama: Command, brief: str) -> None:
    said = ollama("run", "--verbose", brief, "Say hello.", with_stderr=True)
    for name in ("total duration", "prompt eval count", "prompt eval rate", "eval count", "eval duration", "eval rate"):
        assert re.search(rf"{name}:\s+[\d.]+", said), said
    assert "Inf" not in said
    assert "NaN" not in said


def test_run_reads_a_pipe_and_keeps_to_json(ollama: Command, brief: str) -> None:
    assert ollama("run", brief, text="Say hello.").strip()
    said = ollama("run", brief, "The colours of the sky as a JSON object.", "--format", "json")
    assert said.rpartition("done thinking.")[2].strip().startswith("{")


@pytest.fixture(autouse=True)
def modelfile(tmp_path: Path, target: Target) -> None:
    (tmp_path / "Modelfile").write_text(
        f"FROM {target.chat}\nPARAMETER num_predict 5\nPARAMETER temperature 0\nSYSTEM You are a pirate.\n"
    )


def test_create_cp_and_rm(ollama: Command, target: Target) -> None:
    ollama("create", "command-made", "-f", "Modelfile")
    shown = ollama("show", "command-made")
    assert re.search(r"num_predict\s+5", shown)
    assert "You are a pirate." in shown
    ollama("cp", "command-made", "command-copy")
    names = [row.split()[0] for row in ollama("list").splitlines()[1:]]
    assert {"command-made:latest", "command-copy:latest"} <= set(names)
    assert "deleted" in ollama("rm", "command-made", "command-copy")
    assert not re.search("command-(made|copy)", ollama("list"))


def test_thinking_is_shown_apart(ollama: Command, target: Target) -> None:
    if not target.is_scripted:
        pytest.skip("only a script thinks for sure")
    said = ollama("run", "actor", "Think about the sky.", "--think=true")
    assert said.index("Thinking...") < said.index("scatters") < said.index("done thinking") < said.index("Blue")
    assert "scatters" not in ollama("run", "actor", "Think about the sky.", "--think=true", "--hidethinking")


def test_a_model_that_embeds_prints_a_vector(ollama: Command, target: Target) -> None:
    assert target.embed
    assert len(json.loads(ollama("run", target.embed, "a cat"))) >= 8


@pytest.mark.parametrize("words", [("show", "nope"), ("stop", "nope"), ("rm", "nope"), ("cp", "nope", "nope2")])
def test_an_unknown_model_is_told(ollama: Command, target: Target, words: tuple[str, ...]) -> None:
    with pytest.raises(Failed, match=r"not found|couldn't find model"):
        ollama(*words)


def test_an_unknown_model_to_run_is_pulled_which_fails(ollama: Command, target: Target) -> None:
    with pytest.raises(Failed, match=r"pull model manifest|pulling manifest"):
        ollama("run", "nope", "hello")
    with pytest.raises(Failed, match=r"(?i)error"):
        ollama("push", target.chat)


def test_a_served_model_is_pulled(ollama: Command, target: Target) -> None:
    if target.kind == "ollama":
        pytest.skip("it looks for a newer one, elsewhere")
    ollama("pull", target.chat)
