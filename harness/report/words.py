"""Numbers, units and verdicts as people read them; shared by the page and the console.

Three significant digits; a bound has the decimals of its value. Nothing here knows a run.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from harness.records import Cell, CellState, Estimate, FlagValue, Level, Outcome, RunState, Sampling, Verdict

DASH: Final = "–"
DIGITS: Final = 3

TOO_FEW: Final = "†"
NOT_STREAMED: Final = "‡"
PARTIAL: Final = "§"
FOOTNOTES: Final = {
    TOO_FEW: "too few values for an interval",
    NOT_STREAMED: "the answer comes in one piece, so there is no first token to wait for and no gap between tokens",
    PARTIAL: "over the loads that were measured before it was stopped",
}

METRICS: Final = {
    "output_tok_s": ("tok/s", "Output tokens per second"),
    "requests_per_s": ("req/s", "Answers per second"),
    "ttft_s": ("TTFT", "Time to first token"),
    "itl_s": ("ITL", "Gap between tokens"),
    "tpot_s": ("TPOT", "Time per output token"),
    "e2e_s": ("E2E", "Whole answer"),
}
"""Short name for tables and the console, long name for headings."""

NEEDS_STREAM: Final = frozenset({"ttft_s", "itl_s", "tpot_s"})


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A state in one word. The sign says the same as the tone, for those who see or print no colour."""

    text: str
    tone: str
    """"good", "bad", "unsure" or "plain"."""
    sign: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure as printed: "412 ms", its bounds "398–431" if it has any, and the sign of a footnote."""

    text: str
    interval: str = ""
    mark: str = ""

    def __str__(self) -> str:
        interval = f" ({self.interval})" if self.interval else ""
        return f"{self.text}{interval}{self.mark}"


VERDICTS: Final = {
    Verdict.FASTER: Badge(text="faster", tone="good", sign="▲"),
    Verdict.SLOWER: Badge(text="slower", tone="bad", sign="▼"),
    Verdict.SAME: Badge(text="same", tone="plain", sign="="),
    Verdict.UNDECIDED: Badge(text="undecided", tone="unsure", sign="?"),
}
MET: Final = {
    True: Badge(text="met", tone="good", sign="✓"),
    False: Badge(text="missed", tone="bad", sign="✗"),
    None: Badge(text="undecided", tone="unsure", sign="?"),
}
NOT_MEASURED: Final = Badge(text="not measured", tone="unsure", sign=DASH)
NO_RATIO: Final = Badge(text="no ratio", tone="unsure", sign=DASH)
CELL_STATES: Final = {
    CellState.MEASURED: Badge(text="measured", tone="plain", sign="✓"),
    CellState.INVALID: Badge(text="INVALID", tone="bad", sign="!"),
    CellState.FAILED: Badge(text="FAILED", tone="bad", sign="✗"),
}
SIMULATED: Final = Badge(text="simulated", tone="unsure", sign="~")
"""Of a cell that would be called measured if an engine had run."""
FLAGGED: Final = Badge(text="flagged", tone="unsure", sign="*")
RUN_STATES: Final = {
    RunState.RUNNING: Badge(text="running", tone="unsure", sign="…"),
    RunState.DONE: Badge(text="done", tone="plain", sign="✓"),
    RunState.INTERRUPTED: Badge(text="interrupted", tone="unsure", sign="!"),
    RunState.FAILED: Badge(text="failed", tone="bad", sign="✗"),
}


def cell_badge(cell: Cell) -> Badge:
    """A cell's state; one whose figures count, but not without what it is flagged for, is "flagged"."""
    if cell.state is not CellState.MEASURED:
        return CELL_STATES[cell.state]
    return FLAGGED if cell.flags else SIMULATED if cell.is_simulated else CELL_STATES[cell.state]


def outcome_badge(outcome: Outcome, *, is_simulated: bool = False) -> Badge:
    """How a trial ended; all but MEASURED and STOPPED is bad."""
    if outcome is Outcome.STOPPED:
        return Badge(text="stopped early", tone="unsure", sign="■")
    if is_simulated and outcome is Outcome.MEASURED:
        return SIMULATED
    is_good = outcome is Outcome.MEASURED
    return Badge(text=outcome.value, tone="plain" if is_good else "bad", sign="✓" if is_good else "✗")


# ---------------------------------------------------------------- numbers


def decimals(value: float) -> int:
    """Decimals that leave `value` three significant digits; below 0 where it is rounded to tens or more."""
    if value == 0 or not math.isfinite(value):
        return 0

    def places(number: float) -> int:
        return DIGITS - 1 - math.floor(math.log10(abs(number)))

    # 9.996 becomes 10.00 with the decimals of 9.996; it should be 10.0.
    return places(round(value, places(value)) or value)


def fixed(value: float, places: int) -> str:
    """`value` rounded to `places` decimals, with thousands separated; what is not zero never becomes zero."""
    if not math.isfinite(value):
        return "not finite"
    rounded = round(value, places)
    if rounded == 0 and value != 0:
        return f"{'<' if value > 0 else '>−'}{10.0**-places:,.{max(places, 0)}f}"
    return f"{rounded:,.{max(places, 0)}f}".replace("-", "−")


def number(value: float) -> str:
    """Three significant digits: 0.372, 3.42, 17,900."""
    return fixed(value, decimals(value))


def si(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: "17.9k tok/s", "557 tok/s"."""
    tail = f" {unit}" if unit else ""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if round(abs(value), decimals(value)) >= factor:
            return f"{number(value / factor)}{prefix}{tail}"
    return f"{number(value)}{tail}"


def gib(value: float) -> str:
    """Bytes in GiB, or in MiB below one."""
    return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"


def seconds(value: float) -> str:
    """Milliseconds below a second, else seconds."""
    factor, unit = time_unit(value)
    return f"{number(value * factor)} {unit}"


def time_unit(value: float) -> tuple[float, str]:
    """Factor and name of the unit in which `value` seconds are printed; 0.9996 s prints as 1.00 s."""
    return (1.0, "s") if round(abs(value), decimals(value)) >= 1 else (1000.0, "ms")


def duration(value: float) -> str:
    """A span that people wait for: "412 ms", "45 s", "12 min 5 s", "3 h 2 min"."""
    if value < 10:
        return seconds(value)
    whole = round(value)
    minutes, rest_s = divmod(whole, 60)
    hours, rest_min = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_min} min" if rest_min else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest_s} s" if rest_s else f"{minutes} min"
    return f"{whole} s"


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


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 user", "50 users"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def load(level: Level) -> str:
    """ "1 user", "50 users", "2.5 requests/s"; the one level of a replay is "as recorded"."""
    if level.rate_per_s is not None:
        return f"{level.rate_per_s:g} {'request' if level.rate_per_s == 1 else 'requests'}/s"
    return plural(level.users, "user") if level.users else "as recorded"


def loads(levels: Sequence[Level]) -> str:
    """ "1, 5 and 50 users", "0.5 and 2 requests/s"."""
    if len(levels) < 2 or any(level == Level() for level in levels):
        return listed([load(level) for level in levels])
    unit = "users" if levels[0].rate_per_s is None else "requests/s"
    counts = [f"{level.users:,}" if level.rate_per_s is None else f"{level.rate_per_s:g}" for level in levels]
    return f"{listed(counts)} {unit}"


def at_load(level: Level) -> str:
    """The same within a sentence: "alone", "at 50 users", "at 2.5 requests/s", "as recorded"."""
    if level == Level(users=1):
        return "alone"
    return load(level) if level == Level() else f"at {load(level)}"


def listed(parts: Sequence[str], *, last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return f" {last} ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)


# ---------------------------------------------------------------- metrics and estimates


def split_metric(metric: str) -> tuple[str, str]:
    """ "ttft_s.p50" → ("ttft_s", "p50"); "output_tok_s" → ("output_tok_s", "")."""
    name, _, stat = metric.partition(".")
    return name, stat


def short_metric(metric: str) -> str:
    """ "TTFT p50"; a name we do not know stays as it is."""
    name, stat = split_metric(metric)
    return f"{METRICS[name][0]} {stat}".strip() if name in METRICS else metric


def long_metric(metric: str) -> str:
    """ "Time to first token, median"; a name we do not know stays as it is."""
    name, stat = split_metric(metric)
    if name not in METRICS:
        return metric
    return f"{METRICS[name][1]}, {stat_words(stat)}" if stat else METRICS[name][1]


def stat_words(stat: str) -> str:
    """ "p50" is the median; the others keep their name."""
    return "median" if stat == "p50" else stat


def scale(metric: str, value: float) -> tuple[float, str]:
    """Factor and unit in which `value` of `metric` is printed."""
    name, _ = split_metric(metric)
    if name in {"output_tok_s", "requests_per_s"}:
        return 1.0, METRICS[name][0]
    return time_unit(value) if name.endswith("_s") else (1.0, "")


def measure(metric: str, value: float | None) -> str:
    """A bare value with its unit; a dash where there is none."""
    if value is None:
        return DASH
    factor, unit = scale(metric, value)
    return f"{number(value * factor)} {unit}".rstrip()


def ranged(metric: str, value: float, low: float, high: float) -> Shown:
    """A value and its bounds, all in the value's unit and with its decimals."""
    factor, unit = scale(metric, value)
    places = decimals(value * factor)
    return Shown(
        text=f"{fixed(value * factor, places)} {unit}".rstrip(),
        interval=f"{fixed(low * factor, places)}{DASH}{fixed(high * factor, places)}",
    )


def estimate(metric: str, found: Estimate | None) -> Shown:
    """A dash with its footnote where there were too few values."""
    if found is None:
        return Shown(text=DASH, mark=TOO_FEW)
    return ranged(metric, found.value, found.low, found.high)


def ratio(found: Estimate | None) -> Shown:
    """ "3.42×" and "3.10–3.81"; a dash without footnote where there is none: the row says why."""
    if found is None:
        return Shown(text=DASH)
    places = decimals(found.value)
    return Shown(
        text=f"{fixed(found.value, places)}×",
        interval=f"{fixed(found.low, places)}{DASH}{fixed(found.high, places)}",
    )


def percent(value: float) -> str:
    """A share of 0 to 1 (or a multiple of it): "95%", "0.4%", "1,240%"."""
    return f"{fixed(100 * value, 0 if abs(value) >= 1 else 1).removesuffix('.0')}%"


def percent_of(found: Estimate) -> Shown:
    """A share with its interval, in percent."""
    places = 1 if found.value > 0.9 or found.value < 0.1 else 0
    low, high = (fixed(100 * bound, places) for bound in (found.low, found.high))
    return Shown(text=f"{fixed(100 * found.value, places)}%", interval=f"{low}{DASH}{high}%")


def times(value: float | None) -> str:
    """A ratio somebody chose, so as they wrote it: "1.5×", "2×"."""
    return DASH if value is None else f"{value:g}×"


def confidence(estimates: Iterable[Estimate | None]) -> str:
    """ " with 95% confidence"; empty where no estimate says."""
    levels = sorted({one.confidence for one in estimates if one is not None})
    percents = [f"{100 * level:.4g}" for level in levels]
    return f" with {listed(percents, last='or')}% confidence" if percents else ""


def footnotes(marks: Iterable[str]) -> tuple[str, ...]:
    """The footnotes that are in use."""
    used = set(marks)
    return tuple(f"{'' if mark == PARTIAL else DASH}{mark} {text}" for mark, text in FOOTNOTES.items() if mark in used)


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one value; 0 where one of them is."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values)) if min(values) > 0 else 0.0


def sampling(values: Sampling) -> str:
    """All sampling values; the defaults are greedy decoding."""
    return ", ".join(
        (
            f"temperature {values.temperature:g}" + (" (greedy)" if values.temperature == 0 else ""),
            f"top-p {values.top_p:g}",
            f"top-k {values.top_k or 'off'}",
            f"min-p {values.min_p:g}",
            f"repeat penalty {values.repeat_penalty:g}",
            f"presence penalty {values.presence_penalty:g}",
            f"frequency penalty {values.frequency_penalty:g}",
        )
    )


# ---------------------------------------------------------------- flags

# The singular only: max-num-batched-tokens is no secret.
SECRET: Final = re.compile(r"(^|[-_])(token|secret|password|api[-_]?key)$", re.IGNORECASE)
HIDDEN: Final = "[hidden]"


def shown_value(name: str, value: FlagValue) -> str:
    """A flag's value as typed; what is named like a secret is hidden, since reports are published."""
    if SECRET.search(name):
        return HIDDEN
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def flag_words(flags: dict[str, FlagValue]) -> list[str]:
    """The flags as vLLM takes them: {"enforce-eager": True} → ["--enforce-eager"]."""
    out: list[str] = []
    for name, value in flags.items():
        if value is True:
            out.append(f"--{name}")
        elif value is False:
            out.append(f"--no-{name}")
        else:
            out += [f"--{name}", shown_value(name, value)]
    return out


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line in which the value of each option that is named like a secret is hidden."""
    out: list[str] = []
    is_secret_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        is_secret = bool(SECRET.search(name)) and (name.startswith("-") or bool(equals))
        if is_secret_next:
            out.append(HIDDEN)
        else:
            out.append(f"{name}={HIDDEN}" if is_secret and equals else word)
        is_secret_next = is_secret and not equals and not is_secret_next
    return out
