"""What is measured: no proxy at all, ours, the floor, and the peers that are installed, each in front of one mock."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
BENCH = Path(__file__).parents[1]
LISTENING = re.compile(rb"listening on http://\S+:(\d+)")
QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in one paragraph."}]
MODEL = "bench"
LITELLM_KEY = "sk-bench"


class CannotStart(Exception):
    """A target that cannot be measured, and why."""


@dataclass(frozen=True)
class Api:
    """How a target is asked."""

    name: str
    path: str

    def body(self, *, is_streamed: bool, tokens: int) -> dict[str, object]:
        if self.name == "ollama":
            options = {"num_predict": tokens}
            return {"model": MODEL, "messages": QUESTION, "stream": is_streamed, "options": options}
        asked: dict[str, object] = {"model": MODEL, "messages": QUESTION, "stream": is_streamed, "max_tokens": tokens}
        return {**asked, "stream_options": {"include_usage": True}} if is_streamed else asked


OLLAMA = Api("ollama", "/api/chat")
OPENAI = Api("openai", "/v1/chat/completions")


@dataclass(frozen=True)
class Target:
    """One server under test. `argv` may hold {upstream} and {port}; without {port} it must say where it listens."""

    name: str
    api: Api
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    is_peer: bool = False
    ready_s: float = 30.0
    note: str = ""


@dataclass
class Running:
    """A target that answers."""

    target: Target
    port: int
    child: subprocess.Popen | None = None  # None: no process in between
    log: Path | None = None

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def last_words(self) -> str | None:
        """The last line of its log, if it has ended."""
        return _last_line(self.log) if self.child and self.child.poll() is not None else None

    @property
    def name(self) -> str:
        return self.target.name


def ours(command: str | None, *, workers: int = 1) -> Target:
    """The proxy under test."""
    argv = tuple(shlex.split(command)) if command else (sys.executable, "-m", "proxy", "--upstream", "{upstream}")
    if not command:
        argv += ("--port", "0", *(("--workers", str(workers)) if workers > 1 else ()))
    return Target("ours" if workers == 1 else f"ours x{workers}", OLLAMA, argv)


def floor() -> Target:
    """A relay that looks at nothing."""
    path = os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])
    argv = (sys.executable, "-m", "benchproxy.relay", "{upstream_port}")
    return Target("floor", OPENAI, argv, env={"PYTHONPATH": path}, note="bare TCP relay")


def peers(folder: Path, scratch: Path) -> list[Target | tuple[str, str]]:
    """Each peer as a target, or its name and why it cannot be one.

    All run as their own commands run them, but for three things. oai2ollama's command knows one port only, and
    ollama-openai-proxy's imports a package `src` that its wheel does not hold: both are given to uvicorn instead, the
    latter with its own files under that name. And uvloop and httptools lie in their environments (`install_peers.py`),
    which makes them faster than a plain installation. Logs stay at each one's default and go to a file.
    """
    upstream_env = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": "{upstream}/v1",
        "OPENAI_API_BASE_URL": "{upstream}/v1",
    }
    found: list[Target | tuple[str, str]] = []
    uvicorn = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}")

    python = folder / "oai2ollama" / "bin" / "python"
    name = _named(python, "oai2ollama")
    if name is None:
        found.append(("oai2ollama", _missing(python)))
    else:
        argv = (str(python), *uvicorn, "oai2ollama:app")
        note = "relays bytes, translates nothing; it serves no /api/chat"
        found.append(Target(name, OPENAI, argv, env=upstream_env, is_peer=True, note=note))

    python = folder / "ollama-openai-proxy" / "bin" / "python"
    name = _named(python, "ollama_openai_proxy")
    if name is None:
        found.append(("ollama-openai-proxy", _missing(python)))
    else:
        shim = scratch / "ollama-openai-proxy"
        shim.mkdir()
        (shim / "src").symlink_to(_site_packages(python), target_is_directory=True)
        env = {**upstream_env, "PYTHONPATH": str(shim)}
        note = "starts only with a folder `src` put into its path"
        found.append(Target(name, OLLAMA, (str(python), *uvicorn, "src.main:app"), env=env, is_peer=True, note=note))

    command = folder / "litellm" / "bin" / "litellm"
    name = _named(command, "litellm")
    if name is None:
        found.append(("litellm", _missing(command)))
    else:
        config = scratch / "litellm.yaml"
        model = f"model: openai/{MODEL}, api_base: '{{upstream}}/v1', api_key: none"
        config.write_text(f"model_list: [{{model_name: {MODEL}, litellm_params: {{{model}}}}}]\n")
        env = {"LITELLM_MASTER_KEY": LITELLM_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        argv = (str(command), "--config", str(config), "--host", "127.0.0.1", "--port", "{port}")
        headers = {"authorization": f"Bearer {LITELLM_KEY}"}
        note = "it serves no /api/chat"
        found.append(Target(name, OPENAI, argv, env=env, headers=headers, is_peer=True, ready_s=180, note=note))
    return found


def _missing(program: Path) -> str:
    why = program.parents[1] / "why-not.txt"
    return why.read_text().strip() if why.exists() else "not installed"


def _named(program: Path, package: str) -> str | None:
    """Name and version; None where it is not installed."""
    if not program.exists():
        return None
    for folder in _site_packages(program).glob(f"{package}-*.dist-info"):
        return f"{package.replace('_', '-')} {folder.name.removeprefix(f'{package}-').removesuffix('.dist-info')}"
    return None


def _site_packages(program: Path) -> Path:
    return next((program.parents[1] / "lib").glob("python3*/site-packages"))


@contextlib.contextmanager
def started(target: Target, *, upstream_port: int, cores: tuple[int, ...], log: Path) -> Iterator[Running]:
    """The target, answering; gone on exit. Raises CannotStart."""
    port = free_port()
    values = {"upstream": f"http://127.0.0.1:{upstream_port}", "upstream_port": str(upstream_port), "port": str(port)}
    _fill_configs(target, values)
    argv = [part.format(**values) for part in target.argv]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **{key: text.format(**values) for key, text in target.env.items()}}
    with log.open("wb") as sink, pinned(argv, cores=cores, env=env, stdout=sink, stderr=sink) as child:
        if not any("{port}" in part for part in target.argv):
            port = _told_port(child, log, within_s=target.ready_s)
        _wait_until_open(child, port, log, within_s=target.ready_s)
        yield Running(target, port, child, log)


def _fill_configs(target: Target, values: dict[str, str]) -> None:
    for part in target.argv:
        if part.endswith(".yaml"):
            Path(part).write_text(Path(part).read_text().replace("{upstream}", values["upstream"]))


@contextlib.contextmanager
def pinned(argv: list[str], *, cores: tuple[int, ...], **how) -> Iterator[subprocess.Popen]:
    """A process on `cores` with a group of its own; on exit it and its descendants are gone."""
    child = subprocess.Popen(
        argv, cwd=ROOT, start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cores), **how
    )
    try:
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen) -> None:
    """End a process and its descendants, gently first."""
    try:
        descendants = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.kill()
    child.wait()


def _told_port(child: subprocess.Popen, log: Path, *, within_s: float) -> int:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if told := LISTENING.search(log.read_bytes()):
            return int(told[1])
        if child.poll() is not None:
            break
        time.sleep(0.05)
    raise CannotStart(_why(child, log, within_s))


def _wait_until_open(child: subprocess.Popen, port: int, log: Path, *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if child.poll() is not None:
            break
        time.sleep(0.1)
    raise CannotStart(_why(child, log, within_s))


def _why(child: subprocess.Popen, log: Path, within_s: float) -> str:
    state = "silent" if child.poll() is None else f"ended with {child.returncode}"
    return f"{state} within {within_s:g} s; its last line: {_last_line(log)}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "none"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
