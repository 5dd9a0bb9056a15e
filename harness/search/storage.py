"""Where a study is kept: a journal file that processes of one host share, or a database that several hosts do."""

import fcntl
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from harness.errors import ResultsUnreadable, StorageLost, UsageError
from harness.store import drop_half_line, without_password

FORMAT: Final = 2
"""Of what a study holds. 1 was that of a search over three fixed ladders, which said nothing of its format."""

PATIENCE_S: Final = 120.0
"""A database that is restarted is back within this time."""
RETRY_S: Final = 2.0
DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg"}
"""By the scheme of a URL; what SQLAlchemy calls them."""
CONNECT_TIMEOUT_S: Final = 10

AWAY: Final = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError)
"""What a database that does not answer looks like."""

MALFORMED: Final = (ValueError, LookupError, TypeError, AssertionError, AttributeError)
"""What Optuna raises over lines that it did not write."""

T = TypeVar("T")
Say = Callable[[str], None]


class Flock(JournalFileOpenLock):
    """A lock that the kernel frees with its process, however that ends; Optuna's own waits 30 s for a dead one.

    Whoever has it finds whole lines: a line that is glued to half a one makes the journal unreadable, and a killed
    worker or a full disk leaves half ones behind.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.flock")
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        """Waits for it."""
        self._held = self._path.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        drop_half_line(self._journal)
        return True

    def release(self) -> None:
        """Lets the next one have it."""
        if self._held is not None:
            self._held.close()
            self._held = None


def patiently(
    act: Callable[[], T],
    *,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """What `act` returns, tried again while the database is away. Raises: StorageLost: it stays away."""
    since, is_told = clock(), False
    while True:
        try:
            return act()
        except AWAY as error:
            if clock() - since > PATIENCE_S:
                raise StorageLost(
                    f"the study's storage has not answered for {PATIENCE_S:.0f} s: {first_line(error)}",
                    hint="all that was measured is kept; start the database again",
                ) from error
            if not is_told:
                say(f"the study's storage does not answer; it is asked again for {PATIENCE_S:.0f} s")
                is_told = True
            pause(RETRY_S)


def first_line(error: BaseException) -> str:
    """What the database itself says, without what Optuna and SQLAlchemy put around it, and without passwords."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
    found = getattr(cause, "orig", None) or cause
    return without_password((str(found).strip() or type(found).__name__).splitlines()[0])


def opened(storage: str | Path, name: str, *, objectives: int, about: Mapping[str, str] | None = None) -> optuna.Study:
    """The study of that name, made where there is none.

    Args:   about: what the study is of; one that was begun with other words is refused.
    Raises: UsageError: the storage cannot be reached, or is of another plan.  ResultsUnreadable: it is damaged or of
            another version.
    """
    shown = without_password(str(storage))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=name,
                storage=journal(Path(storage)) if "://" not in str(storage) else _database(str(storage)),
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: each trial is queued with all its values
                directions=["maximize"] * objectives,
                load_if_exists=True,
            )
    except MALFORMED as error:
        why = str(error) or "a line says what no study says"
        raise ResultsUnreadable(f"{shown}: damaged: {why}", hint="restore it, or start a new study") from error
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror or error}", hint="choose another --storage") from error
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UsageError(
            f"{shown}: {first_line(error)}", hint="start the database, or choose another --storage"
        ) from error
    _refuse_foreign(study, shown, objectives=objectives)
    _refuse_other_plan(study, shown, about=dict(about or {}))
    return study


def _refuse_other_plan(study: optuna.Study, where: str, *, about: dict[str, str]) -> None:
    known: dict[str, str] | None = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", about)
        return
    others = [
        f"{name} {known.get(name) or 'none'}, not {about[name]}" for name in about if known.get(name) != about[name]
    ]
    if known and others:
        raise UsageError(
            f"{where}: the study {study.study_name!r} was begun with {'; '.join(others)}",
            hint="name another study with --study, or ask for what it began with",
        )


def _refuse_foreign(study: optuna.Study, where: str, *, objectives: int) -> None:
    is_empty = not study.get_trials(deepcopy=False)  # before the format is read: it is written before the first trial
    found = study.user_attrs.get("format")
    if found is None and is_empty:
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


def journal(path: Path) -> BaseStorage:
    """The storage that is a file."""
    return JournalStorage(JournalFileBackend(str(path), lock_obj=Flock(path)))


def _tables(url: str, **options: Any) -> optuna.storages.RDBStorage:
    """The database with its tables, made where there are none; of two hosts that make them one comes too late."""
    for pause_s in (0.5, 2.0):
        try:
            return optuna.storages.RDBStorage(url, **options)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            time.sleep(pause_s)
    return optuna.storages.RDBStorage(url, **options)


def refuse_storage(url: str) -> None:
    """Raises: UsageError for a URL of no kind that is known, or that does not answer; ResultsUnreadable as `opened`."""
    _database(url)


def _database(url: str) -> BaseStorage:
    shown, scheme = without_password(url), url.partition("://")[0]
    if "://" not in url or scheme not in DRIVERS:
        raise UsageError(
            f"--storage {shown}: no such kind of storage is known",
            hint="name sqlite:///FILE or postgresql://USER@HOST/DATABASE",
        )
    is_file = scheme == "sqlite"
    connect = {"timeout" if is_file else "connect_timeout": CONNECT_TIMEOUT_S}
    try:
        full = make_url(url).set(drivername=DRIVERS[scheme]).render_as_string(hide_password=False)
        kept = _tables(full, engine_kwargs={"pool_pre_ping": True, "connect_args": connect})
    except ImportError as error:
        raise UsageError(
            f"--storage {shown}: the driver for PostgreSQL is not installed",
            hint="install it: pip install 'vllm-harness[postgresql]'",
        ) from error
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UsageError(
            f"--storage {shown}: {first_line(error)}", hint="start the database, or choose another --storage"
        ) from error
    except RuntimeError as error:  # so Optuna names tables of another version
        raise ResultsUnreadable(
            f"--storage {shown}: its tables are of another version of Optuna than {optuna.__version__}: {error}",
            hint="use another database, or the Optuna that made them",
        ) from error
    return optuna.storages.get_storage(kept)
