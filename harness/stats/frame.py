"""Request records as tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.records import RequestRecord

COLUMNS = ("user", "sent_s", "end_s", "e2e_s", "ttft_s", "tpot_s", "prompt_tokens", "output_tokens", "is_ok")


def requests(records: Sequence[RequestRecord]) -> pd.DataFrame:
    """One row per measured request (warm-up left out), columns as in COLUMNS; NaN where a time does not exist."""
    rows = [
        (
            r.user,
            r.sent_s,
            r.end_s,
            r.e2e_s,
            r.ttft_s,
            r.tpot_s,
            r.prompt_tokens,
            r.output_tokens,
            r.error is None,
        )
        for r in records
        if not r.is_warmup
    ]
    numbers = dict.fromkeys(COLUMNS[1:-1], "float64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"user": "int64", **numbers, "is_ok": "bool"})


def token_times(records: Sequence[RequestRecord]) -> tuple[np.ndarray, np.ndarray]:
    """(times_s, tokens): when tokens arrived, over all measured requests, unsorted.

    The server's count of an answer is spread evenly over its chunks. An answer that was not streamed counts
    as generated at an even rate from sending to end: its 100 points are enough for a window of seconds.
    """
    times, weights = [np.empty(0)], [np.empty(0)]
    for record in records:
        if record.is_warmup or record.error is not None or not record.output_tokens:
            continue
        at = np.asarray(record.chunks_s) if record.chunks_s else np.linspace(record.sent_s, record.end_s, 101)[1:]
        times.append(at)
        weights.append(np.full(len(at), record.output_tokens / len(at)))
    return np.concatenate(times), np.concatenate(weights)


def token_gaps(records: Sequence[RequestRecord]) -> list[np.ndarray]:
    """Seconds between tokens, one array per streamed request; a chunk of k tokens counts as k equal gaps' mean."""
    gaps = []
    for record in records:
        if record.is_warmup or record.error is not None or len(record.chunks_s) < 2 or not record.output_tokens:
            continue
        tokens_per_chunk = max(1.0, record.output_tokens / len(record.chunks_s))
        gaps.append(np.diff(np.asarray(record.chunks_s)) / tokens_per_chunk)
    return gaps
