"""Whether a candidate can still win while its loads are being measured."""

from collections.abc import Callable, Sequence

from harness.records import Cell, Flags, Outcome, Trial
from harness.stats.race import hope, is_behind
from harness.tune.objectives import Objective, Scores, users_text
from harness.tune.plan import role_of


class Contest:
    """A candidate under way against the trials that were measured whole.

    Args:  trials, cells_of: what was measured so far, and the cells of a trial by its number.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        users: Sequence[int],
        scores: Scores,
        *,
        trials: Callable[[], Sequence[Trial]],
        cells_of: Callable[[int], Sequence[Cell]],
    ) -> None:
        self._objectives, self._users, self._scores = objectives, users, scores
        self._trials, self._cells_of = trials, cells_of

    def hopeless(self, flags: Flags, cells: Sequence[Cell]) -> str:
        """Why it cannot win any more: some trial is surely ahead in all objectives. Empty: it can."""
        measured = {cell.users for cell in cells}
        whole = [trial for trial in self._trials() if trial.outcome == Outcome.MEASURED]
        if measured >= set(self._users) or is_first_of_kind(flags, whole):
            return ""
        best = {max(whole, key=lambda trial: value_of(trial, one.name)).number: one for one in self._objectives}
        for number in best:
            if all(self._is_behind(one, cells, number, measured, whole) for one in self._objectives):
                return (
                    f"surely behind {role_of(number)} at {users_text(sorted(measured))}, whatever its other loads give"
                )
        return ""

    def _is_behind(
        self, one: Objective, cells: Sequence[Cell], best: int, measured: set[int], whole: Sequence[Trial]
    ) -> bool:
        ahead = self._cells_of(best)
        differences = [
            self._scores.differences(ahead, cells, one, users=users) for users in one.levels if users in measured
        ]
        hopes = [
            hope([mean for trial in whole if (mean := self._mean_difference(one, ahead, trial, users)) is not None])
            for users in one.levels
            if users not in measured
        ]
        return is_behind(differences, hopes=hopes, rivals=len(whole))

    def _mean_difference(self, one: Objective, ahead: Sequence[Cell], trial: Trial, users: int) -> float | None:
        pairs = self._scores.differences(ahead, self._cells_of(trial.number), one, users=users)
        return sum(pairs) / len(pairs) if pairs else None


def value_of(trial: Trial, name: str) -> float:
    """The trial's ratio to the baseline, or to the control; 1 for these themselves, 0 where it has none."""
    if not trial.is_candidate:
        return 1.0
    found = trial.objectives.get(name)
    return 0.0 if found is None else found.value


def is_first_of_kind(flags: Flags, measured: Sequence[Trial]) -> bool:
    """Whether a flag is here that no whole trial has had, or a word of one: what it does nobody can foresee."""
    seen = {kind_of(name, value) for trial in measured for name, value in trial.flags.items()}
    return any(kind_of(name, value) not in seen for name, value in flags.items())


def kind_of(name: str, value: object) -> tuple[str, object]:
    """Numbers of one flag are of one kind."""
    return (name, None) if isinstance(value, int | float) and not isinstance(value, bool) else (name, value)
