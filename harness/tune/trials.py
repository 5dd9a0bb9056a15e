"""Launches as trials, failed ones as something to learn from; and trials in words."""

from collections.abc import Sequence

from harness.errors import EngineContextTooLong, EngineError, EngineOutOfMemory
from harness.progress import Say, clock_text
from harness.records import Cell, Estimate, Flags, Outcome, Trial
from harness.tune.contest import value_of
from harness.tune.launches import OUTCOMES, Launched
from harness.tune.objectives import Scores, together
from harness.tune.plan import Plan, role_of


def trial_of(
    number: int,
    flags: Flags,
    launched: Launched,
    *,
    plan: Plan,
    scores: Scores,
    baseline: Sequence[Cell],
    origin: str = "",
) -> Trial:
    """A launch that lived, with its figures.

    Args:  baseline: the cells of trial 0; none where this is trial 0.
    """
    cells, goals = launched.cells, plan.objectives
    ratios = {one.name: scores.ratio(baseline, cells, one) for one in goals if number}
    objectives = {name: found for name, found in ratios.items() if found is not None}
    whole = together(list(objectives.values())) if len(objectives) == len(goals) else None
    doubts = sorted({reason for cell in cells for reason in cell.reasons})
    if number and whole is None and not doubts and not launched.stopped:
        unkept = [one for one in goals if scores.is_none_kept([*baseline, *cells], one)]
        doubts = [
            f"no request kept {', '.join(plan.slos)}, and none of the baseline's"
            if unkept
            else f"fewer than 2 valid repeats of {' or '.join(one.metric for one in goals)} at some load"
        ]
    outcome = Outcome.MEASURED if number == 0 or whole is not None else Outcome.INVALID
    assert launched.facts is not None
    return Trial(
        number=number,
        flags=flags,
        outcome=Outcome.STOPPED if launched.stopped else outcome,
        objective=whole,
        reason="; ".join(filter(None, (launched.stopped, *doubts))),
        log=launched.facts.log,
        launch_s=launched.launch_s,
        wall_s=launched.wall_s,
        origin=origin,
        objectives=objectives,
        stopped=launched.stopped,
        partial=partial_ratio(cells, baseline, plan=plan, scores=scores) if launched.stopped else None,
        level_s=launched.level_s,
        retries=launched.retries,
        kept={text: found for one in goals if one.slos for text, found in scores.kept(cells, one).items()},
    )


def partial_ratio(cells: Sequence[Cell], baseline: Sequence[Cell], *, plan: Plan, scores: Scores) -> Estimate | None:
    """The ratio to the baseline over the loads that were measured whole."""
    counts = {users: sum(cell.users == users for cell in cells) for users in plan.users}
    measured = {users for users, count in counts.items() if count == plan.repeats}
    found = [
        scores.ratio_at(baseline, cells, one, levels=[u for u in one.levels if u in measured])
        for one in plan.objectives
    ]
    known = [one for one in found if one is not None]
    return together(known) if known and len(known) == len(found) else None


def failed_trial(number: int, flags: Flags, error: EngineError, *, wall_s: float) -> Trial:
    """A failed launch as something to learn from: by how much it was infeasible, over 0 where that is not known."""
    constraints = {"started": 1.0}
    if isinstance(error, EngineContextTooLong) and error.fits and "max-model-len" in flags:
        constraints = {"context": int(flags["max-model-len"]) / error.fits - 1}
    elif isinstance(error, EngineOutOfMemory) and error.short_bytes:
        constraints = {"memory_short_gib": error.short_bytes / 2**30}
    return Trial(
        number=number,
        flags=flags,
        outcome=OUTCOMES[type(error)],
        constraints=constraints,
        fits_tokens=error.fits if isinstance(error, EngineContextTooLong) else None,
        reason=error.message,
        log=error.log.name if error.log else "",
        wall_s=wall_s,
    )


def given_up_trial(number: int, flags: Flags) -> Trial:
    """Of a candidate that nobody is given any more."""
    return Trial(
        number=number,
        flags=flags,
        outcome=Outcome.CRASHED,
        constraints={"started": 1.0},
        reason="whoever measured it died over it, twice",
        origin="search",
    )


def simulated(say: Say) -> Say:
    """Says of every line that it is of a simulation."""
    return lambda text: say(text if text.startswith("simulated") else f"simulated  {text}")


def flags_text(flags: Flags) -> str:
    """As on a command line."""
    return " ".join(f"--{name} {value}" for name, value in flags.items())


def front_line(trials: Sequence[Trial], numbers: Sequence[int]) -> str:
    """The front for the console: each member with its ratios."""
    by_number = {trial.number: trial for trial in trials}
    names = list(dict.fromkeys(name for number in numbers for name in by_number[number].objectives))
    told = [
        f"{role_of(number)} ({', '.join(f'{name} {value_of(by_number[number], name):.3f}x' for name in names)})"
        for number in numbers
    ]
    return f"no settings beat these in all objectives: {'; '.join(told)}"


def trial_line(trial: Trial, *, spent_s: float, budget_s: float | None) -> str:
    """What came of a trial, and of the budget."""
    spent = "" if budget_s is None else f"; {clock_text(spent_s)} of {clock_text(budget_s)} are spent"
    found = trial.objective or trial.partial
    if found is None:
        return f"trial {trial.number}: {trial.outcome}: {trial.reason}{spent}"
    figure = f"{found.value:.3f}x the baseline ({found.low:.3f} to {found.high:.3f})"
    why = f", stopped: {trial.stopped}" if trial.stopped else ""
    return f"trial {trial.number}: {figure}{why}{spent}"
