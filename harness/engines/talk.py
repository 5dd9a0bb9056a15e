"""Short questions to a server on this machine: is it there, and which models does it have."""

from typing import Any

import httpx

TIMEOUT_S = 2.0


def client(url: str, *, timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """A client of the server at `url`; a proxy from the environment must not stand between us and loopback."""
    return httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)


def get(http: httpx.Client, path: str) -> httpx.Response | None:
    """The answer to a GET. None: nobody listens, or no answer came in time."""
    try:
        return http.get(path)
    except httpx.TransportError:
        return None


def get_json(http: httpx.Client, path: str) -> Any:
    """The parsed answer to a GET. None: there was none, its status is not 200, or it is no JSON."""
    answer = get(http, path)
    if answer is None or answer.status_code != httpx.codes.OK:
        return None
    try:
        return answer.json()
    except ValueError:
        return None


def models(http: httpx.Client, *, api: str) -> list[str] | None:
    """Ids that the server lists. None: it does not answer as that API would."""
    path, field, key = {"openai": ("/v1/models", "data", "id"), "ollama": ("/api/tags", "models", "name")}[api]
    match get_json(http, path):
        case {**body} if isinstance(entries := body.get(field), list):
            return [str(entry[key]) for entry in entries if isinstance(entry, dict) and key in entry]
    return None


def is_listed(name: str, listed: list[str], *, api: str) -> bool:
    """Whether a request for `name` finds a model; Ollama compares without case and fills in the tag."""
    if api == "ollama":
        return _tagged(name) in map(_tagged, listed)
    return name in listed


def _tagged(name: str) -> str:
    return (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()
