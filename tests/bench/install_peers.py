"""Install the proxies that ours is measured beside, each into an environment of its own.

    python tests/bench/install_peers.py [--into .venv-peers] [--python python3.12]

What cannot be installed leaves its reason in `why-not.txt`, which the benchmark prints; the exit code is 0 even then.
uvloop and httptools come along, though no peer asks for them: uvicorn takes them where they are, and a comparison
should not be won by a slower event loop.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

FAST = ("uvloop", "httptools")
OAI2OLLAMA_NEEDS = ("fastapi", "httpx[http2]", "pydantic-settings", "uvicorn")
"""What its server imports. Its other two requirements are for development, and one asks for Python 3.12 as it does."""

STEPS = {
    "oai2ollama": [["oai2ollama", *FAST]],
    "ollama-openai-proxy": [["ollama-openai-proxy", *FAST]],
    "litellm": [["litellm[proxy]", *FAST]],
}
OTHERWISE = {
    # Its code runs on 3.11; only its metadata says 3.12.
    "oai2ollama": [["--no-deps", "--ignore-requires-python", "oai2ollama"], [*OAI2OLLAMA_NEEDS, *FAST]]
}


def installed(folder: Path, steps: list[list[str]], python: str) -> str | None:
    """Make one environment; why it could not be made, or None."""
    shutil.rmtree(folder, ignore_errors=True)
    commands = [[python, "-m", "venv", str(folder)]]
    commands += [[str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *step] for step in steps]
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            said = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or [run.stderr.strip()]
            return f"cannot be installed: {said[-1][:300]}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the peers of the proxy benchmark.")
    parser.add_argument("--into", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--python", default=sys.executable)
    chosen = parser.parse_args()
    for name, steps in STEPS.items():
        folder = chosen.into / name
        why = installed(folder, steps, chosen.python)
        if why and name in OTHERWISE:
            why = installed(folder, OTHERWISE[name], chosen.python)
        if why:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "why-not.txt").write_text(why + "\n")
        print(f"{name}: {why or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
