"""`harness export` as a command: what it prints, writes, refuses and notes."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import engines, export, presets, telemetry
from harness.cli import cli
from harness.engines.flags import Install
from harness.errors import EngineBadFlag, EngineNotFound, UsageError
from harness.records import Estimate, Preset

FLAGS = {"max-num-seqs": 128, "enforce-eager": True}
WON = Estimate(value=1.32, low=1.2, high=1.5, confidence=0.95, n=30, unit="ratio")


def preset(*, is_simulated: bool = False) -> Preset:
    return Preset(
        gpu="h100", model="qwen2.5-1.5b", flags=FLAGS, is_default=False, ratio=WON, objective="balanced", run="r",
        vllm_version="0.32.0", vllm_versions=">=0.32,<0.33", gpu_title="NVIDIA H100", created_utc="2026-11-22",
        is_simulated=is_simulated,
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with a preset, on a machine with vLLM 0.32.0 and no card."""
    presets.write_preset(preset(), presets.preset_path(tmp_path, gpu="h100", model="qwen2.5-1.5b"))
    monkeypatch.setattr(telemetry, "open_gpu", lambda: None)
    install = Install(python=Path("/v/bin/python"), version="0.32.0")
    monkeypatch.setattr(engines, "find_vllm", lambda program: install)
    return tmp_path


def command(results: Path, *said: str) -> Any:
    return cli.main(["export", "--results", str(results), *said], prog_name="harness", standalone_mode=False)


def test_it_prints_the_file_and_nothing_else(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(results, "h100/qwen2.5-1.5b", "--format", "shell") == 0
    out, err = capsys.readouterr()
    assert out.startswith("#!/bin/sh\n# vLLM for qwen2.5-1.5b")
    assert f"python={shlex.quote('/v/bin/python')}" in out
    assert "no known card is here" in err


def test_json_is_one_document_and_out_is_a_file(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = results / "serve.sh"
    assert command(results, "h100", "--format", "shell", "--out", str(file), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == file.read_text(encoding="utf-8")
    assert (told["format"], told["model"], told["notes"]) == ("shell", "Qwen/Qwen2.5-1.5B-Instruct", [])
    assert told["flags"] == FLAGS
    assert os.access(file, os.X_OK)
    assert not list(results.glob("*.tmp"))


@pytest.mark.parametrize(
    ("words_said", "why"),
    [
        (["--gpu", "rtx4090", "--format", "yaml"], "found on h100, this is rtx4090"),
        (["--vllm-version", "0.33.0", "--format", "systemd"], "this is 0.33.0"),
        (["--image", "vllm/vllm-openai:v0.40.0", "--format", "compose"], r"this is 0\.40\.0"),
        (["--model", "llama-3.1-8b", "--format", "shell"], r"found for the model qwen2\.5-1\.5b"),
    ],
)
def test_settings_of_something_else_are_refused_or_noted_in_the_file(
    results: Path, capsys: pytest.CaptureFixture[str], words_said: list[str], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        command(results, "h100", *words_said)
    assert capsys.readouterr().out == ""
    assert command(results, "h100", *words_said, "--any-preset") == 0
    assert re.search(f"# Note: --any-preset: .*{why}", capsys.readouterr().out)


@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_simulated_settings_are_refused_or_marked(results: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    presets.write_preset(preset(is_simulated=True), results / "p.toml")
    with pytest.raises(UsageError, match="by a simulation"):
        command(results, str(results / "p.toml"), "--format", kind)
    assert command(results, str(results / "p.toml"), "--format", kind, "--any-preset") == 0
    assert "# SIMULATED" in capsys.readouterr().out


def test_the_card_that_is_here_is_the_one_it_is_for(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cli.export.card_here", lambda: "rtx4090")
    with pytest.raises(UsageError, match="this is rtx4090"):
        command(results, "h100", "--format", "yaml")
    assert command(results, "h100", "--format", "yaml", "--gpu", "h100") == 0  # for another machine
    assert "max-num-seqs: 128" in capsys.readouterr().out


def test_a_vllm_that_is_on_another_machine_is_not_judged(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_here(program: str | None) -> Install:
        raise EngineNotFound("no vLLM")

    monkeypatch.setattr(engines, "find_vllm", none_here)
    assert command(results, "h100", "--format", "systemd", "--vllm-python", "/srv/v/bin/python") == 0
    out, err = capsys.readouterr()
    assert "ExecStart=/srv/v/bin/python -m" in out
    assert "which one will run is not known here" in err
    assert command(results, "h100", "--format", "shell") == 0
    assert "python=python3\n" in capsys.readouterr().out
    with pytest.raises(EngineNotFound):  # it is here, and has no vLLM
        command(results, "h100", "--format", "shell", "--vllm-python", sys.executable)


def test_flags_that_the_vllm_here_does_not_know_or_would_refuse_are_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a unit that fails at each start of the machine."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '  --model MODEL'\necho '  --max-num-seqs N'\n")
    python.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "find_vllm", lambda program: Install(python=python, version="0.32.0"))
    with pytest.raises(EngineBadFlag, match="does not know the flag --enforce-eager"):
        command(results, "h100", "--format", "shell")
    assert command(results, "h100", "--format", "shell", "--vllm-version", "0.32.5") == 0, "another one will run"
    wrong = msgspec.structs.replace(preset(), flags={"max-num-seqs": 128, "max-num-batched-tokens": 64})
    presets.write_preset(wrong, tmp_path / "p.toml")
    with pytest.raises(UsageError, match="max-num-batched-tokens 64 is less than max-num-seqs 128"):
        command(results, str(tmp_path / "p.toml"), "--format", "compose")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["nothing", "--format", "yaml"], "no run called"),
        (["h100/llama-3.1-8b", "--format", "yaml"], "no preset of h100"),
        (["h100", "--format", "yaml", "--image", "x"], "--image is for"),
        (["h100", "--format", "yaml", "--gpu", "h1000"], "no GPU profile"),
        (["h100", "--format", "yaml", "--out", "/no/such/folder/x"], "cannot write"),
    ],
)
def test_a_mistake_is_told(results: Path, said: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        command(results, *said)
