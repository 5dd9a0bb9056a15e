"""One process's part of one cell's load, as Locust runs it.

`harness/load.py` sets HARNESS_LOAD_SHARE, the file with the part, and HARNESS_LOAD_SIGNALS, the folder through which
the processes of a cell keep step. Locust's master has the signals alone and finds the shares there; its workers, on
other machines, have neither (scenarios/fleet.py).
"""

import os
from pathlib import Path
from typing import Any, Final, NoReturn

import gevent
import msgspec
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from harness.records import ClosedLoop, LoadShare
from scenarios.closed import ClosedPart
from scenarios.fleet import Master, Worker
from scenarios.opened import OpenPart
from scenarios.part import Part
from scenarios.signals import FileSignals

PARENT_CHECK_S: Final = 1.0


class LoadUser(User):  # type: ignore[misc]  # Locust is untyped
    """A user of a closed loop, or the one that sends an open loop's requests."""

    @task  # type: ignore[untyped-decorator]
    def live(self) -> NoReturn:
        """The whole life of the user."""
        self.environment.load.live()
        raise StopUser


def _end_with_parent(parent: int) -> None:
    """A harness that was killed cannot stop its load: without it nobody wants the records."""
    while os.getppid() == parent:
        gevent.sleep(PARENT_CHECK_S)
    os._exit(1)


# As soon as this file is read: a worker waits for its master for minutes before Locust fires anything.
gevent.spawn(_end_with_parent, os.getppid())


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust is untyped
def read_share(environment: Any, **_: object) -> None:
    """Read the share, and end this process with the last user, or with the first mistake of ours."""
    runner = environment.runner

    def stop(exit_code: int) -> None:
        environment.process_exit_code = exit_code
        gevent.spawn(runner.quit)  # from a greenlet that quitting does not kill

    environment.catch_exceptions = False
    environment.events.user_error.add_listener(lambda **_: stop(1))
    if isinstance(runner, WorkerRunner):
        environment.load = Worker(runner)
        return
    folder = Path(os.environ["HARNESS_LOAD_SIGNALS"])
    if isinstance(runner, MasterRunner):
        environment.load = Master(runner, folder=folder, on_end=stop)
        return
    share = msgspec.json.decode(Path(os.environ["HARNESS_LOAD_SHARE"]).read_bytes(), type=LoadShare)
    signals = FileSignals(folder, part=share.part)
    part = Part(share, signals=signals, on_end=lambda: stop(0))
    environment.load = ClosedPart(part) if isinstance(share.job.load, ClosedLoop) else OpenPart(part)
