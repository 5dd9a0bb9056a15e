"""What a run's folder says while it is written and afterwards."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EngineCrashed, UsageError
from harness.recording import Recording, kept, recorded
from harness.records import Cell, CellState, EngineFacts, Run, RunState
from harness.store import RunFolder


def start(results: Path) -> Any:
    return recorded(results=results, kind="bench", model="m", gpu="cpu", seed=1, scenarios=[])


def cell(repeat: int) -> Cell:
    return Cell(
        engine="e", title="t", role="bench", model="m", scenario="s", users=1, repeat=repeat, state=CellState.FAILED
    )


def facts(role: str, block: int, *, launch_s: float) -> EngineFacts:
    return EngineFacts(role=role, engine="e", title="t", version="1", precision="f16", block=block, launch_s=launch_s)


class FullDisk(RunFolder):
    """A folder on a disk that can be full."""

    is_full = False

    def write_run(self, run: Run) -> None:
        self.refuse()
        super().write_run(run)

    def append_cell(self, cell: Cell) -> None:
        self.refuse()
        super().append_cell(cell)

    def refuse(self) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")


def test_a_run_says_how_it_ended(tmp_path: Path) -> None:
    with start(tmp_path) as recording:
        assert recording.folder.run().state == RunState.RUNNING
    assert recording.folder.run().state == RunState.DONE
    with pytest.raises(EngineCrashed), start(tmp_path) as recording:
        raise EngineCrashed("it died")
    assert (recording.folder.run().state, recording.folder.run().error) == (RunState.FAILED, "it died")
    with pytest.raises(KeyboardInterrupt), start(tmp_path) as recording:
        raise KeyboardInterrupt
    assert recording.folder.run().state == RunState.INTERRUPTED


def test_each_launch_has_its_facts_and_a_second_try_replaces_the_first(tmp_path: Path) -> None:
    with start(tmp_path) as recording:
        for one in (facts("a", 1, launch_s=1.0), facts("a", 2, launch_s=2.0), facts("a", 2, launch_s=3.0)):
            recording.add_engine(one)
        assert [(one.block, one.launch_s) for one in recording.run.engines] == [(1, 1.0), (2, 3.0)]


def test_what_a_full_disk_refused_is_written_as_soon_as_there_is_room(tmp_path: Path) -> None:
    with start(tmp_path) as opened:
        folder = FullDisk(opened.folder.path)
        recording = Recording(folder, opened.run)
        recording.add_cell(cell(1))
        folder.is_full = True
        recording.add_cell(cell(2))
        recording.add_note("while it was full")
        folder.is_full = False
        recording.add_cell(cell(3))
        recording.settle()
        assert [one.repeat for one in folder.cells()] == [1, 2, 3]
        assert recording.cells == list(folder.cells())
        assert "while it was full" in folder.run().notes


def test_a_disk_that_stays_full_is_an_error_that_counts_what_is_lost(tmp_path: Path) -> None:
    with start(tmp_path) as opened:
        folder = FullDisk(opened.folder.path)
        recording = Recording(folder, opened.run)
        recording.add_cell(cell(1))
        folder.is_full = True
        recording.add_cell(cell(2))
        with pytest.raises(UsageError, match="1 cells are lost") as caught:
            recording.settle()
        assert "No space left" in caught.value.message
        folder.is_full = False
        assert [one.repeat for one in folder.cells()] == [1], "what was written before stays readable"


def test_a_run_is_gone_on_with_as_it_is_when_nobody_else_holds_it(tmp_path: Path) -> None:
    """And not as it was when it was first looked at: another process may have gone on with it in between."""
    with start(tmp_path) as recording:
        folder, early = recording.folder, recording.run
        recording.add_note("written later")
    with kept(Recording(folder, early)):
        pass
    assert "written later" in folder.run().notes


@pytest.mark.parametrize(
    "asked",
    [
        ["bench", "--url", "http://127.0.0.1:1", "--model", "Qwen/Qwen2.5-1.5B-Instruct"],
        ["tune", "--model", "qwen2.5-1.5b", "--slo", "ttft:p95<500ms"],
        ["compare", "--candidate", "./my presets/rtx4090.toml"],
    ],
)
def test_the_command_of_a_run_is_what_was_asked_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    """Whatever names the model inside: the report tells to say this again."""
    monkeypatch.setattr("sys.argv", ["/somewhere/harness", *asked])
    with start(tmp_path) as recording:
        assert shlex.split(recording.run.command) == ["harness", *asked]
