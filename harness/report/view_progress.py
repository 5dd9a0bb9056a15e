"""The course of a search: its best figure over launches and minutes, and what each of its stages cost, in words."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from harness.records import DefenceLaunch, Outcome, Run, Trial
from harness.report import words
from harness.report.page_charts import ProgressChart, ProgressMark
from harness.report.page_study import StageRow
from harness.report.view_defence import winner_judged
from harness.report.view_trials import bounds, by_number, tried

LOWEST: Final = 0.5
"""Ratios down to which the curves go."""
STAGES: Final = {
    "finals": "Finals: the best against the defaults, on other prompts",
    "ablation": "Ablation: the winner without each of its flags",
    "confirmation": "Confirmation: without all flags that did nothing",
}


# ---------------------------------------------------------------- curves


def charts(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch]) -> tuple[ProgressChart, ...]:
    """Over launches and over minutes; none where nothing but the defaults was tried."""
    if not tried(trials):
        return ()
    ordered = by_number(trials)
    count = [float(place) for place in range(1, len(ordered) + len(launches) + 1)]
    minutes = [so_far_s / 60 for so_far_s in accumulate(walls_s(ordered, launches))]
    time = "simulated minutes" if run.is_simulated else "minutes"
    is_shared = any(one.worker is not None for one in ordered)
    since = "of launches, all workers together" if is_shared else "since the study began"
    finals = sum(one.stage == "finals" for one in launches)
    by_launch = chart(
        run, ordered, count, finals=finals, name="progress-launches", over="launches", label="launches; first: defaults"
    )
    by_time = chart(run, ordered, minutes, finals=finals, name="progress-minutes", over=time, label=f"{time} {since}")
    return by_launch, by_time


def chart(
    run: Run, trials: Sequence[Trial], places: Sequence[float], *, finals: int, name: str, over: str, label: str
) -> ProgressChart:
    """One of the curves; `places` are of all launches, those of the defence behind the trials', first its finals."""
    marks = [
        ProgressMark(
            name=str(one.number), x=x, ratio=bounds(one) or (base if one.number == 0 else None), kind=kind(one)
        )
        for one, x in zip(trials, places, strict=False)
        for base in [(1.0, 1.0, 1.0)]
    ]
    best = best_so_far(marks)
    final = winner_judged(run)
    if final is not None and final.ratio is not None and finals:
        ratio = (final.ratio.low, final.ratio.value, final.ratio.high)
        marks.append(ProgressMark(name="finals", x=places[len(trials) + finals - 1], ratio=ratio, kind="final"))
    steps = "; ".join(f"{words.number(value)}× at {words.number(x)}" for x, value in best)
    return ProgressChart(
        name=name,
        title=f"Best so far over {over}",
        x_label=label,
        marks=tuple(marks),
        best=tuple(best),
        end=places[len(trials) - 1],
        last=places[-1],
        lowest=LOWEST,
        description=f"The best ratio to vLLM's defaults so far, over {over}: {steps}.",
    )


def kind(trial: Trial) -> str:
    """How its mark is drawn."""
    if trial.outcome is Outcome.STOPPED and trial.partial is not None:
        return "stopped"
    return "whole" if trial.objective is not None or trial.number == 0 else "failed"


def best_so_far(marks: Sequence[ProgressMark]) -> list[tuple[float, float]]:
    """Each place where a launch that was measured whole went over all before it."""
    out: list[tuple[float, float]] = []
    for mark in marks:
        if mark.kind == "whole" and mark.ratio and (not out or mark.ratio[1] > out[-1][1]):
            out.append((mark.x, mark.ratio[1]))
    return out


def chart_notes(run: Run, trials: Sequence[Trial]) -> tuple[str, ...]:
    """How to read the curves."""
    if not tried(trials):
        return ()
    believed = (
        "what may be believed is the finals, whose winner is the diamond"
        if winner_judged(run) is not None
        else "no finals confirmed it"
    )
    out = [
        "The line is the best figure of the search so far. It is the best of many noisy ones, so it is too good on "
        f"average: {believed}."
    ]
    kinds = {kind(one) for one in trials}
    below = [bound for one in trials if (bound := bounds(one)) and bound[1] <= LOWEST]
    hollow = "hollow: stopped early, over the loads that were measured" if "stopped" in kinds else ""
    cross = "crosses: no figure" if "failed" in kinds else ""
    arrow = f"arrows: at or below {LOWEST}×" if below else ""
    if told := "; ".join(filter(None, (hollow, cross, arrow))):
        out.append(f"{told[0].upper()}{told[1:]}.")
    return tuple(out)


# ---------------------------------------------------------------- what it cost


def walls_s(trials: Sequence[Trial], launches: Sequence[DefenceLaunch]) -> list[float]:
    """What each launch took, those of the defence last."""
    return [*(one.wall_s for one in trials), *(one.wall_s for one in launches)]


def stages(trials: Sequence[Trial], launches: Sequence[DefenceLaunch]) -> tuple[StageRow, ...]:
    """Launches and time of each stage; none where there were no trials."""
    if not trials:
        return ()
    parts: dict[str, list[Trial | DefenceLaunch]] = {
        "Baseline: vLLM's defaults": [one for one in trials if one.number == 0],
        "The defaults again, beside other workers": [one for one in trials if one.is_control],
        "Search: candidates": list(tried(trials)),
    }
    for stage, title in STAGES.items():
        parts[title] = [one for one in launches if one.stage == stage]
    whole_s = sum(one.wall_s for mine in parts.values() for one in mine)
    rows = [stage_row(title, mine, whole_s) for title, mine in parts.items() if mine]
    return (*rows, stage_row("In all", [one for mine in parts.values() for one in mine], whole_s))


def stage_row(title: str, mine: Sequence[Trial | DefenceLaunch], whole_s: float) -> StageRow:
    """One stage; launches that others made fail are counted, since they took time."""
    spent_s = sum(one.wall_s for one in mine)
    bad = sum(one.outcome not in {Outcome.MEASURED, Outcome.STOPPED} for one in mine)
    retries, stopped = sum(one.retries for one in mine), sum(one.outcome is Outcome.STOPPED for one in mine)
    lost = {"without a figure": bad, "stopped early": stopped, "made again for what others did": retries}
    return StageRow(
        name=title,
        launches=str(len(mine) + retries),
        lost=", ".join(f"{count} {what}" for what, count in lost.items() if count),
        time=words.duration(spent_s),
        share=words.percent(spent_s / whole_s) if whole_s else words.DASH,
    )


def stage_notes(run: Run, trials: Sequence[Trial], launches: Sequence[DefenceLaunch]) -> tuple[str, ...]:
    """Against the budget, and what the time is of."""
    if not trials:
        return ()
    out = []
    spent_s = sum(walls_s(trials, launches))
    if run.asked is not None and run.asked.budget_s is not None:
        out.append(f"Of a budget of {words.duration(run.asked.budget_s)}, launches took {words.duration(spent_s)}.")
    if run.is_simulated:
        out.append("Times are simulated: an engine on a real card would have taken about so long.")
    return tuple(out)
