"""What launches cost, and how a budget is shared between the search and the defence of its winner; pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from harness import bench
from harness.errors import UsageError
from harness.progress import clock_text
from harness.records import DefenceLaunch, Level, Record, Scenario, Trial
from harness.tune.plan import Plan

CLOSING_S: Final = 10.0
"""For the preset and the report."""
MAX_DEFENCE_SHARE: Final = 0.5
"""Of the budget: a well proved first guess is worth less than a found one."""
FINALS: Final = ((3, 3), (2, 3), (2, 2), (1, 2))
"""(finalists, launches of each side), the best first. Two launches a side are the least that carry an interval."""
LEAST_BLOCKS: Final = 2
MOST_BLOCKS: Final = 6
"""Launches of each side of a stage, as they are planned. One says nothing of how much launches differ."""
MOST_FILLED: Final = 12
"""The same of a stage that fills the time up."""
ENDED: Final = "The study ended after"
"""How the note begins about a budget that was not used up; a study that goes on replaces it."""
FULL: Final = 0.9
"""Of a budget: a study that ends before says why."""
ENOUGH_LAUNCHES: Final = 12
"""A budget with room for fewer of them is better spent on more candidates than on more repeats."""
ABLATED_FLAGS: Final = 3
"""So many flags are expected, as long as no winner is known."""


class Costs(Record, frozen=True, kw_only=True):
    """Seconds that things take in this study, by what was measured so far."""

    launch_s: float
    """From the command to the first request and from the last one to the end of the engine, on average."""
    longest_launch_s: float
    level_s: dict[str, float]
    """One repeat of each load, on average, by its name."""

    def of(self, levels: Iterable[Level], repeats: int) -> float:
        """One launch with so many repeats of these loads."""
        return self.launch_s + repeats * sum(self.level_s[level.name] for level in levels)

    def at_most(self, levels: Iterable[Level], repeats: int) -> float:
        """The same where the launch takes as long as the longest one."""
        return self.of(levels, repeats) + self.longest_launch_s - self.launch_s


class Split(Record, frozen=True, kw_only=True):
    """What is kept of a budget for the time after the search."""

    finals_s: float
    """0: the budget has no room for finals."""
    ablation_s: float

    @property
    def whole_s(self) -> float:
        """Of both."""
        return self.finals_s + self.ablation_s


class Finals(Record, frozen=True, kw_only=True):
    """What is launched in the finals, and what is kept of the time for afterwards."""

    finalists: int
    blocks: int
    """Launches of each side."""
    ablated: int
    """Flags for whose ablation time is kept. 0: none, or there is no budget."""


def first_guess(plan: Plan) -> Costs:
    """What launches cost, before there was one."""
    return guessed_costs(plan.scenario, plan.levels, launch_s=bench.LAUNCH_GUESS_S[plan.engine])


def guessed_costs(scenario: Scenario, levels: Iterable[Level], *, launch_s: float) -> Costs:
    """Before anything was launched: each load is held for as long as its scenario asks at least."""
    held_s = bench.held_s(scenario.load)
    return Costs(launch_s=launch_s, longest_launch_s=launch_s, level_s={level.name: held_s for level in levels})


def costs(done: Iterable[Trial | DefenceLaunch], *, guess: Costs, repeats: int, defence_repeats: int) -> Costs:
    """By the launches that came to their end; what none of them tells is guessed."""
    launches_s: list[float] = []
    by_level: dict[str, list[float]] = {}
    for one in done:
        if not one.level_s or one.retries:
            continue
        times = repeats if isinstance(one, Trial) else defence_repeats
        launches_s.append(max(one.wall_s - times * sum(one.level_s.values()), 0.0))
        for name, level_s in one.level_s.items():
            by_level.setdefault(name, []).append(level_s)
    if not launches_s:
        return guess
    return Costs(
        launch_s=sum(launches_s) / len(launches_s),
        longest_launch_s=max(launches_s),
        level_s=guess.level_s | {name: sum(found) / len(found) for name, found in by_level.items()},
    )


def repeats_for(plan: Plan, *, least: int = 2) -> int:
    """Of each load: the plan's, or the fewest that carry an interval where the budget would allow few candidates."""
    if plan.budget_s is None:
        return plan.repeats
    whole_s = first_guess(plan).of(plan.levels, plan.repeats)
    return plan.repeats if plan.budget_s >= ENOUGH_LAUNCHES * whole_s else min(plan.repeats, least)


def refuse_short_budget(budget_s: float, least_s: float, *, defended_s: float) -> None:
    """Raises: UsageError where not even the baseline can be measured in this time.

    Args:  least_s: of one launch with all its loads. defended_s: as `least_defended_s`.
    """
    if budget_s < least_s + CLOSING_S:
        raise UsageError(
            f"--budget {clock_text(budget_s)}: one launch with all its loads takes about {clock_text(least_s)}, and "
            "the baseline alone needs one",
            hint=f"allow {clock_text(defended_s)} or more, or measure less: fewer --users, fewer --repeats",
        )


def least_defended_s(least_s: float, *, one_s: float) -> float:
    """A budget whose one half is enough for the baseline and a candidate, and the other for the smallest finals."""
    return max(least_finals_s(one_s) / MAX_DEFENCE_SHARE, (2 * least_s + CLOSING_S) / (1 - MAX_DEFENCE_SHARE))


def least_finals_s(one_s: float) -> float:
    """The smallest finals of launches that take so long."""
    finalists, blocks = FINALS[-1]
    return (1 + finalists) * blocks * one_s


def undefended_warning(budget_s: float, *, defended_s: float) -> str:
    """What is to be said before a search that can crown nobody; empty where it can."""
    if budget_s >= defended_s:
        return ""
    return (
        f"--budget {clock_text(budget_s)} has no room to defend a winner, so this search can only end with the "
        f"defaults: that takes {clock_text(defended_s)} or more, or --no-defence, which is too good on average"
    )


def early_note(budget_s: float, spent_s: float, *, candidate_s: float, defended_s: float, has_all: bool) -> str:
    """Why a study ends before its budget does; empty where it does not.

    Args:  candidate_s: of one more candidate. defended_s: of the smallest finals; 0: there is nobody to defend, or
           somebody was. has_all: there is no candidate left to try.
    """
    left_s = budget_s - spent_s - CLOSING_S
    if spent_s >= FULL * budget_s:
        return ""
    if left_s < candidate_s:
        why = f"another candidate takes about {clock_text(candidate_s)}"
        if left_s < defended_s:
            why += f", finals of the best {clock_text(defended_s)} at least"
    else:
        why = "all candidates have been tried" if has_all else "its winner has had every launch that tells something"
    return f"{ENDED} {clock_text(spent_s)} of {clock_text(budget_s)}: {why}."


# ---------------------------------------------------------------- the defence's share


def ablation_launches(flags: int, *, blocks: int) -> int:
    """The winner and it without each of so many flags, in each block; then without all that did nothing, once more."""
    if not flags:
        return 0
    confirmation = 2 * blocks if flags > 1 else 0
    return (1 + flags) * blocks + confirmation


def split(budget_s: float, *, one_s: float) -> Split:
    """What is kept for the defence while the search goes on: as much as is good, and no more than half.

    Args:  one_s: of one launch of the defence.
    """
    most_s = MAX_DEFENCE_SHARE * budget_s
    for finalists, blocks in FINALS[1:]:
        finals_s = (1 + finalists) * blocks * one_s
        for flags in (ABLATED_FLAGS, 1, 0):
            ablation_s = ablation_launches(flags, blocks=LEAST_BLOCKS) * one_s
            if finals_s + ablation_s <= most_s:
                return Split(finals_s=finals_s, ablation_s=ablation_s)
    return Split(finals_s=0.0, ablation_s=0.0)


def finals_that_fit(left_s: float | None, *, one_s: float, candidates: int, flags: int, tried: int) -> Finals | None:
    """The finals, with time behind them for the ablation of all flags, of some, or of one, where that is possible.

    Args:     left_s: of the budget. None: there is none, and finals take no more launches than the search took.
              candidates: for the finals, as many as there are. flags: of the winner, most likely. tried: candidates of
              the search.
    Returns:  None: no finals fit, or there is no candidate.
    """
    if not candidates:
        return None
    shapes = list(dict.fromkeys((min(finalists, candidates), blocks) for finalists, blocks in FINALS))
    if left_s is None:
        finalists, blocks = next((one for one in shapes if (1 + one[0]) * one[1] <= tried), shapes[-1])
        return Finals(finalists=finalists, blocks=blocks, ablated=0)
    for ablated in dict.fromkeys((flags, min(flags, ABLATED_FLAGS), min(flags, 1), 0)):
        kept_s = ablation_launches(ablated, blocks=LEAST_BLOCKS) * one_s
        for finalists, blocks in shapes:
            fits = int((left_s - kept_s) / ((1 + finalists) * one_s))
            if fits >= blocks:
                return Finals(finalists=finalists, blocks=min(fits, MOST_BLOCKS), ablated=ablated)
    return None


def ablation_that_fits(left_s: float | None, *, one_s: float, flags: int, least: int = LEAST_BLOCKS) -> tuple[int, int]:
    """(flags, launches of each side): as many flags as can be removed in the time, as often as it allows.

    Args:     least: launches of each side below which nothing could be decided.
    Returns:  (0, 0): there is no time. Without a budget all flags, as often as they need.
    """
    if not flags:
        return 0, 0
    if left_s is None:
        return flags, least
    for count in range(flags, 0, -1):
        for blocks in range(max(MOST_BLOCKS, least), least - 1, -1):
            if ablation_launches(count, blocks=blocks) * one_s <= left_s:
                return count, blocks
    return 0, 0


def alternating(sides: Sequence[str], block: int, *, blocks: int) -> list[str]:
    """The order of launches in a block, numbered from 1, so that all sides stand at the same place on average.

    A drift so falls on all alike: every other block is in the opposite order, and of an odd number the last three are
    turned against each other, after which no two sides' places differ by more than a third of a launch.
    """
    count, odd = len(sides), blocks - 3 if blocks % 2 and blocks > 1 else blocks
    if block <= odd:
        return list(sides) if block % 2 else list(sides)[::-1]
    half = (count + 1) // 2
    second = {name: (place + half) % count for place, name in enumerate(sides)}
    whole = {name: place + second[name] for place, name in enumerate(sides)}
    orders = (list(sides), sorted(sides, key=second.__getitem__), sorted(sides, key=whole.__getitem__, reverse=True))
    return orders[block - odd - 1]
