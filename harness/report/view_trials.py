"""The trials of a search: what was tried, what came of it, and what was learned from what failed, in words."""

import shlex
from collections.abc import Sequence
from typing import Final

from harness.records import Flags, Outcome, Run, Trial
from harness.report import words
from harness.report.figures import bar, log_span
from harness.report.page_charts import TrialChart, TrialMark
from harness.report.page_study import TrialRow
from harness.report.words import DASH, Shown

UNSET: Final = "·"
MOST_FLAGS: Final = 5
"""Of the chart: more would push the figures off the page; the table has all."""
CONTEXT: Final = "max-model-len"
SHORT: Final = "memory_short_gib"
"""Name of the constraint that says by how much memory was short."""


def tried(trials: Sequence[Trial]) -> list[Trial]:
    """All but the defaults."""
    return [one for one in trials if one.is_candidate]


def failed(trials: Sequence[Trial]) -> list[Trial]:
    """Those tried that gave no figure to judge by."""
    return [one for one in tried(trials) if one.outcome not in {Outcome.MEASURED, Outcome.STOPPED}]


def by_number(trials: Sequence[Trial]) -> list[Trial]:
    """In the order asked."""
    return sorted(trials, key=lambda one: one.number)


# ---------------------------------------------------------------- table


def trial_rows(trials: Sequence[Trial], best: Trial | None, *, is_simulated: bool = False) -> tuple[TrialRow, ...]:
    """All trials in the order asked, the failed ones too."""
    span = log_span(one.objective for one in trials)
    return tuple(trial_row(one, span, is_winner=one is best, is_simulated=is_simulated) for one in by_number(trials))


def trial_row(trial: Trial, span: tuple[float, float], *, is_winner: bool, is_simulated: bool) -> TrialRow:
    """One line of the trials table."""
    return TrialRow(
        number=trial.number,
        badge=words.outcome_badge(trial.outcome, is_simulated=is_simulated),
        objective=trial_objective(trial),
        bar=bar(trial.objective, span),
        flags=flag_texts(trial.flags) or ("vLLM's defaults",),
        origin=trial.origin,
        launch=words.duration(trial.launch_s) if trial.launch_s is not None else DASH,
        wall=words.duration(trial.wall_s),
        reason=trial.reason,
        is_winner=is_winner,
    )


def trial_objective(trial: Trial) -> Shown:
    """The ratio to trial 0, which itself is 1 by definition; of a stopped one that of the loads it came to."""
    if trial.number == 0 and trial.outcome is Outcome.MEASURED and trial.objective is None:
        return Shown(text="1×", interval="by definition")
    if trial.objective is None and trial.partial is not None:
        part = words.ratio(trial.partial)
        return Shown(text=part.text, interval=part.interval, mark=words.PARTIAL)
    return words.ratio(trial.objective)


def flag_texts(flags: Flags) -> tuple[str, ...]:
    """One text per flag, as vLLM takes it."""
    return tuple(shlex.join(words.flag_words({name: value})) for name, value in flags.items())


def trial_notes(run: Run, trials: Sequence[Trial]) -> tuple[str, ...]:
    """How to read the trials."""
    if not trials:
        return ()
    level = words.confidence(one.objective for one in trials)
    out = [f"The objective is a ratio to trial 0, vLLM's own defaults; in brackets its interval{level}."]
    out += [
        f"Trial {one.number} is the defaults once more, measured beside other workers' candidates, whose ratios are "
        "to it; its own is to trial 0."
        for one in trials
        if one.is_control
    ]
    out += words.footnotes(trial_objective(one).mark for one in trials)
    if run.tuned_in:
        out.append(f"The search is run {run.tuned_in}; its trials were copied here.")
    if failed(trials):
        out.append("Settings that failed stay in the list: they tell where the limits of this machine are.")
    return tuple(out)


# ---------------------------------------------------------------- chart


def trial_chart(trials: Sequence[Trial], best: Trial | None) -> TrialChart | None:
    """The search as rows of flags and intervals. None: no trial but the defaults."""
    if not tried(trials):
        return None
    ordered = by_number(trials)
    flags = varied(ordered)
    marks = tuple(
        TrialMark(
            name=str(one.number),
            values=tuple(words.shown_value(flag, one.flags[flag]) if flag in one.flags else UNSET for flag in flags),
            objective=bounds(one),
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


def bounds(trial: Trial) -> tuple[float, float, float] | None:
    """Low, value and high of its ratio, as far as it was measured. None: there is no figure."""
    found = trial.objective or trial.partial
    return (found.low, found.value, found.high) if found else None


def trial_says(trial: Trial) -> str:
    """What stands in the chart where there is no interval that counts."""
    if trial.outcome is not Outcome.MEASURED:
        return trial.outcome.value
    return "" if trial.objective else "the defaults" if trial.number == 0 else "no figure"


def varied(trials: Sequence[Trial]) -> tuple[str, ...]:
    """The flags in which the trials differ, in their order; of many those with the most values."""
    names = dict.fromkeys(name for one in trials for name in one.flags)
    values = {name: len({repr(one.flags.get(name)) for one in trials}) for name in names}
    differing = [name for name in names if values[name] > 1]
    kept = set(sorted(differing, key=lambda name: -values[name])[:MOST_FLAGS])
    return tuple(name for name in differing if name in kept)


# ---------------------------------------------------------------- what was learned


def lessons(trials: Sequence[Trial]) -> tuple[str, ...]:
    """What failed, and what the search made of it."""
    told = [lesson(one) for one in by_number(failed(trials))]
    return (*told, *(text for one in by_number(trials) if (text := retried(one))))


def lesson(trial: Trial) -> str:
    """ "Trial 3: out of memory at start, 1.40 GiB short → nothing was tried after it that needs as much memory."."""
    where = f" under {words.plural(trial.died_under_users, 'user')}" if trial.died_under_users else ""
    head = f"Trial {trial.number}: {trial.outcome.value}{where}"
    match trial.outcome:
        case Outcome.OUT_OF_MEMORY:
            short_gib = trial.constraints.get(SHORT)
            short = f", {words.number(short_gib)} GiB short" if short_gib else ""
            at = "" if where or trial.launch_s is not None else " at the start"
            return f"{head}{at}{short} → nothing that is known to need as much memory was tried after it."
        case Outcome.CONTEXT_TOO_LONG if trial.fits_tokens:
            asked = trial.flags.get(CONTEXT)
            of = f": {asked:,} tokens" if isinstance(asked, int) else ""
            return f"{head}{of}, and {trial.fits_tokens:,} would fit → longer ones were cut to that."
        case Outcome.BAD_FLAG:
            return f"{head} → what vLLM refused was not sent again."
        case Outcome.INVALID:
            return f"{head}: its figures do not count → nothing was learned of these settings."
        case _:
            return f"{head} → these settings were not tried again, and their neighbours last."


def retried(trial: Trial) -> str:
    """What others did to it; empty where nobody did anything."""
    if not trial.retries:
        return ""
    again = words.plural(trial.retries, "launch", "launches")
    return (
        f"Trial {trial.number}: {again} before the one that counts failed for what other programs did (they held "
        "memory or the port) → tried again, and nothing was learned of these settings."
    )


def stops(trials: Sequence[Trial]) -> tuple[str, ...]:
    """What was stopped early, why, and what it had come to."""
    return tuple(
        f"Trial {one.number}: {one.stopped}"
        + (f" (until then {words.ratio(one.partial)} of the defaults)" if one.partial else "")
        + f"; ended after {words.duration(one.wall_s)}."
        for one in by_number(trials)
        if one.stopped
    )
