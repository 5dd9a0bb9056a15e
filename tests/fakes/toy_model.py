"""A synthetic model small enough to be made in a test.

    python -m tests.fakes.toy_model FOLDER

makes a large one, whose writer is killed or runs out of room.
"""

import sys
from pathlib import Path

import msgspec

from harness.models.places import Place
from harness.models.synth import make
from harness.models.tensors import FAMILIES
from harness.models.tokens import Tokens
from harness.models.weights import Weights
from harness.records import ModelShape

NAME = "synth-toy"
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
OTHERS = ("!", "1", "Ċ", "Ġ", "Ġ1", "word", "Ġcafé", "Ġ-", "Ġa1")
WORDS = tuple(f"Ġ{first}{second}" for first in "abcdefghijklmno" for second in "Pqrstuvwxyz")

TEXTS = (*CONTROL, *OTHERS, *WORDS)
TOKENS = Tokens(
    texts=TEXTS, kinds=(3,) * len(CONTROL) + (1,) * (len(TEXTS) - len(CONTROL)), merges=("Ġ a",),
    begin=1, end=2, unknown=0,
)  # fmt: skip
SHAPE = ModelShape(
    layers=3, hidden=256, intermediate=384, heads=4, kv_heads=2, head_dim=64, vocab=256, parameters=0,
    max_context_tokens=512, is_tied=False,
)  # fmt: skip
LARGE = msgspec.structs.replace(SHAPE, layers=1, hidden=2048, intermediate=16_384, heads=16, head_dim=128)
"""Its largest tensors take 67 MB each in 16 bits, its files 200 MB each."""


def weights(*, seed: int = 1, family: str = "smollm2-135m", shape: ModelShape = SHAPE) -> Weights:
    return Weights(shape, FAMILIES[family], words=TOKENS.words, seed=seed)


def made(folder: Path, *precisions: str, seed: int = 1, family: str = "smollm2-135m", say=lambda line: None) -> Place:
    """A toy in `folder`, in f16 where nothing else is named."""
    place = Place(folder, NAME)
    wanted = precisions or ("f16",)
    make(weights(seed=seed, family=family), TOKENS, place, title="a toy", precisions=wanted, say=say)
    return place


def make_large(folder: Path) -> None:
    make(weights(shape=LARGE), TOKENS, Place(folder, NAME), title="a large toy", precisions=("f16",), say=print)


if __name__ == "__main__":
    make_large(Path(sys.argv[1]))
