"""Which candidate next, and what was learned; the one file that knows Optuna."""

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.records import Flags, SearchSpace
from harness.store import drop_half_line

Point = tuple[int, int, int]
"""Steps of the three ladders: max-num-batched-tokens, max-num-seqs, max-model-len."""


class Exhausted(Exception):
    """Every candidate of the space is tried or known not to fit."""


class Search:
    """A study in the run folder, over the ladders of a SearchSpace; trial 0 is the baseline.

    Ladders are searched by their place (0, 1, 2 …), so that equal steps are equal factors. A candidate is
    given out once: what was tried before, whatever came of it, is never asked again.

    Args:  needed_tokens: prompt and answer of the workload: a shorter max-model-len is never tried.
           model_max_len: the longest context that is known to be possible, at first the model's own.
           violations: why flags are known not to work, as `engines.violations`; such a candidate is cut before launch.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        *,
        seed: int,
        needed_tokens: int,
        model_max_len: int,
        violations: Callable[..., Sequence[str]],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").propagate = False
        self._space = space
        self._needed, self._longest = needed_tokens, model_max_len
        self._violations = violations
        self._tried: set[Point] = set()
        self._asked: dict[int, tuple[optuna.Trial, Point]] = {}
        self._random = random.Random(seed)
        drop_half_line(folder / "study.journal")  # else the next line would be glued to it, and no line be readable
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                study_name="harness",
                storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
                sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=True),
                direction="maximize",
                load_if_exists=True,
            )
        if not self._study.trials:
            # Outside the ladders, so the sampler cannot use it; it only holds number 0.
            self._study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"what": "baseline"}))
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)  # left by a run that was killed

    def remember(self, tried: Iterable[Flags], *, longest_that_fits: int | None) -> None:
        """What earlier sessions of this run have learned."""
        self._tried.update(candidate(flags) for flags in tried if "max-num-seqs" in flags)
        if longest_that_fits is not None:
            self.learn_longest(longest_that_fits)

    def learn_longest(self, tokens: int) -> None:
        """The engine said that no longer context fits: longer ones are cut before launch from now on."""
        self._longest = min(self._longest, tokens)

    def start_with(self, flags: Flags) -> None:
        """Ask for the ladder's nearest point below `flags` first."""
        ladders = self._ladders()
        wanted = (flags["max-num-batched-tokens"], flags["max-num-seqs"], flags["max-model-len"])
        places = {
            name: max((i for i, step in enumerate(ladder) if step <= int(value)), default=0)
            for (name, ladder), value in zip(ladders.items(), wanted, strict=True)
        }
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(places)

    def ask(self) -> tuple[int, Flags]:
        """A ticket for `tell`, and the flags to try next. Raises: Exhausted.

        Where the sampler proposes a point that is not open, the open one nearest to it is taken. The proposal is
        told as FAIL, which TPE ignores: told as infeasible, the best point proposed again would be a mark against
        its neighbours.
        """
        ladders = self._ladders()
        distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(ladder) - 1) for name, ladder in ladders.items()
        }
        while still_open := self._open(ladders):
            trial = self._study.ask(distributions)
            places = tuple(trial.params[name] for name in ladders)
            if places in still_open:
                point = still_open[places]
                self._tried.add(point)
                self._asked[trial.number] = trial, point
                return trial.number, flags_of(*point)
            self._study.tell(trial, state=TrialState.FAIL)
            nearest = min(still_open, key=lambda other: (math.dist(other, places), self._random.random()))
            self._study.enqueue_trial(dict(zip(ladders, nearest, strict=True)))
        raise Exhausted

    def tell(self, ticket: int, objective: float | None, *, constraints: dict[str, float]) -> None:
        """The result of a trial: an objective to be maximised, or None with what made it infeasible.

        A trial that failed is told as pruned with its constraint, since TPE ignores the state FAIL.
        """
        trial, _ = self._asked.pop(ticket)
        for key, value in constraints.items():
            trial.set_constraint(key, value)
        if objective is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, objective)

    def give_back(self, ticket: int) -> None:
        """The trial was interrupted: nothing is known of it, and it may be asked again."""
        trial, point = self._asked.pop(ticket)
        self._tried.discard(point)
        self._study.tell(trial, state=TrialState.FAIL)

    def _ladders(self) -> dict[str, tuple[int, ...]]:
        space = self._space
        return {
            "max-num-batched-tokens": space.max_num_batched_tokens,
            "max-num-seqs": space.max_num_seqs,
            "max-model-len": space.max_model_len,
        }

    def _fits(self, batched: int, seqs: int, length: int) -> bool:
        if (batched, seqs, length) in self._tried:
            return False
        flags = flags_of(batched, seqs, length)
        return not self._violations(flags, model_max_len=self._longest, needed_tokens=self._needed)

    def _open(self, ladders: dict[str, tuple[int, ...]]) -> dict[tuple[int, ...], Point]:
        """Every point that may still be given out, by its places on the ladders."""
        all_batched, all_seqs, all_lengths = ladders.values()
        return {
            (i, j, k): (batched, seqs, length)
            for i, batched in enumerate(all_batched)
            for j, seqs in enumerate(all_seqs)
            for k, length in enumerate(all_lengths)
            if self._fits(batched, seqs, length)
        }


def flags_of(batched: int, seqs: int, length: int) -> Flags:
    """All three, always: vLLM derives the one that is missing from the others."""
    return {"max-num-batched-tokens": batched, "max-num-seqs": seqs, "max-model-len": length}


def candidate(flags: Flags) -> Point:
    """The point of the space that `flags` is."""
    return int(flags["max-num-batched-tokens"]), int(flags["max-num-seqs"]), int(flags["max-model-len"])
