"""Worlds for studies that launch nothing: a clock of their own, engines whose true speed is known, a search by list."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from harness import config, models
from harness.bench import Part
from harness.errors import EngineError
from harness.recording import Recording
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    Estimate,
    Flags,
    Host,
    Ladder,
    Level,
    ModelFiles,
    Run,
    RunState,
    Scenario,
    Trial,
    Workload,
)
from harness.search import Candidate, Exhausted
from harness.store import RESULTS_VERSION, RunFolder
from harness.tune.plan import Plan, write_plan
from harness.tune.study import Study
from harness.tune.world import World

USERS = (1, 10, 100)
SCENARIO = Scenario(
    name="small",
    title="",
    workload=Workload(prompt_words=100, output_tokens=128, is_streamed=True),
    load=ClosedLoop(users=USERS, requests_per_user=3, min_s=20, max_s=300),
)
LAUNCH_S = 100.0
CELL_S = 22.0


class Killed(BaseException):
    """kill −9, as near as a test can come: nothing catches it."""


def plan(**changes: Any) -> Plan:
    known: dict[str, Any] = {
        "profile": config.gpu_profile("rtx4090"),
        "model": models.entry("qwen2.5-1.5b"),
        "files": ModelFiles(model="qwen2.5-1.5b", vllm_source="somewhere/qwen", vllm_precision="bf16"),
        "scenario": SCENARIO,
        "users": USERS,
        "repeats": 3,
        "objective": "balanced",
        "trials": 4,
        "budget_s": None,
        "vllm_python": None,
        "seed": 1,
    }
    return Plan(**{**known, **changes})


def recording_of(asked: Plan, folder: Path) -> Recording:
    """A run folder without looking at the machine."""
    run = Run(
        version=RESULTS_VERSION, id=folder.name, command="", kind="tune", state=RunState.RUNNING, started_utc="",
        harness_version="", host=Host(cpu="c", cores=2, memory_bytes=1, os="", python=""), gpu=asked.profile.name,
        model=asked.model.name, seed=asked.seed,
    )  # fmt: skip
    made = RunFolder(folder).create()
    write_plan(asked, made)
    made.write_run(run)
    return Recording(made, run)


Truth = Callable[[Flags, int], float]
"""Output tokens per second of these flags under so many users."""


def like_all(flags: Flags, users: int) -> float:
    """No settings matter."""
    return 300.0 * users**0.8


class Search:
    """Gives out a list, as `search.Search` gives out a space."""

    def __init__(self, listed: Sequence[Flags]) -> None:
        self.listed, self.given = list(listed), list[Flags]()
        self.told: list[tuple[tuple[float, ...] | None, dict[str, float]]] = []
        self.learned: list[Trial] = []
        self.returned: list[int] = []

    @property
    def ladders(self) -> tuple[Ladder, ...]:
        return tuple(Ladder(flag=flag, steps=(None, value)) for flags in self.listed for flag, value in flags.items())

    def remember(self, trials: Sequence[Trial]) -> None:
        self.given += [trial.flags for trial in trials if trial.number]

    def ask(self) -> Candidate:
        for flags in self.listed:
            if flags not in self.given:
                self.given.append(flags)
                return Candidate(ticket=len(self.given), flags=flags, origin="list")
        raise Exhausted

    def tell(self, ticket: int, values: tuple[float, ...] | None, *, constraints: dict[str, float]) -> None:
        self.told.append((values, constraints))

    def give_back(self, ticket: int) -> None:
        self.returned.append(ticket)

    def learn(self, trial: Trial) -> None:
        self.learned.append(trial)

    def given_up(self) -> list[Flags]:
        return []


class FakeEngines:
    """Launches and measures on a clock of its own, with noise of launches and of repeats.

    Args:  truth: of each setting. fails: the error that a launch ends with, by flags and how many launches there were;
           None: it starts. dies: the same under a load. spoils: why its cell counts for nothing, the same way.
    """

    def __init__(
        self,
        truth: Truth = like_all,
        *,
        seed: int = 1,
        launch_noise: float = 0.01,
        repeat_noise: float = 0.01,
        launch_s: float = LAUNCH_S,
        fails: Callable[[Flags, int], BaseException | None] = lambda flags, launches: None,
        dies: Callable[[Flags, int], EngineError | None] = lambda flags, users: None,
        spoils: Callable[[Flags, int], tuple[str, ...]] = lambda flags, users: (),
    ) -> None:
        self.truth, self.seed, self.launch_s = truth, seed, launch_s
        self.launch_noise, self.repeat_noise = launch_noise, repeat_noise
        self.fails, self.dies, self.spoils = fails, dies, spoils
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.launches: list[tuple[str, int]] = []
        self.parts: list[Part] = []

    def clock(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    @contextmanager
    def launch(self, part: Part, *, recording: Recording, progress: Any) -> Iterator[Any]:
        flags = part.spec.flags
        self.launches.append((part.role, part.block))
        self.parts.append(part)
        self.now_s += self.launch_s
        if (error := self.fails(flags, len(self.launches))) is not None:
            raise error
        facts = EngineFacts(
            role=part.role, engine="vllm", title="vLLM", version="0.32.0", precision="bf16", block=part.block,
            launch_s=self.launch_s, log="engine.log", flags=flags,
        )  # fmt: skip
        recording.add_engine(facts)
        yield Running(self, part, facts, recording)
        self.now_s += 2.0


class Running:
    """One launched engine."""

    def __init__(self, engines: FakeEngines, part: Part, facts: EngineFacts, recording: Recording) -> None:
        self.engines, self.part, self.facts, self._recording = engines, part, facts, recording
        self.engine = SimpleNamespace(part=part)
        self.death: EngineError | None = None
        self._launch = random.Random(f"{engines.seed}/{part.role}/{part.block}").gauss(0.0, engines.launch_noise)

    def cell(self, scenario: Scenario, level: Level, *, repeat: int) -> Cell:
        engines, part = self.engines, self.part
        engines.now_s += CELL_S
        self.death = engines.dies(part.spec.flags, level.users)
        cell = Cell(
            engine="vllm", title="vLLM", role=part.role, model="m", scenario=scenario.name, users=level.users,
            block=part.block, repeat=repeat, state=CellState.FAILED, requests_file=f"requests/{part.role}",
            reasons=engines.spoils(part.spec.flags, level.users),
        )  # fmt: skip
        if self.death is None and not cell.reasons:
            draws = random.Random(f"{engines.seed}/{part.role}/{part.block}/{level.users}/{repeat}")
            factor = math.exp(self._launch + draws.gauss(0.0, engines.repeat_noise))
            tok_s = engines.truth(part.spec.flags, level.users) * factor
            cell = msgspec.structs.replace(
                cell,
                state=CellState.MEASURED,
                output_tok_s=figure(tok_s, "tok/s"),
                e2e_s={"p50": figure(128 * level.users / tok_s, "s")},
                requests=300,
                prompt_tokens_mean=130.0,
                output_tokens_mean=128.0,
            )
        self._recording.add_cell(cell)
        return cell


def figure(value: float, unit: str) -> Estimate:
    return Estimate(value=value, low=value, high=value, confidence=0.95, n=10, unit=unit)


def study(
    asked: Plan,
    folder: Path,
    engines: FakeEngines,
    listed: Sequence[Flags],
    *,
    ask: Any = None,
    recording: Recording | None = None,
) -> tuple[Study, Search, list[str]]:
    """A study in this world; what it says is in the list."""
    search, said = Search(listed), list[str]()
    world = World(
        clock=engines.clock, pause=engines.pause, launch=engines.launch, ask=ask, make_search=lambda *a, **k: search
    )
    kept = recording or recording_of(asked, folder)
    return Study(asked, kept, say=said.append, world=world), search, said


def reopened(folder: Path) -> Recording:
    """The recording of a study that goes on."""
    found = RunFolder(folder)
    return Recording(found, found.run())
