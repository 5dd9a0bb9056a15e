"""The search of a study: one candidate after another, here or by several workers, until there are enough."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.progress import Progress
from harness.recording import Recording
from harness.records import Flags, Ladder
from harness.search import Enough, Exhausted, key_of
from harness.tune.attempts import Attempts
from harness.tune.budget import Budget
from harness.tune.known import CONTROL, Known
from harness.tune.objectives import told
from harness.tune.plan import Plan, role_of
from harness.tune.trials import given_up_trial, trial_line
from harness.tune.workers import Team
from harness.tune.world import SearchLike, World, spent_before_s


class Candidates:
    """What is tried besides the baseline.

    Args:  worker: of several. None: the one that starts them, or that is alone. cards: of those that it starts.
    """

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        known: Known,
        budget: Budget,
        attempts: Attempts,
        progress: Progress,
        *,
        world: World,
        worker: int | None,
        cards: tuple[str, ...],
    ) -> None:
        self._plan, self._recording, self._known, self._budget = plan, recording, known, budget
        self._attempts, self._progress, self._world = attempts, progress, world
        self._worker, self._cards = worker, cards
        self.has_all = False
        """None is left to try: all of the space were, or as many as were asked for, those of others counted."""

    def search(self, results: Path, *, note_ladders: Callable[[tuple[Ladder, ...]], None]) -> None:
        """Candidates, until there are enough, the time is over, or none is left."""
        if not self._may_go_on():
            return
        search = self.made_search(results)
        note_ladders(search.ladders)
        if self._plan.storage or self._plan.workers > 1:
            search.publish(
                self._known.measured_before(), {key_of(trial.flags): trial.flags for trial in self._known.trials}
            )
        for flags in search.given_up():
            self._give_up(search, flags)
        if self._plan.workers > 1:
            self._search_together(search, results)
        else:
            self._search_alone(search)

    def search_as_worker(self, results: Path) -> None:
        """Candidates, one after another, beside other workers. Raises: EngineError."""
        if self._may_go_on():
            self._search_alone(self.made_search(results))

    def made_search(self, results: Path) -> SearchLike:
        """What chooses them, with all that is known."""
        search = self._world.make_search(
            self._plan,
            folder=self._recording.folder,
            results=results,
            demand=self._known.demand,
            violations=self._known.violations,
            say=self._progress.note,
        )
        search.remember(self._known.trials)
        return search

    def _search_alone(self, search: SearchLike) -> None:
        most = self._plan.trials if self._plan.storage else None
        while self._may_go_on():
            with self._number() as number:
                if number is None:
                    return
                if number == CONTROL and self._worker is not None and self._known.has_control:
                    self._attempts.control(number)
                    continue
                try:
                    candidate = search.ask() if most is None else search.ask(most=most)
                except Enough:
                    self.has_all = True
                    self._progress.note("the study has all the candidates that were asked for, those of others counted")
                    return
                except Exhausted:
                    self.has_all = True
                    self._progress.note("every candidate of the search space has been tried")
                    return
                try:
                    trial = self._attempts.tried(candidate, number)
                except BaseException:
                    search.give_back(candidate.ticket)
                    raise
                search.tell(candidate.ticket, told(trial, self._plan.objectives), constraints=trial.constraints)
                search.learn(trial)

    def _search_together(self, search: SearchLike, results: Path) -> None:
        """The workers, until they are done."""
        folder = self._recording.folder
        Team(
            self._plan,
            self._recording,
            search,
            cards=self._cards,
            results=results,
            say=self._progress.note,
            storage=self._world.storage,
            spent_s=lambda: self._budget.spent_s,
            measured=self._known.measured_before,
        ).search()
        self._known.refresh()
        if self._plan.is_simulated:
            self._world.pause(max(spent_before_s(folder) - self._budget.spent_s, 0.0))
        self.has_all = not self._known.has_enough and not self._budget.no_room()

    def _give_up(self, search: SearchLike, flags: Flags) -> None:
        with self._number() as number:
            assert number is not None
            trial = given_up_trial(number, flags)
        self._known.keep(trial, [])
        search.remember([trial])
        self._progress.note(trial_line(trial, spent_s=self._budget.spent_s, budget_s=self._plan.budget_s))

    @contextlib.contextmanager
    def _number(self) -> Iterator[int | None]:
        """Of the next trial: one that workers before us left behind, or the next. None: all are taken."""
        if self._worker is None:
            known = {trial.number for trial in self._known.trials}
            yield next(number for number in itertools.count() if number not in known)
            return
        folder = self._recording.folder
        with folder.claimed_number(most=None if self._plan.storage else self._known.most) as number:
            if number is not None:
                folder.set_aside(lambda cell: cell.role == role_of(number))
                self._known.refresh()
            yield number

    def _may_go_on(self) -> bool:
        if self._worker is not None:
            self._known.refresh()
        if self._known.has_enough:
            return False
        why = self._budget.no_room()
        if why:
            self._progress.note(why)
        return not why
