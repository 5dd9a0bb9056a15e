"""`harness tune` on a disk that is full at any moment: an error in words, and `--resume` goes on when there is room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.records import Cell, DefenceLaunch, Record, RunState, Trial
from harness.store import CUT_OFF, RunFolder
from tests.e2e.conftest import Ended

SIMULATED = ("tune", "--gpu", "rtx4090", "--engine", "simulated", "--users", "1,8", "--trials", "2")
CAN_MOUNT = (
    os.geteuid() == 0
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
)
NO_MOUNT = 99
SCRIPT = """
disk=$1 place=$2 size=$3 out=$4; shift 4
mkdir -p "$disk/$place"
mount -t tmpfs -o size="$size" none "$disk/$place" || exit 99
cd "$out"
"$@" >first.out 2>first.err; echo $? >first.code
cp -r "$disk" after-first
mount -o remount,size=1g,nr_inodes=100k none "$disk/$place"
run=$(basename "$(ls -d "$disk"/results/*-tune-*)")
set -- "$PYTHON" -m harness tune --resume "$run" --results "$disk/results" --out "$disk/reports" --json
"$@" >second.out 2>second.err; echo $? >second.code
cp -r "$disk" after-second
"""
pytestmark = [
    pytest.mark.skipif(not CAN_MOUNT, reason="a file system of our own takes root and Linux's unshare"),
    pytest.mark.timeout(400),
]


class Twice(NamedTuple):
    """A search on a disk that was too small, and how it went on when there was room."""

    first: Ended
    second: Ended
    before: RunFolder
    after: RunFolder


FullDisk = Callable[..., Twice]


@pytest.fixture
def full_disk(tmp_path: Path, environment: dict[str, str]) -> FullDisk:
    """`harness WORDS` with a file system of `size` at `place`, then --resume where that is larger."""

    def run(*words: str | Path, size: str, place: str = ".") -> Twice:
        disk, out = tmp_path / "disk", tmp_path / "out"
        out.mkdir()
        argv = [sys.executable, "-m", "harness", *words, "--results", disk / "results", "--out", disk / "reports"]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", SCRIPT, "sh", disk, place, size, out, *argv, "--json"],
            cwd=tmp_path,
            env={**environment, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=380,
            check=False,
        )
        if done.returncode == NO_MOUNT:
            pytest.skip("this container may not mount")
        ended = [
            Ended(
                int((out / f"{name}.code").read_text()),
                *((out / f"{name}.{end}").read_text() for end in ("out", "err")),
            )
            for name in ("first", "second")
        ]
        folders = [
            RunFolder(next((out / f"after-{name}" / "results").glob("*-tune-*"))) for name in ("first", "second")
        ]
        return Twice(ended[0], ended[1], folders[0], folders[1])

    return run


def kept(records: tuple[Trial, ...] | tuple[DefenceLaunch, ...], later: tuple[Record, ...]) -> bool:
    """Whether all of them are there later, as they were."""
    return all(one in later for one in records)


def counted(cells: tuple[Cell, ...]) -> list[Cell]:
    return [cell for cell in cells if not cell.role.endswith(CUT_OFF)]


# From the first cell to the defence: the records of a cell take some 100 kB, and a trial has six cells.
@pytest.mark.parametrize("size", ["40k", "2300k", "3900k"])
def test_a_search_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(full_disk: FullDisk, size: str) -> None:
    found = full_disk(*SIMULATED, size=size)
    assert found.first.code == 2, found.first.stderr
    assert "Traceback" not in found.first.stderr + found.second.stderr
    error = found.first.json["error"]
    assert "could not be written: No space left on device" in error["message"]
    assert "/disk/results/" in error["message"], "which disk"
    assert "make room on that disk" in error["hint"]
    assert f"harness tune --resume {found.before.id}" in error["hint"]
    assert not list(found.before.path.rglob("*.tmp"))
    assert found.second.code == 0, found.second.stderr
    assert kept(found.before.trials(), found.after.trials())
    assert kept(found.before.defence(), found.after.defence())
    assert [trial.number for trial in found.after.trials()] == [0, 1, 2]
    assert all(cell.state == "MEASURED" for cell in counted(found.after.cells()))
    assert found.after.run().state == RunState.DONE
    assert found.after.run().error == ""
    lost = len(found.after.cells()) - len(counted(found.after.cells()))
    assert lost <= 6, "no more than the launch under way is measured again"


def test_a_preset_that_finds_no_room_is_written_by_the_resumed_run(full_disk: FullDisk) -> None:
    found = full_disk(*SIMULATED, "--no-defence", size="4k,nr_inodes=2", place="results/simulated")
    assert found.first.code == 2, found.first.stderr
    assert "No space left on device" in found.first.json["error"]["message"]
    assert not list(found.before.path.parent.rglob("*.toml"))
    assert found.second.code == 0, found.second.stderr
    assert found.before.trials() == found.after.trials(), "nothing is measured again"
    assert found.before.cells() == found.after.cells()
    assert len(list(found.after.path.parent.rglob("*.toml"))) == 1


def test_a_report_that_finds_no_room_is_said_with_the_way_to_it(full_disk: FullDisk) -> None:
    found = full_disk(*SIMULATED, "--no-defence", size="16k", place="reports")
    assert found.first.code == 2, found.first.stderr
    error = found.first.json["error"]
    assert "reports" in error["message"]
    assert f"harness report {found.before.id}" in error["hint"]
    assert found.before.run().state == RunState.DONE
    assert found.second.code == 0, found.second.stderr
    assert found.before.trials() == found.after.trials(), "nothing is measured again"
