"""A search over a vLLM, simulated behind HTTP, that fails in every way: each failure is learned as what it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import config, models
from harness.records import CrashRegion, Outcome, Simulation
from harness.simulation.server.options import Options
from harness.simulation.server.standin import stand_in
from tests.e2e.conftest import Ended

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB."
REFUSED = "api_server.py: error: argument --max-num-seqs: invalid int value: '128'"
ILLEGAL = "RuntimeError: CUDA error: an illegal memory access was encountered"
TIMED = """
name = "timed"
title = "short streams"
[workload]
prompt_words = 8
output_tokens = 8
is_streamed = true
[load]
users = [1, 8]
requests_per_user = 8
min_s = 1.5
max_s = 20
warmup_max_s = 0
"""


def region(flags: dict[str, int], **more: Any) -> CrashRegion:
    """Of candidates alone: the baseline's context is longer."""
    return CrashRegion(flags=flags, at_most={"max-model-len": 2048}, **more)


REGIONS = (
    region({"max-num-batched-tokens": 4096}, users=0, log_text=OUT_OF_MEMORY),
    region({"max-num-seqs": 128}, users=0, log_text=REFUSED),
    region({"max-num-seqs": 64}, users=4, is_hang=True),
    region({"max-num-batched-tokens": 2048, "max-model-len": 2048}, users=4, log_text=OUT_OF_MEMORY),
    region({"max-num-batched-tokens": 2048}, users=4, log_text=ILLEGAL),
)


def expected(flags: dict[str, Any]) -> tuple[str, int | None]:
    """What comes of these settings, and under how many users, by the regions above in their order."""
    batched, seqs, context = (flags[f"max-{name}"] for name in ("num-batched-tokens", "num-seqs", "model-len"))
    if batched >= 4096:
        return Outcome.OUT_OF_MEMORY, None
    if seqs >= 128:
        return Outcome.BAD_FLAG, None
    if seqs >= 64:
        return Outcome.HUNG, 8
    if batched >= 2048:
        return (Outcome.OUT_OF_MEMORY, 8) if context >= 2048 else (Outcome.CRASHED, 8)
    return Outcome.MEASURED, None


@pytest.mark.timeout(900)
@pytest.mark.flaky(reruns=2)  # it is timed: a busy machine makes cells that do not count
def test_each_failure_is_learned_as_what_it_was_and_not_asked_for_again(
    harness: Callable[..., Ended], tmp_path: Path
) -> None:
    simulation = Simulation(profile=config.gpu_profile("l4"), shape=models.entry("llama-3.2-3b").shape, crashes=REGIONS)
    python = stand_in(Options(simulation=simulation, launch_speed=1e4), tmp_path / "vllm")
    (tmp_path / "timed.toml").write_text(TIMED)
    words = ("tune", "--gpu", "cpu", "--scenario", tmp_path / "timed.toml", "--users", "1,8", "--repeats", "2")
    ended = harness(*words, "--vllm-python", python, "--no-defence", "--trials", "7", "--json", timeout_s=800)
    assert ended.code == 0, ended.stderr
    trials = ended.json["trials"][1:]
    found = [(trial["outcome"], trial["died_under_users"]) for trial in trials]
    assert found == [expected(trial["flags"]) for trial in trials]
    outcomes = {outcome for outcome, _ in found}
    assert len(outcomes) >= 4, found
    refused = [trial for trial in trials if trial["outcome"] == Outcome.BAD_FLAG]
    assert len(refused) <= 1, "a value that was refused is not asked for again"
    for outcome, reason in WORDS.items():
        assert all(reason in trial["reason"] for trial in trials if trial["outcome"] == outcome)
    page = (tmp_path / ended.json["report"]).read_text()
    assert all(outcome in page for outcome in outcomes)


WORDS = {
    Outcome.OUT_OF_MEMORY: "ran out of memory",
    Outcome.BAD_FLAG: "refuses its flags: --max-num-seqs",
    Outcome.CRASHED: "an illegal memory access",
    Outcome.HUNG: "given no token",
}
