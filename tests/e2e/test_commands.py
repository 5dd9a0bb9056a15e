"""Whole commands as a user types them, against engines that are real processes of known behaviour."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records import RunState
from harness.store import RunFolder
from tests.e2e.conftest import wait_for

Harness = Callable[..., Any]


def test_bench_answers_as_the_contract_says(harness: Harness, small_scenario: Path) -> None:
    words = ["bench", "--engine", "reference", "--scenario", str(small_scenario), "--gpu", "cpu", "--users", "8"]
    ended = harness(*words, "--json")
    assert ended.code == 0, ended.stderr
    document = ended.json
    assert set(document) == {"run", "cells"}
    assert [cell["repeat"] for cell in document["cells"]] == [1, 2, 3], "one cell tells nothing of the next"
    cell = document["cells"][0]
    assert {"engine", "model", "scenario", "users", "repeat", "state", "reasons", "requests", "failures"} <= set(cell)
    assert cell["state"] == "MEASURED"
    assert cell["failures"] == 0
    assert set(cell["metrics"]) == {"ttft_s", "itl_s", "tpot_s", "e2e_s", "output_tok_s"}
    ttft = cell["metrics"]["ttft_s"]["p50"]
    assert {"value", "low", "high", "n"} <= set(ttft)
    assert 0.2 <= ttft["value"] < 0.3
    assert 0.018 < cell["metrics"]["itl_s"]["p50"]["value"] < 0.03


def test_bench_speaks_to_a_server_that_already_runs(harness: Harness, small_scenario: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "harness.engines.reference", "--port", "0", "--ttft-s", "0.01", "--itl-s", "0.005"],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as server:  # fmt: skip
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        ended = harness(
            "bench", "--url", url, "--api", "ollama", "--model", "reference", "--scenario", small_scenario,
            "--gpu", "cpu", "--users", "1", "--repeats", "1", "--json",
        )  # fmt: skip
        assert server.poll() is None, "a server that we did not start was stopped"
        server.terminate()
    assert ended.code == 0, ended.stderr
    assert ended.json["cells"][0]["requests"] >= 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench"], "name either --engine or --url"),
        (["bench", "--engine", "vlm"], "vlm"),
        (["bench", "--engine", "reference", "--users", "0"], "users go from 1"),
        (["bench", "--engine", "reference", "--scenario", "concurent"], "concurrent"),
        (["tune", "--gpu", "rtx4091"], "rtx4090"),
        (["tune", "--gpu", "cpu", "--model", "smollm"], "smollm2-135m"),
        (["tune", "--gpu", "cpu", "--budget", "soon"], "not a duration"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--budget", "45s"], "takes about"),
        (["tune", "--gpu", "rtx4060", "--engine", "simulated", "--model", "llama-3.1-8b"], "what would fit"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--objective", "goodput"], "--slo"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--slo", "ttft:p95<5"], "no unit"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--objective", "speed"], "balanced"),
        (["tune", "--engine", "simulated"], "--gpu"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--trials", "99999999999999999999"], "--trials"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--budget", "99999999h"], "longer than a year"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--model", ""], "no model is called ''"),
        (["tune", "--gpu", "rtx4090", "--engine", "simulated", "--objective", ""], "no objective is called ''"),
        (["tune", "--gpu", "cpu", "--allow", "everything"], "kv-fp8"),
        (["tune", "--resume", "nothing"], "no run called"),
        (["tune", "--resume", "x", "--users", "1"], "--users"),
        (["report", "nothing"], "no run called"),
        (["models", "fetch", "smollm"], "smollm2-135m"),
        (["compare"], "--baseline"),
        (["compare", "--baseline", "llamacpp", "--precision", "3"], "not a share such as 3%"),
        (["compare", "--baseline", "llamacpp", "--budget", "5m"], "--precision 3%"),
        (["compare", "--baseline", "vllm", "--tuned-baseline"], "harness tune"),
        (["compare", "--baseline", "vllm", "--baseline-weights", "q8_0"], "not vLLM"),
        (["compare", "--baseline", "llamacpp", "--tier", "equal", "--slots", "4"], "leave it out"),
        (["compare", "--baseline", "ollama", "--tier", "equal", "--ollama-url", "http://127.0.0.1:9"], "runs already"),
        (["bench", "--engine", "reference", "--rates", "1,2"], "no load of requests per second"),
        (["bench", "--engine", "reference", "--rates", "0"], "rates are over 0"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_of_the_user_exits_with_2_and_helps(harness_here: Harness, words: list[str], said: str) -> None:
    ended = harness_here(*words)
    assert ended.code == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_mistake_is_the_exit_code_of_the_process(harness: Harness) -> None:
    ended = harness("bench", "--engine", "vlm")
    assert (ended.code, ended.stdout) == (2, "")
    assert "vlm" in ended.stderr


def test_no_ollama_exits_with_3_and_names_both_ways_on(harness: Harness) -> None:
    empty_path = str(Path(sys.executable).parent)
    ended = harness("compare", "--baseline", "ollama", "--gpu", "cpu", "--json", env={"PATH": empty_path})
    assert ended.code == 3, ended.stderr
    assert "ollama.com" in ended.stderr
    assert "--baseline llamacpp" in ended.stderr
    assert ended.json["error"]["exit_code"] == 3


def test_no_vllm_exits_with_3_and_says_how_to_install_it(harness: Harness) -> None:
    ended = harness("tune", "--gpu", "cpu", "--vllm-python", sys.executable)
    assert ended.code == 3, ended.stderr
    assert "pip install vllm" in ended.stderr


def test_a_damaged_run_exits_with_5(harness: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "broken"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"version": 1, "id"')
    ended = harness("report", "broken")
    assert ended.code == 5, ended.stderr
    assert "run.json" in ended.stderr


def test_figures_that_cannot_be_trusted_are_one_document_with_the_error_in_it(harness: Harness, tmp_path: Path) -> None:
    brief = tmp_path / "brief.toml"
    brief.write_text(
        'name = "brief"\ntitle = "over at once"\n[workload]\nprompt_words = 1\noutput_tokens = 1\nis_streamed = true\n'
        "[load]\nusers = [2]\nrequests_per_user = 1\nmin_requests = 1\nmin_s = 0.1\nmax_s = 5\n"
    )
    ended = harness("bench", "--engine", "reference", "--gpu", "cpu", "--scenario", brief, "--repeats", "1", "--json")
    assert ended.code == 4, ended.stderr
    assert ended.json["error"]["exit_code"] == 4
    assert ended.json["cells"][0]["state"] == "INVALID"


def test_a_run_is_written_by_one_process_at_a_time(harness: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "held"
    folder.mkdir(parents=True)
    assert harness("bench", "--engine", "reference", "--gpu", "cpu", "--users", "1", "--repeats", "1").code == 0
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    run.joinpath("plan.json").write_text("{}")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"), RunFolder(run).locked():
            pass


def test_sigterm_stops_a_run_that_a_script_started_in_the_background(
    tmp_path: Path, environment: dict[str, str], small_scenario: Path
) -> None:
    """A shell's `&` ignores SIGINT for what it starts; a polite end must work all the same."""
    words = f"{sys.executable} -m harness bench --engine reference --gpu cpu --scenario {small_scenario} --repeats 20"
    with subprocess.Popen(
        ["sh", "-c", f"{words} & echo $!; wait $!"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as shell:  # fmt: skip
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        run = wait_for(lambda: next(tmp_path.glob("results/*/cells.jsonl"), None)).parent / "run.json"
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: json.loads(run.read_text())["state"] == "INTERRUPTED")
        _, said = shell.communicate(timeout=60)
    assert shell.returncode == 130, said


def test_a_bench_whose_engine_never_got_ready_is_a_failed_run_that_says_why(
    harness: Harness, small_scenario: Path, fake_vllm_python: Path, tmp_path: Path
) -> None:
    """Its folder stays, for the log is in it; its page and the list of reports call it what it is."""
    ended = harness(
        "bench", "--engine", "vllm", "--gpu", "cpu", "--scenario", small_scenario, "--vllm-python", fake_vllm_python,
        env={"FAKE_VLLM_BASELINE_FAILS": "1"},
    )  # fmt: skip
    assert ended.code == 3, ended.stderr
    (folder,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    run = RunFolder(folder).run()
    assert (run.state, RunFolder(folder).cells()) == (RunState.FAILED, ())
    assert "never start" in run.error
    assert list(folder.glob("engine-*.log"))
    reported = harness("report", folder.name)
    assert reported.code == 0
    assert f"{folder.name}: FAILED, with 0 cells: {run.error}" in reported.stderr
    page, listed = (tmp_path / "reports" / name for name in (f"{folder.name}.html", "index.html"))
    assert "This run failed" in page.read_text()
    assert "never start" in page.read_text()
    assert "failed" in listed.read_text()


def test_an_engine_that_dies_under_load_exits_with_3_and_keeps_the_cell(
    harness: Harness, small_scenario: Path, fake_vllm_python: Path, tmp_path: Path
) -> None:
    ended = harness(
        "bench", "--engine", "vllm", "--gpu", "cpu", "--scenario", small_scenario, "--users", "8",
        "--repeats", "3", "--vllm-python", fake_vllm_python, "--json", env={"FAKE_VLLM_DIES_AFTER_S": "2.5"},
    )  # fmt: skip
    assert ended.code == 3, ended.stderr
    (cells,) = tmp_path.glob("results/*/cells.jsonl")
    assert json.loads(cells.read_text().splitlines()[-1])["state"] == "FAILED"
    (run,) = tmp_path.glob("results/*/run.json")
    assert json.loads(run.read_text())["state"] == "FAILED"


def test_an_engine_that_dies_once_is_started_again_for_the_cells_that_are_left(
    harness: Harness, small_scenario: Path, fake_vllm_python: Path, tmp_path: Path
) -> None:
    ended = harness(
        "bench", "--engine", "vllm", "--gpu", "cpu", "--scenario", small_scenario, "--users", "8", "--repeats", "3",
        "--vllm-python", fake_vllm_python, "--json",
        env={"FAKE_VLLM_DIES_AFTER_S": "2.5", "FAKE_VLLM_DIES_ONCE": str(tmp_path / "died")},
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    states = [cell["state"] for cell in ended.json["cells"]]
    assert len(states) == 3
    assert states.count("FAILED") == 1
    assert states[-1] == "MEASURED"
    run = json.loads((tmp_path / "results" / ended.json["run"] / "run.json").read_text())
    assert run["state"] == "DONE"
    assert any("died and was started again" in note for note in run["notes"])


def test_an_open_loop_is_measured_at_the_rates_that_were_asked_for(harness: Harness, tmp_path: Path) -> None:
    opened = tmp_path / "opened.toml"
    opened.write_text(
        'name = "opened"\ntitle = "as they come"\n[workload]\nprompt_words = 4\noutput_tokens = 4\nis_streamed = true\n'
        '[load]\nkind = "open"\nrates_per_s = [1.0]\narrivals = "constant"\nduration_s = 3\nwarmup_s = 1\n'
    )
    ended = harness(
        "bench", "--engine", "reference", "--gpu", "cpu", "--scenario", opened, "--rates", "4,8", "--repeats", "1",
        "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    cells = ended.json["cells"]
    assert [(cell["users"], cell["rate_per_s"]) for cell in cells] == [(0, 4.0), (0, 8.0)]
    assert [cell["requests"] for cell in cells] == [12, 24]
    assert all(cell["state"] == "MEASURED" for cell in cells), [cell["reasons"] for cell in cells]
