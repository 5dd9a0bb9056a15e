"""The `vllm serve` line of a run, ready to copy."""

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import Final

from harness.records import EngineFacts, Flags, Run
from harness.report import words

# What the harness sets to be left alone, to look inside and to keep workers apart; no server of one's own wants it.
MEASURING_ENV: Final = frozenset(
    {"VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_SERVER_DEV_MODE", "HF_HUB_OFFLINE", "VLLM_CACHE_ROOT"}
)


def chosen(run: Run) -> EngineFacts | None:
    """The vLLM that ran with the settings that the run is about. None: it has chosen none, or started no vLLM."""
    servers = [facts for facts in run.engines if facts.engine in {"vllm", "proxied"}]
    if run.kind != "tune":
        return next((facts for facts in servers if facts.role in {"candidate", "bench"}), None)
    if run.preset is None:
        return None
    if run.preset.is_default:
        return next((facts for facts in servers if facts.role == "baseline"), None)
    wanted = run.preset.flags.items()
    same = [facts for facts in servers if wanted <= facts.flags.items()]
    return min(same, key=lambda facts: len(facts.flags), default=None)


def lines(run: Run) -> list[str]:
    """The command in pieces, one flag each, quoted for a shell; empty where the run has no settings to show."""
    facts = chosen(run)
    if facts is None and run.preset is None:
        return []
    flags = flags_of(run, facts)
    env = {name: value for name, value in facts.env.items() if name not in MEASURING_ENV} if facts else {}
    before = " ".join(f"{name}={shlex.quote(words.shown_value(name, value))}" for name, value in env.items())
    return [
        *([before] if before else []),
        f"vllm serve {shlex.quote(source(run) or run.model)}",
        *(shlex.join(words.flag_words({name: value})) for name, value in flags.items()),
    ]


def flags_of(run: Run, facts: EngineFacts | None) -> Flags:
    """What that server was passed, less what the defence of a search found to do nothing."""
    kept = run.preset.flags if run.preset else {}
    if facts is None:
        return kept
    dropped = set(run.defence.dropped if run.kind == "tune" and run.defence else ()) - kept.keys()
    return {name: value for name, value in facts.flags.items() if name not in dropped}


def line(run: Run) -> str:
    """The command on one line."""
    return " ".join(lines(run))


def caveat(run: Run) -> str:
    """What must be put into the command before it can be run; empty where it is whole."""
    if not lines(run) or source(run):
        return ""
    return f"Put the Hugging Face id or the folder of the weights in place of {run.model}."


def block(run: Run) -> str:
    """The command with a flag on each line; still one command to a shell."""
    parts = lines(run)
    return " \\\n  ".join(parts) if len(parts) > 2 else " ".join(parts)


def source(run: Run) -> str:
    """The model as vLLM took it, if that is an id of a hub; empty where it is a folder of that machine.

    Of a simulation, in which nothing was launched, as it was asked for.
    """
    facts = chosen(run)
    argv: Sequence[str] = facts.argv if facts else ()
    if not argv and run.is_simulated:
        argv = run.command.replace("=", " ").split()
    for name, value in itertools.pairwise(argv):
        if name in {"--model", "serve"} and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", value):
            return value
    return ""
