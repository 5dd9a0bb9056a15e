"""`harness compare`."""

from pathlib import Path

import click

from harness import compare, config, engines, store, tune
from harness.cli.common import (
    TARGET_MISSED,
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
    running_ollama,
    say,
    spec_for,
    spoiled,
    untrusted,
    write_report,
)
from harness.errors import MeasurementInvalid, UsageError
from harness.records import (
    Comparison,
    GpuProfile,
    Preset,
    Run,
    Scenario,
)
from harness.report import text

COMPARE_SCENARIOS = ("sequential", "concurrent", "streaming")
BASELINES = ("ollama", "llamacpp", "vllm")


@cli.command("compare")
@output_options
@machine_options
@load_options
@reports_option
@click.option("--baseline", type=click.Choice(BASELINES), required=True, help="What to compare with.")
@click.option(
    "--candidate",
    default="vllm",
    show_default=True,
    help="vllm (tuned where there is a preset), a preset file, or a run.",
)
@click.option("--defaults", is_flag=True, help="Take vLLM's own defaults even where there is a preset.")
@click.option("--scenario", "scenario_names", multiple=True, help="Name or TOML file; repeatable. Default: all three.")
@click.option("--ollama-bin", help="Ollama's binary. Default: the one on PATH.")
@click.option("--ollama-url", help="An Ollama that already runs; nothing is launched or stopped.")
@click.option("--ollama-model", help="With --ollama-url: what the model is called there. Default: its registry tag.")
@click.option("--slots", type=click.IntRange(1), default=1, show_default=True, help="Slots of llama.cpp and Ollama.")
def compare_command(
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
    baseline: str,
    candidate: str,
    defaults: bool,
    scenario_names: tuple[str, ...],
    ollama_bin: str | None,
    ollama_url: str | None,
    ollama_model: str | None,
    slots: int,
) -> int:
    """Measure vLLM against Ollama at rising concurrency and judge the targets."""
    refuse_in_vain(out, repeats=repeats)
    if ollama_url is None and ollama_model is not None:
        raise UsageError("--ollama-model belongs to --ollama-url", hint="the registry says it otherwise")
    if ollama_url is not None and (baseline != "ollama" or ollama_bin is not None or slots != 1):
        raise UsageError(
            "--ollama-url is a running Ollama: it goes with --baseline ollama, without --ollama-bin and --slots",
            hint="how many slots it has, it was told when it was started",
        )
    if baseline == "ollama" and ollama_url is None:
        engines.find_ollama(ollama_bin)
    profile = profile_for(gpu)
    preset, tuned_in = chosen_preset(candidate, results=results, profile=profile, model=model_name, defaults=defaults)
    name = model_name or (preset.model if preset else profile.default_model)
    if preset is not None and preset.model != name:
        raise UsageError(f"the preset is for {preset.model}, not {name}", hint="leave --model out")
    files = files_for(name, vllm_python=vllm_python, needs_vllm=True)
    loads: dict[str, tuple[Scenario, tuple[int, ...]]] = {}
    for wanted in scenario_names or COMPARE_SCENARIOS:
        scenario = config.scenario(wanted, is_cpu=profile.is_cpu)
        is_ladder = len(scenario.load.users) > 1
        if scenario.name in loads:
            raise UsageError(f"two scenarios are called {scenario.name}", hint="rename one: name = …")
        levels = users if users and is_ladder else scenario.load.users
        loads[scenario.name] = (at_levels(scenario, levels), levels)
    if users and not any(levels == users for _, levels in loads.values()):
        raise UsageError("--users: none of these scenarios has a ladder of users", hint="leave it out")
    flags = preset.flags if preset else {}
    programs = {"vllm": vllm_python, "ollama": ollama_bin}
    spec = (
        running_ollama(name, url=ollama_url, tag=ollama_model or files.ollama_tag or name)
        if ollama_url is not None
        else spec_for(baseline, name, profile=profile, flags={}, program=programs.get(baseline), slots=slots)
    )
    is_tuned = preset is not None and not preset.is_default
    plan = compare.Plan(
        gpu=profile.name,
        is_cpu=profile.is_cpu,
        model=name,
        baseline=compare.Side(spec=spec, title_suffix=tune.defaults_suffix(profile) if baseline == "vllm" else ""),
        candidate=compare.Side(
            spec=tune.vllm_spec(files, profile, flags=flags, python=vllm_python),
            title_suffix=", tuned" if is_tuned else tune.defaults_suffix(profile),
        ),
        loads=loads,
        repeats=repeats or 3,
        preset=preset,
        tuned_in=tuned_in,
        seed=seed,
        # They are set against Ollama, for the loads that this repository describes.
        targets=() if baseline == "vllm" or any(n.endswith(".toml") for n in scenario_names) else config.targets(),
    )
    engines.refuse_unknown_flags(plan.candidate.spec)
    folder = compare.run(plan, results=results, say=say)
    page = write_report(folder, out)
    run = folder.run()
    error = untrusted(folder.cells()) or open_target(run)
    document = {
        "run": run.id,
        "cells": [cell_answer(cell) for cell in folder.cells()],
        "comparisons": run.comparisons,
        "targets_judged": len(judged(run)),
        "report": str(page),
    }
    closing(document, error, is_json=is_json, lines=[text.comparison_table(run), f"report: {page}"])
    if not judged(run):
        say("no target was judged: targets.toml has none for these scenarios and users, or for this baseline")
    return spoiled(error) or target_exit_code(run)


def judged(run: Run) -> list[Comparison]:
    """The rows that a target applies to, as a ratio or in seconds."""
    return [row for row in run.comparisons if row.target is not None or row.absolute_s is not None]


def open_target(run: Run) -> MeasurementInvalid | None:
    """The error of a run in which a target has no ratio to be judged by. None: all have one."""
    rows = judged(run)
    without = [row for row in rows if row.ratio is None]
    if not without:
        return None
    return MeasurementInvalid(
        f"{len(without)} of {len(rows)} targets cannot be judged: {without[0].reason}",
        hint="run `harness doctor`, then measure again; the records are kept",
    )


def target_exit_code(run: Run) -> int:
    """0 only where every judged target is met, in seconds too; what an interval straddles is not met."""
    is_met = all(
        (row.target is None or row.met is True) and (row.absolute_s is None or row.absolute_met is True)
        for row in judged(run)
    )
    return 0 if is_met else TARGET_MISSED


def chosen_preset(
    candidate: str, *, results: Path, profile: GpuProfile, model: str | None, defaults: bool
) -> tuple[Preset | None, Path | None]:
    """The preset that `--candidate` names, with the folder of the run that found it where that is still here."""
    found: Preset | None
    if candidate != "vllm" and defaults:
        raise UsageError("--defaults and --candidate contradict each other", hint="leave one of them out")
    if candidate == "vllm":
        if defaults:
            return None, None
        known = config.find_preset(results, gpu=profile.name, model=model or profile.default_model)
        if known is None:
            say("no preset for this card and model: measuring vLLM's defaults (harness tune finds better ones)")
            return None, None
        path, found = known
        say(f"candidate: the settings of {path}")
    elif candidate.endswith(".toml"):
        found = config.read_preset(Path(candidate))
    else:
        run = store.find_run(results, candidate)
        found = run.run().preset
        if found is None:
            raise UsageError(f"run {candidate} found no settings", hint="name a run of `harness tune` that has ended")
        if run.id == found.run:
            return found, run.path
    if found.gpu != profile.name:
        say(f"warning: these settings were found on {found.gpu}, this is {profile.name}")
    folder = results / found.run
    return found, folder if (folder / "run.json").exists() else None
