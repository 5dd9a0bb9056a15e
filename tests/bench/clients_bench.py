"""What measuring costs and how far it is off: our client beside guidellm, aiperf and `vllm bench serve`.

    python tests/bench/clients_bench.py [--users 50,100] [--rounds 5] [--only load,role,rate] [--json FILE] [--bars]

Each client puts the same load on a fresh reference engine, which tells afterwards when it did send what. The clients
lie in environments of their own, which `install_bench_clients.py` makes, and `--vllm-python` names an interpreter that
has vLLM; those that are missing or fail are named with the reason.

The load: so many users, each asking again as soon as its answer has ended, five times; TTFT 200 ms, ITL 20 ms, answers
of 51 to 150 tokens. No client warms up. Bias: the median that the client reports less the median of what the server
did, from a request's arrival to its first token for the TTFT; for the ITL the server's median is taken as the client
takes its own (each gap, or the mean gap of an answer). CPU per token: processor time of the client's whole process tree
between the first request's arrival and the last answer's end, over the tokens sent; "in all" has its start and its
report too. Every figure: the median of the rounds [95 % interval, bootstrap over rounds]; the order is rotated each
round.

`role` is one more round at the largest load against a server that opens each stream at once with a chunk that has a
role and no text. `rate` is 100 streams of 150 tok/s to 4 Locust processes.
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchclients import rate, report
from benchclients.rounds import rounds
from benchclients.tools import ROOT, Load, tools
from benchproxy import machine
from benchproxy.report import bars_text

MISSED_BAR = 10
NAMES = ("load", "role", "rate")
TOKENS, PROMPT_TOKENS, REQUESTS_PER_USER, RATE_RUNS = 150, 64, 5, 5


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="How far clients are off, and what they cost.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(NAMES), help="parts to run, of these")
    parser.add_argument("--users", default="50,100", help="loads")
    parser.add_argument("--rounds", type=int, default=5, help="of every load; each has every client once")
    parser.add_argument("--clients", type=Path, default=ROOT / ".venv-bench-clients", help="where the peers lie")
    parser.add_argument(
        "--vllm-python", default=os.environ.get("HARNESS_VLLM_PYTHON"), help="interpreter that has vLLM"
    )
    parser.add_argument("--without", default="", metavar="NAMES", help="clients to leave out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--bars", action="store_true", help=f"exit with {MISSED_BAR} if a bar is missed")
    chosen = parser.parse_args(given)
    chosen.only = [name.strip() for name in chosen.only.split(",") if name.strip()]
    chosen.without = {name.strip() for name in chosen.without.split(",") if name.strip()}
    if unknown := set(chosen.only) - set(NAMES):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    try:
        chosen.users = sorted({int(users) for users in chosen.users.split(",")})
    except ValueError:
        parser.error("--users must be numbers, as in 50,100")
    if chosen.rounds < 1 or chosen.users[0] < 1:
        parser.error("--rounds and --users must be positive")
    return chosen


def load_of(users: int) -> Load:
    return Load(users=users, requests=users * REQUESTS_PER_USER, tokens=TOKENS, prompt_tokens=PROMPT_TOKENS)


def main() -> int:
    """Exit code."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    told, cores = machine.described(), machine.shared_out(machine.usable_cores())
    found, unable = tools(chosen.clients, chosen.vllm_python)
    able = [tool for tool in found if tool.name not in chosen.without]
    print(opening(told, [f"{tool.name} {tool.version}; its ITL: {tool.gaps}" for tool in able], chosen), flush=True)
    rows, roles, rates = [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-clients-") as folder:
        scratch = Path(folder)
        setting = {"scratch": scratch, "cores": cores, "say": say}
        for users in chosen.users if "load" in chosen.only else ():
            new, failed = rounds(able, load_of(users), count=chosen.rounds, flags=("--no-role-chunk",), **setting)
            rows, unable = rows + new, unable | failed
            print(f"\n{report.load_text(new, users)}", flush=True)
        if "role" in chosen.only:
            users = chosen.users[-1]
            roles, failed = rounds(able, load_of(users), count=1, name="role-", **setting)
            unable |= failed
            print(f"\nwith a role-only chunk at once\n{report.load_text(roles, users)}", flush=True)
        for number in range(RATE_RUNS if "rate" in chosen.only else 0):
            rates.append(rate.measured(number, scratch=scratch / f"rate-{number}", cores=cores))
            say(f"rate: run {number + 1} of {RATE_RUNS}: {rates[-1]['seen_tok_s']:.0f} tok/s")
    if rates:
        print(f"\n{report.rate_text(rates)}")
    judged = report.bars(rows, rates)
    print(closing(unable, rows, judged))
    if chosen.json:
        measurements = {"rows": rows, "roles": roles, "rates": rates, "bars": [asdict(bar) for bar in judged]}
        everything = {"machine": told, "asked": vars(chosen), "not_measured": unable, **measurements}
        chosen.json.write_text(json.dumps(everything, indent=1, default=str) + "\n")
    return MISSED_BAR if chosen.bars and any(bar.verdict == "MISSED" for bar in judged) else 0


def opening(told: dict, clients: list[str], chosen: argparse.Namespace) -> str:
    """Where and what."""
    lines = [
        f"machine: {told['cores']} cores, {told['cpu']}, {told['memory_gib']} GiB, Linux {told['kernel']}",
        f"python {told['python']}; cores are shared by server and client",
        f"figures: median of {chosen.rounds} rounds [95 % interval]; milliseconds; order rotated each round",
        "measured:",
        *(f"  {client}" for client in clients),
    ]
    return "\n".join(lines)


def closing(unable: dict[str, str], rows: list[dict], judged: list[report.Bar]) -> str:
    """What is missing, how quiet it was, and the bars."""
    lines = [""]
    if unable:
        lines += ["not measured:", *(f"  {name}: {why}" for name, why in unable.items()), ""]
    if others := report.over_rounds([row["foreign_cores"] for row in rows]):
        lines += [f"other programs took {others.value:.2f} cores in the median measurement", ""]
    return "\n".join([*lines, "bars", bars_text(judged)])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
