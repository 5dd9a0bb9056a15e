"""The models of registry.toml, by name."""

from pathlib import Path

from harness import config
from harness.records import ModelEntry

REGISTRY = Path(__file__).with_name("registry.toml")


def entries() -> dict[str, ModelEntry]:
    """All models by name, in the order of the file."""
    tables = config.read_toml(REGISTRY)
    return {name: config.convert({"name": name, **table}, ModelEntry, path=REGISTRY) for name, table in tables.items()}


def entry(name: str) -> ModelEntry:
    """The model called `name`. Raises: UsageError with the closest name and all of them."""
    known = entries()
    if name not in known:
        raise config.unknown_name("model", name, known)
    return known[name]
