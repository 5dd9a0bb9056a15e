"""A Gaussian process over the ladders: what the values told so far say about the candidates that were not tried. Pure.

Effects of flags on a logarithm of a ratio add up for the most part, so the covariance is a sum of one term for each
axis, one for the two that share a batch, and a small one for whatever else. Each axis begins with the effect that
`Axis.effect` guesses, and the values told move it (maximum a posteriori, by steps along one parameter at a time).
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.records import Flags
from harness.search.space import BATCHED, SEQS, Axis, Places, Space, number_of

Array = NDArray[np.float64]

LEVEL: Final = 0.15
"""How far the whole space may lie from the baseline."""
PAIR: Final = 0.08
"""How much batched tokens and sequences may do to each other."""
REST: Final = 0.03
"""How much all other combinations may do."""
NOISE: Final = 0.015
"""Of a told value; the noise that is found moves away from it."""
LENGTH_PLACES: Final = 1.6
"""Over so many steps of a ladder the objective bends."""
BEYOND_KNEE: Final = 0.3
"""Steps beyond an axis' knee count so much of a step."""
DOUBT: Final = math.log(2.0)
"""Standard deviation of a parameter's logarithm around its first guess."""
LAPS: Final = 2
AWAY: Final = 0.4
"""By so much of an axis' effect a candidate is expected to be worse for each step away from where the plan says."""
FAR_PLACES: Final = 2.0
"""A default that lies off the ladder counts as no further away than this."""


class Surrogate:
    """The process, fitted to points and the values told of them."""

    def __init__(
        self,
        space: Space,
        points: Sequence[Sequence[float]],
        values: Sequence[float],
        *,
        home: Sequence[float] | None = None,
    ) -> None:
        self._axes = space.axes
        self._pair = [number for number, axis in enumerate(space.axes) if axis.flag in {BATCHED, SEQS}]
        self._points = np.asarray(points, dtype=np.float64).reshape(len(points), len(space.axes))
        self._home = None if home is None else np.asarray(home, dtype=np.float64)
        self._values = np.asarray(values, dtype=np.float64) - self._expected(self._points)
        guesses = [axis.effect for axis in space.axes] + [LEVEL, PAIR, REST, NOISE, LENGTH_PLACES]
        self._guess = np.log(np.asarray(guesses))
        self._distances = self._distances_to(self._points)
        self._theta = self._fitted()
        self._factor, self._weights = self._solved(self._theta)

    def mean_and_sd(self, points: Sequence[Sequence[float]]) -> tuple[Array, Array]:
        """Of each point the expected value, and how uncertain it is, noise left out."""
        asked = np.asarray(points, dtype=np.float64).reshape(len(points), len(self._axes))
        cross = self._covariance(self._distances_to(asked), self._theta)
        mean: Array = self._expected(asked) + cross @ self._weights
        half = np.linalg.solve(self._factor, cross.T)
        sd: Array = np.sqrt(np.maximum(self._variance(self._theta) - np.sum(half**2, axis=0), 1e-12))
        return mean, sd

    def _expected(self, asked: Array) -> Array:
        """Before anything is told: the further from home, the worse. Flags that may be left out can go either way."""
        if self._home is None:
            return np.zeros(len(asked))
        slopes = np.asarray([0.0 if None in axis.steps else AWAY * axis.effect for axis in self._axes])
        found: Array = -(np.abs(asked - self._home) @ slopes)
        return found

    def _distances_to(self, asked: Array) -> Array:
        """By axis, point asked and point known; between unlike values of an axis without order it is infinite."""
        apart: Array = np.abs(asked.T[:, :, None] - self._points.T[:, None, :])
        for number, axis in enumerate(self._axes):
            if not axis.is_ordered:
                apart[number] = np.where(apart[number] > 0, np.inf, 0.0)
        return apart

    def _covariance(self, distances: Array, theta: Array) -> Array:
        alike = matern(distances / math.exp(theta[-1]))
        effects = np.exp(2 * theta)
        count = len(self._axes)
        total: Array = np.tensordot(effects[:count], alike, axes=1) + effects[count]
        if len(self._pair) > 1:
            total += effects[count + 1] * np.prod(alike[self._pair], axis=0)
        total += effects[count + 2] * np.prod(alike, axis=0)
        return total

    def _variance(self, theta: Array) -> float:
        count = len(self._axes)
        effects = np.exp(2 * theta)
        pair = effects[count + 1] if len(self._pair) > 1 else 0.0
        return float(np.sum(effects[:count]) + effects[count] + pair + effects[count + 2])

    def _solved(self, theta: Array) -> tuple[Array, Array]:
        covariance = self._covariance(self._distances, theta)
        covariance[np.diag_indices_from(covariance)] += math.exp(2 * theta[-2]) + 1e-8
        factor: Array = np.linalg.cholesky(covariance).astype(np.float64)
        weights: Array = np.linalg.solve(factor.T, np.linalg.solve(factor, self._values))
        return factor, weights

    def _loss(self, theta: Array) -> float:
        factor, weights = self._solved(theta)
        fit = 0.5 * float(self._values @ weights) + float(np.sum(np.log(np.diag(factor))))
        return fit + 0.5 * float(np.sum(((theta - self._guess) / DOUBT) ** 2))

    def _fitted(self) -> Array:
        theta: Array = self._guess.copy()
        if len(self._values) < 3:
            return theta
        best = self._loss(theta)
        for step in (math.log(2.0), math.log(1.4))[:LAPS]:
            for number in range(len(theta)):
                for way in (step, -step):
                    tried = theta.copy()
                    tried[number] += way
                    loss = self._loss(tried)
                    if loss < best:
                        theta, best = tried, loss
                        break
        return theta


def matern(distance: Array) -> Array:
    """Matérn covariance of smoothness 5/2, 1 where the distance is 0."""
    scaled = math.sqrt(5) * np.minimum(distance, 1e6)
    found: Array = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return found


# ---------------------------------------------------------------- where a candidate lies


def position(axis: Axis, place: int) -> float:
    """The place on the ladder; steps beyond the knee are shorter."""
    if axis.knee is None or axis.knee not in axis.steps:
        return float(place)
    knee = axis.steps.index(axis.knee)
    return min(place, knee) + BEYOND_KNEE * max(place - knee, 0)


def positions(space: Space, places: Places) -> tuple[float, ...]:
    """Of a candidate on all axes."""
    return tuple(position(axis, place) for axis, place in zip(space.axes, places, strict=True))


def baseline_positions(space: Space) -> tuple[float, ...] | None:
    """Where vLLM's defaults lie. None: not known on some axis."""
    found = [_default_position(axis, space.defaults) for axis in space.axes]
    return tuple(at for at in found if at is not None) if None not in found else None


def _default_position(axis: Axis, defaults: Flags) -> float | None:
    if None in axis.steps:
        return position(axis, axis.steps.index(None))
    value = defaults.get(axis.flag)
    if value in axis.steps:
        return position(axis, axis.steps.index(value))
    ladder = [number for step in axis.steps if (number := number_of(step)) is not None]
    wanted = number_of(value)
    if not axis.is_ordered or wanted is None or len(ladder) != len(axis.steps):
        return None
    return _between(axis, ladder, wanted)


def _between(axis: Axis, ladder: Sequence[float], wanted: float) -> float:
    if wanted < ladder[0]:
        return max(-FAR_PLACES, -math.log2(ladder[0] / wanted))
    if wanted > ladder[-1]:
        beyond = min(FAR_PLACES, math.log2(wanted / ladder[-1]))
        return position(axis, len(ladder) - 1) + beyond * (1.0 if axis.knee is None else BEYOND_KNEE)
    below = max(place for place, step in enumerate(ladder) if step <= wanted)
    part = math.log(wanted / ladder[below]) / math.log(ladder[below + 1] / ladder[below])
    return position(axis, below) + part * (position(axis, below + 1) - position(axis, below))
