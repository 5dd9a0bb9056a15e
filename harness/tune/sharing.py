"""Which of several runs that share a search defends the winner, and what the others say of it."""

import math
from collections.abc import Sequence

from harness.records import Estimate, Trial
from harness.tune.objectives import Objective, told
from harness.tune.world import SearchLike


def elsewhere(
    search: SearchLike, name: str, trials: Sequence[Trial], objectives: Sequence[Objective]
) -> tuple[bool, str]:
    """Whether another run has the winner, and what is to be noted of the others.

    The winner is the best of all that was told so far, each against the baseline of its own run; of equals that of the
    run whose name comes first. Runs end at different times: what is better and comes later is defended too, and says
    that another one was before. A run whose finals crowned nobody has no winner any more.
    """
    ended = search.defended()
    refuted = [run for run, ratio in ended.items() if ratio is None and run != name]
    found = [one for trial in trials if trial.is_candidate and (one := told(trial, objectives)) is not None]
    mine = max((sum(one) for one in found), default=0.0)
    best = search.best_elsewhere(name, refuted=refuted)
    if best is not None and (best[0] > mine or (best[0] == mine and best[1] < name)):
        value, run = best
        return True, (
            f"The best of this study was found by another run, {run}: {ratio_text(value, objectives)} its baseline in "
            f"the search. {outcome_text(run, ended)} What is told here was not defended."
        )
    others = {run: ratio for run, ratio in ended.items() if run != name}
    if not others:
        return False, ""
    outcomes = "; ".join(f"{run} {came_to(ratio)}" for run, ratio in sorted(others.items()))
    return False, (
        f"Of the runs that share this study some ended before: {outcomes}. What this run found is better in the "
        f"search, {ratio_text(mine, objectives)} its baseline, and is defended here."
        if mine > 0
        else f"Of the runs that share this study some ended before: {outcomes}. This run found nothing better."
    )


def outcome_text(run: str, ended: dict[str, Estimate | None]) -> str:
    """What became of the other run's winner."""
    if run not in ended:
        return "That run defends it when it ends."
    return f"That run has ended, and {came_to(ended[run])}."


def came_to(ratio: Estimate | None) -> str:
    """What a defence came to."""
    if ratio is None:
        return "kept the defaults"
    return f"defended {ratio.value:.3f}x its baseline ({ratio.low:.3f} to {ratio.high:.3f})"


def ratio_text(logarithms: float, objectives: Sequence[Objective]) -> str:
    """The mean ratio over the objectives."""
    return f"{math.exp(logarithms / len(objectives)):.3f}x"
