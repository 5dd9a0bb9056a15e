"""What the page about a run says: every word, unit, rounding and choice; no file, no markup, no drawing.

`page` is called once with all records of a run. The renderers (`html`, `charts`) print what it returns.

A server is always called by its title. llama.cpp measured in Ollama's place is "llama.cpp, the engine
inside Ollama", never "Ollama": that program did not run.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Final
from urllib.parse import quote

from harness.records import Cell, CellState, ClientHealth, Comparison, Estimate, Run, RunState, Target, Trial
from harness.report import view_headline, view_method, view_search, words
from harness.report.figures import (
    LATENCIES,
    bar,
    latencies,
    latency,
    log_span,
    missing,
    pooled,
    repeats_of,
    scenario_names,
    scenario_title,
    users_of,
)
from harness.report.page import (
    Banner,
    CellGroup,
    CellRow,
    CellTable,
    ChartGroup,
    ComparedLoad,
    ComparisonRow,
    ComparisonTable,
    Entry,
    FigureTable,
    LineChart,
    Page,
    Point,
    Problem,
    Series,
    Side,
    Summary,
    TargetRow,
    Targets,
)
from harness.report.view_sides import BOTH, fairness, pair, sides_of
from harness.report.words import DASH, Shown

CHARTED: Final = ("output_tok_s", "ttft_s.p50", "e2e_s.p50", "itl_s.p50")
FIGURES: Final = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50")
# From here on a linear axis hides the smaller values.
LOG_FROM_RATIO: Final = 20.0


def page(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], *, targets: Sequence[Target] = ()) -> Page:
    """All that is said about `run`.

    Args:     targets: rows of targets.toml, for their names and for what was measured then; the
                  targets themselves come with the comparisons.
    """
    sides = sides_of(run, cells, trials)
    headline = view_headline.headline(run, cells, trials, sides)
    tables = comparison_tables(run)
    groups = chart_groups(run, cells, sides)
    return Page(
        summary=Summary(
            id=run.id,
            kind=run.kind,
            state=run.state.value,
            model=run.model,
            gpu=card(run),
            started_utc=run.started_utc,
            headline=headline,
        ),
        kind=KINDS.get(run.kind, run.kind),
        date=day(run.started_utc),
        took=took(run),
        title=f"{run.model} on {card(run)}",
        sides=sides,
        joiner="against" if run.kind in {"compare", "tune"} else "and",
        banner=banner(run),
        headline=headline,
        cautions=view_headline.cautions(cells, sides),
        strip=view_headline.strip(run, trials, sides),
        targets=targets_table(run, sides, targets),
        comparisons=tables,
        comparison_notes=comparison_notes(run, sides) if tables else (),
        signs=", ".join(f"{one.sign} {one.text}" for one in (*words.VERDICTS.values(), words.NO_RATIO)),
        figures=() if tables else figure_tables(run, cells, sides),
        charts=groups,
        chart_notes=chart_notes(run, cells, sides, has_charts=bool(groups)),
        settings=view_search.settings(run, trials),
        scenarios=view_method.scenario_table(run, cells),
        method=view_method.method(run, cells),
        glossary=view_method.glossary(run, cells),
        fairness=fairness(cells, sides),
        cells=cell_table(run, cells, sides),
        problems=problems(run, cells),
        machine=view_method.machine(run),
        commands=view_method.commands(run),
        limits=view_method.limits(run),
        raw=view_method.raw_files(run, trials),
        made_by=f"harness {run.harness_version}",
    )


def entry(name: str, summary: Summary) -> Entry:
    """A report's line in the index; `name` is its file's."""
    return Entry(
        href=quote(name),
        id=summary.id,
        kind=KINDS.get(summary.kind, summary.kind),
        state="" if summary.state == RunState.DONE else summary.state.lower(),
        model=summary.model,
        gpu=summary.gpu,
        date=day(summary.started_utc),
        headline=summary.headline,
    )


KINDS: Final = {"compare": "Comparison", "tune": "Search for settings", "bench": "Measurement"}


# ---------------------------------------------------------------- who and where


def card(run: Run) -> str:
    """The GPU as it calls itself, or that there was none."""
    return run.host.gpu or f"a CPU ({run.host.cpu}, {words.plural(run.host.cores, 'core')})"


def day(stamp: str) -> str:
    """ "22 November 2026, 14:03 UTC"; a stamp that is no date stays as it is."""
    try:
        when = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    zone = when.tzname() or "no time zone"
    return f"{when.day} {MONTHS[when.month - 1]} {when.year}, {when:%H:%M} {zone}"


# Not strftime("%B"): its words follow the reader's locale.
MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def took(run: Run) -> str:
    """How long the run lasted; empty where it has no end."""
    try:
        ended, started = (datetime.fromisoformat(stamp) for stamp in (run.ended_utc or "", run.started_utc))
        return words.duration((ended - started).total_seconds())
    except (ValueError, TypeError):
        return ""


def banner(run: Run) -> Banner | None:
    """What stands above everything when the run is not whole. None: it is."""
    title, text = {
        RunState.DONE: ("", ""),
        RunState.RUNNING: (
            "This run has not ended",
            "It is still going on, or was killed. The page shows what it had written.",
        ),
        RunState.INTERRUPTED: (
            "This run was interrupted",
            "The page shows what had been measured until then; every cell in it is whole.",
        ),
        RunState.FAILED: ("This run failed", "The page shows what had been measured until then."),
    }[run.state]
    if run.state is RunState.DONE:
        return Banner(tone="bad", title="The run reports an error", text=run.error) if run.error else None
    tone = "bad" if run.state is RunState.FAILED else "unsure"
    return Banner(tone=tone, title=title, text=f"{text} {run.error}".strip())


# ---------------------------------------------------------------- targets


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
    rows = tuple(target_row(run, row, target) for row, target in zip(aimed, found, strict=True))
    notes = [
        "A target is met where the whole interval lies at or above it, missed where all of it lies below; an interval "
        "that straddles it leaves it undecided."
    ]
    if any(row.absolute_badge for row in rows):
        notes.append("Seconds are judged only on the card and with the model they were set for.")
    where = sorted({f"{one.gpu} with {one.model}" for one in found if one and one.then_s is not None and one.gpu})
    if any(row.then for row in rows):
        notes.append(
            "“Then” is what the planning document had measured, "
            + (f"on {words.listed(where)}; " if where else "")
            + "it is no part of this run."
        )
    return Targets(heading=heading, rows=rows, notes=tuple(notes))


def target_row(run: Run, row: Comparison, target: Target | None) -> TargetRow:
    """A target's verdict and, where seconds apply, theirs.

    Seconds may be of another metric than the ratio, and then stand in that metric's comparison.
    """
    here = [one for one in run.comparisons if (one.scenario, one.users) == (row.scenario, row.users)]
    timed = next((one for one in here if one.absolute_s is not None), None)
    then = ""
    if target and target.then_s is not None:
        of_what = words.short_metric(target.absolute_metric or target.metric)
        then = f"{words.seconds(target.then_s)} {of_what}"
    return TargetRow(
        name=scenario_title(run, row.scenario),
        load=words.plural(row.users, "user"),
        metric=words.long_metric(row.metric),
        ratio=words.ratio(row.ratio),
        levels=(words.times(row.done), words.times(row.target), words.times(row.stretch)),
        badge=words.MET[row.met] if row.ratio else words.NOT_MEASURED,
        detail=target_detail(row),
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


# ---------------------------------------------------------------- comparisons


def comparison_tables(run: Run) -> tuple[ComparisonTable, ...]:
    """One table per scenario, its rows by users; metrics in the order of the run."""
    out = []
    for name in dict.fromkeys(row.scenario for row in run.comparisons):
        rows = sorted((row for row in run.comparisons if row.scenario == name), key=lambda row: row.users)
        span = log_span(row.ratio for row in rows)
        loads = (compared_load(users, list(group), span) for users, group in groupby(rows, key=lambda row: row.users))
        out.append(ComparisonTable(title=scenario_title(run, name), loads=tuple(loads)))
    return tuple(out)


def compared_load(users: int, rows: Sequence[Comparison], span: tuple[float, float]) -> ComparedLoad:
    """One load; a reason that several metrics share is said once."""
    reasons = {
        reason: [words.short_metric(row.metric) for row in rows if row.reason == reason]
        for reason in dict.fromkeys(row.reason for row in rows if row.reason)
    }
    return ComparedLoad(
        users=words.plural(users, "user"),
        rows=tuple(comparison_row(row, span) for row in rows),
        reasons=tuple(
            reason if len(metrics) == len(rows) else f"{words.listed(metrics)}: {reason}"
            for reason, metrics in reasons.items()
        ),
    )


def comparison_row(row: Comparison, span: tuple[float, float]) -> ComparisonRow:
    """One line of the table."""
    return ComparisonRow(
        metric=words.long_metric(row.metric),
        short=words.short_metric(row.metric),
        baseline=words.measure(row.metric, row.baseline),
        candidate=words.measure(row.metric, row.candidate),
        ratio=words.ratio(row.ratio),
        bar=bar(row.ratio, span),
        badge=words.VERDICTS[row.verdict] if row.ratio else words.NO_RATIO,
    )


def comparison_notes(run: Run, sides: Sequence[Side]) -> tuple[str, ...]:
    """How to read the table."""
    both = pair(sides)
    first = both[1].title if both else "the candidate"
    level = words.confidence(one.ratio for one in run.comparisons)
    return (
        f"Over 1× always means that {first} is faster: for times the ratio is baseline ÷ candidate.",
        f"In brackets the interval that holds the true ratio{level}. “Undecided” asks for more repeats; "
        "it does not mean “the same”.",
    )


# ---------------------------------------------------------------- figures without a comparison


def figure_tables(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[FigureTable, ...]:
    """What was measured, where nothing is compared."""
    tables = (figure_table(run, name, cells, sides) for name in scenario_names(run, cells))
    return tuple(table for table in tables if table.loads)


def figure_table(run: Run, name: str, cells: Sequence[Cell], sides: Sequence[Side]) -> FigureTable:
    """One scenario, by users and server."""
    here = [cell for cell in cells if cell.scenario == name]
    known = known_latencies(here)
    metrics = [metric for metric in FIGURES if words.split_metric(metric)[0] in {"output_tok_s", *known}]
    loads = []
    for users in users_of(here, name):
        mine = [(side, [c for c in here if (c.role, c.users) == (side.role, users)]) for side in sides]
        lines = tuple((side, tuple(figure(own, metric) for metric in metrics)) for side, own in mine if own)
        if lines:
            loads.append((words.plural(users, "user"), lines))
    return FigureTable(
        title=scenario_title(run, name),
        metrics=tuple(words.short_metric(metric) for metric in metrics),
        loads=tuple(loads),
        notes=(
            "Geometric mean of the valid repeats, in brackets the smallest and the largest of them."
            if repeats_of(here) > 1
            else "One repeat, so there is no range.",
            *words.footnotes(one.mark for _, lines in loads for _, shown in lines for one in shown),
            *whole_answers(known),
        ),
    )


def figure(cells: Sequence[Cell], metric: str) -> Shown:
    """The repeats of one load taken together, or why there is nothing to take."""
    valid = [cell for cell in cells if cell.state is CellState.MEASURED]
    if not valid:
        return Shown(text=cells[0].state.value)
    found = pooled(valid, valid[0].role, valid[0].scenario, valid[0].users, metric)
    return found.shown(metric) if found else missing(valid[0], metric)


def known_latencies(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The latencies that any of the cells has; all of them where no cell has one."""
    return tuple(name for name in LATENCIES if any(latency(cell, name) for cell in cells)) or LATENCIES


def whole_answers(known: Sequence[str]) -> tuple[str, ...]:
    """Why a table has fewer latencies than others."""
    gone = [words.short_metric(name) for name in LATENCIES if name not in known]
    return (f"No {words.listed(gone, last='or')}: {words.FOOTNOTES[words.NOT_STREAMED]}.",) if gone else ()


# ---------------------------------------------------------------- charts


def chart_groups(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[ChartGroup, ...]:
    """The charts of every scenario that was measured at more than one load."""
    out = []
    for name in scenario_names(run, cells):
        ticks = tuple(users_of(cells, name))
        if len(ticks) < 2:
            continue
        charts = tuple(
            chart for metric in CHARTED if (chart := line_chart(cells, sides, name, metric, ticks)) is not None
        )
        if charts:
            out.append(ChartGroup(title=scenario_title(run, name), charts=charts))
    return tuple(out)


def line_chart(
    cells: Sequence[Cell], sides: Sequence[Side], scenario: str, metric: str, ticks: tuple[int, ...]
) -> LineChart | None:
    """One metric of all sides over users. None: nobody has a figure."""
    found = {
        side.role: [(users, one) for users in ticks if (one := pooled(cells, side.role, scenario, users, metric))]
        for side in sides
    }
    values = [one.value for points in found.values() for _, one in points]
    if not values:
        return None
    factor, unit = words.scale(metric, max(values))
    series = tuple(
        Series(
            label=side.title,
            look=side.look,
            points=tuple(
                Point(users=users, value=one.value * factor, low=one.low * factor, high=one.high * factor)
                for users, one in found[side.role]
            ),
        )
        for side in sides
        if found[side.role]
    )
    bottom = min(one.low for points in found.values() for _, one in points)
    is_log = bottom > 0 and max(values) / bottom > LOG_FROM_RATIO
    title = words.long_metric(metric)
    return LineChart(
        name=f"{scenario}-{metric}",
        title=title,
        unit=f"{unit}, logarithmic" if is_log else unit,
        is_log=is_log,
        ticks=ticks,
        series=series,
        description=" ".join(
            f"{one.label}: {', '.join(f'{words.number(p.value)} {unit} at {p.users}' for p in one.points)} users."
            for one in series
        ),
    )


def chart_notes(run: Run, cells: Sequence[Cell], sides: Sequence[Side], *, has_charts: bool) -> tuple[str, ...]:
    """How to read the charts, and what is not in them."""
    if not has_charts:
        what = "Every scenario has one load only" if cells else "There are no cells"
        return (f"{what}: there is nothing to draw.",)
    points = (
        "Points are the geometric mean of the repeats, bars run from the smallest to the largest repeat."
        if repeats_of(cells) > 1
        else "Points are single measurements: with one repeat there is no range to draw."
    )
    out = [f"{points} Users are on a logarithmic axis whose ticks are the loads that were measured."]
    gaps = sorted(
        {
            f"{side.title} at {words.plural(cell.users, 'user')} ({scenario_title(run, cell.scenario)})"
            for side in sides
            for cell in cells
            if cell.role == side.role
            and not any(
                (other.role, other.scenario, other.users, other.state)
                == (cell.role, cell.scenario, cell.users, CellState.MEASURED)
                for other in cells
            )
        }
    )
    if gaps:
        out.append(f"Not drawn, since no repeat was valid: {'; '.join(gaps)}.")
    return tuple(out)


# ---------------------------------------------------------------- all cells


def cell_table(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> CellTable:
    """Every cell of the run, by scenario and server; what the page is not about is folded away."""
    by_role = {side.role: side for side in sides}
    groups = []
    for name in scenario_names(run, cells):
        here = [cell for cell in cells if cell.scenario == name]
        for role in dict.fromkeys(cell.role for cell in here):
            mine = sorted((cell for cell in here if cell.role == role), key=lambda cell: (cell.users, cell.repeat))
            stats = stats_of(mine)
            title = by_role[role].title if role in by_role else f"{mine[0].title} ({role})"
            groups.append(
                CellGroup(
                    title=f"{scenario_title(run, name)}: {title}",
                    stats=(*stats, "n"),
                    rows=tuple(cell_row(cell, known_latencies(mine), stats) for cell in mine),
                    is_folded=role not in by_role,
                )
            )
    folded = sum(len(group.rows) for group in groups if group.is_folded)
    return CellTable(
        groups=tuple(groups),
        folded=f"{words.plural(folded, 'more cell')} of the other servers of this run" if folded else "",
        notes=cell_notes(cells, groups),
    )


def cell_notes(cells: Sequence[Cell], groups: Sequence[CellGroup]) -> tuple[str, ...]:
    """How to read the table."""
    if not cells:
        return ("Nothing was measured.",)
    texts = [
        text
        for group in groups
        for row in group.rows
        for text in (row.throughput.mark, *(one for _, line in row.lines for one in line))
    ]
    return (
        f"In brackets the interval{words.confidence(latencies(cells))}; n is the number of values behind it: requests, "
        "for ITL answers, for tok/s slices of the window. The client's lag is how late it woke up.",
        *words.footnotes(mark for mark in words.FOOTNOTES if any(text.endswith(mark) for text in texts)),
    )


def stats_of(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The statistics that any of the cells has."""
    found = dict.fromkeys(stat for cell in cells for name in LATENCIES for stat in latency(cell, name))
    return tuple(found) or ("p50", "p95")


def cell_row(cell: Cell, known: Sequence[str], stats: Sequence[str]) -> CellRow:
    """One cell with all its statistics."""
    has_figures = cell.state is not CellState.FAILED
    lines = (
        (
            words.short_metric(name),
            (*(str(stat_shown(cell, name, stat)) for stat in stats), count(latency(cell, name).values())),
        )
        for name in known
    )
    return CellRow(
        users=words.plural(cell.users, "user"),
        repeat=cell.repeat,
        badge=words.CELL_STATES[cell.state],
        requests=f"{cell.requests:,}",
        failures=f"{cell.failures:,} failed" if cell.failures else "",
        window=words.duration(cell.window_s) if cell.window_s is not None else DASH,
        throughput=words.estimate("", cell.output_tok_s) if has_figures else Shown(text=DASH),
        throughput_n=count([cell.output_tok_s]),
        lines=tuple(lines) if has_figures else (),
        client=client_lines(cell.client),
        reasons=cell.reasons,
    )


def client_lines(health: ClientHealth | None) -> tuple[str, ...]:
    """How busy and how late the client was: the median decides whether it was the limit, p99 shows hiccups."""
    if health is None:
        return ()
    return (
        f"{words.fixed(100 * health.cpu_ratio, 1)}% of a core",
        f"lag p50 {words.fixed(1000 * health.lag_p50_s, 2)} ms",
        f"lag p99 {words.fixed(1000 * health.lag_p99_s, 2)} ms",
    )


def stat_shown(cell: Cell, name: str, stat: str) -> Shown:
    """One statistic, or a dash with the footnote that says why it is missing."""
    found = latency(cell, name).get(stat)
    return missing(cell, f"{name}.{stat}") if found is None else words.estimate(f"{name}.{stat}", found)


def count(estimates: Iterable[Estimate | None]) -> str:
    """How many values stand behind the estimates; empty where there are none."""
    return next((f"{one.n:,}" for one in estimates if one is not None), "")


def problems(run: Run, cells: Sequence[Cell]) -> tuple[Problem, ...]:
    """The cells that are not MEASURED."""
    return tuple(
        Problem(
            where=", ".join(
                (
                    cell.title if cell.role in {*BOTH, "bench"} else f"{cell.title} ({cell.role})",
                    scenario_title(run, cell.scenario),
                    words.plural(cell.users, "user"),
                    f"repeat {cell.repeat}",
                )
            ),
            badge=words.CELL_STATES[cell.state],
            reasons=cell.reasons or ("no reason was recorded",),
        )
        for cell in cells
        if cell.state is not CellState.MEASURED
    )
