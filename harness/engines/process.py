"""A process group of our own: its log, its port, its end.

Only processes that were started here are ever signalled, and none of them outlives the `with` block or the harness.
"""

import contextlib
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Final, Protocol, Self

import psutil

from harness import interrupts
from harness.engines import watchdog
from harness.errors import EngineError, EngineHung, EngineNotFound, EnginePortTaken

POLL_S: Final = 0.25
LOOK_S: Final = 0.02
STOP_GRACE_S: Final = 20.0
PORTS: Final = range(20_000, 32_000)
"""Below those that systems give to outgoing connections, which come and go while an engine loads its model."""


class ProcessGroup:
    """A program that was started by `process_group`, with everything that it starts itself."""

    def __init__(self, leader: subprocess.Popen[bytes], *, argv: Sequence[str], log: Path, log_start: int) -> None:
        self._leader = leader
        self._log_start = log_start
        self._oom_kills_before = _oom_kills()
        self.argv = tuple(argv)
        self.log = log
        self.pid = leader.pid
        """Id of the first process, and of the group."""

    @property
    def returncode(self) -> int | None:
        """Exit code of the first process, negative for a signal. None: it lives.

        Looks without reaping: until `process_group` ends, the group's number must not go to a stranger.
        """
        if self._leader.returncode is not None or not hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            return self._leader.poll()
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def ended(self, *, within_s: float) -> bool:
        """Whether the first process has ended; waits for that, up to `within_s`."""
        deadline = time.monotonic() + within_s
        while self.returncode is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(LOOK_S, within_s))
        return True

    def output(self) -> str:
        """What this launch has written to the log; a file may hold earlier ones too."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def oom_kills(self) -> int | None:
        """Processes that the kernel killed for want of memory since the start, anybody's. None: it does not tell."""
        now = _oom_kills()
        return None if now is None or self._oom_kills_before is None else now - self._oom_kills_before

    def listens_on(self, port: int) -> bool:
        """Whether one of our processes has the port; True where the system does not let us look."""
        for process in watchdog.members(self.pid):
            try:
                connections = process.net_connections(kind="tcp")
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                return True
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
                return True
        return False


class Watched(Protocol):
    """What `wait_ready` must know of a process."""

    def ended(self, *, within_s: float) -> bool:
        """Whether it has ended; waits for that, up to `within_s`."""

    def listens_on(self, port: int) -> bool:
        """Whether it is the one that listens on the port."""


@contextlib.contextmanager
def process_group(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    cwd: Path | None = None,
    grace_s: float = STOP_GRACE_S,
) -> Iterator[ProcessGroup]:
    """Runs `argv` in a session of its own; on exit every process of it is gone.

    Args:     log: gets a line with the command and then all output; text that is there already stays.
              env: the whole environment, not an addition to ours.
              grace_s: between SIGTERM and SIGKILL; an interrupt during this time cuts it short.
    Raises:   EngineNotFound: there is no such program.  EngineHung: a process of the group cannot be ended.
    """
    with log.open("ab") as sink, _Watchdog() as guard:
        sink.write(f"$ {shlex.join(argv)}\n".encode())
        sink.flush()
        log_start = sink.tell()  # now: the engine shares the file's position, and moves it
        leader = None
        try:
            with _interrupts_held():  # between the start and the `try` that ends it
                leader = _started(argv, sink=sink, env=env, cwd=cwd, log=log)
                guard.watch(leader.pid)
            yield ProcessGroup(leader, argv=argv, log=log, log_start=log_start)
        finally:
            if leader is not None:
                _stop(leader, grace_s=grace_s, log=log)
                guard.dismiss()


def _started(
    argv: Sequence[str], *, sink: BinaryIO, env: Mapping[str, str], cwd: Path | None, log: Path
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineNotFound(f"{argv[0]} cannot be started: {error.strerror}", log=log) from error


def _stop(leader: subprocess.Popen[bytes], *, grace_s: float, log: Path) -> None:
    with _interrupts_held() as has_interrupt:
        left = watchdog.end_group(leader.pid, grace_s=grace_s, is_urgent=has_interrupt)
        if not left:
            leader.wait()
    if left:
        raise EngineHung(f"processes {', '.join(map(str, left))} of the engine could not be ended", log=log)


class _Watchdog:
    """Ends a group when we die; see watchdog.py."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", watchdog.__file__],  # -P: its folder must not shadow the standard library
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def watch(self, group: int) -> None:
        self._write(f"{group}\n".encode())

    def dismiss(self) -> None:
        """The group is gone; without this the end of the `with` block has it ended."""
        self._write(b"gone")

    def _write(self, text: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(text)
                self._process.stdin.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal wait until the block is done; what it yields says whether one came.

    Without this a second Ctrl-C would end the harness in the middle of stopping its engine.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    if threading.current_thread() is not threading.main_thread():  # no other thread is ever interrupted
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in interrupts.heeded()}
    try:
        yield lambda: bool(came)
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _oom_kills() -> int | None:
    """The kernel's count since it booted. None: not Linux, or not told in this container."""
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def free_port() -> int:
    """A port of the loopback address that nobody has now; `wait_ready` checks that it became ours."""
    for port in random.SystemRandom().sample(PORTS, k=len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EnginePortTaken(f"all ports from {PORTS.start} to {PORTS.stop - 1} are taken")


def wait_ready(
    process: Watched,
    is_ready: Callable[[], bool],
    *,
    title: str,
    port: int,
    timeout_s: float,
    died: Callable[[], EngineError],
    log: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds until `is_ready` and the port is ours; asked about each 0.25 s.

    Raises:   what `died` makes, as soon as the process has ended.  EngineHung: not ready within `timeout_s`.
              EnginePortTaken: it is another program that answers.
    """
    started = clock()
    while not is_ready():
        if process.ended(within_s=POLL_S):
            raise died()
        if clock() - started > timeout_s:
            raise EngineHung(
                f"{title} was not ready after {timeout_s:.0f} s",
                hint="see the end of its log for what it was doing; a slow machine needs a longer ready_timeout_s",
                log=log,
            )
    ready_s = clock() - started
    if not process.listens_on(port):
        if process.ended(within_s=POLL_S):
            raise died()
        raise EnginePortTaken(
            f"another program answers on port {port}, which {title} was to have",
            hint=f"find it with: ss -ltnp 'sport = :{port}'",
            log=log,
        )
    return ready_s
