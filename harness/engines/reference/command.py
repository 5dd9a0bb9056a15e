"""The command's flags, and the process that they start."""

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import harness.engines.reference
from harness.engines.reference.plan import Fault, Plan, When
from harness.engines.reference.server import ReferenceServer
from harness.wire.connection import Connection

HOST: Final = "127.0.0.1"
WHEN_HELP: Final = "WHEN is a chance such as 0.05, or after:20 for all requests after the first 20"
FAULTS: Final = {
    Fault.DROP: "close the connection without an answer",
    Fault.CLOSE_EARLY: "close the connection in the middle of the answer",
    Fault.END_EARLY: "end the response in the middle of the answer, as HTTP wants it",
    Fault.STALL: "send nothing more from the middle of the answer on",
    Fault.DUPLICATE: "send one chunk of text twice",
    Fault.GARBAGE: "send bytes that are no chunk in the middle of the answer",
    Fault.HTTP_500: "answer with status 500 and vLLM's or Ollama's words for it",
    Fault.HTTP_503: "answer with status 503",
}


def parser() -> argparse.ArgumentParser:
    """The flags, each with what it is for."""
    flags = argparse.ArgumentParser(
        prog="python -m harness.engines.reference", description=harness.engines.reference.__doc__
    )
    add = flags.add_argument
    add("--port", type=int, default=0, help="port on loopback; 0 picks a free one (default 0)")
    add("--model", default="reference", help="name under which the model is listed (default reference)")
    add("--ttft-s", type=float, default=0.2, help="seconds until the first token (default 0.2)")
    add("--itl-s", type=float, default=0.02, help="seconds between tokens (default 0.02)")
    add("--tokens", type=_positive, default=100, help="tokens of an answer without a limit (default 100)")
    add(
        "--length-spread",
        type=_share,
        default=0.0,
        help="answers end by themselves, at lengths drawn evenly from (1 - this) of their limit up to it (default 0)",
    )
    add("--tokens-per-chunk", type=_positive, default=1, help="tokens that one chunk carries (default 1)")
    add(
        "--role-chunk",
        dest="has_role_chunk",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open OpenAI streams at once, not with the first token as vLLM does, with a chunk that has only a role",
    )
    add(
        "--split-utf8",
        dest="splits_utf8",
        action="store_true",
        help="cut each chunk inside a character, into two packets",
    )
    add(
        "--ignore-max-tokens",
        dest="ignores_max_tokens",
        action="store_true",
        help="answer with --tokens whatever a request asks for",
    )
    add("--capacity", type=_positive, help="answers under way at once; further requests queue")
    add("--times", type=Path, help="append to this file what GET /times tells, as each answer ends")
    faults = flags.add_argument_group("faults", f"One at most befalls a request. {WHEN_HELP}.")
    for fault, told in FAULTS.items():
        faults.add_argument(f"--{fault}", dest=fault.value, type=_when, metavar="WHEN", help=told)
    faults.add_argument(
        "--fault-at-token", type=_positive, help="after how many tokens the middle is (default: half of the answer)"
    )
    faults.add_argument(
        "--die-after", type=_positive, metavar="REQUESTS", help="kill this process at the next request after so many"
    )
    faults.add_argument(
        "--seed", type=int, default=0, help="which requests faults befall, and how long answers are (default 0)"
    )
    return flags


def plan(flags: argparse.Namespace) -> Plan:
    """The flags as a plan."""
    told = vars(flags)
    faults = {fault: told[fault.value] for fault in Fault if told[fault.value] is not None}
    return Plan(faults=faults, **{name: told[name] for name in Plan.__struct_fields__ if name in told})


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError("must be from 0 to below 1")
    return value


def _when(text: str) -> When:
    if text.startswith("after:"):
        return When(after=int(text.removeprefix("after:")))
    if not 0 < (chance := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be a chance over 0 and up to 1, or after:REQUESTS")
    return When(chance=chance)


async def _serve(plan: Plan, *, port: int, times: Path | None) -> None:
    server = ReferenceServer(plan, times=times)
    # The backlog must hold all users of a level that connect in one instant.
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), HOST, port, backlog=1024)
    bound = listening.sockets[0].getsockname()[1]
    print(f"reference engine ready on http://{HOST}:{bound}", flush=True)  # noqa: T201 - awaited by whoever started it
    await listening.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; SIGTERM keeps its default action, which ends the process at once."""
    flags = parser().parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(plan(flags), port=flags.port, times=flags.times))
