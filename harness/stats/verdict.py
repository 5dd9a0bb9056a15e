"""What an interval supports, and no more."""

from harness.records import Estimate, Verdict

NOISE_RATIO = 0.02
"""Differences up to this are called SAME: two launches of one engine differ by as much."""


def verdict(speedup: Estimate | None, *, noise_ratio: float = NOISE_RATIO) -> Verdict:
    """FASTER, SLOWER or SAME only where the whole interval says so; everything else is UNDECIDED.

    The limits are a factor both ways, so that A against B says the opposite of B against A.

    Args:  speedup: over 1 is better. None: no ratio could be had.
    """
    if speedup is None:
        return Verdict.UNDECIDED
    upper, lower = 1 + noise_ratio, 1 / (1 + noise_ratio)
    if speedup.low > upper:
        return Verdict.FASTER
    if speedup.high < lower:
        return Verdict.SLOWER
    if lower <= speedup.low and speedup.high <= upper:
        return Verdict.SAME
    return Verdict.UNDECIDED


def is_met(speedup: Estimate | None, target: float) -> bool | None:
    """Whether the ratio reaches `target`: True or False only where the whole interval does or does not."""
    if speedup is None:
        return None
    if speedup.low >= target:
        return True
    return False if speedup.high < target else None
