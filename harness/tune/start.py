"""The search of a study: its space, its seeds, its storage."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import config, engines
from harness.progress import Say
from harness.records import Flags
from harness.search import Demand, Search, Space, presets_of, seeds_for, space_for
from harness.store import RunFolder
from harness.tune.plan import Plan, spec_for
from harness.tune.sound import JOURNAL

PRECISION = "bf16"
"""Of weights that nobody quantized, where the files do not say."""


def search_for(
    plan: Plan,
    *,
    folder: RunFolder,
    results: Path,
    demand: Demand,
    violations: Callable[[Flags], Sequence[str]],
    say: Say,
    storage: str | None = None,
    worker: int | None = None,
) -> Search:
    """The search over what is worth trying with this card, model and load, as far as this vLLM takes it.

    Args:  storage: URL of the database, with its password. None: the run folder. worker: of several. None: the one that
           starts them, or that is alone.
    """
    space = space_for(
        plan.profile,
        plan.model.shape,
        precision=plan.files.vllm_precision or PRECISION,
        schema=engines.flags_of(spec_for(plan, {})),
        demand=demand,
        allow=plan.allowed,
        is_shared=plan.is_card_shared,
    )
    cards = config.gpu_profiles()
    known = {
        card: preset
        for card, preset in presets_of(plan.model.name, results=results, cards=cards).items()
        if preset.run != folder.id and not preset.is_simulated
    }
    return Search(
        storage=storage or folder.path / JOURNAL,
        study=plan.study,
        space=space,
        seed=plan.seed,
        seeds=seeds_for(space, plan.profile, demand=demand, presets=known, profiles=cards),
        objectives=len(plan.objectives),
        is_allowed=violations,
        worker=worker_name(plan, folder, worker) if storage or plan.workers > 1 else None,
        about=about(plan, space),
        say=say,
    )


def worker_name(plan: Plan, folder: RunFolder, number: int | None = None) -> str:
    """A run's name in a storage that hosts share, or that of one of its workers, which goes on from it."""
    run = f"{folder.id} on {plan.host}" if plan.host else folder.id
    return run if number is None else f"{run}/{number}"


def about(plan: Plan, space: Space) -> dict[str, str]:
    """What must be the same for all that share a search; by what people call it."""
    axes = repr([(axis.flag, axis.steps) for axis in space.axes]).encode()
    return {
        "model": plan.model.name,
        "GPU": plan.profile.name,
        "engine": plan.engine,
        "objective": plan.objective,
        "limits": " ".join(plan.slos),
        "scenario": plan.scenario.name,
        "users": ",".join(map(str, plan.users)),
        "settings to search": hashlib.sha256(axes).hexdigest()[:12],
    }
