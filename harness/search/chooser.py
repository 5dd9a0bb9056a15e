"""Which open candidate is worth the next launch: the most improvement to be expected, by what it costs. Pure."""

import math
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from harness.records import Record
from harness.search.space import Places, Space
from harness.search.surrogate import Array, Surrogate, baseline_positions, positions

WARM: Final = 0.75
"""What a launch costs whose compiled kernels are in the cache, against one that compiles anew."""
TELLING: Final = 0.25
"""A value that lies further below the best than this only says "bad": how bad is of no use, and would bend all else."""
NEVER: Final = 1e-12


class Told(Record, frozen=True, kw_only=True):
    """A candidate that was measured: one value for each objective, as logarithms of ratios to the baseline."""

    places: Places
    values: tuple[float, ...]


def choose(
    space: Space,
    still_open: Sequence[Places],
    *,
    told: Sequence[Told],
    pending: Sequence[Places],
    rough: Sequence[Places],
    objectives: int,
    rng: np.random.Generator,
    home: Places | None = None,
) -> Places:
    """One of `still_open`, which must not be empty.

    Args:  pending: what other workers measure now: taken for what is expected of them, so that nobody looks there too.
           home: what the plan proposes. None: there is no plan.
           rough: where engines failed for reasons that may hold for the neighbours as well.
    """
    expected = _improvements(space, still_open, told=told, pending=pending, objectives=objectives, rng=rng, home=home)
    launched = {space.compile_key(places) for places in (*(one.places for one in told), *pending)}
    cost = np.asarray([WARM if space.compile_key(places) in launched else 1.0 for places in still_open])
    lasting = survival(space, still_open, good=[one.places for one in told], rough=rough)
    worth = np.maximum(expected, NEVER) * lasting / cost
    best = np.flatnonzero(worth >= worth.max() * (1 - 1e-9))
    return still_open[int(best[rng.integers(len(best))])]


def _improvements(
    space: Space,
    still_open: Sequence[Places],
    *,
    told: Sequence[Told],
    pending: Sequence[Places],
    objectives: int,
    rng: np.random.Generator,
    home: Places | None,
) -> Array:
    known = [one.values for one in told]
    points = [positions(space, one.places) for one in told]
    if (baseline := baseline_positions(space)) is not None:
        points.append(baseline)
        known.append((0.0,) * objectives)
    if not points:
        return np.ones(len(still_open))
    values = telling(scalars(known, objectives=objectives, rng=rng))
    level = float(np.mean(values))
    at_home = None if home is None else positions(space, home)
    model = Surrogate(space, points, list(values - level), home=at_home)
    if pending:
        waiting = [positions(space, places) for places in pending]
        believed, _ = model.mean_and_sd(waiting)
        points += waiting
        model = Surrogate(space, points, [*(values - level), *believed], home=at_home)
    best = float(np.max(model.mean_and_sd(points)[0]))
    mean, sd = model.mean_and_sd([positions(space, places) for places in still_open])
    return expected_improvement(mean - best, sd)


def expected_improvement(gain: Array, sd: Array) -> Array:
    """Mean of what is above zero of normal distributions around `gain`."""
    scaled = gain / sd
    density = np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
    below = np.asarray([0.5 * math.erfc(-one / math.sqrt(2)) for one in scaled])
    found: Array = gain * below + sd * density
    return found


def telling(values: Array) -> Array:
    """Values with those far below the best drawn up: beyond TELLING a distance counts by its logarithm."""
    if not len(values):
        return values
    under = values.max() - values
    found: Array = values.max() - np.where(
        under > TELLING, TELLING * (1 + np.log(np.maximum(under, TELLING) / TELLING)), under
    )
    return found


def scalars(values: Sequence[tuple[float, ...]], *, objectives: int, rng: np.random.Generator) -> Array:
    """One figure for each candidate; with several objectives by weights that are drawn anew for each question.

    The augmented Chebyshev distance to the best of each objective (ParEGO, Knowles 2006), which reaches every part
    of a Pareto front, also where it is hollow.
    """
    table = np.asarray(values, dtype=np.float64).reshape(len(values), objectives)
    if objectives == 1:
        return table[:, 0]
    weights = rng.dirichlet(np.ones(objectives)) * objectives
    if not len(table):
        return np.zeros(0)
    under = (table.max(axis=0) - table) * weights
    found: Array = -(under.max(axis=1) + 0.05 * under.sum(axis=1))
    return found


def survival(space: Space, asked: Sequence[Places], *, good: Collection[Places], rough: Collection[Places]) -> Array:
    """How likely each is to last, by what its neighbours did: 1 where nothing failed."""
    if not rough:
        return np.ones(len(asked))
    ok, failed = (_nearness(space, asked, list(known)) for known in (good, rough))
    found: Array = (0.5 + ok) / (0.5 + ok + failed)
    return found


def _nearness(space: Space, asked: Sequence[Places], known: Sequence[Places]) -> Array:
    """Of each asked candidate how many known ones lie near, each counted by how near."""
    if not known:
        return np.zeros(len(asked))
    here, there = np.asarray(asked, dtype=np.float64), np.asarray(known, dtype=np.float64)
    apart = np.abs(here[:, None, :] - there[None, :, :])
    ordered = np.asarray([axis.is_ordered for axis in space.axes])
    apart = np.where(ordered, apart, np.minimum(apart, 1.0))
    found: Array = np.exp(-0.5 * np.sum(apart**2, axis=2)).sum(axis=1)
    return found
