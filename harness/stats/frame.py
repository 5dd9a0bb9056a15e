"""Request records as tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.records import RequestRecord

COLUMNS = (
    "user",
    "began_s",
    "sent_s",
    "end_s",
    "e2e_s",
    "ttft_s",
    "tpot_s",
    "prompt_tokens",
    "output_tokens",
    "is_warmup",
    "is_ok",
)


def requests(records: Sequence[RequestRecord]) -> pd.DataFrame:
    """One row per request, warm-up included, columns as in COLUMNS; NaN where a time does not exist."""
    rows = [
        (
            r.user,
            r.began_s,
            r.sent_s,
            r.end_s,
            r.e2e_s,
            r.ttft_s,
            r.tpot_s,
            r.prompt_tokens,
            r.output_tokens,
            r.is_warmup,
            r.error is None,
        )
        for r in records
    ]
    numbers = dict.fromkeys(COLUMNS[1:-2], "float64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"user": "int64", **numbers, "is_warmup": "bool", "is_ok": "bool"}
    )


def token_times(records: Sequence[RequestRecord]) -> tuple[np.ndarray, np.ndarray]:
    """(times_s, tokens): when tokens arrived, over all requests, unsorted.

    Warm-up counts here: its last answers reach into the window, and the server's work for them is work. The server's
    count of an answer is spread evenly over its chunks. An answer that was not streamed counts as generated at an
    even rate from sending to end: its 100 points are enough for a window of seconds.
    """
    times, weights = [np.empty(0)], [np.empty(0)]
    for record in records:
        if record.error is not None or not record.output_tokens:
            continue
        at = np.asarray(record.chunks_s) if record.chunks_s else np.linspace(record.sent_s, record.end_s, 101)[1:]
        times.append(at)
        weights.append(np.full(len(at), record.output_tokens / len(at)))
    return np.concatenate(times), np.concatenate(weights)


def token_gaps(records: Sequence[RequestRecord]) -> list[np.ndarray]:
    """Seconds between tokens, one array per measured and streamed request.

    A chunk of k tokens counts as one gap of a k-th of the time: how its tokens came apart is not known.
    """
    return [
        gaps for record in records if not record.is_warmup and record.error is None and len(gaps := gaps_of(record))
    ]


def gaps_of(record: RequestRecord) -> np.ndarray:
    """Seconds between the tokens of one answer; empty under two chunks, or where the server did not count."""
    if len(record.chunks_s) < 2 or not record.output_tokens:
        return np.empty(0)
    tokens_per_chunk = max(1.0, record.output_tokens / len(record.chunks_s))
    gaps: np.ndarray = np.diff(np.asarray(record.chunks_s)) / tokens_per_chunk
    return gaps


def in_flight(requests: pd.DataFrame, at_s: np.ndarray) -> np.ndarray:
    """How many of the requests were under way at each of these moments."""
    sent, ended = (np.sort(requests[name].to_numpy()) for name in ("sent_s", "end_s"))
    counts: np.ndarray = np.searchsorted(sent, at_s, side="right") - np.searchsorted(ended, at_s, side="right")
    return counts
