"""Several objectives and limits of service: who is beaten by nobody, and who kept what was asked, in words."""

from collections.abc import Sequence
from typing import Final

from harness.records import Estimate, Run, Trial
from harness.report import words
from harness.report.page_charts import FrontChart, FrontMark
from harness.report.page_study import Front, KeptTable
from harness.report.view_trials import by_number, flag_texts
from harness.report.words import DASH, Badge, Shown
from harness.stats import slo

ONE: Final = (1.0, 1.0, 1.0)
"""The baseline, by definition."""
ALL_KEPT: Final = Badge(text="keeps all", tone="good", sign="✓")
NOT_KEPT: Final = Badge(text="misses", tone="bad", sign="✗")
UNSURE: Final = Badge(text="not sure", tone="unsure", sign="?")


def name_of(trial: Trial) -> str:
    """ "trial 3"; the baseline is the defaults."""
    return f"trial {trial.number}" if trial.number else "vLLM's defaults"


# ---------------------------------------------------------------- several objectives


def front(run: Run, trials: Sequence[Trial]) -> Front | None:
    """What no other trial beats in all objectives. None: there is one objective."""
    names = objective_names(run, trials)
    if len(names) < 2:
        return None
    members = [one for one in by_number(trials) if one.number in run.front]
    told = words.listed([name_of(one) for one in members])
    return Front(
        sentence=f"No settings that were tried beat {told} in all objectives at once; which of them is best is for who "
        "uses them to say."
        if members
        else "No front is known yet.",
        names=names,
        rows=tuple(
            (name_of(one), tuple(ratio_of(one, name) for name in names), flag_texts(one.flags) or ("vLLM's defaults",))
            for one in members
        ),
        chart=front_chart(run, trials, names),
        notes=front_notes(run, names),
    )


def objective_names(run: Run, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Of all objectives, in the order asked."""
    asked = tuple(run.asked.objectives) if run.asked else ()
    return asked or tuple(dict.fromkeys(name for one in trials for name in one.objectives))


def ratio_of(trial: Trial, name: str) -> Shown:
    """To the defaults, in one objective."""
    return Shown(text="1×", interval="by definition") if not trial.number else words.ratio(trial.objectives.get(name))


def front_chart(run: Run, trials: Sequence[Trial], names: Sequence[str]) -> FrontChart | None:
    """The first two objectives against each other. None: no trial has figures in both."""
    across, up = names[:2]
    marks = tuple(
        FrontMark(
            name=str(one.number),
            x=bounds(one, across),
            y=bounds(one, up),
            is_front=one.number in run.front,
        )
        for one in by_number(trials)
        if not one.number or (across in one.objectives and up in one.objectives)
    )
    if len(marks) < 2:
        return None
    told = (f"trial {mark.name}: {words.number(mark.x[1])}×, {words.number(mark.y[1])}×" for mark in marks)
    return FrontChart(
        name="front",
        title=f"{up} over {across}, as ratios to vLLM's defaults",
        x_label=f"{across} →",
        y_label=f"{up} ↑",
        marks=marks,
        description=f"{across} and {up} of each trial: {'; '.join(told)}.",
    )


def bounds(trial: Trial, name: str) -> tuple[float, float, float]:
    """Low, value and high in one objective."""
    found = trial.objectives.get(name)
    return (found.low, found.value, found.high) if trial.number and found else ONE


def front_notes(run: Run, names: Sequence[str]) -> tuple[str, ...]:
    """How to read chart and table."""
    meanings = run.asked.objectives if run.asked else {}
    out = [f"{name}: {meaning}." for name, meaning in meanings.items()]
    out.append("Each is a ratio to vLLM's defaults, over 1× is better, for times too; bars are intervals.")
    if len(names) > 2:
        out.append(f"The chart is of the first two objectives only, the front of all {len(names)}.")
    return tuple(out)


# ---------------------------------------------------------------- limits of service


def kept_table(trials: Sequence[Trial]) -> KeptTable | None:
    """The share of requests that kept each limit, by trial. None: no limit was asked, or nothing is known of any."""
    known = [one for one in by_number(trials) if one.kept]
    if not known:
        return None
    limits = tuple(dict.fromkeys(text for one in known for text in one.kept))
    return KeptTable(
        sentence=kept_sentence(known, limits),
        limits=limits,
        rows=tuple(
            (
                name_of(one),
                tuple(words.percent_of(one.kept[text]) if text in one.kept else Shown(text=DASH) for text in limits),
                kept_badge(one, limits),
            )
            for one in known
        ),
    )


def kept_sentence(known: Sequence[Trial], limits: Sequence[str]) -> str:
    """How many kept all limits; where nobody did, who came nearest."""
    met = [one for one in known if meets(one, limits)]
    asked = words.listed(limits)
    if met:
        count = "One of the settings" if len(met) == 1 else f"{len(met)} of the settings"
        names = words.listed([name_of(one) for one in met])
        return f"{count} that were measured kept {asked}: {names}."
    best = max(known, key=lambda one: min(one.kept[text].value for text in limits if text in one.kept))
    told = words.listed([f"{words.percent_of(best.kept[text])} kept {text}" for text in limits if text in best.kept])
    return f"Nobody met it: no settings kept {asked}. The best found is {name_of(best)}: of its requests {told}."


def meets(trial: Trial, limits: Sequence[str]) -> bool:
    """Whether, by the figures themselves, enough of its requests kept every limit."""
    return all(text in trial.kept and trial.kept[text].value >= slo.slo(text).share for text in limits)


def kept_badge(trial: Trial, limits: Sequence[str]) -> Badge:
    """What the intervals say: all limits surely kept, one surely not, or neither."""
    found = [(trial.kept.get(text), slo.slo(text).share) for text in limits]
    if all(is_inside(one, share) for one, share in found):
        return ALL_KEPT
    return NOT_KEPT if any(one is not None and one.high < share for one, share in found) else UNSURE


def is_inside(found: Estimate | None, share: float) -> bool:
    """Whether the whole interval lies at or above what is asked."""
    return found is not None and found.low >= share
