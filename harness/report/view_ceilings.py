"""What the card's data sheet allows, and how near the servers came, in words."""

from collections.abc import Callable, Sequence
from typing import Final

from harness import roofline
from harness.records import Cell, Level, Run
from harness.report import words
from harness.report.figures import cells_at, levels_of, pooled, scenario_names, scenario_title
from harness.report.page_charts import Point, Series
from harness.report.page_parts import CeilingRow, Ceilings, Side
from harness.report.words import DASH, Shown
from harness.stats.pairing import HIGHER_IS_BETTER
from harness.stats.summary import CEILING_FACTOR, above_ceiling

METRICS: Final = {"output_tok_s": "output_tok_s", "ttft_s": "ttft_s.p50", "itl_s": "itl_s.p50", "e2e_s": "e2e_s.p50"}
"""Keys of `Cell.ceilings`, and the figure that is held against each."""
NO_DATA_SHEET: Final = "No data-sheet figures for a CPU: it is not known what this machine could do at best."


def ceilings(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> Ceilings | None:
    """Each server at each load against its ceilings. None: nothing was measured."""
    if not cells:
        return None
    here = [cell for cell in cells if any(cell.role == side.role for side in sides)]
    known = [name for name in METRICS if any(name in cell.ceilings for cell in here)]
    if not known:
        is_cpu = run.host.gpu is None
        missing = NO_DATA_SHEET if is_cpu else f"No ceilings were recorded for {run.host.gpu} with {run.model}."
        return Ceilings(missing=missing, metrics=(), tables=(), notes=())
    tables = [(scenario_title(run, name), rows_of(here, sides, name, known)) for name in scenario_names(run, cells)]
    return Ceilings(
        missing="",
        metrics=tuple(words.short_metric(METRICS[name]) for name in known),
        tables=tuple((title, rows) for title, rows in tables if rows),
        notes=(
            "A ceiling is the best that the card's memory bandwidth and arithmetic units allow by their data sheet for "
            "this model, these lengths and this load, so 100% is a server that wastes nothing; for times it is that of "
            "a request alone on the card. Arithmetic is taken at the highest clock that was read where that is above "
            f"the rated one, and at {words.percent(roofline.CLOCK_ALLOWANCE - 1)} above it where none was read. The "
            "command “harness predict” shows how it is computed.",
            f"A cell over {words.percent(CEILING_FACTOR - 1)} better than its ceiling is INVALID: the figure, or what "
            "the server is said to be, is wrong.",
        ),
    )


def rows_of(
    cells: Sequence[Cell], sides: Sequence[Side], scenario: str, known: Sequence[str]
) -> tuple[CeilingRow, ...]:
    """One scenario, by load and server."""
    out = []
    for level in levels_of(cells, scenario):
        for side in sides:
            mine = cells_at(cells, side.role, scenario, level)
            if any(cell.ceilings for cell in mine):
                out.append(ceiling_row(mine, side, scenario, level, known))
    return tuple(out)


def ceiling_row(cells: Sequence[Cell], side: Side, scenario: str, level: Level, known: Sequence[str]) -> CeilingRow:
    """The valid repeats taken together; a repeat above the ceiling is not among them, but is said."""
    texts = []
    for name in known:
        limit = ceiling_of(cells, name)
        found = pooled(cells, side.role, scenario, level, METRICS[name])
        is_rate = name in HIGHER_IS_BETTER
        texts.append(
            (
                found.shown(METRICS[name]) if found else Shown(text=DASH),
                "" if limit is None or found is None else limit_words(name, limit),
                words.percent(found.value / limit) if found and limit and is_rate else "",
            )
        )
    above = any(above_ceiling(cell, cell.ceilings) for cell in cells)
    return CeilingRow(load=words.load(level), side=side, metrics=tuple(texts), is_above=above)


def limit_words(name: str, limit: float) -> str:
    """ "at most 428 tok/s", "at least 5.10 ms"."""
    return f"{'at most' if name in HIGHER_IS_BETTER else 'at least'} {words.measure(name, limit)}"


def ceiling_of(cells: Sequence[Cell], name: str) -> float | None:
    """The most lenient of the repeats: their lengths differ a little. None: it is not known."""
    limits = [cell.ceilings[name] for cell in cells if name in cell.ceilings]
    best: Callable[[Sequence[float]], float] = max if name in HIGHER_IS_BETTER else min
    return best(limits) if limits else None


def series(cells: Sequence[Cell], side: Side, scenario: str, levels: Sequence[Level]) -> Series | None:
    """A server's most tokens per second over the load. None: it is known at fewer than two loads."""
    points = []
    for level in levels:
        limit = ceiling_of(cells_at(cells, side.role, scenario, level), "output_tok_s")
        if limit is not None:
            points.append(Point(x=x_of(level), value=limit, low=limit, high=limit))
    return Series(label=f"ceiling of {side.title}", look=side.look, points=tuple(points)) if len(points) > 1 else None


def x_of(level: Level) -> float:
    """Where a load stands on the axis of a chart."""
    return float(level.users) if level.rate_per_s is None else level.rate_per_s
