"""Models: what they are called on both sides, their shapes, and their weights on this machine."""

from harness.models.library import fetch, files, is_synthetic
from harness.models.places import PRECISIONS, made, place_of
from harness.models.registry import DEFAULT_SEED, entries, entry, registered, short_tag

__all__ = [
    "DEFAULT_SEED",
    "PRECISIONS",
    "entries",
    "entry",
    "fetch",
    "files",
    "is_synthetic",
    "made",
    "place_of",
    "registered",
    "short_tag",
]
