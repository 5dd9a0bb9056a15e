"""Engine flags: as words of a command line, what an installed vLLM knows, and combinations that it refuses."""

import difflib
import hashlib
import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from harness.config import cache_folder
from harness.errors import EngineBadFlag, EngineCrashed
from harness.records import Flags, FlagValue, KnownFlag
from harness.simulation import build

ENTRY: Final = "vllm.entrypoints.openai.api_server"
"""The `vllm` command of the CPU build does not start, because it looks for the distribution "vllm"; this does."""
HELP_TIMEOUT_S: Final = 180.0
OPTION_LINE: Final = re.compile(r"^  (-.*?)(?:  |$)", re.MULTILINE)
"""Where the help defines flags; the descriptions, two spaces on, name flags too, also ones that are gone."""
OPTION: Final = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*)")
PROBE: Final = Path(__file__).with_name("probe_flags.py")
"""Runs in vLLM's interpreter; nothing of ours is imported there."""
TOLD: Final = "flags of this vLLM: "
"""How the line of its answer begins, among whatever else is printed."""
GRAPHED: Final = "cudagraph-capture-sizes"
MOST_GRAPHED: Final = "max-cudagraph-capture-size"
SUFFIXES: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Install:
    """A vLLM on this machine."""

    python: Path
    """Its interpreter, not resolved: a virtual environment is known by its link."""
    version: str

    @property
    def title(self) -> str:
        """For people: "vLLM 0.32.0", without the build after a plus sign, or "simulated vLLM 0.32.0"."""
        return f"{'simulated ' if build.is_simulated(self.version) else ''}vLLM {self.version.partition('+')[0]}"


def words(flags: Mapping[str, FlagValue]) -> list[str]:
    """Flags as words of a command line: True is the bare flag, False its --no- form."""
    found = []
    for name, value in flags.items():
        if value is True:
            found.append(f"--{name}")
        elif value is False:
            found.append(f"--no-{name}")
        elif str(value).startswith("-"):  # argparse would take it for a flag
            found.append(f"--{name}={value}")
        else:
            found += [f"--{name}", str(value)]
    return found


# ---------------------------------------------------------------- what this vLLM knows


def known_flags(install: Install, *, cache: Path | None = None) -> frozenset[str]:
    """Names without dashes of all flags that this vLLM has, from its own help.

    Asking takes around ten seconds, because vLLM imports torch for it, so the answer is kept.
    Args:     cache: folder of the kept answers. None: the user's cache folder.
    Raises:   EngineCrashed: it cannot even print its help.
    """
    kept = _kept_answer(install, "names", cache)
    if kept.is_file():
        return frozenset(msgspec.json.decode(kept.read_bytes(), type=list[str]))
    found = _asked_flags(install)
    _keep(kept, sorted(found))
    return found


def flag_schema(install: Install, *, cache: Path | None = None) -> dict[str, KnownFlag]:
    """Every flag of this vLLM with what it takes, by name, from its own argparse.

    A vLLM whose parser cannot be reached is asked for its help instead, which names the flags and no more.
    Args:     cache: folder of the kept answers. None: the user's cache folder.
    Raises:   EngineCrashed: it cannot even print its help.
    """
    kept = _kept_answer(install, "schema", cache)
    if kept.is_file():
        found = msgspec.json.decode(kept.read_bytes(), type=list[KnownFlag])
    else:
        found = _asked_schema(install)
        if not found:
            return names_only(known_flags(install, cache=cache))
        _keep(kept, found)
    return {flag.name: flag for flag in found}


def names_only(names: Collection[str]) -> dict[str, KnownFlag]:
    """The schema of an engine of whose flags only the names are known."""
    plain = {name for name in names if not (name.startswith("no-") and name.removeprefix("no-") in names)}
    return {name: KnownFlag(name=name, kind="") for name in sorted(plain)}


def _asked_schema(install: Install) -> list[KnownFlag]:
    """Empty where the parser could not be reached."""
    answer = _answer([str(install.python), str(PROBE), ENTRY], title=install.title)
    told = [line.removeprefix(TOLD) for line in answer.stdout.splitlines() if line.startswith(TOLD)]
    if not told:
        return []
    try:
        return msgspec.json.decode(told[-1], type=list[KnownFlag])
    except msgspec.DecodeError:
        return []


def _kept_answer(install: Install, what: str, cache: Path | None) -> Path:
    key = hashlib.sha256(f"{install.python.absolute()} {install.version}".encode()).hexdigest()[:16]
    return (cache or cache_folder() / "flags") / (f"{key}.json" if what == "names" else f"{key}-{what}.json")


def _keep(kept: Path, answer: object) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.encode(answer))
    fresh.replace(kept)  # in one step: another harness may read it now


def _asked_flags(install: Install) -> frozenset[str]:
    said = ""
    for word in ("--help=all", "--help"):  # since 0.11 a plain --help names only the groups; before, it said all
        answer = _answer([str(install.python), "-m", ENTRY, word], title=install.title)
        found = frozenset(name for line in OPTION_LINE.findall(answer.stdout) for name in OPTION.findall(line))
        if answer.returncode == 0 and "model" in found:
            return found
        said = said or (answer.stderr.strip().splitlines() or ["without a word"])[-1]
    raise EngineCrashed(
        f"{install.title} at {install.python} cannot print its help: {said}",
        hint=f"try it: {install.python} -m {ENTRY} --help=all",
    )


def _answer(argv: list[str], *, title: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=HELP_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineCrashed(f"{title} did not print its help within {HELP_TIMEOUT_S:.0f} s") from error


def check_known(flags: Flags, known: Collection[str], *, install: Install) -> None:
    """Nothing, where this version knows all flags. Raises: EngineBadFlag, with the nearest name that it knows."""
    for name in flags:
        plain = name.replace("_", "-").partition(".")[0]  # --compilation-config.mode sets a key of a JSON flag
        if plain in known:
            continue
        near = difflib.get_close_matches(plain, known, n=1)
        raise EngineBadFlag(
            f"{install.title} does not know the flag --{name}",
            hint=f"did you mean --{near[0]}?" if near else f"all that it knows: {install.python} -m {ENTRY} --help=all",
        )


# ---------------------------------------------------------------- what vLLM refuses


def violations(flags: Flags, *, model_max_len: int | None, needed_tokens: int | None) -> list[str]:
    """Why vLLM would refuse these flags, or could not serve the load: one sentence each, empty if all is well.

    Source: `verify_max_model_len` in vllm/config/scheduler.py, `_get_and_verify_max_len` in vllm/config/model.py,
    `_set_cudagraph_sizes` in vllm/config/vllm.py and `create_engine_config` in vllm/engine/arg_utils.py.
    A flag that is not given is not judged: its default depends on the card.
    Args:     model_max_len: what the model was made for; None where it is not known.
              needed_tokens: prompt and answer of the longest request; None where there is no load yet.
    """
    batched, seqs, active, prefill, context = (
        _count(flags, name)
        for name in (
            "max-num-batched-tokens", "max-num-seqs", "max-num-active-seqs", "long-prefill-token-threshold",
            "max-model-len",
        )
    )  # fmt: skip
    longest = context or model_max_len
    rules = [
        (
            batched is not None and seqs is not None and batched < seqs,
            f"max-num-batched-tokens {batched} is less than max-num-seqs {seqs}",
        ),
        (
            active is not None and seqs is not None and active > seqs,
            f"max-num-active-seqs {active} is more than max-num-seqs {seqs}",
        ),
        (
            prefill is not None and longest is not None and prefill > longest,
            f"long-prefill-token-threshold {prefill} is more than the context of {longest}",
        ),
        (
            context is not None and model_max_len is not None and context > model_max_len,
            f"max-model-len {context} is more than the {model_max_len} that the model knows",
        ),
        (
            batched is not None and longest is not None and batched < longest and not _is_chunked(flags),
            f"max-num-batched-tokens {batched} is less than the context of {longest}, without chunked prefill",
        ),
        (
            needed_tokens is not None and longest is not None and longest < needed_tokens,
            f"a context of {longest} does not hold a request of {needed_tokens} tokens",
        ),
        *((True, reason) for reason in _graph_conflicts(flags)),
        (
            (_count(flags, "api-server-count") or 1) > 1,
            f"api-server-count has no effect on python -m {ENTRY}",
        ),
    ]
    return [reason for is_broken, reason in rules if is_broken]


def _graph_conflicts(flags: Flags) -> list[str]:
    """Where two flags name the batch sizes of CUDA graphs and do not agree.

    A largest size alone is not refused: vLLM lowers it to the batch, or to what it captures.
    """
    most, config = _count(flags, MOST_GRAPHED), str(flags.get("compilation-config", ""))
    found = [
        f"{name} is given twice, also in compilation-config"
        for name in (GRAPHED, MOST_GRAPHED)
        if name in flags and re.search(rf"\b{name.replace('-', '_')}\b", config)
    ]
    sizes = [int(size) for size in re.findall(r"\d+", str(flags.get(GRAPHED, "")))]
    batched = _count(flags, "max-num-batched-tokens")
    largest = max((size for size in sizes if batched is None or size <= batched), default=None)
    if most is not None and sizes and largest != most and flags.get("enforce-eager") is not True:
        found.append(f"{MOST_GRAPHED} {most} is not the largest that is captured of {GRAPHED}, {largest or 'none'}")
    return found


def _is_chunked(flags: Flags) -> bool:
    return flags.get("enable-chunked-prefill", True) is True and flags.get("no-enable-chunked-prefill") is not True


def _count(flags: Flags, name: str) -> int | None:
    """A count as vLLM reads it: 8k is 8000, 8K is 8192. None: not given, or left to vLLM ("auto", -1)."""
    value = flags.get(name)
    if value is None or isinstance(value, bool):
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", str(value))
    return int(float(found[1]) * SUFFIXES.get(found[2], 1)) if found else None
