"""`harness compare`."""

from collections.abc import Sequence
from pathlib import Path

import click

from harness import baseline as baseline_settings
from harness import compare, config, engines, models, presets, roofline, specs, telemetry
from harness.baseline import Settings
from harness.cli.common import (
    TARGET_MISSED,
    Duration,
    Share,
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
from harness.cli.engine import running_ollama
from harness.cli.machine import any_preset_option, files_for, profile_for
from harness.engines.flags import words
from harness.errors import MeasurementInvalid, ModelUnavailable, UsageError
from harness.models.gguf_f16 import with_f16
from harness.records import (
    ClosedLoop,
    Comparison,
    Flags,
    GpuProfile,
    LaunchSpec,
    ModelFiles,
    Run,
    Scenario,
    Tier,
)
from harness.report import text

COMPARE_SCENARIOS = ("sequential", "concurrent", "streaming")
BASELINES = ("ollama", "llamacpp", "vllm")
MIN_REPEATS = 3
"""Of each level on each side, in all blocks together."""
MIN_REPEATS_IN_BLOCK = 2
BUDGET_S = 1800.0
AS_PEOPLE_RUN = "q4_k_m"
"""What most of Ollama's own tags are quantised to."""


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
    help="vllm (tuned where there is a preset), a card (rtx4090), card/model, a preset file, or a run.",
)
@any_preset_option
@click.option("--defaults", is_flag=True, help="Take vLLM's own defaults even where there is a preset.")
@click.option(
    "--tier",
    type=click.Choice([tier.value for tier in Tier]),
    default=Tier.AS_RUN.value,
    show_default=True,
    help="as-run: what people run, the baseline with its own quantisation and defaults. equal: weights and KV cache "
    "of 16 bits on both sides, the same context, and a slot of the baseline for each user as far as memory goes.",
)
@click.option("--baseline-weights", metavar="PRECISION", help="With --tier as-run: another quantisation, say q8_0.")
@click.option(
    "--tuned-baseline/--no-tuned-baseline",
    default=None,
    help="Also measure the baseline with the best of its own settings. Default: yes for Ollama and llama.cpp.",
)
@click.option(
    "--blocks", type=click.IntRange(1, 20), default=2, show_default=True, help="Launches of each side, in turns."
)
@click.option("--precision", type=Share(), help="Add blocks until ratios are known this well, say 3%.")
@click.option(
    "--budget", type=Duration(), help="With --precision: time for the blocks that are added to --blocks. Default: 30m."
)
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
    is_any_preset: bool,
    defaults: bool,
    tier: str,
    baseline_weights: str | None,
    tuned_baseline: bool | None,
    blocks: int,
    precision: float | None,
    budget: float | None,
    scenario_names: tuple[str, ...],
    ollama_bin: str | None,
    ollama_url: str | None,
    ollama_model: str | None,
    slots: int,
) -> int:
    """Measure vLLM against Ollama at rising concurrency and judge the targets."""
    refuse_in_vain(out, repeats=repeats, blocks=blocks)
    refuse_contradictions(
        baseline=baseline,
        tier=Tier(tier),
        weights=baseline_weights,
        tuned=tuned_baseline,
        precision=precision,
        budget=budget,
        url=ollama_url,
        tag=ollama_model,
        program=ollama_bin,
        slots=slots,
    )
    if baseline == "ollama" and ollama_url is None:
        engines.find_ollama(ollama_bin)
    profile = profile_for(gpu)
    model_name = models.entry(model_name).name if model_name is not None else None
    found = chosen_preset(candidate, results=results, profile=profile, model=model_name, defaults=defaults)
    preset = found.preset if found else None
    name = model_name or (preset.model if preset else profile.default_model)
    preset_notes: tuple[str, ...] = ()
    if found is not None:
        version = engines.find_vllm(vllm_python).version
        use = presets.Use(gpu=profile.name, model=name, vllm_version=version)
        preset_notes = presets.checked(found, use, is_any=is_any_preset, say=say, without="--defaults")
    loads = chosen_loads(scenario_names, profile=profile, users=users)
    flags, most = preset.flags if preset else {}, None
    files = weights_for(name, baseline=baseline, tier=Tier(tier), precision=baseline_weights, vllm_python=vllm_python)
    if baseline == "vllm":
        context: Flags = {name: flags[name] for name in flags if name == "max-model-len" and tier == Tier.EQUAL}
        spec = specs.vllm_spec(files, profile, flags=context, python=vllm_python)
    elif ollama_url is not None:
        spec = running_ollama(name, url=ollama_url, tag=ollama_model or files.ollama_tag or name)
    else:
        spec = specs.launch_spec(baseline, files, program=ollama_bin if baseline == "ollama" else None, slots=slots)
        most = settings_for(loads, files=files, profile=profile, flags=flags)
        if tier == Tier.EQUAL:
            spec, flags = baseline_settings.with_settings(spec, most), {"max-model-len": most.context_tokens, **flags}
    is_tuned = preset is not None and not preset.is_default
    plan = compare.Plan(
        gpu=profile.name,
        is_cpu=profile.is_cpu,
        model=name,
        tier=Tier(tier),
        baseline=compare.Side(spec=spec, title_suffix=defaults_suffix(spec) if baseline == "vllm" else ""),
        candidate=candidate_side(files, profile, flags=flags, python=vllm_python, is_tuned=is_tuned),
        tuned_most=most if tuned_baseline is not False else None,
        loads=loads,
        blocks=blocks,
        repeats=repeats or default_repeats(blocks=blocks),
        precision_ratio=precision,
        budget_s=BUDGET_S if budget is None else budget,
        preset=preset,
        tuned_in=found.tuned_in if found else None,
        notes=preset_notes,
        seed=seed,
        # They are set against Ollama, for the loads that this repository describes.
        targets=() if baseline == "vllm" or any(n.endswith(".toml") for n in scenario_names) else config.targets(),
    )
    engines.refuse_unknown_flags(plan.candidate.spec)
    done = compare.run(plan, results=results, say=say)
    folder = done.folder
    page = write_report(folder, out)
    run = folder.run()
    error = untrusted([cell for cell in folder.cells() if cell.role in compare.ROLES]) or open_target(run)
    document = {
        "run": run.id,
        "tier": tier,
        "cells": [cell_answer(cell) for cell in folder.cells()],
        "comparisons": run.comparisons,
        "manifest": run.manifest,
        "precision": done.precision,
        "targets_judged": len(judged(run)),
        "report": str(page),
    }
    closing(document, error, is_json=is_json, lines=[text.comparison_table(run), f"report: {page}"])
    if not judged(run):
        say("no target was judged: targets.toml has none for these scenarios and users, or for this baseline")
    return spoiled(error) or target_exit_code(run)


def refuse_contradictions(
    *,
    baseline: str,
    tier: Tier,
    weights: str | None,
    tuned: bool | None,
    precision: float | None,
    budget: float | None,
    url: str | None,
    tag: str | None,
    program: str | None,
    slots: int,
) -> None:
    """Raises: UsageError for options that do not go together."""
    if url is None and tag is not None:
        raise UsageError("--ollama-model belongs to --ollama-url", hint="the registry says it otherwise")
    if url is not None and (baseline != "ollama" or program is not None or slots != 1):
        raise UsageError(
            "--ollama-url is a running Ollama: it goes with --baseline ollama, without --ollama-bin and --slots",
            hint="how many slots it has, it was told when it was started",
        )
    if url is not None and (tuned or tier == Tier.EQUAL):
        raise UsageError(
            f"{'--tuned-baseline' if tuned else '--tier equal'} starts Ollama with settings of its own, and the one at "
            f"{url} runs already",
            hint="leave --ollama-url out; Ollama is then started and stopped here",
        )
    if tuned and baseline not in baseline_settings.TUNABLE:
        raise UsageError(
            f"--tuned-baseline: no settings of {baseline} are searched here", hint="harness tune searches vLLM's"
        )
    if weights is not None and (tier == Tier.EQUAL or baseline == "vllm" or url is not None):
        raise UsageError(
            "--baseline-weights goes with --tier as-run and a baseline that is started here, not vLLM",
            hint="the equal tier takes 16 bits on both sides",
        )
    if tier == Tier.EQUAL and slots != 1:
        raise UsageError("--slots: the equal tier gives each user one", hint="leave it out")
    if budget is not None and precision is None:
        raise UsageError("--budget belongs to --precision", hint="say how well ratios are to be known: --precision 3%")


# ---------------------------------------------------------------- what is measured


def default_repeats(*, blocks: int) -> int:
    """Of each level in each block."""
    return max(MIN_REPEATS_IN_BLOCK, -(-MIN_REPEATS // blocks))


def chosen_loads(
    scenario_names: Sequence[str], *, profile: GpuProfile, users: tuple[int, ...] | None
) -> tuple[Scenario, ...]:
    """The scenarios with the levels that are measured. Raises: UsageError."""
    loads: dict[str, Scenario] = {}
    for wanted in scenario_names or COMPARE_SCENARIOS:
        scenario = config.scenario(wanted, is_cpu=profile.is_cpu)
        if scenario.name in loads:
            raise UsageError(f"two scenarios are called {scenario.name}", hint="rename one: name = …")
        is_ladder = isinstance(scenario.load, ClosedLoop) and len(scenario.load.users) > 1
        loads[scenario.name] = at_levels(scenario, users if is_ladder else None)
    if users and not any(tuple(level.users for level in one.levels) == users for one in loads.values()):
        raise UsageError("--users: none of these scenarios has a ladder of users", hint="leave it out")
    return tuple(loads.values())


def weights_for(name: str, *, baseline: str, tier: Tier, precision: str | None, vllm_python: str | None) -> ModelFiles:
    """The model's files as this tier wants them, fetched or made where they are not here.

    Raises: UsageError: in the equal tier, where the two sides cannot have the same precision.
    """
    entry = models.entry(name)
    if baseline == "vllm":
        return files_for(name, vllm_python=vllm_python, needs_vllm=True)
    if baseline == "llamacpp" and entry.gguf_file is None:
        raise UsageError(
            f"{name} has no GGUF file in the registry, so llama.cpp cannot serve it here",
            hint="compare with Ollama itself, which fetches its own: https://ollama.com/download",
        )
    if tier == Tier.EQUAL:
        return equal_weights(name, vllm_python=vllm_python)
    if precision is None and models.is_synthetic(name):
        try:
            return files_for(name, vllm_python=vllm_python, needs_vllm=True, precision=AS_PEOPLE_RUN)
        except ModelUnavailable as error:
            say(f"{name} stays in 16 bits, which is not what people run: {error.message}")
    return files_for(name, vllm_python=vllm_python, needs_vllm=True, precision=precision)


def equal_weights(name: str, *, vllm_python: str | None) -> ModelFiles:
    """Weights of 16 bits for both sides. Raises: UsageError where there are none for one of them."""
    if models.entry(name).gguf_package is not None:
        files = with_f16(files_for(name, vllm_python=vllm_python, needs_vllm=True), say=say)
    else:
        files = files_for(name, vllm_python=vllm_python, needs_vllm=True, precision="f16")
    if roofline.width(files.gguf_precision) != roofline.width(files.vllm_precision):
        raise UsageError(
            f"--tier equal: {name} is {files.gguf_precision or 'of unknown precision'} for the baseline and "
            f"{files.vllm_precision or 'of unknown precision'} for vLLM",
            hint=f"take synthetic weights of its shape, --model synth-{name}, or --tier as-run",
        )
    return files


def settings_for(loads: Sequence[Scenario], *, files: ModelFiles, profile: GpuProfile, flags: Flags) -> Settings:
    """The most that the baseline is given: vLLM's context, and a slot for each user as far as memory goes."""
    shape = models.entry(files.model).shape
    asked = flags.get("max-model-len")
    context = (
        asked
        if isinstance(asked, int)
        else baseline_settings.context_for((one.workload for one in loads), longest=shape.max_context_tokens)
    )
    slots = baseline_settings.slots_for(
        (level for one in loads for level in one.levels),
        profile=profile,
        shape=shape,
        precision=files.gguf_precision,
        context_tokens=context,
        machine_bytes=telemetry.host().memory_bytes,
    )
    return Settings(slots=slots, context_tokens=context)


def candidate_side(
    files: ModelFiles, profile: GpuProfile, *, flags: Flags, python: str | None, is_tuned: bool
) -> compare.Side:
    """vLLM as it is compared."""
    spec = specs.vllm_spec(files, profile, flags=flags, python=python)
    return compare.Side(spec=spec, title_suffix=", tuned" if is_tuned else defaults_suffix(spec))


def defaults_suffix(spec: LaunchSpec) -> str:
    """Behind the title of a vLLM without tuned flags: what it is passed all the same is no default."""
    given = " ".join(words(spec.flags))
    return f", defaults with {given}" if given else ", defaults"


# ---------------------------------------------------------------- what it comes to


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


# ---------------------------------------------------------------- the candidate's settings


def chosen_preset(
    candidate: str, *, results: Path, profile: GpuProfile, model: str | None, defaults: bool
) -> presets.Found | None:
    """The preset that `--candidate` names, or, for "vllm", this card's and model's. None: vLLM's defaults."""
    if candidate != "vllm" and defaults:
        raise UsageError("--defaults and --candidate contradict each other", hint="leave one of them out")
    if defaults:
        return None
    if candidate != "vllm":
        found: presets.Found | None = presets.named(candidate, results=results, model=model)
    else:
        found = presets.usual(results=results, profile=profile, model=model)
    if found is None:
        say("no preset for this card and model: measuring vLLM's defaults (harness tune finds better ones)")
    else:
        say(f"candidate: the settings of {found.origin}")
    return found
