"""`harness compare`: launches of all sides in alternating order, and what their cells support."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from harness import baseline, bench, fairness, roofline
from harness.baseline import Settings
from harness.bench import Part, planned_steps, work_of
from harness.errors import ResultsUnreadable
from harness.fairness import Load, Prompt, Prompts
from harness.progress import Progress, Say, clock_text
from harness.recording import Recording, recorded
from harness.records import (
    Cell,
    CellState,
    Comparison,
    LaunchSpec,
    Level,
    Manifest,
    Preset,
    Record,
    Scenario,
    Target,
    Tier,
)
from harness.stats import pairing
from harness.store import RunFolder

MIN_CELLS = 2
"""So many cells that count must each side have at a load, for a ratio."""
BASELINE, TUNED, CANDIDATE = ROLES = "baseline", "baseline tuned", fairness.CANDIDATE


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
    tier: Tier
    baseline: Side
    candidate: Side
    tuned_most: Settings | None
    """The baseline is also measured with the best of its own settings, up to these. None: it is not."""
    loads: tuple[Scenario, ...]
    """With the levels that are measured."""
    blocks: int
    """Launches of each side."""
    repeats: int
    """Of each level in each block."""
    precision_ratio: float | None
    """Blocks are added until each ratio with a target is known this well. None: none are added."""
    budget_s: float
    """For the blocks that are added."""
    preset: Preset | None
    """The settings that the candidate runs with. None: vLLM's defaults."""
    tuned_in: Path | None
    """Folder of the run that found `preset`, where it is still there."""
    seed: int
    targets: tuple[Target, ...]
    """Rows of targets.toml that this comparison is judged by."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the settings."""


class Precision(Record, frozen=True, kw_only=True):
    """What `--precision` asked for, and what came of it."""

    asked_ratio: float
    is_reached: bool
    widest_ratio: float | None
    """Half of the widest interval over its ratio, of throughputs and medians. None: there is no ratio."""
    blocks: int
    """Launches of the candidate, added ones included."""
    reason: str = ""
    """Why no more blocks were added."""


class Done(Record, frozen=True, kw_only=True):
    """A comparison that has ended."""

    folder: RunFolder
    precision: Precision | None


Measure = Callable[..., Sequence[Cell]]
"""`bench.block`, or what takes its place."""


def run(
    plan: Plan,
    *,
    results: Path,
    say: Say,
    measure: Measure = bench.block,
    clock: Callable[[], float] = time.monotonic,
) -> Done:
    """Measures all sides and writes the verdicts. Raises: EngineError; what was measured until then is judged too."""
    with recorded(
        results=results, kind="compare", model=plan.model, gpu=plan.gpu, seed=plan.seed, scenarios=plan.loads
    ) as recording:
        progress = Progress(planned(plan), say=say)
        progress.note(outlook(plan, at_least_s=progress.left_s()))
        study = Study(plan, recording, progress=progress, measure=measure, clock=clock)
        try:
            study.measure_all()
        finally:
            study.judge()
    return Done(folder=recording.folder, precision=study.precision)


def planned(plan: Plan) -> list[tuple[str, float]]:
    """(kind, expected seconds) of all launches and cells."""
    sides = {BASELINE: plan.baseline, CANDIDATE: plan.candidate}
    steps: list[tuple[str, float]] = []
    if plan.tuned_most is not None:
        sides[TUNED] = plan.baseline
        raced = loads_of(plan, TUNED, plan.loads)
        steps += baseline.search_steps(plan.baseline.spec.engine, raced, is_brief=plan.is_cpu)
    for role, side in sides.items():
        loads = loads_of(plan, role, plan.loads)
        steps += planned_steps(side.spec.engine, loads, repeats=plan.repeats) * plan.blocks
    return steps


def outlook(plan: Plan, *, at_least_s: float) -> str:
    """What is to come, before anything is known of this machine."""
    kinds = [kind for kind, _ in planned(plan)]
    launches = sum(kind.startswith("launch ") for kind in kinds)
    return (
        f"{launches} launches and {len(kinds) - launches} cells: at least {clock_text(at_least_s)}. Each load warms up "
        "until it is steady: seconds on a card, on a CPU perhaps minutes. The time left is told as cells end"
    )


def loads_of(plan: Plan, role: str, loads: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """What this side is measured under: all, but without a GPU the tuned baseline only where it may matter.

    A run without a GPU is to show the way in minutes, so of its settings only slots are raced. These do nothing for one
    user; of the other loads it gets those that a target is about, or all where there is no target.
    """
    if role != TUNED or not plan.is_cpu:
        return tuple(loads)
    several = {(one.name, level) for one in loads for level in one.levels if level.users != 1}
    aimed = several & {(target.scenario, Level(users=target.users)) for target in plan.targets}
    return tuple(left for one in loads if (left := only(one, aimed or several)) is not None)


class Study:
    """A comparison under way."""

    def __init__(
        self, plan: Plan, recording: Recording, *, progress: Progress, measure: Measure, clock: Callable[[], float]
    ) -> None:
        self.plan = plan
        self.precision: Precision | None = None
        """None: none was asked for, or it did not come to that."""
        self._recording, self._progress, self._measure, self._clock = recording, progress, measure, clock
        self._sides = {BASELINE: plan.baseline, CANDIDATE: plan.candidate}
        self._blocks = 0
        self._counted: dict[str, Prompts] = {}

    # ------------------------------------------------------------ the order of things

    def measure_all(self) -> None:
        """The search among the baseline's settings, the planned blocks, then those that the precision asks for."""
        plan, recording = self.plan, self._recording
        recording.update(preset=plan.preset, tuned_in=plan.tuned_in.name if plan.tuned_in else "")
        if plan.tuned_in is not None:
            take_study(plan.tuned_in, recording)
        for note in notes(plan):
            recording.add_note(note)
        if plan.tuned_most is not None:
            self._tune_baseline(plan.tuned_most)
        for _ in range(plan.blocks):
            self._block(self._sides, plan.loads)
        self._mend()
        if plan.precision_ratio is not None:
            self.precision = self._refine(plan.precision_ratio)

    def _tune_baseline(self, most: Settings) -> None:
        spec = self.plan.baseline.spec
        loads = loads_of(self.plan, TUNED, self.plan.loads)
        if not loads:
            return
        search = baseline.Search(
            spec,
            loads=loads,
            recording=self._recording,
            progress=self._progress,
            measure=self._measure,
        )
        users = max(level.users or most.slots for one in loads for level in one.levels)
        most = msgspec.structs.replace(most, slots=min(most.slots, users))
        best = search.best(most, tier=self.plan.tier, is_brief=self.plan.is_cpu)
        if best is None:
            return  # the search has said so
        tuned = Side(spec=baseline.with_settings(spec, best), title_suffix=f", {best.title}")
        self._sides = {BASELINE: self.plan.baseline, TUNED: tuned, CANDIDATE: self.plan.candidate}

    def _block(self, roles: Collection[str], loads: Sequence[Scenario]) -> None:
        """One launch of each of these sides; every other block in the opposite order."""
        self._blocks += 1
        order = [role for role in self._sides if role in roles]
        for role in order if self._blocks % 2 else reversed(order):
            side = self._sides[role]
            part = Part(spec=side.spec, role=role, block=self._blocks, title_suffix=side.title_suffix)
            mine = loads_of(self.plan, role, loads)
            if not mine:
                continue
            work = work_of(mine, repeats=self.plan.repeats)
            self._measure(part, work, recording=self._recording, progress=self._progress)

    def _mend(self) -> None:
        """One more block of the loads that lack the cells for a ratio, once: what spoiled them may have passed."""
        counts = Counter(
            (cell.role, *fairness.load_of(cell)) for cell in self._cells() if cell.state == CellState.MEASURED
        )
        lacking = {
            (one.name, level)
            for role in self._sides
            for one in loads_of(self.plan, role, self.plan.loads)
            for level in one.levels
            if counts[role, one.name, level] < MIN_CELLS
        }
        if not lacking:
            return
        names = ", ".join(sorted(fairness.Load(*load).name for load in lacking))
        self._recording.add_note(f"One more block was measured of what had too few cells that count: {names}.")
        self._more(self._sides, lacking)

    def _more(self, roles: Collection[str], loads: Collection[tuple[str, Level]]) -> None:
        """One more block of these loads."""
        self._progress.add(self._steps(roles, loads))
        self._block(roles, self._narrowed(loads))

    def _steps(self, roles: Collection[str], loads: Collection[tuple[str, Level]]) -> list[tuple[str, float]]:
        left = self._narrowed(loads)
        return [
            step
            for role in roles
            for step in planned_steps(
                self._sides[role].spec.engine, loads_of(self.plan, role, left), repeats=self.plan.repeats
            )
        ]

    def _narrowed(self, loads: Collection[tuple[str, Level]]) -> tuple[Scenario, ...]:
        return tuple(left for one in self.plan.loads if (left := only(one, loads)) is not None)

    def _refine(self, asked_ratio: float) -> Precision:
        """More blocks of what is not known well enough, as long as the next one fits into the budget."""
        began_s, reason = self._clock(), ""
        while missing := self._wanting(asked_ratio):
            loads = {load for wanted in missing.values() for load in wanted}
            roles = {*missing, CANDIDATE}
            spent_s = self._clock() - began_s
            if spent_s + self._progress.expected_s(self._steps(roles, loads)) > self.plan.budget_s:
                reason = f"One more block would go over the budget of {clock_text(self.plan.budget_s)}."
                break
            self._progress.note(f"precision: {len(loads)} loads are not known to ±{asked_ratio:.1%}: one more block")
            self._more(roles, loads)
        rows = [row.ratio for row in self._rows() if row.ratio is not None and row.metric in pairing.PRECISE_METRICS]
        found = Precision(
            asked_ratio=asked_ratio,
            is_reached=not missing,
            widest_ratio=max(map(pairing.half_width_ratio, rows), default=None),
            blocks=self._blocks,
            reason=reason,
        )
        self._recording.add_note(precision_note(found))
        return found

    def _wanting(self, asked_ratio: float) -> dict[str, tuple[tuple[str, Level], ...]]:
        """The loads that need more blocks, by the baseline that they are compared with."""
        rows = self._rows()
        by_role = {
            role: pairing.wanting([row for row in rows if row.against == role], precision_ratio=asked_ratio)
            for role in self._sides
        }
        return {role: loads for role, loads in by_role.items() if loads}

    # ------------------------------------------------------------ what follows from the cells

    def judge(self) -> None:
        """Writes the manifest, the comparisons and what a reader must know, from whatever was measured."""
        if not self._cells():
            return
        for note in fairness.drifts(self._cells()):
            self._recording.add_note(note)
        self._recording.update(manifest=self._manifest(), comparisons=self._rows())

    def _cells(self) -> list[Cell]:
        return [cell for cell in self._recording.cells if cell.role in self._sides]

    def _manifest(self) -> Manifest:
        return fairness.manifest(
            self.plan.tier,
            engines=[facts for facts in self._recording.run.engines if facts.role in self._sides],
            cells=self._cells(),
            scenarios=self.plan.loads,
            prompts=self._prompts(),
        )

    def _prompts(self) -> dict[str, dict[Prompt, int]]:
        """How many tokens each side's server counted of each prompt; every cell's file is read once."""
        for cell in self._cells():
            path = self._recording.folder.path / cell.requests_file
            if cell.requests_file not in self._counted and path.is_file():
                self._counted[cell.requests_file] = fairness.prompts_of(cell, path.read_bytes())
        found: dict[str, dict[Prompt, int]] = {}
        for cell in self._cells():
            found.setdefault(cell.role, {}).update(self._counted.get(cell.requests_file, {}))
        return found

    def _rows(self) -> tuple[Comparison, ...]:
        """The candidate against each other side, at each load."""
        faults, prompts = tuple(fairness.faults(self.plan.tier, self._manifest().sides)), self._prompts()
        return tuple(
            row
            for role in self._sides
            if role != CANDIDATE
            for scenario in loads_of(self.plan, role, self.plan.loads)
            for level in scenario.levels
            for row in self._rows_of(fairness.Load(scenario.name, level), role, faults=faults, prompts=prompts)
        )

    def _rows_of(
        self, load: Load, role: str, *, faults: Sequence[str], prompts: Mapping[str, Prompts]
    ) -> tuple[Comparison, ...]:
        """Targets are set for Ollama as it comes, so only there they apply."""
        cells = [cell for cell in self._cells() if fairness.load_of(cell) == load]
        return pairing.comparisons(
            [cell for cell in cells if cell.role == role],
            [cell for cell in cells if cell.role == CANDIDATE],
            targets=self.plan.targets if role == BASELINE else (),
            gpu=self.plan.gpu,
            model=self.plan.model,
            against=role,
            faults=tuple(
                filter(
                    None,
                    (
                        *faults,
                        fairness.prompt_fault(load, role, prompts),
                        fairness.length_fault(self.plan.tier, load, role, cells),
                    ),
                )
            ),
        )


def only(scenario: Scenario, loads: Collection[tuple[str, Level]]) -> Scenario | None:
    """The scenario with those of its levels that are in `loads`. None: it has none of them."""
    levels = [level for level in scenario.levels if (scenario.name, level) in loads]
    return scenario.at(levels) if levels else None


def precision_note(found: Precision) -> str:
    """What was asked for, and what came of it."""
    asked = f"±{found.asked_ratio:.1%} of each ratio was asked for"
    if found.is_reached:
        return f"Precision: {asked}, and reached after {found.blocks} blocks."
    widest = "" if found.widest_ratio is None else f"; the widest interval is ±{found.widest_ratio:.1%}"
    return f"Precision: {asked}, and not reached after {found.blocks} blocks{widest}. {found.reason}".rstrip()


def take_study(found_in: Path, recording: Recording) -> None:
    """Copies what the report tells of the search behind the candidate's settings."""
    for name in ("trials.jsonl", "defence.jsonl"):
        if (found_in / name).exists():
            shutil.copy(found_in / name, recording.folder.path / name)
    try:
        run = RunFolder(found_in).run()
    except ResultsUnreadable as error:
        recording.add_note(f"Of the search that found these settings no more than its trials is told: {error.message}.")
        return
    recording.update(asked=run.asked, defence=run.defence, front=run.front)


def notes(plan: Plan) -> list[str]:
    """What a reader must know before the first figure."""
    out = list(plan.notes)
    if plan.is_cpu:
        out.append("Measured on a CPU: the figures say nothing about a GPU.")
    old, new = plan.baseline.spec.precision, plan.candidate.spec.precision
    if roofline.width(old) != roofline.width(new):
        out.append(
            f"The weights differ in precision: {old or 'unknown'} for the baseline, {new or 'unknown'} for the "
            "candidate. A ratio then is not the engine's alone."
        )
    if plan.blocks == 1:
        out.append(
            "One launch per side, the baseline first: what differs from launch to launch, and drift of the machine "
            "between the two, is in the ratios but not in their intervals."
        )
    return out
