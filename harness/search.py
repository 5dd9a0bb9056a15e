"""Which candidate next, and what was learned; the one file that knows Optuna."""

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.records import Flags, SearchSpace

MAX_REFUSALS = 500
"""Proposals in a row that may be refused before the rest of the space is walked through in order."""


class Exhausted(Exception):
    """Every candidate of the space is tried or known not to fit."""


class Search:
    """A study in the run folder, over the ladders of a SearchSpace; trial 0 is the baseline.

    Ladders are searched by their place (0, 1, 2 …), so that equal steps are equal factors. A candidate is
    given out once: what was tried before, whatever came of it, is never asked again.

    Args:  needed_tokens: prompt and answer of the workload: a shorter max-model-len is never tried.
           model_max_len: the model's own limit.
    """

    def __init__(self, folder: Path, space: SearchSpace, *, seed: int, needed_tokens: int, model_max_len: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").propagate = False
        self._space = space
        self._needed, self._longest = needed_tokens, model_max_len
        self._tried: set[tuple[int, int, int]] = set()
        self._asked: dict[int, optuna.Trial] = {}
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
        for trial in self._study.trials:
            if trial.state in {TrialState.RUNNING, TrialState.WAITING}:  # left by a run that was killed
                self._study.tell(trial.number, state=TrialState.FAIL)

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
        self._study.enqueue_trial(places, skip_if_exists=True)

    def ask(self) -> tuple[int, Flags]:
        """A ticket for `tell`, and the flags to try next. Raises: Exhausted."""
        ladders = self._ladders()
        if not self._open(ladders):
            raise Exhausted
        distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(ladder) - 1) for name, ladder in ladders.items()
        }
        for _ in range(MAX_REFUSALS):
            trial = self._study.ask(distributions)
            point = tuple(ladder[trial.params[name]] for name, ladder in ladders.items())
            batched, seqs, length = point
            if self._fits(batched, seqs, length):
                return self._hand_out(trial, (batched, seqs, length))
            trial.set_constraint("known", 1.0)
            self._study.tell(trial, state=TrialState.PRUNED)
        first = self._open(ladders)[0]
        self._study.enqueue_trial(
            {name: ladder.index(step) for (name, ladder), step in zip(ladders.items(), first, strict=True)}
        )
        return self._hand_out(self._study.ask(distributions), first)

    def _hand_out(self, trial: optuna.Trial, point: tuple[int, int, int]) -> tuple[int, Flags]:
        self._tried.add(point)
        self._asked[trial.number] = trial
        return trial.number, flags_of(*point)

    def tell(self, ticket: int, objective: float | None, *, constraints: dict[str, float]) -> None:
        """The result of a trial: an objective to be maximised, or None with what made it infeasible.

        A trial that failed is told as pruned with its constraint, since TPE ignores the state FAIL.
        """
        trial = self._asked.pop(ticket)
        for key, value in constraints.items():
            trial.set_constraint(key, value)
        if objective is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, objective)

    def give_back(self, ticket: int) -> None:
        """The trial was interrupted: nothing is known of it, and it may be asked again."""
        self._study.tell(self._asked.pop(ticket), state=TrialState.FAIL)

    def _ladders(self) -> dict[str, tuple[int, ...]]:
        space = self._space
        return {
            "max-num-batched-tokens": space.max_num_batched_tokens,
            "max-num-seqs": space.max_num_seqs,
            "max-model-len": space.max_model_len,
        }

    def _fits(self, batched: int, seqs: int, length: int) -> bool:
        is_known_to_fit = self._needed <= length <= self._longest and batched >= seqs
        return is_known_to_fit and (batched, seqs, length) not in self._tried

    def _open(self, ladders: dict[str, tuple[int, ...]]) -> list[tuple[int, int, int]]:
        all_batched, all_seqs, all_lengths = ladders.values()
        return [
            (batched, seqs, length)
            for batched in all_batched
            for seqs in all_seqs
            for length in all_lengths
            if self._fits(batched, seqs, length)
        ]


def flags_of(batched: int, seqs: int, length: int) -> Flags:
    """All three, always: vLLM derives the one that is missing from the others."""
    return {"max-num-batched-tokens": batched, "max-num-seqs": seqs, "max-model-len": length}


def candidate(flags: Flags) -> tuple[int, int, int]:
    """The point of the space that `flags` is."""
    return int(flags["max-num-batched-tokens"]), int(flags["max-num-seqs"]), int(flags["max-model-len"])
