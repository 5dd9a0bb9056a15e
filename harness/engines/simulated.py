"""The simulated vLLM as an engine: launched, driven and dying like the real one, but in virtual time and on no GPU."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness import simulation
from harness.engines.failures import failure
from harness.engines.flags import violations
from harness.engines.running import HANG_S, Engine, hung
from harness.errors import EngineBadFlag, EngineError, UsageError
from harness.records import LaunchSpec, LoadJob, LoadResult
from harness.simulation import Crashed, Machine, Refused, Server, Stalled

TITLE: Final = "simulated vLLM"
VERSION: Final = "0.32"
"""Of the vLLM whose scheduler, defaults and refusals are simulated."""


@contextmanager
def launched(spec: LaunchSpec, *, log: Path, machine: Machine | None = None) -> Iterator[Engine]:
    """A simulated server, ready; the time that this takes passes on the machine's clock, also where it fails.

    Args:     machine: where it is launched. None: one of its own, whose clock begins at 0.
    Raises:   EngineError, by what vLLM's log would tell.
    """
    if spec.simulation is None:
        raise UsageError("a simulated engine needs a card and a model", hint="say --gpu and --model")
    if refused := violations(spec.flags, model_max_len=spec.simulation.shape.max_context_tokens, needed_tokens=None):
        raise EngineBadFlag(f"{TITLE} would refuse: {'; '.join(refused)}", hint="change one of these flags")
    place = Machine(spec.simulation) if machine is None else machine
    try:
        server = place.launch(spec.flags, precision=spec.precision)
    except Refused as refusal:
        raise _failure(refusal.log_text, log=log, model=spec.model) from refusal
    _write(log, server.log_text)
    yield Engine(
        name="simulated",
        title=TITLE,
        version=VERSION,
        url="",
        api="openai",
        dialect="vllm",
        model=spec.model,
        launch_s=server.launch_s,
        env=spec.env,
        resolved=server.resolved,
        drive=functools.partial(_drive, server, log=log),
        clock=place.clock,
    )


def _drive(server: Server, job: LoadJob, *, log: Path) -> LoadResult:
    """The cell's load in virtual time. Raises: EngineError where the server dies of it."""
    try:
        return simulation.drive(server, job)
    except Crashed as crash:
        raise _failure(crash.log_text, log=log, model=job.model) from crash
    except Stalled as stall:
        server.machine.now_s += HANG_S
        raise hung(TITLE, HANG_S, log=log) from stall


def _failure(log_text: str, *, log: Path, model: str) -> EngineError:
    _write(log, log_text)
    return failure(TITLE, log_text, returncode=1, log=log, model=model)


def _write(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as sink:
        sink.write(text + "\n")
