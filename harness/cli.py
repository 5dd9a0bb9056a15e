"""The commands: parse, call, print, exit code. No arithmetic, no files."""

import contextlib
import json
import math
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from harness import __version__, bench, compare, config, doctor, engines, models, report, serve, store, telemetry, tune
from harness.errors import EngineError, HarnessError, MeasurementInvalid, UsageError
from harness.records import (
    Cell,
    CellState,
    Comparison,
    Flags,
    GpuProfile,
    LaunchSpec,
    ModelFiles,
    Preset,
    Run,
    Scenario,
)
from harness.report import text
from harness.store import RunFolder

TARGET_MISSED = 10
INTERRUPTED = 130
BUG = 1

COMPARE_SCENARIOS = ("sequential", "concurrent", "streaming")
BASELINES = ("ollama", "llamacpp", "vllm")
ENGINES = ("vllm", "ollama", "llamacpp", "reference")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------- what all commands share


def say(line: str) -> None:
    """Progress and hints go to stderr; stdout is for the result alone."""
    click.echo(line, err=True)


def answer(document: object) -> None:
    """The one JSON document of `--json`."""
    click.echo(json.dumps(msgspec.to_builtins(document), ensure_ascii=False, indent=2))


class Users(click.ParamType[tuple[int, ...]]):
    """1,5,10: levels of concurrent users."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Ascending, without doubles."""
        if isinstance(value, tuple):
            return value
        try:
            levels = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,5,10", param, ctx)
        if levels[0] < 1 or levels[-1] > 10_000:
            self.fail(f"{value!r}: users go from 1 to 10000", param, ctx)
        return tuple(levels)


class Duration(click.ParamType[float]):
    """45m, 90s, 2h, or 1h30m, in seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        parts = DURATION.findall(str(value))
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration such as 45m, 90s or 1h30m", param, ctx)
        return sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


output_options = options(
    click.option("--json", "is_json", is_flag=True, help="Print one JSON document on stdout and nothing else there."),
    click.option(
        "--results",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results"),
        show_default=True,
        help="Folder that runs are kept in.",
    ),
)
machine_options = options(
    click.option("--gpu", help="Card profile of gpus.toml. Default: the card that NVML sees, else the CPU profile."),
    click.option(
        "--model",
        "model_name",
        help="Model of the registry (harness models list); with --url the server's own id. Default: the profile's.",
    ),
    click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing."),
)
load_options = options(
    click.option(
        "--users", type=Users(), help="Levels of concurrent users. Default: the scenario's; tune: the profile's."
    ),
    click.option("--repeats", type=click.IntRange(1, 100), help="How often each level is measured."),
    click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of prompts and search."),
)
reports_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("reports"),
    show_default=True,
    help="Folder that the HTML report is written to.",
)


def profile_for(name: str | None) -> GpuProfile:
    """The card named, else the one that NVML sees, else the CPU; what was chosen without being named is said."""
    wanted = None if name is None else config.gpu_profile(name)
    if wanted is not None and wanted.is_cpu:
        return wanted
    gpu = telemetry.open_gpu()
    if gpu is None:
        if wanted is not None:
            raise UsageError(
                f"--gpu {wanted.name}, and NVML sees no GPU on this machine",
                hint="install the NVIDIA driver, or measure the CPU with --gpu cpu",
            )
        say("no GPU found: using the CPU profile; its figures say nothing about a GPU")
        return config.gpu_profile("cpu")
    with gpu:
        card = gpu.name
    if wanted is None:
        profile = config.profile_of_card(card)
        say(f"found {profile.title}")
        return profile
    try:
        found = config.profile_of_card(card)
    except UsageError:  # a card without a profile may be measured under the nearest one
        say(f"warning: {card!r} has no profile; measuring it under {wanted.name}")
        return wanted
    if found.name != wanted.name:
        raise UsageError(
            f"--gpu {wanted.name}, and this machine's card is {card}", hint=f"say --gpu {found.name}, or nothing"
        )
    return wanted


def files_for(model: str, *, vllm_python: str | None, needs_vllm: bool) -> ModelFiles:
    """The model's files, fetched where they are not here."""
    interpreter = str(engines.find_vllm(vllm_python).python) if needs_vllm else None
    return models.fetch(model, vllm_python=interpreter, say=say)


def write_report(folder: RunFolder, out: Path) -> Path:
    """The run's page; made from its folder alone."""
    return report.render(folder.run(), folder.cells(), folder.trials(), out=out)


def untrusted(cells: Sequence[Cell]) -> MeasurementInvalid | None:
    """The error of a run in which not one cell has figures that count. None: some have."""
    if not cells or any(cell.state == CellState.MEASURED for cell in cells):
        return None
    return MeasurementInvalid(
        f"none of {len(cells)} cells can be trusted: {'; '.join(cells[0].reasons)}",
        hint="run `harness doctor`; the records are kept",
    )


def writable(folder: Path) -> Path:
    """The folder, made where it is not there yet: found out before an hour of measuring, not after it.

    Raises: UsageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}", hint="choose another folder") from error
    return folder


def refuse_in_vain(out: Path, *, repeats: int | None) -> None:
    """Raises: UsageError for what would make an hour of measuring worthless at its end."""
    writable(out)
    if repeats == 1:
        raise UsageError("--repeats 1: a ratio needs two repeats a side", hint="say --repeats 2 or more")


def closing(document: dict[str, Any], error: HarnessError | None, *, is_json: bool, lines: Sequence[str]) -> None:
    """The result, on stdout: the one document, or the lines; an error that spoils it is in both."""
    if is_json:
        answer(document if error is None else {**document, "error": error_answer(error)})
        return
    for line in lines:
        click.echo(line)


def error_answer(error: HarnessError) -> dict[str, Any]:
    """An error as `--json` gives it."""
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def spoiled(error: HarnessError | None) -> int:
    """Says the error that spoils a result which has been printed, and gives its exit code; 0 where there is none."""
    return 0 if error is None else told(error, is_json=False)


# ---------------------------------------------------------------- commands


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Find the vllm serve settings that make a model fastest on your GPU, and prove them against Ollama.

    Exit codes: 0 done, target met; 1 a bug of ours; 2 usage or file; 3 engine; 4 figures not to be trusted;
    5 results unreadable; 10 target missed; 130 interrupted.
    """


@cli.command("doctor")
@output_options
@click.option("--gpu", help="Card profile that you are going to measure with.")
@click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing.")
@click.option("--ollama-bin", help="Ollama's binary. Default: the one on PATH.")
def doctor_command(
    *, is_json: bool, results: Path, gpu: str | None, vllm_python: str | None, ollama_bin: str | None
) -> int:
    """Tell whether this machine is fit to measure, and how far the client is off."""
    profile = config.gpu_profile(gpu) if gpu else None
    found = doctor.findings(profile=profile, vllm_python=vllm_python, ollama_bin=ollama_bin, results=results, say=say)
    code = next((finding.exit_code for finding in found if finding.exit_code), 0)
    if is_json:
        answer({"checks": found, "fit": code == 0})
    else:
        warnings = sum(finding.state == doctor.State.WARNING for finding in found)
        doubt = f", but heed the {warnings} warnings above" if warnings else ""
        click.echo(f"fit to measure{doubt}" if code == 0 else "not fit to measure: see the checks that failed")
    return code


@cli.group("models")
def models_group() -> None:
    """List and fetch models."""


@models_group.command("list")
@output_options
def models_list(*, is_json: bool, results: Path) -> int:
    """List the models of the registry under their names on both sides."""
    del results
    entries = models.entries()
    if is_json:
        answer({"models": [{**msgspec.to_builtins(e), "files": models.files(e.name)} for e in entries.values()]})
    else:
        click.echo(text.models_table(list(entries.values())))
    return 0


@models_group.command("fetch")
@click.argument("name")
@output_options
@click.option("--vllm-python", help="Python interpreter that has vLLM; it converts the weights.")
def models_fetch(*, name: str, is_json: bool, results: Path, vllm_python: str | None) -> int:
    """Bring a model to this machine, in the forms that the engines want."""
    del results
    models.entry(name)
    interpreter = None
    with contextlib.suppress(EngineError):
        interpreter = str(engines.find_vllm(vllm_python).python)
    found = models.fetch(name, vllm_python=interpreter, say=say)
    if is_json:
        answer(found)
    else:
        click.echo(f"{name}: {found.vllm_source or 'not for vLLM yet'}; {found.gguf_path or found.ollama_tag}")
    return 0


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


@cli.command("report")
@click.argument("runs", nargs=-1, required=True)
@output_options
@reports_option
def report_command(*, runs: tuple[str, ...], is_json: bool, results: Path, out: Path) -> int:
    """Write the HTML report of runs from their folders, at any later day."""
    pages = [write_report(store.find_run(results, name), out) for name in runs]
    if is_json:
        answer({"reports": [str(page) for page in pages]})
    else:
        for page in pages:
            click.echo(str(page))
    return 0


@cli.command("serve")
@output_options
@click.option(
    "--preset",
    metavar="PRESET",
    help="Settings: a card (rtx4090), card/model, a file, a run of tune, or none. Default: this card's and model's.",
)
@click.option(
    "--model",
    "model_name",
    help="Model of the registry by any of its names, an id of Hugging Face, or a folder. Default: the preset's.",
)
@click.option("--name", help="What clients call the model. Default: Ollama's short name, such as qwen2.5:1.5b.")
@click.option("--gpu", help="Card profile of gpus.toml. Default: the card that NVML sees, else the CPU profile.")
@click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where clients reach the proxy.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=serve.OLLAMA_PORT,
    show_default=True,
    help="Port for clients, Ollama's by default; 0 picks a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask clients for the key in this file (Authorization: Bearer).",
)
@click.option("--no-tools", is_flag=True, help="Start vLLM without the parsers for tool calls and thoughts.")
@click.option(
    "--ready-timeout",
    "ready_timeout_s",
    type=Duration(),
    default="30m",
    show_default=True,
    help="How long vLLM may load before it counts as hung.",
)
@click.option(
    "--proxy-flag", "proxy_flags", multiple=True, metavar="NAME=VALUE", help="A flag for the proxy; repeatable."
)
@click.argument("vllm_words", metavar="[-- VLLM_FLAGS...]", nargs=-1, type=click.UNPROCESSED)
def serve_command(
    *,
    is_json: bool,
    results: Path,
    preset: str | None,
    model_name: str | None,
    name: str | None,
    gpu: str | None,
    vllm_python: str | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    no_tools: bool,
    ready_timeout_s: float,
    proxy_flags: tuple[str, ...],
    vllm_words: tuple[str, ...],
) -> int:
    """Serve a model with its preset's settings to clients of Ollama: vLLM and the proxy, until Ctrl-C.

    A vLLM or proxy that ends by itself is started again, after 1, 2, 4, … seconds, at most 60; requests get a 503
    meanwhile. Ctrl-C or SIGTERM is the normal end: exit code 0, or 130 before it was ready. What fails before it was
    ever ready, or five times in a row at once, exits with 3. Logs: RESULTS/serve-PORT/.
    """
    serve.refuse_taken_port(host, port)
    plan = serve.planned(
        profile=profile_for(gpu),
        results=writable(results),
        preset=preset,
        model=model_name,
        name=name,
        vllm_python=vllm_python,
        host=host,
        port=port,
        api_key_file=api_key_file,
        has_tools=not no_tools,
        ready_timeout_s=ready_timeout_s,
        proxy_flags=parsed_flags(proxy_flags, option="--proxy-flag", example="num-ctx=reject"),
        vllm_words=vllm_words,
        say=say,
    )

    printed: list[serve.Serving] = []

    def on_ready(serving: serve.Serving) -> None:
        line = serve.how_to_use(serving, has_key=api_key_file is not None)
        closing(msgspec.to_builtins(serving), None, is_json=is_json, lines=[line])
        printed.append(serving)

    try:
        serve.run(plan, say=say, on_ready=on_ready)
    except HarnessError as error:
        if printed:
            return spoiled(error)
        raise
    return 0 if printed else told(Interrupted("interrupted before it was ready"), is_json=is_json)


@cli.command(
    "proxy", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", metavar="--upstream URL ...", nargs=-1, type=click.UNPROCESSED)
def proxy_command(*, words: tuple[str, ...]) -> NoReturn:
    """Ollama's HTTP API in front of a vLLM that already runs; `harness proxy --help` has its options."""
    serve.become_proxy(words)


# ---------------------------------------------------------------- between flags and records


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
    is_vllm = engine == "vllm"
    files = files_for(model, vllm_python=program if is_vllm else None, needs_vllm=is_vllm)
    if is_vllm:
        return tune.vllm_spec(files, profile, flags=flags, python=program)
    return bench.launch_spec(engine, files, flags=flags, program=program, slots=slots)


def at_levels(scenario: Scenario, users: Sequence[int]) -> Scenario:
    """The scenario with the levels that are really measured: what a run records must be what it did."""
    return msgspec.structs.replace(scenario, load=msgspec.structs.replace(scenario.load, users=tuple(users)))


def parsed_flags(words: Sequence[str], *, option: str = "--flag", example: str = "max-num-seqs=64") -> Flags:
    """["max-num-seqs=64", "enforce-eager=true"] as flags; raises UsageError for a word of another form."""
    out: Flags = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name.startswith("-"):
            raise UsageError(f"{option} {word!r} is not NAME=VALUE", hint=f"for example {option} {example}")
        out[name] = parsed_value(value)
    return out


def parsed_value(value: str) -> int | float | str | bool:
    """A boolean or a number where it is written as one, else the text: 0012 and nan stay what they are."""
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if str(kind(value)) == value and math.isfinite(kind(value)):
                return kind(value)
    return value


def running_ollama(model: str, *, url: str, tag: str) -> LaunchSpec:
    """An Ollama that already runs; the precision is known where the registry has this tag."""
    precision = next((name for name, known in models.entry(model).ollama_tags.items() if known == tag), "")
    return LaunchSpec(engine="ollama", model=model, source=tag, precision=precision, url=checked_url(url), api="ollama")


def checked_url(url: str) -> str:
    """The address of a server. Raises: UsageError for what is none."""
    parts = urlsplit(url) if "[" not in url or "]" in url else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{url!r} is not the address of a server", hint="for example http://127.0.0.1:8000")
    return url


def cell_answer(cell: Cell) -> dict[str, Any]:
    """A cell as `--json` promises it: the figures under "metrics", the rest beside them."""
    raw: dict[str, Any] = msgspec.to_builtins(cell)
    names = ("ttft_s", "itl_s", "tpot_s", "e2e_s", "output_tok_s")
    raw["metrics"] = {name: raw.pop(name) for name in names}
    return raw


# ---------------------------------------------------------------- the one place where exceptions end


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code; every error is a sentence, a hint and a code."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_json = "--json" in words
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)  # also where a script's `&` has had SIGINT ignored
    try:
        code = cli.main(words, prog_name="harness", standalone_mode=False)
    except HarnessError as error:
        code = told(error, is_json=is_json)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        code = UsageError.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "harness"
        code = told(UsageError(error.format_message(), hint=f"see {command} --help"), is_json=is_json)
    except click.ClickException as error:
        code = told(UsageError(error.format_message()), is_json=is_json)
    except (KeyboardInterrupt, click.Abort):
        code = told(
            Interrupted("interrupted", hint="whatever was measured is kept in the results folder"), is_json=is_json
        )
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        code = told(
            UsageError(
                f"a file or folder failed:{where}: {error.strerror or error}", hint="make room, or check rights"
            ),
            is_json=is_json,
        )
    except Exception as error:  # noqa: BLE001  the last resort, which says that it is one
        traceback.print_exc()
        bug = HarnessError(f"a bug of harness: {error!r}", hint="please report it with the lines above")
        code = told(bug, is_json=is_json)
    sys.exit(code if isinstance(code, int) else 0)


class Interrupted(HarnessError):
    """Ctrl-C, or a polite signal: not an error of anybody, but an end with an exit code of its own."""

    exit_code = INTERRUPTED


def interrupt(*_: object) -> NoReturn:
    """The answer to Ctrl-C, SIGTERM and a closed terminal alike: engines are stopped and records closed on the way."""
    raise KeyboardInterrupt


def told(error: HarnessError, *, is_json: bool) -> int:
    """Says an error and returns its exit code."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    if is_json:
        answer({"error": error_answer(error)})
    return error.exit_code
