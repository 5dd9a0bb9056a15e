"""The simulated vLLM behind HTTP against the same simulation in virtual time: one scheduler, two clocks.

Measured on two cores that other programs held too: tok/s within 1%, the first token within 6 ms. The bars are wider by
as much as a busy machine needs; a server that adds a millisecond to each step, or takes its steps one user at a time,
is far beyond them.
"""

from pathlib import Path
from statistics import median

import msgspec
import pytest

from harness import config, engines, load, models
from harness.records import ClosedLoop, LaunchSpec, LoadJob, LoadResult, Simulation, Workload
from harness.simulation import Machine, drive
from harness.simulation.calibrate import tok_s_of
from harness.simulation.server.options import Options
from harness.simulation.server.standin import stand_in

MODEL = "qwen2.5-1.5b"
TOK_S_RATIO = 0.12
EARLY_S, LATE_S = 0.005, 0.040
"""Of the median TTFT, against that in virtual time."""


def job(folder: Path, *, users: int) -> LoadJob:
    return LoadJob(
        url="",
        api="openai",
        dialect="vllm",
        model=MODEL,
        workload=Workload(prompt_words=100, output_tokens=150, is_streamed=True),
        load=ClosedLoop(users=(users,), requests_per_user=4, min_s=4, max_s=60, warmup_max_s=10),
        users=users,
        repeat=1,
        seed=3,
        requests_path=str(folder / "requests.jsonl"),
        client_path=str(folder / "client.json"),
    )


def ttft_s(found: LoadResult) -> float:
    times_s = [one.ttft_s for one in found.records if not one.is_warmup]
    return median(time_s for time_s in times_s if time_s is not None)


@pytest.mark.parametrize(("users", "speed"), [(1, 1.0), (8, 1.0), (4, 2.0)])
def test_the_server_gives_what_the_simulation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: int, speed: float
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    simulation = Simulation(
        profile=config.gpu_profile("rtx4090"),
        shape=models.entry(MODEL).shape,
        launch_noise_ratio=0,
        cell_noise_ratio=0,
        step_noise_ratio=0,
    )
    asked = job(tmp_path, users=users)
    virtual = drive(Machine(simulation).launch({}, precision="bf16"), asked)
    python = stand_in(Options(simulation=simulation, speed=speed, launch_speed=1e4), tmp_path / "vllm")
    spec = LaunchSpec(engine="vllm", model=MODEL, source="hub/model", program=str(python))
    with engines.launched(spec, log=tmp_path / "engine.log") as engine:
        served = load.drive(
            msgspec.structs.replace(asked, url=engine.url), work=tmp_path, log=tmp_path / "load.log", check=engine.check
        )
    tok_s, virtual_tok_s = tok_s_of(served), tok_s_of(virtual)
    assert tok_s is not None
    assert virtual_tok_s is not None
    assert tok_s == pytest.approx(virtual_tok_s * speed, rel=TOK_S_RATIO)
    apart_s = ttft_s(served) - ttft_s(virtual) / speed
    assert -EARLY_S < apart_s < LATE_S
    measured = [one for one in served.records if not one.is_warmup and one.error is None]
    assert all(one.output_tokens == one.asked_tokens for one in measured)
