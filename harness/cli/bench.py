"""`harness bench`."""

from pathlib import Path

import click

from harness import bench, config
from harness.cli.common import (
    ENGINES,
    at_levels,
    cell_answer,
    checked_url,
    cli,
    closing,
    load_options,
    machine_options,
    output_options,
    parsed_flags,
    profile_for,
    say,
    spec_for,
    spoiled,
    untrusted,
)
from harness.errors import UsageError
from harness.records import (
    LaunchSpec,
)
from harness.report import text


@cli.command("bench")
@output_options
@machine_options
@load_options
@click.option("--engine", type=click.Choice(ENGINES), help="Engine to launch.")
@click.option("--url", help="A server that already runs; nothing is launched or stopped.")
@click.option(
    "--api", type=click.Choice(["openai", "ollama"]), help="With --url: its API. Default: asked of the server."
)
@click.option("--scenario", "scenario_name", default="concurrent", show_default=True, help="Name or TOML file.")
@click.option("--ollama-bin", help="Ollama's binary. Default: the one on PATH.")
@click.option("--slots", type=click.IntRange(1), default=1, show_default=True, help="Slots of llama.cpp and Ollama.")
@click.option("--flag", "flag_words", multiple=True, metavar="NAME=VALUE", help="A flag for the engine; repeatable.")
def bench_command(
    *,
    is_json: bool,
    results: Path,
    gpu: str | None,
    model_name: str | None,
    vllm_python: str | None,
    users: tuple[int, ...] | None,
    repeats: int | None,
    seed: int,
    engine: str | None,
    url: str | None,
    api: str | None,
    scenario_name: str,
    ollama_bin: str | None,
    slots: int,
    flag_words: tuple[str, ...],
) -> int:
    """Measure one engine under one scenario."""
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
        card, is_cpu = (gpu, config.gpu_profile(gpu).is_cpu) if gpu else ("remote", False)
    else:
        assert engine is not None
        profile = profile_for(gpu)
        card, is_cpu = profile.name, profile.is_cpu
        programs = {"vllm": vllm_python, "ollama": ollama_bin}
        name = model_name or ("reference" if engine == "reference" else profile.default_model)
        spec = (
            LaunchSpec(engine=engine, model=name, flags=flags)
            if engine == "reference"
            else spec_for(engine, name, profile=profile, flags=flags, program=programs.get(engine), slots=slots)
        )
    scenario = config.scenario(scenario_name, is_cpu=is_cpu)
    asked = scenario.workload
    say(f"workload: {asked.prompt_words} prompt words, {asked.output_tokens} output tokens")
    folder, cells = bench.run(
        spec,
        at_levels(scenario, users or scenario.load.users),
        users=users or scenario.load.users,
        repeats=repeats or 1,
        results=results,
        gpu=card,
        seed=seed,
        say=say,
    )
    error = untrusted(cells)
    document = {"run": folder.id, "cells": [cell_answer(cell) for cell in cells]}
    closing(document, error, is_json=is_json, lines=[text.cells_table(cells)])
    say(f"records: {folder.path}")
    return spoiled(error)
