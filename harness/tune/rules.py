"""The rules of the defence: who is in the finals, who wins, which flags are dropped; pure."""

from collections.abc import Sequence
from typing import Final

from harness.errors import EngineError
from harness.records import Defence, DefenceLaunch, Estimate, Flags, FlagValue, Judged, Outcome, Trial, Verdict
from harness.stats.turns import chained
from harness.stats.verdict import NOISE_RATIO, verdict
from harness.tune.objectives import aimed_levels
from harness.tune.plan import Plan

STAGE: Final = "defence"
"""Of the prompts' seed: none is of the search."""
FINALS, ABLATION, CONFIRMATION = "finals", "ablation", "confirmation"
BASELINE, WINNER, REDUCED = "baseline", "winner", "reduced"
MAX_REPEATS: Final = 2
"""Launches are the sample; more repeats within one tell little,"""
MANY_LOADS: Final = 3
"""and of so many loads one each is enough."""
MAX_LOSS: Final = 1 / (1 + NOISE_RATIO) ** 3
"""A flag is dropped where no more than this is lost without it, by the whole interval, and no more than the noise by
the figure itself."""


def repeats_of(plan: Plan) -> int:
    """Of each load in each launch of the defence."""
    return 1 if len(aimed_levels(plan.objectives)) >= MANY_LOADS else min(plan.repeats, MAX_REPEATS)


def finalists_of(trials: Sequence[Trial], *, has_stopped: bool = False) -> list[Trial]:
    """Trials that may be better than the baseline, the best first: measured whole, better by the figure, not worse.

    Args:  has_stopped: with those behind them that were stopped because another one was ahead, which is out now.
    """
    outcomes = [Outcome.MEASURED, *([Outcome.STOPPED] if has_stopped else [])]
    hopeful = [
        trial
        for trial in trials
        if trial.is_candidate
        and trial.outcome in outcomes
        and gain(trial) > 1
        and not any(verdict(one) == Verdict.SLOWER for one in trial.objectives.values())
    ]
    return sorted(hopeful, key=lambda trial: (outcomes.index(trial.outcome), -gain(trial)))


def gain(trial: Trial) -> float:
    """Its ratio to the baseline, as far as it was measured; 0 where it has none."""
    found = trial.objective or trial.partial
    return 0.0 if found is None else found.value


def without(flags: Flags, name: str, *, baseline: Flags) -> Flags:
    """The flags with the baseline's own value of `name`, where it has one."""
    left: dict[str, FlagValue] = {key: value for key, value in flags.items() if key != name}
    return left | {name: baseline[name]} if name in baseline else left


def overrides(flags: Flags, *, baseline: Flags) -> list[str]:
    """Flags that the baseline does not have, or has another value of."""
    return [name for name, value in flags.items() if baseline.get(name) != value]


def does_nothing(found: Estimate | None) -> bool:
    """Whether what was left out changes nothing within the noise."""
    return found is not None and found.value >= 1 / (1 + NOISE_RATIO) and found.low >= MAX_LOSS


def role(stage: str, name: str) -> str:
    """Of the cells: "final trial 3", "ablation winner"."""
    return f"{'final' if stage == FINALS else stage} {name}"


def order(stage: str) -> int:
    """In which stages follow each other."""
    return (FINALS, ABLATION, CONFIRMATION).index(stage)


def is_earlier(one: DefenceLaunch, state: Defence, stage: str) -> bool:
    """Whether the launch was before this stage of this round."""
    return (one.round, order(one.stage)) < (state.round, order(stage))


def kept_ratio(defence: Defence) -> Estimate | None:
    """What the study ends with against the baseline: the winner in the finals, times what was lost with its flags."""
    won = next((one.ratio for one in defence.finals if one.name == f"trial {defence.winner}"), None)
    if not defence.dropped:
        return won
    name = f"without {defence.dropped[0]}"
    alone = next((one for one in defence.removals if one.name == name), None)
    lost = defence.confirmation if len(defence.dropped) > 1 else alone
    return None if won is None or lost is None or lost.ratio is None else chained(won, lost.ratio)


def kept_role(defence: Defence) -> str:
    """Of the cells in which exactly the flags that the study ends with were measured."""
    if defence.winner is None:
        return BASELINE
    if not defence.dropped:
        return role(FINALS, f"trial {defence.winner}")
    return role(CONFIRMATION, REDUCED) if len(defence.dropped) > 1 else role(ABLATION, f"without {defence.dropped[0]}")


def wins(one: Judged) -> bool:
    """Faster as a whole and by its whole interval, in no objective surely slower, and not refused."""
    slower = any(verdict(each) == Verdict.SLOWER for each in one.ratios.values())
    return not one.is_refused and verdict(one.ratio) == Verdict.FASTER and not slower


def told(error: EngineError | None) -> str:
    """What an engine's failure says."""
    return "" if error is None else error.message


def judged_line(one: Judged, *, control: str) -> str:
    """For the console."""
    if one.ratio is None:
        return f"{one.name}: {one.reason}"
    figure = f"{one.ratio.value:.3f}x the {control} ({one.ratio.low:.3f} to {one.ratio.high:.3f})"
    return f"{one.name}: {figure}{f'; refused: {one.reason}' if one.is_refused else ''}"
