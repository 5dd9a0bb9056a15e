"""A study in its run folder: the baseline, the search, the defence of its winner, the preset.

What it knows it reads from the folder, so that whatever ends it costs at most the launch under way.
"""

import math
from pathlib import Path
from typing import Final

import msgspec

from harness.bench import planned_steps
from harness.progress import SIMULATED_TIME, Progress, Say
from harness.recording import Recording
from harness.records import Asked, Ladder
from harness.tune import spending
from harness.tune.attempts import Attempts
from harness.tune.budget import Budget
from harness.tune.candidates import Candidates
from harness.tune.crown import crown
from harness.tune.defaults import Defaults
from harness.tune.defence import Defender
from harness.tune.known import Known
from harness.tune.launches import Launcher
from harness.tune.objectives import Scores, front, telling_order, unmet_note
from harness.tune.plan import Plan
from harness.tune.rules import kept_ratio
from harness.tune.sharing import elsewhere
from harness.tune.start import worker_name
from harness.tune.trials import front_line, simulated
from harness.tune.world import World, spent_before_s

UNMET: Final = "No settings kept"
"""How the note begins about limits that nobody kept."""


class Study:
    """A search in a run folder.

    Args:  worker: of several that search it. None: the one that starts them, or that is alone.
           spent_s: of the study, when this worker began. None: as its folder says.
           cards: of the workers that it starts, as `workers.cards` gives them.
    """

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        *,
        say: Say,
        world: World,
        worker: int | None = None,
        spent_s: float | None = None,
        cards: tuple[str, ...] = (),
    ) -> None:
        self.plan, self.recording, self._world = plan, recording, world
        self.objectives = plan.objectives
        folder, scores = recording.folder, Scores(recording.folder, plan.scenario)
        order = telling_order(self.objectives, plan.users)
        self._known = Known(plan, folder, is_alone=worker is None)
        before_s = spent_before_s(folder) if spent_s is None else spent_s
        self._budget = Budget(plan, recording, self._known, order=order, clock=world.clock, spent_s=before_s)
        self.progress = self._made_progress(say, worker=worker)
        self._launcher = Launcher(
            plan.scenario, recording, self.progress, clock=world.clock, pause=world.pause, launch=world.launch
        )
        attempts = Attempts(
            plan, self._known, self._budget, self._launcher, self.progress, scores=scores, order=order, worker=worker
        )
        self._defaults = Defaults(plan, recording, self._known, attempts, self.progress, scores=scores)
        self._candidates = Candidates(
            plan,
            recording,
            self._known,
            self._budget,
            attempts,
            self.progress,
            world=world,
            worker=worker,
            cards=cards,
        )

    def _made_progress(self, say: Say, *, worker: int | None) -> Progress:
        plan, run = self.plan, self.recording.run
        left = (plan.trials if plan.trials is not None else 1) + 1 - len(self._known.trials)
        left = left if worker is None else math.ceil(left / plan.workers)
        steps = planned_steps(plan.engine, [plan.scenario], repeats=plan.repeats)
        marked = simulated(say)

        def told_by(text: str) -> None:
            (marked if plan.is_simulated or run.is_simulated else say)(text)

        of = SIMULATED_TIME if plan.is_simulated else ""
        return Progress(steps * max(left, 0), say=told_by, now=self._world.clock, of=of)

    @property
    def spent_s(self) -> float:
        """Seconds since the study began, those of earlier stretches counted."""
        return self._budget.spent_s

    # ------------------------------------------------------------ the order of things

    def go_on(self, results: Path) -> None:
        """Baseline, candidates, defence, preset. Raises: EngineError of the baseline, KeyboardInterrupt."""
        if self.plan.profile.is_cpu:
            self.recording.add_note("Measured on a CPU: the figures say nothing about a GPU.")
        self._note_what_is_asked(() if self.recording.run.asked is None else self.recording.run.asked.ladders)
        if not self._known.trials:
            self._defaults.measure()
        self._defaults.refuse_useless()
        self._candidates.search(results, note_ladders=self._note_what_is_asked)
        self._tell_what_was_met()
        if self.plan.is_defended and not self._is_best_elsewhere():
            self._defend()
        else:
            self.plan = msgspec.structs.replace(self.plan, is_defended=False)
        self._tell_what_is_left()
        found = crown(self.plan, self.recording, self._known.trials, results=results)
        for line in found.splitlines() or ["nothing new was found"]:
            self.progress.note(line)

    def search_as_worker(self, results: Path) -> None:
        """Candidates, one after another, beside other workers. Raises: EngineError."""
        self._candidates.search_as_worker(results)

    def _is_best_elsewhere(self) -> bool:
        """Whether the winner is another run's to defend, of those that share the search."""
        if not self.plan.storage or self.recording.run.defence is not None:
            return False
        search = self._candidates.made_search(self.recording.folder.path.parent)
        is_elsewhere, note = elsewhere(
            search, worker_name(self.plan, self.recording.folder), self._known.trials, self.objectives
        )
        self.recording.add_note(note)
        if note:
            self.progress.note(note)
        return is_elsewhere

    def _defend(self) -> None:
        defence = Defender(
            self.plan,
            self.recording,
            self._launcher,
            self.progress,
            trials=self._known.trials,
            ask=self._world.ask,
            violations=self._known.violations,
            left_s=self._budget.left_s,
            one_s=self._budget.defence_launch_s,
        ).go_on()
        if self.plan.storage:
            search = self._candidates.made_search(self.recording.folder.path.parent)
            ratio = None if defence.winner is None else kept_ratio(defence)
            search.tell_defended(worker_name(self.plan, self.recording.folder), ratio)

    # ------------------------------------------------------------ what is noted

    def _note_what_is_asked(self, ladders: tuple[Ladder, ...]) -> None:
        plan = self.plan
        asked = Asked(
            objectives={one.name: one.meaning for one in self.objectives},
            users=plan.users,
            repeats=plan.repeats,
            slos=plan.slos,
            trials=plan.trials,
            budget_s=plan.budget_s,
            is_defended=plan.is_defended,
            ladders=ladders,
        )
        self.recording.update(asked=asked)

    def _tell_what_was_met(self) -> None:
        """Notes of limits that nobody kept, and the front of several objectives."""
        others = tuple(known for known in self.recording.run.notes if not known.startswith(UNMET))
        notes = [note for one in self.objectives if (note := unmet_note(self._known.trials, one))]
        for note in notes:
            self.progress.note(note)
        names = [one.name for one in self.objectives]
        found = front(self._known.trials, names) if len(names) > 1 else ()
        if found:
            self.progress.note(front_line(self._known.trials, found))
        self.recording.update(notes=(*others, *notes), front=found)

    def _tell_what_is_left(self) -> None:
        """A note where a budget was not used up, with the reason."""
        note = self._budget.early_note(has_all=self._candidates.has_all)
        others = tuple(known for known in self.recording.run.notes if not known.startswith(spending.ENDED))
        self.recording.update(notes=(*others, note) if note else others)
        if note:
            self.progress.note(note)
