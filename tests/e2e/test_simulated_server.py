"""Whole commands on the simulated vLLM: started in vLLM's place, measured as vLLM is, and never taken for it."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import config, models
from harness.engines import talk
from harness.engines.process import free_port
from harness.presets import read_preset
from harness.records import CellState, CrashRegion, Simulation
from harness.simulation.server.options import Options
from harness.simulation.server.standin import stand_in
from harness.store import RunFolder
from tests.e2e.conftest import ROOT, Ended

Harness = Callable[..., Ended]
Python = Callable[..., Path]
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB."


@pytest.fixture
def simulated_python(tmp_path: Path) -> Python:
    """An interpreter whose vLLM is the simulated one, which is ready at once."""

    def make(**more: Any) -> Path:
        shape = models.entry("smollm2-135m").shape
        simulation = Simulation(profile=config.gpu_profile("l4"), shape=shape, **more)
        return stand_in(Options(simulation=simulation, launch_speed=1e4), tmp_path / "vllm")

    return make


def words(python: Path, scenario: Path, *more: str) -> list[str]:
    bench = ["bench", "--engine", "vllm", "--vllm-python", str(python), "--gpu", "cpu", "--model", "smollm2-135m"]
    return [*bench, "--scenario", str(scenario), "--repeats", "1", *more]


def folder_of(ended: Ended, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "results" / ended.json["run"])


@pytest.mark.flaky(reruns=3)  # as below
def test_a_bench_of_it_is_valid_and_marked_simulated_everywhere(
    harness: Harness, simulated_python: Python, small_scenario: Path, tmp_path: Path
) -> None:
    ended = harness(*words(simulated_python(), small_scenario, "--json"))
    assert ended.code == 0, ended.stderr
    folder = folder_of(ended, tmp_path)
    run, cells = folder.run(), folder.cells()
    assert [cell.state for cell in cells] == [CellState.MEASURED] * 2, [cell.reasons for cell in cells]
    assert all(cell.is_simulated for cell in cells)
    assert all(cell["is_simulated"] for cell in ended.json["cells"])
    assert run.is_simulated
    (facts,) = run.engines
    assert facts.is_simulated
    assert facts.engine == "vllm"
    assert facts.title.startswith("simulated vLLM 0.32.0")
    assert facts.version == "0.32.0+simulated.l4"
    assert "api_server" in " ".join(facts.argv)
    assert any("data sheet of NVIDIA L4" in note for note in run.notes)
    assert "simulated on NVIDIA L4" in ended.stderr
    one, many = cells
    assert one.output_tok_s is not None
    assert many.output_tok_s is not None
    assert many.output_tok_s.value > 2 * one.output_tok_s.value, "users share its steps"
    assert one.telemetry is not None, "a server has processes and metrics"
    page = harness("report", ended.json["run"])
    assert page.code == 0, page.stderr
    html = (tmp_path / "reports" / f"{run.id}.html").read_text()
    assert "SIMULATED: nothing on this page was measured" in html
    assert "a simulated l4" in html


@contextlib.contextmanager
def serving(*argv: object) -> Iterator[str]:
    """The address of a server that is there until the block ends."""
    port = free_port()
    with subprocess.Popen([*map(str, argv), "--port", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            with talk.client(url) as http:
                while not talk.models(http, api="openai"):
                    assert server.poll() is None
                    time.sleep(0.1)
            yield url
        finally:
            server.terminate()


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_a_simulated_server_behind_the_proxy_is_known_for_one(
    harness: Harness, simulated_python: Python, small_scenario: Path, tmp_path: Path, api: str
) -> None:
    vllm = (simulated_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", "m")
    with serving(*vllm) as upstream, serving(sys.executable, "-m", "proxy", "--upstream", f"m={upstream}") as proxy:
        bench = ["bench", "--url", proxy, "--api", api, "--model", "m:latest", "--gpu", "cpu", "--repeats", "1"]
        ended = harness(*bench, "--scenario", small_scenario, "--users", "1", "--json")
    assert ended.code in (0, 4), ended.stderr  # a busy machine makes cells that do not count
    run = folder_of(ended, tmp_path).run()
    assert run.is_simulated
    assert run.engines[0].version == "0.32.0+simulated.l4"
    assert run.engines[0].title.startswith("vLLM 0.32.0+simulated.l4 behind a server with Ollama's API")
    assert all(cell["is_simulated"] for cell in ended.json["cells"])
    assert "simulated on NVIDIA L4" in ended.stderr


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_the_reference_engine_at_an_address_is_named_so(
    harness: Harness, small_scenario: Path, tmp_path: Path, api: str
) -> None:
    with serving(sys.executable, "-m", "harness.engines.reference", "--ttft-s=0.01", "--itl-s=0.002") as url:
        bench = ["bench", "--url", url, "--api", api, "--model", "reference", "--gpu", "cpu", "--repeats", "1"]
        ended = harness(*bench, "--scenario", small_scenario, "--users", "1", "--json")
    assert ended.code in (0, 4), ended.stderr
    assert folder_of(ended, tmp_path).run().engines[0].title == f"reference engine at {url}"


def test_an_engine_that_dies_under_load_leaves_the_cells_before_it(
    harness: Harness, simulated_python: Python, small_scenario: Path, tmp_path: Path
) -> None:
    crash = CrashRegion(flags={}, users=4, log_text=OUT_OF_MEMORY)
    ended = harness(*words(simulated_python(crashes=(crash,)), small_scenario, "--json"))
    folder = RunFolder(next(path.parent for path in tmp_path.glob("results/*/run.json")))
    first, *others = folder.cells()
    assert (first.users, first.state) == (1, CellState.MEASURED)
    assert all(cell.state == CellState.FAILED for cell in others)
    assert "ran out of memory" in others[0].reasons[0]
    assert "ran out of memory" in ended.stderr


def test_a_start_that_fails_exits_with_3_and_says_what_fits(
    harness: Harness, simulated_python: Python, small_scenario: Path
) -> None:
    small = words(simulated_python(), small_scenario, "--flag", "kv-cache-memory-bytes=20000000")
    ended = harness(*small)
    assert ended.code == 3
    assert "set max-model-len to" in ended.stderr


@pytest.mark.flaky(reruns=3)  # it is timed, at many times its speed: a busy machine makes cells that do not count
def test_a_search_on_it_gives_a_preset_that_nothing_serves(
    harness: Harness, simulated_python: Python, small_scenario: Path, tmp_path: Path
) -> None:
    """And one that was broken off goes on."""
    tune = ["tune", "--gpu", "cpu", "--scenario", small_scenario, "--users", "1,8", "--repeats", "4", "--trials", "1"]
    ended = harness(*tune, "--vllm-python", simulated_python(), "--no-defence", "--json")
    assert ended.code == 0, ended.stderr
    assert ended.json["is_simulated"] is True
    preset = Path(ended.json["preset"])
    assert preset.relative_to("results").parts[0] == "simulated"
    assert read_preset(tmp_path / preset).is_simulated
    again = harness("tune", "--resume", ended.json["run"], "--trials", "2", "--json")
    assert again.code == 0, again.stderr
    assert again.json["is_simulated"] is True
    assert len(again.json["trials"]) == 3
