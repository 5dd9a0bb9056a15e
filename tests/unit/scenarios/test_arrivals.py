"""When requests are due: counts and gaps that the theory gives, not the code."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.arrivals import Arrival, arrivals, share

KINDS = ("poisson", "constant", "ramp")


def times_s(kind, *, rate_per_s=10.0, duration_s=100.0, seed=1):
    return [found.at_s for found in arrivals(kind, rate_per_s=rate_per_s, duration_s=duration_s, seed=seed)]


def test_constant_requests_are_due_at_even_gaps_from_the_begin():
    assert times_s("constant", rate_per_s=4, duration_s=1) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential():
    found = times_s("poisson", duration_s=1000)
    assert len(found) == pytest.approx(10_000, abs=4 * 100)  # standard deviation √10000
    gaps = [later - sooner for sooner, later in itertools.pairwise(found)]
    mean_s = sum(gaps) / len(gaps)
    deviation_s = math.sqrt(sum((gap - mean_s) ** 2 for gap in gaps) / len(gaps))
    assert deviation_s == pytest.approx(mean_s, rel=0.05)
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_a_ramp_rises_evenly_from_nothing_to_its_level():
    found = times_s("ramp", rate_per_s=20, duration_s=100)
    assert len(found) == 1000  # the mean rate is half of the level
    in_each_tenth = [sum(10 * tenth <= at_s < 10 * (tenth + 1) for at_s in found) for tenth in range(10)]
    assert in_each_tenth == [10, 30, 50, 70, 90, 110, 130, 150, 170, 190]  # areas under the rising rate


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_moments_and_only_chance_depends_on_it(kind):
    assert times_s(kind, seed=3) == times_s(kind, seed=3)
    assert (times_s(kind, seed=3) == times_s(kind, seed=4)) == (kind != "poisson")


@given(
    kind=st.sampled_from(KINDS),
    rate_per_s=st.floats(0.01, 50),
    duration_s=st.floats(0.1, 20),
    parts=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_the_shares_of_all_processes_are_all_arrivals_once(kind, rate_per_s, duration_s, parts, seed):
    def whole():
        return arrivals(kind, rate_per_s=rate_per_s, duration_s=duration_s, seed=seed)

    everything = list(whole())
    cut = [list(share(whole(), part=part, parts=parts)) for part in range(parts)]
    assert sorted(itertools.chain(*cut)) == everything
    assert [found.number for found in everything] == list(range(len(everything)))
    assert all(0 <= found.at_s < duration_s for found in everything)
    assert everything == sorted(everything, key=lambda found: found.at_s)
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


def test_a_share_is_every_nth_arrival():
    found = share(iter([Arrival(n, n / 10) for n in range(7)]), part=1, parts=3)
    assert [arrival.number for arrival in found] == [1, 4]
