"""Which engine is meant: the options of the commands that measure one."""

from typing import NamedTuple

import click

from harness import bench, config, models
from harness.cli.common import ENGINES, checked_url, options, parsed_flags, profile_for, simulated_profile, spec_for
from harness.errors import UsageError
from harness.records import LaunchSpec

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
        "--flag", "flag_words", multiple=True, metavar="NAME=VALUE", help="A flag for the engine; repeatable."
    ),
)


class Chosen(NamedTuple):
    """An engine, and the profile of the card that it runs on."""

    spec: LaunchSpec
    card: str
    is_cpu: bool


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
    flags = parsed_flags(flag_words)
    if url is not None:  # perhaps another machine's engine: nothing here says what card it has
        assert model_name is not None
        spec = LaunchSpec(engine="url", model=model_name, source=model_name, url=checked_url(url), api=api)
        return Chosen(spec, gpu or "remote", config.gpu_profile(gpu).is_cpu if gpu else False)
    assert engine is not None
    if engine == "simulated":
        profile = simulated_profile(gpu)
        entry = models.entry(model_name or profile.default_model)
        return Chosen(bench.simulated_spec(entry, profile, flags=flags, seed=seed), profile.name, profile.is_cpu)
    profile = profile_for(gpu)
    programs = {"vllm": vllm_python, "ollama": ollama_bin}
    name = model_name or ("reference" if engine == "reference" else profile.default_model)
    spec = (
        LaunchSpec(engine=engine, model=name, flags=flags)
        if engine == "reference"
        else spec_for(engine, name, profile=profile, flags=flags, program=programs.get(engine), slots=slots)
    )
    return Chosen(spec, profile.name, profile.is_cpu)
