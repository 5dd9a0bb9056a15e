"""A running engine: whether it lives, and what a run remembers of it."""

import os
import sys
from pathlib import Path

import pytest

from harness.engines import Engine
from harness.engines.process import ProcessGroup, process_group
from harness.engines.running import size_of_weights
from harness.errors import EngineCrashed, EngineOutOfMemory

FAKE = Path(__file__).parents[3] / "fakes" / "server.py"
LOGS = Path(__file__).parent / "logs"


def engine(process: ProcessGroup | None) -> Engine:
    return Engine(
        name="vllm",
        title="vLLM 0.32.0",
        version="0.32.0",
        url="http://127.0.0.1:1",
        api="openai",
        dialect="vllm",
        model="small",
        launch_s=1.5,
        process=process,
        env={"A": "1"},
        resolved={"max-num-seqs": 128},
    )


def test_a_living_engine_passes_the_check(tmp_path: Path) -> None:
    with process_group([sys.executable, str(FAKE)], log=tmp_path / "e.log", env=os.environ) as process:
        engine(process).check()


def test_a_dead_engine_does_not_and_its_last_lines_are_told(tmp_path: Path) -> None:
    (tmp_path / "last words").write_text("RuntimeError: the card fell off the bus")
    argv = [sys.executable, str(FAKE), "--dies-after-s", "0", "--code", "3", "--says", str(tmp_path / "last words")]
    with process_group(argv, log=tmp_path / "e.log", env=os.environ) as process:
        assert process.ended(within_s=10)
        with pytest.raises(
            EngineCrashed, match=r"exit code 3: RuntimeError: the card fell off the bus .*e\.log"
        ) as caught:
            engine(process).check()
    assert "the card fell off the bus" in caught.value.hint


def test_an_end_for_want_of_memory_under_load_has_its_name(tmp_path: Path) -> None:
    """vLLM can run out of memory long after a good start."""
    (tmp_path / "last words").write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.")
    argv = [sys.executable, str(FAKE), "--dies-after-s", "0", "--says", str(tmp_path / "last words")]
    with process_group(argv, log=tmp_path / "e.log", env=os.environ) as process:
        assert process.ended(within_s=10)
        with pytest.raises(EngineOutOfMemory):
            engine(process).check()


def test_an_engine_of_others_is_not_watched() -> None:
    engine(None).check()


def test_the_facts_are_those_of_the_launch(tmp_path: Path) -> None:
    with process_group([sys.executable, str(FAKE)], log=tmp_path / "e.log", env=os.environ) as process:
        facts = engine(process).facts(role="baseline", precision="bf16", flags={"enforce-eager": True})
        assert engine(process).pid == process.pid
    assert facts.argv == (sys.executable, str(FAKE))
    assert (facts.role, facts.precision, facts.flags) == ("baseline", "bf16", {"enforce-eager": True})
    assert (facts.resolved, facts.env, facts.log, facts.launch_s) == ({"max-num-seqs": 128}, {"A": "1"}, "e.log", 1.5)


def test_the_facts_of_an_engine_of_others_claim_no_launch() -> None:
    facts = engine(None).facts(role="baseline", precision="", flags={})
    assert (facts.argv, facts.log, facts.launch_s) == ((), "", None)


# ---------------------------------------------------------------- the weights


def test_the_size_of_weights_is_of_one_gguf_file_or_all_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"x" * 10)
    (tmp_path / "one.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "two.safetensors").write_bytes(b"x" * 30)
    assert size_of_weights(str(gguf)) == 10
    assert size_of_weights(str(tmp_path)) == 50
    assert size_of_weights("Qwen/Qwen2.5-1.5B-Instruct") is None
    assert size_of_weights(str(tmp_path / "gone.gguf")) is None
    assert size_of_weights("") is None
