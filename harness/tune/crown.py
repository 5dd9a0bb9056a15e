"""What a study ends with: the preset, and the note that says how far it may be believed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness import __version__, presets
from harness.recording import Recording, utc_now
from harness.records import Cell, Estimate, Flags, Outcome, Preset, Trial, Verdict
from harness.stats.verdict import verdict
from harness.tune.placing import EARLIER, placed, usual_file
from harness.tune.plan import Plan, role_of
from harness.tune.rules import kept_ratio, kept_role

CROWNING: Final = "The winner of the search:"
"""How the note about the winner begins; a search that goes on replaces it."""


def crown(plan: Plan, recording: Recording, trials: Sequence[Trial], *, results: Path) -> str:
    """Writes the preset: what was defended, or undefended the best that is surely faster; else the defaults.

    Returns:  The note about it; empty where nothing is new: what another run has found since stays then.
    """
    run, baseline, by_number = recording.run, trials[0], {trial.number: trial for trial in trials}
    best: Trial | None
    if plan.is_defended:
        assert run.defence is not None
        defence = run.defence
        best = None if defence.winner is None else by_number[defence.winner]
        flags = baseline.flags if best is None else defence.flags
        ratio, role = None if best is None else kept_ratio(defence), kept_role(defence)
        note = defended_note(trials, defence.reason, defence.dropped)
    else:
        best = winner([trial for trial in trials if trial.is_candidate])
        flags, ratio = (baseline.flags, None) if best is None else (best.flags, best.objective)
        role = role_of(0 if best is None else best.number)
        note = undefended_note(trials, best)
    found = preset_of(plan, recording, flags, ratio, role=role, is_default=best is None)
    if run.preset is not None and msgspec.structs.replace(run.preset, created_utc=found.created_utc) == found:
        if usual_file(found, results).exists():
            return ""
        placed(run.preset, results=results)
        return "its preset was gone, and is written again"
    earlier = placed(found, results=results).note
    others = tuple(one for one in run.notes if not one.startswith((CROWNING, EARLIER)))
    recording.update(preset=found, notes=(*others, note, *filter(None, [earlier])))
    return "\n".join(filter(None, [note, earlier]))


def preset_of(
    plan: Plan, recording: Recording, flags: Flags, ratio: Estimate | None, *, role: str, is_default: bool
) -> Preset:
    """The settings with all that is known of them.

    Args:  role: of the cells whose figures they are told with.
    """
    run = recording.run
    facts = next(facts for facts in run.engines if facts.role == "baseline")
    mine, theirs = figure_cells(recording, role)
    return Preset(
        gpu=plan.profile.name,
        model=plan.model.name,
        flags=flags,
        is_default=is_default,
        objective="; ".join(f"{one.name}: {one.meaning}" for one in plan.objectives),
        ratio=ratio,
        vllm_version=facts.version,
        gpu_title=plan.profile.title if plan.is_simulated else run.host.gpu or run.host.cpu,
        run=recording.folder.id,
        created_utc=utc_now(),
        vllm_versions=presets.expiry(facts.version),
        driver="" if plan.is_simulated else run.host.gpu_driver or "",
        harness_version=__version__,
        precision=facts.precision,
        slos=plan.slos,
        is_synthetic=facts.is_synthetic,
        figures=() if is_default else presets.figures_of(mine, theirs),
        is_simulated=plan.is_simulated or run.is_simulated,
        is_defended=plan.is_defended and not is_default,
    )


def figure_cells(recording: Recording, role: str) -> tuple[list[Cell], list[Cell]]:
    """The cells of the role, and the baseline's that took turns with them; none did with those of an ablation."""
    folder, defence = recording.folder, recording.run.defence
    cells, reduced = folder.cells(), not role.startswith(("final", "trial", "baseline"))
    if reduced and defence is not None:  # of an earlier round it would be another winner's
        blocks = {one.block for one in folder.defence() if (one.role, one.round) == (role, defence.round)}
        return [cell for cell in cells if cell.role == role and cell.block in blocks], []
    against = "final baseline" if role.startswith("final") else "baseline"
    mine, theirs = ([cell for cell in cells if cell.role == side] for side in (role, against))
    return mine, theirs


def winner(trials: Sequence[Trial]) -> Trial | None:
    """The best of the trials whose whole interval is above the defaults. None: there is none."""
    faster = [
        trial for trial in trials if trial.outcome == Outcome.MEASURED and verdict(trial.objective) == Verdict.FASTER
    ]
    return max(faster, key=lambda trial: trial.objective.value if trial.objective else 0.0, default=None)


def defended_note(trials: Sequence[Trial], reason: str, dropped: Sequence[str]) -> str:
    """What the defence came to."""
    count = sum(trial.outcome == Outcome.MEASURED for trial in trials if trial.is_candidate)
    left = f" Without {', '.join(f'--{name}' for name in dropped)} it is the same within the noise." if dropped else ""
    return f"{CROWNING} of {count} candidates with figures. {reason}{left}"


def undefended_note(trials: Sequence[Trial], best: Trial | None) -> str:
    """What a search without a defence came to."""
    measured = [trial for trial in trials if trial.is_candidate and trial.objective is not None]
    if best is not None:
        return (
            f"{CROWNING} chosen as the best of {len(measured)} candidates from one launch each, by the same "
            "figures that are shown for it: such a figure is too good on average. A comparison measures it anew."
        )
    if measured:
        return f"{CROWNING} none: no candidate was surely faster than vLLM's defaults. Keep them."
    return f"{CROWNING} none: no candidate gave figures, so there was nothing to compare the defaults with."
