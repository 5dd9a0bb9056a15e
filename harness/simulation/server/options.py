"""What is simulated, and vLLM's command line."""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from harness.records import Flags, Record, Simulation
from harness.roofline import KV_BYTES
from harness.simulation.settings import DTYPES, MODELLED, QUANTIZED, SUFFIXES, WITHOUT_EFFECT

PROGRAM: Final = "api_server.py"
DEFAULT_MODEL: Final = "Qwen/Qwen3-0.6B"
SWITCHES: Final = frozenset(
    {
        "async-scheduling", "disable-log-stats", "disable-uvicorn-access-log", "enable-chunked-prefill",
        "enable-log-requests", "enable-prefix-caching", "enforce-eager", "trust-remote-code",
    }
)  # fmt: skip
COUNTS: Final = frozenset(
    {
        "block-size", "kv-cache-memory-bytes", "long-prefill-token-threshold", "max-cudagraph-capture-size",
        "max-num-active-seqs", "max-num-batched-tokens", "max-num-seqs", "port", "seed", "stream-interval",
    }
)  # fmt: skip
NUMBERS: Final = frozenset({"gpu-memory-utilization", "shutdown-timeout"})
LISTS: Final = frozenset({"cudagraph-capture-sizes", "served-model-name"})
CHOICES: Final = {
    "dtype": sorted(DTYPES),
    "kv-cache-dtype": ["auto", *sorted(KV_BYTES)],
    "performance-mode": ["balanced", "interactivity", "throughput"],
    "quantization": sorted(QUANTIZED),
}


class Options(Record, frozen=True, kw_only=True):
    """What vLLM's command line does not say."""

    simulation: Simulation
    speed: float = 1.0
    """How many of its seconds pass in one of ours,"""
    launch_speed: float = 1.0
    """and while it starts."""


class Given(Record, frozen=True, kw_only=True):
    """A command line of vLLM, read."""

    host: str
    port: int
    model: str
    names: tuple[str, ...]
    """Under which the model is served."""
    api_key: str | None
    flags: Flags
    """All that were given."""


def parser() -> argparse.ArgumentParser:
    """vLLM's flags, as far as the simulation has a use for them or can be sure that they change nothing."""
    flags = argparse.ArgumentParser(
        prog=PROGRAM, description="A simulated vLLM.", allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for name in sorted(MODELLED | WITHOUT_EFFECT):
        words = [f"--{name}", "-O"] if name == "optimization-level" else [f"--{name}"]
        flags.add_argument(*words, **_reading(name))
    return flags


def given(words: Sequence[str]) -> Given:
    """A command line as vLLM reads it. Exits with 2 where it is refused, as argparse does."""
    told = {name.replace("_", "-"): value for name, value in vars(parser().parse_args(plain(words))).items()}
    flags = {name: _flag(value) for name, value in told.items()}
    model = str(flags.get("model", DEFAULT_MODEL))
    key = flags.get("api-key")
    return Given(
        host=str(flags.get("host", "127.0.0.1")),
        port=int(flags.get("port", 8000)),
        model=model,
        names=tuple(told.get("served-model-name", [model])),
        api_key=None if key is None else str(key),
        flags=flags,
    )


def plain(words: Sequence[str]) -> list[str]:
    """The command line without what vLLM adds to argparse: --max_num_seqs, --help=all, --compilation-config.mode=3."""
    found: list[str] = []
    parts: dict[str, dict[str, object]] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            found.append(word)
            continue
        name, has_value, value = word.partition("=")
        name, _, key = name.partition(".")
        name = name.replace("_", "-")
        if key:
            value = value if has_value else left.pop(0) if left else ""
            parts.setdefault(name, {})[key] = value
        else:
            found.append("--help" if name == "--help" else name + has_value + value)
    return found + [word for name, keys in parts.items() for word in (name, json.dumps(keys))]


def _reading(name: str) -> dict[str, Any]:
    """How argparse reads this flag."""
    if name in SWITCHES:
        return {"action": argparse.BooleanOptionalAction}
    if name in CHOICES:
        return {"choices": CHOICES[name]}
    if name in LISTS:
        return {"nargs": "+"}
    if name in NUMBERS:
        return {"type": float}
    if name == "compilation-config":
        return {"type": json.loads}
    return {"type": count} if name in COUNTS else {}


def count(text: str) -> int:
    """As vLLM reads it: 8k is 8000, 8K is 8192."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG])|(-?\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}")
    return int(found[3]) if found[3] else int(float(found[1]) * SUFFIXES[found[2]])


def _flag(value: Any) -> Any:
    """As the simulation's settings take it."""
    if isinstance(value, list):
        return " ".join(value)
    return json.dumps(value) if isinstance(value, dict) else value
