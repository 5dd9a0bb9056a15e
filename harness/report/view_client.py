"""Whether the measuring client was itself the limit: its account of itself over all cells, in words."""

import statistics
from collections.abc import Callable, Sequence
from typing import Final

from harness.records import Calibration, Cell, ClientHealth, Run
from harness.report import words
from harness.report.page_parts import ClientCheck, Fact
from harness.report.words import DASH
from harness.stats import summary

NOT_CALIBRATED: Final = "not calibrated: run harness doctor"


def in_one_sentence(run: Run, cells: Sequence[Cell]) -> str:
    """For the top of the page: the worst of every kind; empty where no cell has the client's account."""
    found = [cell.client for cell in cells if cell.client is not None]
    if not found:
        return ""
    cpu = max(one.cpu_ratio for one in found)
    lag_ms = words.fixed(1000 * max(one.lag_p50_s for one in found), 2)
    return (
        f"The measuring client used at most {words.percent(cpu)} of a core in one process and woke up at most "
        f"{lag_ms} ms late at the median; {bias_words(run.calibration)}."
    )


def bias_words(found: Calibration | None) -> str:
    """What the client's own error is on this machine."""
    if found is None:
        return f"its own error on this machine is {NOT_CALIBRATED}"
    return (
        f"against an engine of known timing it was off by {signed(found.ttft_bias_s)} in TTFT, "
        f"{signed(found.itl_bias_s)} in ITL and {signed(found.e2e_bias_s)} in E2E on this machine (medians, "
        f"{words.plural(found.users, 'user')})"
    )


def signed(value_s: float) -> str:
    """ "+0.42 ms": what the client saw minus what the engine did."""
    return f"{'+' if value_s > 0 else ''}{words.fixed(1000 * value_s, 3 if abs(value_s) < 1e-4 else 2)} ms"


def client_check(run: Run, cells: Sequence[Cell]) -> ClientCheck | None:
    """Every kind of reading, its middle and its worst, and what it may be. None: no cell has any."""
    found = [cell.client for cell in cells if cell.client is not None]
    if not found:
        return None
    rows = [
        row("CPU of the busiest process", found, lambda one: one.cpu_ratio, core_words, limit=cpu_limit()),
        row("CPU of its processes, mean", found, mean_cpu, core_words),
        row("Lag of the event loop, p50", found, lambda one: one.lag_p50_s, words.seconds, limit=lag_limit()),
        row("Lag of the event loop, p99", found, lambda one: one.lag_p99_s, words.seconds),
        row(
            "Stood still at a stretch",
            found,
            lambda one: one.lag_max_s or None,
            words.seconds,
            limit=standstill_limit(),
        ),
        row("Sent later than due, p50", found, lambda one: one.send_lag_p50_s, words.seconds),
        row("Sent later than due, p99", found, lambda one: one.send_lag_p99_s, words.seconds, limit=send_limit()),
        row("Time to connect to the server", found, lambda one: one.rtt_p50_s, words.seconds),
        row("Other machines' clocks, off by", found, lambda one: one.clock_error_s, words.seconds),
        row("Warm-up", found, lambda one: one.warmup_s or None, words.duration),
        row("The wall clock moved by", found, lambda one: abs(one.wall_step_s), words.seconds, limit=step_limit()),
        row("The machine slept for", found, lambda one: one.suspended_s, words.seconds, limit=sleep_limit()),
    ]
    return ClientCheck(
        rows=tuple(one for one in rows if one is not None), facts=calibration_facts(run), notes=notes(cells, found)
    )


Reading = Callable[[ClientHealth], float | None]


def row(
    name: str, found: Sequence[ClientHealth], reading: Reading, shown: Callable[[float], str], *, limit: str = ""
) -> tuple[str, str, str, str] | None:
    """None: no cell knows it."""
    values = [value for one in found if (value := reading(one)) is not None]
    if not values:
        return None
    return name, shown(statistics.median(values)), shown(max(values)), limit or DASH


def core_words(value: float) -> str:
    """ "12.3% of a core"."""
    return f"{words.percent(value)} of a core"


def mean_cpu(health: ClientHealth) -> float | None:
    """Over the processes of one cell. None: there was one only, or they were not told apart."""
    return statistics.fmean(health.cpu_ratios) if len(health.cpu_ratios) > 1 else None


def cpu_limit() -> str:
    """As the cells were judged."""
    return f"{words.percent(summary.MAX_CLIENT_CPU_RATIO)} of a core"


def lag_limit() -> str:
    """As the cells were judged."""
    return (
        f"{words.percent(summary.MAX_LAG_SHARE)} of the median TTFT and E2E, "
        f"{words.percent(summary.MAX_LAG_SHARE_OF_GAP)} of the median ITL"
    )


def standstill_limit() -> str:
    """As the cells were judged."""
    return words.seconds(summary.MAX_STANDSTILL_S)


def send_limit() -> str:
    """As the cells were judged."""
    return f"{words.percent(summary.MAX_SEND_LAG_SHARE)} of the median E2E; in an open loop of the median TTFT and E2E"


def step_limit() -> str:
    """As the cells were judged: it makes none of them invalid."""
    return f"told over {words.seconds(summary.MAX_WALL_STEP_S)}; it is in no figure"


def sleep_limit() -> str:
    """As the cells were judged."""
    return words.seconds(summary.MAX_SUSPENDED_S)


def calibration_facts(run: Run) -> tuple[Fact, ...]:
    """The client's own error on this machine, as `harness doctor` found it."""
    found = run.calibration
    if found is None:
        return (Fact(name="Calibration", text=f"{NOT_CALIBRATED}. It measures an engine of known timing."),)
    bias = bias_words(found)
    told = f"{bias[0].upper()}{bias[1:]}; {words.plural(found.requests, 'request')}."
    return (
        Fact(name="Calibration", text=told),
        Fact(
            name="Calibrated on",
            text=f"{found.host}, {words.day(found.measured_utc)}, with harness {found.harness_version}",
        ),
        Fact(name="CPU meanwhile", text=core_words(found.cpu_ratio)),
    )


def notes(cells: Sequence[Cell], found: Sequence[ClientHealth]) -> tuple[str, ...]:
    """How to read the table, and what was counted."""
    out = [
        f"The middle and the worst of {words.plural(len(found), 'cell')}; a cell beyond a limit is INVALID.",
        lost_words(found),
    ]
    silent = len(cells) - len(found)
    if silent:
        out.append(f"{words.plural(silent, 'cell')} without the client's account of itself: failed or INVALID.")
    return tuple(filter(None, out))


def lost_words(found: Sequence[ClientHealth]) -> str:
    """How many requests the client says it began, all of which must have left a record."""
    begun = sum(one.requests for one in found)
    return (
        f"The client began {begun:,} requests, warm-up included; a cell that lost a record is INVALID." if begun else ""
    )
