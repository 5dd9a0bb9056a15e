"""When a load has become steady: pure, fed with requests as they end."""

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

MIN_LAP_S: Final = 1.0
TOK_S_RATIO: Final = 0.10
"""Two laps are alike whose tok/s differ by no more of the larger one,"""
WAIT_RATIO: Final = 0.25
"""and whose median waits differ by no more of the larger one,"""
WAIT_S: Final = 0.020
"""or by no more than this: what a busy machine adds to one wait and not to the next."""


class Lap(NamedTuple):
    """A stretch in which as many requests ended as are always under way, or a multiple of that.

    Never a part of one more round: where users are in step, a lap with half a round more looks faster than one without.
    """

    tok_s: float
    wait_s: float
    """Median time to the first token, or to the answer where it comes in one piece."""


def is_alike(one: Lap, other: Lap) -> bool:
    """Whether nothing changes any more between two laps. A lap without a token is like no other."""
    if not min(one.tok_s, other.tok_s) > 0:
        return False
    wait_apart_s = abs(one.wait_s - other.wait_s)
    return abs(one.tok_s - other.tok_s) <= TOK_S_RATIO * max(one.tok_s, other.tok_s) and (
        wait_apart_s <= WAIT_S or wait_apart_s <= WAIT_RATIO * max(one.wait_s, other.wait_s)
    )


class Laps:
    """The laps of a load so far, from the requests that end.

    Compilation shows as a lap that is slower than the next; a server that still fills up shows as laps that get faster
    or slower one after another: both go on until two laps in a row are alike.
    """

    def __init__(self, requests: int, *, began_s: float) -> None:
        self._requests = requests
        self._lap_began_s = began_s
        self._tokens: list[int] = []
        self._waits_s: list[float] = []
        self.laps: list[Lap] = []

    def note(self, *, sent_s: float, end_s: float, tokens: int, wait_s: float | None) -> None:
        """One request that has ended. `wait_s` None: it failed. Those sent before the first lap are no part of any."""
        if sent_s < self._lap_began_s and not self.laps:
            return
        self._tokens.append(tokens)
        if wait_s is not None:
            self._waits_s.append(wait_s)
        seconds = end_s - self._lap_began_s
        if len(self._tokens) % self._requests or seconds < MIN_LAP_S:
            return
        wait_s = median(self._waits_s) if self._waits_s else 0.0
        self.laps.append(Lap(tok_s=sum(self._tokens) / seconds, wait_s=wait_s))
        self._lap_began_s, self._tokens, self._waits_s = end_s, [], []

    @property
    def is_steady(self) -> bool:
        """The last two laps are alike."""
        return is_steady(self.laps)

    @property
    def is_hopeless(self) -> bool:
        """Two laps have passed and no request of the last two brought a token: there is nothing to wait for."""
        return len(self.laps) > 1 and not any(lap.tok_s for lap in self.laps[-2:])


def is_steady(laps: Sequence[Lap]) -> bool:
    """Whether the last two are alike."""
    return len(laps) > 1 and is_alike(laps[-2], laps[-1])
