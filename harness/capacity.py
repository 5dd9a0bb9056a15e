"""`harness capacity`: the largest load under which an engine keeps its objectives of service."""

import math
from pathlib import Path

import msgspec

from harness import bench, store
from harness.bench import Bench, Part, held_s
from harness.progress import Progress, Say
from harness.recording import Recording, recorded
from harness.records import (
    CapacityStep,
    Cell,
    ClosedLoop,
    LaunchSpec,
    Level,
    Load,
    OpenLoop,
    Record,
    RequestRecord,
    Scenario,
    Slo,
)
from harness.stats import capacity, goodput
from harness.stats.slo import needed_requests
from harness.store import RunFolder

SPARE_RATIO = 1.5
"""So many times the requests that would show an objective if all kept it: some do not."""


class Plan(Record, frozen=True, kw_only=True):
    """All that the search needs to know; made once by the command line."""

    spec: LaunchSpec
    gpu: str
    scenario: Scenario
    """A closed loop is searched in users, an open one in requests per second; its own levels do not matter."""
    slos: tuple[Slo, ...]
    smallest: float
    largest: float
    resolution_ratio: float
    seed: int
    notes: tuple[str, ...] = ()
    """What a reader of the run must know."""

    @property
    def unit(self) -> capacity.Unit:
        """What the levels are counted in."""
        return "users" if isinstance(self.scenario.load, ClosedLoop) else "requests/s"


def run(plan: Plan, *, results: Path, say: Say) -> RunFolder:
    """Launches the engine once and measures level after level. Raises: EngineError."""
    progress = Progress([(f"launch {plan.spec.engine}", bench.LAUNCH_GUESS_S.get(plan.spec.engine, 60.0))], say=say)
    with recorded(
        results=results, kind="capacity", model=plan.spec.model, gpu=plan.gpu, seed=plan.seed, scenarios=[plan.scenario]
    ) as recording:
        for note in plan.notes:
            recording.add_note(note)
        part = Part(spec=plan.spec, role="bench")
        with bench.launched(part, recording=recording, progress=progress) as running:
            search(plan, running, recording=recording, progress=progress)
            if running.death is not None:
                raise running.death
    return recording.folder


def search(plan: Plan, running: Bench, *, recording: Recording, progress: Progress) -> None:
    """Measures until the search ends or the engine dies; run.json tells after each level what is known by then."""
    steps: list[CapacityStep] = []
    measured: list[Scenario] = []
    limits = {"unit": plan.unit, "largest": plan.largest, "resolution_ratio": plan.resolution_ratio}
    while running.death is None:
        number = capacity.next_level(steps, smallest=plan.smallest, **limits)  # type: ignore[arg-type]
        if number is None:
            return
        level = Level(users=int(number)) if plan.unit == "users" else Level(rate_per_s=number)
        scenario = enough(plan.scenario, level, plan.slos)
        unit = plan.unit.removesuffix("s") if level.users == 1 else plan.unit
        progress.note(f"next: {level.name} {unit}, at least {held_s(scenario.load):.0f} s")
        cell = running.cell(scenario, level, repeat=sum(step.level == number for step in steps) + 1)
        steps.append(step_of(cell, scenario.load, level, slos=plan.slos, folder=recording.folder, earlier=steps))
        measured.append(scenario)
        recording.update(
            capacity=capacity.capacity(steps, slos=plan.slos, **limits),  # type: ignore[arg-type]
            scenarios=(plan.scenario.at(dict.fromkeys(known for one in measured for known in one.levels)),),
        )


def step_of(
    cell: Cell, load: Load, level: Level, *, slos: tuple[Slo, ...], folder: RunFolder, earlier: list[CapacityStep]
) -> CapacityStep:
    """What one cell says of its level."""
    return goodput.step(
        cell,
        store.lines(folder.path / cell.requests_file, RequestRecord),
        load=bench.load_at(load, level),
        level=level,
        health=cell.client,
        slos=slos,
        earlier=earlier,
    )


def enough(scenario: Scenario, level: Level, slos: tuple[Slo, ...]) -> Scenario:
    """The scenario at one level, held for as many requests as its objectives need to be shown."""
    requests = math.ceil(SPARE_RATIO * max(needed_requests(one) for one in slos))
    load = scenario.load
    match load:
        case ClosedLoop():
            load = msgspec.structs.replace(load, min_requests=max(load.min_requests, requests))
        case OpenLoop():
            assert level.rate_per_s is not None
            load = msgspec.structs.replace(load, duration_s=max(load.duration_s, requests / level.rate_per_s))
    return msgspec.structs.replace(scenario, load=load).at([level])
