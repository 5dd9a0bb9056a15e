"""`harness export`."""

from pathlib import Path

import click

from harness import config, engines, export, presets, telemetry
from harness.cli.common import cli, closing, output_options, say
from harness.cli.machine import any_preset_option
from harness.errors import EngineNotFound, UsageError
from harness.records import Flags, Preset


@cli.command("export")
@output_options
@click.argument("wanted", metavar="PRESET")
@click.option(
    "--format", "kind", type=click.Choice(sorted(export.FORMATS)), required=True, help="What to write: see below."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: stdout.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), default=export.PORT, show_default=True, help="Where vLLM will listen."
)
@click.option(
    "--model", "source", help="What vLLM loads: an id of Hugging Face or a folder. Default: the preset's model."
)
@click.option("--gpu", help="Card of the machine that it is for. Default: this machine's card, where it has one.")
@click.option("--vllm-python", help="Interpreter that has vLLM. Default: the one found here, where there is one.")
@click.option("--vllm-version", help="Version that will run. Default: the one found here; compose: that of the image.")
@click.option("--image", help="With --format compose. Default: vLLM's own image of the preset's version.")
@any_preset_option
def export_command(
    *,
    is_json: bool,
    results: Path,
    wanted: str,
    kind: str,
    out: Path | None,
    port: int,
    source: str | None,
    gpu: str | None,
    vllm_python: str | None,
    vllm_version: str | None,
    image: str | None,
    is_any_preset: bool,
) -> int:
    """Write the settings of PRESET (a file, card/model, a card, or a run) for those who run vLLM without the harness.

    shell: a script. yaml: a file for vllm serve --config. systemd: a unit. compose: a file for Docker Compose. In all
    of them vLLM listens on the loopback address alone.
    """
    if image is not None and kind != "compose":
        raise UsageError("--image is for --format compose", hint="leave it out")
    found = presets.named(wanted, results=results, model=None)
    preset = found.preset
    model, entry = export.model_source(source, preset=preset)
    install = None if kind == "compose" else interpreter(vllm_python)
    if kind == "compose":
        version = preset.vllm_version if image is None else export.version_in(image)
    else:
        version = None if install is None else install.version
    version = vllm_version or version
    card = config.gpu_profile(gpu).name if gpu is not None else card_here()
    use = presets.Use(gpu=card, model=entry.name if entry else None, vllm_version=version)
    for unknown in unjudged(preset, use):
        say(f"note: {unknown}")
    notes = presets.checked(found, use, is_any=is_any_preset, say=say)
    job = export.Job(
        preset=preset,
        profile=config.gpu_profile(preset.gpu),
        source=model,
        is_gated=entry is not None and entry.is_gated,
        port=port,
        python=vllm_python if install is None else str(install.python),
        image=image,
        notes=notes,
    )
    refuse_settings(job.flags, install=None if vllm_version else install)
    text = export.text(job, kind)
    if out is not None:
        export.write(text, out, is_program=kind == "shell")
        say(f"written: {out}")
    document = {
        "format": kind,
        "out": None if out is None else str(out),
        "text": text,
        "preset": preset,
        "origin": found.origin,
        "model": model,
        "flags": job.flags,
        "notes": notes,
    }
    closing(document, None, is_json=is_json, lines=[text.rstrip("\n")] if out is None else [])
    return 0


def interpreter(wanted: str | None) -> engines.Install | None:
    """vLLM's interpreter and version. None: not known here; one that is named need not be on this machine.

    Raises: EngineNotFound: it is here, and has no vLLM.
    """
    try:
        return engines.find_vllm(wanted)
    except EngineNotFound:
        if wanted is not None and Path(wanted).exists():
            raise
        return None


def refuse_settings(flags: Flags, *, install: engines.Install | None) -> None:
    """Nothing, where vLLM would start with them, as far as that can be known here.

    Args:   install: the vLLM that will run. None: it is not here, or another one will run.
    Raises: UsageError: any vLLM would refuse them.  EngineBadFlag: this one does not know a flag.
    """
    if refused := engines.violations(flags, model_max_len=None, needed_tokens=None):
        raise UsageError(f"vLLM would refuse these settings: {'; '.join(refused)}", hint="mend the preset")
    if install is not None and install.python.exists():
        engines.check_known(flags, engines.known_flags(install), install=install)


def card_here() -> str | None:
    """The profile of this machine's card. None: it has no card, or one without a profile."""
    gpu = telemetry.open_gpu()
    if gpu is None:
        return None
    with gpu:
        try:
            return config.profile_of_card(gpu.name).name
        except UsageError:
            return None


def unjudged(preset: Preset, use: presets.Use) -> list[str]:
    """What of the preset could not be held against where it will be used."""
    found = []
    if use.gpu is None:
        found.append(f"for a machine with {preset.gpu}: no known card is here to compare (--gpu says which it is)")
    if use.model is None:
        found.append(f"for {preset.model}: whether that is what lies there cannot be seen")
    if use.vllm_version is None:
        valid = preset.vllm_versions or preset.vllm_version
        found.append(f"for vLLM {valid}: which one will run is not known here (--vllm-version says it)")
    return found
