"""Where a study is kept: a journal file that processes of one host share, or a database that several hosts do."""

import fcntl
import json
import logging
import warnings
from pathlib import Path
from typing import IO, Final

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from harness.errors import ResultsUnreadable, UsageError
from harness.store import drop_half_line

FORMAT: Final = 2
"""Of what a study holds. 1 was that of a search over three fixed ladders, which said nothing of its format."""


class Flock(JournalFileOpenLock):
    """A lock that the kernel frees with its process, however that ends; Optuna's own waits 30 s for a dead one."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(f"{journal.name}.flock")
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        """Waits for it."""
        self._held = self._path.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Lets the next one have it."""
        if self._held is not None:
            self._held.close()
            self._held = None


def opened(storage: str | Path, name: str, *, objectives: int) -> optuna.Study:
    """The study of that name, made where there is none.

    Raises: UsageError: the storage cannot be reached.  ResultsUnreadable: it is damaged or of another version.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=name,
                storage=_journal(Path(storage)) if "://" not in str(storage) else _database(str(storage)),
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: each trial is queued with all its values
                directions=["maximize"] * objectives,
                load_if_exists=True,
            )
    except (json.JSONDecodeError, KeyError, ValueError) as error:
        raise ResultsUnreadable(f"{storage}: damaged: {error}", hint="restore it, or start a new study") from error
    except OSError as error:
        raise UsageError(f"{storage}: {error.strerror or error}", hint="choose another --storage") from error
    _refuse_foreign(study, str(storage), objectives=objectives)
    return study


def _refuse_foreign(study: optuna.Study, where: str, *, objectives: int) -> None:
    found = study.user_attrs.get("format")
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("format", FORMAT)
        # Outside the ladders, so that no sampler could use it; it only holds number 0.
        study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"what": "baseline"}))
    elif found != FORMAT:
        raise ResultsUnreadable(
            f"{where}: the study {study.study_name!r} is of version {found or 1}, this harness goes on with {FORMAT}",
            hint="go on with the harness that began it, or start a new study",
        )
    if len(study.directions) != objectives:
        raise UsageError(
            f"{where}: the study {study.study_name!r} has {len(study.directions)} objectives, "
            f"and {objectives} are asked for",
            hint="start a new study, or name the objectives that it began with",
        )


def _journal(path: Path) -> BaseStorage:
    lock = Flock(path)
    lock.acquire()
    try:
        drop_half_line(path)  # else the next line would be glued to it, and no line be readable
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _database(url: str) -> BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except ImportError as error:
        raise UsageError(
            f"{url}: no driver for it: {error}", hint="install one: pip install psycopg2-binary"
        ) from error
    except (optuna.exceptions.StorageInternalError, RuntimeError) as error:
        raise UsageError(f"{url}: {error}", hint="start the database, or choose another --storage") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "sqlalchemy":
            raise
        raise UsageError(
            f"{url}: {str(error).splitlines()[0]}", hint="start the database, or choose another --storage"
        ) from error
