"""A journal that somebody changed is told from one that a kill left behind."""

import json
from pathlib import Path

import pytest

from harness.errors import ResultsUnreadable
from harness.search.audit import Values, is_same, journal_fault
from harness.search.space import key_of
from tests.unit.harness.search.test_study import SMALL, asked, search_in


def told_in(folder: Path, count: int = 4) -> dict[str, Values]:
    """A search of so many candidates, the second of which failed; what the folder's trials would say of them."""
    folder.mkdir(exist_ok=True)
    told: dict[str, Values] = {}

    def value(flags: dict[str, object]) -> float | None:
        found = None if len(told) == 1 else int(str(flags["max-num-seqs"])) / 100
        told[key_of(flags)] = None if found is None else (found,)
        return found

    asked(search_in(folder, space=SMALL), count, value=value)
    return told


def lines_of(folder: Path) -> list[str]:
    return (folder / "study.journal").read_text().splitlines(keepends=True)


def fault(folder: Path, told: dict[str, Values]) -> str:
    return journal_fault(folder / "study.journal", "harness", told)


def test_what_nobody_changed_is_sound(tmp_path: Path) -> None:
    assert fault(tmp_path, told_in(tmp_path)) == ""


def test_a_search_that_was_killed_before_it_began_is_sound(tmp_path: Path) -> None:
    """The file is there, and the study not yet."""
    path = tmp_path / "study.journal"
    path.touch()
    assert journal_fault(path, "harness", {}) == ""
    assert "does not know" in journal_fault(path, "harness", {"{}": None})


def test_no_journal_is_no_fault(tmp_path: Path) -> None:
    assert fault(tmp_path, {"max-num-seqs=16": (0.1,)}) == ""


@pytest.mark.parametrize("kept", range(0, 60, 2))
def test_what_a_kill_leaves_behind_is_sound(tmp_path: Path, kept: int) -> None:
    """The journal ends anywhere; the folder has what was told, and may have the one that was not told yet."""
    told_in(tmp_path / "whole")
    lines = lines_of(tmp_path / "whole")[: 4 + kept]
    (tmp_path / "study.journal").write_text("".join(lines))
    values = [json.loads(line) for line in lines if '"state":' in line and '"values":' in line]
    whole = told_in(tmp_path / "again")
    ended = [one for one in values if one["op_code"] == 6 and one["state"] in (1, 2)]
    told = dict(list(whole.items())[: len(ended)])
    assert fault(tmp_path, told) == ""


def harmless(line: str, last: str) -> bool:
    """Nothing reads it here, or it is written again, or a kill could have kept it from being written."""
    found = json.loads(line)
    return "about" in found.get("user_attr", {}) or "system_attr" in found or line == last


def test_every_line_that_is_missing_is_noticed_where_it_could_change_something(tmp_path: Path) -> None:
    told = told_in(tmp_path)
    lines = lines_of(tmp_path)
    unnoticed = []
    for number, line in enumerate(lines):
        (tmp_path / "study.journal").write_text("".join(lines[:number] + lines[number + 1 :]))
        try:
            noticed = fault(tmp_path, told)
            if not noticed:
                search_in(tmp_path, space=SMALL)
        except ResultsUnreadable as refused:
            noticed = refused.message
        if not noticed and not harmless(line, lines[-1]):
            unnoticed.append(line)
    assert unnoticed == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"values":[0.32]', '"values":[0.9]', "trials.jsonl says 1.377x"),
        ('"max-num-seqs":32', '"max-num-seqs":33', "which trials.jsonl has"),
        ('"state":2', '"state":1', ""),
    ],
)
def test_a_line_that_was_changed_is_noticed(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = told_in(tmp_path)
    text = (tmp_path / "study.journal").read_text()
    assert old in text
    (tmp_path / "study.journal").write_text(text.replace(old, new))
    found = fault(tmp_path, told)
    assert found
    assert said in found


def test_a_candidate_that_the_folder_does_not_have_is_noticed(tmp_path: Path) -> None:
    told = told_in(tmp_path)
    first = next(iter(told))
    assert first in fault(tmp_path, {key: values for key, values in told.items() if key != first})


def test_values_are_the_same_within_what_text_keeps() -> None:
    assert is_same((0.1,), (0.1 + 1e-12,))
    assert not is_same((0.1,), (0.2,))
    assert not is_same(None, (0.1,))
    assert is_same(None, None)
