"""Engines that are programs of ours: llama.cpp's server in Python's clothes, and the engine of known timing."""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import harness
from harness.engines import talk
from harness.engines.flags import words
from harness.engines.process import free_port, process_group, wait_ready
from harness.engines.running import Engine, death, size_of_weights
from harness.errors import EngineModelNotFound, EngineNotFound
from harness.records import Flags, LaunchSpec

LLAMACPP_TITLE: Final = "llama.cpp, the engine inside Ollama"
VERSION_PROGRAM: Final = "import importlib.metadata as m; print(m.version('xllamacpp'))"


@contextmanager
def llamacpp(spec: LaunchSpec, *, log: Path) -> Iterator[Engine]:
    """llama.cpp's server with a GGUF file, until the block ends. Raises: EngineError, by what its log tells."""
    python = spec.program or sys.executable
    version = xllamacpp_version(python)
    if not Path(spec.source).is_file():
        raise EngineModelNotFound(
            f"there is no GGUF file {spec.source}", hint=f"bring the model here with: harness models fetch {spec.model}"
        )
    argv = [
        *(python, "-m", "harness.engines.llamacpp"),
        *("--model", spec.source, "--alias", spec.model, "--slots", str(spec.slots)),
        *words(spec.flags),
    ]
    yield from _served(spec, argv, title=LLAMACPP_TITLE, version=version, dialect="llamacpp", log=log)


@contextmanager
def reference(spec: LaunchSpec, *, log: Path) -> Iterator[Engine]:
    """The engine of known timing, until the block ends; it speaks both APIs."""
    argv = [sys.executable, "-m", "harness.engines.reference", "--model", spec.model, *words(spec.flags)]
    yield from _served(spec, argv, title="reference engine", version=harness.__version__, dialect="plain", log=log)


def _served(
    spec: LaunchSpec, argv: list[str], *, title: str, version: str, dialect: str, log: Path
) -> Iterator[Engine]:
    port, api = free_port(), spec.api or "openai"
    url = f"http://127.0.0.1:{port}"
    with process_group([*argv, "--port", str(port)], log=log, env=_environment() | spec.env) as process:
        with talk.client(url) as http:
            launch_s = wait_ready(
                process,
                lambda: talk.is_listed(spec.model, talk.models(http, api=api) or [], api=api),
                title=title,
                port=port,
                timeout_s=spec.ready_timeout_s,
                died=lambda: death(title, process, model=spec.source),
                log=log,
            )
        yield Engine(
            name=spec.engine,
            title=title,
            version=version,
            url=url,
            api=api,
            dialect=dialect,
            model=spec.model,
            launch_s=launch_s,
            process=process,
            env=spec.env,
            resolved=resolved_from_log(process.output()),
            slots=spec.slots if dialect == "llamacpp" else None,
            weights_bytes=size_of_weights(spec.source),
        )


def xllamacpp_version(python: str) -> str:
    """Version of the package that brings llama.cpp's server. Raises: EngineNotFound."""
    hint = "pip install xllamacpp"
    if python == sys.executable:
        try:
            return importlib.metadata.version("xllamacpp")
        except importlib.metadata.PackageNotFoundError:
            raise EngineNotFound("llama.cpp's server is not installed: there is no xllamacpp", hint=hint) from None
    try:
        answer = subprocess.run(
            [python, "-c", VERSION_PROGRAM], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineNotFound(f"{python} is no Python interpreter: {error}", hint=hint) from error
    if answer.returncode != 0:
        raise EngineNotFound(f"the Python interpreter {python} has no xllamacpp", hint=hint)
    return answer.stdout.strip()


def resolved_from_log(log_text: str) -> Flags:
    """What llama.cpp's log says that it took; empty for other logs."""
    patterns = {"slots": r"n_slots = (\d+)", "context-tokens": r"n_ctx_slot = (\d+)", "threads": r"n_threads = (\d+)"}
    patterns["gpu-layers"] = r"offloaded (\d+)/\d+ layers to GPU"
    found = {name: re.search(pattern, log_text) for name, pattern in patterns.items()}
    return {name: int(match[1]) for name, match in found.items() if match}


def _environment() -> dict[str, str]:
    """Ours, with the folder of this package, which need not be installed."""
    folders = [str(Path(harness.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
