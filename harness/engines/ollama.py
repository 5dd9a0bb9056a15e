"""Ollama: start a server with a model store of our own, and bring the model into it.

A store of our own keeps the user's models out of the measurement, and ours out of the user's list.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from harness.config import cache_folder
from harness.engines import talk
from harness.engines.failures import failure
from harness.engines.process import ProcessGroup, free_port, process_group, wait_ready
from harness.engines.running import Engine, death, size_of_weights
from harness.errors import EngineBadFlag, EngineError, EngineHung, EngineModelNotFound, EngineNotFound
from harness.records import Flags, LaunchSpec

INSTALL_HINT: Final = (
    "install it with: curl -fsSL https://ollama.com/install.sh | sh (or from https://ollama.com/download), "
    "or measure the engine inside it: harness compare --baseline llamacpp, harness bench --engine llamacpp"
)
FOREVER: Final = -1
PS_FIELDS: Final = {"context-tokens": "context_length", "size-bytes": "size", "size-vram-bytes": "size_vram"}
PULL_SILENCE_S: Final = 300.0
"""A pull that says nothing for so long has lost its network."""

_log = logging.getLogger(__name__)


def find(program: str | None = None) -> Path:
    """The Ollama binary: `program`, or the one on PATH. Raises: EngineNotFound."""
    path = shutil.which(program or "ollama")
    if path is None:
        missing = f"there is no program {program}" if program else "Ollama is not installed: no `ollama` on PATH"
        raise EngineNotFound(missing, hint=INSTALL_HINT)
    return Path(path).absolute()  # without it Popen would look for "ollama" on PATH again


def environment(spec: LaunchSpec, *, port: int) -> dict[str, str]:
    """Ollama's settings, which are all in its environment, as this spec wants them."""
    ours = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(cache_folder() / "ollama"),
        "OLLAMA_KEEP_ALIVE": str(FOREVER),  # or it unloads the model while something else is measured
        "OLLAMA_NO_CLOUD": "1",
    }
    if spec.slots > 1:  # 1 is its default, and a default is measured as such
        ours["OLLAMA_NUM_PARALLEL"] = str(spec.slots)
    return ours | spec.env


def without_settings(inherited: Mapping[str, str]) -> dict[str, str]:
    """An environment without Ollama's own variables: what is set in a user's shell must not pass for a default."""
    return {name: value for name, value in inherited.items() if not name.startswith("OLLAMA_")}


@contextmanager
def launched(spec: LaunchSpec, *, log: Path) -> Iterator[Engine]:
    """An Ollama server with the model loaded, until the block ends.

    Raises: EngineError, by what its log tells; EngineModelNotFound where the model cannot be had.
    """
    binary = find(spec.program)
    if spec.flags:
        raise EngineBadFlag(
            f"Ollama takes no flags, and was given {', '.join(f'--{name}' for name in spec.flags)}",
            hint="its settings are environment variables: see `ollama serve --help`",
        )
    port = free_port()
    url, env = f"http://127.0.0.1:{port}", environment(spec, port=port)
    Path(env["OLLAMA_MODELS"]).mkdir(parents=True, exist_ok=True)
    with (
        process_group([str(binary), "serve"], log=log, env=without_settings(os.environ) | env) as process,
        talk.client(url) as http,
    ):
        started_s = wait_ready(
            process,
            lambda: talk.get(http, "/") is not None,
            title="Ollama",
            port=port,
            timeout_s=spec.ready_timeout_s,
            died=lambda: death("Ollama", process),
            log=log,
        )
        version = str((talk.get_json(http, "/api/version") or {}).get("version", ""))
        title = f"Ollama {version}".rstrip()
        model = _available(http, spec, log=log)
        load_s = _load(http, model, title=title, process=process, timeout_s=spec.ready_timeout_s)
        yield Engine(
            name="ollama",
            title=title,
            version=version,
            url=url,
            api=spec.api or "ollama",
            dialect="ollama",
            model=model,
            launch_s=started_s + load_s,
            process=process,
            env=env,
            resolved=resolved(http, model),
            slots=int(env.get("OLLAMA_NUM_PARALLEL", "1")),
            weights_bytes=size_of_weights(spec.source) or _size_in_store(http, model),
        )


# ---------------------------------------------------------------- the model


def _available(http: httpx.Client, spec: LaunchSpec, *, log: Path) -> str:
    """Name under which the server has the model; brings it there first where it must."""
    if spec.source.endswith(".gguf"):
        return _created(http, spec, log=log)
    tag = spec.source or spec.model
    if not talk.is_listed(tag, talk.models(http, api="ollama") or [], api="ollama"):
        _pull(http, tag, log=log)
    return tag


def _created(http: httpx.Client, spec: LaunchSpec, *, log: Path) -> str:
    """A model made from the GGUF file; the file's hash is its tag, so another file is never taken for it."""
    file = Path(spec.source)
    if not file.is_file():
        raise EngineModelNotFound(
            f"there is no GGUF file {file}", hint=f"bring the model here with: harness models fetch {spec.model}"
        )
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', spec.model)}:{digest[:12]}"
    if talk.is_listed(name, talk.models(http, api="ollama") or [], api="ollama"):
        return name
    blob = f"sha256:{digest}"
    _log.info("bringing %s into Ollama's store", file.name)
    try:
        if http.head(f"/api/blobs/{blob}").status_code != httpx.codes.OK:
            with file.open("rb") as content:
                http.post(f"/api/blobs/{blob}", content=content, timeout=None).raise_for_status()
        answer = http.post(
            "/api/create", json={"model": name, "files": {file.name: blob}, "stream": False}, timeout=None
        )
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise EngineModelNotFound(
            f"Ollama refused the GGUF file {file}: {_error(error.response)}",
            hint="check that it is a GGUF file, and that the disk of the model store is not full",
            log=log,
        ) from error
    return name


def _pull(http: httpx.Client, tag: str, *, log: Path) -> None:
    hint = (
        "check the name on https://ollama.com/library, and that this machine reaches registry.ollama.ai; without a "
        "network give a .gguf file instead"
    )
    _log.info("pulling %s into Ollama's store", tag)
    trouble, has_succeeded = "the answer broke off", False
    try:
        with http.stream("POST", "/api/pull", json={"model": tag}, timeout=PULL_SILENCE_S) as answer:
            for line in answer.iter_lines():
                progress: dict[str, Any] = json.loads(line)
                has_succeeded = progress.get("status") == "success"
                if "error" in progress:
                    trouble = str(progress["error"])
    except (httpx.TransportError, json.JSONDecodeError) as error:
        trouble = str(error)
    if not has_succeeded:
        raise EngineModelNotFound(f"Ollama could not pull {tag}: {trouble}", hint=hint, log=log)


def _load(http: httpx.Client, model: str, *, title: str, process: ProcessGroup, timeout_s: float) -> float:
    """Seconds until the model was in memory, where it stays."""
    started = time.perf_counter()
    try:
        answer = http.post("/api/generate", json={"model": model, "keep_alive": FOREVER}, timeout=timeout_s)
    except httpx.TimeoutException as error:
        raise EngineHung(f"{title} did not load {model} within {timeout_s:.0f} s", log=process.log) from error
    except httpx.TransportError as error:
        process.ended(within_s=1.0)  # the connection may break a moment before the process is gone
        raise _load_failure(title, model, str(error), process) from error
    if answer.status_code != httpx.codes.OK:
        raise _load_failure(title, model, _error(answer), process)
    return time.perf_counter() - started


def _load_failure(title: str, model: str, trouble: str, process: ProcessGroup) -> EngineError:
    """What the log says of it, or else Ollama's answer."""
    text = f"{process.output()}\nError: {trouble}\n"
    return failure(title, text, returncode=process.returncode, log=process.log, model=model)


def resolved(http: httpx.Client, model: str) -> Flags:
    """What Ollama says of the loaded model: `size-vram-bytes` below `size-bytes` means that a part is on the CPU."""
    match talk.get_json(http, "/api/ps"):
        case {"models": [*loaded]}:
            entries = [entry for entry in loaded if talk.is_listed(model, [str(entry.get("name"))], api="ollama")]
            return {
                name: int(entry[key])
                for entry in entries
                for name, key in PS_FIELDS.items()
                if isinstance(entry.get(key), int)
            }
    return {}


def _size_in_store(http: httpx.Client, model: str) -> int | None:
    """Bytes of the model's files in the server's store. None: it does not say."""
    match talk.get_json(http, "/api/tags"):
        case {"models": [*stored]}:
            mine = (one for one in stored if talk.is_listed(model, [str(one.get("name"))], api="ollama"))
            return next((one["size"] for one in mine if isinstance(one.get("size"), int)), None)
    return None


def _error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {answer.status_code}"
