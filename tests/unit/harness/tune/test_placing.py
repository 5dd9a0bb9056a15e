"""What becomes of an earlier preset: never lost, never replaced in silence, in use as long as it outweighs the new."""

from pathlib import Path
from typing import Any

import pytest

from harness import presets
from harness.records import Estimate, Preset
from harness.report import view_defence
from harness.store import RunFolder
from harness.tune.placing import place_of, placed
from tests.unit.harness.tune.worlds import FakeEngines, like_all, plan, study

FIGURE = Estimate(value=1.15, low=1.1, high=1.2, confidence=0.95, n=6, unit="ratio")


def preset(run: str, **changes: Any) -> Preset:
    known: dict[str, Any] = {
        "gpu": "rtx4090",
        "model": "qwen2.5-1.5b",
        "flags": {"max-num-seqs": 128},
        "is_default": False,
        "objective": "balanced: tokens",
        "ratio": FIGURE,
        "vllm_version": "0.32.0",
        "gpu_title": "a card",
        "run": run,
        "created_utc": "2026-11-20T10:00:00Z",
        "vllm_versions": ">=0.32,<0.33",
        "is_defended": True,
    }
    return Preset(**{**known, **changes})


NO_WINNER: dict[str, Any] = {"flags": {}, "is_default": True, "ratio": None, "is_defended": False}
UNDEFENDED: dict[str, Any] = {"is_defended": False}


def usual(results: Path) -> Path:
    return results / "presets" / "rtx4090" / "qwen2.5-1.5b.toml"


def beside(results: Path, run: str) -> Path:
    return results / "presets" / "rtx4090" / f"qwen2.5-1.5b.{run}.toml"


def test_the_first_preset_is_not_worth_a_word(tmp_path):
    found = placed(preset("new"), results=tmp_path)
    assert found.path == usual(tmp_path)
    assert found.note == ""
    assert placed(preset("new"), results=tmp_path).note == "", "the same run goes on"


@pytest.mark.parametrize(("now", "stays"), [("0.32.0", False), ("dev", True)])
def test_settings_of_a_vllm_without_a_number_hold_for_that_alone(tmp_path: Path, now: str, stays: bool) -> None:
    """vLLM calls itself "dev" where it was built without its version file."""
    placed(preset("old", vllm_version="dev", vllm_versions=""), results=tmp_path)
    placed(preset("new", vllm_version=now, vllm_versions="", **NO_WINNER), results=tmp_path)
    assert (presets.read_preset(usual(tmp_path)).run == "old") == stays


def test_a_defended_winner_replaces_a_defended_winner_which_is_kept(tmp_path):
    placed(preset("old"), results=tmp_path)
    found = placed(preset("new"), results=tmp_path)
    assert presets.read_preset(usual(tmp_path)).run == "new"
    assert presets.read_preset(beside(tmp_path, "old")) == preset("old")
    assert "run old of 2026-11-20: 1.150x the defaults (1.100 to 1.200), defended" in found.note
    assert str(beside(tmp_path, "old")) in found.note


@pytest.mark.parametrize("outcome", [NO_WINNER, UNDEFENDED], ids=["no winner", "undefended"])
def test_what_proves_nothing_does_not_replace_what_was_proved(tmp_path, outcome):
    placed(preset("old"), results=tmp_path)
    new = preset("new", **outcome)
    found = placed(new, results=tmp_path)
    assert presets.read_preset(usual(tmp_path)).run == "old"
    assert presets.read_preset(beside(tmp_path, "new")) == new
    assert found.path == beside(tmp_path, "new") == place_of(new, results=tmp_path)
    assert place_of(preset("old"), results=tmp_path) == usual(tmp_path)
    assert "stays in use" in found.note
    assert "--preset new" in found.note


@pytest.mark.parametrize(
    "changes",
    [{"vllm_version": "0.33.0", "vllm_versions": ">=0.33,<0.34"}, {"objective": "latency: times"}],
    ids=["another vLLM", "another objective"],
)
def test_what_does_not_hold_any_more_or_answers_something_else_gives_way(tmp_path, changes):
    placed(preset("old"), results=tmp_path)
    found = placed(preset("new", **NO_WINNER, **changes), results=tmp_path)
    assert presets.read_preset(usual(tmp_path)).run == "new"
    assert presets.read_preset(beside(tmp_path, "old")).run == "old"
    assert "is kept as" in found.note


def test_defaults_are_replaced_with_a_word_and_nothing_is_kept(tmp_path):
    placed(preset("old", **NO_WINNER), results=tmp_path)
    found = placed(preset("new", **UNDEFENDED), results=tmp_path)
    assert "run old of 2026-11-20: keep the defaults" in found.note
    assert list(usual(tmp_path).parent.iterdir()) == [usual(tmp_path)]


def test_a_preset_that_cannot_be_read_is_kept_too(tmp_path):
    usual(tmp_path).parent.mkdir(parents=True)
    usual(tmp_path).write_text("gpu = 7\n")
    found = placed(preset("new"), results=tmp_path)
    assert beside(tmp_path, "damaged").read_text() == "gpu = 7\n"
    assert "could not be read" in found.note


def test_a_study_says_what_it_replaces_on_the_console_and_in_its_notes(tmp_path):
    placed(preset("old"), results=tmp_path)
    made, _, lines = study(plan(trials=1, is_defended=False), tmp_path / "run", FakeEngines(like_all), [{"a": 1}])
    presets.write_preset(
        preset("old", objective="; ".join(f"{o.name}: {o.meaning}" for o in made.objectives)), usual(tmp_path)
    )
    made.go_on(tmp_path)
    recorded = RunFolder(tmp_path / "run").run()
    (note,) = [note for note in recorded.notes if "stays in use" in note]
    assert note in lines
    assert presets.read_preset(usual(tmp_path)).run == "old"
    part = view_defence.preset_part(recorded)
    assert part is not None
    assert part.facts[0].text == "results/presets/rtx4090/qwen2.5-1.5b.run.toml"
    assert "harness serve --preset run," in part.facts[-1].text
