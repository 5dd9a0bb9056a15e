"""What is asked, in interleaved rounds, and what each round showed."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchproxy import machine
from benchproxy.figures import rotated
from benchproxy.machine import Cores
from benchproxy.targets import BENCH, OPENAI, Running, pinned

FIRST_S = 0.02
"""The mock's own time to the first token."""

SETTLED_CORES, SETTLE_WITHIN_S = 0.03, 15.0
Row = dict[str, object]


@dataclass(frozen=True)
class Scenario:
    """A load. `streams` clients start within `spread_s`, each asks `turns` times for `tokens` tokens.

    A rate of 0 is all tokens at once.
    """

    name: str
    title: str
    streams: int
    rate_tok_s: float
    tokens: int
    spread_s: float
    turns: int = 1
    is_streamed: bool = True

    @property
    def seconds(self) -> float:
        """How long it takes where nothing is in the way."""
        one = FIRST_S + (self.tokens - 1) / self.rate_tok_s if self.rate_tok_s else 0
        return self.spread_s + self.turns * one


def scenarios(*, streams: int, rate_tok_s: float, seconds: float) -> dict[str, Scenario]:
    """All loads by name."""
    load = f"{streams} streams x {rate_tok_s:g} tok/s"
    wide = 3 * streams
    long, short = max(2, round(seconds * rate_tok_s)), max(2, round(seconds * rate_tok_s / 3))
    return {
        "steady": Scenario("steady", f"{load}, starts spread over 200 ms", streams, rate_tok_s, long, 0.2),
        "burst": Scenario("burst", f"{load}, all at once and in step", streams, rate_tok_s, short, 0.0),
        "single": Scenario(
            "single", f"one client, 10 answers of 10 tokens at {rate_tok_s:g} tok/s", 1, rate_tok_s, 10, 0.0, 10
        ),
        "whole": Scenario(
            "whole", f"{streams} whole answers (stream: false)", streams, rate_tok_s, short, 0.2, 1, False
        ),
        "workers": Scenario(
            "workers", f"{wide} streams x {rate_tok_s:g} tok/s, several workers", wide, rate_tok_s, long, 0.2
        ),
    }


class Bench:
    """The mock and the client, started and pinned; `measure` is one round of one target."""

    def __init__(self, cores: Cores, *, mock: subprocess.Popen, client: subprocess.Popen, port: int) -> None:
        self.cores, self.mock, self.client, self.port = cores, mock, client, port
        self.direct = Running(_Direct, port)

    def ask(self, target: Running, scenario: Scenario, *, reuse: int = 1) -> dict:
        """What the client saw of one load."""
        job = {
            "port": target.port,
            "path": target.target.api.path,
            "headers": target.target.headers,
            "body": target.target.api.body(is_streamed=scenario.is_streamed, tokens=scenario.tokens),
            "is_streamed": scenario.is_streamed,
            "streams": scenario.streams,
            "turns": scenario.turns,
            "spread_s": scenario.spread_s,
            "tokens": scenario.tokens,
            "reuse": reuse,
            "timeout_s": 10 + 4 * scenario.seconds,
        }
        self.client.stdin.write(json.dumps(job).encode() + b"\n")
        self.client.stdin.flush()
        line = self.client.stdout.readline()
        if not line:
            raise RuntimeError("the client ended: see client.log")
        return json.loads(line)

    def set_pace(self, scenario: Scenario) -> None:
        """Tell the mock what every answer is from now on."""
        itl_s = 1 / scenario.rate_tok_s if scenario.rate_tok_s else 0
        told = {"tokens": scenario.tokens, "itl_s": itl_s, "first_s": FIRST_S if itl_s else 0}
        url = f"http://127.0.0.1:{self.port}/bench/pace"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(told).encode()), timeout=10).close()

    def measure(self, target: Running, scenario: Scenario, all_pids: list[int]) -> Row:
        """One round of one target."""
        before, mock_s = machine.busy(all_pids, self.cores), machine.cpu_s(self.mock.pid)
        cpu_s = machine.cpu_s(target.pid) if target.pid else 0.0
        seen = self.ask(target, scenario)
        cpu_s = machine.cpu_s(target.pid) - cpu_s if target.pid else 0.0
        after, mock_s = machine.busy(all_pids, self.cores), machine.cpu_s(self.mock.pid) - mock_s
        has_process = target.pid is not None and seen["tokens"] > 0
        return {
            **seen,
            "tok_s": seen["tokens"] / seen["elapsed_s"],
            "cpu_us_per_token": cpu_s / seen["tokens"] * 1e6 if has_process else None,
            "busy": cpu_s / seen["elapsed_s"],
            "mock_busy": mock_s / seen["elapsed_s"],
            "rss_mib": machine.rss_bytes(target.pid) / 2**20 if target.pid else None,
            "foreign_cores": machine.foreign_cores(before, after),
        }

    def settle(self, target: Running) -> None:
        """Return once the target has nothing left to do, so that it does not disturb the next one."""
        if target.pid is None:
            return
        end = time.monotonic() + SETTLE_WITHIN_S
        while time.monotonic() < end:
            before, begin = machine.cpu_s(target.pid), time.monotonic()
            time.sleep(0.15)
            if (machine.cpu_s(target.pid) - before) / (time.monotonic() - begin) < SETTLED_CORES:
                return


class _DirectTarget:
    """Stands where a target does: the mock itself."""

    name, api, headers, is_peer, note, argv = "direct", OPENAI, {}, False, "no proxy", ()


_Direct = _DirectTarget()


@contextlib.contextmanager
def benches(cores: Cores, scratch: Path) -> Iterator[Bench]:
    """Mock and client, running."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    mock_argv, client_argv = ([sys.executable, "-m", f"benchproxy.{name}"] for name in ("mock", "client"))
    with (
        (scratch / "mock.log").open("wb") as mock_log,
        (scratch / "client.log").open("wb") as client_log,
        pinned(mock_argv, cores=cores.mock, env=env, stdout=pipe, stderr=mock_log) as mock,
        pinned(client_argv, cores=cores.client, env=env, stdin=pipe, stdout=pipe, stderr=client_log) as client,
    ):
        told = mock.stdout.readline()
        if not told:
            raise RuntimeError((scratch / "mock.log").read_text())
        yield Bench(cores, mock=mock, client=client, port=int(told.rsplit(b":", 1)[1]))


def warmed(bench: Bench, target: Running, scenario: Scenario) -> str | None:
    """Ask a little, unmeasured; why the target cannot serve this, or None."""
    little = replace(scenario, streams=min(20, scenario.streams), tokens=20, turns=1, spread_s=0.05)
    bench.set_pace(little)
    end = time.monotonic() + 30
    while True:
        seen = bench.ask(target, little)
        bench.settle(target)
        if seen["complete"] == little.streams:
            return None
        if said := target.last_words:
            return f"it ended; its last line: {said}"
        if time.monotonic() > end:
            return f"{seen['complete']} of {little.streams} small answers came whole: {_told(seen['failures'])}"
        time.sleep(0.5)


def _told(failures: dict[str, int]) -> str:
    return "; ".join(f"{count} x {why}" for why, count in list(failures.items())[:3]) or "no reason"


def measured(
    bench: Bench, scenario: Scenario, targets: list[Running], *, rounds: int, say: Callable[[str], None]
) -> tuple[list[Row], dict[str, str]]:
    """Every target in every round, begun at another one each time; and who could not serve this, and why."""
    unable = {}
    for target in targets:
        if why := warmed(bench, target, scenario):
            unable[target.name] = why
    able = [target for target in targets if target.name not in unable]
    pids = [os.getpid(), bench.mock.pid, bench.client.pid, *(t.pid for t in targets if t.pid)]
    bench.set_pace(scenario)
    rows: list[Row] = []
    for number in range(rounds):
        begun = time.monotonic()
        for target in rotated(able, number):
            seen = bench.measure(target, scenario, pids)
            rows.append({"scenario": scenario.name, "round": number, "target": target.name, **seen})
            bench.settle(target)
        say(f"{scenario.name}: round {number + 1} of {rounds}, {time.monotonic() - begun:.0f} s")
    return rows, unable


def memory(bench: Bench, target: Running, *, requests: int, say: Callable[[str], None]) -> list[Row]:
    """Memory after each twentieth of `requests` short requests, streamed and whole by turns, 50 at a time."""
    steps, users = 20, 50
    turns = max(1, requests // steps // users)
    short = Scenario("memory", "", users, 0, 4, 0.0, turns)
    bench.set_pace(short)
    rows: list[Row] = []
    done = 0
    for step in range(steps):
        seen = bench.ask(target, replace(short, is_streamed=step % 2 == 0), reuse=10)
        done += turns * users
        rss = machine.rss_bytes(target.pid) if target.pid else 0
        row = {"requests": done, "rss_mib": rss / 2**20, "complete": seen["complete"], "failures": seen["failures"]}
        rows.append({"target": target.name, **row})
    say(f"memory: {target.name}, {done} requests")
    return rows
