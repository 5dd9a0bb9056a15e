"""`--engine proxied`: a vLLM with our proxy in front of it, measured as a client of Ollama sees it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.records import CellState, Preset
from harness.store import RunFolder

Harness = Callable[..., Any]


@pytest.fixture
def words(small_scenario: Path, fake_vllm_python: Path) -> list[str]:
    """A bench of a few seconds."""
    return [
        "bench", "--engine", "proxied", "--gpu", "cpu", "--model", "smollm2-135m", "--scenario", str(small_scenario),
        "--users", "8", "--repeats", "1", "--vllm-python", str(fake_vllm_python), "--json",
    ]  # fmt: skip


def the_run(folder: Path) -> RunFolder:
    (found,) = (path for path in folder.glob("results/*") if (path / "run.json").exists())
    return RunFolder(found)


def test_vllm_behind_the_proxy_is_measured_as_ollama_and_told_apart(
    harness: Harness, words: list[str], tmp_path: Path
) -> None:
    ended = harness(*words, "--flag", "max-num-seqs=4")
    assert ended.code == 0, ended.stderr
    (cell,) = ended.json["cells"]
    assert (cell["engine"], cell["state"], cell["failures"]) == ("proxied", CellState.MEASURED, 0)
    assert "behind the proxy" in cell["title"]
    folder = the_run(tmp_path)
    (facts,) = folder.run().engines
    assert facts.flags["max-num-seqs"] == 4
    assert "--max-num-seqs" in facts.argv
    (readings,) = folder.path.glob("telemetry/*.jsonl")
    seen = [json.loads(line) for line in readings.read_text().splitlines()]
    pids = {process["pid"] for sample in seen for process in sample["processes"]}
    assert len(pids) >= 2, "the proxy's own cost belongs to what is measured"
    (log,) = folder.path.glob("engine-bench-proxied-proxy.log")
    assert "-m proxy" in log.read_text()


def test_settings_of_a_preset_are_measured_and_refused_where_they_do_not_hold(
    harness: Harness, words: list[str], tmp_path: Path
) -> None:
    from harness.presets import write_preset

    def preset(gpu: str) -> Preset:
        return Preset(
            gpu=gpu, model="smollm2-135m", flags={"max-num-seqs": 3}, is_default=False, objective="throughput",
            ratio=None, vllm_version="0.32.0", gpu_title="a processor", run="", created_utc="2026-11-28T00:00:00Z",
            vllm_versions=">=0.32,<0.33",
        )  # fmt: skip

    fitting, other = tmp_path / "fitting.toml", tmp_path / "other.toml"
    write_preset(preset("cpu"), fitting)
    write_preset(preset("l4"), other)
    ended = harness(*words, "--preset", fitting)
    assert ended.code == 0, ended.stderr
    assert the_run(tmp_path).run().engines[0].flags["max-num-seqs"] == 3
    refused = harness(*words, "--preset", other)
    assert refused.code == 2
    assert "found on l4, this is cpu" in refused.stderr
    in_vain = harness("bench", "--engine", "reference", "--gpu", "cpu", "--preset", fitting)
    assert (in_vain.code, "settings of vLLM" in in_vain.stderr) == (2, True)


def test_a_proxy_that_is_killed_is_said_to_be_what_died(
    environment: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "harness", *words[:-1], "--repeats", "60"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True) as command:
        try:
            for _ in range(2):  # it is started once more
                victim = proxy_of(command)
                os.kill(victim.pid, signal.SIGKILL)
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.wait(timeout=30)
            _, stderr = command.communicate(timeout=120)
        finally:
            command.kill()  # ends its engines too, by their watchdogs
    assert command.returncode == 3, stderr
    assert "the proxy ended with -9" in stderr
    assert "Traceback" not in stderr


def proxy_of(command: "subprocess.Popen[str]", *, within_s: float = 60.0) -> psutil.Process:
    """The proxy of a bench, once a load is on it."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s and command.poll() is None:
        below = psutil.Process(command.pid).children(recursive=True)
        lines = {}
        for child in below:
            with contextlib.suppress(psutil.Error):
                lines[child] = child.cmdline()
        proxies = [child for child, line in lines.items() if line[2:4] == ["-m", "proxy"]]
        if proxies and any("locust" in line for line in lines.values()):
            return proxies[0]
        time.sleep(0.1)
    raise AssertionError("no proxy is under load")
