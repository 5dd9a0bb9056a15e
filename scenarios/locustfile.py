"""One cell's load, as Locust runs it: N users, all starting at one moment, each asking back to back.

The job is read from the file that HARNESS_LOAD_JOB names. Where the load is spread over several
processes, HARNESS_LOAD_FIRST_USER numbers this one's users and HARNESS_LOAD_START names the file that
will hold the moment at which all processes start; `harness/load.py` sets them.
"""

import gc
import os
import time
from array import array
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any, Final, NoReturn

import gevent
import msgspec
from gevent.event import Event
from locust import User, events, task
from locust.exception import StopUser

from harness.records import ClientHealth, LoadJob, RequestRecord
from scenarios.client import Connection, connect, send
from scenarios.prompts import prompt

LAG_SLEEP_S: Final = 0.01
START_POLL_S: Final = 0.005
PARENT_CHECK_S: Final = 1.0
FAILURE_PAUSE_S: Final = 0.25
"""After a failed request: a server that refuses at once must not be hammered, nor the disk filled."""


class Barrier:
    """Holds each user until all have come; `on_full` runs just before they go on."""

    def __init__(self, users: int, *, on_full: Callable[[], None]) -> None:
        self._missing = users
        self._on_full = on_full
        self._open = Event()

    def wait(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._on_full()
            self._open.set()
        self._open.wait()


class LagMeter:
    """How late this process's event loop wakes up from a short sleep."""

    def __init__(self) -> None:
        self._late_s = array("d")
        self._due_s = time.perf_counter()

    def run(self) -> NoReturn:
        """Sleep and take the lateness, for ever."""
        while True:
            self._due_s = time.perf_counter() + LAG_SLEEP_S
            gevent.sleep(LAG_SLEEP_S)
            self._late_s.append(self._so_far_s())

    def quantile_s(self, q: float) -> float:
        """The smallest lateness that `q` of all do not exceed; the sleep under way counts as late as it is."""
        ordered = sorted([*self._late_s, self._so_far_s()])
        return ordered[ceil(q * len(ordered)) - 1]

    def _so_far_s(self) -> float:
        # libev may wake a sleeper a little early: that is not late.
        return max(0.0, time.perf_counter() - self._due_s)


class Load:
    """The cell under way in this process: what its users share."""

    def __init__(self, job: LoadJob, *, first_user: int, start_path: Path | None, on_end: Callable[[], None]) -> None:
        self.job = job
        self.spawned = Barrier(job.users, on_full=_settle)
        self.warm = Barrier(job.users, on_full=lambda: None)
        self.measured = Barrier(job.users, on_full=self._start)
        self._first_user = self._next_user = first_user
        self._present = job.users
        self._start_path = start_path
        self._on_end = on_end
        self._lag = LagMeter()
        self._started_s: float  # both are set when the measured barrier opens
        self._started_cpu_s: float
        self._stopped_s: float | None = None  # None: every user still has something to send
        # Unbuffered: each record is one write, so whole lines survive whatever ends this process.
        self._records = Path(job.requests_path).open("ab", buffering=0)  # noqa: SIM115 - lives as long as the process

    def enrol(self) -> int:
        """The number of the next user, unique over all processes."""
        self._next_user += 1
        return self._next_user - 1

    def wants_more(self, ended: int) -> bool:
        """Whether a user whose `ended` requests are over sends another."""
        load, passed_s = self.job.load, time.perf_counter() - self._started_s
        return passed_s < load.max_s and (ended < load.requests_per_user or passed_s < load.min_s)

    def note(self, record: RequestRecord) -> None:
        """Append to the file and show it in Locust's own view."""
        self._records.write(msgspec.json.encode(record) + b"\n")
        failure = None if record.error is None else RuntimeError(record.error)
        kind = "WARMUP" if record.is_warmup else "ANSWER"
        _show(kind, self.job.api, record.e2e_s, failure)
        if record.ttft_s is not None and not record.is_warmup:
            # A type of its own: a row of METRIC is no request.
            _show("METRIC", "ttft", record.ttft_s, None)

    def leave(self) -> None:
        """Count out one user; the first to go ends the steady load, the last one the process."""
        self._present -= 1
        now_s = time.perf_counter()
        if self._stopped_s is None:
            self._stopped_s = now_s
        if self._present == 0:
            health = self._health(stopped_s=self._stopped_s, ended_s=now_s)
            Path(self.job.client_path).write_bytes(msgspec.json.encode(health))
            self._on_end()

    def _start(self) -> None:
        if self._start_path is not None:
            _await_others(self._start_path, ready=Path(f"{self._start_path}.ready-{self._first_user}"))
        gevent.spawn(self._lag.run)
        self._started_cpu_s, self._started_s = time.process_time(), time.perf_counter()

    def _health(self, *, stopped_s: float, ended_s: float) -> ClientHealth:
        return ClientHealth(
            cpu_ratio=(time.process_time() - self._started_cpu_s) / (ended_s - self._started_s),
            lag_p50_s=self._lag.quantile_s(0.50),
            lag_p99_s=self._lag.quantile_s(0.99),
            started_s=self._started_s,
            stopped_s=stopped_s,
            ended_s=ended_s,
        )


def _settle() -> None:
    """Keep the garbage collector from walking over Locust's modules while we measure."""
    gc.collect()
    gc.freeze()


def _await_others(start: Path, *, ready: Path) -> None:
    """Say that this process is ready, and wait for the moment that is then set for all of them."""
    ready.touch()
    while not start.exists():
        gevent.sleep(START_POLL_S)
    gevent.sleep(max(0.0, float(start.read_text()) - time.perf_counter()))


def _show(request_type: str, name: str, seconds: float, failure: Exception | None) -> None:
    events.request.fire(
        request_type=request_type,
        name=name,
        response_time=seconds * 1000,
        response_length=0,
        exception=failure,
        context={},
    )


class LoadUser(User):  # type: ignore[misc]  # Locust is untyped
    """One user of the cell: warm-up, then request after request."""

    def __init__(self, environment: Any) -> None:
        self.load: Load = environment.load
        self.number = self.load.enrol()
        self.connection = Connection(self.load.job.url, timeout_s=self.load.job.load.request_timeout_s)
        self.sent = 0
        super().__init__(environment)

    @task  # type: ignore[untyped-decorator]
    def live(self) -> NoReturn:
        """The whole life of the user."""
        load = self.load
        load.spawned.wait()
        if load.job.has_warmup:
            self.ask(is_warmup=True)
        load.warm.wait()  # servers close connections that idle while others still warm up
        connect(self.connection)
        load.measured.wait()
        ended = 0
        while load.wants_more(ended):
            record = self.ask(is_warmup=False)
            ended += 1
            if record.error is not None:
                gevent.sleep(FAILURE_PAUSE_S)
        load.leave()
        raise StopUser

    def on_stop(self) -> None:
        """Hang up; Locust calls it at the end of each user."""
        self.connection.close()

    def ask(self, *, is_warmup: bool) -> RequestRecord:
        """Send the next request."""
        job = self.load.job
        record = send(
            self.connection,
            job,
            prompt=prompt(job.seed, self.number, self.sent, job.workload.prompt_words),
            user=self.number,
            index=self.sent,
            is_warmup=is_warmup,
        )
        self.sent += 1
        self.load.note(record)
        return record


def _end_with_parent(parent: int) -> None:
    """A harness that was killed cannot stop its load: without it nobody wants the records."""
    while os.getppid() == parent:
        gevent.sleep(PARENT_CHECK_S)
    os._exit(1)


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust is untyped
def read_job(environment: Any, **_: object) -> None:
    """Read the job, and end this process with the last user, or with the first mistake of ours."""
    runner = environment.runner

    def stop(exit_code: int) -> None:
        environment.process_exit_code = exit_code
        gevent.spawn(runner.quit)  # from a greenlet that quitting does not kill

    gevent.spawn(_end_with_parent, os.getppid())
    environment.catch_exceptions = False
    environment.events.user_error.add_listener(lambda **_: stop(1))
    environment.load = Load(
        msgspec.json.decode(Path(os.environ["HARNESS_LOAD_JOB"]).read_bytes(), type=LoadJob),
        first_user=int(os.environ.get("HARNESS_LOAD_FIRST_USER", "0")),
        start_path=Path(start) if (start := os.environ.get("HARNESS_LOAD_START")) else None,
        on_end=lambda: stop(0),
    )
