"""vLLM's paged KV cache by count: which blocks are held, which are kept for their contents, which are free."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

Key = tuple[Hashable, int]
"""A block by its contents: the segment that its last token is of, and its place in the sequence."""


class Segment(NamedTuple):
    """A stretch of text. Its name stands for all that was said before it too, as a chain of block hashes does."""

    name: Hashable
    tokens: int


def block_keys(segments: Sequence[Segment], *, block_tokens: int, blocks: int, first: int = 0) -> Iterator[Key]:
    """Keys of the blocks from `first` to before `blocks` of a sequence that consists of these segments."""
    end, place = 0, first
    for segment in segments:
        end += segment.tokens
        whole = min(blocks, end // block_tokens)
        while place < whole:
            yield (segment.name, place)
            place += 1


class BlockPool:
    """A cache of `capacity` blocks.

    A block that nobody holds any more is free, but keeps its contents until it is needed; the least recently used one
    goes first. Blocks of equal contents that were computed at the same time are two, as in vLLM.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        """Blocks that some sequence needs."""
        self._holders: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that could be had now."""
        return self.capacity - self.held

    @property
    def kept(self) -> int:
        """Of the free blocks, those whose contents could still be found."""
        return len(self._idle)

    def found(self, keys: Iterator[Key]) -> list[Key]:
        """The leading keys whose contents are in the cache."""
        hits: list[Key] = []
        for key in keys:
            if key not in self._holders and key not in self._idle:
                break
            hits.append(key)
        return hits

    def idle(self, keys: Sequence[Key]) -> int:
        """How many of these are held by nobody, so that holding them takes free blocks."""
        return sum(key in self._idle for key in keys)

    def hold(self, keys: Sequence[Key]) -> None:
        """One more sequence needs these cached blocks."""
        for key in keys:
            if key in self._idle:
                del self._idle[key]
                self._holders[key] = 1
                self.held += 1
            else:
                self._holders[key] += 1

    def take(self, blocks: int) -> None:
        """So many blocks without contents; they must be free."""
        self.held += blocks
        while len(self._idle) > self.capacity - self.held:
            self._idle.popitem(last=False)

    def keep(self, keys: Iterator[Key]) -> list[Key]:
        """Blocks that were taken have these contents now. Returns those that were not in the cache before."""
        fresh = [key for key in keys if key not in self._holders and key not in self._idle]
        self._holders.update(dict.fromkeys(fresh, 1))
        return fresh

    def forget(self) -> bool:
        """No contents are known any more. False: blocks are held, and vLLM then forgets nothing."""
        if self.held:
            return False
        self._idle.clear()
        return True

    def release(self, keys: Sequence[Key], *, blank: int) -> None:
        """A sequence needs these no more, nor `blank` blocks without known contents. Its last blocks go first."""
        self.held -= blank
        for key in reversed(keys):
            holders = self._holders[key] - 1
            if holders:
                self._holders[key] = holders
            else:
                del self._holders[key]
                self._idle[key] = None
                self.held -= 1
