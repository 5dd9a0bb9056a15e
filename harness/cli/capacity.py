"""`harness capacity`."""

from pathlib import Path
from typing import Literal

import click

from harness import capacity, config
from harness.cli.common import (
    TARGET_MISSED,
    Share,
    answer,
    cell_answer,
    cli,
    machine_options,
    output_options,
    reports_option,
    say,
    writable,
    write_report,
)
from harness.cli.engine import chosen, engine_options
from harness.errors import MeasurementInvalid, UsageError
from harness.records import Capacity, ClosedLoop, OpenLoop
from harness.report import text
from harness.stats import slo

UNTRUSTED = MeasurementInvalid.exit_code
SCENARIOS = {"users": "concurrent", "rate": "open"}


@cli.command("capacity")
@output_options
@machine_options
@engine_options
@reports_option
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the prompts.")
@click.option(
    "--slo", "slo_texts", multiple=True, required=True, metavar="SLO", help="Such as 'ttft:p95<500ms'; repeatable."
)
@click.option(
    "--unit",
    type=click.Choice(["users", "rate"]),
    default="users",
    show_default=True,
    help="Search in users of a closed loop, or in requests per second of an open one.",
)
@click.option("--scenario", "scenario_name", help="Name or TOML file. Default: concurrent; with --unit rate: open.")
@click.option("--from", "smallest", type=float, default=1.0, show_default=True, help="Level to begin with.")
@click.option("--to", "largest", type=float, default=256.0, show_default=True, help="Level to stop at.")
@click.option("--resolution", type=Share(), default="10%", show_default=True, help="How near the two ends must come.")
def capacity_command(
    *,
    is_json: bool,
    results: Path,
    out: Path,
    gpu: str | None,
    model_name: str | None,
    vllm_python: str | None,
    engine: str | None,
    url: str | None,
    api: str | None,
    ollama_bin: str | None,
    slots: int,
    flag_words: tuple[str, ...],
    preset: str | None,
    is_any_preset: bool,
    seed: int,
    slo_texts: tuple[str, ...],
    unit: Literal["users", "rate"],
    scenario_name: str | None,
    smallest: float,
    largest: float,
    resolution: float,
) -> int:
    """Find the largest load under which an engine keeps its objectives of service.

    Exit codes: 0 found, and as exactly as was asked; 10 not even the first level is inside; 4 not resolved.
    """
    writable(out)
    slos = tuple(slo.slo(one) for one in slo_texts)
    if not 0 < smallest <= largest:
        raise UsageError("--from and --to: levels are over 0, and the first is not over the last", hint="mend them")
    if unit == "users" and not (smallest.is_integer() and largest.is_integer()):
        raise UsageError("--from and --to: users are whole numbers", hint="or say --unit rate")
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
    )
    scenario = config.scenario(scenario_name or SCENARIOS[unit], is_cpu=target.is_cpu)
    if not isinstance(scenario.load, ClosedLoop if unit == "users" else OpenLoop):
        raise UsageError(
            f"{scenario.name} is no load of {'users' if unit == 'users' else 'requests per second'}",
            hint=f"--scenario {SCENARIOS[unit]}, or the other --unit",
        )
    slo.refuse_unstreamed(slos, scenario.workload)
    folder = capacity.run(
        capacity.Plan(
            spec=target.spec,
            gpu=target.card,
            scenario=scenario,
            slos=slos,
            smallest=smallest,
            largest=largest,
            resolution_ratio=resolution,
            seed=seed,
            notes=target.notes,
        ),
        results=results,
        say=say,
    )
    page = write_report(folder, out)
    run, cells = folder.run(), folder.cells()
    assert run.capacity is not None
    if is_json:
        cells_json = [cell_answer(cell) for cell in cells]
        answer({"run": run.id, "cells": cells_json, "capacity": run.capacity, "report": str(page)})
    else:
        click.echo(text.capacity_table(run))
        click.echo(f"report: {page}")
    return exit_code(run.capacity)


def exit_code(found: Capacity) -> int:
    """0 only where the answer is as exact as was asked."""
    if found.is_resolved:
        return 0
    return TARGET_MISSED if found.level is None and found.above is not None else UNTRUSTED
