"""How many requests kept the objectives of service, and what that says of a load."""

from collections.abc import Sequence

import numpy as np

from harness.records import CapacityStep, Cell, ClientHealth, Estimate, Level, Load, RequestRecord, Slo
from harness.stats import frame
from harness.stats.capacity import LOOK_CONFIDENCE
from harness.stats.estimate import share
from harness.stats.slo import keeps, needed_requests
from harness.stats.summary import Figures, belongs, failure_reasons, in_window, nothing_ended_well
from harness.stats.window import Held, Window, steady_window


def goodput(records: Sequence[RequestRecord], window: Window, slos: Sequence[Slo]) -> Estimate | None:
    """Requests per second that kept every limit, by when they began; None for a window under one second.

    By their begin, because then each measured request of the window counts once and whole. Failed ones keep nothing.
    """
    good = [r.began_s for r in measured(records, window) if all(keeps(r, one) for one in slos)]
    return in_window(np.array(good), np.ones(len(good)), window, unit="requests/s")


def measured(records: Sequence[RequestRecord], window: Window) -> list[RequestRecord]:
    """The requests that objectives are judged by: no warm-up, begun in the window, failed ones included."""
    return [record for record in records if not record.is_warmup and belongs(record, window)]


def step(
    found: Figures | Cell,
    records: Sequence[RequestRecord],
    *,
    load: Load,
    level: Level,
    health: ClientHealth | None,
    slos: Sequence[Slo],
    earlier: Sequence[CapacityStep] = (),
) -> CapacityStep:
    """Whether a load is inside the objectives: a step of the search for the capacity.

    Inside: the Wilson interval of each limit's share lies at or above what its objective asks. Outside: one lies below,
    or the server was over its capacity, where every latency grows for as long as one measures. Failed requests are the
    server's and count as not kept; a cell that is INVALID for another reason decides nothing.

    Args:  found: the figures of the cell. earlier: all steps before this one; the requests of those that tried this
           level and did not decide are counted in, and so on from try to try.
    """
    number = float(level.users) if level.rate_per_s is None else level.rate_per_s
    held = steady_window(frame.requests(records), frame.token_times(records), load=load, level=level, health=health)
    doubts = doubts_of(found, records, held=held)
    counted = [] if held.window is None else measured(records, held.window)
    if doubts or not counted:
        reason = "; ".join(doubts) or "no request was measured"
        return CapacityStep(level=number, requests=len(counted), kept=None, is_inside=None, reason=reason)
    tries = [before for before in earlier if before.level == number and before.shares]
    before = (tries[-1].kept, *tries[-1].shares) if tries else (None,) * (1 + len(slos))  # it holds those before it
    kept, *shares = (
        pooled(sum(all(keeps(r, one) for one in wanted) for r in counted), len(counted), then)
        for wanted, then in zip((slos, *([one] for one in slos)), before, strict=True)
    )
    is_inside, reason = decided(slos, shares)
    if held.is_over_capacity:
        is_inside, reason = False, held.reasons[0]
    return CapacityStep(
        level=number,
        requests=kept.n,
        kept=kept,
        shares=tuple(shares),
        is_inside=is_inside,
        reason=reason,
    )


def doubts_of(found: Figures | Cell, records: Sequence[RequestRecord], *, held: Held) -> list[str]:
    """The reasons against a cell that are not the server's own failing under the load."""
    own = set(held.reasons) if held.is_over_capacity else set()
    if found.requests:
        own.update(failure_reasons(found, records))
    elif found.failures:
        own.add(nothing_ended_well(found, records))
    return [reason for reason in found.reasons if reason not in own]


def pooled(kept: int, of: int, before: Estimate | None) -> Estimate:
    """The share over these requests, of which there is one at least, and those of an earlier estimate.

    Its interval is that of one look of several.
    """
    more = (0, 0) if before is None else (round(before.value * before.n), before.n)
    found = share(kept + more[0], of + more[1], confidence=LOOK_CONFIDENCE)
    assert found is not None
    return found


def decided(slos: Sequence[Slo], shares: Sequence[Estimate]) -> tuple[bool | None, str]:
    """(inside or not, why not): inside where all limits are shown to be kept, outside where one is shown not to be."""
    pairs = list(zip(slos, shares, strict=True))
    for one, kept in pairs:
        if kept.high < one.share:
            return False, f"{kept.value:.1%} of {kept.n} requests kept {one.text}, surely under {one.share:.4g}"
    for one, kept in pairs:
        if kept.low < one.share:
            enough = needed_requests(one)
            more = f"; {enough} requests that all keep it would show it" if kept.n < enough else ""
            return None, (
                f"{kept.value:.1%} of {kept.n} requests kept {one.text}; the interval from {kept.low:.1%} to "
                f"{kept.high:.1%} straddles {one.share:.4g}{more}"
            )
    return True, ""
