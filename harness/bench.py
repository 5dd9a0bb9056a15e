"""The measurement itself: one running engine, all its load levels, each cell written as it ends."""

import contextlib
import datetime
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import __version__, engines, load, telemetry
from harness.engines import Engine
from harness.errors import EngineError, HarnessError
from harness.progress import Progress, Say
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    Flags,
    LaunchSpec,
    LoadJob,
    ModelFiles,
    Run,
    RunState,
    Scenario,
)
from harness.report.text import cell_line
from harness.stats import summary
from harness.store import RESULTS_VERSION, RunFolder, new_run_id

USERS_PER_LOAD_PROCESS = 100
LAUNCH_GUESS_S = {"vllm": 60.0, "ollama": 5.0, "llamacpp": 3.0, "reference": 1.0}


# ---------------------------------------------------------------- a run's folder, from start to end


@contextmanager
def recorded(
    *, results: Path, kind: str, model: str, gpu: str, seed: int, scenarios: Sequence[Scenario], objective: str = ""
) -> Iterator["Recording"]:
    """A new run folder whose run.json says RUNNING, and at the end how it ended, whatever ended it."""
    now = datetime.datetime.now(datetime.UTC)
    run_id = new_run_id(results, kind=kind, model=model, gpu=gpu, stamp=now.strftime("%Y%m%dT%H%M%SZ"))
    folder = RunFolder(results / run_id).create()
    run = Run(
        version=RESULTS_VERSION,
        id=run_id,
        command=shlex.join(["harness", *sys.argv[1:]]),
        kind=kind,
        state=RunState.RUNNING,
        started_utc=now.isoformat(timespec="seconds"),
        harness_version=__version__,
        host=telemetry.host(),
        gpu=gpu,
        model=model,
        seed=seed,
        scenarios=tuple(scenarios),
        objective=objective,
    )
    with kept(Recording(folder, run)) as recording:
        recording.add_note(telemetry.strangers_note())
        yield recording


class Recording:
    """A run and its folder; `update` changes the record and writes it at once."""

    def __init__(self, folder: RunFolder, run: Run) -> None:
        self.folder, self.run = folder, run

    def update(self, **changes: object) -> None:
        """Changes fields of run.json."""
        self.run = msgspec.structs.replace(self.run, **changes)
        self.folder.write_run(self.run)

    def add_engine(self, facts: EngineFacts) -> None:
        """One more server of this run; a role that is there already is replaced."""
        others = tuple(known for known in self.run.engines if known.role != facts.role)
        self.update(engines=(*others, facts))

    def add_note(self, text: str) -> None:
        """Something a reader of the figures must know; said once."""
        if text and text not in self.run.notes:
            self.update(notes=(*self.run.notes, text))


@contextmanager
def kept(recording: Recording) -> Iterator[Recording]:
    """run.json tells how the run ended, whatever ended it."""
    with recording.folder.locked():
        recording.update(state=RunState.RUNNING, error="", ended_utc=None)
        try:
            yield recording
        except BaseException as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            message = error.message if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # a full disk may be what ended the run
                recording.update(
                    state=RunState.INTERRUPTED if is_interrupt else RunState.FAILED,
                    ended_utc=utc_now(),
                    error="" if is_interrupt else message,
                )
            raise
        recording.update(state=RunState.DONE, ended_utc=utc_now())


def utc_now() -> str:
    """Wall clock for people, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# ---------------------------------------------------------------- what to launch


def launch_spec(
    engine: str,
    files: ModelFiles,
    *,
    flags: Flags | None = None,
    env: Mapping[str, str] | None = None,
    program: str | None = None,
    slots: int = 1,
) -> LaunchSpec:
    """How to start `engine` with the model that lies in `files`; vLLM and the others want different files."""
    source, precision = {
        "vllm": (files.vllm_source, files.vllm_precision),
        "ollama": (files.gguf_path or files.ollama_tag, files.gguf_precision),
        "llamacpp": (files.gguf_path, files.gguf_precision),
        "reference": ("", ""),
    }[engine]
    if source is None:
        raise EngineError(
            f"{engine} has no file of {files.model} on this machine",
            hint=f"run: harness models fetch {files.model}",
        )
    return LaunchSpec(
        engine=engine,
        model=files.model,
        source=source,
        precision=precision,
        flags=flags or {},
        env=dict(env or {}),
        program=program,
        slots=slots,
    )


# ---------------------------------------------------------------- measuring


@contextmanager
def launched(
    spec: LaunchSpec, *, recording: Recording, role: str, title_suffix: str = "", progress: Progress
) -> Iterator["Bench"]:
    """The engine, started and ready, as something that measures; its facts are in run.json before it is used."""
    log = recording.folder.path / f"engine-{role.replace(' ', '-')}-{spec.engine}.log"
    progress.note(f"{role}: asking {spec.url}" if spec.url else f"{role}: starting {spec.engine} (log: {log})")
    with engines.launched(spec, log=log) as engine:
        facts = engine.facts(role=role, precision=spec.precision, flags=spec.flags)
        facts = msgspec.structs.replace(facts, title=facts.title + title_suffix)
        recording.add_engine(facts)
        refuse_cpu_fallback(facts, has_gpu=recording.run.host.gpu is not None, log=log)
        progress.done(f"launch {spec.engine}", f"{role}: {facts.title} is ready after {engine.launch_s:.1f} s")
        yield Bench(engine, facts, spec=spec, recording=recording, progress=progress)


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


class Bench:
    """A running engine with the run that its cells go to."""

    def __init__(
        self, engine: Engine, facts: EngineFacts, *, spec: LaunchSpec, recording: Recording, progress: Progress
    ) -> None:
        self.engine, self.facts = engine, facts
        self._spec, self._recording, self._progress = spec, recording, progress

    def measure(self, scenario: Scenario, *, users: Sequence[int], repeats: int) -> list[Cell]:
        """All cells of a scenario; the first repeat of each level is preceded by its warm-up.

        Raises: EngineCrashed where the engine died; the cell in work is then written as FAILED.
        """
        return [
            self.cell(scenario, users=level, repeat=repeat, has_warmup=repeat == 1)
            for level in users
            for repeat in range(1, repeats + 1)
        ]

    def cell(self, scenario: Scenario, *, users: int, repeat: int, has_warmup: bool) -> Cell:
        """Measures, writes and says one cell."""
        folder = self._recording.folder
        name = folder.free_name(f"{self.facts.role.replace(' ', '-')}-{scenario.name}-{users}-{repeat}")
        requests_file = f"requests/{name}.jsonl"
        job = LoadJob(
            url=self.engine.url,
            api=self.engine.api,
            dialect=self.engine.dialect,
            model=self.engine.model,
            workload=scenario.workload,
            load=load_at(scenario.load, users),
            users=users,
            repeat=repeat,
            seed=cell_seed(self._recording.run.seed, users=users, repeat=repeat, scenario=scenario.name),
            has_warmup=has_warmup,
            requests_path=str(folder.path / requests_file),
            client_path=str(folder.path / "requests" / f"{name}.client.json"),
        )
        cell = Cell(
            engine=self.facts.engine,
            title=self.facts.title,
            role=self.facts.role,
            model=self._spec.model,
            scenario=scenario.name,
            users=users,
            repeat=repeat,
            state=CellState.FAILED,
            requests_file=requests_file,
        )
        sampler = telemetry.Sampler(self.engine.pid)
        try:
            with sampler:
                result = load.drive(
                    job,
                    work=folder.path / "requests",
                    log=folder.path / "load.log",
                    processes=-(-users // USERS_PER_LOAD_PROCESS),
                    check=self.engine.check,
                )
        except HarnessError as error:
            folder.append_cell(msgspec.structs.replace(cell, reasons=(error.message,)))
            raise
        finally:
            folder.write_telemetry(name, sampler.samples)
        found = summary.figures(result.records, health=result.health, users=users)
        memory = [s.gpu_memory_bytes for s in sampler.samples if s.gpu_memory_bytes is not None]
        cell = msgspec.structs.replace(
            cell,
            **{field: getattr(found, field) for field in found.__struct_fields__},
            client=result.health,
            engine_rss_peak_bytes=max((s.engine_rss_bytes for s in sampler.samples), default=0) or None,
            gpu_memory_peak_bytes=max(memory, default=None),
        )
        folder.append_cell(cell)
        self._progress.done(cell_step(self.facts.engine, scenario, users), cell_line(cell))
        return cell


def load_at(load_plan: ClosedLoop, users: int) -> ClosedLoop:
    """The loop with what each of so many users must end, for the level to have `min_requests` in all."""
    each = max(load_plan.requests_per_user, -(-load_plan.min_requests // users))
    return msgspec.structs.replace(load_plan, requests_per_user=each)


def cell_seed(seed: int, *, users: int, repeat: int, scenario: str) -> int:
    """The same prompts for every engine and trial, other ones for every level, repeat and scenario."""
    mixed = seed
    for part in (users, repeat, *scenario.encode()):
        mixed = (mixed * 1_000_003 + part) % 2**31
    return mixed


# ---------------------------------------------------------------- what is to come, for the time left


def cell_step(engine: str, scenario: Scenario, users: int) -> str:
    """Kind of a step whose time is alike from repeat to repeat."""
    return f"{engine} {scenario.name} {users}"


def planned_steps(
    engine: str, scenarios: Mapping[str, tuple[Scenario, Sequence[int]]], *, repeats: int, launch_s: float | None = None
) -> list[tuple[str, float]]:
    """(kind, expected seconds) of a launch and all its cells."""
    steps = [(f"launch {engine}", LAUNCH_GUESS_S.get(engine, 60.0) if launch_s is None else launch_s)]
    for scenario, users in scenarios.values():
        for level in users:
            steps += [(cell_step(engine, scenario, level), scenario.load.min_s + 2.0)] * repeats
    return steps


def run(
    spec: LaunchSpec,
    scenario: Scenario,
    *,
    users: Sequence[int],
    repeats: int,
    results: Path,
    gpu: str,
    seed: int,
    say: Say,
) -> tuple[RunFolder, list[Cell]]:
    """`harness bench`: one engine, one scenario."""
    progress = Progress(planned_steps(spec.engine, {scenario.name: (scenario, users)}, repeats=repeats), say=say)
    with (
        recorded(
            results=results, kind="bench", model=spec.model, gpu=gpu, seed=seed, scenarios=[scenario]
        ) as recording,
        launched(spec, recording=recording, role="bench", progress=progress) as bench,
    ):
        cells = bench.measure(scenario, users=users, repeats=repeats)
    return recording.folder, cells
