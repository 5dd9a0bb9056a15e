"""What an interval supports."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.records import Estimate, Verdict
from harness.stats.verdict import is_met, verdict

MIRRORED = {
    Verdict.FASTER: Verdict.SLOWER,
    Verdict.SLOWER: Verdict.FASTER,
    Verdict.SAME: Verdict.SAME,
    Verdict.UNDECIDED: Verdict.UNDECIDED,
}


def interval(low: float, high: float) -> Estimate:
    return Estimate(value=(low * high) ** 0.5, low=low, high=high, confidence=0.95, n=6, unit="ratio")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.03, 1.20, Verdict.FASTER),
        (0.70, 0.97, Verdict.SLOWER),
        (0.99, 1.01, Verdict.SAME),
        (0.99, 1.03, Verdict.UNDECIDED),
        (1.01, 1.03, Verdict.UNDECIDED),  # all over 1, but not over the noise
        (0.90, 1.10, Verdict.UNDECIDED),
        (1.02, 1.10, Verdict.UNDECIDED),  # the limit itself is not beyond the limit
        (1.00, 1.02, Verdict.SAME),
        (0.97, 0.99, Verdict.UNDECIDED),
    ],
)
def test_only_the_whole_interval_decides(low: float, high: float, expected: Verdict) -> None:
    assert verdict(interval(low, high)) == expected


def test_without_a_ratio_nothing_is_decided() -> None:
    assert verdict(None) == Verdict.UNDECIDED
    assert is_met(None, 1.0) is None


def test_more_noise_decides_less() -> None:
    assert verdict(interval(1.05, 1.08), noise_ratio=0.02) == Verdict.FASTER
    assert verdict(interval(1.05, 1.08), noise_ratio=0.1) == Verdict.SAME


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.floats(0.9, 1.1), st.floats(1.0, 1.15))
def test_swapping_the_sides_mirrors_the_verdict(low: float, factor: float) -> None:
    high = low * factor
    # An end that lies on a limit to the last bit may round to either side of it.
    assume(all(abs(end / limit - 1) > 1e-12 for end in (low, high) for limit in (1.02, 1 / 1.02)))
    assert verdict(interval(1 / high, 1 / low)) == MIRRORED[verdict(interval(low, high))]


def test_a_gain_that_is_just_over_the_noise_is_a_loss_seen_from_the_other_side() -> None:
    # 1 / 1.0203 is 0.9801: a limit of 0.98 would have called it UNDECIDED from there.
    assert verdict(interval(1.0203, 1.0300)) == Verdict.FASTER
    assert verdict(interval(1 / 1.0300, 1 / 1.0203)) == Verdict.SLOWER


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(2.0, 2.4, True), (1.5, 1.9, False), (1.9, 2.1, None), (1.5, 2.0, None)]
)
def test_a_target_is_met_or_missed_only_by_the_whole_interval(low: float, high: float, expected: bool | None) -> None:
    assert is_met(interval(low, high), 2.0) is expected
