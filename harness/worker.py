"""`harness worker`: this machine sends a part of another one's load; and the workers that are started over ssh."""

import contextlib
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness import load
from harness.errors import MeasurementInvalid
from harness.progress import Say
from harness.records import Fleet

LOOKED_EVERY_S: Final = 0.2
PAUSE_S: Final = 1.0
"""After a Locust that failed: a master that cannot be reached must not be asked in a busy loop."""
STOP_GRACE_S: Final = 5.0


def work(master_host: str, master_port: int, *, idle_s: float, ends_with_stdin: bool, say: Say) -> None:
    """Works for a master, cell after cell, until there has been none for `idle_s`.

    Args:  ends_with_stdin: also when stdin is closed, as ssh closes it when it ends.
    """
    say(f"waiting for a load from {master_host}:{master_port}; Ctrl-C ends this worker")
    last_s, worked = time.perf_counter(), 0
    while time.perf_counter() - last_s < idle_s:
        with tempfile.TemporaryDirectory(prefix="harness-worker-") as folder:
            log = Path(folder) / "locust.log"
            with load.locust_worker(master_host, master_port, folder=Path(folder), log=log) as child:
                while (code := child.poll()) is None:
                    if ends_with_stdin and select.select([sys.stdin], [], [], 0)[0] and not os.read(0, 1024):
                        return
                    time.sleep(LOOKED_EVERY_S)
            lines = load.last_lines(log.read_text(errors="replace"))
        if code == 0:
            worked, last_s = worked + 1, time.perf_counter()
            say(f"cell {worked} is done")
        else:
            say(f"Locust ended with code {code}: {lines[-1] if lines else 'it said nothing'}")
            time.sleep(PAUSE_S)
    say(f"no load came for {idle_s:.0f} s")


@contextmanager
def started(fleet: Fleet | None, *, log: Path) -> Iterator[None]:
    """The workers of `fleet.hosts`, started over ssh, for the length of a block; they end with it.

    Raises: MeasurementInvalid where one ends before its time: a host that ssh cannot reach, or that has no harness.
    """
    if fleet is None or not fleet.hosts:
        yield
        return
    command = f"harness worker --master {shlex.quote(f'{fleet.bind}:{fleet.port}')} --ends-with-stdin"
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab"))
        children = {}
        for host in fleet.hosts:
            child = subprocess.Popen(
                ["ssh", "-o", "BatchMode=yes", host, command],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
            stack.callback(load.stop_group, child, grace_s=STOP_GRACE_S)
            assert child.stdin is not None
            stack.callback(child.stdin.close)  # before the signal: the far end stops when this closes
            children[host] = child
        time.sleep(PAUSE_S)
        for host, child in children.items():
            if child.poll() is not None:
                raise MeasurementInvalid(
                    f"the worker on {host} ended at once with code {child.returncode} (log: {log})",
                    hint=f"try it by hand: ssh {host} {command}",
                )
        yield
