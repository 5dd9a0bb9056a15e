"""Which engine is meant: the options of the commands that measure one."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from harness import config, engines, models, presets, specs
from harness.cli.common import options, parsed_flags, say
from harness.cli.machine import any_preset_option, files_for, profile_for, simulated_profile
from harness.errors import UsageError
from harness.records import Flags, GpuProfile, LaunchSpec, Preset

ENGINES = ("vllm", "proxied", "ollama", "llamacpp", "reference", "simulated")
VLLM_ENGINES = ("vllm", "proxied")
"""Those that vLLM's settings are for."""

engine_options = options(
    click.option("--engine", type=click.Choice(ENGINES), help="Engine to launch."),
    click.option("--url", help="A server that already runs; nothing is launched or stopped."),
    click.option(
        "--api", type=click.Choice(["openai", "ollama"]), help="With --url: its API. Default: asked of the server."
    ),
    click.option("--ollama-bin", help="Ollama's binary. Default: the one on PATH."),
    click.option(
        "--slots", type=click.IntRange(1), default=1, show_default=True, help="Slots of llama.cpp and Ollama."
    ),
    click.option(
        "--preset", help="With vllm and proxied: settings that harness tune found; a card, card/model, file or run."
    ),
    any_preset_option,
    click.option(
        "--flag", "flag_words", multiple=True, metavar="NAME=VALUE", help="A flag for the engine; repeatable."
    ),
)


class Chosen(NamedTuple):
    """An engine, and the profile of the card that it runs on."""

    spec: LaunchSpec
    card: str
    is_cpu: bool
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know of the settings."""


def chosen(
    *,
    engine: str | None,
    url: str | None,
    api: str | None,
    gpu: str | None,
    model_name: str | None,
    vllm_python: str | None,
    ollama_bin: str | None,
    slots: int,
    flag_words: tuple[str, ...],
    preset: str | None,
    is_any_preset: bool,
    results: Path,
    seed: int = 1,
) -> Chosen:
    """What the options name. Raises: UsageError where they contradict each other."""
    if (engine is None) == (url is None):
        problem = "name either --engine or --url" + (", not both" if engine else "")
        raise UsageError(problem, hint="harness bench --engine vllm --model smollm2-135m")
    if url is not None and model_name is None:
        raise UsageError("--url needs --model: the id to ask that server for", hint="curl URL/v1/models lists them")
    if api is not None and url is None:
        raise UsageError("--api belongs to --url", hint="leave it out: --engine knows its API")
    if preset is not None and engine not in VLLM_ENGINES:
        raise UsageError(
            f"--preset has settings of vLLM, and this is {engine or 'a server that runs already'}",
            hint=f"say --engine {' or '.join(VLLM_ENGINES)}",
        )
    flags = parsed_flags(flag_words)
    if url is not None:  # perhaps another machine's engine: nothing here says what card it has
        assert model_name is not None
        spec = LaunchSpec(engine="url", model=model_name, source=model_name, url=checked_url(url), api=api)
        return Chosen(spec, gpu or "remote", config.gpu_profile(gpu).is_cpu if gpu else False)
    assert engine is not None
    if model_name is not None and engine != "reference":
        model_name = models.entry(model_name).name
    if engine == "simulated":
        profile = simulated_profile(gpu)
        entry = models.entry(model_name or profile.default_model)
        return Chosen(specs.simulated_spec(entry, profile, flags=flags, seed=seed), profile.name, profile.is_cpu)
    profile = profile_for(gpu)
    notes: tuple[str, ...] = ()
    if preset is not None:
        found, notes = found_settings(
            preset, is_any=is_any_preset, results=results, profile=profile, model=model_name, vllm_python=vllm_python
        )
        flags, model_name = {**found.flags, **flags}, model_name or found.model
    programs = {"vllm": vllm_python, "proxied": vllm_python, "ollama": ollama_bin}
    name = model_name or ("reference" if engine == "reference" else profile.default_model)
    spec = (
        LaunchSpec(engine=engine, model=name, flags=flags)
        if engine == "reference"
        else spec_for(engine, name, profile=profile, flags=flags, program=programs.get(engine), slots=slots)
    )
    return Chosen(spec, profile.name, profile.is_cpu, notes)


def found_settings(
    wanted: str, *, is_any: bool, results: Path, profile: GpuProfile, model: str | None, vllm_python: str | None
) -> tuple[Preset, tuple[str, ...]]:
    """The preset that is called so, and what is to be noted of it. Raises: UsageError where it does not hold here."""
    found = presets.named(wanted, results=results, model=model)
    use = presets.Use(
        gpu=profile.name, model=model or found.preset.model, vllm_version=engines.find_vllm(vllm_python).version
    )
    return found.preset, presets.checked(found, use, is_any=is_any, say=say, without="no --preset")


def spec_for(
    engine: str,
    model: str,
    *,
    profile: GpuProfile,
    flags: Flags,
    program: str | None,
    slots: int,
) -> LaunchSpec:
    """How to start `engine` with a model of the registry, fetched where it is not here."""
    if engine == "llamacpp" and models.entry(model).gguf_file is None:
        raise UsageError(
            f"{model} has no GGUF file in the registry, so llama.cpp cannot serve it here",
            hint="compare with Ollama itself, which fetches its own: https://ollama.com/download",
        )
    if engine == "ollama":
        engines.find_ollama(program)
    is_vllm = engine in VLLM_ENGINES
    files = files_for(model, vllm_python=program if is_vllm else None, needs_vllm=is_vllm)
    if is_vllm:
        return msgspec.structs.replace(specs.vllm_spec(files, profile, flags=flags, python=program), engine=engine)
    return specs.launch_spec(engine, files, flags=flags, program=program, slots=slots)


def running_ollama(model: str, *, url: str, tag: str) -> LaunchSpec:
    """An Ollama that already runs; the precision is known where the registry has this tag."""
    precision = next((name for name, known in models.entry(model).ollama_tags.items() if known == tag), "")
    return LaunchSpec(engine="ollama", model=model, source=tag, precision=precision, url=checked_url(url), api="ollama")


def checked_url(url: str) -> str:
    """The address of a server. Raises: UsageError for what is none."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or a bracket that is not closed
        is_address = False
    if not is_address:
        raise UsageError(f"{url!r} is not the address of a server", hint="for example http://127.0.0.1:8000")
    return url
