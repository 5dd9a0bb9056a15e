"""Presets: settings that a search found, where they lie, how they are written, and whether they may be used here.

They lie in `presets/<gpu>/<model>.toml`, either in the results folder (found by `harness tune`) or beside this module
(published); the user's own come first. What was found on another card, for another model, with another vLLM or by a
simulation is refused, unless the user wants it all the same, and then that is noted.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from harness import config, store
from harness.errors import ConfigInvalid, UsageError
from harness.records import Cell, Comparison, Estimate, Flags, GpuProfile, Preset, PresetFigure
from harness.stats import estimate, pairing

PUBLISHED: Final = config.HERE / "presets"
ANY_PRESET: Final = "--any-preset"
FLAG_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_.][A-Za-z0-9]+)*")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
"""Of a card, a model or a run: nothing that a path, a command line or a terminal would take for something else."""
NO_SETTINGS: Final = frozenset(
    {
        # where it listens, to whom, and what it serves
        "host", "port", "uds", "root-path", "model", "model-tag", "served-model-name", "config", "api-key",
        "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh",
        "allow-credentials", "allowed-origins", "allowed-methods", "allowed-headers", "allowed-local-media-path",
        "allowed-media-domains", "download-dir", "hf-token",
        # programs of others that it would run
        "trust-remote-code", "middleware", "tool-parser-plugin", "reasoning-parser-plugin", "io-processor-plugin",
        "logits-processors", "worker-cls", "worker-extension-cls", "scheduler-cls",
    }
)  # fmt: skip
"""Flags of vLLM that say where it listens and to whom, or what else it runs: never a preset's to set."""
LIMITLESS: Final = -1
"""What vLLM takes for "as much as there is", as in --max-model-len -1."""
FIGURE_METRICS: Final = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "e2e_s.p50", "e2e_s.p95")


# ---------------------------------------------------------------- where they lie


def preset_path(results: Path, *, gpu: str, model: str) -> Path:
    """Where `harness tune` writes the preset of this card and model."""
    return results / "presets" / gpu / f"{model}.toml"


def beside(path: Path, word: str) -> Path:
    """A file for another preset of the same card and model, told apart by a word, which no command takes by itself."""
    return path.with_name(f"{path.stem}.{word}.toml")


def find_preset(results: Path, *, gpu: str, model: str) -> tuple[Path, Preset] | None:
    """The user's own preset if there is one, else the published one. None: neither."""
    for path in (preset_path(results, gpu=gpu, model=model), PUBLISHED / gpu / f"{model}.toml"):
        if path.exists():
            return path, read_preset(path)
    return None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A preset, and where it was found."""

    preset: Preset
    origin: str
    """The file or the run, for people."""
    tuned_in: Path | None
    """Folder of the run that found it, where that is still here."""


def usual(*, results: Path, profile: GpuProfile, model: str | None) -> Found | None:
    """The settings of this card and model, or of the card's default model. None: there are none."""
    known = find_preset(results, gpu=profile.name, model=model or profile.default_model)
    return None if known is None else Found(preset=known[1], origin=str(known[0]), tuned_in=run_of(known[1], results))


def named(wanted: str, *, results: Path, model: str | None) -> Found:
    """The settings that are called so.

    Args:     wanted: a card, card/model, a file, or a run of `harness tune`.
              model: name in the registry. None: the card's default model.
    Raises:   UsageError: nothing is called that, or it has no settings.
    """
    cards = config.gpu_profiles()
    card, _, card_model = wanted.partition("/")
    if wanted.endswith(".toml"):
        return in_file(Path(wanted), results=results)
    if card in cards:
        name = card_model or model or cards[card].default_model
        found_here = usual(results=results, profile=cards[card], model=name)
        if found_here is None:
            raise UsageError(f"there is no preset of {card} for {name}", hint=f"find one: {tune_line(card, name)}")
        return found_here
    run = store.find_run(results, wanted)
    found = run.run().preset
    if found is None:
        raise UsageError(f"run {wanted} found no settings", hint="name a run of `harness tune` that has ended")
    own = run.path if run.id == found.run else run_of(found, results)
    return Found(preset=found, origin=f"run {run.id}", tuned_in=own)


def in_file(path: Path, *, results: Path) -> Found:
    """The preset in a file. Raises: ConfigInvalid naming file and key."""
    preset = read_preset(path)
    return Found(preset=preset, origin=str(path), tuned_in=run_of(preset, results))


def run_of(preset: Preset, results: Path) -> Path | None:
    """Folder of the run that found it. None: it is not here."""
    folder = results / preset.run
    return folder if preset.run and (folder / "run.json").exists() else None


# ---------------------------------------------------------------- as a file


def read_preset(path: Path) -> Preset:
    """Raises: ConfigInvalid naming file and key."""
    preset = config.convert(config.read_toml(path), Preset, path=path)
    for key, fault in faults(preset):
        raise ConfigInvalid(f"{path}: {key}: {fault}", hint=f"mend it, or find it anew: {retune(preset)}")
    return preset


def faults(preset: Preset) -> Iterator[tuple[str, str]]:
    """Key and fault of each value that is of the right type and yet none."""
    yield from faults_of_names(preset)
    yield from faults_of_flags(preset.flags)
    try:
        SpecifierSet(preset.vllm_versions)
    except InvalidSpecifier:
        yield "vllm_versions", f"{preset.vllm_versions!r} names no versions, as >=0.32,<0.33 does"
    figures = [("ratio", preset.ratio)]
    for place, row in enumerate(preset.figures):
        figures += [(f"figures[{place}].value", row.value), (f"figures[{place}].ratio", row.ratio)]
    for key, figure in figures:
        if figure is None:
            continue
        if not figure.low <= figure.value <= figure.high:
            yield key, f"{figure.value} is not between {figure.low} and {figure.high}"
        elif not (figure.low > 0 and figure.high < math.inf and 0 < figure.confidence < 1 and figure.n > 0):
            yield key, "is no figure: above 0, with a confidence between 0 and 1, of at least one value"


def faults_of_names(preset: Preset) -> Iterator[tuple[str, str]]:
    """Names that become a part of paths and of commands, and texts that a terminal would take for orders."""
    for key, name in (("gpu", preset.gpu), ("model", preset.model), ("run", preset.run)):
        if not NAME.fullmatch(name) and (name or key != "run"):
            yield key, f"{name!r} is no name"
    for key in ("vllm_version", "gpu_title", "created_utc", "driver", "harness_version", "precision"):
        if not getattr(preset, key).isprintable():
            yield key, "has characters that cannot be printed"


def faults_of_flags(flags: Flags) -> Iterator[tuple[str, str]]:
    """Flags that are none, that are not a preset's to set, or that are there twice."""
    seen: dict[str, str] = {}
    for name, value in flags.items():
        key, plain = f"flags.{one_line(name)}", name.replace("_", "-")
        if not FLAG_NAME.fullmatch(name):
            yield key, "is no name of a flag"
        if is_not_its_to_set(plain.removeprefix("no-").partition(".")[0]):
            yield key, "is for who starts vLLM to say, not for a preset"
        if (other := seen.setdefault(plain.removeprefix("no-"), name)) != name:
            yield key, f"is the same flag as {other}"
        if isinstance(value, float) and not math.isfinite(value):
            yield key, f"is {value}"
        if not isinstance(value, str) and value < 0 and value != LIMITLESS:
            yield key, f"is {value}, under 0"
        if isinstance(value, str) and "\0" in value:
            yield key, "has a zero byte, which no command line can"


def is_not_its_to_set(name: str) -> bool:
    """Whether vLLM would take it for one of `NO_SETTINGS`: its argparse knows a flag by any beginning of its name."""
    return bool(name) and any(known.startswith(name) for known in NO_SETTINGS)


def write_preset(preset: Preset, path: Path) -> None:
    """Replaces the file at once, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store.replace(path, as_toml(preset).encode())


def as_toml(preset: Preset) -> str:
    """The file, with a word on each part; what is not known is left out."""
    raw = without_unknown(msgspec.to_builtins(preset))
    ratio, figures, flags = raw.pop("ratio", None), raw.pop("figures"), raw.pop("flags")
    parts = [
        comment(heading(preset)),
        tomli_w.dumps({key: raw.pop(key) for key in ("gpu", "model", "is_default", "objective", "slos")}),
        comment(
            "Where this is known from. With any other vLLM than vllm_versions the settings may not hold: search again."
        ),
        tomli_w.dumps(raw),
        comment("What vLLM is started with, by its flags."),
        tomli_w.dumps({"flags": flags}),
    ]
    if ratio is not None:
        said = f"{figure_word(preset)}: the objective against vLLM's defaults."
        parts += [comment(said), tomli_w.dumps({"ratio": ratio})]
    if figures:
        parts += [comment(f"{figure_word(preset)} by load; times in seconds."), tomli_w.dumps({"figures": figures})]
    return "\n".join(part.strip() + "\n" for part in parts)


def heading(preset: Preset) -> str:
    """What the settings are, in a sentence or two."""
    where = f"{preset.model} on {preset.gpu_title or preset.gpu}"
    if preset.is_default:
        text = f"For {where} nothing that was tried is surely faster than vLLM's own defaults."
    else:
        text = f"The fastest settings found for {where}."
    return f"{text} SIMULATED: no engine was started." if preset.is_simulated else text


def figure_word(preset: Preset) -> str:
    """What the figures are."""
    return "Simulated" if preset.is_simulated else "Measured"


def comment(text: str) -> str:
    """`text` behind a #, on one line whatever is in it."""
    return "# " + one_line(text)


def one_line(text: str) -> str:
    """`text` without line ends and other control characters, so that it cannot leave the comment it stands in."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def without_unknown(value: Any) -> Any:
    """Nested dicts without the keys whose value is None: TOML has no such value."""
    if isinstance(value, dict):
        return {key: without_unknown(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_unknown(inner) for inner in value]
    return value


# ---------------------------------------------------------------- what goes into one


def expiry(vllm_version: str) -> str:
    """The versions that settings found with this one hold for: its minor version, as in ">=0.32,<0.33".

    Empty where the version has no such form.
    """
    try:
        found = Version(vllm_version)
    except InvalidVersion:
        return ""
    least = found.public if found.is_prerelease else f"{found.major}.{found.minor}"
    return f">={least},<{found.major}.{found.minor + 1}"


def figures_of(winner: Sequence[Cell], baseline: Sequence[Cell]) -> tuple[PresetFigure, ...]:
    """What the winner's valid cells gave at each load, with the ratio to the baseline's; loads without any are out."""
    rows = pairing.comparisons(baseline, winner, targets=(), gpu="", model="")
    wanted = [row for row in rows if row.metric in FIGURE_METRICS and row.candidate is not None]
    return tuple(
        PresetFigure(
            scenario=row.scenario,
            users=row.users,
            rate_per_s=row.rate_per_s,
            metric=row.metric,
            value=over_repeats([cell for cell in winner if is_of(cell, row)], row.metric),
            ratio=row.ratio,
        )
        for row in wanted
    )


def is_of(cell: Cell, row: Comparison) -> bool:
    """Whether the cell is of the row's load."""
    return (cell.scenario, pairing.level_of(cell)) == (row.scenario, pairing.level_of(row))


def over_repeats(cells: Sequence[Cell], metric: str) -> Estimate | None:
    """The geometric mean over launches and repeats. None: too few for an interval."""
    side = estimate.whole_blocks([pairing.by_block(cells, metric)])
    if side is None:
        return None
    variances, freedom = (list(column) for column in zip(*estimate.spread_of(side), strict=True))
    centre, half = estimate.centre_of(side), estimate.t_half(variances, freedom)
    count = sum(len(values) for block in side for values in block)
    unit = "tok/s" if metric == "output_tok_s" else "s"
    return estimate.on_logarithms(centre, centre - half, centre + half, n=count, unit=unit)


# ---------------------------------------------------------------- whether it may be used here


@dataclass(frozen=True, kw_only=True)
class Use:
    """What settings are to be used for. None: not known, and then not judged."""

    gpu: str | None
    model: str | None
    vllm_version: str | None


class PresetMismatch(UsageError):
    """Settings that were found for something else than what they are to be used for."""


def mismatches(preset: Preset, use: Use) -> list[str]:
    """Why these settings say nothing about this use, one sentence part each; empty where they do."""
    found = []
    if use.gpu is not None and preset.gpu != use.gpu:
        found.append(f"found on {preset.gpu}, this is {use.gpu}")
    if use.model is not None and preset.model != use.model:
        found.append(f"found for the model {preset.model}, this is {use.model}")
    if use.vllm_version is not None and not holds_for(preset, use.vllm_version):
        valid = preset.vllm_versions or expiry(preset.vllm_version)
        so_for = f" and valid for {valid}" if valid else ""
        found.append(f"found with vLLM {preset.vllm_version}{so_for}, this is {use.vllm_version}")
    if preset.is_simulated:
        found.append("found by a simulation: no engine was ever started with it")
    return found


def holds_for(preset: Preset, vllm_version: str) -> bool:
    """Whether this version is among those that the preset holds for."""
    valid = preset.vllm_versions or expiry(preset.vllm_version)
    try:
        here = Version(vllm_version)
    except InvalidVersion:
        return vllm_version == preset.vllm_version
    return bool(valid) and SpecifierSet(valid).contains(here, prereleases=True)


def checked(found: Found, use: Use, *, is_any: bool, say: Callable[[str], None], without: str = "") -> tuple[str, ...]:
    """Refuses settings that were found for something else.

    Args:     is_any: the user wants them all the same.
              without: the option that takes vLLM's defaults instead, where there is one.
    Returns:  What must be noted where they are used.
    Raises:   PresetMismatch, with all that does not fit.
    """
    preset, notes = found.preset, mismatches(found.preset, use)
    if not notes:
        return ()
    whole = f"the preset ({found.origin}) was {'; '.join(notes)}"
    if not is_any:
        line = tune_line(use.gpu or preset.gpu, use.model or preset.model)
        defaults = f"; take vLLM's defaults: {without}" if without else ""
        hint = f"find settings for here: {line}{defaults}; or use these all the same: {ANY_PRESET}"
        raise PresetMismatch(whole, hint=hint)
    say(f"warning: {whole}; used all the same ({ANY_PRESET})")
    return (f"{ANY_PRESET}: {whole}.",)


def retune(preset: Preset) -> str:
    """The command that finds this preset anew."""
    return tune_line(preset.gpu, preset.model)


def tune_line(gpu: str, model: str) -> str:
    """The command that finds settings for this card and model."""
    return f"harness tune --gpu {gpu} --model {model}"


def passed_flags(preset: Preset | None, profile: GpuProfile) -> Flags:
    """What vLLM is started with: what each launch on this card gets, then the preset's own."""
    return {**profile.vllm_flags, **(preset.flags if preset is not None else {})}
