"""A study from its begin to its end, or from where it was interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness.errors import EngineError
from harness.progress import Say
from harness.recording import Recording, kept, recorded
from harness.store import RunFolder
from harness.tune import spending
from harness.tune.plan import Plan, read_plan, write_plan
from harness.tune.spending import first_guess
from harness.tune.study import Study
from harness.tune.world import World, world_of


def run(plan: Plan, *, results: Path, say: Say, world: World | None = None) -> RunFolder:
    """A new study.

    Raises: UsageError where the budget is shorter than one launch.  EngineError where the baseline failed twice.
    """
    if plan.budget_s is not None:
        spending.refuse_short_budget(plan.budget_s, first_guess(plan).of(plan.levels, plan.repeats))
    with recorded(
        results=results,
        kind="tune",
        model=plan.model.name,
        gpu=plan.profile.name,
        seed=plan.seed,
        scenarios=[plan.scenario],
        objective=plan.objective,
    ) as recording:
        write_plan(plan, recording.folder)
        with resumable(recording, say=say):
            Study(plan, recording, say=say, world=world or world_of(plan, recording.folder)).go_on(results)
    return recording.folder


def resume(
    folder: RunFolder,
    *,
    results: Path,
    trials: int | None,
    budget_s: float | None,
    vllm_python: str | None,
    say: Say,
    world: World | None = None,
) -> RunFolder:
    """Goes on with an interrupted study, with its own plan; what is not None replaces a part of the plan.

    Raises: UsageError: it cannot be gone on with.
    """
    run_record, plan = folder.run(), read_plan(folder)
    changes = {"trials": trials, "budget_s": budget_s, "vllm_python": vllm_python}
    plan = msgspec.structs.replace(plan, **{name: value for name, value in changes.items() if value is not None})
    with kept(Recording(folder, run_record)) as recording, resumable(recording, say=say):
        Study(plan, recording, say=say, world=world or world_of(plan, folder)).go_on(results)
    return folder


@contextmanager
def resumable(recording: Recording, *, say: Say) -> Iterator[None]:
    """Says how the search goes on, where it is interrupted."""
    again = f"harness tune --resume {recording.folder.id}"
    try:
        yield
    except KeyboardInterrupt:
        say(f"everything measured is kept; go on with: {again}")
        raise
    except EngineError as error:
        if recording.folder.trials():
            error.hint = f"{error.hint}; then go on with: {again}" if error.hint else f"go on with: {again}"
        raise
