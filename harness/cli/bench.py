"""`harness bench`."""

import functools
from pathlib import Path

import click

from harness import bench, config, load, worker
from harness.cli.common import (
    Rates,
    at_levels,
    cell_answer,
    cli,
    closing,
    load_options,
    machine_options,
    output_options,
    say,
    spoiled,
    untrusted,
    writable,
)
from harness.cli.engine import chosen, engine_options
from harness.cli.worker import fleet_of, fleet_options
from harness.errors import UsageError
from harness.records import Replay
from harness.report import text

REPEATS = 3
"""Of each level, where the command line does not say: one tells nothing of how much the next would differ."""


@cli.command("bench")
@output_options
@machine_options
@load_options
@engine_options
@click.option("--rates", type=Rates(), help="Levels of an open loop, in requests per second. Default: the scenario's.")
@click.option("--scenario", "scenario_name", default="concurrent", show_default=True, help="Name or TOML file.")
@fleet_options
def bench_command(
    *,
    is_json: bool,
    results: Path,
    gpu: str | None,
    model_name: str | None,
    vllm_python: str | None,
    users: tuple[int, ...] | None,
    rates: tuple[float, ...] | None,
    repeats: int | None,
    seed: int,
    engine: str | None,
    url: str | None,
    api: str | None,
    scenario_name: str,
    ollama_bin: str | None,
    slots: int,
    flag_words: tuple[str, ...],
    preset: str | None,
    is_any_preset: bool,
    hosts: str | None,
    expect_workers: int | None,
    bind: str | None,
    bind_port: int,
) -> int:
    """Measure one engine under one scenario."""
    target = chosen(
        engine=engine,
        url=url,
        api=api,
        gpu=gpu,
        model_name=model_name,
        vllm_python=vllm_python,
        ollama_bin=ollama_bin,
        slots=slots,
        flag_words=flag_words,
        preset=preset,
        is_any_preset=is_any_preset,
        results=results,
        seed=seed,
    )
    if target.spec.simulation is not None and (hosts or expect_workers):
        raise UsageError(
            "no other machine can send load to a simulated engine", hint="leave out --workers and --expect-workers"
        )
    fleet = fleet_of(hosts=hosts, expect_workers=expect_workers, bind=bind, bind_port=bind_port, url=url)
    scenario = at_levels(config.scenario(scenario_name, is_cpu=target.is_cpu), users, rates_per_s=rates)
    asked = scenario.workload
    if not isinstance(scenario.load, Replay):
        say(f"workload: {asked.prompt_words} prompt words, {asked.output_tokens} output tokens")
    with worker.started(fleet, log=writable(results) / "workers.log"):
        folder, cells = bench.run(
            target.spec,
            scenario,
            repeats=repeats or REPEATS,
            results=results,
            gpu=target.card,
            seed=seed,
            say=say,
            drive=functools.partial(load.drive, fleet=fleet),
            notes=target.notes,
        )
    error = untrusted(cells)
    document = {"run": folder.id, "cells": [cell_answer(cell) for cell in cells]}
    closing(document, error, is_json=is_json, lines=[text.cells_table(cells)])
    say(f"records: {folder.path}")
    return spoiled(error)
