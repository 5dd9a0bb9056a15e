"""The slots that some answers wait for."""

import math
from collections import deque
from collections.abc import Callable


class Slots:
    """Lets so many in at a time, in the order in which they came."""

    def __init__(self, capacity: int | None) -> None:
        self._free = math.inf if capacity is None else capacity
        self._queue: deque[Callable[[], None]] = deque()

    def enter(self, begin: Callable[[], None]) -> None:
        """Call `begin` as soon as there is a slot for it; it must `leave` in the end."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._queue.append(begin)

    def leave(self) -> None:
        """Give a slot back, to the next in the queue where there is one."""
        if self._queue:
            self._queue.popleft()()
        else:
            self._free += 1
