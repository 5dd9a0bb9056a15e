"""Start an engine, wait until it answers, watch it, stop it.

`launched` is the way in. What is known about one engine stands in its file; `process.py` keeps the processes,
`failures.py` reads their logs. Engines are programs: none of them is imported here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from harness.engines import modules, ollama, proxied, simulated, vllm
from harness.engines.attach import attached
from harness.engines.failures import failure
from harness.engines.flags import Install, check_known, flag_schema, known_flags, names_only, violations
from harness.engines.ollama import find as find_ollama
from harness.engines.running import Engine
from harness.engines.vllm import find as find_vllm
from harness.errors import UsageError
from harness.records import KnownFlag, LaunchSpec
from harness.simulation import Machine
from harness.simulation.settings import MODELLED as SIMULATED_FLAGS

__all__ = [
    "LAUNCH",
    "Engine",
    "Install",
    "check_known",
    "failure",
    "find_ollama",
    "find_vllm",
    "flags_of",
    "known_flags",
    "launched",
    "refuse_unknown_flags",
    "violations",
]

LAUNCH: Final[dict[str, Callable[..., AbstractContextManager[Engine]]]] = {
    "vllm": vllm.launched,
    "proxied": proxied.launched,
    "ollama": ollama.launched,
    "llamacpp": modules.llamacpp,
    "reference": modules.reference,
}


def refuse_unknown_flags(spec: LaunchSpec) -> None:
    """Nothing, where the vLLM that `spec` would start knows all its flags. Raises: EngineBadFlag, EngineNotFound."""
    install = find_vllm(spec.program)
    check_known(spec.flags, known_flags(install), install=install)


def flags_of(spec: LaunchSpec) -> dict[str, KnownFlag]:
    """Every flag that the vLLM of `spec` takes, by name. Raises: EngineNotFound, EngineCrashed."""
    if spec.engine == "simulated":
        return names_only(SIMULATED_FLAGS)
    return flag_schema(find_vllm(spec.program))


def launched(spec: LaunchSpec, *, log: Path, machine: Machine | None = None) -> AbstractContextManager[Engine]:
    """An engine that answers, for the length of a `with` block; after it none of its processes is left.

    With `spec.url` it is the server that runs there, which stays as it is, and no log is written.
    Args:   machine: where a simulated engine is launched; the next one finds its clock and its compiled code there.
            None: a fresh one.
    Raises: EngineError, by what went wrong.  UsageError: there is no such engine.
    """
    if spec.url is not None:
        return attached(spec, url=spec.url)
    if spec.engine == "simulated":
        return simulated.launched(spec, log=log, machine=machine)
    if spec.engine not in LAUNCH:
        known = ", ".join([*LAUNCH, "simulated"])
        raise UsageError(f"there is no engine {spec.engine!r}", hint=f"choose one of {known}")
    return LAUNCH[spec.engine](spec, log=log)
