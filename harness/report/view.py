"""What the page about a run says: every word, unit, rounding and choice; no file, no markup, no drawing.

`page` is called once with all records of a run. The renderers (`html`, `charts`) print what it returns.

A server is always called by its title. llama.cpp measured in Ollama's place is "llama.cpp, the engine
inside Ollama", never "Ollama": that program did not run.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from harness.records import (
    Cell,
    CellState,
    Comparison,
    EngineFacts,
    Estimate,
    Flags,
    FlagValue,
    Metric,
    Outcome,
    Run,
    RunState,
    Scenario,
    Target,
    Trial,
    Verdict,
)
from harness.report import words
from harness.report.page import (
    Banner, Bar, CellGroup, CellRow, CellTable, ChartGroup, ComparisonRow, ComparisonTable, Fact, Fairness,
    FairnessRow, FigureTable, LineChart, Page, Point, Problem, Series, Settings, Side, Strip, Summary, TargetRow,
    Targets, Tile, TrialChart, TrialMark, TrialRow,
)
from harness.report.words import DASH, Shown

# Names under which engines speak of their context length, in flags and logs.
CONTEXT_NAMES: Final = ("max-model-len", "max_model_len", "max_seq_len", "n_ctx", "ctx-size", "num_ctx")
# The same 16-bit width under its many names; bf16 against f16 costs the same bytes per weight.
SIXTEEN_BIT: Final = frozenset({"bf16", "bfloat16", "f16", "fp16", "float16", "half"})
CHARTED: Final = ("output_tok_s", "ttft_s.p50", "e2e_s.p50", "itl_s.p50")
FIGURES: Final = ("output_tok_s", "ttft_s.p50", "itl_s.p50", "tpot_s.p50", "e2e_s.p50")
LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
# From here on a linear axis hides the smaller values.
LOG_FROM_RATIO: Final = 20.0


def page(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], *, targets: Sequence[Target] = ()) -> Page:
    """All that is said about `run`.

    Args:     targets: rows of targets.toml, for their names and for what was measured then; the
                  targets themselves come with the comparisons.
    """
    sides = sides_of(run, cells, trials)
    headline = headline_of(run, cells, trials, sides)
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
        banner=banner(run),
        headline=headline,
        cautions=cautions(run, cells, sides),
        strip=strip(run, cells, trials, sides),
        targets=targets_table(run, sides, targets),
        comparisons=tables,
        comparison_notes=comparison_notes(run, sides) if tables else (),
        figures=() if tables else figure_tables(run, cells, sides),
        charts=groups,
        chart_notes=chart_notes(run, cells, sides, has_charts=bool(groups)),
        settings=settings(run, trials, sides),
        scenarios=tuple((titled(one), scenario_facts(one, cells)) for one in run.scenarios),
        method=method(run, cells),
        glossary=glossary(run, cells),
        fairness=fairness(cells, sides),
        cells=cell_table(run, cells, sides),
        problems=problems(run, cells),
        machine=machine(run),
        commands=commands(run),
        limits=limits(run),
        raw=raw_files(run, trials),
        made_by=f"harness {run.harness_version}",
    )


KINDS: Final = {"compare": "Comparison", "tune": "Search for settings", "bench": "Measurement"}


# ---------------------------------------------------------------- who and where


def sides_of(run: Run, cells: Sequence[Cell], trials: Sequence[Trial]) -> tuple[Side, ...]:
    """The servers that the page is about: both of a comparison, defaults and winner of a search, or all."""
    roles = {cell.role: cell.title for cell in cells} | {facts.role: facts.title for facts in run.engines}
    if run.kind == "tune":
        best = winner(run, trials)
        wanted = ["trial 0", f"trial {best.number}"] if best else ["trial 0"]
        wanted = [role for role in wanted if role in roles] or [r for r in BOTH if r in roles] or list(roles)[:1]
    else:
        wanted = [role for role in BOTH if role in roles] or list(roles)
    titles = [roles[role] for role in wanted]
    looks = {1: (1,), 2: (2, 1)}.get(len(wanted), tuple(range(1, len(wanted) + 1)))
    out = []
    for role, title, look in zip(wanted, titles, looks, strict=True):
        facts = next((facts for facts in run.engines if facts.role == role), None)
        what = {"trial 0": "the defaults"}.get(role, role) if run.kind == "tune" else role
        is_ambiguous = titles.count(title) > 1 or run.kind == "tune"
        out.append(
            Side(
                role=role,
                title=f"{title} ({what})" if is_ambiguous else title,
                precision=facts.precision if facts else "",
                look=look,
                facts=facts,
            )
        )
    return tuple(out)


BOTH: Final = ("baseline", "candidate")


def pair(sides: Sequence[Side]) -> tuple[Side, Side] | None:
    """Baseline and candidate. None: the run has not both."""
    by_role = {side.role: side for side in sides}
    both = [by_role[role] for role in BOTH if role in by_role]
    return (both[0], both[1]) if len(both) == len(BOTH) else None


def winner(run: Run, trials: Sequence[Trial]) -> Trial | None:
    """The trial whose flags became the preset. None: the defaults won, or nothing has won yet."""
    if run.preset is None or run.preset.is_default:
        return None
    same = [one for one in trials if one.number and one.flags == run.preset.flags and one.objective]
    return max(same, key=lambda one: one.objective.value if one.objective else 0.0, default=None)


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
    "January February March April May June July August September October November December"
).split()


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


# ---------------------------------------------------------------- the headline


def headline_of(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], sides: Sequence[Side]) -> str:
    """One plain sentence that is true over the whole interval."""
    if run.kind == "tune":
        return tune_headline(run, trials)
    both = pair(sides)
    if both and run.comparisons:
        return compare_headline(run, *both)
    if run.kind == "compare":
        return "Nothing could be compared: there is no pair of valid cells."
    return bench_headline(run, cells, sides)


def headline_rows(run: Run) -> list[Comparison]:
    """The headline's metric at every load of the scenario with the most loads, by users."""
    throughput = [row for row in run.comparisons if row.metric == "output_tok_s"]
    rows = throughput or [row for row in run.comparisons if row.metric == run.comparisons[0].metric]
    names = [row.scenario for row in rows]
    widest = max(names, key=names.count, default="")
    return sorted((row for row in rows if row.scenario == widest), key=lambda row: row.users)


def compare_headline(run: Run, baseline: Side, candidate: Side) -> str:
    """The largest load first, since it is what servers are bought for; then the smallest, whatever it says."""
    rows = headline_rows(run)
    first = headline_clause(rows[-1], baseline, candidate)
    if len(rows) == 1:
        return f"{first}."
    is_decided = rows[-1].verdict in DECIDED and rows[-1].ratio is not None
    subject = "it" if is_decided else candidate.named
    return f"{first}; {second_clause(rows[0], subject, is_also=rows[0].verdict is rows[-1].verdict)}."


DECIDED: Final = frozenset({Verdict.FASTER, Verdict.SLOWER})


def headline_clause(row: Comparison, baseline: Side, candidate: Side) -> str:
    """ "At 50 users vLLM gave 3.42× (3.10–3.81) the tokens per second of llama.cpp, …"."""
    load = "Alone" if row.users == 1 else f"At {row.users} users"
    mixed = precisions_differ(baseline, candidate)
    left = f"{candidate.title} ({candidate.precision or 'precision not known'})" if mixed else candidate.title
    right = f"{baseline.title} ({baseline.precision or 'precision not known'})" if mixed else baseline.title
    named = f"{left}," if "," in left else left
    what = "tokens per second" if row.metric == "output_tok_s" else f"speed in {words.short_metric(row.metric)}"
    figure = words.ratio(row.ratio)
    if row.ratio is None:
        return f"{load} no ratio of {named} to {right} can be given{because(row.reason)}"
    if row.verdict is Verdict.SAME:
        return f"{load} {named} gave as many {what} as {right}, within the noise: {figure}"
    if row.verdict is Verdict.UNDECIDED:
        return f"{load} the interval leaves open which is faster, {named} or {right}: {figure} the {what}"
    return f"{load} {named} gave {figure} the {what} of {right}"


def second_clause(row: Comparison, subject: str, *, is_also: bool) -> str:
    """ "alone it was slower: 0.372× (0.361–0.384)"."""
    load = "alone" if row.users == 1 else f"at {words.plural(row.users, 'user')}"
    figure = words.ratio(row.ratio)
    too = " too" if is_also else ""
    if row.ratio is None:
        return f"{load} no ratio can be given{because(row.reason)}"
    if row.verdict is Verdict.SAME:
        return f"{load} there was no difference{too}: {figure}"
    if row.verdict is Verdict.UNDECIDED:
        return f"{load} the interval leaves it open{too}: {figure}"
    return f"{load} {subject} was {row.verdict.value.lower()}{too}: {figure}"


def because(reason: str) -> str:
    """The reason in brackets, if there is one."""
    return f" ({reason.rstrip('.')})" if reason else ""


def tune_headline(run: Run, trials: Sequence[Trial]) -> str:
    """Whether the winner beat vLLM's own defaults."""
    tried = sum(1 for one in trials if one.number)
    if run.preset is None:
        measured = [one.objective for one in trials if one.objective]
        best = max(measured, key=lambda found: found.value, default=None)
        so_far = f"; the best so far, not confirmed, reached {words.ratio(best)} of the defaults" if best else ""
        return f"No settings have been chosen yet, after {words.plural(tried, 'trial')}{so_far}."
    if run.preset.is_default or run.preset.ratio is None:
        return f"Nothing that was tried ({words.plural(tried, 'trial')}) beat vLLM's own defaults: keep them."
    found = run.preset.ratio
    if found.low <= 1:
        return (
            f"The settings chosen reached {words.ratio(found)} of vLLM's own defaults; "
            "the interval does not show that they are faster."
        )
    return f"The settings found are {words.ratio(found)} as fast as vLLM's own defaults{by_objective(run)}."


def by_objective(run: Run) -> str:
    """By what the search judged, in its own words."""
    objective = run.objective or (run.preset.objective if run.preset else "")
    return f", judged by {objective}" if objective else ""


def bench_headline(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> str:
    """Throughput at the largest load, then at the smallest."""
    for side in sides:
        for scenario in scenario_names(run, cells):
            loads = [
                (users, found)
                for users in users_of(cells, scenario)
                if (found := pooled(cells, side, scenario, users, "output_tok_s"))
            ]
            if loads:
                return bench_sentence(side, loads)
    return "Nothing was measured: there is no valid cell."


def bench_sentence(side: Side, loads: Sequence[tuple[int, "Pooled"]]) -> str:
    """ "At 50 users vLLM gave 557 output tokens per second (540–571); alone it gave 57.1."."""
    (low_users, low), (users, top) = loads[0], loads[-1]
    load = "Alone" if users == 1 else f"At {users} users"
    shown = top.shown("output_tok_s")
    first = f"{load} {side.named} gave {shown.text.removesuffix(' tok/s')} output tokens per second"
    first += f" ({shown.interval} over {words.plural(top.repeats, 'repeat')})" if shown.interval else ""
    if low_users == users:
        return f"{first}."
    load = "alone" if low_users == 1 else f"at {low_users} users"
    return f"{first}; {load} it gave {low.shown('output_tok_s')}."


def cautions(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[str, ...]:
    """What must be read together with the headline."""
    out = []
    both = pair(sides)
    if both and precisions_differ(*both):
        out.append(PRECISION_WARNING)
    bad = sum(1 for cell in cells if cell.state is not CellState.MEASURED)
    if bad:
        verb = "is invalid or failed and enters" if bad == 1 else "are invalid or failed and enter"
        out.append(f"{bad} of {words.plural(len(cells), 'cell')} {verb} no figure; the reasons are listed below.")
    if run.kind == "compare" and len(cells) and both:
        repeats = max((cell.repeat for cell in cells), default=0) - min(cell.repeat for cell in cells) + 1
        if repeats == 1:
            out.append("One repeat only: nothing here shows how far a second one would differ.")
    return tuple(out)


PRECISION_WARNING: Final = (
    "Weights differ in precision: no headline across precisions should be read as an engine difference alone."
)


def strip(run: Run, cells: Sequence[Cell], trials: Sequence[Trial], sides: Sequence[Side]) -> Strip | None:
    """The headline's figure at every load, so that no load is picked for the reader. None: there is none."""
    both = pair(sides)
    if run.comparisons and both:
        rows = headline_rows(run)
        baseline, candidate = both
        return Strip(
            caption=(
                f"{words.long_metric(rows[0].metric)}, {candidate.title} ÷ {baseline.title}, "
                f"scenario {scenario_title(run, rows[0].scenario)}. Over 1× the first is faster."
            ),
            tiles=tuple(
                Tile(
                    name=words.plural(row.users, "user"),
                    figure=words.ratio(row.ratio),
                    badge=words.VERDICTS[row.verdict] if row.ratio else words.NOT_MEASURED,
                )
                for row in rows
            ),
        )
    if run.kind == "tune" and trials:
        return tune_strip(run, trials)
    return None


def tune_strip(run: Run, trials: Sequence[Trial]) -> Strip:
    """The search in counts."""
    tried = [one for one in trials if one.number]
    failed = [one for one in tried if one.outcome is not Outcome.MEASURED]
    tiles = [
        Tile(name="settings tried", figure=Shown(text=f"{len(tried)}")),
        Tile(name="of them gave no figure", figure=Shown(text=f"{len(failed)}")),
        Tile(name="time spent", figure=Shown(text=words.duration(sum(one.wall_s for one in trials)))),
    ]
    if run.preset and run.preset.ratio and not run.preset.is_default:
        tiles.insert(0, Tile(name="winner ÷ defaults", figure=words.ratio(run.preset.ratio)))
    return Strip(caption="The search in figures.", tiles=tuple(tiles))


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
    rows = tuple(target_row(run, row, target_of(row, targets)) for row in aimed)
    notes = [
        "A target is met where the whole interval lies at or above it, missed where it lies below; "
        "an interval that straddles it leaves it undecided."
    ]
    if any(row.absolute_badge for row in rows):
        notes.append("Seconds count only on the card and with the model they were set for.")
    if any(row.then != DASH for row in rows):
        notes.append("“Then” is what the planning document had measured on its own machine.")
    return Targets(heading=heading, rows=rows, notes=tuple(notes))


def target_of(row: Comparison, targets: Sequence[Target]) -> Target | None:
    """The line of targets.toml behind a comparison. None: the file has changed since."""
    same = (one for one in targets if (one.scenario, one.users, one.metric) == (row.scenario, row.users, row.metric))
    return next(same, None)


def target_row(run: Run, row: Comparison, target: Target | None) -> TargetRow:
    """A target's verdict and, where seconds apply, theirs."""
    load = words.plural(row.users, "user")
    absolute = row.absolute_s is not None
    return TargetRow(
        name=f"{scenario_title(run, row.scenario)}, {load}",
        metric=words.long_metric(row.metric),
        ratio=words.ratio(row.ratio),
        levels=(words.times(row.done), words.times(row.target), words.times(row.stretch)),
        badge=words.MET[row.met] if row.ratio else words.NOT_MEASURED,
        detail=target_detail(row),
        then=words.seconds(target.then_s) if target and target.then_s is not None else DASH,
        absolute=words.seconds(row.absolute_s) if row.absolute_s is not None else DASH,
        measured=absolute_measured(run, row, target) if absolute else "",
        absolute_badge=words.MET[row.absolute_met] if absolute else None,
    )


def target_detail(row: Comparison) -> str:
    """What the interval says about the other two levels."""
    if row.ratio is None:
        return row.reason
    if row.stretch is not None and row.ratio.low >= row.stretch:
        return f"the stretch of {words.times(row.stretch)} too"
    if row.met is not True and row.done is not None and row.done != row.target and row.ratio.low >= row.done:
        return f"{words.times(row.done)}, which counts as done, is reached"
    return row.reason


def absolute_measured(run: Run, row: Comparison, target: Target | None) -> str:
    """The candidate's own time for the absolute target; empty where it is not known which one that is."""
    metric = (target.absolute_metric if target else None) or row.metric
    if not words.split_metric(metric)[0].endswith("_s") or metric.startswith("output"):
        return ""
    same = (
        one.candidate
        for one in run.comparisons
        if (one.scenario, one.users, one.metric) == (row.scenario, row.users, metric)
    )
    return words.measure(metric, next(same, None))


# ---------------------------------------------------------------- comparisons


def comparison_tables(run: Run) -> tuple[ComparisonTable, ...]:
    """One table per scenario, its rows by users; metrics in the order of the run."""
    span = log_span(row.ratio for row in run.comparisons)
    names = list(dict.fromkeys(row.scenario for row in run.comparisons))
    out = []
    for name in names:
        rows = sorted((row for row in run.comparisons if row.scenario == name), key=lambda row: row.users)
        loads = tuple(
            (words.plural(users, "user"), tuple(comparison_row(row, span) for row in group))
            for users, group in groupby(rows, key=lambda row: row.users)
        )
        out.append(ComparisonTable(title=scenario_title(run, name), loads=loads))
    return tuple(out)


def comparison_row(row: Comparison, span: tuple[float, float]) -> ComparisonRow:
    """One line of the table."""
    return ComparisonRow(
        metric=words.short_metric(row.metric),
        meaning=words.long_metric(row.metric),
        baseline=words.measure(row.metric, row.baseline),
        candidate=words.measure(row.metric, row.candidate),
        ratio=words.ratio(row.ratio),
        bar=bar(row.ratio, span),
        badge=words.VERDICTS[row.verdict] if row.ratio else words.NOT_MEASURED,
        reason=row.reason,
    )


def comparison_notes(run: Run, sides: Sequence[Side]) -> tuple[str, ...]:
    """How to read the table."""
    both = pair(sides)
    first = both[1].title if both else "the candidate"
    level = confidence(one.ratio for one in run.comparisons)
    return (
        f"Over 1× always means that {first} is faster: for times the ratio is baseline ÷ candidate.",
        f"In brackets the interval that holds the true ratio{level}. “Undecided” asks for more repeats; "
        "it does not mean “the same”.",
    )


def confidence(estimates: Iterable[Estimate | None]) -> str:
    """ " with 95% confidence"; empty where no estimate says."""
    levels = sorted({one.confidence for one in estimates if one is not None})
    return f" with {words.listed([f'{level:.4g}' for level in (100 * one for one in levels)], last='or')}% confidence" if levels else ""


def log_span(estimates: Iterable[Estimate | None]) -> tuple[float, float]:
    """Ends of a logarithmic axis that holds all intervals and 1, with some air."""
    known = [one for one in estimates if one is not None and one.low > 0 and math.isfinite(one.high)]
    low = min([0.8, *(one.low / 1.1 for one in known)])
    high = max([1.25, *(one.high * 1.1 for one in known)])
    return low, high


def bar(found: Estimate | None, span: tuple[float, float]) -> Bar | None:
    """An interval's place on the strip. None: there is no interval, or it does not fit a logarithm."""
    if found is None or found.value <= 0 or not math.isfinite(found.high):
        return None
    low, high = span

    def percent(value: float) -> float:
        if value <= low:
            return 0.0
        return round(min(100.0, 100 * math.log(value / low) / math.log(high / low)), 1)

    return Bar(low=percent(found.low), value=percent(found.value), high=percent(found.high), one=percent(1.0))


# ---------------------------------------------------------------- figures without a comparison


def figure_tables(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> tuple[FigureTable, ...]:
    """What was measured, where nothing is compared."""
    out = []
    for name in scenario_names(run, cells):
        rows = []
        marks: set[str] = set()
        for users in users_of(cells, name):
            for side in sides:
                here = [c for c in cells if (c.role, c.scenario, c.users) == (side.role, name, users)]
                if not here:
                    continue
                shown = tuple(figure(cells, side, name, users, metric, here) for metric in FIGURES)
                marks |= {one.mark for one in shown}
                rows.append((words.plural(users, "user"), side, shown))
        if rows:
            out.append(
                FigureTable(
                    title=scenario_title(run, name),
                    metrics=tuple(words.short_metric(metric) for metric in FIGURES),
                    rows=tuple(rows),
                    notes=(
                        "Geometric mean of the valid repeats, in brackets the smallest and the largest of them.",
                        *footnotes(marks),
                    ),
                )
            )
    return tuple(out)


def figure(
    cells: Sequence[Cell], side: Side, scenario: str, users: int, metric: str, here: Sequence[Cell]
) -> Shown:
    """Repeats taken together, or why there is nothing to take."""
    found = pooled(cells, side, scenario, users, metric)
    if found:
        return found.shown(metric)
    valid = [cell for cell in here if cell.state is CellState.MEASURED]
    if not valid:
        return Shown(text=here[0].state.value)
    return missing(valid[0], metric)


def missing(cell: Cell, metric: str) -> Shown:
    """A dash, with the footnote that says why there is no figure in a measured cell."""
    name, _ = words.split_metric(metric)
    is_whole = name in words.NEEDS_STREAM and not latency(cell, name)
    return Shown(text=DASH, mark=words.NOT_STREAMED if is_whole else words.TOO_FEW)


def footnotes(marks: Iterable[str]) -> tuple[str, ...]:
    """The footnotes that are in use."""
    used = set(marks)
    return tuple(f"{DASH}{mark} {text}" for mark, text in words.FOOTNOTES.items() if mark in used)


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
        side.role: [(users, one) for users in ticks if (one := pooled(cells, side, scenario, users, metric))]
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


def chart_notes(
    run: Run, cells: Sequence[Cell], sides: Sequence[Side], *, has_charts: bool
) -> tuple[str, ...]:
    """How to read the charts, and what is not in them."""
    if not has_charts:
        what = "Every scenario has one load only" if cells else "There are no cells"
        return (f"{what}: there is nothing to draw.",)
    out = [
        "Points are the geometric mean of the repeats, bars run from the smallest to the largest repeat. "
        "Users are on a logarithmic axis whose ticks are the loads that were measured."
    ]
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


# ---------------------------------------------------------------- fairness


def precisions_differ(one: Side, other: Side) -> bool:
    """Whether the weights have another width; an unknown precision differs from every other."""
    return width(one.precision) != width(other.precision)


def width(precision: str) -> str:
    """Precisions that cost the same bytes have the same name."""
    name = precision.casefold()
    return "16 bit" if name in SIXTEEN_BIT else name


def fairness(cells: Sequence[Cell], sides: Sequence[Side]) -> Fairness | None:
    """What each server was, was told and took. None: no server is known."""
    known = tuple(side for side in sides if side.facts)
    if not known:
        return None
    facts = [side.facts for side in known if side.facts]
    rows = [
        fairness_row("Server", [(one.engine,) for one in facts]),
        fairness_row("Version", [(one.version or "not known",) for one in facts]),
        fairness_row("Precision of the weights", [(one.precision or "not known",) for one in facts], by=width),
        fairness_row("Context", [(context(one),) for one in facts]),
        fairness_row("Slots", [("no such thing" if one.slots is None else str(one.slots),) for one in facts]),
        fairness_row("Prompt tokens per request", [(tokens(cells, one, "prompt_tokens_mean"),) for one in known]),
        fairness_row("Output tokens per request", [(tokens(cells, one, "output_tokens_mean"),) for one in known]),
        fairness_row("Flags passed", [flag_lines(one.flags, "none: its defaults") for one in facts], is_code=True),
        fairness_row("Flags it took, by its log", [flag_lines(one.resolved, "its log does not say") for one in facts], is_code=True),
        fairness_row("Environment set", [flag_lines(dict(one.env), "nothing") for one in facts], is_code=True),
        fairness_row("Started as", [(shlex.join(words.without_secrets(one.argv)) or "not by us",) for one in facts], is_code=True),
        fairness_row("Launch", [(words.duration(one.launch_s) if one.launch_s is not None else "not known",) for one in facts]),
        fairness_row("Memory of the server, peak", [(peak(cells, one, "engine_rss_peak_bytes"),) for one in known]),
        fairness_row("GPU memory, peak", [(peak(cells, one, "gpu_memory_peak_bytes"),) for one in known]),
        fairness_row("Log", [(one.log or "none",) for one in facts], is_code=True),
    ]
    both = pair(known)
    return Fairness(warning=precision_box(*both) if both else "", sides=known, rows=tuple(rows))


def fairness_row(
    name: str, values: Sequence[tuple[str, ...]], *, is_code: bool = False, by: Callable[[str], str] = str
) -> FairnessRow:
    """One property; `by` says when two texts mean the same."""
    kinds = {tuple(by(line) for line in lines) for lines in values}
    return FairnessRow(name=name, values=tuple(values), is_code=is_code, differs=len(kinds) > 1)


def precision_box(baseline: Side, candidate: Side) -> str:
    """The warning where weights have another width; empty where they have not."""
    if not precisions_differ(baseline, candidate):
        return ""
    return (
        f"{PRECISION_WARNING} {candidate.title}: {candidate.precision or 'not known'}; "
        f"{baseline.title}: {baseline.precision or 'not known'}. The side with fewer bytes per weight reads less "
        "memory for each token, which counts most with few users."
    )


def context(facts: EngineFacts) -> str:
    """Context length in tokens, as the server took it or else as it was told."""
    for flags in (facts.resolved, facts.flags):
        for name in CONTEXT_NAMES:
            if name in flags:
                return f"{words.shown_value(name, flags[name])} tokens"
    return "not said"


def flag_lines(flags: dict[str, FlagValue] | dict[str, str], nothing: str) -> tuple[str, ...]:
    """name = value, line by line."""
    return tuple(f"{name} = {words.shown_value(name, value)}" for name, value in flags.items()) or (nothing,)


def tokens(cells: Sequence[Cell], side: Side, field: str) -> str:
    """The mean over a side's valid cells; servers count in their own tokens."""
    means = [
        (mean, cell.requests)
        for cell in cells
        if cell.role == side.role
        and cell.state is CellState.MEASURED
        and (mean := getattr(cell, field)) is not None
    ]
    requests = sum(count for _, count in means)
    return words.number(sum(mean * count for mean, count in means) / requests) if requests else "not counted"


def peak(cells: Sequence[Cell], side: Side, field: str) -> str:
    """The largest reading over a side's cells."""
    seen = [found for cell in cells if cell.role == side.role and (found := getattr(cell, field)) is not None]
    return words.gib(max(seen)) if seen else "not read"


# ---------------------------------------------------------------- all cells


def cell_table(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> CellTable:
    """Every cell of the run, by scenario and server; what the page is not about is folded away."""
    by_role = {side.role: side for side in sides}
    groups = []
    for name in scenario_names(run, cells):
        here = [cell for cell in cells if cell.scenario == name]
        for role in dict.fromkeys(cell.role for cell in here):
            mine = sorted((cell for cell in here if cell.role == role), key=lambda cell: (cell.users, cell.repeat))
            title = by_role[role].title if role in by_role else f"{mine[0].title} ({role})"
            groups.append(
                CellGroup(
                    title=f"{scenario_title(run, name)}: {title}",
                    rows=tuple(cell_row(cell) for cell in mine),
                    is_folded=role not in by_role,
                )
            )
    marks = {
        mark
        for group in groups
        for row in group.rows
        for text in (row.throughput.mark, *(one for _, line in row.stats for one in line))
        for mark in words.FOOTNOTES
        if text.endswith(mark)
    }
    level = confidence(one for cell in cells for name in LATENCIES for one in latency(cell, name).values())
    notes = [f"In brackets the interval{level}; n is the number of values behind it."] if cells else []
    return CellTable(
        groups=tuple(groups),
        latencies=tuple(words.short_metric(name) for name in LATENCIES),
        notes=(*notes, *footnotes(marks)),
    )


def cell_row(cell: Cell) -> CellRow:
    """One cell with all its statistics."""
    has_figures = cell.state is not CellState.FAILED
    stats = list(dict.fromkeys(stat for name in LATENCIES for stat in latency(cell, name))) or ["p50", "p95"]
    lines = [(stat, tuple(str(stat_shown(cell, name, stat)) for name in LATENCIES)) for stat in stats]
    lines.append(("n", tuple(count(latency(cell, name).values()) for name in LATENCIES)))
    return CellRow(
        users=words.plural(cell.users, "user"),
        repeat=cell.repeat,
        badge=words.CELL_STATES[cell.state],
        requests=f"{cell.requests:,}",
        failures=f"{cell.failures:,}",
        window=words.duration(cell.window_s) if cell.window_s is not None else DASH,
        throughput=words.estimate("output_tok_s", cell.output_tok_s) if has_figures else Shown(text=DASH),
        throughput_n=count([cell.output_tok_s]),
        stats=tuple(lines) if has_figures else (),
        cpu=f"{words.number(cell.client.cpu_ratio)} cores" if cell.client else DASH,
        lag=words.seconds(cell.client.lag_p99_s) if cell.client else DASH,
        reasons=cell.reasons,
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


