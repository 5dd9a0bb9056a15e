"""Real processes to be read."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
sys.stdin.read()
child.communicate()
"""
CHILD = """
import sys, time
spent = bytearray({held_bytes})
until = time.process_time() + {cpu_s}
while time.process_time() < until:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""

Start = Callable[..., tuple[int, int, float]]


@contextmanager
def process_with(environ: Mapping[str, str]) -> Iterator[int]:
    """A process with just this environment, while the block lasts. Until it has spoken the kernel may show it none."""
    argv = [sys.executable, "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate(b"\n")


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts a process with a child that holds memory and has used CPU; (its id, the child's, CPU seconds of that)."""
    with ExitStack() as stack:

        def start(*, held_bytes: int = 0, cpu_s: float = 0.0) -> tuple[int, int, float]:
            program = CHILD.format(held_bytes=held_bytes, cpu_s=cpu_s)
            parent = subprocess.Popen(
                [sys.executable, "-c", PARENT, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(parent.communicate)
            assert parent.stdout is not None
            child_pid, used_s = parent.stdout.readline().split()
            return parent.pid, int(child_pid), float(used_s)

        yield start
