"""The time of a study: what is spent, what things cost here, and what is kept for the defence."""

import msgspec

from harness.progress import clock_text
from harness.recording import Recording
from harness.records import Level
from harness.search import WARM
from harness.tune import spending
from harness.tune.known import Known
from harness.tune.launches import Clock
from harness.tune.objectives import aimed_levels
from harness.tune.plan import Plan
from harness.tune.rules import finalists_of, repeats_of
from harness.tune.spending import first_guess


class Budget:
    """Of one study, by its clock.

    Args:  spent_s: when it was begun, or gone on with. order: the loads of each launch.
    """

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        known: Known,
        *,
        order: tuple[Level, ...],
        clock: Clock,
        spent_s: float,
    ) -> None:
        self._plan, self._recording, self._known, self._order, self._clock = plan, recording, known, order, clock
        self._since = clock() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds since the study began, those of earlier stretches counted."""
        return self._clock() - self._since

    def left_s(self) -> float | None:
        """For launches. None: there is no budget."""
        return None if self._plan.budget_s is None else self._plan.budget_s - self.spent_s - spending.CLOSING_S

    @property
    def costs(self) -> spending.Costs:
        """By what was measured so far."""
        return spending.costs(
            [*self._known.trials, *self._recording.folder.defence()],
            guess=first_guess(self._plan),
            repeats=self._plan.repeats,
            defence_repeats=repeats_of(self._plan),
        )

    def candidate_s(self) -> float:
        """Of one more launch of the search, where it takes as long as the longest one."""
        return self.costs.at_most(self._order, self._plan.repeats)

    def defence_launch_s(self) -> float:
        """By the launches of the defence where there are some; until then those of the search, with compiled code."""
        repeats, defended = repeats_of(self._plan), self._recording.folder.defence()
        guess = msgspec.structs.replace(self.costs, launch_s=WARM * self.costs.launch_s)
        found = spending.costs(defended, guess=guess, repeats=repeats, defence_repeats=repeats)
        return found.of(aimed_levels(self._plan.objectives), repeats)

    def search_left_s(self) -> float | None:
        """What is left of the budget, less what the defence needs."""
        left_s = self.left_s()
        return None if left_s is None else left_s - self.reserve_s()

    def reserve_s(self) -> float:
        """Kept for the defence; nothing as long as there is nobody to defend, or when it is too late for that."""
        left_s, plan = self.left_s(), self._plan
        if left_s is None or plan.budget_s is None or not plan.is_defended:
            return 0.0
        is_too_late = left_s < spending.least_finals_s(self.defence_launch_s()) and not self._is_defence_under_way()
        if is_too_late or not finalists_of(self._known.trials):
            return 0.0
        return spending.split(plan.budget_s, one_s=self.defence_launch_s()).whole_s

    def _is_defence_under_way(self) -> bool:
        defence = self._recording.run.defence
        return defence is not None and bool(defence.finalists) and not defence.is_done

    def no_room(self) -> str:
        """Why no other candidate is tried; empty where there is time for one, or no budget."""
        left_s = self.search_left_s()
        if left_s is None or self.candidate_s() <= left_s:
            return ""
        return (
            f"{clock_text(self.spent_s)} of {clock_text(self._plan.budget_s or 0.0)} are spent: no room for "
            f"another candidate{' beside the defence of the best' if self.reserve_s() else ''}"
        )

    def early_note(self, *, has_all: bool) -> str:
        """Why the study ends before its budget does; empty where it does not, or there is none."""
        if self._plan.budget_s is None:
            return ""
        defence = self._recording.run.defence
        is_undefended = self._plan.is_defended and defence is not None and not defence.finalists
        finals_s = spending.least_finals_s(self.defence_launch_s())
        return spending.early_note(
            self._plan.budget_s,
            self.spent_s,
            candidate_s=self.candidate_s(),
            defended_s=finals_s if is_undefended and finalists_of(self._known.trials) else 0.0,
            has_all=has_all or self._known.has_enough,
        )
