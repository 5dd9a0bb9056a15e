"""The targets, what became of them, and whether the card allows them at all, in words."""

from collections.abc import Sequence
from typing import Final

from harness.records import Comparison, Run, Target
from harness.report import words
from harness.report.figures import level_of, scenario_title
from harness.report.page_parts import Side, TargetRow, Targets
from harness.report.view_ceilings import NO_DATA_SHEET
from harness.report.view_fairness import tier
from harness.report.view_sides import BASELINE, pair
from harness.report.words import Badge

REACHABLE: Final = Badge(text="reachable", tone="plain", sign="✓")
UNREACHABLE: Final = Badge(text="unreachable", tone="bad", sign="✗")
ABOVE: Final = Badge(text="above its ceiling: INVALID", tone="bad", sign="!")


def targets_table(run: Run, sides: Sequence[Side], targets: Sequence[Target]) -> Targets | None:
    """Every comparison that has a target. None: none has, or nothing was compared."""
    both = pair(sides)
    aimed = [row for row in run.comparisons if row.target is not None]
    if both is None or not aimed:
        return None
    baseline, _ = both
    is_real = baseline.facts is not None and baseline.facts.engine == "ollama"
    heading = (
        f"Targets against {baseline.title}"
        if is_real
        else f"Targets against Ollama, measured here against {baseline.title}"
    )
    lines = {(one.scenario, one.users, one.metric): one for one in targets}
    found = [lines.get((row.scenario, row.users, row.metric)) for row in aimed]
    titles = {side.role: side.title for side in sides}
    rows = tuple(target_row(run, row, target, titles) for row, target in zip(aimed, found, strict=True))
    return Targets(heading=heading, rows=rows, notes=notes(run, rows, found))


def notes(run: Run, rows: Sequence[TargetRow], found: Sequence[Target | None]) -> tuple[str, ...]:
    """How to read the table, and what it is of."""
    out = [f"All of it {tier(run)}."] if run.manifest else []
    out.append(
        "A target is met where the whole interval lies at or above it, missed where all of it lies below; an interval "
        "that straddles it leaves it undecided."
    )
    if any(row.ceiling_badge for row in rows):
        out.append(
            "The ceiling is what the card's data sheet allows over this baseline: an unreachable target asks for more "
            "than any software could give on this card."
        )
    elif run.host.gpu is None:
        out.append(f"{NO_DATA_SHEET} So no target is called reachable or unreachable.")
    if any(row.absolute_badge for row in rows):
        out.append("Seconds are judged only on the card and with the model they were set for.")
    where = sorted({f"{one.gpu} with {one.model}" for one in found if one and one.then_s is not None and one.gpu})
    if any(row.then for row in rows):
        out.append(
            "“Then” is what the planning document had measured, "
            + (f"on {words.listed(where)}; " if where else "")
            + "it is no part of this run."
        )
    return tuple(out)


def target_row(run: Run, row: Comparison, target: Target | None, titles: dict[str, str]) -> TargetRow:
    """A target's verdict and, where seconds apply, theirs.

    Seconds may be of another metric than the ratio, and then stand in that metric's comparison.
    """
    place = (row.scenario, level_of(row), row.against)
    here = [one for one in run.comparisons if (one.scenario, level_of(one), one.against) == place]
    timed = next((one for one in here if one.absolute_s is not None), None)
    then = ""
    if target and target.then_s is not None:
        of_what = words.short_metric(target.absolute_metric or target.metric)
        then = f"{words.seconds(target.then_s)} {of_what}"
    against = "" if row.against == BASELINE else f", against {titles.get(row.against, row.against)}"
    ceiling_badge, ceiling = ceiling_words(row)
    return TargetRow(
        name=scenario_title(run, row.scenario),
        load=f"{words.load(level_of(row))}{against}",
        metric=words.long_metric(row.metric),
        ratio=words.ratio(row.ratio),
        levels=(words.times(row.done), words.times(row.target), words.times(row.stretch)),
        badge=words.MET[row.met] if row.ratio else words.NOT_MEASURED,
        detail=target_detail(row),
        ceiling=ceiling,
        ceiling_badge=ceiling_badge,
        then=then,
        absolute=f"{words.seconds(timed.absolute_s)} {words.short_metric(timed.metric)}"
        if timed and timed.absolute_s is not None
        else "",
        measured=words.measure(timed.metric, timed.candidate) if timed else "",
        absolute_badge=(words.NOT_MEASURED if timed.candidate is None else words.MET[timed.absolute_met])
        if timed
        else None,
    )


def target_detail(row: Comparison) -> str:
    """What the interval says about the other two levels."""
    if row.ratio is None:
        return row.reason
    if row.stretch is not None and row.ratio.low >= row.stretch:
        return f"and so is the stretch of {words.times(row.stretch)}"
    if row.met is not True and row.done is not None and row.done != row.target and row.ratio.low >= row.done:
        return f"but {words.times(row.done)}, which counts as done, is reached"
    return ""


def ceiling_words(row: Comparison) -> tuple[Badge | None, str]:
    """Whether the card allows the target, and the figure. (None, …): it is not known."""
    limit = "" if row.ceiling_ratio is None else f"at most {words.number(row.ceiling_ratio)}× on this card"
    if row.ceiling_ratio is not None and row.ratio is not None and row.ratio.low > row.ceiling_ratio:
        return ABOVE, limit
    kind, _, told = row.reach.partition(": ")
    if not kind:
        return None, limit
    badge = {"reachable": REACHABLE, "unreachable": UNREACHABLE}.get(kind)
    # The words hold more than the ceiling where they assume something of the server.
    is_bare = row.ceiling_ratio is not None and told in {"", f"at most {row.ceiling_ratio:.2f}x"}
    return (badge, limit if is_bare else told) if badge else (None, row.reach)
