"""The virtual keep-alive clock: when Ollama would unload a model, which vLLM never does.

A worker writes sixteen bytes a request, so that all workers show one clock.
"""

import hashlib
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from proxy.settings import Settings

log = logging.getLogger(__name__)

RUNTIME_VARIABLE: Final = "PROXY_RUNTIME_DIR"
NS_IN_S: Final = 1_000_000_000
FOREVER_NS: Final = 2**63 - 1
"""Ollama's for ever, the longest duration that Go can hold: 292 years. The year stays far below 9999."""

_ENTRY: Final = struct.Struct("<qQ")  # the session's keep-alive, and when it ends; ns
_UNUSED: Final = (0, 0)
_UNLOADED: Final = (0, 1)
_SERVERS: Final = -1  # in place of the session's keep-alive: nobody asked for one, the server's default holds


class Named(Protocol):
    """A model of the catalog."""

    @property
    def name(self) -> str: ...


class Residency:
    """Keep-alive of every model by its name as lists show it, in files of `directory` that workers share.

    Without a directory, here or in PROXY_RUNTIME_DIR, in memory.

    As Ollama does it (seen with 0.33): a request that names a keep-alive sets the session's, one that names none leaves
    it as it is, and the clock starts anew when the model goes idle. An unloaded or expired model starts a new session
    with the server's default.
    """

    def __init__(
        self, settings: Settings, *, directory: Path | None = None, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._default_ns = _nanoseconds(settings.keep_alive_s)
        self._directory = directory or runtime_dir()
        self._now_ns = now_ns
        self._entries: dict[str, tuple[int, int]] = {}
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def used(self, model: Named | str, keep_alive_s: float | None) -> None:
        """Start the model's clock: a request has ended, or has loaded it. 0 unloads; infinite or negative: for ever."""
        if keep_alive_s == 0:
            self.unload(model)
            return
        now_ns = self._now_ns()
        if keep_alive_s is not None:
            session_ns = _nanoseconds(keep_alive_s)
        else:
            session_ns, ends_ns = self._read(model)
            if session_ns <= 0 or ends_ns <= now_ns:
                session_ns = _SERVERS
        length_ns = self._default_ns if session_ns == _SERVERS else session_ns
        self._write(model, (session_ns, now_ns + length_ns))

    def unload(self, model: Named | str) -> None:
        """Show the model no longer, until its next request."""
        self._write(model, _UNLOADED)

    def expires_ns(self, model: Named | str, *, is_alias: bool) -> int | None:
        """When Ollama would unload the model, in ns since 1970; None: it would not be loaded.

        A served model counts as loaded before its first request, and goes on doing so by the server's default, since
        vLLM holds it; an alias only by its own requests.
        """
        entry = self._read(model)
        if entry == _UNLOADED:
            return None
        now_ns = self._now_ns()
        session_ns, ends_ns = entry
        if session_ns > 0 or is_alias:
            return ends_ns if ends_ns > now_ns else None
        return now_ns + self._default_ns if self._default_ns > 0 else None

    def _read(self, model: Named | str) -> tuple[int, int]:
        key = _key(model)
        if self._directory is None:
            return self._entries.get(key, _UNUSED)
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return _UNUSED
        if len(data) != _ENTRY.size:
            return _UNUSED
        session_ns, ends_ns = _ENTRY.unpack(data)
        return session_ns, ends_ns

    def _write(self, model: Named | str, entry: tuple[int, int]) -> None:
        key = _key(model)
        if self._directory is None:
            self._entries[key] = entry
            return
        try:
            file = os.open(self._path(key), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, _ENTRY.pack(*entry), 0)
            finally:
                os.close(file)
        except OSError:  # a full disk must not fail a request for a clock that is only shown
            log.warning("the keep-alive clock cannot be written", exc_info=True)

    def _path(self, key: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.clock"


def _key(model: Named | str) -> str:
    return (model if isinstance(model, str) else model.name).lower()


def runtime_dir() -> Path | None:
    """The folder that `python -m proxy` makes for what its workers share while they run; None: there is none."""
    folder = os.environ.get(RUNTIME_VARIABLE)
    return Path(folder) if folder else None


def _nanoseconds(seconds: float) -> int:
    """Within what Go can hold; negative and infinite are for ever."""
    if not 0 <= seconds < FOREVER_NS / NS_IN_S:
        return FOREVER_NS
    return round(seconds * NS_IN_S)
