"""Where a study's preset goes, and what becomes of one that lies there: nothing that was proved is lost in silence."""

from pathlib import Path
from typing import Final

from harness import presets
from harness.errors import ConfigInvalid
from harness.records import Preset, Record
from harness.tune.plan import preset_file

EARLIER: Final = "An earlier preset"
"""How the note about it begins; a study that goes on replaces it."""
DAMAGED: Final = "damaged"


class Placed(Record, frozen=True, kw_only=True):
    """Where a preset was written."""

    path: Path
    note: str = ""
    """What became of the one that another run had written there."""


def placed(found: Preset, *, results: Path) -> Placed:
    """Writes the preset, and keeps what another run had found.

    Settings that an earlier study defended stay where every command looks for them, as long as they hold for this vLLM
    and the same objective, until other settings are defended: "no clear winner" and an undefended one disprove nothing.
    """
    path = usual_file(found, results)
    try:
        earlier = presets.read_preset(path) if path.exists() else None
    except ConfigInvalid as error:
        aside = presets.beside(path, DAMAGED)
        path.replace(aside)
        presets.write_preset(found, path)
        return Placed(path=path, note=f"{EARLIER} could not be read ({error.message}) and is kept as {aside}.")
    if earlier is None or earlier.run == found.run:
        presets.write_preset(found, path)
        return Placed(path=path)
    if stays(earlier, found):
        mine = presets.beside(path, found.run)
        presets.write_preset(found, mine)
        return Placed(
            path=mine,
            note=f"{EARLIER} stays in use: {described(earlier)}. {outcome_text(found)} disproves nothing of it. What "
            f"this study ends with is {mine}; to use that instead: --preset {found.run}, or delete {path} and resume.",
        )
    if earlier.is_default:
        presets.write_preset(found, path)
        return Placed(path=path, note=f"{EARLIER} is replaced: {described(earlier)}.")
    aside = presets.beside(path, earlier.run)
    path.replace(aside)
    presets.write_preset(found, path)
    return Placed(path=path, note=f"{EARLIER} is replaced: {described(earlier)}. It is kept as {aside}.")


def place_of(found: Preset, *, results: Path) -> Path:
    """Where the preset of a run that has ended lies."""
    path = usual_file(found, results)
    mine = presets.beside(path, found.run)
    return mine if mine.exists() and run_in(path) != found.run else path


def usual_file(found: Preset, results: Path) -> Path:
    """Where commands look for it."""
    return preset_file(results, gpu=found.gpu, model=found.model, is_simulated=found.is_simulated)


def run_in(path: Path) -> str:
    """The run that wrote the preset; empty where there is none that can be read."""
    try:
        return presets.read_preset(path).run if path.exists() else ""
    except ConfigInvalid:
        return ""


def stays(earlier: Preset, found: Preset) -> bool:
    """Whether what was defended before outweighs what was found now."""
    was_proved = earlier.is_defended and not earlier.is_default
    is_proved = found.is_defended and not found.is_default
    holds = presets.holds_for(earlier, found.vllm_version)
    return was_proved and not is_proved and holds and earlier.objective == found.objective


def described(preset: Preset) -> str:
    """ "run X (2026-11-28): 1.15x the defaults (1.10 to 1.20), defended"."""
    day, ratio = preset.created_utc[:10], preset.ratio
    figure = "keep the defaults" if preset.is_default or ratio is None else ""
    if ratio is not None and not preset.is_default:
        how = "defended" if preset.is_defended else "undefended"
        figure = f"{ratio.value:.3f}x the defaults ({ratio.low:.3f} to {ratio.high:.3f}), {how}"
    return f"run {preset.run}{f' of {day}' if day else ''}: {figure}"


def outcome_text(found: Preset) -> str:
    """What this study ended with."""
    return "No clear winner" if found.is_default else "An undefended winner"
