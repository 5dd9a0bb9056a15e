"""Which model is served, under which name, and which parsers of vLLM know its tool calls and thoughts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness import config, models
from harness.errors import UsageError
from harness.records import Flags


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models whose tool calls or thoughts vLLM can tell from their text, by the name of the parser."""

    pattern: str
    """Found anywhere in the name of the model, without case."""
    tools: str = ""
    reasoning: str = ""


FAMILIES: Final = (
    Family(pattern=r"qwen3.*(embedding|reranker|-vl)"),
    Family(pattern=r"qwen3-?coder", tools="qwen3_coder"),
    Family(pattern=r"qwen3.*instruct-2507", tools="hermes"),
    Family(pattern=r"qwen3([:/-]|$)", tools="hermes", reasoning="qwen3"),
    Family(pattern=r"qwen2\.5", tools="hermes"),
    Family(pattern=r"llama-?3\.[123].*(vision|guard)"),
    Family(pattern=r"llama-?3\.[123]", tools="llama3_json"),
)
"""The first that fits counts. From the model cards and vLLM's page on tool calling; SmolLM2's template has no tools."""
PARSER_FLAGS: Final = {"tool-call-parser", "enable-auto-tool-choice", "reasoning-parser"}


def parser_flags(*names: str) -> Flags:
    """What lets vLLM return tool calls and thoughts apart from the text; empty for a family that is not known."""
    for family in FAMILIES:
        if any(re.search(family.pattern, name, re.IGNORECASE) for name in names):
            tools: Flags = {"enable-auto-tool-choice": True, "tool-call-parser": family.tools} if family.tools else {}
            return tools | ({"reasoning-parser": family.reasoning} if family.reasoning else {})
    return {}


def foreign(wanted: str) -> tuple[str, str]:
    """What vLLM loads and what clients call it, for a model that is not in the registry: a folder, or an id of the hub.

    Raises: UsageError where it can be neither.
    """
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("._-")
        return str(folder.resolve()), name or "model"
    if wanted.startswith(("/", ".", "~")):
        raise UsageError(f"there is no model folder {wanted}", hint="it needs config.json, tokenizer and *.safetensors")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", wanted):
        return wanted, wanted
    error = config.unknown_name("model", wanted, models.entries())
    raise UsageError(error.message, hint=f"{error.hint}; or an id of Hugging Face (owner/name), or a folder")
