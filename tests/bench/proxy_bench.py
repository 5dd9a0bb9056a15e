"""What the proxy costs: direct, ours, a bare relay and the peers, in interleaved rounds in front of one mock upstream.

    python tests/bench/proxy_bench.py [--only steady,burst] [--rounds 5] [--json FILE] [--bars]

It needs uvloop, httptools and psutil beside what the proxy itself needs. Peers lie in environments of their own, which
`install_peers.py` makes; those that are missing or do not start are named with the reason.

Definitions. Token latency: from the mock's writing a token to the client's reading it, one clock for all processes.
TTFT: from before the client connects to its reading the first text; the mock's own 20 ms are in it. Added: a target's
quantile less direct's quantile in the same round. CPU per token: processor time of the target's whole process tree
within a round, user and kernel, over the tokens that reached the client. Loss: one less the ratio of the rates at which
tokens arrived. Every figure: the median of the rounds [95 % interval, bootstrap over rounds].
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchproxy import machine, report, targets
from benchproxy.scenarios import Bench, Scenario, benches, measured, memory, scenarios
from benchproxy.targets import OPENAI, CannotStart, Running, Target

MISSED_BAR = 10
NAMES = ("steady", "burst", "single", "whole", "workers", "memory")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What the proxy costs, beside direct, a bare relay and its peers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(NAMES), help="scenarios to run, of these")
    parser.add_argument("--rounds", type=int, default=5, help="of every scenario; each has every target once")
    parser.add_argument("--streams", type=int, default=100, help="at a time")
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=3.0, help="that a steady stream lasts")
    parser.add_argument("--requests", type=int, default=10_000, help="of the scenario memory")
    parser.add_argument(
        "--ours", metavar="CMD", help="another proxy in ours' place; {upstream} and {port} are filled in"
    )
    parser.add_argument(
        "--peers", type=Path, default=targets.ROOT / ".venv-peers", help="where the peers are installed"
    )
    parser.add_argument(
        "--without", default="", metavar="NAMES", help="targets to leave out, by the start of their names"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--bars", action="store_true", help=f"exit with {MISSED_BAR} if a bar is missed")
    chosen = parser.parse_args(given)
    chosen.peers = chosen.peers.resolve()  # the peers run in folders of their own
    chosen.only = [name.strip() for name in chosen.only.split(",") if name.strip()]
    if unknown := set(chosen.only) - set(NAMES):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if chosen.rounds < 1 or chosen.streams < 1 or chosen.rate <= 0 or chosen.seconds <= 0:
        parser.error("--rounds, --streams, --rate and --seconds must be positive")
    return chosen


def begun(
    held: contextlib.ExitStack, wanted: list[Target], bench: Bench, scratch: Path, *, cores: tuple[int, ...]
) -> tuple[list[Running], dict[str, str]]:
    """The targets that answer, and why the others do not."""
    running, unable = [], {}
    for target in wanted:
        log = scratch / f"{target.name.replace(' ', '-')}.log"
        try:
            running.append(held.enter_context(targets.started(target, upstream_port=bench.port, cores=cores, log=log)))
        except CannotStart as why:
            unable[target.name] = f"cannot be started: {why}"
    return running, unable


def wanted_targets(chosen: argparse.Namespace, scratch: Path) -> tuple[list[Target], dict[str, str]]:
    """What shall run, and what cannot."""
    listed = [targets.ours(chosen.ours), targets.floor(), *targets.peers(chosen.peers, scratch)]
    left_out = tuple(name.strip() for name in chosen.without.split(",") if name.strip())
    wanted, unable = [], {}
    for entry in listed:
        name = entry.name if isinstance(entry, Target) else entry[0]
        if left_out and name.startswith(left_out):
            unable[name] = "left out as asked"
        elif isinstance(entry, Target):
            wanted.append(entry)
        else:
            unable[name] = entry[1]
    return wanted, unable


def with_workers(
    bench: Bench, scenario: Scenario, rounds: int, scratch: Path
) -> tuple[list[dict], dict[str, str], str | None]:
    """The same proxy with a worker on each of several cores, or why not."""
    count = len(bench.cores.workers)
    if not count:
        return [], {"workers": "skipped: fewer than 6 cores"}, None
    target = targets.ours(None, workers=count)
    with contextlib.ExitStack() as held:
        running, unable = begun(held, [target], bench, scratch, cores=bench.cores.workers)
        if not running:
            return [], unable, None
        rows, refused = measured(bench, scenario, [bench.direct, *running], rounds=rounds, say=say)
        return rows, refused, target.name


def main() -> int:
    """Exit code."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    cores = machine.shared_out(machine.usable_cores())
    loads = scenarios(streams=chosen.streams, rate_tok_s=chosen.rate, seconds=chosen.seconds)
    told = machine.described()
    os.sched_setaffinity(0, cores.rest)
    rows, memories, name_of_workers = [], [], None
    with contextlib.ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        wanted, unable = wanted_targets(chosen, scratch)
        bench = held.enter_context(benches(cores, scratch))
        running, broken = begun(held, wanted, bench, scratch, cores=cores.proxy)
        unable |= broken
        our = next((target for target in running if target.name == "ours"), None)
        if our is None:
            say(f"error: the proxy under test is not there: {unable.get('ours')}")
            return 1
        notes = {t.name: f"{t.target.api.path}; {t.target.note}".rstrip("; ") for t in running}
        print(opening(told, cores.note, notes, chosen.rounds), flush=True)
        for name in chosen.only:
            if name == "memory":
                memories = memory(bench, our, requests=chosen.requests, say=say)
                continue
            if name == "workers":
                if chosen.ours:
                    unable["workers"] = "skipped: --ours names a command of its own"
                    continue
                new, refused, name_of_workers = with_workers(bench, loads[name], chosen.rounds, scratch)
            else:
                relayed = replace(our, target=replace(our.target, name="ours /v1", api=OPENAI))
                like_for_like = [relayed] if name == "steady" and not chosen.ours else []
                everyone = [bench.direct, *running, *like_for_like]
                new, refused = measured(bench, loads[name], everyone, rounds=chosen.rounds, say=say)
            unable |= {who if who == name else f"{who} ({name})": why for who, why in refused.items()}
            rows += new
            if new:
                seen = list(dict.fromkeys(row["target"] for row in new))
                print(f"\n{name}: {loads[name].title}\n{report.scenario_text(new, name, seen)}", flush=True)
        peers = [target.name for target in running if target.target.is_peer]
    judged = report.bars(
        rows,
        memories,
        peers=peers,
        cores=told["cores"],
        workers=name_of_workers,
        offered_tok_s=chosen.streams * chosen.rate,
    )
    print(closing(unable, rows, judged))
    if chosen.json:
        measurements = {"rows": rows, "memory": memories, "bars": [asdict(bar) for bar in judged]}
        setting = {"machine": told, "cores": asdict(cores), "asked": vars(chosen), "targets": notes}
        everything = {**setting, "not_measured": unable, **measurements}
        chosen.json.write_text(json.dumps(everything, indent=1, default=str) + "\n")
    return MISSED_BAR if chosen.bars and any(bar.verdict == "MISSED" for bar in judged) else 0


def opening(told: dict, shared_out: str, notes: dict[str, str], rounds: int) -> str:
    """Where and what."""
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items() if version)
    lines = [
        f"machine: {told['cores']} cores, {told['cpu']}, {told['memory_gib']} GiB, Linux {told['kernel']}",
        f"python {told['python']}; {packages}",
        f"cores: {shared_out}",
        f"figures: median of {rounds} rounds [95 % interval]; order rotated each round",
        "measured, beside direct:",
        *(f"  {name}: {note}" for name, note in notes.items()),
    ]
    return "\n".join(lines)


def closing(unable: dict[str, str], rows: list[dict], judged: list[report.Bar]) -> str:
    """What is missing, how quiet it was, and the bars."""
    lines = [""]
    if unable:
        lines += ["not measured:", *(f"  {name}: {why}" for name, why in unable.items()), ""]
    if others := report.over_rounds([row["foreign_cores"] for row in rows]):
        lines += [f"other programs took {others.value:.2f} cores in the median measurement", ""]
    return "\n".join([*lines, "bars", report.bars_text(judged)])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
