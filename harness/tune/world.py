"""What a study is carried out in: this machine, or one that is not there."""

import functools
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import msgspec

from harness import bench
from harness.records import Estimate, Flags, Ladder, Trial
from harness.search import Candidate
from harness.simulation import Machine
from harness.store import RunFolder
from harness.tune import quality
from harness.tune.launches import Clock, Launch
from harness.tune.plan import Plan, spec_for
from harness.tune.quality import Ask
from harness.tune.start import search_for


class SearchLike(Protocol):
    """What a study asks of `search.Search`."""

    @property
    def ladders(self) -> tuple[Ladder, ...]:
        """Among what it looks."""
        ...

    def remember(self, trials: Iterable[Trial]) -> None:
        """What was tried before."""
        ...

    def ask(self, *, most: int | None = None) -> Candidate:
        """Raises: Exhausted."""
        ...

    def tell(self, ticket: int, values: tuple[float, ...] | None, *, constraints: dict[str, float]) -> None:
        """What came of it."""
        ...

    def give_back(self, ticket: int) -> None:
        """It was interrupted."""
        ...

    def learn(self, trial: Trial) -> None:
        """Cuts from how it ended."""
        ...

    def take_back(self, worker: str, *, measured: Mapping[str, tuple[float, ...] | None]) -> None:
        """What a worker that died had in hand."""
        ...

    def given_up(self) -> list[Flags]:
        """What killed whoever measured it, twice."""
        ...

    def publish(self, measured: Mapping[str, tuple[float, ...] | None], flags_of: Mapping[str, Flags]) -> None:
        """What this run measured, for the others."""
        ...

    def best_elsewhere(self, worker: str, *, refuted: Collection[str] = ()) -> tuple[float, str] | None:
        """What another run was told, and who it is."""
        ...

    def tell_defended(self, worker: str, ratio: Estimate | None) -> None:
        """What this run's defence came to."""
        ...

    def defended(self) -> dict[str, Estimate | None]:
        """What those of all runs did."""
        ...


MakeSearch = Callable[..., SearchLike]
"""`start.search_for`, or what takes its place."""


class World:
    """What a study is carried out in: its clock, its pauses, its engines.

    Args:  clock: seconds. pause: waits. launch: as `bench.launched`. ask: answers of an engine to the fixed questions;
           None: it gives none. make_search: as `start.search_for`. storage: URL of the database that keeps the search,
           with its password. None: the run folder does.
    """

    def __init__(
        self,
        *,
        clock: Clock = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        launch: Launch = bench.launched,
        ask: Ask | None = quality.answers,
        make_search: MakeSearch = search_for,
        storage: str | None = None,
    ) -> None:
        self.storage = storage
        self.clock, self.pause, self.launch, self.ask, self.make_search = clock, pause, launch, ask, make_search


def world_of(plan: Plan, folder: RunFolder, *, storage: str | None = None, worker: int | None = None) -> World:
    """This machine, or for a simulated study one that is not there, whose time goes on where the study had come to.

    Args:  worker: of several. None: the one that starts them, or that is alone.
    """
    make_search = functools.partial(search_for, storage=storage, worker=worker)
    if not plan.is_simulated:
        return World(make_search=make_search, storage=storage)
    simulation = spec_for(plan, {}).simulation
    assert simulation is not None
    launches = len(folder.trials()) + len(folder.defence())
    draws = msgspec.structs.replace(simulation, seed=plan.seed * 1009 + launches + (worker or 0) * 7919)
    machine = Machine(draws, now_s=spent_before_s(folder))

    def pause(seconds: float) -> None:
        machine.now_s += seconds

    return World(
        clock=machine.clock,
        pause=pause,
        launch=functools.partial(bench.launched, machine=machine),
        ask=None,
        make_search=make_search,
        storage=storage,
    )


def spent_before_s(folder: RunFolder) -> float:
    """Seconds of all launches that came to their end; of workers at the same time, those of the longest at work."""
    by_worker: dict[int | None, float] = {}
    for trial in folder.trials():
        by_worker[trial.worker] = by_worker.get(trial.worker, 0.0) + trial.wall_s
    alone_s = by_worker.pop(None, 0.0)
    return alone_s + max(by_worker.values(), default=0.0) + sum(one.wall_s for one in folder.defence())
