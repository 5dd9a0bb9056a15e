"""Ends a group of processes; run as a program, it does so when the harness has died without stopping its engine.

An engine is a tree of processes, and a harness that is killed cannot stop it. The kernel's own answer
(PR_SET_PDEATHSIG) reaches only the first process of the tree, and fires when the *thread* that forked ends. So every
engine has a watchdog beside it, in a session of its own: the pipe between the two closes when the harness is gone,
in whatever way. This file is run by its path, so it imports nothing of ours.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import psutil

POLL_S = 0.05
ORPHAN_GRACE_S = 10.0
KILL_LIMIT_S = 15.0
"""After SIGKILL only a process that hangs in the kernel is left, and no signal ends that."""


def members(group: int) -> list[psutil.Process]:
    """Living processes of the group or session `group`; a zombie holds nothing any more."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if group in (os.getpgid(process.pid), os.getsid(process.pid)) and _lives(process):
                found.append(process)
    return found


def end_group(group: int, *, grace_s: float, is_urgent: Callable[[], bool] = lambda: False) -> Sequence[int]:
    """Ends all processes of `group` and all children of its leader: SIGTERM, wait, SIGKILL.

    Args:     is_urgent: asked while waiting; True cuts the wait short.
    Returns:  ids of the processes that not even SIGKILL could end; empty in all but broken cases.
    """
    strays = _strays(group)

    def living() -> list[psutil.Process]:
        return [*members(group), *(stray for stray in strays if _lives(stray))]

    for process in living():
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + grace_s
    while living() and time.monotonic() < deadline and not is_urgent():
        time.sleep(POLL_S)
    deadline = time.monotonic() + KILL_LIMIT_S
    while (left := living()) and time.monotonic() < deadline:  # again and again: a process may fork while it is killed
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(POLL_S)
    return [process.pid for process in left]


def _strays(leader: int) -> list[psutil.Process]:
    """Descendants of the leader that have made a group of their own."""
    with contextlib.suppress(psutil.Error):
        own = {process.pid for process in members(leader)}
        return [p for p in psutil.Process(leader).children(recursive=True) if p.pid not in own]
    return []


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one whose first thread is a zombie still holds its memory while other threads end."""
    with contextlib.suppress(psutil.Error):
        is_zombie = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return process.is_running() and (not is_zombie or process.num_threads() > 1)
    return False


def _born(pid: int) -> float | None:
    """When the process started. None: there is no such process."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def main() -> None:
    """Reads the group's number, then waits for the pipe to close; a word before that means that all ended in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    number = sys.stdin.buffer.readline()
    if not number:
        return  # the engine was never started
    group = int(number)
    born = _born(group)
    has_ended_in_order = bool(sys.stdin.buffer.read())
    # the number may have gone to a stranger since: then the leader's birth differs
    if not has_ended_in_order and _born(group) in (born, None):
        end_group(group, grace_s=ORPHAN_GRACE_S)


if __name__ == "__main__":
    main()
