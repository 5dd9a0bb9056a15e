"""Ollama's model names: `[host/][namespace/]model[:tag]`, with defaults for what is left out, blind to case."""

import re
from typing import Final

import msgspec

from proxy.errors import OllamaError

HOST: Final = "registry.ollama.ai"
NAMESPACE: Final = "library"
TAG: Final = "latest"

INVALID_NAME: Final = "invalid model name"

LONGEST: Final = 600
"""Characters; a host of 350 and three parts of 80 are fewer. Nothing longer is looked at."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A legal name with nothing left out, spelled as it was given."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """As lists show it: with its tag, without the default host and namespace."""
        if self.host.lower() != HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """With host, namespace and tag, as some of Ollama's errors print it."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for names that mean the same model."""
        return self.full.lower()


def parsed(name: str) -> Name | None:
    """The name in its parts; None: not a legal name."""
    if len(name) > LONGEST:
        return None
    tag = TAG
    if name.rfind(":") > name.rfind("/"):
        name, _, tag = name.rpartition(":")
    rest, has_namespace, model = name.rpartition("/")
    host, namespace = HOST, NAMESPACE
    if has_namespace:
        host_part, has_host, namespace = rest.rpartition("/")
        if has_host:
            host = host_part.rpartition("://")[2]
    parts = ((_HOST, host), (_NAMESPACE, namespace), (_PART, model), (_PART, tag))
    if not all(pattern.fullmatch(part) for pattern, part in parts):
        return None
    return Name(host=host, namespace=namespace, model=model, tag=tag)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What a request names."""

    name: Name
    is_cloud: bool
    """`:cloud` or a tag that ends with `-cloud`: Ollama would ask its own servers, we serve no such model."""


def referenced(text: str) -> Reference:
    """What `text` refers to, spaces around it and the suffix `:local` dropped, as Ollama does.

    Raises: OllamaError 400 where it is no legal name.
    """
    base, source = _without_source(text.strip())
    if source and _without_source(base)[1]:
        quoted = text.strip().replace("\\", "\\\\").replace('"', '\\"')
        raise OllamaError(400, f'use either :local or :cloud, not both: "{quoted[:LONGEST]}"')
    name = parsed(base)
    if name is None:
        raise OllamaError(400, INVALID_NAME)
    return Reference(name=name, is_cloud=source == "cloud")


def given(text: str) -> Name | None:
    """The name in its parts, for a model that is to have it; None: no legal name, or one that would mean another.

    `m:cloud` and `m:local` cannot be asked for: both are read as `m`.
    """
    return None if _without_source(text)[1] else parsed(text)


def _without_source(text: str) -> tuple[str, str]:
    base, has_tag, tag = text.rpartition(":")
    suffix = tag.strip().lower()
    if has_tag and suffix in ("cloud", "local"):
        return base, suffix
    if has_tag and "/" not in tag and suffix.endswith("-cloud"):
        return f"{base}:{tag.strip()[: -len('-cloud')]}", "cloud"
    return text, ""


def served_name(served_id: str) -> Name:
    """A legal name for one of vLLM's ids, which may be a path or any text that its operator chose.

    A legal id is itself (`Qwen/Qwen3-8B`). Of anything else the last part of the path is kept, with every other
    character turned into `-`.
    """
    if (name := given(served_id)) is not None:
        return name
    last = served_id.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    made = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-.")[:80]
    return Name(host=HOST, namespace=NAMESPACE, model=made or "model", tag=TAG)
