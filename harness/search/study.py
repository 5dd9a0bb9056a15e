"""A search that many workers may share; Optuna keeps it.

Optuna stores the trials, gives each queued one to one worker, and knows which are feasible; which candidate is next is
`chooser`'s to say. Two workers can have the same thought at the same time: then two trials name one candidate, and
the one with the lower number has it. The storage gives numbers out one after another, so the other one sees that.
"""

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from harness.records import Estimate, Flags, Ladder, Outcome, Record, Trial
from harness.search.chooser import Told, choose
from harness.search.lessons import Lessons
from harness.search.space import Places, Seed, Space, key_of
from harness.search.storage import AWAY, Say, opened, patiently

LOG: Final = logging.getLogger(__name__)
MOST_LISTED: Final = 4096
"""Larger spaces are looked at in part: around what is best, and at random."""
DRAWN: Final = 1024
MOST_LOST: Final = 2
"""A candidate that was claimed so many times by a worker that then died is not given out again."""
UNCLAIMED_S: Final = 10.0
"""A trial that was taken and that no worker has put its name to after this time was taken by one that died there."""
LESSON: Final = "lesson:"
DEFENDED: Final = "defended:"
LIVE: Final = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


class Exhausted(Exception):
    """Every candidate of the space is tried or known not to work."""


class Enough(Exhausted):
    """The study has as many candidates as were asked for, those under way counted."""


class Candidate(Record, frozen=True, kw_only=True):
    """What to launch next."""

    ticket: int
    """Number of its trial in the storage."""
    flags: Flags
    origin: str
    """Who proposed it: the origin of a seed, or "search"."""


class Search:
    """One study over a space; trial 0 is the baseline's.

    What is asked next follows from the space, the seed and what was told, and from nothing else: a search that was
    interrupted goes on as if it had not been.

    Args:  storage: path of a journal file, or URL of a database that several hosts share.
           objectives: how many values each candidate is told, all to be maximised.
           is_allowed: why flags are known not to work, as `engines.violations`; empty where nothing speaks against.
           worker: name of this worker among several; what one of this name, or of a name that goes on from it with a
           slash, left unfinished is open again. None: there is no other worker.
           about: what the study is of; a storage that holds it with other words is refused.
           say: told when the storage does not answer.
    Raises: UsageError: the storage cannot be reached.  ResultsUnreadable: it is damaged or of another version.
    """

    def __init__(
        self,
        *,
        storage: str | Path,
        study: str,
        space: Space,
        seed: int,
        seeds: Sequence[Seed] = (),
        objectives: int = 1,
        is_allowed: Callable[[Flags], Sequence[str]],
        worker: str | None = None,
        about: Mapping[str, str] | None = None,
        say: Say = LOG.info,
    ) -> None:
        self._space, self._seed, self._objectives = space, seed, objectives
        self._seeds = [(space.places_of(one.flags), one.origin) for one in seeds]
        self._is_allowed = is_allowed
        self._worker, self._say = worker, say
        self._lessons = Lessons(space)
        self._learned: set[str] = set()
        self._remembered: dict[str, Told | None] = {}
        self._asked: dict[int, optuna.Trial] = {}
        self._distributions: dict[str, BaseDistribution] = {
            axis.flag: IntDistribution(0, len(axis.steps) - 1) for axis in space.axes
        }
        self._study = opened(storage, study, objectives=objectives, about=about)
        self._free_unclaimed()
        for trial in self._trials(TrialState.RUNNING):
            if worker is None or is_of(trial, worker):
                self._end_lost(trial)

    @property
    def ladders(self) -> tuple[Ladder, ...]:
        """Among what is searched, for people."""
        return tuple(Ladder(flag=axis.flag, steps=axis.steps) for axis in self._space.axes)

    # ------------------------------------------------------------ asking

    def remember(self, trials: Iterable[Trial]) -> None:
        """What this run tried before, as its folder has it: none of it is asked again, and its failures are learned."""
        for trial in trials:
            if not trial.is_candidate:
                continue
            self.learn(trial)
            told, ratio = None, trial.objective or trial.partial
            found = [ratio] if self._objectives == 1 else list(trial.objectives.values())
            known = [one.value for one in found if one is not None and one.value > 0]
            if len(known) == self._objectives:
                told = Told(places=self._space.places_of(trial.flags), values=tuple(map(math.log, known)))
            self._remembered[key_of(trial.flags)] = told

    def ask(self, *, most: int | None = None) -> Candidate:
        """What to launch next; no other worker is given it.

        Args:   most: candidates of the whole study, whoever tries them.
        Raises: Exhausted: none is left.  Enough: there are so many.  StorageLost.
        """
        return patiently(functools.partial(self._ask, most), say=self._say)

    def _ask(self, most: int | None) -> Candidate:
        self._free_unanswered()
        while True:
            self._take_in()
            self._free_unclaimed()
            if most is not None and self.count() >= most:
                raise Enough
            if not self._trials(TrialState.WAITING):
                self._queue()
            trial = self._study.ask()
            flags: Flags | None = trial.user_attrs.get("flags")
            if flags is None:  # another worker took what was queued
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            try:
                trial.set_user_attr("worker", self._worker)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # another worker began in this moment and took this trial for one that was left behind
            if self._is_taken(key_of(flags), before=trial.number) or self._objection(flags) is not None:
                self._drop(trial, "not launched")
                continue
            if most is not None and self.count(before=trial.number) >= most:
                self._drop(trial, "one too many")
                raise Enough
            for name, distribution in self._distributions.items():
                trial._suggest(name, distribution)
            self._asked[trial.number] = trial
            return Candidate(ticket=trial.number, flags=flags, origin=trial.user_attrs["origin"])

    def _queue(self) -> None:
        """Queues one candidate. Raises: Exhausted."""
        places, flags, origin = self._next()
        named = dict(zip(self._distributions, places, strict=True))
        self._study.enqueue_trial(named, user_attrs={"flags": flags, "origin": origin})

    def _next(self) -> tuple[Places, Flags, str]:
        tried = self._tried()
        for places, origin in self._seeds:
            flags = self._lessons.mended(self._space.flags_at(places))
            if key_of(flags) not in tried and self._objection(flags) is None:
                return places, flags, origin
        told, pending = self._told(), self._pending()
        rng = np.random.default_rng([self._seed, len(told), len(pending), len(tried)])
        still_open = self._open(tried, told, rng)
        if not still_open:
            raise Exhausted
        places = choose(
            self._space,
            list(still_open),
            told=told,
            pending=pending,
            rough=self._lessons.rough,
            objectives=self._objectives,
            rng=rng,
            home=self._seeds[0][0] if self._seeds else None,
        )
        return places, still_open[places], "search"

    # ------------------------------------------------------------ what is open

    def _open(self, tried: set[str], told: Sequence[Told], rng: np.random.Generator) -> dict[Places, Flags]:
        """Candidates that may still be given out; of a large space those around the best, and some at random."""
        if self._space.size <= MOST_LISTED:
            return dict(self._passing(self._space.everywhere(), tried))
        drawn = (self._space.at(int(number)) for number in rng.integers(self._space.size, size=DRAWN))
        found = dict(self._passing(dict.fromkeys([*self._around_best(told), *drawn]), tried))
        return found or dict(itertools.islice(self._passing(self._space.everywhere(), tried), 1))

    def _passing(self, listed: Iterable[Places], tried: set[str]) -> Iterator[tuple[Places, Flags]]:
        seen = set(tried)
        for places in listed:
            flags = self._lessons.mended(self._space.flags_at(places))
            key = key_of(flags)
            if key not in seen and self._objection(flags) is None:
                seen.add(key)
                yield places, flags

    def _around_best(self, told: Sequence[Told]) -> Iterator[Places]:
        """All that differ in one or two flags from one of the best."""
        ranked = sorted(told, key=lambda one: -sum(one.values))[:3]
        for start in [one.places for one in ranked] or [self._space.at(0)]:
            near = list(self._beside(start))
            yield from near
            for one in near:
                yield from self._beside(one)

    def _beside(self, start: Places) -> Iterator[Places]:
        for number, axis in enumerate(self._space.axes):
            for place in range(len(axis.steps)):
                if place != start[number]:
                    yield (*start[:number], place, *start[number + 1 :])

    def _objection(self, flags: Flags) -> str | None:
        """Why a candidate is not launched. None: nothing speaks against it."""
        if (reason := self._lessons.reason(flags)) is not None:
            return reason
        if reasons := self._is_allowed(flags):
            return reasons[0]
        if missing := self._space.missing_bytes(flags):
            return f"by the memory plan it is {missing / 2**30:.1f} GiB too large"
        return None

    # ------------------------------------------------------------ telling

    def tell(self, ticket: int, values: tuple[float, ...] | None, *, constraints: dict[str, float]) -> None:
        """The result of a candidate: a value for each objective, or None with what made it infeasible.

        One that failed is told as pruned with its constraints, since Optuna's samplers ignore the state FAIL.
        """
        trial = self._asked[ticket]

        def act() -> None:
            if self._state(ticket) != TrialState.RUNNING:
                return  # the storage took it, and could not say so before it went away
            for name, value in constraints.items():
                trial.set_constraint(name, value)
            if values is None:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, list(values))

        patiently(act, say=self._say)
        del self._asked[ticket]

    def give_back(self, ticket: int) -> None:
        """The trial was interrupted: nothing is known of it, and it may be asked again.

        Of a worker that died, another one may give its tickets back; after MOST_LOST deaths a candidate stays away.
        A storage that is away keeps nobody waiting here: the candidate is free again when this worker goes on.
        """
        trial = self._asked.pop(ticket, None)
        with contextlib.suppress(*AWAY):
            if trial is None:
                self._study.tell(ticket, state=TrialState.FAIL)
            else:
                self._drop(trial, "given back")

    def take_back(self, worker: str, *, measured: Mapping[str, tuple[float, ...] | None]) -> None:
        """What a worker that died had in hand is open to the others again.

        Args:  measured: what was told of candidates, by `key_of`: the worker may have died between writing a trial and
               telling of it.
        """
        patiently(lambda: self._take_back(worker, measured), say=self._say)

    def given_up(self) -> list[Flags]:
        """Candidates that were lost for the last time, here, and that no trial of this run tells of."""
        return patiently(self._given_up, say=self._say)

    def _given_up(self) -> list[Flags]:
        lost: dict[str, list[FrozenTrial]] = {}
        for trial, flags in self._candidates(TrialState.FAIL):
            if "what" not in trial.user_attrs:
                lost.setdefault(key_of(flags), []).append(trial)
        known = {key_of(flags) for _, flags in self._candidates(*LIVE)} | self._remembered.keys()
        return [
            trials[-1].user_attrs["flags"]
            for key, trials in lost.items()
            if len(trials) >= MOST_LOST
            and key not in known
            and (self._worker is None or is_of(trials[-1], self._worker))
        ]

    def _take_back(self, worker: str, measured: Mapping[str, tuple[float, ...] | None]) -> None:
        for trial in self._trials(TrialState.RUNNING):
            flags: Flags | None = trial.user_attrs.get("flags")
            if flags is None or not is_of(trial, worker):
                continue
            key = key_of(flags)
            if key in measured:
                values = measured[key]
                state = TrialState.PRUNED if values is None else TrialState.COMPLETE
                self._study.tell(trial.number, values, state=state, skip_if_finished=True)
                continue
            self._end_lost(trial)

    def publish(self, measured: Mapping[str, tuple[float, ...] | None], flags_of: Mapping[str, Flags]) -> None:
        """What this run measured and the storage does not know, for the other workers."""
        known = {key_of(flags) for _, flags in self._candidates(TrialState.COMPLETE, TrialState.PRUNED)}
        for key, values in measured.items():
            if key not in known:
                attrs = {"flags": flags_of[key], "origin": "an earlier stretch", "worker": self._worker}
                state = TrialState.PRUNED if values is None else TrialState.COMPLETE
                self._study.add_trial(optuna.create_trial(state=state, values=values, user_attrs=attrs))

    def count(self, *, before: int | None = None) -> int:
        """Candidates of the study that are measured or being measured, or were given up; by whomever."""
        held = [
            key_of(flags)
            for trial, flags in self._candidates(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            if before is None or trial.number < before
        ]
        lost = self._lost()
        return len({*held, *(key for key in lost if lost.count(key) >= MOST_LOST)})

    def best_elsewhere(self, worker: str, *, refuted: Collection[str] = ()) -> tuple[float, str] | None:
        """The largest sum of values that another run was told, and which run it is; of equals the first by name.

        Args:     refuted: runs that do not count, since their finals crowned nobody.
        Returns:  None: no other one has any.
        """
        found = [
            (sum(trial.values), str(trial.user_attrs.get("worker")).partition("/")[0])
            for trial, _ in self._candidates(TrialState.COMPLETE)
            if not is_of(trial, worker)
        ]
        left = [one for one in found if one[1] not in refuted]
        return min(left, key=lambda one: (-one[0], one[1]), default=None)

    def tell_defended(self, worker: str, ratio: Estimate | None) -> None:
        """For the other runs: what this one's defence came to. None: it crowned nobody."""
        text = msgspec.json.encode(ratio).decode()
        patiently(lambda: self._study.set_user_attr(DEFENDED + worker, text), say=self._say)

    def defended(self) -> dict[str, Estimate | None]:
        """By run, what the defences that have ended came to."""
        known = patiently(lambda: self._study.user_attrs, say=self._say)
        return {
            name.removeprefix(DEFENDED): msgspec.json.decode(text, type=Estimate | None)
            for name, text in known.items()
            if name.startswith(DEFENDED)
        }

    def learn(self, trial: Trial) -> None:
        """Cuts the space by how a trial ended, for all workers of the study."""
        name = LESSON + key_of(trial.flags)
        if name in self._learned:
            return
        self._learned.add(name)
        self._lessons.learn(trial)
        if trial.outcome not in {Outcome.MEASURED, Outcome.STOPPED, Outcome.INVALID}:
            text = msgspec.json.encode(trial).decode()
            patiently(lambda: self._study.set_user_attr(name, text), say=self._say)

    def _take_in(self) -> None:
        """What other workers have learned."""
        for name, text in sorted(self._study.user_attrs.items()):
            if name.startswith(LESSON) and name not in self._learned:
                self._learned.add(name)
                self._lessons.learn(msgspec.json.decode(text, type=Trial))

    def _drop(self, trial: optuna.Trial, why: str) -> None:
        """Ends a trial that says nothing of its flags."""
        trial.set_user_attr("what", why)
        self._study.tell(trial, state=TrialState.FAIL)

    # ------------------------------------------------------------ what the dead left

    def _free_unclaimed(self) -> None:
        """Ends trials that a worker took and died before it put its name to them."""
        now_s = time.time()
        for trial in self._trials(TrialState.RUNNING):
            if "worker" in trial.user_attrs or trial.datetime_start is None:
                continue
            if self._worker is None or abs(now_s - trial.datetime_start.timestamp()) > UNCLAIMED_S:
                self._end_lost(trial, what="unclaimed")

    def _free_unanswered(self) -> None:
        """Ends what the storage gave us without our hearing of it."""
        for trial in self._trials(TrialState.RUNNING) if self._worker is not None else ():
            if trial.number not in self._asked and trial.user_attrs.get("worker") == self._worker:
                self._end_lost(trial, what="unanswered")

    def _end_lost(self, trial: FrozenTrial, *, what: str = "") -> None:
        if what:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                optuna.Trial(self._study, trial._trial_id).set_user_attr("what", what)
        self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    # ------------------------------------------------------------ what the storage knows

    def _state(self, ticket: int) -> TrialState:
        (found,) = (trial for trial in self._trials() if trial.number == ticket)
        return found.state

    def _lost(self) -> list[str]:
        """Keys of candidates, once for each worker that died over one."""
        return [key_of(flags) for trial, flags in self._candidates(TrialState.FAIL) if "what" not in trial.user_attrs]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _candidates(self, *states: TrialState) -> Iterator[tuple[FrozenTrial, Flags]]:
        for trial in self._trials(*states):
            flags: Any = trial.user_attrs.get("flags")
            if flags is not None:
                yield trial, flags

    def _tried(self) -> set[str]:
        """Keys of all candidates that are not to be given out again."""
        live = {key_of(flags) for _, flags in self._candidates(*LIVE)}
        lost = self._lost()
        return live | self._remembered.keys() | {key for key in lost if lost.count(key) >= MOST_LOST}

    def _is_taken(self, key: str, *, before: int) -> bool:
        """Whether a trial with a lower number has this candidate."""
        if key in self._remembered:
            return True
        return any(trial.number < before and key_of(flags) == key for trial, flags in self._candidates(*LIVE))

    def _told(self) -> list[Told]:
        """What was measured, in the order asked."""
        here = {
            key_of(flags): Told(places=self._space.places_of(flags), values=tuple(trial.values))
            for trial, flags in self._candidates(TrialState.COMPLETE)
        }
        before = {key: told for key, told in self._remembered.items() if told is not None and key not in here}
        return [*before.values(), *here.values()]

    def _pending(self) -> list[Places]:
        return [self._space.places_of(flags) for _, flags in self._candidates(TrialState.RUNNING)]


def is_of(trial: FrozenTrial, worker: str) -> bool:
    """Whether this worker has it, or one whose name goes on from it with a slash."""
    name = str(trial.user_attrs.get("worker"))
    return name == worker or name.startswith(f"{worker}/")
