"""Every cell of a run with all its statistics, and how many of them count, in words."""

from collections.abc import Iterable, Sequence
from typing import Final

from harness.records import Cell, CellState, ClientHealth, Estimate, Run
from harness.report import words
from harness.report.figures import (
    LATENCIES,
    by_load,
    known_latencies,
    latencies,
    latency,
    level_of,
    missing,
    scenario_names,
    scenario_title,
)
from harness.report.page import Problem, Validity
from harness.report.page_parts import CellGroup, CellRow, CellTable, Side
from harness.report.view_client import in_one_sentence
from harness.report.view_sides import COMPARED
from harness.report.words import DASH, Badge, Shown

FIRST_PROBLEMS: Final = 5
NO_CLIENT: Final = "No client was at work: requests and answers are simulated."
ALONE: Final = frozenset({*COMPARED, "bench", "capacity"})
"""Roles whose title says enough."""


# ---------------------------------------------------------------- how many count


def validity(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> Validity:
    """The cells of the page's servers in counts, and why some do not count or not without a word."""
    mine = [cell for cell in cells if any(cell.role == side.role for side in sides)]
    found = problems(run, mine)
    rest, others = len(found) - FIRST_PROBLEMS, len(cells) - len(mine)
    aside = f"; {others:,} more of other servers that this run tried" if others else ""
    return Validity(
        counts=f"{counts(mine)}{aside}",
        is_clean=not found,
        problems=found[:FIRST_PROBLEMS],
        more=f"and {rest} more, all of them under “All cells”" if rest > 0 else "",
        client=NO_CLIENT if mine and all(cell.is_simulated for cell in mine) else in_one_sentence(run, mine),
    )


def counts(cells: Sequence[Cell]) -> str:
    """ "42 cells: 40 measured, 1 flagged, 1 INVALID"."""
    if not cells:
        return "No cell was measured"
    badges = [words.cell_badge(cell) for cell in cells]
    measured, *others = words.CELL_STATES.values()
    kinds = (measured, words.SIMULATED, words.FLAGGED, *others)
    told = [f"{badges.count(kind):,} {kind.text}" for kind in kinds if kind in badges]
    return f"{words.plural(len(cells), 'cell')}: {', '.join(told)}"


def problems(run: Run, cells: Sequence[Cell]) -> tuple[Problem, ...]:
    """The cells that are not simply measured; repeats with the same reasons are one."""
    found: dict[tuple[str, str, Badge, tuple[str, ...]], list[Cell]] = {}
    for cell in cells:
        badge = words.cell_badge(cell)
        if badge not in (words.CELL_STATES[CellState.MEASURED], words.SIMULATED):
            is_flag = badge == words.FLAGGED
            why = cell.flags if is_flag else (*(cell.reasons or ("no reason was recorded",)), *cell.flags)
            server = cell.title if cell.role in ALONE else f"{cell.title} ({cell.role})"
            load = f"{scenario_title(run, cell.scenario)}, {words.load(level_of(cell))}"
            found.setdefault((server, load, badge, why), []).append(cell)
    rank = (CellState.FAILED, CellState.INVALID, CellState.MEASURED)
    ordered = sorted(found.items(), key=lambda one: rank.index(one[1][0].state))
    return tuple(
        Problem(where=f"{server}, {load}, {places(mine)}", badge=badge, reasons=why)
        for (server, load, badge, why), mine in ordered
    )


def places(cells: Sequence[Cell]) -> str:
    """ "repeat 3", "repeats 2 and 3", "block 1 repeat 2 and block 2 repeat 1"."""
    if len(cells) > 1 and len({cell.block for cell in cells}) == 1:
        within = words.listed([str(cell.repeat) for cell in cells])
        return f"{block(cells[0])}repeats {within}"
    return words.listed([place(cell) for cell in cells])


def place(cell: Cell) -> str:
    """ "block 2 repeat 1"."""
    return f"{block(cell)}repeat {cell.repeat}"


def block(cell: Cell) -> str:
    """ "block 2 "; empty where each server is launched once."""
    return f"block {cell.block} " if cell.role in COMPARED or cell.block > 1 else ""


# ---------------------------------------------------------------- the table


def cell_table(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> CellTable:
    """Every cell of the run, by scenario and server; what the page is not about is folded away."""
    by_role = {side.role: side for side in sides}
    groups = []
    for name in scenario_names(run, cells):
        here = [cell for cell in cells if cell.scenario == name]
        for role in dict.fromkeys(cell.role for cell in here):
            mine = sorted(
                (cell for cell in here if cell.role == role),
                key=lambda cell: (by_load(level_of(cell)), cell.block, cell.repeat),
            )
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
    by_title: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_title.setdefault((cell.scenario, cell.role), []).append(cell)
    gaps = dict.fromkeys(text for mine in by_title.values() if (text := left_out(mine)))
    return (
        f"In brackets the interval{words.confidence(latencies(cells))}; n is the number of values behind it: requests, "
        "for ITL answers, for tok/s slices of the window.",
        "At a time: requests under way, the mean over the window. Drift: tok/s of the window's second half over its "
        "first. The client's lag is how late it woke up.",
        *gaps,
        *words.footnotes(mark for mark in words.FOOTNOTES if any(text.endswith(mark) for text in texts)),
    )


def stats_of(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The statistics that any of the cells has a figure for; all where none has any."""
    tried = dict.fromkeys(stat for cell in cells for name in LATENCIES for stat in latency(cell, name))
    found = [stat for stat in tried if any(latency(cell, name).get(stat) for cell in cells for name in LATENCIES)]
    return tuple(found or tried) or ("p50", "p95")


def left_out(cells: Sequence[Cell]) -> str:
    """The statistics that no cell has enough values for."""
    gone = {stat for cell in cells for name in LATENCIES for stat in latency(cell, name)} - set(stats_of(cells))
    return (
        f"No {words.listed(sorted(gone), last='or')} in a table whose cells have too few requests for it."
        if gone
        else ""
    )


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
        load=words.load(level_of(cell)),
        place=place(cell),
        badge=words.cell_badge(cell),
        requests=request_lines(cell),
        window=window_lines(cell),
        throughput=words.estimate("", cell.output_tok_s) if has_figures else Shown(text=DASH),
        throughput_n=count([cell.output_tok_s]),
        lines=tuple(lines) if has_figures else (),
        client=client_lines(cell.client),
        reasons=cell.reasons,
        flags=cell.flags,
    )


def request_lines(cell: Cell) -> tuple[str, ...]:
    """How many ended well and how many failed; answers per second, requests under way at a time."""
    out = [f"{cell.requests:,}"]
    if cell.failures:
        out.append(f"{cell.failures:,} failed")
    if cell.requests_per_s is not None:
        out.append(words.measure("requests_per_s", cell.requests_per_s.value))
    if cell.in_flight_mean is not None:
        out.append(f"{words.number(cell.in_flight_mean)} at a time")
    return tuple(out)


def window_lines(cell: Cell) -> tuple[str, ...]:
    """How long the load was held and how far the server drifted meanwhile."""
    if cell.window_s is None:
        return (DASH,)
    drift = words.ratio(cell.drift_ratio)
    told = [f"drift {drift.text}", f"({drift.interval})"] if cell.drift_ratio is not None else []
    return (words.duration(cell.window_s), *told)


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
