"""Objectives of service: how they are written, and which requests keep them."""

import math
import re
from typing import Final

import numpy as np

from harness.errors import UsageError
from harness.records import RequestRecord, Slo, Workload
from harness.stats.capacity import LOOK_CONFIDENCE
from harness.stats.distributions import normal
from harness.stats.frame import gaps_of

METRICS: Final = {"ttft": "ttft_s", "itl": "itl_s", "tpot": "tpot_s", "e2e": "e2e_s"}
UNITS_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
STREAMED: Final = frozenset({"ttft_s", "itl_s", "tpot_s"})
"""Times that only a streamed answer has."""

PARTS: Final = re.compile(
    r"\s*(?P<metric>[^:\s]+)\s*:\s*(?P<stat>[^<>=\s]+)\s*(?P<sign>[<>=]+)\s*(?P<limit>[^a-zA-Zµ\s]+)\s*(?P<unit>[a-zA-Zµ]*)\s*"
)
PERCENTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")
NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?|\.\d{1,9}")
HINT: Final = "write it like 'ttft:p95<500ms': 95 of 100 requests have their first token within half a second"


def slo(text: str) -> Slo:
    """The objective that "ttft:p95<500ms" names.

    A metric (ttft, itl, tpot, e2e), a percentile (p50, p99.9), < or <=, and a time in s, ms or us. Both signs mean
    the same here: a request that takes the limit to the last bit keeps it.

    Raises:  UsageError: it is written otherwise.
    """
    found = PARTS.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not an objective: a metric, a percentile and a limit are needed", hint=HINT)
    return Slo(
        metric=metric_of(found["metric"], text),
        share=share_of(found["stat"], text),
        limit_s=limit_of(found["sign"], found["limit"], found["unit"], text),
        text=text.strip(),
    )


def metric_of(name: str, text: str) -> str:
    """Raises: UsageError."""
    if name.lower() not in METRICS:
        raise UsageError(f"{name!r} in {text!r} is no metric: there are {', '.join(METRICS)}", hint=HINT)
    return METRICS[name.lower()]


def share_of(name: str, text: str) -> float:
    """Raises: UsageError."""
    found = PERCENTILE.fullmatch(name.lower())
    share = round(float(found[1]) / 100, 6) if found else 0.0
    if not 0 < share < 1:
        raise UsageError(f"{name!r} in {text!r} is no percentile: p50, p95, p99 or p99.9, for example", hint=HINT)
    return share


def limit_of(sign: str, number: str, unit: str, text: str) -> float:
    """Raises: UsageError."""
    if sign not in {"<", "<="}:
        raise UsageError(f"{sign!r} in {text!r} is no limit: a time must be under it, so < or <=", hint=HINT)
    if not NUMBER.fullmatch(number) or float(number) <= 0:
        raise UsageError(f"{number!r} in {text!r} is no time: a number over 0 is needed", hint=HINT)
    if unit not in UNITS_S:
        said = f"{unit!r} in {text!r} is no unit" if unit else f"{text!r} has no unit"
        raise UsageError(f"{said}: s, ms or us", hint=HINT)
    return float(number) * UNITS_S[unit]


def refuse_unstreamed(slos: tuple[Slo, ...], workload: Workload) -> None:
    """Raises: UsageError where an objective is of tokens, and the workload's answers come in one piece."""
    for one in slos:
        if one.metric in STREAMED and not workload.is_streamed:
            raise UsageError(
                f"{one.text!r} needs streamed answers, and those of this scenario come in one piece",
                hint="use a limit on e2e, or a scenario that streams",
            )


def keeps(record: RequestRecord, one: Slo) -> bool:
    """Whether the request kept the limit. A failed one kept none; an answer of one token has no gap to be late."""
    if record.error is not None:
        return False
    if one.metric in {"itl_s", "tpot_s"} and record.output_tokens is not None and record.output_tokens < 2:
        return True
    time_s = time_of(record, one.metric)
    return time_s is not None and time_s <= one.limit_s


def time_of(record: RequestRecord, metric: str) -> float | None:
    """One request's time in seconds; `itl_s` is the mean of its gaps. None: it has none."""
    if metric == "itl_s":
        gaps = gaps_of(record)
        return float(np.mean(gaps)) if len(gaps) else None
    found: float | None = getattr(record, metric)
    return found


def needed_requests(one: Slo) -> int:
    """So many that all keep the limit put the interval of one look above the share: 111 for p95, 575 for p99."""
    z = normal((1 + LOOK_CONFIDENCE) / 2)
    return math.ceil(z**2 * one.share / (1 - one.share))
