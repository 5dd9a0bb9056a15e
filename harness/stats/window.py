"""The stretch of a cell in which its load was really held."""

import math

import pandas as pd

from harness.records import Record


class Window(Record, frozen=True, kw_only=True):
    """Seconds on the client's clock."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Never negative."""
        return self.end_s - self.start_s


def steady_window(requests: pd.DataFrame, *, users: int, share: float = 0.95) -> Window | None:
    """The longest stretch in which at least `share` of the users were at work.

    A user of a closed loop is at work from its first sending to the end of its last answer; the
    millisecond between two requests of one user is part of the loop, not a gap in the load.

    Args:     requests: as from `frame.requests`, failed ones included.
    Returns:  None where the level was never held.
    """
    if requests.empty:
        return None
    spans = requests.groupby("user").agg(first=("sent_s", "min"), last=("end_s", "max"))
    needed = math.ceil(share * users)
    changes = sorted([(t, 1) for t in spans["first"]] + [(t, -1) for t in spans["last"]], key=lambda c: (c[0], -c[1]))
    best: Window | None = None
    at_work, since = 0, None
    for time_s, change in changes:
        at_work += change
        if since is None and at_work >= needed:
            since = time_s
        elif since is not None and at_work < needed:
            if best is None or time_s - since > best.length_s:
                best = Window(start_s=float(since), end_s=float(time_s))
            since = None
    return best if best is not None and best.length_s > 0 else None
