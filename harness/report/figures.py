"""Figures out of the records: where one lies, repeats taken together, and its place on a strip."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.records import Cell, CellState, Comparison, Estimate, Level, Metric, Run
from harness.report import words
from harness.report.page_parts import Bar
from harness.report.words import DASH, Shown

LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The valid repeats of one load: geometric mean, smallest and largest."""

    value: float
    low: float
    high: float
    repeats: int

    def shown(self, metric: str) -> Shown:
        """With its range, where there is more than one repeat."""
        shown = words.ranged(metric, self.value, self.low, self.high)
        return shown if self.repeats > 1 else Shown(text=shown.text)


def pooled(cells: Sequence[Cell], role: str, scenario: str, level: Level, metric: str) -> Pooled | None:
    """One server's valid repeats at one load. None: there is none with this metric."""
    values = [
        found.value
        for cell in cells_at(cells, role, scenario, level)
        if cell.state is CellState.MEASURED and (found := estimate_of(cell, metric)) is not None
    ]
    if not values:
        return None
    return Pooled(value=words.geometric_mean(values), low=min(values), high=max(values), repeats=len(values))


def cells_at(cells: Iterable[Cell], role: str, scenario: str, level: Level) -> list[Cell]:
    """All repeats of one server at one load, valid or not, in the order measured."""
    return [cell for cell in cells if (cell.role, cell.scenario, level_of(cell)) == (role, scenario, level)]


def estimate_of(cell: Cell, metric: str) -> Estimate | None:
    """A cell's estimate by its metric's name. None: it has none."""
    if metric == "output_tok_s":
        return cell.output_tok_s
    if metric == "requests_per_s":
        return cell.requests_per_s
    name, stat = words.split_metric(metric)
    return latency(cell, name).get(stat)


def latency(cell: Cell, name: str) -> Metric:
    """A cell's statistics of one latency."""
    return {"ttft_s": cell.ttft_s, "itl_s": cell.itl_s, "tpot_s": cell.tpot_s, "e2e_s": cell.e2e_s}.get(name, {})


def latencies(cells: Iterable[Cell]) -> Iterable[Estimate | None]:
    """All estimates of all latencies."""
    return (one for cell in cells for name in LATENCIES for one in latency(cell, name).values())


def known_latencies(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The latencies that any of the cells has; all of them where no cell has one."""
    return tuple(name for name in LATENCIES if any(latency(cell, name) for cell in cells)) or LATENCIES


def missing(cell: Cell, metric: str) -> Shown:
    """A dash, with the footnote that says why there is no figure in a measured cell."""
    name, _ = words.split_metric(metric)
    is_whole = name in words.NEEDS_STREAM and not latency(cell, name)
    return Shown(text=DASH, mark=words.NOT_STREAMED if is_whole else words.TOO_FEW)


# ---------------------------------------------------------------- scenarios, loads, repeats


def scenario_names(run: Run, cells: Sequence[Cell]) -> list[str]:
    """Those the run declares, then any that only its cells know."""
    return list(dict.fromkeys([*(one.name for one in run.scenarios), *(cell.scenario for cell in cells)]))


def scenario_title(run: Run, name: str) -> str:
    """The title where the run has one, else the name."""
    return next((one.title for one in run.scenarios if one.name == name and one.title), name)


def level_of(one: Cell | Comparison) -> Level:
    """The load that a cell or comparison is of."""
    return Level(users=one.users, rate_per_s=one.rate_per_s)


def by_load(level: Level) -> tuple[float, int]:
    """Sorts loads from the lightest to the heaviest."""
    return (level.rate_per_s or 0.0, level.users)


def levels_of(cells: Iterable[Cell | Comparison], scenario: str) -> list[Level]:
    """The loads that a scenario was measured at, the lightest first."""
    return sorted({level_of(one) for one in cells if one.scenario == scenario}, key=by_load)


def repeats_of(cells: Sequence[Cell]) -> int:
    """How often each load was measured on one side, over all its launches, valid or not."""
    return len({(cell.block, cell.repeat) for cell in cells})


def blocks_of(cells: Sequence[Cell]) -> int:
    """How often each server was launched anew."""
    return len({cell.block for cell in cells})


# ---------------------------------------------------------------- intervals on a logarithmic strip


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
