"""TOML files into records; every message names the file and the key.

The files: `gpus.toml` and `targets.toml` beside this module, and scenarios/*.toml. Presets: `harness.presets`.
"""

import difflib
import importlib.util
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import ConfigInvalid, UsageError
from harness.records import (
    ClosedLoop,
    GpuProfile,
    Load,
    OpenLoop,
    Record,
    Replay,
    Scenario,
    Target,
    TraceLine,
    Workload,
)

HERE = Path(__file__).parent
MAX_LENGTH = 1_000_000
"""Words or tokens: more than any model's context holds."""
T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The file as nested dicts. Raises: ConfigInvalid where it is missing or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: not valid TOML: {error}", hint="mend the line it names") from error
    except RecursionError as error:
        raise ConfigInvalid(f"{path}: brackets within brackets, too deep to read", hint="mend the file") from error


def convert(raw: object, kind: type[T], *, path: Path, table: str = "") -> T:
    """`raw`, which is all of the file or one `table` of it, as a record of `kind`.

    Raises:  ConfigInvalid naming file and key.
    """
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        key = (table + where.rstrip("`")).lstrip(".") or "top level"
        raise ConfigInvalid(f"{path}: {key}: {text}", hint=f"see the fields of {kind.__name__}") from error


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list: says the closest one and the whole list."""
    names = sorted(known)
    folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    meant = f"did you mean {folded[close[0]]!r}? " if close else ""
    return UsageError(f"no {what} is called {name!r}", hint=f"{meant}known: {', '.join(names)}")


def cache_folder() -> Path:
    """Where things lie that can be made again at a price: models, Ollama's store, what flags a vLLM knows.

    A relative XDG_CACHE_HOME counts as unset, as the XDG specification has it.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "vllm-harness"


# ---------------------------------------------------------------- cards and targets


def gpu_profiles(path: Path = HERE / "gpus.toml") -> dict[str, GpuProfile]:
    """All cards by name."""
    profiles = {}
    for name, table in read_toml(path).items():
        fields = {"name": name, **table} if isinstance(table, dict) else table
        profiles[name] = convert(fields, GpuProfile, path=path, table=name)
    return profiles


def gpu_profile(name: str) -> GpuProfile:
    """The card called `name`. Raises: UsageError with the list of known ones."""
    profiles = gpu_profiles()
    if name not in profiles:
        raise unknown_name("GPU profile", name, profiles)
    return profiles[name]


def profile_of_card(nvml_name: str) -> GpuProfile:
    """The profile whose `nvml_names` has this card. Raises: UsageError where none has."""
    profiles = gpu_profiles()
    for profile in profiles.values():
        if nvml_name.casefold() in (known.casefold() for known in profile.nvml_names):
            return profile
    measurable = sorted(name for name, profile in profiles.items() if not profile.is_predict_only)
    raise UsageError(
        f"this machine's card, {nvml_name!r}, has no profile",
        hint=f"name the nearest one with --gpu: {', '.join(measurable)}",
    )


class TargetsFile(Record, frozen=True, kw_only=True):
    """targets.toml as a whole."""

    target: tuple[Target, ...]


def targets(path: Path = HERE / "targets.toml") -> tuple[Target, ...]:
    """All rows of targets.toml, in the order of the file."""
    return convert(read_toml(path), TargetsFile, path=path).target


# ---------------------------------------------------------------- scenarios


def scenario_folder() -> Path:
    """Where scenarios/ lies; the package is located, never imported (it would bring Locust along)."""
    spec = importlib.util.find_spec("scenarios")
    if spec is None or spec.origin is None:
        raise UsageError("the folder scenarios/ is not installed", hint="install the project again: make venv")
    return Path(spec.origin).parent


def scenario(name: str, *, is_cpu: bool) -> Scenario:
    """The scenario called `name`, or the one in a TOML file; `[cpu]` replaces keys where there is no GPU."""
    folder = scenario_folder()
    if name.endswith(".toml"):
        path = Path(name)
    else:
        known = {file.stem for file in folder.glob("*.toml")}
        if name not in known:
            raise unknown_name("scenario", name, known)
        path = folder / f"{name}.toml"
    raw = read_toml(path)
    small = raw.pop("cpu", {})
    if not isinstance(small, dict):
        raise ConfigInvalid(f"{path}: cpu: must be a table", hint="write [cpu.workload] or [cpu.load]")
    table = merged(raw, small) if is_cpu else raw
    if isinstance(table.get("load"), dict):
        table["load"] = {"kind": "closed", **table["load"]}
    found = convert(table, Scenario, path=path)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", found.name):
        raise ConfigInvalid(
            f"{path}: name: {found.name!r} is not made of a-z, 0-9 and -", hint="it becomes part of file names"
        )
    if isinstance(found.load, Replay):
        absolute = str((path.parent / found.load.trace).absolute())
        found = msgspec.structs.replace(found, load=msgspec.structs.replace(found.load, trace=absolute))
    for key, fault in [*faults_of_workload(found.workload, found.load), *faults_of_load(found.load)]:
        raise ConfigInvalid(f"{path}: {key}: {fault}", hint="mend this key; scenarios/ has an example of each kind")
    return found


def faults_of_workload(work: Workload, load: Load) -> Iterator[tuple[str, str]]:
    """Key and fault of each value that asks for nothing sensible."""
    for name, least in (("prompt_words", 1), ("output_tokens", 1), ("shared_prefix_words", 0), ("turns", 1)):
        if not least <= getattr(work, name) <= MAX_LENGTH:
            yield f"workload.{name}", f"must be at least {least}, and at most {MAX_LENGTH}"
    if work.turns > 1 and not isinstance(load, ClosedLoop):
        yield "workload.turns", "conversations are for users that wait for answers; in a trace, lines have a session"


def faults_of_load(load: Load) -> Iterator[tuple[str, str]]:
    """Key and fault of each value that no load can be made of. Raises: ConfigInvalid for a trace that is none."""
    least: dict[str, float] = {}
    above_zero: tuple[str, ...] = ("request_timeout_s",)
    match load:
        case ClosedLoop():
            least = {"requests_per_user": 1, "min_requests": 1, "min_s": 0, "warmup_max_s": 0, "ramp_s": 0}
            if not load.users or min(load.users) < 1:
                yield "load.users", "must be a list of counts of at least 1, as in [1, 5]"
            if not load.min_s <= load.max_s < math.inf:
                yield "load.max_s", f"is {load.max_s:g}: must be at least min_s ({load.min_s:g}), and finite"
        case OpenLoop():
            least = {"warmup_s": 0, "max_in_flight": 1}
            above_zero += ("duration_s",)
            if not load.rates_per_s or not all(0 < rate < math.inf for rate in load.rates_per_s):
                yield "load.rates_per_s", "must be a list of rates above 0, as in [0.5, 2]"
        case Replay():
            least = {"max_in_flight": 1}
            above_zero += ("speed",)
            trace(Path(load.trace))
    for name, limit in least.items():
        if not limit <= getattr(load, name) < math.inf:
            yield f"load.{name}", f"must be at least {limit:g}, and finite"
    for name in above_zero:
        if not 0 < getattr(load, name) < math.inf:
            yield f"load.{name}", "must be above 0, and finite"


def trace(path: Path) -> tuple[TraceLine, ...]:
    """The requests of a trace, one JSON object a line, in the order of the file.

    Raises:  ConfigInvalid naming file and line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error.strerror}", hint="check load.trace") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_trace_line(line, where=f"{path}:{number}"))
    if not found:
        raise ConfigInvalid(f"{path}: has no requests", hint="one JSON object a line, see scenarios/traces/")
    return tuple(found)


def _trace_line(line: bytes, *, where: str) -> TraceLine:
    try:
        found = msgspec.json.decode(line, type=TraceLine)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{where}: {error}", hint="see the fields of TraceLine") from error
    is_sane = all(1 <= length <= MAX_LENGTH for length in (found.prompt_words, found.output_tokens))
    if not is_sane or not 0 <= found.at_s < math.inf:
        raise ConfigInvalid(
            f"{where}: needs at_s >= 0, and prompt_words and output_tokens from 1 to {MAX_LENGTH}",
            hint="mend this line",
        )
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid upon it, tables within tables."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out
