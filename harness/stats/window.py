"""The stretch of a cell in which its load was really held, and whether the server was steady in it."""

import math

import numpy as np
import pandas as pd

from harness.records import ClientHealth, ClosedLoop, Level, Load, OpenLoop, Record
from harness.stats import frame
from harness.stats.distributions import student_t, theil_sen

MAX_LAPS = 40
MIN_LAPS = 10
"""A window in which each user ended fewer answers than this is too short to find a transient in."""
MIN_KEPT_LAPS = 5
TICK_S = 1e-6
"""Answers that end within it end together."""
MAX_DRIFT_RATIO = 0.05
"""Throughputs of two stretches that differ by less are taken for the same, however surely they differ."""
DIFFERENCE_CONFIDENCE = 0.99
IN_FLIGHT_LOOKS = 41
MIN_GROWTH_OF_MEAN = 0.25
"""Requests in flight grow by at least so much of their mean where a server is over its capacity,"""
MIN_GROWTH_OF_DUE = 0.05
"""and at least so many of the requests that came stay behind."""


class Window(Record, frozen=True, kw_only=True):
    """Seconds on the client's clock."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Never negative."""
        return self.end_s - self.start_s


class Held(Record, frozen=True, kw_only=True):
    """What the data say of a cell's load."""

    window: Window | None
    """None: the load was never held; `reasons` says how far it came."""
    is_steady: bool | None = None
    """Whether throughput was level through the window. None: too short to tell, or not a load that stays the same."""
    is_over_capacity: bool = False
    reasons: tuple[str, ...] = ()
    """Why figures of this window must not be trusted."""
    flags: tuple[str, ...] = ()


def steady_window(
    requests: pd.DataFrame,
    tokens: tuple[np.ndarray, np.ndarray],
    *,
    load: Load,
    level: Level,
    health: ClientHealth | None,
    share: float = 0.95,
) -> Held:
    """Where the figures of a cell may be taken from.

    Closed loop: from when measuring began to when the first user had nothing more to send, as far as at least `share`
    of the users were at work; less a transient that is left at its start. Open loop and replay: from when measuring
    began to when the last request was due.

    Args:  requests: as from `frame.requests`, warm-up and failed ones included. tokens: as from `frame.token_times`.
           health: None where the client left none; the window is then looked for in the requests alone.
    """
    measured = requests[~requests["is_warmup"]]
    if measured.empty:
        return Held(window=None, reasons=("the load was never held: no request was sent after measuring began",))
    is_closed = isinstance(load, ClosedLoop)
    start_s, end_s = float(measured["began_s"].min()), float(requests["end_s" if is_closed else "began_s"].max())
    if health is not None:
        start_s, end_s = health.started_s, health.stopped_s
    if end_s <= start_s:
        return Held(window=None, reasons=("the load was never held: it ended as measuring began",))
    if not is_closed:
        return within_capacity(Window(start_s=start_s, end_s=end_s), requests, load=load)
    at_work = longest_at_work(requests, start_s=start_s, end_s=end_s, needed=math.ceil(share * level.users))
    return at_work if at_work.window is None else without_transient(at_work.window, requests, tokens, users=level.users)


# ---------------------------------------------------------------- closed loop: users at work


def longest_at_work(requests: pd.DataFrame, *, start_s: float, end_s: float, needed: int) -> Held:
    """The longest stretch between the two moments in which at least `needed` users were at work.

    A user of a closed loop is at work from its first sending to the end of its last answer; the
    millisecond between two requests of one user is part of the loop, not a gap in the load.
    """
    spans = requests.groupby("user").agg(first=("sent_s", "min"), last=("end_s", "max")).clip(start_s, end_s)
    spans = spans[spans["last"] > spans["first"]]
    changes = sorted([(t, 1) for t in spans["first"]] + [(t, -1) for t in spans["last"]], key=lambda c: (c[0], -c[1]))
    best: Window | None = None
    at_work, most, since = 0, 0, None
    for time_s, change in changes:
        at_work += change
        most = max(most, at_work)
        if since is None and at_work >= needed:
            since = time_s
        elif since is not None and at_work < needed:
            if best is None or time_s - since > best.length_s:
                best = Window(start_s=float(since), end_s=float(time_s))
            since = None
    if best is None or best.length_s <= 0:
        reason = f"the load was never held: at most {most} users were at work at a time, {needed} are needed"
        return Held(window=None, reasons=(reason,))
    return Held(window=best)


# ---------------------------------------------------------------- closed loop: what is left of a transient


def without_transient(
    window: Window, requests: pd.DataFrame, tokens: tuple[np.ndarray, np.ndarray], *, users: int
) -> Held:
    """The window less a start in which the server was not yet as fast, or as slow, as it then stayed."""
    edges_s, per_s = lap_speeds(window, requests, tokens, users=users)
    count = len(per_s)
    if count < MIN_LAPS:
        return Held(window=window)
    cut = laps_until_steady(per_s)
    if cut is None:
        reason = (
            f"the server never got steady: {per_s[: count // 2].mean():.1f} tok/s in the first half of the "
            f"{window.length_s:.1f} s, {per_s[count // 2 :].mean():.1f} in the second"
        )
        return Held(window=window, is_steady=False, reasons=(reason,))
    if cut == 0:
        return Held(window=window, is_steady=True)
    start_s = float(edges_s[cut])
    flag = (
        f"the first {start_s - window.start_s:.1f} s after warm-up are left out: {per_s[:cut].mean():.1f} tok/s there, "
        f"{per_s[cut:].mean():.1f} after"
    )
    return Held(window=Window(start_s=start_s, end_s=window.end_s), is_steady=True, flags=(flag,))


def lap_speeds(
    window: Window, requests: pd.DataFrame, tokens: tuple[np.ndarray, np.ndarray], *, users: int
) -> tuple[np.ndarray, np.ndarray]:
    """(edges_s, tok/s between them): a closed loop's throughput lap by lap.

    A lap is as many ended answers as there are users, or a multiple of that where there would be over forty. Slices of
    equal time would not do: where all users are in step, or there is one, they beat against the turns of prefill and
    decoding, which looks like a trend. A first lap that is shorter than the others was under way when the window began,
    and is none.
    """
    ended_s = np.sort(requests.loc[requests["is_ok"], "end_s"].to_numpy())
    ended_s = ended_s[(ended_s > window.start_s) & (ended_s <= window.end_s)]
    each = users * max(1, math.ceil(len(ended_s) / users / MAX_LAPS))
    ends_s = (np.floor(ended_s[each - 1 :: each] / TICK_S) + 1.5) * TICK_S
    edges_s = np.unique(np.append(window.start_s, ends_s))
    if len(edges_s) > 2 and edges_s[1] - edges_s[0] < np.median(np.diff(edges_s[1:])):
        edges_s = edges_s[1:]
    order = np.argsort(tokens[0], kind="stable")
    sums = np.append(0.0, np.cumsum(tokens[1][order]))
    came = sums[np.searchsorted(tokens[0][order], edges_s, side="right")]  # a lap's last token is of this lap
    speeds: np.ndarray = np.diff(came) / np.diff(edges_s)
    return edges_s, speeds


def laps_until_steady(per_s: np.ndarray) -> int | None:
    """How many laps to leave out at the start. None: the server never got steady.

    What MSER proposes is left out where it matters: where throughput before and after surely differs, by over 5%.
    Never steady is what MSER wants to cut half or more of, and what still differs like that between the halves of what
    is left.

    Simulated with 20 laps: even throughput with noise of 2% a lap loses a start in under 1% of windows and is never
    called unsteady, with noise of 30% in 5% and under 1%. A start at half the speed is left out in 96% where it lasts
    one lap; where it fades away over three in 84%, and the others are called unsteady.
    """
    cut = transient_laps(per_s)
    if not is_different(per_s[:cut], per_s[cut:]):
        cut = 0
    rest = per_s[cut:]
    if 2 * cut >= len(per_s) - 1 or is_different(rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        return None
    return cut


def transient_laps(per_s: np.ndarray) -> int:
    """How many laps at the start to leave out, so that the mean of the rest is known best; at most half of them.

    MSER: the cut with the smallest squared standard error of what is left, sum((x - mean)²) / n² (White, An effective
    truncation heuristic for bias reduction in simulation output, Simulation 69, 1997, 323). At least 5 are left:
    the few last ones may be alike by chance.
    """
    most = min(len(per_s) // 2, len(per_s) - MIN_KEPT_LAPS)
    errors = [float(per_s[cut:].var()) / (len(per_s) - cut) for cut in range(most + 1)]
    return int(np.argmin(errors))


def is_different(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether the means of two stretches differ by more than 5%, and surely (99%) beyond what the laps scatter."""
    if len(some) == 0 or len(others) < 2:
        return False
    gap, mean = abs(float(some.mean() - others.mean())), float(others.mean())
    if gap <= MAX_DRIFT_RATIO * mean:
        return False
    # The scatter of `others` alone: a transient has a slope of its own.
    error = float(others.std(ddof=1)) * math.sqrt(1 / len(some) + 1 / len(others))
    return gap > student_t((1 + DIFFERENCE_CONFIDENCE) / 2, len(others) - 1) * error


# ---------------------------------------------------------------- open loop: more than the server can do


def within_capacity(window: Window, requests: pd.DataFrame, *, load: Load) -> Held:
    """The window, with a reason where requests came faster than the server could answer them.

    Requests in flight then grow for as long as one measures, and every latency with them. Told from the Theil-Sen slope
    of requests in flight: its 95% interval is above 0, the growth
    over the window is over a quarter of the mean, over 5% of the requests that came, and more than arrivals by chance
    pile up (two standard deviations of a Poisson count). A ramp's requests grow on purpose: it is not tested.
    """
    if isinstance(load, OpenLoop) and load.arrivals == "ramp":
        return Held(window=window)
    looks_s = np.linspace(window.start_s, window.end_s, IN_FLIGHT_LOOKS)
    under_way = frame.in_flight(requests, looks_s)
    slope = theil_sen(under_way, looks_s)
    due = int(requests["began_s"].between(window.start_s, window.end_s).sum())
    by_chance = 0.0 if isinstance(load, OpenLoop) and load.arrivals == "constant" else 2 * math.sqrt(due)
    growth = slope.value * window.length_s
    needed = max(MIN_GROWTH_OF_MEAN * float(under_way.mean()), MIN_GROWTH_OF_DUE * due, by_chance)
    if slope.low <= 0 or growth <= needed:
        return Held(window=window)
    ended = int((requests["is_ok"] & requests["end_s"].between(window.start_s, window.end_s)).sum())
    reason = (
        f"offered {due / window.length_s:.3g} requests/s, {ended / window.length_s:.3g} ended per second: over the "
        "server's capacity, so latencies depend on how long one measures"
    )
    return Held(window=window, is_over_capacity=True, reasons=(reason,))
