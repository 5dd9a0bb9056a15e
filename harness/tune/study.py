"""A study in its run folder: the baseline, the search, the defence of its winner, the preset.

What it knows it reads from the folder, so that whatever ends it costs at most the launch under way.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness import bench, engines
from harness.bench import Part, planned_steps
from harness.errors import EngineContextTooLong, EngineNotFound, MeasurementInvalid
from harness.progress import Progress, Say, clock_text
from harness.recording import Recording
from harness.records import Asked, Cell, Estimate, Flags, Ladder, Outcome, Trial
from harness.search import Candidate, Demand, Enough, Exhausted, demand_of, key_of
from harness.tune import spending
from harness.tune.contest import Contest
from harness.tune.crown import crown
from harness.tune.defence import Defender
from harness.tune.launches import Launched, Launcher, never
from harness.tune.objectives import Scores, aimed_levels, front, telling_order, together, unmet_note, users_text
from harness.tune.plan import Plan, defaults_suffix, role_of, spec_for
from harness.tune.resolution import too_few
from harness.tune.rules import finalists_of, repeats_of
from harness.tune.spending import first_guess
from harness.tune.start import worker_name
from harness.tune.trials import failed_trial, flags_text, front_line, given_up_trial, simulated, trial_line
from harness.tune.workers import Team
from harness.tune.world import SearchLike, World, spent_before_s

BASELINE_TRIES: Final = 2
UNMET: Final = "No settings kept"
"""How the note begins about limits that nobody kept."""
MIN_READY_S: Final = 300.0
READY_FACTOR: Final = 3.0
"""A launch that takes so many times as long as the slowest one hangs."""


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
        self.plan, self.recording, self._world, self._worker, self._cards = plan, recording, world, worker, cards
        self.objectives = plan.objectives
        self.scores = Scores(recording.folder, plan.scenario)
        self._order = telling_order(self.objectives, plan.users)
        folder = recording.folder
        self._trials = list(folder.trials())
        whole = {(role_of(trial.number), 1) for trial in self._trials}
        whole |= {(one.role, one.block) for one in folder.defence()}
        if worker is None:
            folder.set_aside(lambda cell: (cell.role, cell.block) not in whole)
        self._cells = list(folder.cells())
        self._contest = Contest(
            self.objectives, plan.users, self.scores, trials=lambda: self._trials, cells_of=self._cells_of
        )
        self._since = world.clock() - (spent_before_s(folder) if spent_s is None else spent_s)
        left = (plan.trials if plan.trials is not None else 1) + 1 - len(self._trials)
        left = left if worker is None else math.ceil(left / plan.workers)
        self._one_trial = planned_steps(plan.engine, [plan.scenario], repeats=plan.repeats)
        marked = simulated(say)

        def told(text: str) -> None:
            (marked if plan.is_simulated or recording.run.is_simulated else say)(text)

        self.progress = Progress(self._one_trial * max(left, 0), say=told, now=world.clock)
        self._has_all = False
        self._launcher = Launcher(
            plan.scenario, recording, self.progress, clock=world.clock, pause=world.pause, launch=world.launch
        )

    # ------------------------------------------------------------ the order of things

    def go_on(self, results: Path) -> None:
        """Baseline, candidates, defence, preset. Raises: EngineError of the baseline, KeyboardInterrupt."""
        if self.plan.profile.is_cpu:
            self.recording.add_note("Measured on a CPU: the figures say nothing about a GPU.")
        self._note_what_is_asked(() if self.recording.run.asked is None else self.recording.run.asked.ladders)
        if not self._trials:
            self._measure_baseline()
        self._refuse_useless_baseline()
        self._search(results)
        self._tell_what_was_met()
        if self.plan.is_defended and not self._is_best_elsewhere():
            self._defend()
        else:
            self.plan = msgspec.structs.replace(self.plan, is_defended=False)
        self._tell_what_is_left()
        self.progress.note(crown(self.plan, self.recording, self._trials, results=results) or "nothing new was found")

    def _search(self, results: Path) -> None:
        """Candidates, until there are enough, the time is over, or none is left."""
        if not self._may_go_on():
            return
        search = self._made_search(results)
        self._note_what_is_asked(search.ladders)
        if self.plan.storage or self.plan.workers > 1:
            search.publish(self._measured_before(), {key_of(trial.flags): trial.flags for trial in self._trials})
        for flags in search.given_up():
            self._give_up(search, flags)
        if self.plan.workers > 1:
            self._search_together(search, results)
        else:
            self._search_alone(search)

    def _give_up(self, search: SearchLike, flags: Flags) -> None:
        with self._number() as number:
            assert number is not None
            trial = given_up_trial(number, flags)
        self._kept(trial, [])
        search.remember([trial])
        self.progress.note(trial_line(trial, spent_s=self.spent_s, budget_s=self.plan.budget_s))

    def _made_search(self, results: Path) -> SearchLike:
        search = self._world.make_search(
            self.plan,
            folder=self.recording.folder,
            results=results,
            demand=self.demand,
            violations=self._violations,
            say=self.progress.note,
        )
        search.remember(self._trials)
        return search

    def search_as_worker(self, results: Path) -> None:
        """Candidates, one after another, beside other workers. Raises: EngineError."""
        if self._may_go_on():
            self._search_alone(self._made_search(results))

    def _search_alone(self, search: SearchLike) -> None:
        most = self.plan.trials if self.plan.storage else None
        while self._may_go_on():
            with self._number() as number:
                if number is None:
                    return
                try:
                    candidate = search.ask() if most is None else search.ask(most=most)
                except Enough:
                    self.progress.note("the study has all the candidates that were asked for, those of others counted")
                    return
                except Exhausted:
                    self._has_all = True
                    self.progress.note("every candidate of the search space has been tried")
                    return
                try:
                    trial = self._try(candidate, number)
                except BaseException:
                    search.give_back(candidate.ticket)
                    raise
                search.tell(candidate.ticket, self._told(trial), constraints=trial.constraints)
                search.learn(trial)

    def _search_together(self, search: SearchLike, results: Path) -> None:
        """The workers, until they are done."""
        folder = self.recording.folder
        Team(
            self.plan,
            self.recording,
            search,
            cards=self._cards,
            results=results,
            say=self.progress.note,
            storage=self._world.storage,
            spent_s=lambda: self.spent_s,
            measured=self._measured_before,
        ).search()
        self._refresh()
        if self.plan.is_simulated:
            self._world.pause(max(spent_before_s(folder) - self.spent_s, 0.0))

    def _measured_before(self) -> dict[str, tuple[float, ...] | None]:
        """What was told of every candidate on disk."""
        trials = self.recording.folder.trials()
        return {key_of(trial.flags): self._told(trial) for trial in trials if trial.number}

    @contextlib.contextmanager
    def _number(self) -> Iterator[int | None]:
        """Of the next trial: one that workers before us left behind, or the next. None: all are taken."""
        if self._worker is None:
            known = {trial.number for trial in self._trials}
            yield next(number for number in itertools.count() if number not in known)
            return
        folder = self.recording.folder
        most = None if self.plan.trials is None or self.plan.storage else self.plan.trials
        with folder.claimed_number(most=most) as number:
            if number is not None:
                folder.set_aside(lambda cell: cell.role == role_of(number))
                self._refresh()
            yield number

    def _refresh(self) -> None:
        """What other workers wrote."""
        self._trials = list(self.recording.folder.trials())
        self._cells = list(self.recording.folder.cells())

    def _is_best_elsewhere(self) -> bool:
        """Whether a run on another host found better, which is that run's to defend."""
        if not self.plan.storage or self.recording.run.defence is not None:
            return False
        name = worker_name(self.plan, self.recording.folder)
        search = self._made_search(self.recording.folder.path.parent)
        other = search.best_elsewhere(name)
        mine = max((sum(told) for trial in self._trials[1:] if (told := self._told(trial)) is not None), default=0.0)
        if other is None or other[0] <= mine:
            return False
        run = other[1].partition("/")[0]
        self.recording.add_note(
            f"The best of this study was found by another run, {run}: {math.exp(other[0] / len(self.objectives)):.3f}x "
            "its baseline. That run defends it; what is told here was not defended."
        )
        return True

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

    def _told(self, trial: Trial) -> tuple[float, ...] | None:
        """The logarithm of each objective's ratio; of a stopped trial of what was measured. None: nothing to tell."""
        found = [trial.objectives.get(one.name, trial.partial) for one in self.objectives]
        known = [one for one in found if one is not None]
        return tuple(math.log(one.value) for one in known) if len(known) == len(found) else None

    # ------------------------------------------------------------ the budget

    @property
    def spent_s(self) -> float:
        """Seconds since the study began, those of earlier stretches counted."""
        return self._world.clock() - self._since

    def left_s(self) -> float | None:
        """For launches. None: there is no budget."""
        return None if self.plan.budget_s is None else self.plan.budget_s - self.spent_s - spending.CLOSING_S

    @property
    def costs(self) -> spending.Costs:
        """By what was measured so far."""
        return spending.costs(
            [*self._trials, *self.recording.folder.defence()],
            guess=first_guess(self.plan),
            repeats=self.plan.repeats,
            defence_repeats=repeats_of(self.plan),
        )

    def _defence_launch_s(self) -> float:
        """By the launches of the defence where there are some: they find their code compiled."""
        repeats, defended = repeats_of(self.plan), self.recording.folder.defence()
        found = spending.costs(defended, guess=self.costs, repeats=repeats, defence_repeats=repeats)
        return found.of(aimed_levels(self.objectives), repeats)

    def _search_left_s(self) -> float | None:
        """What is left of the budget, less what the defence needs."""
        left_s = self.left_s()
        return None if left_s is None else left_s - self._reserve_s()

    def _reserve_s(self) -> float:
        """Kept for the defence; nothing as long as there is nobody to defend, or when it is too late for that."""
        left_s = self.left_s()
        if left_s is None or self.plan.budget_s is None or not self.plan.is_defended:
            return 0.0
        is_too_late = left_s < spending.least_finals_s(self._defence_launch_s()) and not self._is_defence_under_way()
        if is_too_late or not finalists_of(self._trials):
            return 0.0
        return spending.split(self.plan.budget_s, one_s=self._defence_launch_s()).whole_s

    def _is_defence_under_way(self) -> bool:
        defence = self.recording.run.defence
        return defence is not None and bool(defence.finalists) and not defence.is_done

    def _has_enough(self) -> bool:
        return self.plan.trials is not None and len(self._trials) - 1 >= self.plan.trials

    def _may_go_on(self) -> bool:
        if self._worker is not None:
            self._refresh()
        if self._has_enough():
            return False
        left_s = self._search_left_s()
        if left_s is not None and self.costs.at_most(self._order, self.plan.repeats) > left_s:
            self.progress.note(
                f"{clock_text(self.spent_s)} of {clock_text(self.plan.budget_s or 0.0)} are spent: no room for "
                f"another candidate{' beside the defence of the best' if self._reserve_s() else ''}"
            )
            return False
        return True

    # ------------------------------------------------------------ the baseline

    def _measure_baseline(self) -> None:
        """Trial 0: vLLM's own defaults. One mended try where they do not start; a second failure ends the study."""
        flags: Flags = {}
        for attempt in range(1, BASELINE_TRIES + 1):
            self.recording.folder.set_aside_cells(whole_roles=())  # of an attempt that failed under load
            launched = self._measured(0, flags)
            error = launched.error
            if error is None:
                trial = self._trial_of(0, flags, launched, origin="")
                self._kept(trial, launched.cells)
                return
            if attempt == BASELINE_TRIES or isinstance(error, EngineNotFound):
                raise error
            self.progress.note(f"the baseline failed: {error.message}")
            if isinstance(error, EngineContextTooLong) and error.fits:
                flags = {"max-model-len": self._longest_step(error.fits)}
                self.recording.add_note(
                    f"vLLM's own defaults do not start here ({error.message}); the baseline is the defaults with "
                    f"--max-model-len {flags['max-model-len']}."
                )

    def _longest_step(self, tokens: int) -> int:
        return max((step for step in self.plan.profile.search.max_model_len if step <= tokens), default=tokens)

    def _refuse_useless_baseline(self) -> None:
        """Raises: MeasurementInvalid where no candidate could be compared with what the baseline gave."""
        cells = self._cells_of(0)
        for one in self.objectives:
            for users in one.levels:
                mine = [cell for cell in cells if cell.users == users]
                count = sum(self.scores.logarithm(cell, one) is not None for cell in mine)
                if count < 2:
                    doubts = sorted({reason for cell in mine for reason in cell.reasons}) or [too_few(mine, one)]
                    raise MeasurementInvalid(
                        f"the baseline has {count} valid repeats of {one.metric} at {users_text((users,))}, "
                        f"2 are needed: {'; '.join(doubts)}",
                        hint="run `harness doctor`; more --repeats or a longer scenario may help",
                    )
            if self.scores.is_none_kept(cells, one):
                self.progress.note(
                    f"not one request of the defaults kept {', '.join(self.plan.slos)} at {users_text(one.levels)}: "
                    "candidates of which none does either give no figure"
                )

    # ------------------------------------------------------------ candidates

    def _try(self, candidate: Candidate, number: int) -> Trial:
        """One candidate, measured, stopped or failed, written and said. Raises: EngineError that is not its fault."""
        self.progress.note(f"{role_of(number)} ({candidate.origin}): {flags_text(candidate.flags)}")
        launched = self._measured(number, candidate.flags)
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
            trial = self._trial_of(number, candidate.flags, launched, origin=candidate.origin)
        trial = msgspec.structs.replace(trial, worker=self._worker)
        self._kept(trial, launched.cells)
        self.progress.note(trial_line(trial, spent_s=self.spent_s, budget_s=self.plan.budget_s))
        self._skip_rest(launched)
        return trial

    def _kept(self, trial: Trial, cells: Sequence[Cell]) -> None:
        self._trials = sorted([*self._trials, trial], key=lambda one: one.number)
        self._cells += cells
        self.recording.folder.append_trial(trial)

    def _measured(self, number: int, flags: Flags) -> Launched:
        """One launch and all its cells."""
        plan = self.plan
        spec = spec_for(plan, flags)
        if number:
            spec = msgspec.structs.replace(spec, ready_timeout_s=self._ready_timeout_s(spec.ready_timeout_s))
        suffix = defaults_suffix(plan.profile) if number == 0 else f", trial {number}"
        part = Part(spec=spec, role=role_of(number), title_suffix=suffix)
        judge = functools.partial(self._judge, flags) if number else never
        return self._launcher.measured(part, self._order, repeats=plan.repeats, judge=judge)

    def _ready_timeout_s(self, most_s: float) -> float:
        """A launch that hangs must not eat the budget."""
        slowest_s = max((trial.launch_s for trial in self._trials if trial.launch_s is not None), default=most_s)
        patient_s = min(most_s, max(MIN_READY_S, READY_FACTOR * slowest_s))
        left_s = self._search_left_s()
        return patient_s if left_s is None else max(min(patient_s, left_s), slowest_s)

    def _judge(self, flags: Flags, cells: Sequence[Cell], is_whole: bool) -> str:  # noqa: FBT001 - a judge
        """Why to stop a candidate, after a cell; empty to go on."""
        left_s = self._search_left_s()
        if left_s is not None and left_s < 0:
            return "the budget has no more time for it"
        return self._contest.hopeless(flags, cells) if is_whole else ""

    def _trial_of(self, number: int, flags: Flags, launched: Launched, *, origin: str) -> Trial:
        cells, baseline = launched.cells, self._cells_of(0) if number else []
        ratios = {one.name: self.scores.ratio(baseline, cells, one) for one in self.objectives if number}
        objectives = {name: found for name, found in ratios.items() if found is not None}
        whole = together(list(objectives.values())) if len(objectives) == len(self.objectives) else None
        doubts = sorted({reason for cell in cells for reason in cell.reasons})
        if number and whole is None and not doubts and not launched.stopped:
            unkept = [one for one in self.objectives if self.scores.is_none_kept([*baseline, *cells], one)]
            doubts = [
                f"no request kept {', '.join(self.plan.slos)}, and none of the baseline's"
                if unkept
                else f"fewer than 2 valid repeats of {' or '.join(one.metric for one in self.objectives)} at some load"
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
            partial=self._partial(cells) if launched.stopped else None,
            level_s=launched.level_s,
            retries=launched.retries,
            kept=self._shares(cells),
        )

    def _partial(self, cells: Sequence[Cell]) -> Estimate | None:
        """The ratio to the baseline over the loads that were measured whole."""
        counts = {users: sum(cell.users == users for cell in cells) for users in self.plan.users}
        measured = {users for users, count in counts.items() if count == self.plan.repeats}
        found = [
            self.scores.ratio_at(self._cells_of(0), cells, one, levels=[u for u in one.levels if u in measured])
            for one in self.objectives
        ]
        known = [one for one in found if one is not None]
        return together(known) if known and len(known) == len(found) else None

    def _shares(self, cells: Sequence[Cell]) -> dict[str, Estimate]:
        return {
            text: found for one in self.objectives if one.slos for text, found in self.scores.kept(cells, one).items()
        }

    def _skip_rest(self, launched: Launched) -> None:
        """Takes the steps that a stopped or failed trial did not come to out of the time left."""
        kinds = [kind for kind, _ in self._one_trial]
        launch, *cells = kinds
        done = {bench.cell_step(self.plan.engine, self.plan.scenario, level): 0 for level in self._order}
        for cell in launched.cells:
            for level in self._order:
                if level.users == cell.users:
                    done[bench.cell_step(self.plan.engine, self.plan.scenario, level)] += 1
        if launched.facts is None:
            self.progress.skip(launch)
        for kind in cells:
            if done[kind]:
                done[kind] -= 1
            else:
                self.progress.skip(kind)

    # ------------------------------------------------------------ what is known

    def _cells_of(self, number: int) -> list[Cell]:
        return [cell for cell in self._cells if cell.role == role_of(number)]

    @property
    def demand(self) -> Demand:
        """What the load asks for, as the baseline's server counted it."""
        prompts = [cell.prompt_tokens_mean for cell in self._cells_of(0) if cell.prompt_tokens_mean is not None]
        return demand_of(self.plan.scenario, most_users=max(self.plan.users), prompt_tokens=max(prompts, default=None))

    def _longest_context(self) -> int:
        return int(self._trials[0].flags.get("max-model-len", self.plan.model.shape.max_context_tokens))

    def _violations(self, flags: Flags) -> Sequence[str]:
        return engines.violations(flags, model_max_len=self._longest_context(), needed_tokens=self.demand.needed_tokens)

    # ------------------------------------------------------------ the end

    def _tell_what_was_met(self) -> None:
        """Notes of limits that nobody kept, and the front of several objectives."""
        others = tuple(known for known in self.recording.run.notes if not known.startswith(UNMET))
        notes = [note for one in self.objectives if (note := unmet_note(self._trials, one))]
        for note in notes:
            self.progress.note(note)
        names = [one.name for one in self.objectives]
        found = front(self._trials, names) if len(names) > 1 else ()
        if found:
            self.progress.note(front_line(self._trials, found))
        self.recording.update(notes=(*others, *notes), front=found)

    def _tell_what_is_left(self) -> None:
        """A note where a budget was not used up, with the reason."""
        if self.plan.budget_s is None:
            return
        defence = self.recording.run.defence
        is_undefended = self.plan.is_defended and defence is not None and not defence.finalists
        finals_s = spending.least_finals_s(self._defence_launch_s())
        note = spending.early_note(
            self.plan.budget_s,
            self.spent_s,
            candidate_s=self.costs.at_most(self._order, self.plan.repeats),
            defended_s=finals_s if is_undefended and finalists_of(self._trials) else 0.0,
            has_all=self._has_all or self._has_enough(),
        )
        others = tuple(known for known in self.recording.run.notes if not known.startswith(spending.ENDED))
        self.recording.update(notes=(*others, note) if note else others)
        if note:
            self.progress.note(note)

    def _defend(self) -> None:
        Defender(
            self.plan,
            self.recording,
            self._launcher,
            self.progress,
            trials=self._trials,
            ask=self._world.ask,
            violations=self._violations,
            left_s=self.left_s,
            one_s=self._defence_launch_s,
        ).go_on()
