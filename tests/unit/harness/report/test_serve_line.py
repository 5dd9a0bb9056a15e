"""The `vllm serve` line names the model as it was asked for."""

import pytest
from msgspec import structs

from harness.records import EngineFacts, Flags, Host, Preset, Run, RunState
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


def test_caches_that_kept_workers_apart_are_not_in_the_line() -> None:
    run = simulated("harness tune --gpu rtx4090 --workers 2")
    facts = EngineFacts(
        role="trial 1", engine="vllm", title="vLLM 0.32.0", version="0.32.0", precision="bf16",
        flags={"max-num-seqs": 128}, argv=("python", "-m", "vllm", "--model", "Qwen/Qwen2.5-1.5B-Instruct"),
        env={"VLLM_CACHE_ROOT": "/cache/workers/1/vllm", "VLLM_ATTENTION_BACKEND": "FLASH_ATTN"},
    )  # fmt: skip
    line = serve.line(structs.replace(run, engines=(facts,), is_simulated=False))
    assert "VLLM_ATTENTION_BACKEND=FLASH_ATTN" in line
    assert "CACHE" not in line
