"""The searches that race: ours, chance, the grid order of vLLM's auto_tune, and Optuna's TPE as people use it."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from benchtuner.surfaces import Point, Surface
from harness.records import Flags, Outcome, Trial
from harness.search import Candidate, Exhausted, Search, key_of


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a racer is told of a launch."""

    point: Point
    value: float | None
    """With noise. None: it failed."""


class Racer(Protocol):
    """Asked for flags, told what came of them. None: there is nothing left to try."""

    def ask(self) -> Flags | None: ...

    def tell(self, launch: Launch) -> None: ...


class Ours:
    """`harness.search`, with its storage on disk."""

    def __init__(self, surface: Surface, *, seed: int, folder: Path) -> None:
        self._search = Search(
            storage=folder / f"{seed}.journal",
            study="bench",
            space=surface.space,
            seed=seed,
            seeds=surface.seeds,
            is_allowed=surface.is_allowed,
        )
        self._asked: Candidate | None = None
        self._number = 0

    def ask(self) -> Flags | None:
        """The search's own choice."""
        try:
            self._asked = self._search.ask()
        except Exhausted:
            return None
        return self._asked.flags

    def tell(self, launch: Launch) -> None:
        """As `harness tune` does: the value, or what made it infeasible and what can be learned of that."""
        assert self._asked is not None
        self._number += 1
        point = launch.point
        values = None if launch.value is None else (launch.value,)
        self._search.tell(self._asked.ticket, values, constraints={} if values else {"started": 1.0})
        self._search.learn(
            Trial(
                number=self._number,
                flags=self._asked.flags,
                outcome=Outcome(point.outcome),
                reason=point.reason,
                fits_tokens=point.fits_tokens,
                launch_s=1.0 if point.is_under_load or values else None,
            )
        )


class Chance:
    """Candidates at random, each once, of those that vLLM would not refuse at once."""

    def __init__(self, surface: Surface, *, seed: int, folder: Path) -> None:
        everything = [surface.space.flags_at(places) for places in surface.space.everywhere()]
        self._left = [flags for flags in everything if not surface.is_allowed(flags)]
        random.Random(seed).shuffle(self._left)

    def ask(self) -> Flags | None:
        """The next one."""
        return self._left.pop() if self._left else None

    def tell(self, launch: Launch) -> None:
        """Chance learns nothing."""


class Grid:
    """vLLM's auto_tune: its order is fixed."""

    def __init__(self, surface: Surface, *, seed: int, folder: Path) -> None:
        self._left = [flags for flags in reversed(surface.grid) if not surface.is_allowed(flags)]

    def ask(self) -> Flags | None:
        """The next one."""
        return self._left.pop() if self._left else None

    def tell(self, launch: Launch) -> None:
        """A grid learns nothing."""


class PlainTpe:
    """Optuna's TPE with its defaults over the same ladders, failures told as FAIL.

    Candidates that vLLM would refuse at once are told as FAIL without a launch, which is more than people do for it.
    """

    def __init__(self, surface: Surface, *, seed: int, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._surface = surface
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize")
        self._distributions: dict[str, BaseDistribution] = {
            axis.flag: IntDistribution(0, len(axis.steps) - 1)
            if axis.is_ordered
            else CategoricalDistribution(list(range(len(axis.steps))))
            for axis in surface.space.axes
        }
        self._trial: optuna.Trial | None = None

    def ask(self) -> Flags | None:
        """What TPE proposes, whether or not it was tried before."""
        for _ in range(1000):
            self._trial = self._study.ask(self._distributions)
            places = tuple(int(self._trial.params[axis.flag]) for axis in self._surface.space.axes)
            flags = self._surface.space.flags_at(places)
            if not self._surface.is_allowed(flags):
                return flags
            self._study.tell(self._trial, state=TrialState.FAIL)
        return None

    def tell(self, launch: Launch) -> None:
        """A value, or FAIL."""
        assert self._trial is not None
        if launch.value is None:
            self._study.tell(self._trial, state=TrialState.FAIL)
        else:
            self._study.tell(self._trial, launch.value)


RACERS: dict[str, Callable[..., Racer]] = {
    "ours": Ours,
    "random": Chance,
    "auto_tune's grid": Grid,
    "plain TPE": PlainTpe,
}


@dataclass(frozen=True, kw_only=True)
class Race:
    """One search on one surface with one seed."""

    surface: str
    racer: str
    seed: int
    launches: int | None
    """Until the found setting was truly within the limit of the optimum. None: not within `most` launches."""
    minutes: float | None
    """Simulated, of all launches until then."""
    most: int
    """Launches that it made."""
    regrets: tuple[float, ...]
    """Before the first launch and after each: by how much the found setting truly misses the optimum."""
    ends_at: float
    """True value of the found setting at the end, as a logarithm of the ratio to the baseline."""


def race(
    surface: Surface, racer: str, *, seed: int, folder: Path, noise: float, within: float, least: int, most: int
) -> Race:
    """Until it is there, but at least `least` launches for its regret curve, and at most `most`.

    The found setting is the best by what was told, or the baseline as long as nothing told is better than it.
    """
    runner = RACERS[racer](surface, seed=seed, folder=folder)
    noises = random.Random(f"noise/{seed}/{racer}/{surface.name}")
    compiled: set[tuple[int, ...]] = set()
    best_told, best_true, seconds = 0.0, 0.0, 0.0
    regrets = [surface.best]
    reached: tuple[int, float] | None = (0, 0.0) if surface.best <= within else None
    while len(regrets) <= most and (reached is None or len(regrets) <= least):
        flags = runner.ask()
        if flags is None:
            break
        point = surface.point(flags)
        key = surface.space.compile_key(surface.space.places_of(flags))
        seconds += point.warm_s if key in compiled else point.cold_s
        if point.value is not None or point.is_under_load:
            compiled.add(key)
        value = None if point.value is None else point.value + noises.gauss(0.0, noise)
        if value is not None and point.value is not None and value > best_told:
            best_told, best_true = value, point.value
        runner.tell(Launch(point=point, value=value))
        regrets.append(surface.best - best_true)
        if reached is None and regrets[-1] <= within + 1e-12:
            reached = len(regrets) - 1, seconds / 60
    return Race(
        surface=surface.name,
        racer=racer,
        seed=seed,
        launches=None if reached is None else reached[0],
        minutes=None if reached is None else reached[1],
        most=len(regrets) - 1,
        regrets=tuple(regrets),
        ends_at=best_true,
    )


def within_log(ratio: float) -> float:
    """A share of the optimum as a distance in logarithms: 2 % less is log(1/0.98)."""
    return -math.log(1 - ratio)


def repeats_of(flags: list[Flags]) -> int:
    """How many of these were asked before."""
    return len(flags) - len({key_of(one) for one in flags})
