"""Files that somebody changed are refused before anything is launched, and say which of them it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from harness.errors import HarnessError, ResultsUnreadable, UsageError
from harness.records import Host, ModelFiles, Outcome, Trial
from harness.search import Axis, Search, Space
from harness.store import RunFolder
from harness.tune.plan import Plan, read_plan
from harness.tune.session import moved_note, resume
from harness.tune.sound import JOURNAL, refuse_unsound
from harness.tune.study import Study
from harness.tune.world import World
from tests.unit.harness.tune.worlds import FakeEngines, plan, recording_of, study

LISTED = [{"max-num-batched-tokens": 8192, "max-num-seqs": count, "max-model-len": 4096} for count in (64, 128)]


def faster_with_128(flags: dict[str, Any], users: int) -> float:
    return 300.0 * users**0.8 * (1.3 if flags.get("max-num-seqs") == 128 else 1.0)


def ended(folder: Path) -> RunFolder:
    """A whole study."""
    made, _, _ = study(plan(trials=2), folder / "run", FakeEngines(faster_with_128), LISTED)
    made.go_on(folder)
    return made.recording.folder


def gone_on(folder: RunFolder, *, budget_s: float | None = None) -> FakeEngines:
    engines = FakeEngines(faster_with_128)
    world = World(
        clock=engines.clock, pause=engines.pause, launch=engines.launch, ask=None, make_search=lambda *a, **k: None
    )  # type: ignore[arg-type, return-value]  # nothing is left to search
    resume(
        folder,
        results=folder.path.parent,
        trials=None,
        budget_s=budget_s,
        vllm_python=None,
        say=lambda _: None,
        world=world,
    )
    return engines


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def with_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


HOST = Host(cpu="a processor", cores=8, memory_bytes=1, os="Linux", python="3", gpu="NVIDIA H100", gpu_id="1")


def test_a_study_that_goes_on_elsewhere_says_so_and_on_another_kind_of_card_is_refused() -> None:
    assert moved_note(HOST, HOST) == ""
    assert moved_note(structs.replace(HOST, gpu_id=""), HOST) == "", "it is not known"
    moved = moved_note(HOST, structs.replace(HOST, gpu_id="2", cpu="another", os="Linux 7"))
    assert "another card and another processor" in moved
    for before, now in ((HOST, None), (HOST, "NVIDIA H200"), (structs.replace(HOST, gpu=None), "NVIDIA H200")):
        with pytest.raises(UsageError, match="its baseline says nothing about this machine"):
            moved_note(before, structs.replace(HOST, gpu=now))


def test_what_a_stretch_is_told_to_change_holds_for_the_next_one(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    assert read_plan(folder).budget_s is None
    gone_on(folder, budget_s=90_000.0)
    assert read_plan(folder).budget_s == 90_000.0


def test_what_nobody_changed_is_sound(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    assert gone_on(folder).launches == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"users": [-1, 4]}, "users -1, 4"),
        ({"users": [1, 10]}, "other than those of its scenario"),
        ({"users": []}, "users none"),
        ({"engine": "foo"}, "no engine is called 'foo'"),
        ({"engine": "simulated"}, "its launches were of vllm"),
        ({"repeats": 0}, "repeats 0"),
        ({"budget_s": -5.0}, "a budget of -5 s"),
        ({"allowed": ["everything"]}, "'everything'"),
    ],
)
def test_a_plan_that_no_command_line_gives_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = ended(tmp_path)
    edited(folder.path / "plan.json", **changes)
    with pytest.raises(ResultsUnreadable, match=said) as refused:
        gone_on(folder)
    assert "plan.json" in refused.value.message


def test_a_simulated_study_never_launches_vllm(tmp_path: Path) -> None:
    """Neither one that launched something nor one that did not come so far."""
    folder = ended(tmp_path)
    run = folder.run()
    facts = run.engines[0]
    for asked, known in [
        (plan(), msgspec.structs.replace(run, is_simulated=True, engines=())),
        (plan(), msgspec.structs.replace(run, engines=(msgspec.structs.replace(facts, engine="simulated"),))),
        (plan(files=ModelFiles(model="m", vllm_precision="bf16", is_synthetic=True)), run),
    ]:
        with pytest.raises(ResultsUnreadable, match=r"plan\.json: damaged"):
            refuse_unsound(folder, known, asked)


def test_a_simulation_in_vllms_place_is_no_other_engine(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    refuse_unsound(folder, msgspec.structs.replace(folder.run(), is_simulated=True), plan())


def test_a_version_that_is_no_number_is_named_as_that(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    edited(folder.path / "plan.json", version="2")
    with pytest.raises(UsageError, match="version") as refused:
        gone_on(folder)
    assert "Expected `int`" in refused.value.message


def changed(line: str, **changes: object) -> str:
    return json.dumps({**json.loads(line), **changes}) + "\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1:], "the baseline is missing"),
        (lambda lines: [lines[0], lines[2]], "trial 1 is missing"),
        (lambda lines: [*lines, lines[1]], "2 trials of number 1"),
        (lambda lines: [lines[0], changed(lines[1], wall_s=-1e308), lines[2]], r"trial 1: a time of -1e\+308 s"),
        (lambda lines: [lines[0], changed(lines[1], wall_s=1e308), lines[2]], r"trial 1: a time of 1e\+308 s"),
    ],
)
def test_trials_that_no_study_writes_are_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    folder = ended(tmp_path)
    with_lines(folder.path / "trials.jsonl", change)
    with pytest.raises(ResultsUnreadable, match=said):
        gone_on(folder)


def test_a_ratio_without_a_logarithm_is_refused(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    found = folder.trials()[1].objective
    assert found is not None
    wrong = {**msgspec.to_builtins(found), "value": -1.0}
    with_lines(folder.path / "trials.jsonl", lambda lines: [lines[0], changed(lines[1], objective=wrong), lines[2]])
    with pytest.raises(ResultsUnreadable, match="trial 1: a ratio of -1"):
        gone_on(folder)


def test_workers_leave_numbers_behind(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    (folder.path / "trials.jsonl").unlink()
    folder.append_trial(Trial(number=0, flags={}, outcome=Outcome.MEASURED))
    folder.append_trial(Trial(number=2, flags={}, outcome=Outcome.MEASURED, worker=2))
    edited(folder.path / "run.json", defence=None)
    refuse_unsound(folder, folder.run(), plan())


@pytest.mark.parametrize("named", [{"finalists": [99]}, {"winner": 99}, {"refused": [99]}])
def test_a_defence_of_what_was_not_tried_is_refused(tmp_path: Path, named: dict[str, Any]) -> None:
    folder = ended(tmp_path)
    defence = json.loads((folder.path / "run.json").read_bytes())["defence"]
    edited(folder.path / "run.json", defence={**defence, **named})
    with pytest.raises(ResultsUnreadable, match=r"run\.json: damaged: the defence names trial 99"):
        gone_on(folder)


def test_a_launch_of_the_defence_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    with_lines(folder.path / "defence.jsonl", lambda lines: [*lines, lines[0]])
    with pytest.raises(HarnessError, match="final baseline of block 1 is there 2 times") as refused:
        gone_on(folder)
    assert refused.value.exit_code == 5


def test_a_preset_that_is_gone_is_written_again(tmp_path: Path) -> None:
    folder = ended(tmp_path)
    (path,) = (tmp_path / "presets").rglob("*.toml")
    body = path.read_bytes()
    path.unlink()
    gone_on(folder)
    assert path.read_bytes() == body


def searched(folder: Path) -> RunFolder:
    """A whole study that the real search chose the candidates of."""
    engines = FakeEngines(faster_with_128)
    asked = plan(trials=2)
    recording = recording_of(asked, folder / "run")
    world = World(clock=engines.clock, pause=engines.pause, launch=engines.launch, ask=None, make_search=without_vllm)
    Study(asked, recording, say=lambda _: None, world=world).go_on(folder)
    return recording.folder


def without_vllm(asked: Plan, *, folder: RunFolder, **_: Any) -> Search:
    """The real search, over a space that needs no vLLM to say which flags it knows."""
    axes = (Axis(flag="max-num-seqs", steps=(16, 32, 64)), Axis(flag="max-model-len", steps=(4096, 8192)))
    return Search(
        storage=folder.path / JOURNAL, study=asked.study, space=Space(axes=axes), seed=1, is_allowed=lambda _: ()
    )


def test_a_journal_that_agrees_with_the_trials_is_sound(tmp_path: Path) -> None:
    assert gone_on(searched(tmp_path)).launches == []


@pytest.mark.parametrize("which", ['"flags"', '"values":[', '"datetime_start"'])
def test_a_journal_without_one_of_its_lines_is_refused_with_the_way_on(tmp_path: Path, which: str) -> None:
    folder = searched(tmp_path)

    def without_the_last(lines: list[str]) -> list[str]:
        place = max(number for number, line in enumerate(lines[:-1]) if which in line)
        return lines[:place] + lines[place + 1 :]

    with_lines(folder.path / JOURNAL, without_the_last)
    with pytest.raises(ResultsUnreadable, match=r"study\.journal: damaged") as refused:
        gone_on(folder)
    assert "move it away" in refused.value.hint
    (folder.path / JOURNAL).rename(folder.path / "moved")
    assert gone_on(folder).launches == []


def test_trials_that_say_something_else_than_the_journal_are_refused(tmp_path: Path) -> None:
    folder = searched(tmp_path)

    def better(lines: list[str]) -> list[str]:
        trial = json.loads(lines[1])
        for found in (trial["objective"], *trial["objectives"].values()):
            found["value"] *= 2
        return [lines[0], f"{json.dumps(trial)}\n", *lines[2:]]

    with_lines(folder.path / "trials.jsonl", better)
    with pytest.raises(ResultsUnreadable, match=r"trials\.jsonl says"):
        gone_on(folder)
