"""One trial of a study: launched, judged while it is measured, written down and said."""

import functools
from collections.abc import Sequence
from typing import Final

import msgspec

from harness import bench
from harness.bench import Part, planned_steps
from harness.progress import Progress
from harness.records import Cell, Flags, Level, Trial
from harness.search import Candidate
from harness.tune.budget import Budget
from harness.tune.contest import Contest
from harness.tune.known import Known
from harness.tune.launches import Launched, Launcher, never
from harness.tune.objectives import Scores
from harness.tune.plan import Plan, defaults_suffix, role_of, spec_for
from harness.tune.trials import failed_trial, flags_text, trial_line, trial_of

MIN_READY_S: Final = 300.0
CONTROL_POLL_S: Final = 0.5
READY_FACTOR: Final = 3.0
"""A launch that takes so many times as long as the slowest one hangs."""


class Attempts:
    """Launches of trials.

    Args:  order: the loads of each launch. worker: of several. None: the one that starts them, or that is alone.
    """

    def __init__(
        self,
        plan: Plan,
        known: Known,
        budget: Budget,
        launcher: Launcher,
        progress: Progress,
        *,
        scores: Scores,
        order: tuple[Level, ...],
        worker: int | None,
    ) -> None:
        self._plan, self._known, self._budget, self._launcher, self._progress = plan, known, budget, launcher, progress
        self._scores, self.order, self._worker = scores, order, worker
        self._contest = Contest(plan.objectives, plan.users, scores, trials=self._rivals, cells_of=known.cells_of)
        self._steps = planned_steps(plan.engine, [plan.scenario], repeats=plan.repeats)

    def _rivals(self) -> list[Trial]:
        """With whom a candidate is compared while it is measured: of several workers' not with what was alone."""
        return [trial for trial in self._known.trials if self._worker is None or trial.worker is not None]

    def control(self, number: int) -> Trial:
        """The defaults once more, beside the other workers, as something to compare their candidates with."""
        defaults = Candidate(ticket=-1, flags=self._known.trials[0].flags, origin="the defaults, beside other workers")
        return self._written(defaults, number, self.measured(number, defaults.flags, is_judged=False), is_control=True)

    def _comparison(self) -> list[Cell]:
        """What ratios are to; of several workers the first candidates may have to wait for the control.

        It began with them, so it is waited for no longer than a launch takes.
        """
        until_s = self._launcher.clock() + max((trial.wall_s for trial in self._known.trials), default=0.0)
        while self._worker is not None and self._known.has_control and self._known.control is None:
            if self._launcher.clock() >= until_s:
                break
            self._launcher.pause(CONTROL_POLL_S)
            self._known.refresh()
        return self._known.compared_with(self._worker)

    def tried(self, candidate: Candidate, number: int) -> Trial:
        """One candidate, measured, stopped or failed, written and said. Raises: EngineError that is not its fault."""
        self._progress.note(f"{role_of(number)} ({candidate.origin}): {flags_text(candidate.flags)}")
        return self._written(candidate, number, self.measured(number, candidate.flags), is_control=False)

    def _written(self, candidate: Candidate, number: int, launched: Launched, *, is_control: bool) -> Trial:
        if launched.error is not None:
            trial = failed_trial(number, candidate.flags, launched.error, wall_s=launched.wall_s)
            trial = msgspec.structs.replace(
                trial,
                origin=candidate.origin,
                launch_s=launched.launch_s,
                died_under_users=launched.died_under.users if launched.died_under else None,
                retries=launched.retries,
            )
        else:
            trial = trial_of(
                number,
                candidate.flags,
                launched,
                plan=self._plan,
                scores=self._scores,
                baseline=self._known.cells_of(0) if is_control else self._comparison(),
                origin=candidate.origin,
            )
        trial = msgspec.structs.replace(trial, worker=self._worker, is_control=is_control)
        self._known.keep(trial, launched.cells)
        self._progress.note(trial_line(trial, spent_s=self._budget.spent_s, budget_s=self._plan.budget_s))
        self._skip_rest(launched)
        return trial

    def measured(self, number: int, flags: Flags, *, is_judged: bool = True) -> Launched:
        """One launch and all its cells; the baseline's and those that are not judged are measured to the end."""
        plan = self._plan
        spec = spec_for(plan, flags)
        if number:
            spec = msgspec.structs.replace(spec, ready_timeout_s=self._ready_timeout_s(spec.ready_timeout_s))
        suffix = defaults_suffix(plan.profile) if number == 0 else f", trial {number}"
        part = Part(spec=spec, role=role_of(number), title_suffix=suffix)
        judge = functools.partial(self._judge, flags) if number and is_judged else never
        return self._launcher.measured(part, self.order, repeats=plan.repeats, judge=judge)

    def _ready_timeout_s(self, most_s: float) -> float:
        """A launch that hangs must not eat the budget."""
        slowest_s = max((trial.launch_s for trial in self._known.trials if trial.launch_s is not None), default=most_s)
        patient_s = min(most_s, max(MIN_READY_S, READY_FACTOR * slowest_s))
        left_s = self._budget.search_left_s()
        return patient_s if left_s is None else max(min(patient_s, left_s), slowest_s)

    def _judge(self, flags: Flags, cells: Sequence[Cell], is_whole: bool) -> str:  # noqa: FBT001 - a judge
        """Why to stop a candidate, after a cell; empty to go on."""
        left_s = self._budget.search_left_s()
        if left_s is not None and left_s < 0:
            return "the budget has no more time for it"
        return self._contest.hopeless(flags, cells) if is_whole else ""

    def _skip_rest(self, launched: Launched) -> None:
        """Takes the steps that a stopped or failed trial did not come to out of the time left."""
        kinds = [kind for kind, _ in self._steps]
        launch, *cells = kinds
        done = {bench.cell_step(self._plan.engine, self._plan.scenario, level): 0 for level in self.order}
        for cell in launched.cells:
            for level in self.order:
                if level.users == cell.users:
                    done[bench.cell_step(self._plan.engine, self._plan.scenario, level)] += 1
        if launched.facts is None:
            self._progress.skip(launch)
        for kind in cells:
            if done[kind]:
                done[kind] -= 1
            else:
                self._progress.skip(kind)
