"""Real processes for the tests of whole commands."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.cli import main
from harness.models.fetch import CONVERSION

ROOT = Path(__file__).parents[2]
SMALL = """
name = "small"
title = "a few short streams"
[workload]
prompt_words = 8
output_tokens = 8
is_streamed = true
[load]
users = [1, 8]
requests_per_user = 6
min_s = 1.2
max_s = 30
warmup_max_s = 20
"""


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout; fails where there is anything else."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@pytest.fixture
def fake_vllm_python(tmp_path: Path) -> Path:
    """An interpreter in which `vllm` is the fake of tests/fakes."""
    path = tmp_path / "python-with-fake-vllm"
    site = ROOT / "tests" / "fakes" / "vllm_site"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{site}:{ROOT}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A clean environment whose model cache holds a model that only fakes can serve."""
    model = tmp_path / "cache" / "vllm-harness" / "models" / "smollm2-135m"
    (model / f"vllm-bf16-{CONVERSION}").mkdir(parents=True)
    (model / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def small_scenario(tmp_path: Path) -> Path:
    """A scenario of about two seconds a cell."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def harness_here(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """As `harness`, in this process: for words that are refused before anything is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def run(*words: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture
def harness(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Ended]:
    """Runs `harness WORDS` in an empty folder, to its end."""

    def run(*words: str | Path, env: dict[str, str] | None = None, timeout_s: float = 200) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *map(str, words)],
            cwd=tmp_path,
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def wait_for(found: Callable[[], Any], *, at_most_s: float = 90.0) -> Any:
    """What `found` gives as soon as it is something."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise TimeoutError("it never came")
