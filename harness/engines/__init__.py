"""Start an engine, wait until it answers, watch it, stop it.

`launched` is the way in. What is known about one engine stands in its file; `process.py` keeps the processes,
`failures.py` reads their logs. Engines are programs: none of them is imported here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from harness.engines import modules, ollama, vllm
from harness.engines.attach import attached
from harness.engines.failures import failure
from harness.engines.flags import Install, check_known, known_flags, violations
from harness.engines.ollama import find as find_ollama
from harness.engines.running import Engine
from harness.engines.vllm import find as find_vllm
from harness.errors import UsageError
from harness.records import LaunchSpec

__all__ = [
    "LAUNCH",
    "Engine",
    "Install",
    "failure",
    "find_ollama",
    "find_vllm",
    "known_flags",
    "launched",
    "refuse_unknown_flags",
    "violations",
]

LAUNCH: Final[dict[str, Callable[..., AbstractContextManager[Engine]]]] = {
    "vllm": vllm.launched,
    "ollama": ollama.launched,
    "llamacpp": modules.llamacpp,
    "reference": modules.reference,
}


def refuse_unknown_flags(spec: LaunchSpec) -> None:
    """Nothing, where the vLLM that `spec` would start knows all its flags. Raises: EngineBadFlag, EngineNotFound."""
    install = find_vllm(spec.program)
    check_known(spec.flags, known_flags(install), install=install)


def launched(spec: LaunchSpec, *, log: Path) -> AbstractContextManager[Engine]:
    """An engine that answers, for the length of a `with` block; after it none of its processes is left.

    With `spec.url` it is the server that runs there, which stays as it is, and no log is written.
    Raises: EngineError, by what went wrong.  UsageError: there is no such engine.
    """
    if spec.url is not None:
        return attached(spec, url=spec.url)
    if spec.engine not in LAUNCH:
        raise UsageError(f"there is no engine {spec.engine!r}", hint=f"choose one of {', '.join(LAUNCH)}")
    return LAUNCH[spec.engine](spec, log=log)
