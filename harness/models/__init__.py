"""Models: what they are called on both sides, their shapes, and their weights on this machine."""

from harness.models.fetch import fetch, files
from harness.models.registry import entries, entry

__all__ = ["entries", "entry", "fetch", "files"]
