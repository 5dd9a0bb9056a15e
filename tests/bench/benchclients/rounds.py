"""One measurement: a fresh reference engine, one client from its start to its end, and what each of the two says."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from benchproxy import machine
from benchproxy.figures import rotated

from benchclients.tools import ROOT, Load, Seen, Tool

POLL_S = 0.4
TIME_LIMIT_S = 300
TTFT_S, ITL_S = 0.2, 0.02
SHORTEST = 0.66
"""Answers are from a third of the limit up to it, evenly: users do not march in step, whichever client sends them."""
Row = dict[str, object]


@dataclass(frozen=True)
class Did:
    """What the server did for one request, as GET /times tells it."""

    received_s: float
    chunks_s: list[float]
    tokens: int
    end_s: float


@contextlib.contextmanager
def reference(*flags: str) -> Iterator[tuple[str, int]]:
    """The engine of known timing: its address and process id."""
    argv = [sys.executable, "-m", "harness.engines.reference", "--ttft-s", str(TTFT_S), *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1], server.pid
        finally:
            server.kill()


def times(url: str) -> list[Did]:
    """What the server did, for every request that it answered to the end."""
    with urllib.request.urlopen(f"{url}/times", timeout=60) as answer:
        told = [json.loads(line) for line in answer.read().splitlines()]
    return [
        Did(received_s=one["received_s"], chunks_s=one["chunks_s"], tokens=one["tokens"], end_s=one["end_s"])
        for one in told
        if one["end_s"] is not None and one["chunks_s"]
    ]


def gaps_ms(did: list[Did], kind: str) -> float:
    """The server's own median of what the client calls its ITL."""
    if kind == "each gap":
        return median(later - sooner for one in did for sooner, later in pairwise(one.chunks_s)) * 1e3
    # A mean over one answer's gaps is its length without the first token, divided by their number.
    means = [((one.chunks_s[-1] - one.chunks_s[0]) / (one.tokens - 1), one.tokens - 1) for one in did if one.tokens > 1]
    weighed = kind.endswith("by tokens")
    return median(mean for mean, count in means for _ in range(count if weighed else 1)) * 1e3


class Meter:
    """Processor time of a client's process tree and of the machine, read now and then while it runs."""

    def __init__(self, pid: int, cores: machine.Cores) -> None:
        self._pid, self._cores = pid, cores
        self._by_process: dict[int, float] = {}
        self._readings: list[tuple[float, float, machine.Busy]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for process in machine.tree(self._pid):
                # What a process that has ended used remains counted.
                self._by_process[process.pid] = max(
                    machine.process_cpu_s(process), self._by_process.get(process.pid, 0)
                )
            self._readings.append(
                (time.perf_counter(), sum(self._by_process.values()), machine.busy([os.getpid()], self._cores))
            )
            if self._done.wait(POLL_S):
                return

    def cpu_s(self, start_s: float, end_s: float) -> float:
        """What the client used between two moments."""
        return self._at(end_s) - self._at(start_s)

    def _at(self, moment_s: float) -> float:
        earlier = [reading for reading in self._readings if reading[0] <= moment_s]
        later = [reading for reading in self._readings if reading[0] > moment_s]
        if not earlier or not later:
            return (earlier or later)[-1 if earlier else 0][1]
        (t0, used0, _), (t1, used1, _) = earlier[-1], later[0]
        return used0 + (used1 - used0) * (moment_s - t0) / (t1 - t0)

    def foreign_cores(self, start_s: float, end_s: float) -> float:
        """How many cores' worth of time programs that are not ours took meanwhile."""
        within = [busy for at_s, _, busy in self._readings if start_s <= at_s <= end_s]
        return machine.foreign_cores(within[0], within[-1]) if len(within) > 1 else 0.0


def measured(tool: Tool, load: Load, *, scratch: Path, cores: machine.Cores, flags: tuple[str, ...] = ()) -> Row:
    """One round of one client. Raises: ValueError, OSError, KeyError where its report cannot be read."""
    scratch.mkdir(parents=True)
    told = ["--itl-s", str(ITL_S), "--tokens", str(load.tokens), "--length-spread", str(SHORTEST), *flags]
    with reference(*told) as (url, _):
        env = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **tool.env}
        command = tool.command(load, url, scratch)
        began_s = time.perf_counter()
        with (scratch / "stdout").open("wb") as out, (scratch / "stderr").open("wb") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=env, cwd=scratch, start_new_session=True
            )
            with Meter(child.pid, cores) as meter:
                try:
                    code = child.wait(TIME_LIMIT_S)
                finally:
                    if child.poll() is None:
                        os.killpg(child.pid, 9)
        wall_s = time.perf_counter() - began_s
        did = times(url)
    if code:
        raise ValueError(f"it ended with code {code}: {_last_words(scratch)}")
    return figures(tool, tool.seen(scratch), did, meter) | {"users": load.users, "wall_s": wall_s}


def figures(tool: Tool, seen: Seen, did: list[Did], meter: Meter) -> Row:
    """What the client saw beside what the server did, and what it cost meanwhile."""
    start_s, end_s = min(one.received_s for one in did), max(one.end_s for one in did)
    tokens = sum(one.tokens for one in did)
    did_ttft_ms = median(one.chunks_s[0] - one.received_s for one in did) * 1e3
    did_itl_ms = gaps_ms(did, tool.gaps)
    late = [at_s - one.received_s - TTFT_S - n * ITL_S for one in did for n, at_s in enumerate(one.chunks_s)]
    return {
        "tool": tool.name,
        "requests": len(did),
        "requests_seen": seen.requests,
        "tokens": tokens,
        "seconds": end_s - start_s,
        "tok_s": tokens / (end_s - start_s),
        "ttft_ms": seen.ttft_ms,
        "did_ttft_ms": did_ttft_ms,
        "ttft_bias_ms": seen.ttft_ms - did_ttft_ms,
        "itl_ms": seen.itl_ms,
        "did_itl_ms": did_itl_ms,
        "itl_bias_ms": seen.itl_ms - did_itl_ms,
        "cpu_us_per_token": meter.cpu_s(start_s, end_s) / tokens * 1e6,
        "cpu_whole_s": meter.cpu_s(0, end_s + TIME_LIMIT_S),
        "foreign_cores": meter.foreign_cores(start_s, end_s),
        "server_late_ms": fmean(late) * 1e3,
    }


def rounds(
    tools: list[Tool],
    load: Load,
    *,
    count: int,
    scratch: Path,
    cores: machine.Cores,
    say: Callable[[str], None],
    flags: tuple[str, ...] = (),
    name: str = "",
) -> tuple[list[Row], dict[str, str]]:
    """Every client in every round, begun at another one each time; and who failed, and why."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for number in range(count):
        for tool in rotated(tools, number):
            folder = scratch / f"{name}{load.users}-{number}-{tool.name.replace(' ', '-')}"
            try:
                row = measured(tool, load, scratch=folder, cores=cores, flags=flags)
            except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as why:
                failed[f"{tool.name}, {load.users} users, round {number + 1}"] = f"{type(why).__name__}: {why}"
                continue
            rows.append({"round": number, "name": name, **row})
            say(
                f"{load.users} users, round {number + 1} of {count}: {tool.name}: TTFT {row['ttft_bias_ms']:+.2f} ms, "
                f"ITL {row['itl_bias_ms']:+.3f} ms, {row['cpu_us_per_token']:.0f} us/token, {row['wall_s']:.0f} s"
            )
    return rows, failed


def _last_words(scratch: Path) -> str:
    lines = [
        line.strip()
        for name in ("stdout", "stderr")
        for line in (scratch / name).read_text(errors="replace").splitlines()
        if line.strip()
    ]
    return lines[-1][:300] if lines else "it said nothing"
