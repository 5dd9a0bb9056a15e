"""The defence of a search's winner: finals, ablation and confirmation, and the preset that came of it, in words."""

import shlex
from collections.abc import Sequence
from typing import Final

from harness.records import Defence, Estimate, Flags, Judged, PresetFigure, Run, Trial
from harness.report import words
from harness.report.figures import bar, log_span
from harness.report.page_parts import Fact
from harness.report.page_study import JudgedRow, JudgedTable, PresetPart
from harness.report.view_trials import flag_texts
from harness.report.words import DASH, Badge, Shown
from harness.stats.verdict import verdict

WINNER: Final = Badge(text="winner", tone="good", sign="✓")
REFUSED: Final = Badge(text="refused", tone="bad", sign="✗")
DROPPED: Final = Badge(text="dropped", tone="plain", sign="−")
KEPT: Final = Badge(text="kept", tone="plain", sign="✓")
UNDECIDED: Final = Badge(text="undecided: kept", tone="unsure", sign="?")
NO_FIGURE: Final = Badge(text="no figure", tone="unsure", sign=DASH)
WITHOUT: Final = "without "
STAYED: Final = "An earlier preset stays in use"
"""The note of a run whose own preset lies beside that one."""


def winner_judged(run: Run) -> Judged | None:
    """What the finals found of the trial that won them. None: none won, or there were no finals."""
    defence = run.defence
    if defence is None or defence.winner is None:
        return None
    return next((one for one in defence.finals if one.name == f"trial {defence.winner}"), None)


def tables(run: Run, trials: Sequence[Trial]) -> tuple[JudgedTable, ...]:
    """The finals, then the ablation with its confirmation; what there was of them."""
    if run.defence is None:
        return ()
    found = [finals(run.defence), ablation(run.defence, trials)]
    return tuple(one for one in found if one is not None)


def verdict_text(run: Run) -> str:
    """What the defence came to; empty where there was none, or it goes on."""
    defence = run.defence
    if defence is None:
        return ""
    if not defence.is_done:
        return "The defence had not ended when this page was made."
    if defence.winner is None:
        return defence.reason
    left = ""
    if defence.dropped:
        flags = words.listed([f"--{name}" for name in defence.dropped])
        were = "they were" if len(defence.dropped) > 1 else "it was"
        left = f" Without {flags} it is the same within the noise, so {were} left out."
    return f"Trial {defence.winner} won against the defaults, on prompts that the search had not seen.{left}"


# ---------------------------------------------------------------- finals


def finals(defence: Defence) -> JudgedTable | None:
    """The finalists against the baseline. None: there were none."""
    if not defence.finals:
        return None
    span = log_span(one.ratio for one in defence.finals)
    names = objective_names(defence.finals)
    rows = tuple(
        judged_row(one, span, names, badge=final_badge(one, defence), is_winner=one.name == f"trial {defence.winner}")
        for one in defence.finals
    )
    counts = [one.launches for one in defence.finals] + [
        one.ratio.n - one.launches for one in defence.finals if one.ratio is not None
    ]
    times = words.plural(defence.blocks, "time")
    if max(counts) > defence.blocks:
        times += " or more, as far as the budget went"
    return JudgedTable(
        heading="Finals: the best of the search against the defaults, measured again",
        lead=f"{words.plural(len(defence.finals), 'finalist')} and vLLM's defaults took turns, each launched "
        f"{times}, on prompts that the search had not seen. Only a finalist whose whole interval lies above the noise "
        "wins.",
        control="the defaults",
        objectives=names,
        has_agreement=any(one.agreement is not None for one in defence.finals),
        rows=rows,
        notes=judged_notes(defence.finals, "the defaults", looks=defence.looks),
    )


def final_badge(one: Judged, defence: Defence) -> Badge:
    """What became of a finalist."""
    if one.name == f"trial {defence.winner}":
        return WINNER
    if one.is_refused:
        return REFUSED
    return words.VERDICTS[verdict(one.ratio)] if one.ratio is not None else NO_FIGURE


# ---------------------------------------------------------------- ablation


def ablation(defence: Defence, trials: Sequence[Trial]) -> JudgedTable | None:
    """The winner without each of its flags, and without all that seemed idle, against the winner. None: none was."""
    rows = [one for one in (*defence.removals, defence.confirmation) if one is not None]
    if not rows:
        return None
    flags = next((one.flags for one in trials if one.number == defence.winner), {})
    span = log_span(one.ratio for one in rows)
    names = objective_names(rows)
    shown = [
        judged_row(one, span, names, badge=removal_badge(one, defence), name=removed_name(one, flags), is_removal=True)
        for one in defence.removals
    ]
    if defence.confirmation is not None:
        shown.append(confirmation_row(defence, defence.confirmation, span, names))
    return JudgedTable(
        heading="Ablation: what each flag is worth",
        lead="The winner and the winner without one of its flags took turns, "
        f"{words.plural(defence.ablation_blocks, 'launch', 'launches')} each. A flag without which nothing is lost "
        "beyond the noise is dropped; where that cannot be told, it stays.",
        control="the winner",
        objectives=names,
        has_agreement=False,
        rows=tuple(shown),
        notes=judged_notes(rows, "the winner with all its flags"),
    )


def removed_name(one: Judged, flags: Flags) -> str:
    """ "without --max-num-seqs 128"."""
    name = one.name.removeprefix(WITHOUT)
    return f"{WITHOUT}{shlex.join(words.flag_words({name: flags[name]}))}" if name in flags else one.name


def removal_badge(one: Judged, defence: Defence) -> Badge:
    """Whether the flag stays: because something is lost without it, or because that could not be told."""
    if one.name.removeprefix(WITHOUT) in defence.dropped:
        return DROPPED
    is_needed = one.is_refused or (one.ratio is not None and one.ratio.high < 1)
    return KEPT if is_needed else UNDECIDED


def confirmation_row(defence: Defence, one: Judged, span: tuple[float, float], names: tuple[str, ...]) -> JudgedRow:
    """Several flags at once."""
    is_confirmed = len(defence.dropped) > 1
    badge = (
        Badge(text="confirmed", tone="good", sign="✓")
        if is_confirmed
        else Badge(text="not confirmed", tone="unsure", sign="✗")
    )
    name = "confirmation: without all of these that seemed to do nothing"
    return judged_row(one, span, names, badge=badge, name=name, is_removal=True)


def worth(found: Estimate | None) -> str:
    """ "7.4% is lost without it (5.1% to 9.6%)"; of an interval around 1 what it leaves open."""
    if found is None:
        return DASH
    lost, least, most = (100 * (1 - one) for one in (found.value, found.high, found.low))
    if least > 0:
        return f"{words.fixed(lost, 1)}% is lost without it"
    if most < 0:
        return f"{words.fixed(-lost, 1)}% is gained without it"
    return f"between {words.fixed(most, 1)}% lost and {words.fixed(-least, 1)}% gained without it"


# ---------------------------------------------------------------- rows of both


def objective_names(rows: Sequence[Judged]) -> tuple[str, ...]:
    """Those that have a ratio of their own."""
    return tuple(dict.fromkeys(name for one in rows for name in one.ratios))


def judged_row(
    one: Judged,
    span: tuple[float, float],
    names: Sequence[str],
    *,
    badge: Badge,
    name: str = "",
    is_removal: bool = False,
    is_winner: bool = False,
) -> JudgedRow:
    """One side against the control."""
    return JudgedRow(
        name=name or one.name,
        flags=() if is_removal else flag_texts(one.flags) or ("vLLM's defaults",),
        ratio=words.ratio(one.ratio),
        bar=bar(one.ratio, span),
        each=tuple(words.ratio(one.ratios.get(goal)) for goal in names),
        agreement=Shown(text="not asked") if one.agreement is None else words.percent_of(one.agreement),
        launches=one.launches,
        badge=badge,
        worth=worth(one.ratio) if is_removal else "",
        reason=one.reason,
        is_winner=is_winner,
    )


def judged_notes(rows: Sequence[Judged], control: str, *, looks: int = 1) -> tuple[str, ...]:
    """How to read the figures."""
    level = words.confidence(one.ratio for one in rows)
    out = [
        f"Ratios are to {control}, over 1× is better. The intervals{level} are wide enough to hold all at once "
        "(Bonferroni): who takes the best of several is not wrong more often for it."
    ]
    if looks > 1:
        out.append(
            "They allow for two looks: where the first crowns nobody, or the time kept for an ablation is too short "
            "for one, it goes to more launches of the finals, which are then judged once more."
        )
    if any(one.agreement is not None for one in rows):
        out.append(
            "Same answers: the share of greedy answers to fixed questions that are word for word those of the "
            "defaults, asked where flags decide on precision or speculation."
        )
    return tuple(out)


# ---------------------------------------------------------------- the preset


def preset_part(run: Run) -> PresetPart | None:
    """The file that this search wrote, and what it holds for. None: it wrote none."""
    preset = run.preset
    if preset is None or run.kind != "tune":
        return None
    folder = "results/simulated/presets" if preset.is_simulated else "results/presets"
    valid = preset.vllm_versions or f"{preset.vllm_version} only"
    driver = f", driver {preset.driver}" if preset.driver else ""
    where = f"simulated: {preset.gpu_title}" if preset.is_simulated else f"{preset.gpu_title}{driver}"
    weights = f", weights in {preset.precision}" if preset.precision else ""
    synthetic = ", synthetic: random, of the model's shape" if preset.is_synthetic else ""
    is_beside = any(note.startswith(STAYED) for note in run.notes)
    name = preset.run if is_beside else f"{preset.gpu}/{preset.model}"
    stayed = f".{preset.run}" if is_beside else ""
    facts = {
        "File": f"{folder}/{preset.gpu}/{preset.model}{stayed}.toml",
        "Holds for": f"{preset.model}{weights}{synthetic}; {where}",
        "Expires": f"with any vLLM that is not {valid} (found with {preset.vllm_version})",
        "Limits asked": ", ".join(preset.slos),
        "Defended": defended_text(run),
        "Made": words.day(preset.created_utc),
        "Use it": "a simulated preset is refused by every command that launches an engine"
        if preset.is_simulated
        else f"harness serve --preset {name}, or harness export {name}",
    }
    metrics = tuple(dict.fromkeys(one.metric for one in preset.figures))
    return PresetPart(
        facts=tuple(Fact(name=name, text=text) for name, text in facts.items() if text),
        heads=tuple(words.short_metric(metric) for metric in metrics),
        loads=preset_loads(preset.figures, metrics),
        notes=("Each figure with its interval over launches and repeats, and below it the ratio to vLLM's defaults.",)
        if preset.figures
        else (),
    )


def defended_text(run: Run) -> str:
    """Whether it was measured again."""
    preset = run.preset
    if preset is None or preset.is_default:
        return ""
    if preset.is_defended:
        return "yes: measured again against the defaults, on other prompts than it was chosen by"
    return "no: chosen from one launch each, so its figure is too good on average"


def preset_loads(
    figures: Sequence[PresetFigure], metrics: Sequence[str]
) -> tuple[tuple[str, tuple[tuple[Shown, Shown], ...]], ...]:
    """By load: figure and ratio of each metric."""
    loads = dict.fromkeys((one.scenario, one.rate_per_s, one.users) for one in figures)
    out = []
    for load in loads:
        mine = {one.metric: one for one in figures if (one.scenario, one.rate_per_s, one.users) == load}
        _, rate, users = load
        name = f"{rate:g} requests/s" if rate is not None else words.plural(users, "user") if users else "as recorded"
        out.append((name, tuple(figure_pair(mine.get(metric)) for metric in metrics)))
    return tuple(out)


def figure_pair(one: PresetFigure | None) -> tuple[Shown, Shown]:
    """The figure, and the ratio to the defaults."""
    if one is None:
        return Shown(text=DASH), Shown(text="")
    return words.estimate(one.metric, one.value), words.ratio(one.ratio)
