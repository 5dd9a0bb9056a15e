"""Random weights of a model's shape: all values of one seed, a few rows at a time.

Speed does not depend on the values, the length of an answer does. So they are drawn such that greedy decoding walks
through all words of the vocabulary in one shuffled circle and never ends by itself:

- The output row of a word is the embedding of the word before it in the circle, times a power of two. The embedding of
  the token read last is still in the residual stream behind the last layer, so its successor has the largest logit by
  far, and no answer says a word twice before it has said them all (Ollama breaks off after 30 equal pieces of text).
- All other output rows are zero. The end of an answer has logit 0, and the largest of some ten thousand random logits
  of words, which is what follows a prompt, is above 0.
- A matrix with n inputs has variance 1/n and passes its input's size on. A layer then adds a variance of at most
  1 (attention) + 0.36 (MLP) to the residual stream, which begins with layers/4: nothing comes near the limits of f16,
  and the embedding keeps a cosine of about 0.4 to 0.6 with what it has become.

A value is one of 256, the quantiles of a normal distribution, rounded to bfloat16; all of them are exact in f16 too.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil, log2, prod, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.models.tensors import Family, Kind, Tensor, tensors
from harness.records import ModelShape

LEVELS: Final = 256
SPREAD: Final = 0.1
"""Standard deviation of norm weights, whose mean is 1, and of biases."""
LOGIT_SCALE: Final = 32.0
"""About twice the logit of a word after its predecessor."""
BLOCK_VALUES: Final = 1 << 21

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """The values of all tensors; the same seed gives the same ones on every machine."""

    shape: ModelShape
    family: Family
    words: tuple[int, ...]
    """Ids of the tokens that an answer is made of."""
    seed: int

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them in the order of the files."""
        return tensors(self.shape, self.family)

    def blocks(self, tensor: Tensor) -> Iterator[Floats]:
        """The tensor's values in order, some rows at a time; a block has whole heads."""
        columns = tensor.shape[1] if len(tensor.shape) == 2 else 1
        each = max(1, BLOCK_VALUES // columns // self.shape.head_dim) * self.shape.head_dim
        stream = Stream(self.seed, tensor.hub_name)
        for start in range(0, tensor.shape[0], each):
            rows = min(each, tensor.shape[0] - start)
            yield self._block(tensor, stream, start=start, shape=(rows, *tensor.shape[1:]))

    def _block(self, tensor: Tensor, stream: "Stream", *, start: int, shape: tuple[int, ...]) -> Floats:
        match tensor.kind:
            case Kind.NORM:
                return levels(SPREAD, mean=1.0)[stream.draw(shape)]
            case Kind.BIAS:
                return levels(SPREAD)[stream.draw(shape)]
            case Kind.MATRIX:
                return levels(1 / sqrt(tensor.shape[1]))[stream.draw(shape)]
            case Kind.EMBEDDING:
                codes, places = stream.draw(shape), self._places[start : start + shape[0]]
                codes[places >= 0] = self._word_codes[places[places >= 0]]
                return levels(embedding_std(self.shape))[codes]
            case Kind.OUTPUT:
                rows, places = np.zeros(shape, np.float32), self._places[start : start + shape[0]]
                before = (places[places >= 0] - 1) % len(self.words)
                rows[places >= 0] = levels(embedding_std(self.shape) * output_ratio(self.shape))[
                    self._word_codes[before]
                ]
                return rows

    @cached_property
    def circle(self) -> Ids:
        """Ids of the words in the order in which answers say them."""
        order = np.argsort(Stream(self.seed, "circle").raw(len(self.words)), kind="stable")
        return np.asarray(self.words, np.int64)[order]

    @cached_property
    def _places(self) -> Ids:
        """Where in the circle each token stands; −1 for one that is no word."""
        places = np.full(self.shape.vocab, -1, np.int64)
        places[self.circle] = np.arange(len(self.words))
        return places

    @cached_property
    def _word_codes(self) -> Bytes:
        """The words' embeddings in the order of the circle, which two tensors are made of: a byte for each value."""
        return Stream(self.seed, "words").draw((len(self.words), self.shape.hidden))


class Stream:
    """Random bytes for one purpose, from the seed and the purpose's name."""

    def __init__(self, seed: int, name: str) -> None:
        # NumPy promises the same raw bits in all its versions, and for the methods of Generator it does not.
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))

    def raw(self, count: int) -> NDArray[np.uint64]:
        """The next numbers of 64 bits."""
        return np.asarray(self._bits.random_raw(count), dtype="<u8")

    def draw(self, shape: tuple[int, ...]) -> Bytes:
        """The next bytes; eight at a time are drawn, so all calls but the last must want a multiple of that."""
        return self.raw(ceil(prod(shape) / 8)).view(np.uint8)[: prod(shape)].reshape(shape)


@cache
def levels(std: float, *, mean: float = 0.0) -> Floats:
    """The 256 values that a tensor's values are drawn from: equally likely, and normally distributed."""
    normal = NormalDist(mean, std)
    exact = [normal.inv_cdf((place + 0.5) / LEVELS) for place in range(LEVELS)]
    return as_bfloat16(np.array(exact, np.float32))


def as_bfloat16(values: Floats) -> Floats:
    """Rounded to the nearest value that bfloat16 has: a float32 whose lower 16 bits are 0."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def embedding_std(shape: ModelShape) -> float:
    """So large that a third to a sixth of the residual stream's variance behind the last layer is the embedding's."""
    return sqrt(shape.layers) / 2


def output_ratio(shape: ModelShape) -> float:
    """Output rows over embeddings; a power of two, so that it makes no rounding error."""
    return float(2.0 ** round(log2(LOGIT_SCALE / (shape.hidden * embedding_std(shape)))))
