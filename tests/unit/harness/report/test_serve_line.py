"""The `vllm serve` line names the model as it was asked for."""

import pytest

from harness.records import Flags, Host, Preset, Run, RunState
from harness.report import serve
from harness.store import RESULTS_VERSION


def simulated(command: str) -> Run:
    flags: Flags = {"max-num-seqs": 128}
    found = Preset(
        gpu="rtx4090", model="qwen2.5-1.5b", flags=flags, is_default=False, objective="o", ratio=None, vllm_version="1",
        gpu_title="", run="r", created_utc="", is_simulated=True,
    )  # fmt: skip
    return Run(
        version=RESULTS_VERSION, id="r", command=command, kind="tune", state=RunState.DONE, started_utc="",
        harness_version="", host=Host(cpu="c", cores=2, memory_bytes=1, os="", python=""), gpu="rtx4090",
        model="qwen2.5-1.5b", seed=1, preset=found, is_simulated=True,
    )  # fmt: skip


@pytest.mark.parametrize("word", ["--model Qwen/Qwen2.5-1.5B-Instruct", "--model=Qwen/Qwen2.5-1.5B-Instruct"])
def test_the_line_of_a_simulated_run_names_the_hubs_id_that_was_asked_for(word: str) -> None:
    run = simulated(f"harness tune --gpu rtx4090 {word} --engine simulated")
    assert serve.line(run) == "vllm serve Qwen/Qwen2.5-1.5B-Instruct --max-num-seqs 128"
    assert serve.caveat(run) == ""


def test_our_own_name_is_said_to_be_put_in_by_hand() -> None:
    run = simulated("harness tune --gpu rtx4090 --engine simulated")
    assert serve.line(run) == "vllm serve qwen2.5-1.5b --max-num-seqs 128"
    assert "in place of qwen2.5-1.5b" in serve.caveat(run)
