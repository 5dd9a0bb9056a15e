"""How far a run is and how long it will still take, said after each step."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

SIMULATED_TIME: Final = "of simulated time"
"""What the time of a clock is called that nobody has to wait for."""
Say = Callable[[str], None]


def clock_text(seconds: float) -> str:
    """Minutes and seconds for people: 4 min 05 s, 38 s."""
    whole = max(round(seconds), 0)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Progress:
    """A list of steps, each with an expected time that is corrected by what steps of its kind really took.

    An expected time is the least that a step takes: how long a load warms up, and how slow an engine is, nobody knows
    before. So where cells of an engine took three times as long as expected, three times is expected of its others too,
    and a time left that rests on an expected time alone is told as "at least".

    Args:  steps: (kind, expected seconds) in any order. A kind is "launch ENGINE", or begins with the engine of a cell.
           say: takes one line without its end. now: the clock. of: what its time is called, where it is not that of
           the user's own clock.
    """

    def __init__(
        self,
        steps: Iterable[tuple[str, float]],
        *,
        say: Say,
        now: Callable[[], float] = time.monotonic,
        of: str = "",
    ) -> None:
        self._say, self._now, self._of = say, now, f" {of}".rstrip()
        self._left: list[tuple[str, float]] = list(steps)
        self._guesses_s = dict(self._left)
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._since = now()

    def left_s(self) -> float:
        """Expected seconds until the last step has ended."""
        return self.expected_s(self._left)

    def expected_s(self, steps: Iterable[tuple[str, float]]) -> float:
        """Expected seconds of these steps, by what steps of their kinds have really taken."""
        total = 0.0
        for kind, guess_s in steps:
            seen = self._seen.get(kind)
            total += sum(seen) / len(seen) if seen else guess_s * (self._pace(kind) or 1.0)
        return total

    def _pace(self, kind: str) -> float | None:
        """How many times longer than expected other cells of its engine took. None: there were none."""
        engine = kind.partition(" ")[0]
        alike = [one for one in self._seen if one.partition(" ")[0] == engine and one in self._guesses_s]
        if not alike or engine == "launch":  # one engine's launch tells nothing of another's
            return None
        took_s = sum(sum(self._seen[one]) / len(self._seen[one]) for one in alike)
        return took_s / sum(self._guesses_s[one] for one in alike)

    def _left_text(self) -> str:
        is_known = all(kind in self._seen or self._pace(kind) for kind, _ in self._left)
        return f"{'' if is_known else 'at least '}{clock_text(self.left_s())}{self._of} left"

    def note(self, text: str) -> None:
        """Says something without ending a step."""
        self._say(text)

    def done(self, kind: str, text: str) -> None:
        """One step of this kind has ended: says `text` and the time left."""
        now = self._now()
        self._seen[kind].append(now - self._since)
        self._since = now
        self.skip(kind)
        self._say(f"{text}  [{self._left_text()}]" if self._left else text)

    def add(self, steps: Iterable[tuple[str, float]]) -> None:
        """More steps will come than was planned."""
        more = list(steps)
        self._left += more
        self._guesses_s |= dict(more)

    def skip(self, kind: str) -> None:
        """One step of this kind will not come."""
        for place, (planned, _) in enumerate(self._left):
            if planned == kind:
                del self._left[place]
                return
