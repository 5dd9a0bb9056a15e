"""Everything a user can be told went wrong, and the exit code that goes with it.

HarnessError                   1  our bug, where nothing better is known
├── UsageError                 2  a flag, a name or a file that cannot be used
│   ├── ConfigInvalid          2  a TOML file, with the file and the key
│   ├── DiskFull               2  a disk that takes no more; what was written before is whole
│   └── ModelUnavailable       2  a model that cannot be fetched: network, licence, missing package
├── EngineError                3  a server that could not be started or did not last
│   ├── EngineNotFound         3  not installed, or not where it was said to be
│   ├── EngineOutOfMemory      3  the settings need more memory than there is
│   ├── EngineContextTooLong   3  max-model-len does not fit; `fits` is the length that would
│   ├── EngineBadFlag          3  this version does not know or accept a flag
│   ├── EnginePortTaken        3  another program listens there
│   ├── EngineModelNotFound    3  the engine does not have this model
│   ├── EngineHung             3  alive, but not ready or not answering in time
│   ├── EngineCrashed          3  ended by itself, for a reason not told above
│   └── StorageLost            3  the database of a search stopped answering
├── MeasurementInvalid         4  figures that must not be trusted
└── ResultsUnreadable          5  a run folder that is missing, foreign or damaged
"""

from pathlib import Path
from typing import ClassVar


class HarnessError(Exception):
    """What happened, with the figures; `hint` says what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HarnessError):
    """A flag, a name or a file that cannot be used as given."""

    exit_code = 2


class ConfigInvalid(UsageError):
    """A TOML file that does not say what it must; the message names file and key."""


class DiskFull(UsageError):
    """A disk that takes no more; whatever was written before is whole."""


class ModelUnavailable(UsageError):
    """A model that is not on this machine and could not be fetched."""


class EngineError(HarnessError):
    """A server that could not be started, or that stopped answering."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        if log is not None:
            message = f"{message} (log: {log})"
        super().__init__(message, hint=hint)
        self.log = log


class EngineNotFound(EngineError):
    """The program is not installed, or not where it was said to be."""


class EngineOutOfMemory(EngineError):
    """The settings need more memory than the device has.

    `short_bytes` is by how much, where the engine said it; None where it did not. `is_environmental`: other programs
    hold the memory, so the settings may well fit once those are gone.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        log: Path | None = None,
        short_bytes: int | None = None,
        is_environmental: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.short_bytes = short_bytes
        self.is_environmental = is_environmental


class EngineContextTooLong(EngineError):
    """max-model-len does not fit, or is more than the model knows.

    `fits` is the longest context in tokens that the engine said would do; None where it did not.
    """

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None, fits: int | None = None) -> None:
        super().__init__(message, hint=hint, log=log)
        self.fits = fits


class EngineBadFlag(EngineError):
    """This version of the engine does not know a flag or refuses its value."""


class EnginePortTaken(EngineError):
    """Another program listens on the port that the engine was given."""


class EngineModelNotFound(EngineError):
    """The engine does not have the model, or cannot read its files."""


class EngineHung(EngineError):
    """The process lives, but was not ready, or did not answer, in time."""


class EngineCrashed(EngineError):
    """The process ended by itself and its log names none of the known causes."""


class StorageLost(EngineError):
    """The database that keeps a search stopped answering and did not come back."""


class MeasurementInvalid(HarnessError):
    """Figures that must not be trusted; the message says why."""

    exit_code = 4


class ResultsUnreadable(HarnessError):
    """A run folder that is missing, of another version, or damaged."""

    exit_code = 5
