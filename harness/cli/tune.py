"""`harness tune`."""

import platform
import secrets
from pathlib import Path
from typing import Any

import click
import msgspec

from harness import config, engines, models, search, store, telemetry, tune
from harness.cli.common import (
    Duration,
    at_levels,
    cell_answer,
    cli,
    closing,
    load_options,
    machine_options,
    output_options,
    refuse_in_vain,
    reports_option,
    say,
    spoiled,
    untrusted,
    write_report,
)
from harness.cli.machine import files_for, profile_for, simulated_profile
from harness.errors import UsageError
from harness.records import ClosedLoop, GpuProfile, ModelEntry, ModelFiles, Scenario
from harness.report import text_study
from harness.store import RunFolder

RESUMABLE = {"--resume", "--trials", "--budget", "--json", "--results", "--out", "--workers", "--storage"}
"""Options that a run can go on with otherwise than it began."""
PRECISION = "bf16"
"""Of weights as they come, which vLLM takes over."""


@cli.command("tune")
@output_options
@machine_options
@load_options
@reports_option
@click.option(
    "--engine",
    type=click.Choice(["vllm", tune.SIMULATED]),
    default="vllm",
    show_default=True,
    help="simulated: no GPU and no vLLM is needed, and nothing that comes of it is a measurement.",
)
@click.option(
    "--objective",
    help="balanced, throughput, latency or latency:ttft:p95, goodput; several with commas: their front is told. "
    "Default: balanced, or goodput with --slo.",
)
@click.option("--slo", "slos", multiple=True, metavar="LIMIT", help="For goodput: 'ttft:p95<500ms'; repeatable.")
@click.option("--trials", type=click.IntRange(1, 10_000), help="Candidates besides the baseline.")
@click.option("--budget", type=Duration(), help="Time for all of it, defence and report included: 45m, 2h.")
@click.option(
    "--allow",
    "allowed",
    type=click.Choice(sorted(search.ALLOWABLE)),
    multiple=True,
    help="Search this too; repeatable. " + "; ".join(f"{name}: {told}" for name, told in search.ALLOWABLE.items()),
)
@click.option(
    "--no-defence",
    "is_quick",
    is_flag=True,
    help="Take the best of the search at its word: quick, and too good on average.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Search with so many processes at the same time, each on a card of its own. Default: 1.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Share the search with other hosts: postgresql://USER@HOST/DATABASE, or sqlite:///FILE. "
    "Default: a journal in the run folder.",
)
@click.option("--study", help="Name of the search in --storage. Default: model, card and objective.")
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
    engine: str,
    objective: str | None,
    slos: tuple[str, ...],
    trials: int | None,
    budget: float | None,
    allowed: tuple[str, ...],
    is_quick: bool,
    workers: int | None,
    storage: str | None,
    study: str | None,
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
            workers=workers,
            storage=storage,
        )
    else:
        is_simulated = engine == tune.SIMULATED
        profile = simulated_profile(gpu) if is_simulated else profile_for(gpu)
        tune.cards(workers or 1, profile, is_simulated=is_simulated)  # before anything is fetched
        plan = plan_for(
            profile,
            models.entry(profile.default_model if model_name is None else model_name),
            scenario=config.scenario(scenario_name, is_cpu=profile.is_cpu),
            users=users,
            repeats=repeats,
            objective=("goodput" if slos else "balanced") if objective is None else objective,
            slos=slos,
            trials=trials,
            budget_s=budget,
            allowed=allowed,
            is_defended=not is_quick,
            engine=engine,
            vllm_python=vllm_python,
            seed=seed,
        )
        plan = shared(plan, workers=workers or 1, storage=storage, study=study)
        folder = tune.run(plan, results=results, say=say, storage=storage)
    return told_study(folder, results=results, out=out, is_json=is_json)


def plan_for(
    profile: GpuProfile,
    model: ModelEntry,
    *,
    scenario: Scenario,
    users: tuple[int, ...] | None,
    repeats: int | None,
    trials: int | None,
    budget_s: float | None,
    vllm_python: str | None,
    engine: str,
    allowed: tuple[str, ...],
    **asked: Any,
) -> tune.Plan:
    """What the options ask for. Raises: UsageError for what cannot be, before anything is fetched or launched."""
    if not isinstance(scenario.load, ClosedLoop):
        raise UsageError(f"{scenario.name} is no load of users", hint="harness tune needs a closed loop")
    levels = users or (profile.search.users if len(scenario.load.users) > 1 else scenario.load.users)
    objectives = tune.objectives_named(asked["objective"], levels, slos=asked["slos"])
    tune.refuse_unmeasurable(objectives, scenario)
    tune.refuse_unresolvable(objectives, scenario, profile=profile, shape=model.shape)
    demand = search.demand_of(scenario, most_users=max(levels), prompt_tokens=None)
    search.refuse_unfit(profile, model.shape, PRECISION, demand=demand, allow=allowed)
    is_simulated = engine == tune.SIMULATED
    plan = tune.Plan(
        profile=profile,
        model=model,
        files=(
            ModelFiles(model=model.name, vllm_precision=PRECISION, is_synthetic=True)
            if is_simulated
            else files_for(model.name, vllm_python=vllm_python, needs_vllm=True)
        ),
        scenario=at_levels(scenario, levels),
        users=levels,
        repeats=repeats or profile.search.repeats,
        trials=trials if trials is not None or budget_s is not None else profile.search.trials,
        budget_s=budget_s,
        allowed=allowed,
        engine=engine,
        vllm_python=None if is_simulated else str(engines.find_vllm(vllm_python).python),
        is_card_shared=not is_simulated and not profile.is_cpu and bool(telemetry.strangers_note()),
        **asked,
    )
    return plan if repeats else msgspec.structs.replace(plan, repeats=tune.repeats_for(plan))


def shared(plan: tune.Plan, *, workers: int, storage: str | None, study: str | None) -> tune.Plan:
    """The plan for several workers or hosts. Raises: UsageError before anything is launched."""
    if study is not None and storage is None:
        raise UsageError("--study names a search in a --storage, and none is given", hint="add --storage URL")
    if storage is None:
        return msgspec.structs.replace(plan, workers=workers)
    search.refuse_storage(storage)
    name = study or f"{plan.model.name} {plan.profile.name} {plan.objective}"
    host = f"{platform.node()}-{secrets.token_hex(3)}"
    shown = store.without_password(storage)
    return msgspec.structs.replace(plan, workers=workers, storage=shown, study=name, host=host)


def told_study(folder: RunFolder, *, results: Path, out: Path, is_json: bool) -> int:
    """Writes the page, prints what came of the study, and gives the exit code."""
    page = write_report(folder, out)
    run, all_trials, cells = folder.run(), folder.trials(), folder.cells()
    preset = run.preset
    assert preset is not None
    path = tune.place_of(preset, results=results)
    error = untrusted(cells)
    document = {
        "run": run.id,
        "is_simulated": preset.is_simulated,
        "cells": [cell_answer(cell) for cell in cells],
        "trials": all_trials,
        "baseline": {"flags": all_trials[0].flags},
        "best": {"flags": preset.flags, "is_default": preset.is_default, "objective": preset.ratio},
        "front": run.front,
        "defence": run.defence,
        "notes": run.notes,
        "preset": str(path),
        "report": str(page),
    }
    told = text_study.study_text(run, all_trials, folder.defence())
    lines = [told, f"preset: {path}", f"report: {page}"]
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
    clash = [option for option in given if option not in RESUMABLE]
    if clash:
        raise UsageError(
            f"--resume goes on with the run's own plan: {', '.join(clash)} cannot be changed",
            hint="leave them out, or start a new run",
        )
