"""The models that clients see: what every vLLM server serves, LoRA adapters, and the aliases made of them.

Guessed, where vLLM does not tell (settings.capabilities overrides it): see `described`.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from proxy import weights
from proxy.aliases import Alias, AliasStore
from proxy.described import (
    Model,
    accepts_tools,
    capabilities,
    guessed_bytes,
    model_info,
    splits_reasoning,
    template_text,
    timestamp,
)
from proxy.errors import ModelNotFound, OllamaError, UpstreamNotReady
from proxy.gojson import quoted
from proxy.memory import Memory
from proxy.names import INVALID_NAME, Name, given, parsed, referenced, served_name
from proxy.residency import runtime_dir
from proxy.settings import Settings
from proxy.upstream import ServedModel, Upstream
from proxy.weights import Facts

__all__ = ["FRESH_S", "MISS_S", "PROBE_S", "STALE_S", "Catalog", "Model", "timestamp"]

log = logging.getLogger(__name__)

FRESH_S: Final = 3.0
"""A list of this age is used as it is."""

STALE_S: Final = 60.0
"""A list of this age still answers a request, while a new one is fetched beside it; an older one is waited for."""

MISS_S: Final = 1.0
"""An unknown name has the list fetched anew, no more often than this."""

PROBE_S: Final = 60.0
"""How long the answers to our questions about tasks and tools are believed."""

LIST_TIMEOUT_S: Final = 2.0
MAX_SPELLINGS: Final = 4_096

CONTEXT_FALLBACK: Final = 4_096
"""Where vLLM tells no max_model_len; it always does for a base model."""

ARCHITECTURE_FALLBACK: Final = "unknown"


class _Server:
    """What is known of one vLLM server."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.cards: tuple[ServedModel, ...] | None = None  # None: it has never told
        self.error: OllamaError = UpstreamNotReady()
        self.is_up = False
        self.tasks: frozenset[str] = frozenset({"generate"})
        self.accepts_tools: bool | None = None
        self.splits_reasoning: bool | None = None
        self.probed_s = float("-inf")
        self.facts: dict[str, tuple[Path | None, Facts]] = {}
        self.models: dict[str, Model] = {}


class Catalog:
    """Finds models by name. One list is fetched at a time, however many ask for it."""

    def __init__(
        self,
        settings: Settings,
        upstreams: Sequence[Upstream],
        *,
        hub: Path | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._now_s = now_s
        self._shared = settings.state_dir or runtime_dir()
        self.memory = Memory()
        self.aliases = AliasStore(None if self._shared is None else self._shared / "aliases.json")
        self._servers = [_Server(upstream) for upstream in upstreams]
        self._overrides = {
            name.key: tuple(listed) for text, listed in settings.capabilities.items() if (name := parsed(text))
        }
        self._refresh_task: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")
        self._alias_version = -1
        self._models: dict[str, Model] = {}
        self._others: dict[str, Model] = {}
        self._spellings: dict[str, Model] = {}
        self._first_seen: dict[str, int] = {}

    async def models(self) -> list[Model]:
        """All of them, the latest changed first; the last good list of a server that does not answer."""
        if self._now_s() - self._refreshed_s >= FRESH_S:
            await self._refreshed()
        self._look_at_aliases()
        return sorted(self._models.values(), key=lambda model: -model.modified_ns)

    async def find(self, name: str) -> Model:
        """The model that a request names.

        In this order: an alias, a served model under its own name, vLLM's own id or where the weights came from.
        Raises: ModelNotFound; OllamaError 400: no legal name; the error of a server that has never told its models.
        """
        age_s = self._now_s() - self._refreshed_s
        if age_s >= STALE_S:
            await self._refreshed()
        elif age_s >= FRESH_S:
            self._refresh()
        self._look_at_aliases()
        if (model := self._spellings.get(name)) is not None:
            return model
        model = self._looked_up(name)
        if model is None and self._now_s() - self._refreshed_s >= MISS_S:
            await self._refreshed()
            self._look_at_aliases()
            model = self._looked_up(name)
        if model is None:
            for server in self._servers:
                if server.cards is None:
                    raise server.error
            raise ModelNotFound(name)
        if len(self._spellings) < MAX_SPELLINGS:
            self._spellings[name] = model
        return model

    def served(self, model: Model) -> Model:
        """The model that vLLM serves, for itself and for an alias of it."""
        return self._others.get(model.base, model)

    def forget(self) -> None:
        """Have the next request wait for a new list: vLLM has said that ours is wrong."""
        self._refreshed_s = float("-inf")

    def saw_reasoning(self, model: Model) -> None:
        """Take in that vLLM has told thinking and text apart."""
        for server in self._servers:
            if server.upstream is model.upstream and not server.splits_reasoning and server.cards is not None:
                server.splits_reasoning = True
                server.models = self._described(server, server.cards)
                self._rebuild()

    # -------------------------------------------------------- aliases

    async def copy(self, source: str, destination: str) -> None:
        """Another name for a model. Raises OllamaError in Ollama's words for copy."""
        source_name, name = parsed(source), given(destination)
        if source_name is None:
            raise OllamaError(400, f"source {quoted(source)} is invalid")
        if name is None:
            raise OllamaError(400, f"destination {quoted(destination)} is invalid")
        try:
            model = await self.find(source)
        except ModelNotFound:
            raise OllamaError(404, f"model {quoted(source)} not found") from None
        if parsed(model.name) == name or model.name.lower() == name.short.lower():
            return
        alias = Alias(
            name=name.short,
            base=model.base,
            modified_ns=time.time_ns(),
            parent=model.details["parent_model"] if model.is_alias else "",
            system=model.system,
            parameters=model.parameters,
            messages=model.messages,
            license=list(model.license) if model.is_alias else [],
        )
        await asyncio.to_thread(self.aliases.put, name.key, alias)

    async def create(
        self,
        name: Name,
        parent: Model,
        *,
        system: str,
        parameters: dict[str, Any],
        messages: list[dict[str, Any]],
        licenses: list[str],
    ) -> None:
        """An alias of `parent` with settings of its own; what it does not set is the parent's, licenses are added."""
        alias = Alias(
            name=name.short,
            base=parent.base,
            modified_ns=time.time_ns(),
            parent=parent.name,
            system=system or parent.system,
            parameters={**parent.parameters, **parameters},
            messages=messages or parent.messages,
            license=[*parent.license, *licenses] if licenses or parent.is_alias else [],
        )
        await asyncio.to_thread(self.aliases.put, name.key, alias)

    async def delete(self, text: str) -> str:
        """The name of the alias that is no more. Raises OllamaError: unknown, or a model that vLLM serves."""
        try:
            reference = referenced(text)
        except OllamaError as why:
            if why.text != INVALID_NAME:
                raise
            raise OllamaError(400, f"name {quoted(text)} is invalid") from None
        alias = None if reference.is_cloud else self.aliases.all().get(reference.name.key)
        if alias is not None and await asyncio.to_thread(self.aliases.remove, reference.name.key):
            return alias.name
        if not reference.is_cloud:
            await self.models()
            if self._looked_up(text) is not None:
                raise OllamaError(403, f"model '{text}' is served by vLLM and cannot be deleted here: only aliases can")
        raise ModelNotFound(text)

    async def aclose(self) -> None:
        """Stop a refresh that is under way."""
        if self._refresh_task is not None:
            self._refresh_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refresh_task

    # -------------------------------------------------------- looking up

    def _looked_up(self, text: str) -> Model | None:
        reference = referenced(text) if text else None
        if reference is None or reference.is_cloud:
            return None
        key = reference.name.key
        return self._models.get(key) or self._others.get(key)

    def _look_at_aliases(self) -> None:
        """Take in what this or another worker has changed."""
        self.aliases.all()
        if self.aliases.version != self._alias_version:
            self._rebuild()

    def _rebuild(self) -> None:
        aliases = self.aliases.all()
        self._alias_version = self.aliases.version
        models: dict[str, Model] = {}
        others: dict[str, Model] = {}
        for server in self._servers:
            for key, model in server.models.items():
                models.setdefault(key, model)
        for server in self._servers:
            served_as = {model.served_id: model for model in server.models.values()}
            for card in server.cards or ():
                if (one := served_as.get(card.id)) is None:
                    continue
                others.setdefault(one.name, one)
                for text in (one.name, card.id, card.root):
                    if (name := parsed(text)) is not None:
                        others.setdefault(name.key, one)
        for key, alias in aliases.items():
            if (base := others.get(alias.base)) is not None:
                models[key] = self._aliased(key, alias, base)
        self._models, self._others, self._spellings = models, others, {}

    def _aliased(self, key: str, alias: Alias, base: Model) -> Model:
        own = (alias.system, alias.parameters, alias.messages, alias.license)
        digest, size_bytes = base.digest, base.size_bytes
        if any(own):
            told = msgspec.json.encode(own, order="deterministic")
            digest = hashlib.sha256(base.digest.encode() + told).hexdigest()
            size_bytes += len(told)
        return msgspec.structs.replace(
            base,
            name=alias.name,
            digest=digest,
            size_bytes=size_bytes,
            modified_ns=alias.modified_ns,
            details={**base.details, "parent_model": alias.parent},
            capabilities=self._overrides.get(key, base.capabilities),
            system=alias.system,
            parameters=alias.parameters,
            messages=alias.messages,
            license=tuple(alias.license) or base.license,
            is_alias=True,
        )

    # -------------------------------------------------------- asking the servers

    def _refresh(self) -> asyncio.Task[None]:
        """The fetch that is under way, begun where there is none."""
        if self._refresh_task is None or self._refresh_task.done():
            self._refresh_task = asyncio.create_task(self._ask_servers())
        return self._refresh_task

    async def _refreshed(self) -> None:
        """Wait for a fetch. One who stops waiting does not stop it for the others."""
        await asyncio.shield(self._refresh())

    async def _ask_servers(self) -> None:
        changes = await asyncio.gather(*(self._ask(server) for server in self._servers), return_exceptions=True)
        self._refreshed_s = self._now_s()
        for change in changes:
            if isinstance(change, BaseException):
                log.error("a server's models could not be understood", exc_info=change)
        if any(change is True for change in changes):
            self._rebuild()

    async def _ask(self, server: _Server) -> bool:
        """Whether anything about the server is new."""
        try:
            cards = tuple(await server.upstream.models(timeout_s=LIST_TIMEOUT_S))
        except OllamaError as why:
            server.error, server.is_up = why, False
            return False
        is_new = not server.is_up or _without_time(cards) != _without_time(server.cards or ())
        if not is_new and self._now_s() - server.probed_s < PROBE_S:
            return False
        server.is_up = True
        if is_new:
            server.accepts_tools = server.splits_reasoning = None
            server.facts = await asyncio.to_thread(self._read_facts, cards)
        await self._probe(server, cards)
        server.cards = cards
        server.models = self._described(server, cards)
        return True

    async def _probe(self, server: _Server, cards: tuple[ServedModel, ...]) -> None:
        try:
            server.tasks = await server.upstream.tasks()
        except OllamaError as why:
            log.info("vLLM's tasks are not known: %s", why.text)
            return
        if "generate" in server.tasks and cards:
            accepts = await accepts_tools(server.upstream, cards[0].id)
            server.accepts_tools = server.accepts_tools if accepts is None else accepts
            splits = await splits_reasoning(server.upstream, cards[0].id)
            server.splits_reasoning = server.splits_reasoning if splits is None else splits
            if accepts is None:
                return
        server.probed_s = self._now_s()

    def _read_facts(self, cards: Sequence[ServedModel]) -> dict[str, tuple[Path | None, Facts]]:
        told: dict[str, tuple[Path | None, Facts]] = {}
        for root in {card.root for card in cards}:
            folder = weights.found(root, hub=self._hub)
            told[root] = (folder, weights.UNKNOWN if folder is None else weights.facts(folder))
        return told

    # -------------------------------------------------------- describing a model

    def _described(self, server: _Server, cards: Sequence[ServedModel]) -> dict[str, Model]:
        models: dict[str, Model] = {}
        names: dict[str, Name] = {}
        bases = {card.id: card for card in cards if card.parent is None}
        for card in cards:
            name = served_name(card.id)
            if card.parent is None and not names and (chosen := parsed(server.upstream.address.name or "")):
                name = chosen
            names[card.id] = name
            models.setdefault(name.key, self._one(server, card, name, bases.get(card.parent or ""), names))
        return models

    def _one(
        self, server: _Server, card: ServedModel, name: Name, parent: ServedModel | None, names: dict[str, Name]
    ) -> Model:
        folder, facts = server.facts[(parent or card).root]
        own_folder, own_facts = server.facts[card.root]
        size_bytes = facts.size_bytes
        if parent is not None and size_bytes is not None:
            size_bytes += own_facts.size_bytes or 0
        hint = (parent or card).root.rstrip("/").rpartition("/")[2] or card.id
        parameter_count = (
            facts.parameter_count or weights.parameters_in_name(hint) or weights.parameters_in_name(card.id)
        )
        quantization = facts.quantization or weights.quantization_in_name(hint) or "unknown"
        max_model_len = card.max_model_len or (parent and parent.max_model_len) or facts.context_length
        digest = hashlib.sha256("\0".join((card.root, own_facts.revision or "", quantization)).encode()).hexdigest()
        architecture = facts.architecture or ARCHITECTURE_FALLBACK
        found = capabilities(facts, name=hint, tasks=server.tasks, accepts_tools=server.accepts_tools)
        listed = self._overrides.get(name.key, found)
        return Model(
            name=name.short,
            served_id=card.id,
            upstream=server.upstream,
            max_model_len=max_model_len or CONTEXT_FALLBACK,
            digest=digest,
            size_bytes=size_bytes or guessed_bytes(parameter_count, quantization),
            modified_ns=own_facts.modified_ns or self._first_seen_ns(digest),
            details={
                "parent_model": names[parent.id].short if parent is not None and parent.id in names else "",
                "format": "safetensors",
                "family": architecture,
                "families": [architecture],
                "parameter_size": weights.human_number(parameter_count) if parameter_count else "",
                "quantization_level": quantization,
            },
            model_info=model_info(
                facts,
                architecture=architecture,
                basename=name.model,
                parameter_count=parameter_count,
                max_model_len=max_model_len or CONTEXT_FALLBACK,
            ),
            capabilities=listed,
            license=(facts.license,) if facts.license else (),
            template=template_text(listed, facts.fim),
            base=name.short,
            fim=facts.fim,
            has_reasoning_parser=server.splits_reasoning,
            facts=facts,
            folder=folder if parent is None else own_folder,
        )

    def _first_seen_ns(self, digest: str) -> int:
        """When a model whose folder tells no date was first seen, by any worker where they share a folder."""
        if digest not in self._first_seen:
            self._first_seen[digest] = time.time_ns()
            if self._shared is not None:
                with contextlib.suppress(OSError):
                    mark = self._shared / f"seen-{digest[:32]}"
                    self._shared.mkdir(parents=True, exist_ok=True, mode=0o700)
                    os.close(os.open(mark, os.O_CREAT | os.O_CLOEXEC, 0o600))
                    self._first_seen[digest] = mark.stat().st_mtime_ns
        return self._first_seen[digest]


def _without_time(cards: tuple[ServedModel, ...]) -> list[tuple[str, str, str | None, int | None]]:
    """All but `created`, which is the time of the question."""
    return [(card.id, card.root, card.parent, card.max_model_len) for card in cards]
