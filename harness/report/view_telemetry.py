"""What the card, the machine and the servers said while they were measured, in words."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from harness.records import Cell, CellState, PowerCap, Run, TelemetrySummary
from harness.report import words
from harness.report.figures import cells_at, levels_of, scenario_names, scenario_title
from harness.report.page_parts import ReadingTable, Side, Telemetry
from harness.report.words import DASH

Summaries = Sequence[TelemetrySummary]
Reading = Callable[[TelemetrySummary], float | None]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One reading, taken together over the repeats of a load."""

    head: str
    reading: Reading
    shown: Callable[[float], str]
    together: Callable[[list[float]], float] = statistics.fmean


NOTHING_HELD: Final = "The card's clocks were held down by nothing."


def hertz(value: float) -> str:
    """ "2,520 MHz"."""
    return f"{words.fixed(value / 1e6, 0)} MHz"


def watts(value: float) -> str:
    """ "312 W"."""
    return f"{words.number(value)} W"


def joules(value: float) -> str:
    """ "1.21 J", "21.0 mJ" below one."""
    return f"{words.number(value)} J" if value >= 1 else f"{words.number(1000 * value)} mJ"


def celsius(value: float) -> str:
    """ "67 °C"."""
    return f"{words.fixed(value, 0)} °C"


def count(value: float) -> str:
    """Whole where it is whole, else with three digits."""
    return f"{value:,.0f}" if value == round(value) else words.number(value)


CARD: Final = (
    Column(head="Memory, peak", reading=lambda one: one.gpu_memory_peak_bytes, shown=words.gib, together=max),
    Column(head="Power, mean", reading=lambda one: one.gpu_power_mean_w, shown=watts),
    Column(head="Energy per token", reading=lambda one: one.energy_per_token_j, shown=joules),
    Column(head="Clock, mean", reading=lambda one: one.gpu_clock_mean_hz, shown=hertz),
    Column(head="Clock, lowest", reading=lambda one: one.gpu_clock_min_hz, shown=hertz, together=min),
    Column(head="Clock, highest", reading=lambda one: one.gpu_clock_max_hz, shown=hertz, together=max),
    Column(head="Temperature, highest", reading=lambda one: one.gpu_temperature_max_c, shown=celsius, together=max),
)
SERVER: Final = (
    Column(head="CPU, mean", reading=lambda one: one.engine_cpu_mean_ratio, shown=lambda v: f"{words.number(v)} cores"),
    Column(head="Memory (RSS), peak", reading=lambda one: one.engine_rss_peak_bytes, shown=words.gib, together=max),
    Column(head="Machine's CPU", reading=lambda one: one.machine_cpu_mean_ratio, shown=words.percent),
    Column(head="Running, mean", reading=lambda one: one.running_mean, shown=count),
    Column(head="Waiting, mean", reading=lambda one: one.waiting_mean, shown=count),
    Column(head="Waiting, most", reading=lambda one: one.waiting_max, shown=count, together=max),
    Column(head="KV cache, most", reading=lambda one: one.kv_used_max_ratio, shown=words.percent, together=max),
    Column(head="Preemptions", reading=lambda one: one.preemptions, shown=count, together=sum),
    Column(head="Prefix cache hits", reading=lambda one: one.prefix_hit_ratio, shown=words.percent),
)


def telemetry(run: Run, cells: Sequence[Cell], sides: Sequence[Side]) -> Telemetry | None:
    """Only what is known; a machine without a GPU is said once. None: nothing was read."""
    here = [
        cell for cell in cells if any(cell.role == side.role for side in sides) and cell.state is not CellState.FAILED
    ]
    found = [cell.telemetry for cell in here if cell.telemetry is not None]
    if not found:
        return None
    tables = (
        table(run, here, sides, title="The card", columns=CARD),
        table(run, here, sides, title="The servers", columns=SERVER),
    )
    return Telemetry(
        tables=tuple(one for one in tables if one is not None),
        notes=(
            *card_words(run, here),
            "Of the repeats of a load the mean; of peaks the highest and of lowest values the lowest.",
            *(["Energy is that of the whole card, per output token of the window."] if has(found, CARD[2]) else []),
        ),
    )


def has(found: Summaries, column: Column) -> bool:
    """Whether any cell knows this reading."""
    return any(column.reading(one) is not None for one in found)


def table(
    run: Run, cells: Sequence[Cell], sides: Sequence[Side], *, title: str, columns: Sequence[Column]
) -> ReadingTable | None:
    """The readings of each load and server. None: nothing of the kind is known."""
    known = [column for column in columns if has([c.telemetry for c in cells if c.telemetry is not None], column)]
    groups = []
    for name in scenario_names(run, cells):
        rows = []
        for level in levels_of(cells, name):
            for side in sides:
                mine = [one.telemetry for one in cells_at(cells, side.role, name, level) if one.telemetry is not None]
                if mine:
                    rows.append((words.load(level), side, tuple(cell_text(column, mine) for column in known)))
        if rows:
            groups.append((scenario_title(run, name), tuple(rows)))
    return ReadingTable(title=title, heads=tuple(one.head for one in known), groups=tuple(groups)) if known else None


def cell_text(column: Column, found: Summaries) -> str:
    """The repeats taken together, or a dash."""
    values = [value for one in found if (value := column.reading(one)) is not None]
    return column.shown(column.together(values)) if values else DASH


# ---------------------------------------------------------------- what is said in sentences


def card_words(run: Run, cells: Sequence[Cell]) -> tuple[str, ...]:
    """Link, throttling and strangers on the card; where there is none, that."""
    found = [cell.telemetry for cell in cells if cell.telemetry is not None]
    if not any(one.has_gpu for one in found):
        return ("No GPU: this machine has none that NVML can see, so there are no readings of a card.",)
    links = sorted({one.gpu_pcie for one in found if one.gpu_pcie})
    out = [f"PCIe link: {words.listed(links)}."] if links else []
    return (*out, *power_words(run, cells), throttle_words(run, cells), stranger_words(run, cells))


def power_words(run: Run, cells: Sequence[Cell]) -> tuple[str, ...]:
    """That cards drew all they may, which under their usual limit is no fault; empty where none did."""
    shares = [cell.telemetry.throttle.get(PowerCap.USUAL.value, 0.0) for cell in cells if cell.telemetry]
    if not any(shares):
        return ()
    limit_w = run.host.gpu_power_limit_w
    limit = "" if limit_w is None else f" of {watts(limit_w)}"
    return (
        f"The card drew its usual power limit{limit} in up to {words.percent(max(shares))} of a cell's samples: under "
        "full load that is how it runs, and no fault.",
    )


def throttle_words(run: Run, cells: Sequence[Cell]) -> str:
    """Each reason that is one to worry about, with the largest share of samples and where that was."""
    worst: dict[str, tuple[float, Cell]] = {}
    for cell in cells:
        for reason, share in (cell.telemetry.throttle if cell.telemetry else {}).items():
            if reason != PowerCap.USUAL and share > worst.get(reason, (0.0, cell))[0]:
                worst[reason] = (share, cell)
    if not worst:
        return "The card's clocks were held down by nothing else." if power_words(run, cells) else NOTHING_HELD
    told = (
        f"{reason}{limit_words(run, reason)}, in up to {words.percent(share)} of the samples ({where(run, cell)})"
        for reason, (share, cell) in worst.items()
    )
    return f"The card's clocks were held down: {'; '.join(told)}."


def limit_words(run: Run, reason: str) -> str:
    """ " (300 W of 450 W)" behind a power limit that was set lower; empty where it is none, or not known."""
    limit_w, usual_w = run.host.gpu_power_limit_w, run.host.gpu_default_power_limit_w
    if reason != PowerCap.LOWERED or limit_w is None or usual_w is None:
        return ""
    return f" ({watts(limit_w)} of {watts(usual_w)})"


def stranger_words(run: Run, cells: Sequence[Cell]) -> str:
    """Programs on the card that are not the server's, and where it cannot be told."""
    mine = [cell for cell in cells if cell.telemetry is not None and cell.telemetry.foreign_pids]
    seen = [cell.telemetry for cell in cells if cell.telemetry is not None and cell.telemetry.has_gpu]
    blind = sum(one.foreign_pids is None for one in seen)
    out = []
    if mine:
        places = dict.fromkeys(where(run, cell) for cell in mine)
        out.append(f"Other programs were on the card in {words.plural(len(mine), 'cell')}: {'; '.join(places)}.")
    if blind:
        out.append(
            f"Whether other programs were on the card cannot be told for {words.plural(blind, 'cell')}: NVML does not "
            "show the server's own there, as in a container."
        )
    return " ".join(out) or "No other program was on the card."


def where(run: Run, cell: Cell) -> str:
    """ "Ollama 0.33.1, Many users at once, 50 users"."""
    level = words.load(levels_of([cell], cell.scenario)[0])
    return f"{cell.title}, {scenario_title(run, cell.scenario)}, {level}"
