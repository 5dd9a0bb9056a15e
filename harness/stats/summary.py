"""The records of one cell into its figures, and whether these may be trusted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import pandas as pd

from harness.records import (
    Cell,
    CellState,
    ClientHealth,
    ClosedLoop,
    Estimate,
    Level,
    Load,
    Metric,
    Record,
    RequestRecord,
    TelemetrySample,
    TelemetrySummary,
)
from harness.stats import frame, telemetry
from harness.stats.estimate import clustered_quantile, quantile, rate, ratio_of_means
from harness.stats.window import Held, Window, lap_speeds, steady_window

MAX_FAILURE_RATIO = 0.01
MAX_CLIENT_CPU_RATIO = 0.9
"""Of one core, for any client process: above this its own queue is in every figure."""
MAX_LAG_SHARE = 0.1
"""How late the client may wake up at the median, as a share of the shorter of TTFT and E2E (medians)."""
MAX_LAG_SHARE_OF_GAP = 0.5
"""The same as a share of the median gap between tokens: both ends of a gap are seen late, so it shifts far less."""
MAX_SEND_LAG_SHARE = 0.25
"""How late requests may be sent at the 99th percentile. In an open loop latencies count from the moment a request was
due, so this is a share of the shorter of TTFT and E2E (medians). In a closed loop a late request only leaves the server
idle meanwhile, so it is a share of the median E2E."""
MIN_GAP_S = 1e-4
"""A median gap between tokens below this is that of answers which come in bursts: it is flagged."""
MIN_IN_FLIGHT_SHARE = 0.95
"""Of a closed loop's users, how many must have a request under way on average."""
MAX_STANDSTILL_S = 0.5
"""A client that does nothing for longer sees what came meanwhile late and all at once, whatever its percentiles say."""
MAX_SUSPENDED_S = 0.05
MAX_WALL_STEP_S = 0.1
"""More than this is told; no figure depends on it, since all times are on the monotonic clock."""
CEILING_FACTOR = 1.02
"""A figure this much better than the data sheet allows is measured wrongly, or is not what it is said to be."""

STATISTICS = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
MIN_LAPS_TO_DRIFT = 4
UNSENT = "not sent"


class Figures(Record, frozen=True, kw_only=True):
    """What the records of one cell say; fields as in `records.Cell`."""

    state: CellState
    reasons: tuple[str, ...]
    flags: tuple[str, ...]
    requests: int
    failures: int
    window_s: float | None
    ttft_s: Metric
    itl_s: Metric
    tpot_s: Metric
    e2e_s: Metric
    output_tok_s: Estimate | None
    requests_per_s: Estimate | None
    in_flight_mean: float | None
    drift_ratio: Estimate | None
    prompt_tokens_mean: float | None
    output_tokens_mean: float | None
    telemetry: TelemetrySummary | None


def figures(
    records: Sequence[RequestRecord],
    *,
    load: Load,
    level: Level,
    health: ClientHealth | None,
    trouble: str = "",
    samples: Sequence[TelemetrySample] = (),
) -> Figures:
    """The figures of one cell.

    Latencies are of the measured requests that began in the steady window; one that failed counts as slower than all
    others, so that no percentile gets better by it, and one whose interval reaches into the failed ones is not given.
    Throughput counts the tokens and the answers of all requests, warm-up included, that came inside it.

    Args:  records: of one cell, warm-up included. health: None where the client left none. trouble: what went wrong
           with the load itself; empty where nothing did. samples: of the whole cell.
    """
    table, tokens = frame.requests(records), frame.token_times(records)
    held = steady_window(table, tokens, load=load, level=level, health=health)
    window = held.window
    measured = table[~table["is_warmup"]]
    good = measured[measured["is_ok"]]
    within = measured if window is None else measured[measured["began_s"].between(window.start_s, window.end_s)]
    inside = within[within["is_ok"]]
    failed = len(within) - len(inside)
    gaps = frame.token_gaps(records if window is None else [r for r in records if belongs(r, window)])
    throughput = None if window is None else in_window(*tokens, window, unit="tok/s")
    ended = table.loc[table["is_ok"], "end_s"].to_numpy()
    seen = None
    if samples and window is not None:
        seen = telemetry.telemetry_summary(
            samples, window, None if throughput is None else throughput.value * window.length_s
        )
    found = Figures(
        state=CellState.MEASURED,
        reasons=(),
        flags=(*held.flags, *burst_flags(gaps), *clock_flags(health), *(() if seen is None else telemetry.flags(seen))),
        requests=len(good),
        failures=len(measured) - len(good),
        window_s=None if window is None else window.length_s,
        ttft_s=metric(inside["ttft_s"], failed=failed),
        itl_s={name: clustered_quantile(gaps, q, unit="s") for name, q in STATISTICS.items()} if gaps else {},
        tpot_s=metric(inside["tpot_s"]),
        e2e_s=metric(inside["e2e_s"], failed=failed),
        output_tok_s=throughput,
        requests_per_s=None if window is None else in_window(ended, np.ones(len(ended)), window, unit="requests/s"),
        in_flight_mean=None if window is None else in_flight_mean(table, window),
        drift_ratio=None if window is None else drift_ratio(table, tokens, window, users=level.users),
        prompt_tokens_mean=mean(good["prompt_tokens"]),
        output_tokens_mean=mean(good["output_tokens"]),
        telemetry=seen,
    )
    return judged(
        found, records, held=held, load=load, level=level, health=health, trouble=trouble, inside=inside, gaps=gaps
    )


# ---------------------------------------------------------------- figures


def belongs(record: RequestRecord, window: Window) -> bool:
    """Whether the request began in the window; when it ended does not matter: that would leave out the slow ones."""
    return window.start_s <= record.began_s <= window.end_s


def metric(values: "pd.Series[float]", *, failed: int = 0) -> Metric:
    """All statistics of one latency in seconds; empty where the cell has no such latency.

    Args:  failed: requests that would have had one, and are taken for endlessly slow.
    """
    found = values.dropna().to_numpy()
    if not len(found):
        return {}
    ordered = np.append(found, np.full(failed, np.inf))
    with np.errstate(invalid="ignore"):  # between two that failed there is nothing to interpolate
        estimates = {name: quantile(ordered, q, unit="s") for name, q in STATISTICS.items()}
    return {
        name: one if one is None or (np.isfinite(one.value) and np.isfinite(one.high)) else None
        for name, one in estimates.items()
    }


def mean(values: "pd.Series[float]") -> float | None:
    """None where the server counted nothing."""
    found = values.dropna()
    return float(found.mean()) if len(found) else None


def in_window(times_s: np.ndarray, amounts: np.ndarray, window: Window, *, unit: str) -> Estimate | None:
    """What came inside the window, per second."""
    return rate(times_s, amounts, start_s=window.start_s, end_s=window.end_s, unit=unit)


def in_flight_mean(table: pd.DataFrame, window: Window) -> float:
    """Requests under way at a time: their time inside the window over its length. Failed ones are under way too."""
    sent, ended = (table[name].clip(window.start_s, window.end_s) for name in ("sent_s", "end_s"))
    return float((ended - sent).sum()) / window.length_s


def drift_ratio(
    table: pd.DataFrame, tokens: tuple[np.ndarray, np.ndarray], window: Window, *, users: int
) -> Estimate | None:
    """Throughput of the window's second half over its first; over 1 is faster.

    Its interval is from laps of a closed loop (see `window.lap_speeds`), or from ten slices of equal time where there
    are no four of them.
    """
    per_s = lap_speeds(window, table, tokens, users=users)[1] if users else np.empty(0)
    if len(per_s) < MIN_LAPS_TO_DRIFT:
        per_s, _ = np.histogram(tokens[0], bins=10, range=(window.start_s, window.end_s), weights=tokens[1])
    half = len(per_s) // 2
    return None if window.length_s < 1.0 else ratio_of_means(per_s[:half], per_s[-half:])


# ---------------------------------------------------------------- whether they may be trusted


def judged(
    found: Figures,
    records: Sequence[RequestRecord],
    *,
    held: Held,
    load: Load,
    level: Level,
    health: ClientHealth | None,
    trouble: str,
    inside: pd.DataFrame,
    gaps: Sequence[np.ndarray],
) -> Figures:
    """The figures with their state and every reason that speaks against them."""
    reasons = [trouble] if trouble else []
    is_failed = found.requests == 0
    if is_failed:
        reasons.append(nothing_ended_well(found, records))
    else:
        reasons += failure_reasons(found, records)
        reasons += window_reasons(found, held=held, load=load, level=level, health=health)
        reasons += counting_reasons(records)
        reasons += client_reasons(health, records)
        if health is not None:
            reasons += lag_reasons(health, load=load, inside=inside, gaps=gaps)
    flags = found.flags
    if health is not None and health.is_steady is False and held.is_steady:
        flags = (
            *flags,
            f"the client did not see the load become steady in {health.warmup_s:.1f} s of warm-up; by all the records "
            "throughput was level through the window",
        )
    state = CellState.FAILED if is_failed else CellState.INVALID if reasons else CellState.MEASURED
    return msgspec.structs.replace(found, state=state, reasons=tuple(reasons), flags=flags)


def nothing_ended_well(found: Figures | Cell, records: Sequence[RequestRecord]) -> str:
    """Why there are no figures."""
    if found.failures:
        return f"all {found.failures} requests failed{commonest_error(records)}"
    return "no request was sent after the warm-up" if records else "no request was sent"


def failure_reasons(found: Figures | Cell, records: Sequence[RequestRecord]) -> Iterator[str]:
    """Requests that failed, and of an open loop those that were not even sent."""
    sent = found.requests + found.failures
    if found.failures / sent <= MAX_FAILURE_RATIO:
        return
    unsent = sum(not r.is_warmup and is_unsent(r) for r in records)
    kind = f" ({unsent} of them were not sent: too many were under way)" if unsent else ""
    yield f"{found.failures} of {sent} requests failed, over {MAX_FAILURE_RATIO:.0%}{kind}{commonest_error(records)}"


def commonest_error(records: Sequence[RequestRecord]) -> str:
    """What most failed requests say, as the end of a sentence; empty where that was not to send them, which is told."""
    errors = Counter(str(r.error).partition(" (after ")[0] for r in records if not r.is_warmup and r.error is not None)
    if not errors:
        return ""
    [(error, count)] = errors.most_common(1)
    return "" if error.startswith(UNSENT) else f", {count} of them with: {error}"


def is_unsent(record: RequestRecord) -> bool:
    """Whether an open loop gave the request up at the moment it was to be sent, as the client then says."""
    return record.error is not None and record.error.startswith(UNSENT)


def window_reasons(
    found: Figures, *, held: Held, load: Load, level: Level, health: ClientHealth | None
) -> Iterator[str]:
    """A load that was not held, not steady, or more than the server can do."""
    yield from held.reasons
    if held.window is not None and found.output_tok_s is None:
        yield f"the load was held for only {held.window.length_s:.2f} s, under 1 s"
    if health is not None and health.is_steady is False and held.is_steady is None:
        yield f"the level was not steady when measuring began, after {health.warmup_s:.1f} s of warm-up"
    if isinstance(load, ClosedLoop) and found.in_flight_mean is not None:
        needed = MIN_IN_FLIGHT_SHARE * level.users
        if found.in_flight_mean < needed:
            yield (
                f"{found.in_flight_mean:.2f} requests were under way on average, under {MIN_IN_FLIGHT_SHARE:.0%} of "
                f"{level.users} users"
            )


def counting_reasons(records: Sequence[RequestRecord]) -> Iterator[str]:
    """Counts that the server did not give, or that cannot be."""
    good = [record for record in records if not record.is_warmup and record.error is None]
    if any(record.output_tokens is None for record in good):
        yield "the server did not say how many tokens it generated"
    if any(record.prompt_tokens is None for record in good):
        yield "the server did not say how many tokens the prompts had"
    if beyond := sum(
        r.output_tokens is not None and r.asked_tokens is not None and r.output_tokens > r.asked_tokens for r in good
    ):
        yield f"{beyond} of {len(good)} answers have more tokens, as the server counts them, than were asked for"
    if doubled := sum(r.output_tokens is not None and len(r.chunks_s) > r.output_tokens for r in good):
        yield (
            f"{doubled} of {len(good)} answers came in more chunks with text than the server counted tokens: it sent "
            "some twice, or counted wrongly"
        )


def client_reasons(health: ClientHealth | None, records: Sequence[RequestRecord]) -> Iterator[str]:
    """A client that was itself the limit, lost records, or slept."""
    if health is None:
        yield "the client left no account of itself"
        return
    busiest = max(health.cpu_ratio, *health.cpu_ratios, 0.0)
    if busiest > MAX_CLIENT_CPU_RATIO:
        who = "it" if health.processes == 1 else f"one of its {health.processes} processes"
        yield f"the client was the limit: {who} used {busiest:.0%} of a core, over {MAX_CLIENT_CPU_RATIO:.0%}"
    if health.lag_max_s > MAX_STANDSTILL_S:
        yield (
            f"the client was the limit: it stood still for {health.lag_max_s:.2f} s at a stretch, over "
            f"{MAX_STANDSTILL_S:g} s"
        )
    lost = health.requests - len(records)
    if lost > 0:
        yield f"{lost} of {health.requests} records were lost"
    if health.suspended_s > MAX_SUSPENDED_S:
        yield f"the machine slept for {health.suspended_s:.2f} s meanwhile, over {MAX_SUSPENDED_S:g} s"


def lag_reasons(health: ClientHealth, *, load: Load, inside: pd.DataFrame, gaps: Sequence[np.ndarray]) -> Iterator[str]:
    """A client that was too late for the times that this cell reports."""
    medians = [float(inside[name].median()) for name in ("ttft_s", "e2e_s") if inside[name].notna().any()]
    limits = [MAX_LAG_SHARE * median for median in medians]
    gap_s = float(np.median(np.concatenate(gaps))) if gaps else 0.0
    if gap_s >= MIN_GAP_S:  # below, answers come in bursts: how late the client woke is not what makes it
        limits.append(MAX_LAG_SHARE_OF_GAP * gap_s)
    if limits and health.lag_p50_s > min(limits):
        yield (
            f"the client was the limit: it woke {health.lag_p50_s * 1e3:.1f} ms late at the median, "
            f"and these times bear {min(limits) * 1e3:.1f} ms"
        )
    if not medians or health.send_lag_p99_s is None:
        return
    bearable_s = MAX_SEND_LAG_SHARE * (max(medians) if isinstance(load, ClosedLoop) else min(medians))
    if health.send_lag_p99_s > bearable_s:
        yield (
            f"the client was the limit: it sent {health.send_lag_p99_s * 1e3:.1f} ms late at the 99th percentile, "
            f"and these times bear {bearable_s * 1e3:.1f} ms"
        )


def above_ceiling(found: Figures | Cell, ceilings: Mapping[str, float]) -> tuple[str, ...]:
    """Figures that are better than the card's data sheet allows by more than 2%, each a sentence.

    Args:  ceilings: as in `records.Cell`; a latency's floor is held against its median.
    """
    reasons = []
    for name, limit in ceilings.items():
        measured = getattr(found, name)
        estimate = measured.get("p50") if isinstance(measured, dict) else measured
        if estimate is None:
            continue
        if name == "output_tok_s" and estimate.value > CEILING_FACTOR * limit:
            reasons.append(f"{estimate.value:.0f} tok/s are over the {limit:.0f} that the card's data sheet allows")
        if name != "output_tok_s" and estimate.value * CEILING_FACTOR < limit:
            label = name.removesuffix("_s").upper()
            reasons.append(
                f"a median {label} of {estimate.value * 1e3:.2f} ms is under the {limit * 1e3:.2f} ms that the card's "
                "data sheet allows"
            )
    return tuple(reasons)


def burst_flags(gaps: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Answers of which several chunks come at once: their gaps are the server's buffering."""
    if not gaps or float(np.median(np.concatenate(gaps))) >= MIN_GAP_S:
        return ()
    return ("answers come in bursts, most tokens together with the one before: ITL says nothing of the engine",)


def clock_flags(health: ClientHealth | None) -> tuple[str, ...]:
    """A wall clock that was set meanwhile: worth knowing, and in no figure."""
    if health is None or abs(health.wall_step_s) <= MAX_WALL_STEP_S:
        return ()
    return (
        f"the wall clock was moved by {health.wall_step_s:+.2f} s meanwhile; all times are on the monotonic clock, "
        "which was not",
    )
