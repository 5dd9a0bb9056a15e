"""The search of a study: its space, its seeds, its storage."""

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import config, engines
from harness.records import Flags
from harness.search import Demand, Search, presets_of, seeds_for, space_for
from harness.store import RunFolder
from harness.tune.plan import Plan, spec_for

PRECISION = "bf16"
"""Of weights that nobody quantized, where the files do not say."""


def search_for(
    plan: Plan,
    *,
    folder: RunFolder,
    results: Path,
    demand: Demand,
    longest_tokens: int,
    violations: Callable[[Flags], Sequence[str]],
) -> Search:
    """The search over what is worth trying with this card, model and load, as far as this vLLM takes it."""
    del longest_tokens  # `violations` knows it
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
        storage=folder.path / "study.journal",
        study="harness",
        space=space,
        seed=plan.seed,
        seeds=seeds_for(space, plan.profile, demand=demand, presets=known, profiles=cards),
        objectives=len(plan.objectives),
        is_allowed=violations,
    )
