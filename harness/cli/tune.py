"""`harness tune`."""

from pathlib import Path

import click

from harness import config, engines, models, store, tune
from harness.cli.common import (
    Duration,
    at_levels,
    cell_answer,
    cli,
    closing,
    files_for,
    load_options,
    machine_options,
    output_options,
    profile_for,
    refuse_in_vain,
    reports_option,
    say,
    spoiled,
    untrusted,
    write_report,
)
from harness.errors import UsageError
from harness.records import ClosedLoop
from harness.report import text


@cli.command("tune")
@output_options
@machine_options
@load_options
@reports_option
@click.option("--objective", default="balanced", show_default=True, help="balanced, throughput or latency.")
@click.option("--trials", type=click.IntRange(1), help="Candidates besides the baseline.")
@click.option("--budget", type=Duration(), help="No trial is begun that would not end within this time: 45m, 2h.")
@click.option("--scenario", "scenario_name", default="concurrent", show_default=True, help="Name or TOML file.")
@click.option("--resume", "resumed", metavar="RUN", help="Go on with an interrupted run.")
def tune_command(
    *,
    is_json: bool,
    results: Path,
    gpu: str | None,
    model_name: str | None,
    vllm_python: str | None,
    users: tuple[int, ...] | None,
    repeats: int | None,
    seed: int,
    out: Path,
    objective: str,
    trials: int | None,
    budget: float | None,
    scenario_name: str,
    resumed: str | None,
) -> int:
    """Search the vllm serve settings that are fastest for a model on this card."""
    refuse_in_vain(out, repeats=repeats)
    if resumed is not None:
        refuse_with_resume()
        folder = tune.resume(
            store.find_run(results, resumed),
            results=results,
            trials=trials,
            budget_s=budget,
            vllm_python=vllm_python,
            say=say,
        )
    else:
        profile = profile_for(gpu)
        scenario = config.scenario(scenario_name, is_cpu=profile.is_cpu)
        if not isinstance(scenario.load, ClosedLoop):
            raise UsageError(f"{scenario.name} is no load of users", hint="harness tune needs a closed loop")
        levels = users or (profile.search.users if len(scenario.load.users) > 1 else scenario.load.users)
        tune.objective_named(objective, levels)
        name = model_name or profile.default_model
        entry = models.entry(name)
        plan = tune.Plan(
            profile=profile,
            model=entry,
            files=files_for(name, vllm_python=vllm_python, needs_vllm=True),
            scenario=at_levels(scenario, levels),
            users=levels,
            repeats=repeats or profile.search.repeats,
            objective=objective,
            trials=trials if trials is not None or budget is not None else profile.search.trials,
            budget_s=budget,
            vllm_python=str(engines.find_vllm(vllm_python).python),
            seed=seed,
        )
        folder = tune.run(plan, results=results, say=say)
    page = write_report(folder, out)
    run, all_trials, cells = folder.run(), folder.trials(), folder.cells()
    preset = run.preset
    assert preset is not None
    path = config.preset_path(results, gpu=run.gpu, model=run.model)
    error = untrusted(cells)
    document = {
        "run": run.id,
        "cells": [cell_answer(cell) for cell in cells],
        "trials": all_trials,
        "baseline": {"flags": all_trials[0].flags},
        "best": {"flags": preset.flags, "is_default": preset.is_default, "objective": preset.ratio},
        "preset": str(path),
        "report": str(page),
    }
    lines = [text.trials_table(all_trials), text.serve_line(run), f"preset: {path}", f"report: {page}"]
    closing(document, error, is_json=is_json, lines=lines)
    return spoiled(error)


def refuse_with_resume() -> None:
    """Raises: UsageError for options that a resumed run already has from its plan."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and context.get_parameter_source(parameter.name) == click.core.ParameterSource.COMMANDLINE
    ]
    clash = [
        option for option in given if option not in {"--resume", "--trials", "--budget", "--json", "--results", "--out"}
    ]
    if clash:
        raise UsageError(
            f"--resume goes on with the run's own plan: {', '.join(clash)} cannot be changed",
            hint="leave them out, or start a new run",
        )
