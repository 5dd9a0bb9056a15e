"""This machine: which cores go to whom, what a process tree has used, and who else is busy."""

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "fastapi", "httpx", "aiohttp", "msgspec", "orjson")
MOST_WORKERS = 4


@dataclass(frozen=True)
class Cores:
    """Who runs where; `workers` are the cores of the proxy with several workers, empty where there are too few."""

    proxy: tuple[int, ...]
    mock: tuple[int, ...]
    client: tuple[int, ...]
    rest: tuple[int, ...]
    workers: tuple[int, ...]
    note: str

    @property
    def all(self) -> set[int]:
        return {*self.proxy, *self.mock, *self.client, *self.rest, *self.workers}


def shared_out(cores: list[int]) -> Cores:
    """Cores of their own for proxy, mock and client where there are enough."""
    if len(cores) >= 4:
        rest, mock, client, proxy, *more = cores
        workers = (proxy, *more)[:MOST_WORKERS] if len(cores) >= 6 else ()
        note = "proxy, mock and client on a core of their own"
        return Cores((proxy,), (mock,), (client,), (rest,), workers, note)
    if len(cores) == 3:
        mock, client, proxy = cores
        return Cores((proxy,), (mock,), (client,), (client,), (), "proxy, mock and client on a core of their own")
    if len(cores) == 2:
        side, proxy = cores
        return Cores((proxy,), (side,), (side,), (side,), (), "proxy on one core; mock and client share the other")
    only = tuple(cores)
    return Cores(only, only, only, only, (), "one core for all: latencies here say nothing")


def usable_cores() -> list[int]:
    """The cores we may use, one of each physical core before the second of any."""
    return sorted(os.sched_getaffinity(0), key=lambda core: (_rank_among_siblings(core), core))


def _rank_among_siblings(core: int) -> int:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return 0
    firsts = [part.split("-") for part in text.strip().split(",")]
    siblings = [number for ends in firsts for number in range(int(ends[0]), int(ends[-1]) + 1)]
    return siblings.index(core) if core in siblings else 0


def described() -> dict:
    """What a reader must know of the machine to place the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pid: int) -> float:
    """Processor seconds of a tree so far, all threads, user and kernel.

    From the kernel's clock of each process, to the nanosecond; psutil's figures come in steps of 10 ms.
    """
    return sum(process_cpu_s(process) for process in tree(pid))


def process_cpu_s(process: psutil.Process) -> float:
    try:
        # clock_getcpuclockid(3): the id of a process's clock is made from its pid.
        return time.clock_gettime_ns((~process.pid << 3) | 2) / 1e9
    except OSError:
        pass
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return used.user + used.system


def rss_bytes(pid: int) -> int:
    """Memory of a tree; pages that its processes share count for each."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@dataclass(frozen=True)
class Busy:
    """Processor seconds of some cores and of our own processes, at one moment."""

    clock_s: float
    all_s: float
    ours_s: float


def busy(pids: list[int], cores: Cores) -> Busy:
    """A reading of the cores that are in use here; two of them make `foreign_cores`."""
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests are within user already
    every = sum(
        value
        for core, used in enumerate(psutil.cpu_times(percpu=True))
        if core in cores.all
        for name, value in used._asdict().items()
        if name not in idle
    )
    return Busy(time.perf_counter(), every, sum(cpu_s(pid) for pid in pids))


def foreign_cores(before: Busy, after: Busy) -> float:
    """How many cores' worth of time others took: programs of others, and the host of a virtual machine."""
    used = (after.all_s - before.all_s) - (after.ours_s - before.ours_s)
    return max(0.0, used / max(after.clock_s - before.clock_s, 1e-9))
