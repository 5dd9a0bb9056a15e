"""The defence of a winner: finals against the baseline on other prompts, then the winner without each of its flags.

What was found by searching looks better than it is: it is the best of many noisy figures. So the best few and the
baseline are launched again, in turns, on prompts that the search has not seen, and only an interval that lies above the
noise as a whole wins. Everything is decided from launches on disk, so that a study can go on at any moment.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from harness.bench import Part, planned_steps
from harness.progress import Progress
from harness.recording import Recording
from harness.records import Defence, DefenceLaunch, Estimate, Flags, Judged, Outcome, Trial, Verdict
from harness.stats.turns import launches_for, many_to_one
from harness.stats.verdict import verdict
from harness.tune import quality, spending
from harness.tune.launches import Launched, Launcher, Running
from harness.tune.objectives import Scores, aimed_levels
from harness.tune.plan import Plan, defaults_suffix, spec_for
from harness.tune.quality import Ask
from harness.tune.rules import (
    ABLATION,
    BASELINE,
    CONFIRMATION,
    FINALS,
    MAX_LOSS,
    REDUCED,
    STAGE,
    WINNER,
    does_nothing,
    finalists_of,
    is_earlier,
    judged_line,
    kept_ratio,
    overrides,
    repeats_of,
    role,
    told,
    wins,
    without,
)

LeftS = Callable[[], float | None]
"""Seconds of the budget that are left. None: there is none."""
LATER: Final = "What was tried after the defence could not be defended too: there was no room for that."
"""The note of a search that went on after its defence, with too little time for another one."""


class Defender:
    """Finals, ablation and confirmation of one study.

    Args:  ask: answers of an engine to the fixed questions. None: this engine gives none (it is simulated).
           violations: why flags are known not to work.
    """

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        launcher: Launcher,
        progress: Progress,
        *,
        trials: Sequence[Trial],
        ask: Ask | None,
        violations: Callable[[Flags], Sequence[str]],
        left_s: LeftS,
        one_s: Callable[[], float],
    ) -> None:
        self._plan, self._recording, self._launcher, self._progress = plan, recording, launcher, progress
        self._ask, self._violations, self._left_s, self._one_s = ask, violations, left_s, one_s
        self._baseline, self._trials = trials[0], {trial.number: trial for trial in trials}
        self._objectives = plan.objectives
        self._levels = aimed_levels(self._objectives)
        self._scores = Scores(recording.folder, plan.scenario)
        self._folder = recording.folder
        self._launches = list(self._folder.defence())
        self._cells = list(self._folder.cells())

    # ------------------------------------------------------------ the order of things

    def go_on(self) -> Defence:
        """The defence, done. Raises: EngineError of the baseline, or of the environment; KeyboardInterrupt."""
        state = self._begun()
        while not state.is_done and state.finalists:
            state = self._finals(state)
            if state.winner is not None:
                state = self._ablation(state)
                if not state.removals and self._may_extend(state):
                    state = self._extended_finals(state)
            elif self._are_all_refused(state):
                again = self._round(state.round + 1, refused=(*state.refused, *state.finalists), finals=state.finals)
                if again.finalists:
                    state = self._keep(again)
                    continue
            break
        return self._keep(msgspec.structs.replace(state, is_done=True))

    @staticmethod
    def _are_all_refused(state: Defence) -> bool:
        mine = {f"trial {number}" for number in state.finalists}
        return all(one.is_refused for one in state.finals if one.name in mine)

    def _begun(self) -> Defence:
        """The defence under way, or a new one where there is none of all these trials."""
        known = self._recording.run.defence
        if known is not None and known.finalists and known.trials == len(self._trials) - 1:
            return known  # one without finalists, for want of time or of hope, is decided anew: nothing was launched
        fresh = self._round(1 if known is None else known.round + 1)
        notes = tuple(note for note in self._recording.run.notes if note != LATER)
        if known is not None and known.finalists and not fresh.finalists:
            self._said(LATER)  # that others were tried since then is nothing against what was proved
            self._recording.update(notes=(*notes, LATER))
            return known
        self._recording.update(notes=notes)
        return self._keep(fresh)

    def _round(self, number: int, *, refused: tuple[int, ...] = (), finals: tuple[Judged, ...] = ()) -> Defence:
        """Who is in the finals, and how often each is launched, decided once."""
        tried = len(self._trials) - 1
        hopeful = [
            trial
            for trial in finalists_of(list(self._trials.values()), has_stopped=bool(refused))
            if trial.number not in refused
        ]
        fresh = Defence(
            round=number,
            trials=tried,
            blocks=0,
            finalists=(),
            refused=refused,
            finals=finals,
            flags=self._baseline.flags,
            reason="No candidate looked better than the baseline.",
        )
        if not hopeful:
            return fresh
        shape = spending.finals_that_fit(
            self._left_s(),
            one_s=self._one_s(),
            candidates=len(hopeful),
            flags=max(len(overrides(trial.flags, baseline=self._baseline.flags)) for trial in hopeful[:3]),
            tried=tried,
        )
        if shape is None:
            reason = "The budget had no room to measure the best candidates again, so none of them is believed."
            return msgspec.structs.replace(fresh, reason=reason)
        return msgspec.structs.replace(
            fresh,
            finalists=tuple(trial.number for trial in hopeful[: shape.finalists]),
            blocks=shape.blocks,
            ablated=shape.ablated,
            looks=2 if shape.ablated else 1,
            reason="",
        )

    def _kept_s(self, state: Defence) -> float:
        """For the ablation of whoever wins the finals."""
        return spending.ablation_launches(state.ablated, blocks=spending.LEAST_BLOCKS) * self._one_s()

    def _keep(self, state: Defence) -> Defence:
        self._recording.update(defence=state)
        return state

    # ------------------------------------------------------------ finals

    def _finals(self, state: Defence) -> Defence:
        """Judged once; where that crowns nobody, again after what was kept for the ablation went to them too."""
        self._said(
            f"finals: {' and '.join(self._sides(state))} in turns, {state.blocks} launches each, on other prompts"
        )
        if FINALS in state.extended:
            return self._crowned(state, kept_s=0.0)
        # once the ablation has begun a study that goes on with more time must not look at more launches than it did
        state = self._crowned(state, kept_s=math.inf if state.ablation_blocks else self._kept_s(state))
        if state.winner is not None or self._are_all_refused(state) or not self._may_extend(state):
            return state
        return self._extended_finals(state)

    def _sides(self, state: Defence) -> dict[str, Flags]:
        """Of the finals."""
        finalists = {f"trial {number}": self._trials[number].flags for number in state.finalists}
        return {BASELINE: self._baseline.flags, **finalists}

    def _may_extend(self, state: Defence) -> bool:
        """Whether the finals may be judged once more, and have time for another launch."""
        return state.looks > 1 and FINALS not in state.extended and self._has_spare()

    def _extended_finals(self, state: Defence) -> Defence:
        """With what was kept for an ablation that was not needed, or could not have told anything in that time."""
        state = msgspec.structs.replace(self._extended(state, FINALS), winner=None, flags=self._baseline.flags)
        return self._crowned(state, kept_s=0.0)

    def _crowned(self, state: Defence, *, kept_s: float) -> Defence:
        sides = self._sides(state)
        out: dict[str, str] = {}
        earlier = [one for one in state.finals if one.name not in sides]
        self._stage(state, FINALS, sides, blocks=state.blocks, out=out, kept_s=kept_s)
        out = {name: why for name, flags in sides.items() if (why := self._uncompared(name, flags))} | out
        found = self._judged(state, FINALS, sides, control=BASELINE, out=out, looks=state.looks)
        agreements = {name: self._agreement(name, flags) for name, flags in sides.items()}
        judged = [
            msgspec.structs.replace(one, agreement=agreements[one.name], reason=one.reason or self._unasked(one.flags))
            for one in found
        ]
        best = max(filter(wins, judged), key=lambda one: one.ratio.value if one.ratio else 0.0, default=None)
        state = msgspec.structs.replace(state, finals=(*earlier, *judged))
        if best is None:
            reason = (
                "No clear winner: no finalist was surely faster than the defaults by more than the noise. Keep them."
            )
            return self._keep(msgspec.structs.replace(state, winner=None, flags=self._baseline.flags, reason=reason))
        number = next(one for one in state.finalists if f"trial {one}" == best.name)
        return self._keep(msgspec.structs.replace(state, winner=number, flags=best.flags, reason=f"{best.name} won."))

    def _extended(self, state: Defence, stage: str) -> Defence:
        self._said(f"{stage}: there is time left for more launches of each, which tell more")
        return self._keep(msgspec.structs.replace(state, extended=(*state.extended, stage)))

    def _also(self, name: str, flags: Flags, *, sides: Mapping[str, Flags]) -> Callable[[Running], None] | None:
        """Asks the questions once, of a side whose answers are needed."""
        needed = quality.changes_answers(flags) or (
            name == BASELINE and any(quality.changes_answers(other) for other in sides.values())
        )
        ask = self._ask
        if ask is None or not needed or quality.known(self._folder.path, name) is not None:
            return None
        return lambda running: quality.keep(self._folder.path, name, ask(running.engine))

    def _agreement(self, name: str, flags: Flags) -> Estimate | None:
        if name == BASELINE or not quality.changes_answers(flags):
            return None
        ours, theirs = (quality.known(self._folder.path, side) for side in (name, BASELINE))
        return None if ours is None or theirs is None else quality.agreement(ours, theirs)

    def _uncompared(self, name: str, flags: Flags) -> str:
        """Why settings are refused whose answers should have been compared, and were not: nobody vouches for them."""
        is_needed = self._ask is not None and name != BASELINE and quality.changes_answers(flags)
        is_bare = is_needed and not self._is_comparable(name, flags)
        return "its answers were not compared with the baseline's" if is_bare else ""

    def _unasked(self, flags: Flags) -> str:
        is_unasked = self._ask is None and quality.changes_answers(flags)
        return "Its answers may differ from the baseline's, which a simulation cannot tell." if is_unasked else ""

    # ------------------------------------------------------------ ablation

    def _ablation(self, state: Defence) -> Defence:
        assert state.winner is not None
        flags, base = self._trials[state.winner].flags, self._baseline.flags
        # spaces name what matters most first: what is likeliest to do nothing is tried before the time is over
        state = self._ablation_begun(state, overrides(flags, baseline=base)[::-1])
        names = [one.name.removeprefix("without ") for one in state.removals]
        if not names:
            return state
        sides = {f"without {name}": without(flags, name, baseline=base) for name in names}
        out = {
            name: f"vLLM would refuse it: {why[0]}" for name, left in sides.items() if (why := self._violations(left))
        }
        self._said(f"ablation: the winner, and {', '.join(sides)}")
        idle: list[str] = []
        if ABLATION not in state.extended:
            kept_s = 2 * state.ablation_blocks * self._one_s() if self._ablation_looks(names) > 1 else 0.0
            state, idle = self._removed(state, {WINNER: flags, **sides}, out=out, kept_s=kept_s)
            if len(idle) < 2 and self._ablation_looks(names) > 1 and self._has_spare():
                state = self._extended(state, ABLATION)
        if ABLATION in state.extended:
            state, idle = self._removed(state, {WINNER: flags, **sides}, out=out, kept_s=0.0)
        if len(idle) > 1:
            state, idle = self._confirmed(state, flags, idle, state.removals)
        for name in idle:
            flags = without(flags, name, baseline=base)
        return self._keep(self._reduced(msgspec.structs.replace(state, dropped=tuple(idle), flags=flags)))

    def _ablation_looks(self, names: Sequence[str]) -> int:
        """How often it may be judged: twice where time is kept for a confirmation, which may not be needed."""
        return 2 if len(names) > 1 and self._left_s() is not None else 1

    def _removed(
        self, state: Defence, sides: Mapping[str, Flags], *, out: dict[str, str], kept_s: float
    ) -> tuple[Defence, list[str]]:
        """What the winner is without each flag, and the flags that do nothing."""
        names = [name for name in sides if name != WINNER]
        self._stage(state, ABLATION, sides, blocks=state.ablation_blocks, out=out, kept_s=kept_s)
        found = self._judged(state, ABLATION, sides, control=WINNER, out=out, looks=self._ablation_looks(names))
        idle = [one for one in found if not one.is_refused and does_nothing(one.ratio)]
        state = msgspec.structs.replace(state, removals=tuple(found))
        return state, [one.name.removeprefix("without ") for one in idle]

    def _reduced(self, state: Defence) -> Defence:
        """The winner without its idle flags; with all of them where what is left is not surely faster any more."""
        name = f"trial {state.winner}"
        if state.dropped and not overrides(state.flags, baseline=self._baseline.flags):
            reason = (
                f"No clear winner: {name} was faster in the finals, and without any of its flags, which is the "
                "baseline, the same within the noise. Keep the defaults."
            )
            return msgspec.structs.replace(state, winner=None, dropped=(), flags=self._baseline.flags, reason=reason)
        if state.dropped and verdict(kept_ratio(state)) != Verdict.FASTER:
            reason = (
                f"{name} won; without {' and '.join(state.dropped)} it is the same within the noise, but not surely "
                "faster than the baseline any more, so it keeps all its flags."
            )
            whole = self._trials[state.winner or 0].flags
            return msgspec.structs.replace(state, dropped=(), flags=whole, reason=reason)
        return state

    def _ablation_begun(self, state: Defence, names: Sequence[str]) -> Defence:
        """What is removed, and how often it is measured, decided once."""
        if state.ablation_blocks or not names:
            return state
        flags = self._trials[state.winner or 0].flags
        seen = self._elsewhere(state, ABLATION, each=None)
        least = launches_for(
            seen,
            sides=len(names),
            half=-math.log(MAX_LOSS),
            most=spending.MOST_BLOCKS,
            looks=self._ablation_looks(names),
        )
        if least is None:
            self._said("launches differ too much for an ablation to tell anything: the winner keeps all its flags")
            return state
        count, blocks = spending.ablation_that_fits(
            self._left_s(), one_s=self._one_s(), flags=len(names), least=max(least, spending.LEAST_BLOCKS)
        )
        if not count:
            self._said(
                "the budget has no room for an ablation that could tell anything: the winner keeps all its flags"
            )
        blank = tuple(
            Judged(
                name=f"without {name}",
                flags=without(flags, name, baseline=self._baseline.flags),
                ratio=None,
                launches=0,
            )
            for name in names[:count]
        )
        return self._keep(msgspec.structs.replace(state, ablation_blocks=blocks, removals=blank))

    def _confirmed(
        self, state: Defence, flags: Flags, idle: Sequence[str], found: Sequence[Judged]
    ) -> tuple[Defence, list[str]]:
        """Flags that do nothing one by one may do something together: the winner without all of them, once more."""
        left = flags
        for name in idle:
            left = without(left, name, baseline=self._baseline.flags)
        refused = self._violations(left)
        out = {REDUCED: f"vLLM would refuse it: {refused[0]}"} if refused else {}
        sides = {WINNER: flags, REDUCED: left}
        self._said(f"ablation: the winner, and without {' and '.join(idle)} together")
        self._stage(state, CONFIRMATION, sides, blocks=state.ablation_blocks, out=out, kept_s=0.0)
        (one,) = self._judged(state, CONFIRMATION, sides, control=WINNER, out=out)
        state = msgspec.structs.replace(state, confirmation=one)
        if not one.is_refused and does_nothing(one.ratio):
            return state, list(idle)
        values = {each.name.removeprefix("without "): each.ratio.value for each in found if each.ratio is not None}
        return state, [max(idle, key=lambda name: values[name])]

    # ------------------------------------------------------------ launches

    def _stage(
        self,
        state: Defence,
        stage: str,
        sides: Mapping[str, Flags],
        *,
        blocks: int,
        out: dict[str, str],
        kept_s: float,
    ) -> None:
        """All launches of a stage that are not done yet; a side that fails is put `out`, with the reason.

        Of a budget what is left then, but for `kept_s`, goes to further blocks, the last as far as the time goes. That
        depends on the time alone, never on a figure. A side with one launch more at the end stands 1.6 places later on
        average at most: of a drift of 0.1% a launch 0.2% is left in its ratio.
        """
        first = self._first_block(state, stage)
        for block in range(first, first + blocks):
            for name in spending.alternating(list(sides), block - first + 1, blocks=blocks):
                self._turn(state, stage, name, sides, block=block, out=out, kept_s=0.0)
        if self._left_s() is None:
            return
        for block in range(first + blocks, first + spending.MOST_FILLED):
            missing = [name for name in sides if name not in out and self._done(state, stage, name, block) is None]
            is_whole = self._has_time(kept_s, launches=len(missing))
            order = (
                spending.alternating(list(sides), block - first + 1, blocks=spending.MOST_FILLED)
                if is_whole
                else list(sides)
            )
            for name in order:
                self._turn(state, stage, name, sides, block=block, out=out, kept_s=kept_s)
            if not is_whole:
                return

    def _turn(
        self,
        state: Defence,
        stage: str,
        name: str,
        sides: Mapping[str, Flags],
        *,
        block: int,
        out: dict[str, str],
        kept_s: float,
    ) -> None:
        """One launch, where it is not done yet, there is time, and the side is not out."""
        done = self._done(state, stage, name, block)
        if done is None and name not in out and self._has_time(kept_s):
            done = self._launch(state, stage, name, sides, block=block)
        if done is not None and done.outcome != Outcome.MEASURED:
            out[name] = f"{done.outcome}: {done.reason}"
        elif done is not None and (why := self._too_different(name, sides)):
            out[name] = why

    def _too_different(self, name: str, sides: Mapping[str, Flags]) -> str:
        return quality.refusal(self._agreement(name, sides[name])) if self._is_comparable(name, sides[name]) else ""

    def _is_comparable(self, name: str, flags: Flags) -> bool:
        """Whether its answers and the baseline's are known, and may differ."""
        is_needed = name != BASELINE and quality.changes_answers(flags)
        return is_needed and all(quality.known(self._folder.path, side) is not None for side in (name, BASELINE))

    def _first_block(self, state: Defence, stage: str) -> int:
        """Stages and rounds go on with the numbers, so that no two launches share prompts that should not."""
        earlier = [one.block for one in self._launches if is_earlier(one, state, stage)]
        return max(earlier, default=0) + 1

    def _done(self, state: Defence, stage: str, name: str, block: int) -> DefenceLaunch | None:
        key = state.round, stage, role(stage, name), block
        return next((one for one in self._launches if (one.round, one.stage, one.role, one.block) == key), None)

    def _has_time(self, kept_s: float = 0.0, *, launches: int = 1) -> bool:
        left_s = self._left_s()
        return left_s is None or left_s - kept_s >= launches * self._one_s()

    def _has_spare(self) -> bool:
        """Whether a budget has time for more launches."""
        return self._left_s() is not None and self._has_time()

    def _launch(
        self, state: Defence, stage: str, name: str, sides: Mapping[str, Flags], *, block: int
    ) -> DefenceLaunch:
        flags = sides[name]
        part = Part(
            spec=spec_for(self._plan, flags),
            role=role(stage, name),
            block=block,
            title_suffix=defaults_suffix(self._plan.profile) if name == BASELINE else f", {name}",
            stage=STAGE,
        )
        steps = planned_steps(self._plan.engine, [self._plan.scenario.at(self._levels)], repeats=repeats_of(self._plan))
        self._progress.add(steps)
        also = self._also(name, flags, sides=sides) if stage == FINALS else None
        launched = self._launcher.measured(part, self._levels, repeats=repeats_of(self._plan), also=also)
        if launched.error is not None and name == BASELINE:
            self._folder.set_aside(lambda cell: (cell.role, cell.block) == (part.role, part.block))
            launched = self._launcher.measured(part, self._levels, repeats=repeats_of(self._plan), also=also)
            if launched.error is not None:
                raise launched.error
        return self._written(state, stage, part, flags, launched)

    def _written(self, state: Defence, stage: str, part: Part, flags: Flags, launched: Launched) -> DefenceLaunch:
        error = launched.error
        found = DefenceLaunch(
            stage=stage,
            round=state.round,
            role=part.role,
            block=part.block,
            flags=flags,
            outcome=launched.outcome,
            reason=told(error),
            log=launched.facts.log if launched.facts else (error.log.name if error and error.log else ""),
            launch_s=launched.launch_s,
            wall_s=launched.wall_s,
            level_s=launched.level_s,
            retries=launched.retries,
        )
        if error is not None:
            self._said(f"{part.role}: {found.outcome}: {found.reason}")
        self._launches.append(found)
        self._cells += launched.cells
        self._folder.append_defence(found)
        return found

    # ------------------------------------------------------------ figures

    def _judged(
        self,
        state: Defence,
        stage: str,
        sides: Mapping[str, Flags],
        *,
        control: str,
        out: Mapping[str, str],
        looks: int = 1,
    ) -> list[Judged]:
        """Every side against the control, whose launches took turns with theirs; one of so many looks at them."""
        names = [name for name in sides if name != control]
        counting = [name for name in names if name not in out]
        whole = self._ratios(state, stage, control, counting, each=None, looks=looks)
        goals = [one.name for one in self._objectives] if len(self._objectives) > 1 else []
        by_goal = {goal: self._ratios(state, stage, control, counting, each=goal, looks=looks) for goal in goals}
        judged = [
            Judged(
                name=name,
                flags=sides[name],
                ratio=whole.get(name),
                ratios={goal: found[name] for goal, found in by_goal.items() if name in found},
                launches=len(self._logarithms(state, stage, name, each=None)),
                is_refused=name in out,
                reason=out.get(name, "" if name in whole else "No launch of it, or of the other, gave figures."),
            )
            for name in names
        ]
        for one in judged:
            self._said(judged_line(one, control=control))
        return judged

    def _ratios(
        self, state: Defence, stage: str, control: str, names: Sequence[str], *, each: str | None, looks: int
    ) -> dict[str, Estimate]:
        """By side; what the launches of other stages say of how much launches differ counts too."""
        mine = {name: self._logarithms(state, stage, name, each=each) for name in (control, *names)}
        found = many_to_one(
            mine[control],
            [mine[name] for name in names],
            others=self._elsewhere(state, stage, each=each),
            looks=looks,
        )
        return {name: one for name, one in zip(names, found, strict=True) if one is not None}

    def _elsewhere(self, state: Defence, stage: str, *, each: str | None) -> list[list[float]]:
        """Logarithms by side of each earlier stage; a later one must not change what was judged."""
        groups: dict[tuple[int, str, str], set[tuple[str, int]]] = {}
        for one in self._launches:
            if is_earlier(one, state, stage):
                groups.setdefault((one.round, one.stage, one.role), set()).add((one.role, one.block))
        return [self._values(launches, each) for launches in groups.values()]

    def _logarithms(self, state: Defence, stage: str, name: str, *, each: str | None) -> list[float]:
        wanted = {
            (one.role, one.block)
            for one in self._launches
            if (one.round, one.stage, one.role, one.outcome)
            == (state.round, stage, role(stage, name), Outcome.MEASURED)
        }
        return self._values(wanted, each)

    def _values(self, launches: Collection[tuple[str, int]], each: str | None) -> list[float]:
        """One for each launch that has a figure for every objective: their mean."""
        found = []
        for launch in sorted(launches):
            cells = [cell for cell in self._cells if (cell.role, cell.block) == launch]
            values = [
                self._scores.of_launch(cells, one) for one in self._objectives if each is None or one.name == each
            ]
            known = [value for value in values if value is not None]
            if known and len(known) == len(values):
                found.append(sum(known) / len(known))
        return found

    def _said(self, text: str) -> None:
        self._progress.note(text)
