"""`harness tune` as a user types it, against a fake of vLLM and against the simulation."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import wait_for

Harness = Callable[..., Any]


@pytest.fixture
def tune_words(small_scenario: Path, fake_vllm_python: Path) -> list[str]:
    """A search of a few seconds a trial, whose winner is taken at its word."""
    return [
        "tune", "--gpu", "cpu", "--scenario", str(small_scenario), "--users", "1,8", "--repeats", "2",
        "--vllm-python", str(fake_vllm_python), "--no-defence", "--json",
    ]  # fmt: skip


@pytest.fixture
def simulated_words() -> list[str]:
    """A search that launches nothing."""
    return ["tune", "--gpu", "rtx4090", "--engine", "simulated", "--users", "1,50", "--repeats", "2"]


def test_tune_finds_what_is_faster_and_compare_runs_with_it(
    harness: Harness, tune_words: list[str], small_scenario: Path, fake_vllm_python: Path, tmp_path: Path
) -> None:
    """The fake runs `max-num-seqs` requests at once, 4 by default; the ladder begins at 16: all candidates win."""
    ended = harness(*tune_words, "--trials", "2")
    assert ended.code == 0, ended.stderr
    document = ended.json
    assert {"run", "cells", "trials", "baseline", "best", "preset", "report"} <= set(document)
    assert [trial["number"] for trial in document["trials"]] == [0, 1, 2]
    assert document["baseline"]["flags"] == {}
    assert set(document["best"]["flags"]) >= {"max-num-batched-tokens", "max-num-seqs", "max-model-len"}
    assert document["best"]["objective"]["low"] > 1.1
    assert not document["best"]["is_default"]
    assert Path(tmp_path, document["preset"]).is_file()
    assert Path(tmp_path, document["report"]).is_file()
    assert " left]" in ended.stderr

    ended = harness(
        "compare", "--baseline", "vllm", "--gpu", "cpu", "--scenario", small_scenario, "--users", "8",
        "--repeats", "2", "--tier", "equal", "--precision", "90%", "--vllm-python", fake_vllm_python, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    found = ended.json
    rows = {(row["metric"], row["users"]): row for row in found["comparisons"]}
    assert {"metric", "users", "ratio", "verdict", "target", "met", "reason"} <= set(rows["output_tok_s", 8])
    launches = dict.fromkeys((cell["block"], cell["role"]) for cell in found["cells"])
    assert list(launches) == [(1, "baseline"), (1, "candidate"), (2, "candidate"), (2, "baseline")]
    assert found["tier"] == "equal"
    assert found["manifest"]["faults"] == []
    contexts = [side["context_tokens"] for side in found["manifest"]["sides"]]
    assert contexts == [document["best"]["flags"]["max-model-len"]] * 2, "the equal tier gives both the same context"
    assert any("Sequences computed at a time" in one for one in found["manifest"]["differences"])
    assert rows["output_tok_s", 8]["verdict"] == "FASTER"
    assert rows["output_tok_s", 8]["ratio"]["low"] > 1.1
    assert found["precision"]["asked_ratio"] == 0.9
    assert found["precision"]["is_reached"]
    compared = tmp_path / "results" / found["run"]
    assert json.loads((compared / "run.json").read_text())["tuned_in"] == document["run"]
    assert (compared / "trials.jsonl").is_file(), "the page of a comparison is made from its own folder alone"


def test_the_best_of_a_search_is_measured_again_in_turns_with_the_defaults(
    harness: Harness, simulated_words: list[str]
) -> None:
    ended = harness(*simulated_words, "--trials", "2", "--json")
    assert ended.code == 0, ended.stderr
    document, defence = ended.json, ended.json["defence"]
    assert defence["is_done"]
    roles = dict.fromkeys((cell["role"], cell["block"]) for cell in document["cells"] if "final" in cell["role"])
    if defence["finalists"]:
        final = f"final trial {defence['finalists'][0]}"
        assert list(roles) == [("final baseline", 1), (final, 1), (final, 2), ("final baseline", 2)]
    assert document["best"]["is_default"] == (defence["winner"] is None)
    assert defence["reason"] in ended.stderr


def test_a_simulated_search_needs_no_engine_and_says_so_everywhere(
    harness: Harness, simulated_words: list[str], tmp_path: Path
) -> None:
    ended = harness(*simulated_words, "--trials", "1", "--json")
    assert ended.code == 0, ended.stderr
    document = ended.json
    assert document["is_simulated"]
    assert all(cell["is_simulated"] for cell in document["cells"])
    assert any("imulated" in note for note in document["notes"])
    preset = Path(tmp_path, document["preset"])
    assert "is_simulated = true" in preset.read_text()
    assert not list(tmp_path.glob("results/presets/**/*.toml")), "no other command takes it for a measured one"
    assert "imulated" in Path(tmp_path, document["report"]).read_text()


def test_a_simulated_search_keeps_its_budget_in_virtual_time(harness: Harness, simulated_words: list[str]) -> None:
    ended = harness(*simulated_words, "--objective", "throughput,latency", "--budget", "30m", "--json")
    assert ended.code == 0, ended.stderr
    document = ended.json
    assert 0 in document["front"] or document["front"]
    launches = dict.fromkeys((cell["role"], cell["block"]) for cell in document["cells"])
    assert len(launches) > 4
    assert "of 30 min 00 s are spent" in ended.stderr


def test_limits_that_nobody_can_keep_are_said_with_the_nearest(harness: Harness, simulated_words: list[str]) -> None:
    ended = harness(*simulated_words, "--slo", "ttft:p95<1us", "--trials", "1", "--no-defence", "--json")
    assert ended.code == 0, ended.stderr
    assert any("No settings kept" in note and "ttft:p95<1us" in note for note in ended.json["notes"])


def test_a_search_that_is_killed_goes_on_where_it_was(
    harness: Harness, simulated_words: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    words = [sys.executable, "-m", "harness", *simulated_words, "--trials", "3"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        trials = wait_for(lambda: next(tmp_path.glob("results/*/trials.jsonl"), None))
        wait_for(lambda: len(trials.read_text().splitlines()) >= 2)
        child.kill()
        child.communicate(timeout=60)
    before = trials.read_text()
    ended = harness("tune", "--resume", trials.parent.name, "--json")
    assert ended.code == 0, ended.stderr
    assert trials.read_text().startswith(before[: before.rfind("\n") + 1])
    assert [trial["number"] for trial in ended.json["trials"]] == [0, 1, 2, 3]
    assert ended.json["defence"]["is_done"]


def test_a_context_that_does_not_fit_is_learned_and_never_asked_again(harness: Harness, tune_words: list[str]) -> None:
    """The baseline, 8192 by default, does not start: it is mended with what the engine said would fit."""
    ended = harness(*tune_words, "--trials", "3", env={"FAKE_VLLM_FITS": "600"})
    assert ended.code == 0, ended.stderr
    document = ended.json
    assert document["baseline"]["flags"] == {"max-model-len": 512}
    assert all(trial["flags"]["max-model-len"] <= 600 for trial in document["trials"])


def test_a_candidate_that_crashes_is_a_result_and_not_a_zero(harness: Harness, tune_words: list[str]) -> None:
    ended = harness(*tune_words, "--trials", "1", env={"FAKE_VLLM_CRASHES_AT": "16"})
    assert ended.code == 0, ended.stderr
    trial = ended.json["trials"][1]
    assert trial["outcome"] == "crashed"
    assert trial["objective"] is None
    assert trial["constraints"]
    assert "an internal error of the fake engine" in trial["reason"]
    assert ended.json["best"]["is_default"]


def test_one_repeat_is_refused_before_anything_is_measured(harness: Harness, tune_words: list[str]) -> None:
    ended = harness("compare", "--baseline", "vllm", "--gpu", "cpu", "--repeats", "1", "--blocks", "1")
    assert ended.code == 2
    assert "two repeats" in ended.stderr


def test_a_baseline_that_fails_twice_stops_the_study_with_the_log(harness: Harness, tune_words: list[str]) -> None:
    ended = harness(*tune_words, "--trials", "1", env={"FAKE_VLLM_BASELINE_FAILS": "1"})
    assert ended.code == 3, ended.stderr
    assert "the defaults of the fake engine never start" in ended.stderr
    assert ".log" in ended.stderr


def test_an_interrupted_search_keeps_its_trials_and_goes_on(
    harness: Harness, tune_words: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    words = [sys.executable, "-m", "harness", *tune_words, "--trials", "3"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        trials = wait_for(lambda: next(tmp_path.glob("results/*/trials.jsonl"), None))
        wait_for(lambda: len(trials.read_text().splitlines()) >= 2 and list(tmp_path.glob("results/*/engine-trial-2*")))
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "--resume" in said
    (folder,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    assert json.loads((folder / "run.json").read_text())["state"] == "INTERRUPTED"
    assert not processes_below(folder), "an engine outlived its harness"
    before = trials.read_text()

    ended = harness("tune", "--resume", folder.name, "--trials", "3", "--json")
    assert ended.code == 0, ended.stderr
    assert trials.read_text().startswith(before), "a resumed search must keep what it had"
    assert [trial["number"] for trial in ended.json["trials"]] == [0, 1, 2, 3]
    tried = [json.dumps(trial["flags"], sort_keys=True) for trial in ended.json["trials"]]
    assert len(set(tried)) == len(tried)


def processes_below(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder's model cache: engines of this test."""
    mine = str(folder.parents[1])
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mine in line and int(entry.name) != os.getpid():
            found.append(line)
    return found
