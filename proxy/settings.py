"""What the proxy is told once, at its start."""

from pathlib import Path

import msgspec


class UpstreamAddress(msgspec.Struct, frozen=True):
    """One vLLM server."""

    url: str
    """http://host:port, without a path."""

    name: str | None = None
    """The Ollama name under which clients see its base model; None: made from vLLM's own id."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, bytes and counts as the names say; the defaults are those of `python -m proxy`."""

    upstreams: tuple[UpstreamAddress, ...]
    host: str = "127.0.0.1"
    port: int = 11434
    workers: int = 1

    is_supervised: bool = False
    """Somebody starts vLLM again when it ends (`harness serve`): while it is away, clients are told to wait."""

    api_key: str | None = None
    """Asked of clients as `Authorization: Bearer …` on everything but `/`; None: of nobody."""

    upstream_api_key: str | None = None
    """Sent to vLLM; a client's own key never is."""

    origins: tuple[str, ...] = ()
    """Browser origins allowed beside Ollama's own list, `*` as wildcard (OLLAMA_ORIGINS)."""

    allow_admin: bool | None = None
    """copy, create, delete and pull; None: only while bound to loopback."""

    state_dir: Path | None = None
    """Where aliases are kept; None: kept in memory and lost at the end."""

    keep_alive_s: float = 300.0
    """Shown by /api/ps for a request that names none; negative: for ever (OLLAMA_KEEP_ALIVE)."""

    sampling_defaults: str = "ollama"
    """`ollama`: Ollama's defaults are sent to vLLM; `model`: what the model's generation_config says holds."""

    num_ctx: str = "ignore"
    """What becomes of a request's num_ctx, which vLLM fixes at its start: `ignore`, or `reject` what is beyond it."""

    capabilities: dict[str, tuple[str, ...]] = {}
    """Model name → capabilities that replace the ones found out."""

    version: str = "0.33.0"
    """Told by /api/version; clients compare it, so it is a version of Ollama's."""

    max_body_bytes: int = 64 * 2**20
    max_depth: int = 128
    """Nesting of a request's JSON."""

    max_images: int = 64
    max_image_bytes: int = 32 * 2**20
    """Of one image, decoded."""

    max_requests: int = 2048
    """Requests to vLLM at a time, an equal share for each worker; one more gets 503, as Ollama's full queue does."""

    body_timeout_s: float = 30.0
    """For a client to send its whole body."""

    stall_timeout_s: float = 60.0
    """For a client to take what it was sent."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float | None = None
    """Longest silence of vLLM within an answer; None: wait for ever, as a long prompt may need."""
