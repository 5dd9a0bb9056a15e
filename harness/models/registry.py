"""The models of registry.toml, by name, and synthetic ones of their shapes."""

import re
from pathlib import Path
from typing import Final

import msgspec

from harness import config
from harness.models.tensors import FAMILIES, parameters
from harness.records import ModelEntry

REGISTRY = Path(__file__).with_name("registry.toml")
DEFAULT_SEED: Final = 1
SYNTHETIC: Final = re.compile(r"synth-(?P<like>.+?)(?:-seed(?P<seed>\d+))?")


def entries() -> dict[str, ModelEntry]:
    """All models by name, in the order of the file; synthetic ones are not among them."""
    tables = config.read_toml(REGISTRY)
    return {name: config.convert({"name": name, **table}, ModelEntry, path=REGISTRY) for name, table in tables.items()}


def entry(name: str) -> ModelEntry:
    """The model called `name`; synth-<name> and synth-<name>-seed<N> have random weights of that one's shape.

    Raises: UsageError with the closest name and all of them.
    """
    known = entries()
    if name in known:
        return known[name]
    like, seed = synthetic_parts(name) or ("", 0)
    if like in known:
        return synthetic(known[like], seed=seed)
    raise config.unknown_name("model", name, [*known, *(f"synth-{like}" for like in known)])


def synthetic_parts(name: str) -> tuple[str, int] | None:
    """Which model a synthetic one is like, and its seed. None: the name is not that of a synthetic model."""
    found = SYNTHETIC.fullmatch(name)
    return (found["like"], int(found["seed"] or DEFAULT_SEED)) if found else None


def synthetic(like: ModelEntry, *, seed: int) -> ModelEntry:
    """The entry of random weights; their output projection is always a tensor of its own."""
    name = f"synth-{like.name}" + (f"-seed{seed}" if seed != DEFAULT_SEED else "")
    shape = msgspec.structs.replace(like.shape, is_tied=False, parameters=parameters(like.shape, FAMILIES[like.name]))
    return ModelEntry(
        name=name,
        title=f"random weights of {like.title.removesuffix(' Instruct')}'s shape",
        hf_id="",
        license="apache-2.0",  # of the tokenizer; the weights are nobody's
        shape=shape,
        gguf_file=f"{name}.gguf",
    )
