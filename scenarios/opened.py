"""Open loops: requests that are sent when they are due, whether or not the ones before have ended."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gevent.pool import Group

from harness.config import trace
from harness.records import OpenLoop, Replay, RequestRecord
from scenarios.client import encoded, not_sent, send
from scenarios.part import Part
from scenarios.schedule import Visit, single_visits, trace_visits, warmup_s
from scenarios.signals import sleep_until
from scenarios.talk import Question, Talk
from scenarios.wire import Connection, connect

LEAD_S: Final = 0.2
"""How long before it is due a request is made and its connection opened, so that neither is in its latency."""


class OpenPart:
    """This process's share of an open loop or a replay: one dispatcher, and a greenlet for each visit."""

    def __init__(self, part: Part) -> None:
        self.part, self.job = part, part.job
        whole, load = part.share, part.job.load
        if isinstance(load, OpenLoop):
            assert part.job.rate_per_s is not None
            self._warmup_s = warmup_s(load)
            self._held_s = self._warmup_s + load.duration_s
            self._visits: Iterable[Visit] = single_visits(
                load, rate_per_s=part.job.rate_per_s, seed=part.job.seed, part=whole.part, parts=whole.parts
            )
        else:
            assert isinstance(load, Replay)
            visits = trace_visits(trace(Path(load.trace)), speed=load.speed)
            self._warmup_s = 0.0
            self._held_s = max(visit.asks[-1].at_s for visit in visits)
            self._visits = visits[whole.part :: whole.parts]
        # Of all processes together; the first ones take what does not divide.
        self._max_in_flight = (load.max_in_flight + whole.parts - 1 - whole.part) // whole.parts
        self._under_way = 0
        self._idle: list[Connection] = []

    def live(self) -> None:
        """Send everything when it is due, and wait for the last answer."""
        part = self.part
        part.begin(measure_after_s=self._warmup_s)
        visitors = Group()
        for visit in self._visits:
            sleep_until(part.go_s + visit.asks[0].at_s - LEAD_S)
            visitors.spawn(self._visit, visit)
        sleep_until(part.go_s + self._held_s)
        part.stop_meters()
        visitors.join(raise_error=True)
        for connection in self._idle:
            connection.close()
        part.end(stopped_s=part.go_s + self._held_s)

    def _visit(self, visit: Visit) -> None:
        talk = Talk(self.job, visit.user, turns=len(visit.asks))
        answered_s: float | None = None  # of the turn before
        for ask in visit.asks:
            due_s = self.part.go_s + ask.at_s
            question = talk.question(words=ask.words, output_tokens=ask.output_tokens, due_s=due_s)
            record, text = self._asked(question, due_s=due_s)
            talk.answered(question, text)
            may_s = due_s if answered_s is None else max(due_s, answered_s)
            answered_s = record.end_s
            if record.status is not None and not record.is_warmup:
                self.part.note_send_lag(record.sent_s - may_s)

    def _asked(self, question: Question, *, due_s: float) -> tuple[RequestRecord, str | None]:
        """Make the request ready, send it when it is due and read the answer."""
        body = encoded(self.job, question)
        connection = self._idle.pop() if self._idle else self._new_connection()
        connect(connection)
        sleep_until(due_s)
        self.part.count()
        if self._under_way >= self._max_in_flight:
            self._idle.append(connection)
            record = not_sent(question, under_way=self._under_way, now_s=time.perf_counter())
            return self.part.note(record), None
        self._under_way += 1
        try:
            reply = send(connection, self.job, question, body=body)
        finally:
            self._under_way -= 1
        self._idle.append(connection)
        return self.part.note(reply.record), reply.text

    def _new_connection(self) -> Connection:
        return Connection(self.job.url, timeout_s=self.job.load.request_timeout_s)
