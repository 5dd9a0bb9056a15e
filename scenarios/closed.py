"""A closed loop: users that ask back to back, warmed up by the very load that is then measured."""

import time
from collections.abc import Callable
from typing import Final

import gevent
from gevent.event import Event

from harness.records import ClosedLoop, RequestRecord
from scenarios.client import encoded, send
from scenarios.part import Part
from scenarios.prompts import drawn_count
from scenarios.signals import sleep_until
from scenarios.steady import Laps
from scenarios.talk import Question, Talk
from scenarios.wire import Connection, connect

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


class ClosedPart:
    """This process's users. The load is held from the first moment on, and measured once it is steady."""

    def __init__(self, part: Part) -> None:
        assert isinstance(part.job.load, ClosedLoop)
        self.part, self.job, self.load = part, part.job, part.job.load
        self.has_warmup = self.load.warmup_max_s > 0
        self._spawned = Barrier(part.share.users, on_full=self._begin)
        self._next_user = part.share.first_user
        self._present = part.share.users
        self._stopped_s: float | None = None  # None: every user still has something to send
        self._laps: Laps | None = None  # None: nothing to warm up, or it has

    def live(self) -> None:
        """The whole life of one user."""
        user = LoopUser(self, self._next_user)
        self._next_user += 1
        connect(user.connection)
        self._spawned.wait()
        try:
            user.live()
        finally:
            user.connection.close()
        self._leave()

    def wants_more(self, ended: int) -> bool:
        """Whether a user that has ended so many measured requests sends another."""
        measure_s = self.part.look()
        if measure_s is None:
            return True
        passed_s = time.perf_counter() - measure_s
        return passed_s < self.load.max_s and (ended < self.load.requests_per_user or passed_s < self.load.min_s)

    def note(self, record: RequestRecord) -> RequestRecord:
        """Keep one record; while the load warms up it may be the one that ends that."""
        record = self.part.note(record)
        if self._laps is not None:
            tokens = len(record.chunks_s) if record.output_tokens is None else record.output_tokens
            wait_s = record.e2e_s if record.ttft_s is None else record.ttft_s
            self._laps.note(
                sent_s=record.sent_s,
                end_s=record.end_s,
                tokens=0 if record.error else tokens,
                wait_s=None if record.error else wait_s,
            )
            self._judge()
        return record

    def _begin(self) -> None:
        self.part.begin(measure_after_s=None if self.has_warmup else 0.0)
        if self.has_warmup:
            # All turns of a conversation must be in a lap: their prompts grow, and so do their waits.
            each = self.job.workload.turns if self.job.is_first else 1
            self._laps = Laps(self.part.share.users * each, began_s=self.part.go_s + self.load.ramp_s)
            gevent.spawn(self._end_warmup_late)

    def _judge(self) -> None:
        laps = self._laps
        assert laps is not None
        if not self.job.is_first:
            if laps.laps:
                self._warm(is_steady=None)
        elif laps.is_steady or laps.is_hopeless:
            self._warm(is_steady=laps.is_steady)

    def _end_warmup_late(self) -> None:
        """A load that does not get steady is measured all the same, and called what it is."""
        sleep_until(self.part.go_s + self.load.ramp_s + self.load.warmup_max_s)
        if self._laps is not None:
            self._warm(is_steady=False)

    def _warm(self, *, is_steady: bool | None) -> None:
        self._laps = None
        self.part.say_warm(is_steady=is_steady)

    def _leave(self) -> None:
        """Count out one user; the first to go ends the full load, the last one the process."""
        self._present -= 1
        if self._stopped_s is None:
            self._stopped_s = time.perf_counter()
            self.part.stop_meters()
        if self._present == 0:
            self.part.end(stopped_s=self._stopped_s)


class LoopUser:
    """One user: request after request, as soon as the answer before has ended."""

    def __init__(self, loop: ClosedPart, number: int) -> None:
        job = loop.job
        self._loop, self._number = loop, number
        self.connection = Connection(job.url, timeout_s=job.load.request_timeout_s)
        # Users that begin together must not go on in step: as in a load that has run for long, the first answer of
        # each is somewhere on its way, and the first conversation somewhere in its middle.
        turns = job.workload.turns
        first_turns = drawn_count(job.seed, number, "turns", turns) if loop.has_warmup else turns
        self._talk = Talk(job, number, turns=turns, first_turns=first_turns)
        self._first_tokens = (
            drawn_count(job.seed, number, "length", job.workload.output_tokens) if loop.has_warmup else None
        )

    def live(self) -> None:
        """Ask until the loop wants no more."""
        loop = self._loop
        sleep_until(loop.part.go_s + loop.load.ramp_s * self._number / loop.job.users)
        ended, answered_s = 0, None
        question = self._talk.question(output_tokens=self._first_tokens)
        while loop.wants_more(ended):
            record = self._ask(question, answered_s=answered_s)
            ended += not record.is_warmup
            answered_s = record.end_s
            if record.error is not None:
                gevent.sleep(FAILURE_PAUSE_S)
                answered_s = None
            question = self._talk.question()

    def _ask(self, question: Question, *, answered_s: float | None) -> RequestRecord:
        loop = self._loop
        loop.part.count()
        reply = send(self.connection, loop.job, question, body=encoded(loop.job, question))
        self._talk.answered(question, reply.text)
        record = loop.note(reply.record)
        if answered_s is not None and not record.is_warmup:
            loop.part.note_send_lag(record.sent_s - answered_s)
        return record
