"""A study from its begin to its end, or from where it was interrupted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import telemetry
from harness.errors import DiskFull, EngineError, UsageError
from harness.progress import Say
from harness.recording import Recording, kept, recorded
from harness.records import Host
from harness.store import RunFolder, on_disk, without_password
from harness.tune import spending
from harness.tune import workers as team
from harness.tune.objectives import aimed_levels
from harness.tune.plan import Plan, read_plan, write_plan
from harness.tune.resolution import thin_warnings
from harness.tune.rules import repeats_of
from harness.tune.sound import refuse_unsound
from harness.tune.spending import first_guess
from harness.tune.study import Study
from harness.tune.trials import simulated
from harness.tune.world import World, world_of


def run(plan: Plan, *, results: Path, say: Say, world: World | None = None, storage: str | None = None) -> RunFolder:
    """A new study.

    Args:   storage: the plan's, with its password. None: the run folder keeps the search.
    Raises: UsageError where the budget is shorter than one launch.  EngineError where the baseline failed twice.
    """
    if plan.budget_s is not None:
        guess = first_guess(plan)
        least_s, one_s = guess.of(plan.levels, plan.repeats), guess.of(aimed_levels(plan.objectives), repeats_of(plan))
        defended_s = spending.least_defended_s(least_s, one_s=one_s) if plan.is_defended else least_s * 2
        spending.refuse_short_budget(plan.budget_s, least_s, defended_s=defended_s)
        if plan.is_defended and (warning := spending.undefended_warning(plan.budget_s, defended_s=defended_s)):
            (simulated(say) if plan.is_simulated else say)(warning)
    for warning in thin_warnings(plan.objectives, plan.scenario, profile=plan.profile, shape=plan.model.shape):
        (simulated(say) if plan.is_simulated else say)(warning)
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
        here = world or world_of(plan, recording.folder, storage=storage)
        _gone_on(plan, recording, results=results, say=say, world=here)
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
    workers: int | None = None,
    storage: str | None = None,
    host: Callable[[], Host] = telemetry.host,
) -> RunFolder:
    """Goes on with an interrupted study, with its own plan; what is not None replaces a part of the plan.

    Args:   host: tells of the machine that this is.
    Raises: UsageError: it cannot be gone on with, as on a card of another kind.
            ResultsUnreadable: somebody changed its files.
    """
    run_record, plan = folder.run(), read_plan(folder)
    changes = {"trials": trials, "budget_s": budget_s, "vllm_python": vllm_python, "workers": workers}
    plan = msgspec.structs.replace(plan, **{name: value for name, value in changes.items() if value is not None})
    if storage is not None and without_password(storage) != plan.storage:
        raise UsageError(
            f"{folder.id} keeps its search in {plan.storage or 'its own folder'}, not in {without_password(storage)}",
            hint="leave --storage out, or name the same with its password",
        )
    refuse_unsound(folder, run_record, plan)
    moved = "" if plan.is_simulated else moved_note(run_record.host, host())
    url = storage or plan.storage or None
    with kept(Recording(folder, run_record)) as recording:
        write_plan(plan, folder)  # or the next stretch would go back to what this one was told to change
        if moved:
            say(f"warning: {moved}")
            recording.add_note(moved)
        here = world or world_of(plan, folder, storage=url)
        _gone_on(plan, recording, results=results, say=say, world=here)
    return folder


def moved_note(before: Host, now: Host) -> str:
    """What is to be noted where a study goes on elsewhere than it began; empty where it is the same machine.

    Raises: UsageError: on a card of another kind no ratio to the baseline would mean anything.
    """
    if before.gpu != now.gpu:
        raise UsageError(
            f"the study was begun on {before.gpu or 'a machine without a card'}, and this is "
            f"{now.gpu or 'a machine without one'}: its baseline says nothing about this machine",
            hint="go on where it was begun, or start a new search here",
        )
    changed = {
        "card": (before.gpu_id, now.gpu_id),
        "driver": (before.gpu_driver, now.gpu_driver),
        "processor": (before.cpu, now.cpu),
        "number of cores": (before.cores, now.cores),
    }
    other = [what for what, (old, new) in changed.items() if old != new and old and new]
    if not other:
        return ""
    return (
        f"Gone on with elsewhere than begun: another {' and another '.join(other)}. Candidates measured from then on "
        "are compared with a baseline that was measured there; finals launch the baseline again where they are run."
    )


def _gone_on(plan: Plan, recording: Recording, *, results: Path, say: Say, world: World) -> None:
    """As one of several workers where there are several: what is measured alone is measured on the first card."""
    recording.is_shared = plan.workers > 1
    with resumable(recording, say=say), team.on_first_card(plan) as cards:
        Study(plan, recording, say=say, world=world, cards=cards).go_on(results)


@contextmanager
def resumable(recording: Recording, *, say: Say) -> Iterator[None]:
    """Says how the search goes on, where it is interrupted."""
    again = f"harness tune --resume {recording.folder.id}"
    try:
        with on_disk(recording.folder.path):
            yield
            recording.settle()
    except KeyboardInterrupt:
        say(f"everything measured is kept; go on with: {again}")
        raise
    except (DiskFull, EngineError) as error:
        if recording.folder.trials() or isinstance(error, DiskFull):
            error.hint = f"{error.hint}; then go on with: {again}" if error.hint else f"go on with: {again}"
        raise
