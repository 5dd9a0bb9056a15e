"""The records of one cell into its figures, and whether these may be trusted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.records import CellState, ClientHealth, Estimate, Metric, Record, RequestRecord
from harness.stats import frame
from harness.stats.estimate import clustered_quantile, quantile, rate
from harness.stats.window import Window, steady_window

MAX_FAILURE_RATIO = 0.01
MAX_CLIENT_CPU_RATIO = 0.9
"""Of one core, for the busiest client process: above this its own queue is in every figure."""
MAX_LAG_SHARE = 0.1
"""How late the client may wake up at the median, as a share of the shorter of TTFT and E2E (medians)."""
MAX_LAG_SHARE_OF_GAP = 0.5
"""The same as a share of the median gap between tokens: both ends of a gap are seen late, so it shifts far less."""

STATISTICS = {"p50": 0.50, "p95": 0.95}


class Figures(Record, frozen=True, kw_only=True):
    """What the records of one cell say; fields as in `records.Cell`."""

    state: CellState
    reasons: tuple[str, ...]
    requests: int
    failures: int
    window_s: float | None
    ttft_s: Metric
    itl_s: Metric
    tpot_s: Metric
    e2e_s: Metric
    output_tok_s: Estimate | None
    prompt_tokens_mean: float | None
    output_tokens_mean: float | None


def figures(records: Sequence[RequestRecord], *, health: ClientHealth | None, users: int) -> Figures:
    """The figures of one cell.

    Latencies are of the requests that belong to the steady window and ended well. Throughput counts the tokens that
    arrived inside it.

    Args:  records: of one cell, warm-up included (it is left out here). health: None where the client left none.
    """
    table = frame.requests(records)
    good = table[table["is_ok"]]
    failures = len(table) - len(good)
    window = steady_window(table, users=users)
    inside = records if window is None else [r for r in records if belongs(r, window)]
    sent = frame.requests(inside)
    sent = sent[sent["is_ok"]]
    gaps = frame.token_gaps(inside)
    itl_s: Metric = {name: clustered_quantile(gaps, q, unit="s") for name, q in STATISTICS.items()} if gaps else {}
    throughput = throughput_tok_s(records, window)
    ttft_s, tpot_s, e2e_s = (metric(sent[name]) for name in ("ttft_s", "tpot_s", "e2e_s"))
    state, reasons = judge(
        table, health=health, window=window, throughput=throughput, tolerable_s=tolerable_lag_s(sent, gaps)
    )
    return Figures(
        state=state,
        reasons=reasons,
        requests=len(good),
        failures=failures,
        window_s=None if window is None else window.length_s,
        ttft_s=ttft_s,
        itl_s=itl_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
        output_tok_s=throughput,
        prompt_tokens_mean=mean(good["prompt_tokens"]),
        output_tokens_mean=mean(good["output_tokens"]),
    )


def belongs(record: RequestRecord, window: Window) -> bool:
    """Whether the request was sent before the window ended, and spent at least half of its time after it began.

    All users start at once, but one of them is the last to send, and with it the window begins. A request that ends
    after the window still counts, however late: leaving it out would leave out the slow ones.
    """
    return record.sent_s <= window.end_s and (record.sent_s + record.end_s) / 2 >= window.start_s


def metric(values: "pd.Series[float]") -> Metric:
    """All statistics of one latency in seconds; empty where the cell has no such latency."""
    found = values.dropna().to_numpy()
    return {name: quantile(found, q, unit="s") for name, q in STATISTICS.items()} if len(found) else {}


def mean(values: "pd.Series[float]") -> float | None:
    """None where the server counted nothing."""
    found = values.dropna()
    return float(found.mean()) if len(found) else None


def throughput_tok_s(records: Sequence[RequestRecord], window: Window | None) -> Estimate | None:
    """Output tokens per second of the whole level inside the window; None without one."""
    if window is None:
        return None
    times_s, tokens = frame.token_times(records)
    return rate(times_s, tokens, start_s=window.start_s, end_s=window.end_s, unit="tok/s")


def tolerable_lag_s(sent: pd.DataFrame, gaps: Sequence[np.ndarray]) -> float | None:
    """How late the client may wake up without falsifying a median that this cell reports. None: it reports none."""
    limits = [MAX_LAG_SHARE * float(sent[name].median()) for name in ("ttft_s", "e2e_s") if sent[name].notna().any()]
    if gaps:
        limits.append(MAX_LAG_SHARE_OF_GAP * float(np.median(np.concatenate(gaps))))
    return min(limits, default=None)


def judge(
    table: pd.DataFrame,
    *,
    health: ClientHealth | None,
    window: Window | None,
    throughput: Estimate | None,
    tolerable_s: float | None,
) -> tuple[CellState, tuple[str, ...]]:
    """The state of a cell with every reason that speaks against it."""
    if table.empty:
        return CellState.FAILED, ("no request was sent",)
    failed = int((~table["is_ok"]).sum())
    if failed == len(table):
        return CellState.FAILED, (f"all {failed} requests failed",)
    reasons = []
    if failed / len(table) > MAX_FAILURE_RATIO:
        reasons.append(f"{failed} of {len(table)} requests failed, over {MAX_FAILURE_RATIO:.0%}")
    if window is None:
        reasons.append("the number of users was never held")
    elif throughput is None:
        reasons.append(f"the number of users was held for only {window.length_s:.2f} s, under 1 s")
    if table.loc[table["is_ok"], "output_tokens"].isna().any():
        reasons.append("the server did not say how many tokens it generated")
    if health is None:
        reasons.append("the client left no account of itself")
    else:
        if health.cpu_ratio > MAX_CLIENT_CPU_RATIO:
            reasons.append(f"the client was the limit: it used {health.cpu_ratio:.0%} of a core")
        if tolerable_s is not None and health.lag_p50_s > tolerable_s:
            reasons.append(
                f"the client was the limit: it woke {health.lag_p50_s * 1e3:.1f} ms late at the median, "
                f"and these times bear {tolerable_s * 1e3:.1f} ms"
            )
    return (CellState.INVALID if reasons else CellState.MEASURED), tuple(reasons)
