"""`harness compare`: the baseline's cells, the candidate's cells, and what the pair supports."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import bench
from harness.bench import planned_steps
from harness.progress import Progress, Say
from harness.records import Cell, CellState, LaunchSpec, Preset, Record, Scenario, Target
from harness.stats import pairing
from harness.store import RunFolder


class Side(Record, frozen=True, kw_only=True):
    """One side of a comparison."""

    spec: LaunchSpec
    title_suffix: str = ""
    """", tuned" or ", defaults" behind the engine's title."""


class Plan(Record, frozen=True, kw_only=True):
    """All that a comparison needs to know; made once by the command line."""

    gpu: str
    is_cpu: bool
    model: str
    baseline: Side
    candidate: Side
    loads: Mapping[str, tuple[Scenario, tuple[int, ...]]]
    """Scenario by name, with the levels that are measured."""
    repeats: int
    preset: Preset | None
    """The settings that the candidate runs with. None: vLLM's defaults."""
    tuned_in: Path | None
    """Folder of the run that found `preset`, where it is still there."""
    seed: int
    targets: tuple[Target, ...]
    """Rows of targets.toml that this comparison is judged by."""


def run(plan: Plan, *, results: Path, say: Say) -> RunFolder:
    """Measures both sides, one after the other, and writes the verdicts. Raises: EngineError."""
    sides = {"baseline": plan.baseline, "candidate": plan.candidate}
    steps = [
        step for side in sides.values() for step in planned_steps(side.spec.engine, plan.loads, repeats=plan.repeats)
    ]
    progress = Progress(steps, say=say)
    cells: dict[str, list[Cell]] = {role: [] for role in sides}
    with bench.recorded(
        results=results,
        kind="compare",
        model=plan.model,
        gpu=plan.gpu,
        seed=plan.seed,
        scenarios=[scenario for scenario, _ in plan.loads.values()],
    ) as recording:
        recording.update(preset=plan.preset, tuned_in=plan.tuned_in.name if plan.tuned_in else "")
        if plan.tuned_in and (plan.tuned_in / "trials.jsonl").exists():
            shutil.copy(plan.tuned_in / "trials.jsonl", recording.folder.path / "trials.jsonl")
        for note in notes(plan):
            recording.add_note(note)
        for role, side in sides.items():
            with bench.launched(
                side.spec, recording=recording, role=role, title_suffix=side.title_suffix, progress=progress
            ) as running:
                for scenario, users in plan.loads.values():
                    cells[role] += running.measure(scenario, users=users, repeats=plan.repeats)
        prompts = prompt_note(cells)
        if prompts:
            recording.add_note(prompts)
        recording.update(
            comparisons=pairing.comparisons(
                cells["baseline"], cells["candidate"], targets=plan.targets, gpu=plan.gpu, model=plan.model
            )
        )
    return recording.folder


def notes(plan: Plan) -> list[str]:
    """What a reader must know before the first figure."""
    out = [
        "One launch per side, the baseline first: what differs from launch to launch, and drift of the machine "
        "between the two, is in the ratios but not in their intervals.",
        "Each user sends its first request at once; where a level lasts for few requests per user, waiting times are "
        "those of a burst: about half of what an engine that answers one after another makes its users wait in the "
        "long run.",
    ]
    if plan.is_cpu:
        out.insert(0, "Measured on a CPU: the figures say nothing about a GPU.")
    old, new = plan.baseline.spec.precision, plan.candidate.spec.precision
    if old != new:
        out.insert(
            0,
            f"The weights differ in precision: {old or 'unknown'} for the baseline, {new or 'unknown'} for the "
            "candidate. A ratio then is not the engine's alone.",
        )
    return out


def prompt_note(cells: Mapping[str, Sequence[Cell]]) -> str:
    """A warning where both sides counted the same prompts differently; empty where they did not."""
    counts = {}
    for role, side in cells.items():
        found = [c.prompt_tokens_mean for c in side if c.state == CellState.MEASURED and c.prompt_tokens_mean]
        if not found:
            return ""
        counts[role] = sum(found) / len(found)
    if abs(counts["candidate"] / counts["baseline"] - 1) <= pairing.MAX_LENGTH_DIFFERENCE:
        return ""
    return (
        f"The same prompts were {counts['baseline']:.1f} tokens to the baseline and {counts['candidate']:.1f} to the "
        "candidate (means): the chat templates differ, and so does the work."
    )
