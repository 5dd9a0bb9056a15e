"""The models of registry.toml, by name, and synthetic ones of their shapes."""

import re
from pathlib import Path
from typing import Final

import msgspec

from harness import config
from harness.errors import UsageError
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
    """The model of that name: ours, the hub's, or Ollama's short one.

    synth-<name> and synth-<name>-seed<N> have random weights of that one's shape.
    Raises: UsageError with the closest name and all of them.
    """
    found = registered(name)
    if found is not None:
        return found
    known = entries()
    for model in known.values():
        for precision, tag in model.ollama_tags.items():
            if name.casefold() == tag.casefold():
                raise UsageError(
                    f"{name} is {model.name} in {precision}, and --model names no precision",
                    hint=f"say {model.name}",
                )
    raise config.unknown_name("model", name, [*known, *(f"synth-{like}" for like in known)])


def registered(name: str) -> ModelEntry | None:
    """The model of that name, as `entry` takes it. None: there is none."""
    known = entries()
    like, seed = synthetic_parts(name) or ("", 0)
    if like in known:
        return synthetic(known[like], seed=seed)
    for model in known.values():
        if name.casefold() in {alias.casefold() for alias in (model.name, model.hf_id, short_tag(model))}:
            return model
    return None


def short_tag(model: ModelEntry) -> str:
    """The name that users of Ollama type: qwen2.5:1.5b for qwen2.5:1.5b-instruct-q4_K_M."""
    family, _, tag = model.ollama_tags.get(model.ollama_default, model.name).partition(":")
    return f"{family}:{tag.partition('-')[0]}" if tag else family


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
