"""The registry on the console. Apart from text.py, whose figures take a second to load."""

from collections.abc import Sequence

from harness.records import ModelEntry
from harness.report.columns import columns
from harness.report.words import DASH, si


def models_table(entries: Sequence[ModelEntry]) -> str:
    """The registry: each model under its names on both sides."""
    rows = [["name", "parameters", "Hugging Face", "Ollama", "licence"]]
    rows += [
        [
            one.name,
            si(one.shape.parameters),
            one.hf_id,
            one.ollama_tags.get(one.ollama_default, DASH),
            f"{one.license}{', must be accepted' if one.is_gated else ''}",
        ]
        for one in entries
    ]
    return columns(rows, right={1})
