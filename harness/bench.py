"""The measurement itself: one running engine, all its load levels, each cell written as it ends."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import config, engines, load, models, roofline, telemetry
from harness.engines import Engine
from harness.engines.running import HANG_S, hung
from harness.errors import EngineError, UsageError
from harness.progress import SIMULATED_TIME, Progress, Say
from harness.recording import Recording, recorded
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    LaunchSpec,
    Level,
    Load,
    LoadJob,
    LoadResult,
    ModelShape,
    OpenLoop,
    Record,
    Scenario,
)
from harness.report.text import cell_line
from harness.simulation import Machine, build, calibrate
from harness.stats import summary
from harness.stats.telemetry import standing_s
from harness.store import RunFolder

LAUNCH_GUESS_S = {"vllm": 60.0, "proxied": 61.0, "ollama": 5.0, "llamacpp": 3.0, "reference": 1.0, "simulated": 90.0}
LAUNCHES = 2
"""An engine that dies is started once more for the cells that are left; one that dies again has told what it is."""


# ---------------------------------------------------------------- what is launched


SIMULATED_NOTE = (
    "Simulated: no engine ran and no card was used. The figures are of a model of vLLM's scheduler on the data sheet "
    "of {title}, with noise of its own; they are no measurement."
)


class Part(Record, frozen=True, kw_only=True):
    """What is launched for some cells, and what they are called."""

    spec: LaunchSpec
    role: str
    block: int = 1
    title_suffix: str = ""
    """", tuned" or ", defaults" behind the engine's title."""
    stage: str = ""
    """Of the run, where its cells must not share prompts with those of another stage. Empty: it has one."""


def shape_of(model: str) -> ModelShape | None:
    """Of a model of the registry. None: a model that only its server knows."""
    try:
        return models.entry(model).shape
    except UsageError:
        return None


# ---------------------------------------------------------------- measuring


Drive = Callable[..., LoadResult]
"""`load.drive`, or what takes its place: the load may come from elsewhere."""


@contextmanager
def launched(
    part: Part,
    *,
    recording: Recording,
    progress: Progress,
    drive: Drive = load.drive,
    machine: Machine | None = None,
) -> Iterator["Bench"]:
    """The engine, started and ready, as something that measures; its facts are in run.json before it is used.

    Args:  machine: of a simulated engine, the same for all launches of a run: its clock and its compiled code stay.
    """
    spec, role = part.spec, part.role
    if spec.simulation is not None and not recording.run.is_simulated:
        mark_simulated(recording, title=spec.simulation.profile.title, progress=progress)
    log = recording.folder.path / f"engine-{role.replace(' ', '-')}-{spec.engine}.log"
    progress.note(f"{role}: asking {spec.url}" if spec.url else f"{role}: starting {spec.engine} (log: {log})")
    with engines.launched(spec, log=log, machine=machine) as engine:
        facts = engine.facts(role=role, precision=spec.precision, flags=spec.flags)
        facts = msgspec.structs.replace(
            facts, title=facts.title + part.title_suffix, block=part.block, is_synthetic=spec.is_synthetic
        )
        recording.add_engine(facts)
        if engine.is_simulated and not recording.run.is_simulated:
            mark_simulated(recording, title=simulated_title(engine.version), progress=progress)
        refuse_cpu_fallback(facts, has_gpu=recording.run.host.gpu is not None, log=log)
        progress.done(f"launch {spec.engine}", f"{role}: {facts.title} is ready after {engine.launch_s:.1f} s")
        yield Bench(engine, facts, spec=spec, recording=recording, progress=progress, drive=drive, stage=part.stage)


def simulated_title(version: str) -> str:
    """The card that a server simulates which calls itself so, and its pace where that is not ours."""
    card, speed = build.simulated_card(version) or "", build.simulated_speed(version)
    profile = config.gpu_profiles().get(card)
    pace = "" if speed == 1 else f", on a clock {speed:g} times as fast as ours"
    return (card if profile is None else profile.title) + pace


def mark_simulated(recording: Recording, *, title: str, progress: Progress) -> None:
    """The run is said to be simulated, with the simulation's error on what was recorded of real engines."""
    points = [*calibrate.recorded_points(), *calibrate.points_of_runs(recording.folder.path.parent)]
    accuracy = calibrate.accuracy(points, shape_of=shape_of)
    recording.update(is_simulated=True)
    recording.add_note(SIMULATED_NOTE.format(title=title))
    recording.add_note(f"Simulated: {accuracy.text.removeprefix('simulated; ')}.")
    progress.note(f"simulated on {title}: no engine runs")
    progress.note(accuracy.text)


def refuse_cpu_fallback(facts: EngineFacts, *, has_gpu: bool, log: Path) -> None:
    """Raises: EngineError where llama.cpp or Ollama runs on the CPU although there is a GPU; both do that silently."""
    if not has_gpu or not facts.argv:
        return
    if facts.engine == "llamacpp" and not facts.resolved.get("gpu-layers"):
        raise EngineError(
            "this build of llama.cpp runs on the CPU only, and this machine has a GPU: no fair baseline",
            hint="compare with Ollama itself: https://ollama.com/download, then --baseline ollama",
            log=log,
        )
    if facts.engine == "ollama" and facts.resolved.get("size-vram-bytes") != facts.resolved.get("size-bytes"):
        raise EngineError(
            f"Ollama put {facts.resolved.get('size-vram-bytes', 0)} of {facts.resolved.get('size-bytes')} bytes of the "
            "model on the GPU: no fair baseline",
            hint="install Ollama with its GPU libraries, or free the card's memory",
            log=log,
        )


class Work(Record, frozen=True, kw_only=True):
    """One cell that is to be measured."""

    scenario: Scenario
    level: Level
    repeat: int


def work_of(scenarios: Iterable[Scenario], *, repeats: int) -> list[Work]:
    """All cells of one launch, level by level."""
    return [
        Work(scenario=scenario, level=level, repeat=repeat)
        for scenario in scenarios
        for level in scenario.levels
        for repeat in range(1, repeats + 1)
    ]


def block(
    part: Part,
    work: Iterable[Work],
    *,
    recording: Recording,
    progress: Progress,
    drive: Drive = load.drive,
    machine: Machine | None = None,
) -> list[Cell]:
    """The cells of one launch; an engine that dies is launched once more for those that are left.

    Raises: EngineError: it could not be launched, died twice, or died and left nothing measured.
    """
    left, cells = list(work), list[Cell]()
    death: EngineError | None = None
    for _ in range(LAUNCHES):
        with launched(part, recording=recording, progress=progress, drive=drive, machine=machine) as bench:
            bench.work_off(left, into=cells)
        death = bench.death
        if death is None or not left:
            break
        progress.note(f"{part.role}: {death.message}")
        recording.add_note(f"{part.role}, block {part.block}: the engine died and was started again. {death.message}")
    if death is not None and (left or not any(cell.state == CellState.MEASURED for cell in cells)):
        raise death
    return cells


class Bench:
    """A running engine with the run that its cells go to."""

    def __init__(
        self,
        engine: Engine,
        facts: EngineFacts,
        *,
        spec: LaunchSpec,
        recording: Recording,
        progress: Progress,
        drive: Drive = load.drive,
        stage: str = "",
    ) -> None:
        self.engine, self.facts = engine, facts
        self.death: EngineError | None = None
        """What the engine died of. None: it lives, as far as the last cell knew."""
        self._spec, self._recording, self._progress, self._drive = spec, recording, progress, drive
        self._shape = shape_of(spec.model)
        self._purpose = f"{recording.run.kind} {stage}".rstrip()
        self._seen: set[tuple[str, Level]] = set()

    def measure(self, scenario: Scenario, *, repeats: int) -> list[Cell]:
        """All cells of a scenario. Raises: EngineError where the engine died; the cell in work is then FAILED."""
        cells: list[Cell] = []
        self.work_off(work_of([scenario], repeats=repeats), into=cells)
        if self.death is not None:
            raise self.death
        return cells

    def work_off(self, left: list[Work], *, into: list[Cell]) -> None:
        """Moves work from `left` to cells in `into`, until all is done or the engine has died."""
        while left and self.death is None:
            work = left.pop(0)
            into.append(self.cell(work.scenario, work.level, repeat=work.repeat))

    def cell(self, scenario: Scenario, level: Level, *, repeat: int) -> Cell:
        """Measures, writes and says one cell. What goes wrong in it is its state; `death` tells of the engine's end."""
        folder = self._recording.folder
        name = folder.free_name(
            f"{self.facts.role.replace(' ', '-')}-{scenario.name}-{level.name}-{self.facts.block}-{repeat}"
        )
        blank = Cell(
            engine=self.facts.engine,
            title=self.facts.title,
            role=self.facts.role,
            model=self._spec.model,
            scenario=scenario.name,
            users=level.users,
            rate_per_s=level.rate_per_s,
            block=self.facts.block,
            repeat=repeat,
            state=CellState.FAILED,
            requests_file=f"requests/{name}.jsonl",
            is_simulated=self.facts.is_simulated,
        )
        cell = self._measured(blank, scenario, level, name=name)
        self._seen.add((scenario.name, level))
        self._recording.add_cell(cell)
        self._progress.done(cell_step(self.facts.engine, scenario, level), cell_line(cell))
        return cell

    def _job(self, scenario: Scenario, level: Level, *, name: str, repeat: int) -> LoadJob:
        requests = self._recording.folder.path / "requests"
        return LoadJob(
            url=self.engine.url,
            api=self.engine.api,
            dialect=self.engine.dialect,
            model=self.engine.model,
            workload=scenario.workload,
            load=load_at(scenario.load, level),
            users=level.users,
            rate_per_s=level.rate_per_s,
            repeat=repeat,
            seed=cell_seed(
                self._recording.run.seed,
                purpose=self._purpose,
                scenario=scenario.name,
                level=level,
                block=self.facts.block,
                repeat=repeat,
            ),
            is_first=(scenario.name, level) not in self._seen,
            requests_path=str(requests / f"{name}.jsonl"),
            client_path=str(requests / f"{name}.client.json"),
        )

    def _measured(self, blank: Cell, scenario: Scenario, level: Level, *, name: str) -> Cell:
        """The cell with its figures, or FAILED with the reason that there are none."""
        folder, engine = self._recording.folder, self.engine
        job = self._job(scenario, level, name=name, repeat=blank.repeat)
        sampler = telemetry.Sampler(
            engine.pids, url=engine.metrics_url or engine.url, dialect=engine.metrics_dialect or engine.dialect
        )
        flags: tuple[str, ...] = ()
        try:
            if engine.drive is not None:
                result = engine.drive(job)
            else:
                with sampler:
                    result = self._drive(
                        job,
                        work=folder.path / "requests",
                        log=folder.path / "load.log",
                        check=lambda: check(engine, sampler),
                    )
        except EngineError as error:
            self.death = error
            return msgspec.structs.replace(blank, reasons=(error.message,))
        finally:
            if engine.drive is None:
                flags = written_flags(lambda: folder.write_telemetry(name, sampler.samples))
        found = summary.figures(
            result.records,
            load=job.load,
            level=level,
            health=result.health,
            trouble=result.trouble,
            samples=sampler.samples,
        )
        cell = msgspec.structs.replace(
            blank,
            **{field: getattr(found, field) for field in found.__struct_fields__},
            client=result.health,
        )
        cell = msgspec.structs.replace(cell, flags=(*cell.flags, *flags))
        return self._below_ceilings(cell, scenario, level)

    def _below_ceilings(self, cell: Cell, scenario: Scenario, level: Level) -> Cell:
        """The cell with what the card's data sheet allows; one that is better than that was measured wrongly."""
        if self.facts.is_simulated and self._spec.simulation is None:
            return cell  # a server that simulates another card than this machine's
        run = self._recording.run
        profile, card = config.gpu_profiles().get(run.gpu), run.host.gpu
        if self._spec.simulation is not None:
            profile = self._spec.simulation.profile
            card = next(iter(profile.nvml_names), None)
        ceilings = roofline.ceilings_for(
            self._spec,
            scenario,
            level,
            profile=profile,
            card=card,
            shape=self._shape,
            slots=self.facts.slots,
            prompt_tokens=cell.prompt_tokens_mean,
            output_tokens=cell.output_tokens_mean,
            clock_hz=None if cell.telemetry is None else cell.telemetry.gpu_clock_max_hz,
        )
        cell = msgspec.structs.replace(cell, ceilings=ceilings)
        reasons = summary.above_ceiling(cell, ceilings)
        if not reasons or cell.state == CellState.FAILED:
            return cell
        return msgspec.structs.replace(cell, state=CellState.INVALID, reasons=(*cell.reasons, *reasons))


def check(engine: Engine, sampler: telemetry.Sampler) -> None:
    """Nothing, while the engine lives and goes on. Raises: EngineError; EngineHung: it stands still."""
    engine.check()
    if (engine.metrics_dialect or engine.dialect) != "vllm":
        return  # llama.cpp counts an answer when it has ended, Ollama counts nothing
    standing = standing_s(sampler.samples)
    if standing > HANG_S:
        raise hung(engine.title, standing, log=engine.log)


def load_at(plan: Load, level: Level) -> Load:
    """A closed loop with what each of so many users must end, for the level to have `min_requests` in all."""
    if not isinstance(plan, ClosedLoop):
        return plan
    each = max(plan.requests_per_user, -(-plan.min_requests // level.users))
    return msgspec.structs.replace(plan, requests_per_user=each)


def cell_seed(seed: int, *, purpose: str, scenario: str, level: Level, block: int, repeat: int) -> int:
    """The same prompts for every engine and trial, other ones for every purpose, scenario, level, block and repeat.

    Args:  purpose: kind of the run, and the stage of it. A winner is so judged on other prompts than chosen by.
    """
    mixed = seed
    for part in (block, repeat, *f"{purpose} {scenario} {level.name}".encode()):
        mixed = (mixed * 1_000_003 + part) % 2**31
    return mixed


def written_flags(write: Callable[[], None]) -> tuple[str, ...]:
    """Does it; what a reader must know where the disk did not take the samples, which are in no figure's way."""
    try:
        write()
    except OSError as error:
        return (f"the samples of the machine could not be written: {error.strerror or error}",)
    return ()


# ---------------------------------------------------------------- what is to come, for the time left


def cell_step(engine: str, scenario: Scenario, level: Level) -> str:
    """Kind of a step whose time is alike from repeat to repeat."""
    return f"{engine} {scenario.name} {level.name}"


def held_s(plan: Load) -> float:
    """Seconds that a cell of this load takes at least."""
    match plan:
        case ClosedLoop(min_s=min_s):
            return min_s + 2.0
        case OpenLoop(duration_s=duration_s, warmup_s=warmup_s):
            return duration_s + warmup_s + 2.0
        case _:
            return 60.0


def planned_steps(
    engine: str, scenarios: Iterable[Scenario], *, repeats: int, launch_s: float | None = None
) -> list[tuple[str, float]]:
    """(kind, expected seconds) of a launch and all its cells."""
    steps = [(f"launch {engine}", LAUNCH_GUESS_S.get(engine, 60.0) if launch_s is None else launch_s)]
    for scenario in scenarios:
        for level in scenario.levels:
            steps += [(cell_step(engine, scenario, level), held_s(scenario.load))] * repeats
    return steps


def run(
    spec: LaunchSpec,
    scenario: Scenario,
    *,
    repeats: int,
    results: Path,
    gpu: str,
    seed: int,
    say: Say,
    drive: Drive = load.drive,
    notes: Iterable[str] = (),
) -> tuple[RunFolder, list[Cell]]:
    """`harness bench`: one engine, one scenario.

    Args:   notes: what a reader of the run must know.
    Raises: EngineError.
    """
    machine = None if spec.simulation is None else Machine(spec.simulation)
    now = time.monotonic if machine is None else machine.clock
    of = "" if machine is None else SIMULATED_TIME
    progress = Progress(planned_steps(spec.engine, [scenario], repeats=repeats), say=say, now=now, of=of)
    with recorded(
        results=results, kind="bench", model=spec.model, gpu=gpu, seed=seed, scenarios=[scenario]
    ) as recording:
        for note in notes:
            recording.add_note(note)
        cells = block(
            Part(spec=spec, role="bench"),
            work_of([scenario], repeats=repeats),
            recording=recording,
            progress=progress,
            drive=drive,
            machine=machine,
        )
    return recording.folder, cells
