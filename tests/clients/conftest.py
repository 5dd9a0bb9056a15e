"""Real clients, each run as a process by its own interpreter, against the three servers of `servers.py`.

`make clients` installs them; HARNESS_CLIENTS names another folder. A client or server that is not here is skipped; in
CI it must be here, but for Ollama and for what the installer could not install. What a client saw is asked once for
each server and kept for all tests.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import servers
from tests.clients.calls import calls, together
from tests.clients.servers import Json, Target, client_part

SCRIPTS = Path(__file__).parent / "scripts"
KINDS = ("vllm", "scripted", "ollama")
Document = dict[str, Any]
Ask = Callable[..., Document]


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Target]]:
    """A server of that kind, started when first asked for, stopped at the end."""
    starts = {"vllm": servers.before_vllm, "scripted": servers.before_script, "ollama": servers.ollama_itself}
    started: dict[str, Target] = {}
    with contextlib.ExitStack() as running:

        def target(kind: str) -> Target:
            if kind not in started:
                started[kind] = running.enter_context(starts[kind](tmp_path_factory.mktemp(kind)))
            return started[kind]

        yield target


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    return targets(request.param)


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Runs a client's script against a server, once, and gives what it saw."""
    kept: dict[tuple[str, str], Document] = {}

    def seen(client: str, target: Target) -> Document:
        if (client, target.kind) not in kept:
            found = CLIENTS[client](target, tmp_path_factory.mktemp(client))
            kept[client, target.kind] = found | {"still_running": target.running()}
        return kept[client, target.kind]

    return seen


def run(argv: list[str | Path], told: Json, *, env: dict[str, str], timeout_s: float = 150) -> Document:
    """The document that a script prints; fails with its stderr where there is none."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.upper().endswith(("_PROXY", "PYTHONPATH"))
    }
    done = subprocess.run(
        [str(word) for word in argv],
        input=json.dumps(told),
        env=inherited | env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    sys.stderr.write(done.stderr)  # shown by pytest where the test fails
    assert done.returncode == 0, done.stderr[-4000:]
    document: Document = json.loads(done.stdout)
    return document


def names(target: Target) -> Json:
    return {"url": target.url, **{what: getattr(target, what) for what in ("chat", "embed", "tools", "thinking")}}


def in_python(script: str, target: Target, told: Json, *, part: str = "python", **env: str) -> Document:
    return run([client_part(part, "bin", "python"), SCRIPTS / script], names(target) | told, env=env)


def ollama_python(target: Target, folder: Path) -> Document:
    return in_python("ollama_python.py", target, {"calls": calls(target, client="sync")})


def ollama_python_async(target: Target, folder: Path) -> Document:
    told = {"calls": calls(target, client="async"), "is_async": True, "together": together(target)}
    return in_python("ollama_python.py", target, told)


def ollama_npm(target: Target, folder: Path) -> Document:
    modules = client_part("node", "node_modules").parent
    node = shutil.which("node")
    if node is None:
        servers.missing("node is not on the PATH", get_it="your system's package nodejs")
    told = {"url": target.url, "calls": calls(target, client="npm")}
    return run([node, SCRIPTS / "ollama_node.mjs"], told, env={"CLIENT_MODULES": str(modules)})


def langchain(target: Target, folder: Path) -> Document:
    return in_python("langchain_ollama_client.py", target, {})


def llm(target: Target, folder: Path) -> Document:
    return in_python("llm_client.py", target, {}, OLLAMA_HOST=target.url, LLM_USER_PATH=str(folder))


def litellm(target: Target, folder: Path) -> Document:
    return in_python("litellm_client.py", target, {}, LITELLM_LOCAL_MODEL_COST_MAP="True", OLLAMA_API_BASE=target.url)


def open_webui(target: Target, folder: Path) -> Document:
    env = {"DATA_DIR": str(folder), "STATIC_DIR": str(folder / "static"), "USE_SLIM_DOCKER": "true"}
    env |= {"WEBUI_SECRET_KEY": "of a test", "OFFLINE_MODE": "true", "CORS_ALLOW_ORIGIN": "http://localhost"}
    return in_python("open_webui_client.py", target, {}, part="open-webui", **env)


CLIENTS: dict[str, Callable[[Target, Path], Document]] = {
    "ollama_python": ollama_python,
    "ollama_python_async": ollama_python_async,
    "ollama_npm": ollama_npm,
    "langchain": langchain,
    "llm": llm,
    "litellm": litellm,
    "open_webui": open_webui,
}
