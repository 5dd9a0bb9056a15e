"""A card, a model and jobs for the simulated engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import config, models
from harness.records import ClosedLoop, Load, LoadJob, Simulation, Workload

MODEL = "qwen2.5-1.5b"


@pytest.fixture
def even() -> Callable[..., Simulation]:
    """A card without noise: every figure follows from the settings."""

    def make(gpu: str = "rtx4090", model: str = MODEL, **more: Any) -> Simulation:
        still = {"launch_noise_ratio": 0.0, "cell_noise_ratio": 0.0, "step_noise_ratio": 0.0, **more}
        return Simulation(profile=config.gpu_profile(gpu), shape=models.entry(model).shape, **still)

    return make


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., LoadJob]:
    """A cell's load, by default a closed loop of short questions."""

    def make(
        *,
        users: int = 1,
        load: Load | None = None,
        words: int = 50,
        tokens: int = 20,
        name: str = "cell",
        is_streamed: bool = True,
        **more: Any,
    ) -> LoadJob:
        work = {name: more.pop(name) for name in ("shared_prefix_words", "turns") if name in more}
        closed = ClosedLoop(users=(users,), requests_per_user=3, min_s=2.0, max_s=60.0)
        return LoadJob(
            url="",
            api="openai",
            dialect="vllm",
            model=MODEL,
            workload=Workload(prompt_words=words, output_tokens=tokens, is_streamed=is_streamed, **work),
            load=load or closed,
            users=users if load is None or isinstance(load, ClosedLoop) else 0,
            repeat=1,
            seed=more.pop("seed", 7),
            requests_path=str(tmp_path / f"{name}.jsonl"),
            client_path=str(tmp_path / f"{name}.client.json"),
            **more,
        )

    return make
