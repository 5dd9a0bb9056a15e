"""`harness tune`: the baseline, then candidates, then a winner or the defaults; everything kept as it comes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import bench, config, engines
from harness.bench import Bench, Part, planned_steps
from harness.engines.flags import words
from harness.errors import (
    EngineBadFlag,
    EngineContextTooLong,
    EngineCrashed,
    EngineError,
    EngineHung,
    EngineNotFound,
    EngineOutOfMemory,
    MeasurementInvalid,
    UsageError,
)
from harness.progress import Progress, Say
from harness.recording import Recording, kept, recorded, utc_now
from harness.records import (
    Cell,
    Flags,
    GpuProfile,
    LaunchSpec,
    ModelEntry,
    ModelFiles,
    Outcome,
    Preset,
    Record,
    Scenario,
    Trial,
    Verdict,
)
from harness.search import Exhausted, Search
from harness.stats.pairing import objective as objective_ratio
from harness.stats.pairing import valid_values
from harness.stats.verdict import verdict
from harness.store import RunFolder

CONSERVATIVE_START: Flags = {"max-num-batched-tokens": 16384, "max-num-seqs": 256, "max-model-len": 4096}
"""Of the planning document, for 24 GB; the ladder's nearest point below it is the first candidate."""
SPARE_TOKENS = 32
"""Chat templates and counting differences, on top of the longest request seen."""
BASELINE_TRIES = 2
CROWNING = "The winner of the search:"
"""How the note about the winner begins; a search that goes on replaces it."""

OUTCOMES: dict[type[EngineError], Outcome] = {
    EngineOutOfMemory: Outcome.OUT_OF_MEMORY,
    EngineContextTooLong: Outcome.CONTEXT_TOO_LONG,
    EngineBadFlag: Outcome.BAD_FLAG,
    EngineCrashed: Outcome.CRASHED,
    EngineHung: Outcome.HUNG,
}
"""What a candidate's flags can do to an engine. Any other engine error is not theirs and ends the study."""


class Objective(Record, frozen=True, kw_only=True):
    """What is to be made better: one metric at some levels of the ladder, as a ratio to the baseline."""

    name: str
    metric: str
    levels: tuple[int, ...]
    meaning: str


def objective_named(name: str, users: Sequence[int]) -> Objective:
    """Raises: UsageError with the list of names."""
    levels = tuple(sorted(users))
    known = {
        "balanced": Objective(
            name="balanced",
            metric="output_tok_s",
            levels=levels,
            meaning=f"geometric mean of the ratios of output tokens per second at {users_text(levels)}",
        ),
        "throughput": Objective(
            name="throughput",
            metric="output_tok_s",
            levels=levels[-1:],
            meaning=f"ratio of output tokens per second at {users_text(levels[-1:])}",
        ),
        "latency": Objective(
            name="latency",
            metric="e2e_s.p50",
            levels=levels[:1],
            meaning=f"ratio of the median time of whole answers at {users_text(levels[:1])}",
        ),
    }
    if name not in known:
        raise config.unknown_name("objective", name, known)
    return known[name]


def users_text(levels: Sequence[int]) -> str:
    """1, 5 and 10 users."""
    words = [str(level) for level in levels]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"{listed} user" if levels == (1,) else f"{listed} users"


class Plan(Record, frozen=True, kw_only=True):
    """All that a study needs to know; made once by the command line."""

    profile: GpuProfile
    model: ModelEntry
    files: ModelFiles
    scenario: Scenario
    users: tuple[int, ...]
    repeats: int
    objective: str
    trials: int | None
    """Candidates besides the baseline. None: as many as the budget allows."""
    budget_s: float | None
    """None: as many trials as asked, however long that takes."""
    vllm_python: str | None
    seed: int


def run(plan: Plan, *, results: Path, say: Say) -> RunFolder:
    """A new study. Raises: EngineError where the baseline failed twice."""
    with recorded(
        results=results,
        kind="tune",
        model=plan.model.name,
        gpu=plan.profile.name,
        seed=plan.seed,
        scenarios=[plan.scenario],
        objective=plan.objective,
    ) as recording:
        recording.folder.path.joinpath("plan.json").write_bytes(msgspec.json.encode(plan))
        with resumable(recording, say=say):
            Study(plan, recording, say=say).go_on(results)
    return recording.folder


def resume(
    folder: RunFolder,
    *,
    results: Path,
    trials: int | None,
    budget_s: float | None,
    vllm_python: str | None,
    say: Say,
) -> RunFolder:
    """Goes on with an interrupted study, with its own plan; what is not None replaces a part of the plan."""
    run_record = folder.run()
    try:
        plan = msgspec.json.decode((folder.path / "plan.json").read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{folder.id} cannot be resumed: {error}", hint="name a run of `harness tune`: ls results/*/plan.json"
        ) from error
    if trials is not None:
        plan = msgspec.structs.replace(plan, trials=trials)
    if budget_s is not None:
        plan = msgspec.structs.replace(plan, budget_s=budget_s)
    if vllm_python is not None:
        plan = msgspec.structs.replace(plan, vllm_python=vllm_python)
    with kept(Recording(folder, run_record)) as recording, resumable(recording, say=say):
        Study(plan, recording, say=say).go_on(results)
    return folder


@contextmanager
def resumable(recording: Recording, *, say: Say) -> Iterator[None]:
    """Says how the search goes on, where it is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"everything measured is kept; go on with: harness tune --resume {recording.folder.id}")
        raise


class Study:
    """A search in a run folder. What it knows it reads from there, so that it can go on at any time."""

    def __init__(self, plan: Plan, recording: Recording, *, say: Say) -> None:
        self.plan, self.recording = plan, recording
        self.objective = objective_named(plan.objective, plan.users)
        self._trials = list(recording.folder.trials())
        self._trials_before = len(self._trials)
        self._since = time.monotonic() - sum(trial.wall_s for trial in self._trials)
        recording.folder.set_aside_cells(whole_roles=map(role_of, (trial.number for trial in self._trials)))
        self._cells = list(recording.folder.cells())
        left = (plan.trials if plan.trials is not None else 8) + 1 - len(self._trials)
        self._one_trial = planned_steps("vllm", [plan.scenario], repeats=plan.repeats)
        self.progress = Progress(self._one_trial * max(left, 0), say=say)

    # ------------------------------------------------------------ the order of things

    def go_on(self, results: Path) -> None:
        """Baseline, candidates, winner. Raises: EngineError of the baseline, KeyboardInterrupt."""
        if self.plan.profile.is_cpu:
            self.recording.add_note("Measured on a CPU: the figures say nothing about a GPU.")
        if not self._trials:
            self._measure_baseline()
        self._refuse_useless_baseline()
        baseline = self._trials[0]
        search = Search(
            self.recording.folder.path,
            self.plan.profile.search,
            seed=self.plan.seed,
            needed_tokens=self._needed_tokens(),
            model_max_len=self._longest_context(baseline),
            violations=engines.violations,
        )
        search.remember(
            [trial.flags for trial in self._trials[1:]],
            longest_that_fits=min((t.fits_tokens for t in self._trials if t.fits_tokens), default=None),
        )
        if len(self._trials) == 1:
            search.start_with(CONSERVATIVE_START)
        while self._may_go_on():
            try:
                ticket, flags = search.ask()
            except Exhausted:
                self.progress.note("every candidate of the search space has been tried")
                break
            try:
                trial = self._try(flags)
            except BaseException:
                search.give_back(ticket)
                raise
            value = None if trial.objective is None else trial.objective.value - 1
            search.tell(ticket, value, constraints=trial.constraints)
            if trial.fits_tokens is not None:
                search.learn_longest(trial.fits_tokens)
        self._crown(results)

    def _may_go_on(self) -> bool:
        if self.plan.trials is not None and len(self._trials) - 1 >= self.plan.trials:
            return False
        if self.plan.budget_s is None:
            return True
        slowest_s = max(trial.wall_s for trial in self._trials)
        spent_s = time.monotonic() - self._since
        if spent_s + slowest_s > self.plan.budget_s:
            self.progress.note(f"the budget of {self.plan.budget_s:.0f} s has no room for another trial")
            return False
        return True

    # ------------------------------------------------------------ trials

    def _measure_baseline(self) -> None:
        """Trial 0: vLLM's own defaults. One mended try where they do not start; a second failure ends the study."""
        flags: Flags = {}
        for attempt in range(1, BASELINE_TRIES + 1):
            self.recording.folder.set_aside_cells(whole_roles=())  # of an attempt that failed under load
            try:
                self._trials.append(self._measured(0, flags))
            except EngineError as error:
                if attempt == BASELINE_TRIES or isinstance(error, EngineNotFound):
                    raise
                self.progress.note(f"the baseline failed: {error.message}")
                if isinstance(error, EngineContextTooLong) and error.fits:
                    flags = {"max-model-len": self._longest_step(error.fits)}
                    self.recording.add_note(
                        f"vLLM's own defaults do not start here ({error.message}); the baseline is the defaults with "
                        f"--max-model-len {flags['max-model-len']}."
                    )
            else:
                self.recording.folder.append_trial(self._trials[0])
                return

    def _refuse_useless_baseline(self) -> None:
        """Raises: MeasurementInvalid where no candidate could be compared with what the baseline gave."""
        cells = [cell for cell in self._cells if cell.role == role_of(0)]
        for users in self.objective.levels:
            mine = [cell for cell in cells if cell.users == users]
            count = len(valid_values(mine, self.objective.metric))
            if count < 2:
                doubts = sorted({reason for cell in mine for reason in cell.reasons}) or ["no figure"]
                raise MeasurementInvalid(
                    f"the baseline has {count} valid repeats of {self.objective.metric} at {users_text((users,))}, "
                    f"2 are needed: {'; '.join(doubts)}",
                    hint="run `harness doctor`; more --repeats or a longer scenario may help",
                )

    def _longest_step(self, tokens: int) -> int:
        return max((step for step in self.plan.profile.search.max_model_len if step <= tokens), default=tokens)

    def _try(self, flags: Flags) -> Trial:
        """One candidate, measured or failed, written and said. Raises: EngineError that is not the flags' fault."""
        number, since = len(self._trials), time.monotonic()
        cells_before = len(self.recording.folder.cells())
        try:
            trial = self._measured(number, flags)
        except tuple(OUTCOMES) as error:
            if isinstance(error, EngineOutOfMemory) and error.is_environmental:
                raise  # nothing can be learned of these flags: other programs hold the memory
            trial = failed_trial(number, flags, error, wall_s=time.monotonic() - since)
            self.progress.note(f"trial {number}: {trial.outcome}: {trial.reason}")
            self._skip_rest(cells_before)
        self._trials.append(trial)
        self.recording.folder.append_trial(trial)
        return trial

    def _skip_rest(self, cells_before: int) -> None:
        """Takes the steps that a failed trial will not come to out of the time left."""
        steps = [kind for kind, _ in self._one_trial]
        for kind in steps if len(self.recording.folder.cells()) == cells_before else steps[1:]:
            self.progress.skip(kind)

    def _measured(self, number: int, flags: Flags) -> Trial:
        """One launch and all its cells. Raises: EngineError."""
        plan, since = self.plan, time.monotonic()
        role = role_of(number)
        if flags:
            self.progress.note(f"{role}: {' '.join(f'--{name} {value}' for name, value in flags.items())}")
        spec = vllm_spec(plan.files, plan.profile, flags=flags, python=plan.vllm_python)
        suffix = defaults_suffix(plan.profile) if number == 0 else f", trial {number}"
        part = Part(spec=spec, role=role, title_suffix=suffix)
        with bench.launched(part, recording=self.recording, progress=self.progress) as running:
            cells = running.measure(plan.scenario, repeats=plan.repeats)
        self._cells += cells
        return self._trial_of(number, flags, cells, running, wall_s=time.monotonic() - since)

    def _trial_of(self, number: int, flags: Flags, cells: Sequence[Cell], running: Bench, *, wall_s: float) -> Trial:
        found = None
        if number:
            found = objective_ratio(
                [cell for cell in self._cells if cell.role == "baseline"],
                cells,
                metric=self.objective.metric,
                levels=self.objective.levels,
            )
            if found is not None:
                self.progress.note(
                    f"trial {number}: {found.value:.3f}x the baseline ({found.low:.3f} to {found.high:.3f})"
                )
        doubts = sorted({reason for cell in cells for reason in cell.reasons})
        if number and found is None and not doubts:
            doubts = [f"fewer than 2 valid repeats of {self.objective.metric} at some level"]
        return Trial(
            number=number,
            flags=flags,
            outcome=Outcome.MEASURED if number == 0 or found is not None else Outcome.INVALID,
            objective=found,
            reason="; ".join(doubts),
            log=running.facts.log,
            launch_s=running.engine.launch_s,
            wall_s=wall_s,
        )

    # ------------------------------------------------------------ what is known

    def _needed_tokens(self) -> int:
        """The longest request of the workload, as the server counted it, with some to spare."""
        prompts = [cell.prompt_tokens_mean for cell in self._cells if cell.prompt_tokens_mean is not None]
        longest = max(prompts, default=2.0 * self.plan.scenario.workload.prompt_words)
        return int(longest * 1.1) + self.plan.scenario.workload.output_tokens + SPARE_TOKENS

    def _longest_context(self, baseline: Trial) -> int:
        return int(baseline.flags.get("max-model-len", self.plan.model.shape.max_context_tokens))

    # ------------------------------------------------------------ the end

    def _crown(self, results: Path) -> None:
        """Writes the preset: the best of the trials that are surely faster than the defaults, else the defaults."""
        if self.recording.run.preset is not None and len(self._trials) == self._trials_before:
            return  # nothing new: what another run has found since stays
        measured = [trial for trial in self._trials[1:] if trial.objective is not None]
        best = winner(self._trials[1:])
        facts = next(facts for facts in self.recording.run.engines if facts.role == "baseline")
        preset = Preset(
            gpu=self.plan.profile.name,
            model=self.plan.model.name,
            flags=self._trials[0].flags if best is None else best.flags,
            is_default=best is None,
            objective=f"{self.objective.name}: {self.objective.meaning}",
            ratio=None if best is None else best.objective,
            vllm_version=facts.version,
            gpu_title=self.recording.run.host.gpu or self.recording.run.host.cpu,
            run=self.recording.folder.id,
            created_utc=utc_now(),
        )
        config.write_preset(preset, config.preset_path(results, gpu=self.plan.profile.name, model=self.plan.model.name))
        if best is not None:
            note = (
                f"{CROWNING} chosen as the best of {len(measured)} candidates from one launch each, by the same "
                "figures that are shown for it: such a figure is too good on average. A comparison measures it anew."
            )
        elif measured:
            note = f"{CROWNING} none: no candidate was surely faster than vLLM's defaults. Keep them."
        else:
            note = f"{CROWNING} none: no candidate gave figures, so there was nothing to compare the defaults with."
        others = tuple(known for known in self.recording.run.notes if not known.startswith(CROWNING))
        self.recording.update(preset=preset, notes=(*others, note))


def winner(trials: Sequence[Trial]) -> Trial | None:
    """The best of the trials whose whole interval is above the defaults. None: there is none."""
    faster = [trial for trial in trials if verdict(trial.objective) == Verdict.FASTER]
    return max(faster, key=lambda trial: trial.objective.value if trial.objective else 0.0, default=None)


def role_of(number: int) -> str:
    """What the cells of a trial are called."""
    return "baseline" if number == 0 else f"trial {number}"


def defaults_suffix(profile: GpuProfile) -> str:
    """Behind the title of a vLLM without tuned flags: what the profile passes to every launch is no default."""
    given = " ".join(words(profile.vllm_flags))
    return f", defaults with {given}" if given else ", defaults"


def vllm_spec(files: ModelFiles, profile: GpuProfile, *, flags: Flags, python: str | None) -> LaunchSpec:
    """vLLM with what every launch on this card gets, and `flags` on top."""
    return bench.launch_spec("vllm", files, flags={**profile.vllm_flags, **flags}, env=profile.vllm_env, program=python)


def failed_trial(number: int, flags: Flags, error: EngineError, *, wall_s: float) -> Trial:
    """A failed launch as something to learn from: by how much it was infeasible, over 0 where that is not known."""
    constraints = {"started": 1.0}
    if isinstance(error, EngineContextTooLong) and error.fits:
        constraints = {"context": int(flags["max-model-len"]) / error.fits - 1}
    elif isinstance(error, EngineOutOfMemory) and error.short_bytes:
        constraints = {"memory_short_gib": error.short_bytes / 2**30}
    return Trial(
        number=number,
        flags=flags,
        outcome=OUTCOMES[type(error)],
        constraints=constraints,
        fits_tokens=error.fits if isinstance(error, EngineContextTooLong) else None,
        reason=error.message,
        log=error.log.name if error.log else "",
        wall_s=wall_s,
    )
