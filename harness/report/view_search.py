"""The settings that a run measured, and the search behind them, in words."""

import shlex
from collections.abc import Sequence
from typing import Final

from harness.records import Flags, Outcome, Run, Trial
from harness.report import serve, words
from harness.report.figures import bar, log_span
from harness.report.page import Strip, Tile
from harness.report.page_charts import TrialChart, TrialMark
from harness.report.page_parts import Fact, Settings, TrialRow
from harness.report.words import DASH, Shown

UNSET: Final = "·"


def settings(run: Run, trials: Sequence[Trial]) -> Settings | None:
    """The command line of the judged vLLM and how its flags were found. None: no vLLM and no search."""
    command = serve.block(run)
    if not command and not trials:
        return None
    notes = preset_notes(run)
    notes += filter(None, [serve.caveat(run)])
    return Settings(
        command=command,
        notes=tuple(notes),
        facts=search_facts(run, trials),
        trials=trial_rows(run, trials),
        trial_notes=trial_notes(run, trials),
        chart=trial_chart(run, trials),
    )


def winner(run: Run, trials: Sequence[Trial]) -> Trial | None:
    """The trial whose flags became the preset. None: the defaults won, or nothing has won yet."""
    if run.preset is None or run.preset.is_default:
        return None
    same = [one for one in trials if one.number and one.flags == run.preset.flags and one.objective]
    return max(same, key=lambda one: one.objective.value if one.objective else 0.0, default=None)


def tried(trials: Sequence[Trial]) -> list[Trial]:
    """All but the defaults."""
    return [one for one in trials if one.number]


def failed(trials: Sequence[Trial]) -> list[Trial]:
    """Those tried that gave no figure to judge by."""
    return [one for one in tried(trials) if one.outcome is not Outcome.MEASURED]


# ---------------------------------------------------------------- what the search found


def headline(run: Run, trials: Sequence[Trial]) -> str:
    """Whether the winner beat vLLM's own defaults."""
    count = words.plural(len(tried(trials)), "trial")
    if run.preset is None:
        measured = [one.objective for one in tried(trials) if one.objective]
        best = max(measured, key=lambda found: found.value, default=None)
        so_far = f"; the best so far, not confirmed, reached {words.ratio(best)} of the defaults" if best else ""
        return f"No settings have been chosen yet, after {count}{so_far}."
    if run.preset.is_default or run.preset.ratio is None:
        return f"Nothing that was tried ({count}) was surely faster than vLLM's own defaults: keep them."
    figure = words.ratio(run.preset.ratio)
    if run.preset.ratio.low <= 1:
        return f"The settings chosen reached {figure} of vLLM's own defaults; the interval does not show a gain."
    return f"The settings found are {figure} as fast as vLLM's own defaults, judged by the {meaning(run)}."


def objective(run: Run) -> str:
    """By what the search judged, in its own words."""
    return (run.preset.objective if run.preset else "") or run.objective


def meaning(run: Run) -> str:
    """The objective without its name: "balanced: geometric mean of …" → "geometric mean of …"."""
    name, _, told = objective(run).partition(": ")
    return told or (f"objective “{name}”" if name else "objective of the search")


def strip(run: Run, trials: Sequence[Trial]) -> Strip | None:
    """The search in counts. None: it has not begun."""
    if not trials:
        return None
    tiles = [
        Tile(name="settings tried", figure=Shown(text=f"{len(tried(trials))}")),
        Tile(name="of them without a figure", figure=Shown(text=f"{len(failed(trials))}")),
        Tile(name="time spent", figure=Shown(text=words.duration(sum(one.wall_s for one in trials)))),
    ]
    if run.preset and run.preset.ratio and not run.preset.is_default:
        tiles.insert(0, Tile(name="winner ÷ defaults", figure=words.ratio(run.preset.ratio)))
    return Strip(caption="", tiles=tuple(tiles))


def preset_notes(run: Run) -> list[str]:
    """Whether these settings beat the defaults, and whether they were found for what ran here."""
    preset, facts = run.preset, serve.chosen(run)
    if preset is None:
        is_judged = run.kind != "tune" and facts is not None
        return ["These settings were not found by a search."] if is_judged else []
    out = [against_defaults(run)]
    if facts and facts.version and preset.vllm_version and facts.version != preset.vllm_version:
        out.append(
            f"Found with vLLM {preset.vllm_version}, measured here with {facts.version}: search again before "
            "relying on them."
        )
    here = run.host.gpu or run.host.cpu
    if preset.gpu_title and preset.gpu_title != here:
        out.append(f"Found on {preset.gpu_title}, measured here on {here}.")
    return out


def against_defaults(run: Run) -> str:
    """The winner against trial 0."""
    preset = run.preset
    if preset is None or preset.is_default:
        return "Nothing that was tried was surely faster than vLLM's own defaults, so these are the defaults."
    if preset.ratio is None:
        return "It is not known how these settings compare with vLLM's own defaults."
    figure = words.ratio(preset.ratio)
    if preset.ratio.low > 1:
        return f"In the search these settings beat vLLM's own defaults: {figure}."
    if preset.ratio.high < 1:
        return f"In the search these settings were slower than vLLM's own defaults: {figure}."
    return f"It is open whether these settings beat vLLM's own defaults: {figure}."


def search_facts(run: Run, trials: Sequence[Trial]) -> tuple[Fact, ...]:
    """Where the settings come from."""
    preset = run.preset
    facts = {
        "Objective": objective(run),
        "Found by": f"run {run.tuned_in or preset.run}" if preset and (run.tuned_in or preset.run) else "",
        "Found on": f"{preset.gpu_title}, vLLM {preset.vllm_version}" if preset else "",
        "Trials": f"{len(tried(trials))} besides the defaults, of which {len(failed(trials))} gave no figure"
        if trials
        else "",
        "Time spent": words.duration(sum(one.wall_s for one in trials)) if trials else "",
    }
    return tuple(Fact(name=name, text=text) for name, text in facts.items() if text)


# ---------------------------------------------------------------- the trials


def trial_rows(run: Run, trials: Sequence[Trial]) -> tuple[TrialRow, ...]:
    """All trials in the order asked, the failed ones too."""
    best = winner(run, trials)
    span = log_span(one.objective for one in trials)
    return tuple(trial_row(one, span, is_winner=one is best) for one in by_number(trials))


def by_number(trials: Sequence[Trial]) -> list[Trial]:
    """In the order asked."""
    return sorted(trials, key=lambda one: one.number)


def trial_row(trial: Trial, span: tuple[float, float], *, is_winner: bool) -> TrialRow:
    """One line of the trials table."""
    return TrialRow(
        number=trial.number,
        badge=words.outcome_badge(trial.outcome),
        objective=trial_objective(trial),
        bar=bar(trial.objective, span),
        flags=flag_texts(trial.flags) or ("vLLM's defaults",),
        launch=words.duration(trial.launch_s) if trial.launch_s is not None else DASH,
        wall=words.duration(trial.wall_s),
        reason=trial.reason,
        is_winner=is_winner,
    )


def trial_objective(trial: Trial) -> Shown:
    """The ratio to trial 0, which itself is 1 by definition."""
    is_base = trial.number == 0 and trial.outcome is Outcome.MEASURED and trial.objective is None
    return Shown(text="1×", interval="by definition") if is_base else words.ratio(trial.objective)


def flag_texts(flags: Flags) -> tuple[str, ...]:
    """One text per flag, as vLLM takes it."""
    return tuple(shlex.join(words.flag_words({name: value})) for name, value in flags.items())


def trial_notes(run: Run, trials: Sequence[Trial]) -> tuple[str, ...]:
    """How to read the trials."""
    if not trials:
        return ()
    level = words.confidence(one.objective for one in trials)
    out = [f"The objective is a ratio to trial 0, vLLM's own defaults; in brackets its interval{level}."]
    if run.tuned_in:
        out.append(f"The search is run {run.tuned_in}; its trials were copied here.")
    if failed(trials):
        out.append("Settings that failed stay in the list: they tell where the limits of this machine are.")
    return tuple(out)


def trial_chart(run: Run, trials: Sequence[Trial]) -> TrialChart | None:
    """The search as rows of flags and intervals. None: no trial but the defaults."""
    if not tried(trials):
        return None
    ordered = by_number(trials)
    flags = varied(ordered)
    best = winner(run, ordered)
    marks = tuple(
        TrialMark(
            name=str(one.number),
            values=tuple(words.shown_value(flag, one.flags[flag]) if flag in one.flags else UNSET for flag in flags),
            objective=(one.objective.low, one.objective.value, one.objective.high) if one.objective else None,
            says=trial_says(one),
            is_winner=one is best,
        )
        for one in ordered
    )
    told = (
        f"trial {mark.name}: {mark.says or words.ratio(one.objective)}"
        for mark, one in zip(marks, ordered, strict=True)
    )
    return TrialChart(
        name="trials",
        title="Objective of each trial, as a ratio to vLLM's own defaults",
        flags=flags,
        marks=marks,
        description=f"{'; '.join(told)}.",
    )


def trial_says(trial: Trial) -> str:
    """What stands in the chart where there is no interval that counts."""
    if trial.outcome is not Outcome.MEASURED:
        return trial.outcome.value
    return "" if trial.objective else "the defaults" if trial.number == 0 else "no figure"


def varied(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The flags in which the trials differ."""
    names = dict.fromkeys(name for one in trials for name in one.flags)
    return tuple(name for name in names if len({repr(one.flags.get(name)) for one in trials}) > 1)
