"""Trials in words, and failed launches as something to learn from."""

from collections.abc import Sequence

from harness.errors import EngineContextTooLong, EngineError, EngineOutOfMemory
from harness.progress import Say, clock_text
from harness.records import Flags, Outcome, Trial
from harness.tune.contest import value_of
from harness.tune.launches import OUTCOMES
from harness.tune.plan import role_of


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
