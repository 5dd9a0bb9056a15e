"""A run on disk: what a kill leaves behind, what is refused, what is found."""

import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from harness.errors import DiskFull, ResultsUnreadable, UsageError
from harness.records import Cell, CellState, DefenceLaunch, Host, Outcome, Run, RunState, TelemetrySample, Trial
from harness.store import CUT_OFF, RESULTS_VERSION, RunFolder, find_run, new_run_id, on_disk, replace


def run_record(run_id: str = "r", *, version: int = RESULTS_VERSION) -> Run:
    return Run(
        version=version,
        id=run_id,
        command="harness bench",
        kind="bench",
        state=RunState.RUNNING,
        started_utc="2026-11-22T10:00:00+00:00",
        harness_version="0.1",
        host=Host(cpu="any", cores=2, memory_bytes=1, os="Linux", python="3.11"),
        gpu="cpu",
        model="m",
        seed=1,
    )


def cell(repeat: int = 1, *, role: str = "bench") -> Cell:
    return Cell(
        engine="vllm",
        title="vLLM",
        role=role,
        model="m",
        scenario="sequential",
        users=1,
        repeat=repeat,
        state=CellState.MEASURED,
    )


def trial(number: int = 0) -> Trial:
    return Trial(number=number, flags={"max-num-seqs": 64, "enforce-eager": True}, outcome=Outcome.MEASURED)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "r").create()


def written(results: Path, *names: str) -> None:
    """Run folders of these names, with no more than a run.json."""
    for name in names:
        RunFolder(results / name).create().write_run(run_record(name))


# ---------------------------------------------------------------- a disk that takes no more


@pytest.fixture
def no_more_than() -> Iterator[Callable[[int], None]]:
    """Sets the most bytes that a file of this process may grow to, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, no_more_than: Callable[[int], None]) -> None:
    replace(tmp_path / "run.json", b"old")
    no_more_than(1000)
    with pytest.raises(OSError, match="File too large"):
        replace(tmp_path / "run.json", b"n" * 2000)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("run.json", b"old")]


def fill(folder: RunFolder) -> None:
    while True:
        folder.append_trial(trial())


def test_a_full_disk_is_named_although_the_system_does_not(
    folder: RunFolder, no_more_than: Callable[[int], None]
) -> None:
    no_more_than(1000)
    why = f"^{re.escape(str(folder.path))} could not be written: File too large"
    with pytest.raises(DiskFull, match=why), on_disk(folder.path):
        fill(folder)
    assert all(one == trial() for one in folder.trials()), "half a line is no trial"


def test_other_errors_of_the_system_are_no_full_disk(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError), on_disk(folder.path):
        (folder.path / "nothing").read_bytes()


# ---------------------------------------------------------------- lines


def test_what_is_appended_is_read_back_in_order(folder: RunFolder) -> None:
    for repeat in (1, 2, 3):
        folder.append_cell(cell(repeat))
    folder.append_trial(trial(0))
    folder.append_trial(trial(1))
    assert folder.cells() == (cell(1), cell(2), cell(3))
    assert folder.trials() == (trial(0), trial(1))


def test_a_run_that_has_measured_nothing_has_no_cells(folder: RunFolder) -> None:
    assert folder.cells() == ()
    assert folder.trials() == ()


@pytest.mark.parametrize("kept_bytes", [1, 20, -1])
def test_half_a_line_that_a_killed_run_left_is_not_read(folder: RunFolder, kept_bytes: int) -> None:
    folder.append_cell(cell(1))
    with (folder.path / "cells.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(cell(2))[:kept_bytes])
    assert folder.cells() == (cell(1),)


@pytest.mark.parametrize("kept_bytes", [1, 20, -1])
def test_the_next_line_takes_the_place_of_half_a_line(folder: RunFolder, kept_bytes: int) -> None:
    folder.append_cell(cell(1))
    with (folder.path / "cells.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(cell(2))[:kept_bytes])
    folder.append_cell(cell(3))
    folder.append_cell(cell(4))
    assert folder.cells() == (cell(1), cell(3), cell(4))


def test_half_of_the_very_first_line_is_dropped_as_well(folder: RunFolder) -> None:
    (folder.path / "cells.jsonl").write_bytes(b'{"engine":"vl')
    assert folder.cells() == ()
    folder.append_cell(cell(1))
    assert folder.cells() == (cell(1),)


@pytest.mark.parametrize(
    "damage",
    [b"{}", b"not json", b"", b'{"engine":3}', b'{"engine":"\xff"}', msgspec.json.encode(cell())[:-1] + b',"more":1}'],
    ids=["no fields", "no JSON", "empty", "wrong type", "not UTF-8", "unknown field"],
)
def test_a_damaged_line_is_named_with_its_file_and_number(folder: RunFolder, damage: bytes) -> None:
    folder.append_cell(cell(1))
    with (folder.path / "cells.jsonl").open("ab") as file:
        file.write(damage + b"\n" + msgspec.json.encode(cell(3)) + b"\n")
    with pytest.raises(ResultsUnreadable) as caught:
        folder.cells()
    assert caught.value.message.startswith(f"{folder.path / 'cells.jsonl'}:2: damaged: ")
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_a_line_break_inside_a_text_does_not_break_the_line(folder: RunFolder) -> None:
    two_lines = msgspec.structs.replace(trial(), reason="out of memory\r\nneeds 3 GiB\x0bmore\u2028than there is")
    folder.append_trial(two_lines)
    assert folder.trials() == (two_lines,)


# ---------------------------------------------------------------- run.json


def test_a_run_is_read_as_it_was_written(folder: RunFolder) -> None:
    folder.write_run(run_record())
    assert folder.run() == run_record()
    folder.write_run(msgspec.structs.replace(run_record(), state=RunState.DONE))
    assert folder.run().state == RunState.DONE
    assert [path.name for path in folder.path.glob("run.json*")] == ["run.json"]  # no draft stays


@pytest.mark.parametrize("version", [*range(RESULTS_VERSION), RESULTS_VERSION + 1, None])
def test_results_of_another_version_are_refused_with_both_versions(folder: RunFolder, version: int | None) -> None:
    raw = msgspec.to_builtins(run_record()) | {"version": version, "a_field_of_the_future": 1}
    (folder.path / "run.json").write_bytes(msgspec.json.encode(raw))
    with pytest.raises(ResultsUnreadable, match=f"results of version {version}, this harness reads {RESULTS_VERSION}"):
        folder.run()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version":%d}' % RESULTS_VERSION, b'{"version":"\xff"}'])
def test_a_damaged_run_is_named(folder: RunFolder, damage: bytes) -> None:
    (folder.path / "run.json").write_bytes(damage)
    with pytest.raises(ResultsUnreadable) as caught:
        folder.run()
    assert caught.value.message.startswith(f"{folder.path / 'run.json'}: damaged: ")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsUnreadable, match=r"run\.json: cannot be read: No such file"):
        RunFolder(tmp_path).run()


# ---------------------------------------------------------------- folders and names


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UsageError) as caught:
        RunFolder(tmp_path / "results" / "r").create()
    assert "cannot write to" in caught.value.message
    assert "--results" in caught.value.hint


def test_a_folder_that_is_there_already_is_not_written_over(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match="File exists"):
        folder.create()


def test_a_cell_that_was_cut_off_keeps_its_files(folder: RunFolder) -> None:
    assert folder.free_name("trial-1-concurrent-5-1") == "trial-1-concurrent-5-1"
    (folder.path / "requests" / "trial-1-concurrent-5-1.jsonl").touch()
    assert folder.free_name("trial-1-concurrent-5-1") == "trial-1-concurrent-5-1-try2"
    (folder.path / "requests" / "trial-1-concurrent-5-1-try2.jsonl").touch()
    assert folder.free_name("trial-1-concurrent-5-1") == "trial-1-concurrent-5-1-try3"


def test_telemetry_is_one_sample_a_line(folder: RunFolder) -> None:
    samples = [TelemetrySample(t_s=float(t), engine_rss_bytes=t) for t in range(3)]
    folder.write_telemetry("cell", samples)
    lines = (folder.path / "telemetry" / "cell.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=TelemetrySample) for line in lines] == samples


def test_runs_of_one_second_get_names_of_their_own(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        name = new_run_id(tmp_path, kind="bench", model="m", gpu="cpu", stamp="20261122T100000Z")
        RunFolder(tmp_path / name).create()
        names.append(name)
    assert names == [f"20261122T100000Z-bench-m-cpu{end}" for end in ("", "-2", "-3")]


def test_a_run_id_is_a_plain_folder_name_whatever_the_model_is_called(tmp_path: Path) -> None:
    name = new_run_id(tmp_path, kind="bench", model="../Qwen/Qwen2.5 1.5B:é", gpu="cpu", stamp="s")
    assert name == "s-bench-..-Qwen-Qwen2.5-1.5B--cpu"
    assert (tmp_path / name).parent == tmp_path


# ---------------------------------------------------------------- find_run


def test_a_run_is_found_by_its_id_a_unique_start_or_its_folder(tmp_path: Path) -> None:
    written(tmp_path, "20260101-bench", "20260202-tune")
    assert find_run(tmp_path, "20260101-bench").path == tmp_path / "20260101-bench"
    assert find_run(tmp_path, "202602").id == "20260202-tune"
    assert find_run(tmp_path / "elsewhere", str(tmp_path / "20260202-tune")).id == "20260202-tune"
    assert find_run(tmp_path, f"{tmp_path / '20260202-tune'}/").id == "20260202-tune"


def test_a_whole_id_is_found_though_others_begin_with_it(tmp_path: Path) -> None:
    written(tmp_path, "a-run", "a-run-2")
    assert find_run(tmp_path, "a-run").id == "a-run"


def test_a_start_of_several_runs_is_refused_with_their_names(tmp_path: Path) -> None:
    written(tmp_path, "a-run-1", "a-run-2", "b-run")
    with pytest.raises(UsageError, match="'a-run' begins 2 runs") as caught:
        find_run(tmp_path, "a-run")
    assert caught.value.hint == "which one? a-run-1, a-run-2"


def test_an_unknown_run_is_refused_with_the_newest_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, "x")
    assert caught.value.hint == "there are no runs yet"
    written(tmp_path, *(f"run-{number}" for number in range(7)))
    with pytest.raises(UsageError) as caught:
        find_run(tmp_path, "x")
    assert caught.value.hint == "the newest are run-2, run-3, run-4, run-5, run-6"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_says_nothing_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    written(tmp_path, "only")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        find_run(tmp_path, name)


def test_the_folder_one_stands_in_is_a_run_with_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "here")
    monkeypatch.chdir(tmp_path / "here")
    assert find_run(Path("results"), ".").id == "here"


# ---------------------------------------------------------------- cells of a trial that was cut off


def test_cells_of_a_trial_that_did_not_end_are_set_aside(folder: RunFolder) -> None:
    for role in ("baseline", "trial 1", "trial 2"):
        folder.append_cell(cell(role=role))
    folder.set_aside_cells(whole_roles=["baseline", "trial 1"])
    assert [c.role for c in folder.cells()] == ["baseline", "trial 1", f"trial 2{CUT_OFF}"]


def test_setting_aside_twice_changes_nothing_more(folder: RunFolder) -> None:
    folder.append_cell(cell(role="trial 2"))
    folder.set_aside_cells(whole_roles=[])
    once = folder.cells()
    folder.set_aside_cells(whole_roles=[])
    assert folder.cells() == once


def test_the_trial_measured_anew_is_not_mixed_with_its_cells_that_were_cut_off(folder: RunFolder) -> None:
    folder.append_cell(cell(1, role="trial 2"))
    folder.set_aside_cells(whole_roles=["baseline"])
    folder.append_cell(cell(2, role="trial 2"))
    folder.set_aside_cells(whole_roles=["baseline", "trial 2"])
    assert [(c.role, c.repeat) for c in folder.cells()] == [(f"trial 2{CUT_OFF}", 1), ("trial 2", 2)]


def test_cells_are_set_aside_by_their_launch_too(folder: RunFolder) -> None:
    folder.append_cell(msgspec.structs.replace(cell(role="final trial 1"), block=1))
    folder.append_cell(msgspec.structs.replace(cell(role="final trial 1"), block=2))
    folder.set_aside(lambda one: one.block == 2)
    assert [(c.role, c.block) for c in folder.cells()] == [("final trial 1", 1), (f"final trial 1{CUT_OFF}", 2)]


def test_launches_of_the_defence_are_read_as_they_were_written(folder: RunFolder) -> None:
    launch = DefenceLaunch(
        stage="finals", round=1, role="final baseline", block=1, flags={}, outcome=Outcome.MEASURED, wall_s=9.0
    )
    assert folder.defence() == ()
    folder.append_defence(launch)
    assert folder.defence() == (launch,)


def test_setting_aside_heals_half_a_line(folder: RunFolder) -> None:
    folder.append_cell(cell(role="baseline"))
    with (folder.path / "cells.jsonl").open("ab") as file:
        file.write(b'{"engine"')
    folder.set_aside_cells(whole_roles=["baseline"])
    assert (folder.path / "cells.jsonl").read_bytes() == msgspec.json.encode(cell(role="baseline")) + b"\n"


def test_setting_aside_in_a_run_without_cells_does_no_harm(folder: RunFolder) -> None:
    folder.set_aside_cells(whole_roles=[])
    assert folder.cells() == ()
