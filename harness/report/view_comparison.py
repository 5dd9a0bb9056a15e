"""Candidate against baseline, load by load, in words; against the tuned baseline too where there is one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from harness.records import Cell, Comparison, Level, Run
from harness.report import words
from harness.report.figures import bar, by_load, cells_at, level_of, log_span, scenario_title
from harness.report.page_parts import (
    ComparedLoad,
    ComparedRatio,
    ComparisonRow,
    Comparisons,
    ComparisonTable,
    Side,
)
from harness.report.view_fairness import tier
from harness.report.view_sides import CANDIDATE, COMPARED, TUNED
from harness.report.words import DASH, Shown

LONGEST_TITLE: Final = 48
NOT_THERE: Final = ComparedRatio(ratio=Shown(text="not measured"), bar=None, badge=None, ceiling="")


def comparisons(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> Comparisons | None:
    """One table per scenario, its rows by load; metrics in the order of the run. None: nothing was compared."""
    if not run.comparisons:
        return None
    against = [role for role in COMPARED if any(row.against == role for row in run.comparisons)]
    by_role = {side.role: side for side in sides}
    shown = tuple(by_role[role] for role in (*against, CANDIDATE) if role in by_role)
    titles = [short_title(by_role[role]) if role in by_role else role for role in against]
    return Comparisons(
        tier=tier(run),
        faults=run.manifest.faults if run.manifest else (),
        differences=run.manifest.differences if run.manifest else (),
        sides=shown,
        heads=tuple(short_title(side) for side in shown),
        ratios=("Ratio",) if len(against) == 1 else tuple(f"Ratio to {title}" for title in titles),
        tables=tuple(
            table(run, cells, name, against) for name in dict.fromkeys(row.scenario for row in run.comparisons)
        ),
        notes=(*notes(run, by_role.get(CANDIDATE)), *absent_notes(run, cells, against, by_role)),
    )


def short_title(side: Side) -> str:
    """Its title, or its role where the title would fill the head of a table; the page's head has both."""
    return side.title if len(side.title) <= LONGEST_TITLE else f"the {side.role}"


def table(run: Run, cells: Sequence[Cell], name: str, against: Sequence[str]) -> ComparisonTable:
    """One scenario, the lightest load first."""
    mine = sorted((row for row in run.comparisons if row.scenario == name), key=lambda row: by_load(level_of(row)))
    span = log_span(row.ratio for row in mine)
    loads = (
        compared_load(level, list(rows), against, span, absent=absent_roles(cells, name, level, against))
        for level, rows in groupby(mine, key=level_of)
    )
    return ComparisonTable(title=scenario_title(run, name), loads=tuple(loads))


def compared_load(
    level: Level,
    rows: Sequence[Comparison],
    against: Sequence[str],
    span: tuple[float, float],
    *,
    absent: Collection[str] = (),
) -> ComparedLoad:
    """One load, a line per metric; a side that was not measured there is said to be so, and has no other reason."""
    lines = []
    for metric in dict.fromkeys(row.metric for row in rows):
        by_role = {row.against: row for row in rows if row.metric == metric}
        line = comparison_row(metric, [by_role.get(role) for role in against], span)
        ratios = tuple(NOT_THERE if role in absent else one for role, one in zip(against, line.ratios, strict=True))
        lines.append(replace(line, ratios=ratios))
    present = [role for role in against if role not in absent]
    return ComparedLoad(load=words.load(level), rows=tuple(lines), reasons=reasons(rows, present))


def absent_roles(cells: Sequence[Cell], scenario: str, level: Level, against: Sequence[str]) -> list[str]:
    """The sides that have no cell at this load; none where there are no cells at all to tell by."""
    return [role for role in against if cells and not cells_at(cells, role, scenario, level)]


def absent_notes(
    run: Run, cells: Sequence[Cell], against: Sequence[str], by_role: Mapping[str, Side]
) -> tuple[str, ...]:
    """Why a side was not measured at some loads; none where all were."""
    loads = dict.fromkeys((row.scenario, level_of(row)) for row in run.comparisons)
    out = []
    for role in against:
        missing = [level for name, level in loads if role in absent_roles(cells, name, level, against)]
        if missing:
            title = by_role[role].named if role in by_role else f"the {role}"
            why = (
                "its settings are measured only where they may matter"
                if role == TUNED
                else "the run ended before it, or left it out"
            )
            levels = words.loads(sorted(set(missing), key=by_load))
            out.append(f"“Not measured”: {title} has no cell at {levels} in some scenario: {why}.")
    return tuple(out)


def reasons(rows: Sequence[Comparison], against: Sequence[str]) -> tuple[str, ...]:
    """Why something is missing or open; a reason that several metrics share is said once."""
    out = []
    is_one = len({row.against for row in rows}) == 1
    for role in against:
        mine = [row for row in rows if row.against == role]
        for reason in dict.fromkeys(row.reason for row in mine if row.reason):
            metrics = [words.short_metric(row.metric) for row in mine if row.reason == reason]
            of_what = "" if len(metrics) == len(mine) else words.listed(metrics)
            against_what = "" if is_one else f"against the {role}"
            head = ", ".join(filter(None, (of_what, against_what)))
            out.append(f"{head}: {reason}" if head else reason)
    return tuple(out)


def comparison_row(metric: str, rows: Sequence[Comparison | None], span: tuple[float, float]) -> ComparisonRow:
    """One line of the table; a side that was not compared in this metric has dashes."""
    candidate = next((row.candidate for row in rows if row is not None and row.candidate is not None), None)
    return ComparisonRow(
        metric=words.long_metric(metric),
        short=words.short_metric(metric),
        values=(
            *(words.measure(metric, row.baseline if row else None) for row in rows),
            words.measure(metric, candidate),
        ),
        ratios=tuple(compared_ratio(row, span) for row in rows),
    )


def compared_ratio(row: Comparison | None, span: tuple[float, float]) -> ComparedRatio:
    """One ratio with its verdict and what the card allows."""
    if row is None:
        return ComparedRatio(ratio=Shown(text=DASH), bar=None, badge=words.NO_RATIO, ceiling="")
    return ComparedRatio(
        ratio=words.ratio(row.ratio),
        bar=bar(row.ratio, span),
        badge=words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO,
        ceiling="" if row.ceiling_ratio is None else f"at most {words.number(row.ceiling_ratio)}×",
    )


def notes(run: Run, candidate: Side | None) -> tuple[str, ...]:
    """How to read the table."""
    first = candidate.title if candidate else "the candidate"
    level = words.confidence(one.ratio for one in run.comparisons)
    out = [
        f"Over 1× always means that {first} is faster: for times the ratio is baseline ÷ candidate.",
        f"In brackets the interval that holds the true ratio{level}. “Undecided” asks for more repeats; "
        "it does not mean “the same”.",
    ]
    if any(row.ceiling_ratio is not None for row in run.comparisons):
        out.append(
            "“At most” is the ratio that this card's data sheet allows over this baseline, whatever the software."
        )
    return tuple(out)
