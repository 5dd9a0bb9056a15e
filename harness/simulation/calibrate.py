"""How far the simulation is off: its tokens per second beside those that real engines gave.

The recorded points are those of `recorded/*.toml`, and the cells of measured runs in a results folder whose card, model
and flags can be simulated. The constants of `timing` were fitted to the former; on the latter the error is one of
foretelling.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from harness import config, store
from harness.errors import ResultsUnreadable
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    EngineFacts,
    Flags,
    GpuProfile,
    LoadJob,
    LoadResult,
    ModelShape,
    Record,
    Run,
    Simulation,
    Workload,
)
from harness.simulation.drive import drive
from harness.simulation.machine import Crashed, Machine
from harness.simulation.settings import Refused

RECORDED: Final = Path(__file__).with_name("recorded")
HELD_S: Final = 3.0
"""Virtual seconds that each point is measured for."""

LEFT_OUT: Final = (
    "four constants were fitted to them, and the points of a launch that was left out of the fit are off by 7 to 13% "
    "(median), 21% at worst"
)
"""Each of the three recorded launches left out once, and the constants fitted to the other two."""

ShapeOf = Callable[[str], ModelShape | None]


class Point(Record, frozen=True, kw_only=True):
    """What one engine gave under one load."""

    gpu: str
    model: str
    precision: str
    flags: Flags
    workload: Workload
    users: int
    output_tok_s: float
    source: str
    is_fitted: bool = False
    """The constants of `timing` were fitted to it."""


class PointError(Record, frozen=True, kw_only=True):
    """A recorded point and what the simulation says of it."""

    point: Point
    simulated_tok_s: float

    @property
    def error_ratio(self) -> float:
        """Over 0: the simulation is too fast."""
        return self.simulated_tok_s / self.point.output_tok_s - 1


class Accuracy(Record, frozen=True, kw_only=True):
    """The errors on all points that could be simulated."""

    errors: tuple[PointError, ...]
    left_out: int = 0
    """Points whose settings are not modelled."""

    @property
    def median_ratio(self) -> float:
        """Half of the points are nearer than this."""
        return statistics.median(abs(one.error_ratio) for one in self.errors)

    @property
    def worst(self) -> PointError:
        """The point that is farthest off."""
        return max(self.errors, key=lambda one: abs(one.error_ratio))

    @property
    def text(self) -> str:
        """For people: one sentence."""
        if not self.errors:
            return "simulated; there is no recorded run to say by how much its figures are wrong"
        sources = ", ".join(dict.fromkeys(one.point.source for one in self.errors))
        worst, count = self.worst, len(self.errors)
        fitted = f"; {LEFT_OUT}" if any(one.point.is_fitted for one in self.errors) else ""
        return (
            f"simulated; on {count} recorded points its tok/s are within {self.median_ratio:.0%} (median) of what was "
            f"measured, worst {worst.error_ratio:+.0%} (at {worst.point.users} users with "
            f"{flags_text(worst.point.flags)}). Recorded: {sources}{fitted}. On any other card or model the error is "
            "not known"
        )


def flags_text(flags: Flags) -> str:
    """ "max-num-seqs 8", or that there were none."""
    return ", ".join(f"{name} {value}" for name, value in flags.items()) or "vLLM's defaults"


# ---------------------------------------------------------------- points


def recorded_points(folder: Path = RECORDED) -> Iterator[Point]:
    """Those that come with the harness."""
    for path in sorted(folder.glob("*.toml")):
        raw: dict[str, Any] = config.read_toml(path)
        workload = Workload(prompt_words=raw["prompt_words"], output_tokens=raw["output_tokens"], is_streamed=True)
        for launch in raw["launches"]:
            for users, tok_s in launch["output_tok_s"].items():
                yield Point(
                    gpu=raw["gpu"],
                    model=raw["model"],
                    precision=raw["precision"],
                    flags=launch["flags"],
                    workload=workload,
                    users=int(users),
                    output_tok_s=float(tok_s),
                    source=raw["source"],
                    is_fitted=True,
                )


def points_of_runs(results: Path) -> Iterator[Point]:
    """Measured closed loops of real vLLMs on known cards; the mean over the repeats of a launch."""
    for path in sorted(results.glob("*/run.json")):
        folder = store.RunFolder(path.parent)
        try:
            run, cells = folder.run(), folder.cells()
        except ResultsUnreadable:
            continue  # another version's: it is no point, and reading runs is not what is asked for here
        if not run.is_simulated and run.host.gpu is not None:  # a CPU has no roofline to simulate it by
            yield from points_of_run(run, cells)


def points_of_run(run: Run, cells: Sequence[Cell]) -> Iterator[Point]:
    """One point for each launch, scenario and number of users."""
    workloads = {one.name: one.workload for one in run.scenarios if isinstance(one.load, ClosedLoop)}
    for facts in run.engines:
        if facts.engine != "vllm" or facts.is_simulated:
            continue
        groups: dict[tuple[str, int], list[float]] = {}
        for cell in cells:
            is_mine = (cell.role, cell.block) == (facts.role, facts.block) and cell.scenario in workloads
            if is_mine and cell.state == CellState.MEASURED and cell.output_tok_s is not None and cell.users:
                groups.setdefault((cell.scenario, cell.users), []).append(cell.output_tok_s.value)
        for (scenario, users), values in groups.items():
            yield _point(run, facts, workload=workloads[scenario], users=users, tok_s=statistics.mean(values))


def _point(run: Run, facts: EngineFacts, *, workload: Workload, users: int, tok_s: float) -> Point:
    return Point(
        gpu=run.gpu,
        model=run.model,
        precision=facts.precision,
        flags=facts.flags,
        workload=workload,
        users=users,
        output_tok_s=tok_s,
        source=f"run {run.id}",
    )


# ---------------------------------------------------------------- errors


def accuracy(points: Iterable[Point], *, shape_of: ShapeOf) -> Accuracy:
    """The simulation without noise beside each point."""
    errors: list[PointError] = []
    left_out = 0
    profiles = config.gpu_profiles()
    for point in points:
        profile, shape = profiles.get(point.gpu), shape_of(point.model)
        tok_s = None if profile is None or shape is None else simulated_tok_s(point, profile=profile, shape=shape)
        if tok_s is None:
            left_out += 1
        else:
            errors.append(PointError(point=point, simulated_tok_s=tok_s))
    return Accuracy(errors=tuple(errors), left_out=left_out)


def simulated_tok_s(point: Point, *, profile: GpuProfile, shape: ModelShape) -> float | None:
    """What the simulation gives under the point's load. None: it cannot be simulated."""
    even = Simulation(profile=profile, shape=shape, launch_noise_ratio=0, cell_noise_ratio=0, step_noise_ratio=0)
    load = ClosedLoop(users=(point.users,), requests_per_user=3, min_s=HELD_S, max_s=300)
    with tempfile.TemporaryDirectory() as folder:
        job = LoadJob(
            url="",
            api="openai",
            dialect="vllm",
            model=point.model,
            workload=msgspec.structs.replace(point.workload, is_streamed=True),
            load=load,
            users=point.users,
            repeat=1,
            seed=1,
            requests_path=f"{folder}/requests.jsonl",
            client_path=f"{folder}/client.json",
        )
        try:
            found = drive(Machine(even).launch(point.flags, precision=point.precision), job)
        except (Refused, Crashed):
            return None
    return tok_s_of(found)


def tok_s_of(found: LoadResult) -> float | None:
    """Output tokens per second while the load was held. None: it never was."""
    health = found.health
    if health is None or health.stopped_s <= health.started_s:
        return None
    inside = 0.0
    for record in found.records:
        if record.chunks_s and record.output_tokens is not None:
            chunks = sum(health.started_s < at_s <= health.stopped_s for at_s in record.chunks_s)
            inside += chunks * record.output_tokens / len(record.chunks_s)
    return inside / (health.stopped_s - health.started_s)
