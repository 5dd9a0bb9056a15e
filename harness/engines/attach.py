"""A server that runs already: found, asked what it is, and left as it was."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from harness.engines import ollama, talk
from harness.engines.reference.spelling import REFERENCE
from harness.engines.running import Engine
from harness.errors import EngineModelNotFound, EngineNotFound
from harness.records import LaunchSpec

TITLES: Final = {"vllm": "vLLM", "llamacpp": "llama.cpp", "ollama": "Ollama"}


@contextmanager
def attached(spec: LaunchSpec, *, url: str) -> Iterator[Engine]:
    """The server at `url`; nothing is launched and nothing is stopped.

    Raises: EngineNotFound: nothing answers there, or not as `spec.api`.  EngineModelNotFound: it has other models.
    """
    url = url.rstrip("/").removesuffix("/v1")
    started = time.perf_counter()
    with talk.client(url, timeout_s=10.0) as http:
        api = spec.api or _api(http)
        listed = None if api is None else talk.models(http, api=api)
        if api is None or listed is None:
            raise EngineNotFound(
                f"nothing at {url} answers as {'an OpenAI or Ollama' if api is None else api} server",
                hint="start the server first, or check the address and --api",
            )
        wanted = spec.source or spec.model
        if not talk.is_listed(wanted, listed, api=api):
            raise EngineModelNotFound(
                f"the server at {url} has no model {wanted}", hint=f"it has: {', '.join(listed) or 'none at all'}"
            )
        dialect = "ollama" if api == "ollama" else _openai_dialect(http)
        version, behind = _version(http, dialect), _version_behind(http, dialect, wanted)
        title = f"{TITLES.get(dialect, 'server')} {version}".rstrip()
        if REFERENCE in (version, behind):
            title = "reference engine"
        elif behind:
            title = f"vLLM {behind} behind a server with Ollama's API"
        elif dialect == "ollama" and not _is_ollama_itself(http):
            title = f"a server with Ollama's API, not Ollama, {version}".rstrip()
        resolved = ollama.resolved(http, wanted) if dialect == "ollama" else {}
    yield Engine(
        name=spec.engine or dialect,
        title=f"{title} at {url}",
        version=behind or version,
        url=url,
        api=api,
        dialect=dialect,
        model=wanted,
        launch_s=time.perf_counter() - started,
        resolved=resolved,
    )


def _api(http: httpx.Client) -> str | None:
    """Which API the server speaks. Ollama has both, and is to be measured by its own."""
    if talk.get_json(http, "/api/version") is not None:
        return "ollama"
    return "openai" if talk.models(http, api="openai") is not None else None


def _openai_dialect(http: httpx.Client) -> str:
    """Whose extra fields an OpenAI server takes, by what it says of its models' owner."""
    match talk.get_json(http, "/v1/models"):
        case {"data": [{"owned_by": "vllm"}, *_]}:
            return "vllm"
        case {"data": [{"owned_by": "llamacpp"}, *_]}:
            return "llamacpp"
        case {"data": [{"owned_by": "library"}, *_]}:
            return "ollama"
    return "plain"


def _is_ollama_itself(http: httpx.Client) -> bool:
    """Whether the server's front page says what only Ollama's says; others serve its API too."""
    try:
        return http.get("/").text.strip() == "Ollama is running"
    except httpx.HTTPError:
        return False


def _version(http: httpx.Client, dialect: str) -> str:
    """What it calls itself; empty where it does not say."""
    path = {"vllm": "/version", "plain": "/version", "ollama": "/api/version"}.get(dialect)
    answer = talk.get_json(http, path) if path else None
    return str(answer.get("version", "")) if isinstance(answer, dict) else ""


def _version_behind(http: httpx.Client, dialect: str, model: str) -> str:
    """What the engine calls itself that answers under Ollama's API, so that a simulated one is known behind a proxy.

    Our proxy tells it among a model's facts, the reference engine of itself. Empty: nobody says so, as in Ollama.
    """
    if dialect != "ollama":
        return ""
    try:
        shown = http.post("/api/show", json={"model": model}).json()
    except (httpx.HTTPError, ValueError):
        shown = None
    match shown:
        case {"model_info": {"vllm.version": str(version)}}:
            return version
    return _version(http, "plain")
