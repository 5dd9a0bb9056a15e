"""Names that clients made with copy and create, kept in one JSON file that several workers share."""

import fcntl
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from proxy.errors import OllamaError

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""1: {"format": 1, "aliases": {key: Alias}}."""

MAX_ALIASES: Final = 1_000
MAX_ALIAS_BYTES: Final = 256 * 2**10
MAX_FILE_BYTES: Final = 64 * 2**20


_NO_FILE: Final = (0, 0, 0)


class Alias(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A name of its own for a served model, with what the request that made it set."""

    name: str
    """As lists show it."""

    base: str
    """The served model's name."""

    modified_ns: int
    """Nanoseconds since 1970."""

    parent: str = ""
    """What `create` named in `from`; "" for a copy."""

    system: str = ""
    parameters: dict[str, object] = {}
    messages: list[dict[str, object]] = []
    """Messages as a chat request words them."""

    license: list[str] = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    aliases: dict[str, Alias]


class AliasFileDamaged(OllamaError):
    """The file is there and cannot be understood: nothing is written over it."""

    def __init__(self) -> None:
        super().__init__(500, "the server's list of aliases is damaged; its operator must mend or remove it")


class AliasStore:
    """Aliases by the key of their name; `path` None: in memory, lost at the end and unknown to other workers.

    A change takes a lock that workers share, reads what the others wrote, writes a new file and renames it over the
    old one: a reader sees one or the other whole, and a crash loses nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._aliases: dict[str, Alias] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._turn = threading.RLock()  # changes are made in threads
        self.version = 0
        """Grows with every change that this worker has seen."""

    def all(self) -> dict[str, Alias]:
        """Key → alias, as they are now. Where the file is damaged, the last ones that were read."""
        if self._path is not None and self._changed_stamp() is not None:
            try:
                self._read()
            except AliasFileDamaged:
                log.exception("the alias file %s cannot be understood; its last known state holds", self._path)
        return self._aliases

    def put(self, key: str, alias: Alias) -> None:
        """Add the alias, or replace the one of that key, whose spelling is kept.

        Raises: OllamaError 400 beyond a limit; AliasFileDamaged.
        """
        if len(msgspec.json.encode(alias)) > MAX_ALIAS_BYTES:
            raise OllamaError(
                400,
                f"a model's system prompt, messages, parameters and license take more than "
                f"{MAX_ALIAS_BYTES // 2**10} KiB",
            )
        with self._changed() as aliases:
            if key in aliases:
                alias = msgspec.structs.replace(alias, name=aliases[key].name)
            elif len(aliases) >= MAX_ALIASES:
                raise OllamaError(400, f"this server keeps at most {MAX_ALIASES} aliases")
            aliases[key] = alias

    def remove(self, key: str) -> bool:
        """Whether there was an alias of that key; now there is none."""
        if key not in self.all():
            return False
        with self._changed() as aliases:
            return aliases.pop(key, None) is not None

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Alias]]:
        """A copy to change, of what all workers have written; kept when the block ends well."""
        if self._path is None:
            with self._turn:
                aliases = dict(self._aliases)
                yield aliases
                self._aliases = aliases
                self.version += 1
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._read()
                aliases = dict(self._aliases)
                yield aliases
                self._write(aliases)
                self._read()
            finally:
                os.close(lock)
        except OSError:
            log.exception("the alias file %s cannot be written", self._path)
            raise OllamaError(500, "the server's list of aliases cannot be written") from None

    def _changed_stamp(self) -> tuple[int, int, int] | None:
        """What tells this state of the file from others; None where it is the one that was read."""
        assert self._path is not None
        try:
            status = self._path.stat()
        except OSError:
            stamp = _NO_FILE
        else:
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        return None if stamp == self._stamp else stamp

    def _read(self) -> None:
        assert self._path is not None
        with self._turn:
            if (stamp := self._changed_stamp()) is None:
                return
            self._aliases = {} if stamp == _NO_FILE else _decoded(self._path)
            self._stamp = stamp
            self.version += 1

    def _write(self, aliases: dict[str, Alias]) -> None:
        assert self._path is not None
        data = msgspec.json.format(msgspec.json.encode(_File(FORMAT, aliases)), indent=1)
        if len(data) > MAX_FILE_BYTES:
            raise OllamaError(400, f"this server keeps at most {MAX_FILE_BYTES // 2**20} MiB of aliases")
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".aliases-")
        try:
            with os.fdopen(handle, "wb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            Path(temporary).replace(self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _decoded(path: Path) -> dict[str, Alias]:
    try:
        with path.open("rb") as source:
            data = source.read(MAX_FILE_BYTES + 1)
        file = msgspec.json.decode(data[:MAX_FILE_BYTES], type=_File)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise AliasFileDamaged from error
    if file.format != FORMAT:
        raise AliasFileDamaged
    return file.aliases
