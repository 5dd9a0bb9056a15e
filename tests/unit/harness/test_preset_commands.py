"""`harness serve` and `harness compare` with a preset that was found for something else: nothing is started."""

from pathlib import Path
from typing import Any

import pytest

from harness import engines, presets
from harness.cli import cli
from harness.engines import vllm
from harness.engines.flags import Install
from harness.engines.process import free_port
from harness.presets import PresetMismatch
from harness.records import Preset

SERVE = ("serve", "--preset")
COMPARE = ("compare", "--baseline", "vllm", "--candidate")


@pytest.fixture(autouse=True)
def vllm_0_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM is here, and no model may be fetched."""
    install = Install(python=Path("/v/bin/python"), version="0.32.0")
    monkeypatch.setattr(engines, "find_vllm", lambda program: install)
    monkeypatch.setattr(vllm, "find", lambda program: install)
    monkeypatch.setattr("harness.models.fetch", fetched)


class Fetched(Exception):
    """It came as far as fetching the model."""


def fetched(*_: object, **__: object) -> None:
    raise Fetched


def preset_file(folder: Path, **changes: Any) -> str:
    usual = {
        "gpu": "cpu", "model": "smollm2-135m", "flags": {"max-num-seqs": 32}, "is_default": False, "run": "r",
        "objective": "balanced", "vllm_version": "0.32.0", "gpu_title": "CPU", "created_utc": "",
    }  # fmt: skip
    presets.write_preset(Preset(**{**usual, **changes}), folder / "p.toml")
    return str(folder / "p.toml")


def run(folder: Path, words: tuple[str, ...], *more: str) -> None:
    own = ["--port", str(free_port())] if words[0] == "serve" else ["--out", str(folder / "out")]
    cli.main(
        [*words, *more, "--gpu", "cpu", "--results", str(folder), *own], prog_name="harness", standalone_mode=False
    )


@pytest.mark.parametrize("words", [SERVE, COMPARE])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpu": "rtx4090"}, "found on rtx4090, this is cpu"),
        ({"vllm_version": "0.31.2"}, r"found with vLLM 0\.31\.2 and valid for >=0\.31,<0\.32, this is 0\.32\.0"),
        ({"is_simulated": True}, "by a simulation"),
    ],
)
def test_a_preset_of_something_else_is_refused_unless_it_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    file = preset_file(tmp_path, **changes)
    with pytest.raises(PresetMismatch, match=said) as refused:
        run(tmp_path, words, file)
    assert "harness tune --gpu cpu --model smollm2-135m" in refused.value.hint
    with pytest.raises(Fetched):
        run(tmp_path, words, file, "--any-preset")
    assert "used all the same (--any-preset)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [SERVE, COMPARE])
def test_a_preset_of_another_model_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(PresetMismatch, match=r"for the model smollm2-135m, this is qwen2\.5-1\.5b"):
        run(tmp_path, words, preset_file(tmp_path), "--model", "qwen2.5-1.5b")


@pytest.mark.parametrize("words", [SERVE, COMPARE])
def test_a_preset_that_fits_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(Fetched):
        run(tmp_path, words, preset_file(tmp_path))
    heard = capsys.readouterr().err
    assert "p.toml" in heard
    assert "warning" not in heard
