"""An interpreter that passes for one in which vLLM is installed, and has the simulated one."""

import os
import shlex
import sys
from pathlib import Path
from typing import Final

import msgspec

import harness
from harness.simulation import build
from harness.simulation.server.options import Options

MODULE: Final = '''"""Stands where vLLM's server stands, and starts the simulated one."""

import sys
from pathlib import Path

import msgspec

from harness.simulation.server.options import Options
from harness.simulation.server.running import run

OPTIONS = Path(__file__).with_name("simulation.json")

if __name__ == "__main__":
    sys.exit(run(msgspec.json.decode(OPTIONS.read_bytes(), type=Options), sys.argv[1:]))
'''


def stand_in(options: Options, folder: Path) -> Path:
    """Writes a folder in which vLLM seems to be installed. Returns its interpreter, for `--vllm-python`."""
    version = build.version_of(options.simulation.profile.name, speed=options.speed)
    site, bin_folder = folder / "site", folder / "bin"
    package = site / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True, exist_ok=True)
    for place in (package, package.parent, package.parents[1]):
        (place / "__init__.py").write_text('"""A part of the simulated vLLM."""\n')
    (package / "api_server.py").write_text(MODULE)
    (package / "simulation.json").write_bytes(msgspec.json.encode(options))
    for old in site.glob("vllm-*.dist-info/METADATA"):
        old.unlink()
    facts = site / f"vllm-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    bin_folder.mkdir(exist_ok=True)
    python = bin_folder / "python"
    ours = [str(site.absolute()), str(Path(harness.__file__).absolute().parents[1])]
    path = shlex.quote(os.pathsep.join(ours))
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={path}${{PYTHONPATH:+":$PYTHONPATH"}} exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    return python
