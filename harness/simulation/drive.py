"""Puts a cell's load on a simulated server, in virtual time: the same records that Locust writes of a real one."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from harness import config
from harness.records import ClientHealth, ClosedLoop, LoadJob, LoadResult, OpenLoop, Replay, RequestRecord
from harness.simulation.asked import Asked, Talk, arrivals_s, drawn_count
from harness.simulation.machine import Server
from harness.simulation.scheduler import Sequence
from harness.simulation.timing import HTTP_IN_S, HTTP_OUT_S, TOKENIZE_S

START_S: Final = 0.3
"""From the word to the moment when measuring begins, as for Locust's processes."""
FAILURE_PAUSE_S: Final = 0.25
TURNAROUND_S: Final = 0.2e-3
"""Assumed: from the end of an answer until its user sends the next request."""
DIGITS: Final = 6
"""Of a second, in the records."""
MIN_LAP_S, TOK_S_RATIO, WAIT_RATIO, WAIT_S = 1.0, 0.10, 0.25, 0.020
"""When two laps of warm-up are alike: see scenarios/steady.py."""


def drive(server: Server, job: LoadJob) -> LoadResult:
    """The cell's load, until it has ended; its records lie at `job.requests_path`, its client at `job.client_path`.

    Raises:  Crashed: the server died of it. The records so far are kept.
    """
    server.begin_cell()
    client = Client(server, job)
    try:
        client.run()
    finally:
        client.records.sort(key=lambda record: record.end_s)
        _write(client.records, Path(job.requests_path))
    health = client.health()
    Path(job.client_path).write_bytes(msgspec.json.encode(health))
    return LoadResult(records=tuple(client.records), health=health)


def _write(records: Iterable[RequestRecord], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    with path.open("wb") as sink:
        for record in records:
            sink.write(encoder.encode(record) + b"\n")


class Client:
    """All users of a cell, and the engine's steps in between."""

    def __init__(self, server: Server, job: LoadJob) -> None:
        self.server, self.job = server, job
        self.records: list[RequestRecord] = []
        self.go_s = server.machine.now_s
        self.users: Users = ClosedUsers(self) if isinstance(job.load, ClosedLoop) else OpenUsers(self)
        self.begun = 0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._sent_s: dict[Sequence, float] = {}
        self._patience: deque[tuple[float, Sequence]] = deque()
        self._first_number = server.scheduler.number
        self._seen_s: list[float] = []
        """When the users saw the tokens of this cell's steps, from `_first_number` on."""

    # ---------------------------------------------------------------- time

    def at(self, moment_s: float, event: Callable[[float], None]) -> None:
        """Does `event` when its moment has come."""
        heapq.heappush(self._due, (moment_s, next(self._order), event))

    def run(self) -> None:
        """From the first request to the last answer."""
        machine, scheduler = self.server.machine, self.server.scheduler
        self.users.begin()
        while self._due or not scheduler.is_idle:
            if scheduler.is_idle:
                machine.now_s = max(machine.now_s, self._due[0][0])
            self._happen(machine.now_s)
            self.users.look(machine.now_s)
            if not scheduler.is_idle:
                self._step()
        machine.now_s = max(machine.now_s, self.users.stopped_s or 0.0)

    def _happen(self, until_s: float) -> None:
        while self._due and self._due[0][0] <= until_s:
            moment_s, _, event = heapq.heappop(self._due)
            event(moment_s)
        while self._patience and self._patience[0][0] <= until_s:
            moment_s, sequence = self._patience.popleft()
            if sequence in self._sent_s:
                self._give_up(sequence, moment_s)

    def _step(self) -> None:
        machine, scheduler = self.server.machine, self.server.scheduler
        step = scheduler.schedule()
        machine.now_s += self.server.step_s(step)
        self._seen_s.append(round(machine.now_s + HTTP_OUT_S, DIGITS))
        for sequence in scheduler.commit(step):
            self._ended(sequence)

    # ---------------------------------------------------------------- requests

    def send(self, asked: Asked, now_s: float) -> None:
        """One request on its way to the engine."""
        self.begun += 1
        sequence = asked.sequence()
        self._sent_s[sequence] = now_s
        arrives_s = now_s + HTTP_IN_S + TOKENIZE_S * sequence.prompt_tokens
        self.at(arrives_s, lambda moment_s: self._arrive(sequence, moment_s))
        self._patience.append((now_s + self.job.load.request_timeout_s, sequence))

    def _arrive(self, sequence: Sequence, now_s: float) -> None:
        refusal = self.server.scheduler.refusal(sequence)
        if refusal is None:
            self.server.scheduler.add(sequence)
        else:
            self._note(sequence, end_s=now_s + HTTP_OUT_S, error=f"HTTP 400: {refusal}", status=400)

    def _give_up(self, sequence: Sequence, now_s: float) -> None:
        self.server.scheduler.abort(sequence)
        limit = f"{self.job.load.request_timeout_s:g}"
        self._note(sequence, end_s=now_s, error=f"no end after {limit} s", status=200)

    def _ended(self, sequence: Sequence) -> None:
        self._note(sequence, end_s=self.server.machine.now_s + HTTP_OUT_S, error=None, status=200)

    def not_sent(self, asked: Asked, now_s: float, *, under_way: int) -> None:
        """A request that was due while more were under way than the load allows."""
        self.begun += 1
        record = RequestRecord(
            user=asked.user,
            index=asked.index,
            turn=asked.turn,
            is_warmup=self.users.is_warmup(now_s if asked.due_s is None else asked.due_s),
            due_s=asked.due_s,
            sent_s=now_s,
            end_s=now_s,
            error=f"not sent: {under_way} requests were under way",
        )
        self.records.append(record)
        self.users.ended(asked, record)

    def _note(self, sequence: Sequence, *, end_s: float, error: str | None, status: int) -> None:
        asked, sent_s = sequence.name, self._sent_s.pop(sequence)
        assert isinstance(asked, Asked)
        is_ok = error is None
        chunks_s = self._chunks_s(sequence) if self.job.workload.is_streamed and status == 200 else ()
        record = RequestRecord(
            user=asked.user,
            index=asked.index,
            turn=asked.turn,
            is_warmup=self.users.is_warmup(asked.due_s if asked.due_s is not None else sent_s),
            due_s=None if asked.due_s is None else round(asked.due_s, DIGITS),
            sent_s=round(sent_s, DIGITS),
            end_s=round(end_s, DIGITS),
            chunks_s=chunks_s,
            headers_s=chunks_s[0] if chunks_s else round(end_s, DIGITS),
            prompt_tokens=sequence.prompt_tokens if is_ok else None,
            output_tokens=sequence.output_tokens if is_ok else None,
            asked_tokens=asked.output_tokens,
            finish_reason="length" if is_ok else None,
            error=error,
            status=status,
        )
        self.records.append(record)
        self.users.ended(asked, record)

    def _chunks_s(self, sequence: Sequence) -> tuple[float, ...]:
        """When the pieces of its answer came: the first token, then each `stream_interval`-th, then the rest."""
        first, every = self._first_number, self.server.made.stream_interval
        times_s: list[float] = []
        for start, end in sequence.spans:
            times_s += self._seen_s[start - first : end - first]
        if every > 1:
            times_s = [*times_s[:1], *times_s[every:-1:every], *times_s[1:][-1:]]
        return tuple(times_s)

    def health(self) -> ClientHealth:
        """How the client fared: users of a virtual clock are never late and take none of the machine."""
        users = self.users
        return ClientHealth(
            cpu_ratio=0.0,
            lag_p50_s=0.0,
            lag_p99_s=0.0,
            send_lag_p50_s=0.0,
            send_lag_p99_s=0.0,
            started_s=users.measure_s if users.measure_s is not None else self.server.machine.now_s,
            stopped_s=users.stopped_s if users.stopped_s is not None else self.server.machine.now_s,
            ended_s=max((record.end_s for record in self.records), default=self.server.machine.now_s),
            warmup_s=0.0 if users.measure_s is None else max(0.0, users.measure_s - self.go_s),
            is_steady=users.is_steady,
            requests=self.begun,
        )


class Users:
    """Who asks what, and when measuring begins."""

    def __init__(self, client: Client) -> None:
        self.client, self.job = client, client.job
        self.measure_s: float | None = None
        """None: the load still warms up."""
        self.stopped_s: float | None = None
        self.is_steady: bool | None = None

    def begin(self) -> None:
        """Puts the first requests on the clock."""
        raise NotImplementedError

    def ended(self, asked: Asked, record: RequestRecord) -> None:
        """One request has ended, well or not."""
        raise NotImplementedError

    def look(self, now_s: float) -> None:
        """Time has passed."""

    def is_warmup(self, began_s: float) -> bool:
        """Whether a request that began then is left out of the figures."""
        return self.measure_s is None or began_s < self.measure_s


class ClosedUsers(Users):
    """A fixed number of users, each of whom asks again when the answer has ended: see scenarios/closed.py."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        assert isinstance(client.job.load, ClosedLoop)
        self.load = client.job.load
        has_warmup, turns = self.load.warmup_max_s > 0, client.job.workload.turns
        self._talks = [
            Talk(
                client.job,
                user,
                turns=turns,
                first_turns=drawn_count(client.job.seed, user, "turns", turns) if has_warmup else turns,
            )
            for user in range(client.job.users)
        ]
        self._ended = [0] * client.job.users
        self._has_warmup = has_warmup
        self._laps: list[tuple[float, float]] = []
        self._lap_began_s = client.go_s + self.load.ramp_s
        self._lap: list[tuple[int, float | None]] = []

    def begin(self) -> None:
        """All users, evenly over the ramp."""
        job, client = self.job, self.client
        if not self._has_warmup:
            self.measure_s = client.go_s
        for user, talk in enumerate(self._talks):
            first = drawn_count(job.seed, user, "length", job.workload.output_tokens) if self._has_warmup else None
            asked = talk.question(output_tokens=first)
            client.at(client.go_s + self.load.ramp_s * user / job.users, self._sending(asked))

    def ended(self, asked: Asked, record: RequestRecord) -> None:
        """Judges the warm-up, and asks again as long as more is wanted."""
        self._judge(record)
        user = asked.user
        self._ended[user] += not record.is_warmup
        self._talks[user].answered(asked, is_ok=record.error is None)
        pause_s = TURNAROUND_S if record.error is None else FAILURE_PAUSE_S
        self.client.at(record.end_s + pause_s, lambda now_s: self._ask(user, now_s))

    def _ask(self, user: int, now_s: float) -> None:
        if self._wants_more(self._ended[user], now_s):
            self.client.send(self._talks[user].question(), now_s)
        elif self.stopped_s is None:
            self.stopped_s = now_s

    def _sending(self, asked: Asked) -> Callable[[float], None]:
        return lambda now_s: self.client.send(asked, now_s)

    def _wants_more(self, ended: int, now_s: float) -> bool:
        if self.measure_s is None:
            return True
        passed_s = now_s - self.measure_s
        return passed_s < self.load.max_s and (ended < self.load.requests_per_user or passed_s < self.load.min_s)

    # ---------------------------------------------------------------- warm-up

    def look(self, now_s: float) -> None:
        """A load that does not get steady is measured all the same."""
        late_s = self.client.go_s + self.load.ramp_s + self.load.warmup_max_s
        if now_s >= late_s:
            self._warm(late_s, is_steady=False)

    def _judge(self, record: RequestRecord) -> None:
        if self.measure_s is not None or (record.sent_s < self._lap_began_s and not self._laps):
            return
        wait_s = record.e2e_s if record.ttft_s is None else record.ttft_s
        is_ok = record.error is None
        self._lap.append(((record.output_tokens or 0) if is_ok else 0, wait_s if is_ok else None))
        seconds = record.end_s - self._lap_began_s
        each = self.job.workload.turns if self.job.is_first else 1
        if len(self._lap) % (self.job.users * each) or seconds < MIN_LAP_S:
            return
        waits_s = [wait for _, wait in self._lap if wait is not None]
        self._laps.append((sum(tokens for tokens, _ in self._lap) / seconds, median(waits_s) if waits_s else 0.0))
        self._lap_began_s, self._lap = record.end_s, []
        if not self.job.is_first:
            self._warm(record.end_s, is_steady=None)
        elif len(self._laps) > 1 and (is_alike(*self._laps[-2:]) or not any(tok_s for tok_s, _ in self._laps[-2:])):
            self._warm(record.end_s, is_steady=is_alike(*self._laps[-2:]))

    def _warm(self, now_s: float, *, is_steady: bool | None) -> None:
        if self.measure_s is None:
            self.measure_s, self.is_steady = now_s + START_S, is_steady


def is_alike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether nothing changes any more between two laps of (tok/s, seconds of wait)."""
    (tok_s, wait_s), (other_tok_s, other_wait_s) = one, other
    if not min(tok_s, other_tok_s) > 0:
        return False
    apart_s = abs(wait_s - other_wait_s)
    return abs(tok_s - other_tok_s) <= TOK_S_RATIO * max(tok_s, other_tok_s) and (
        apart_s <= WAIT_S or apart_s <= WAIT_RATIO * max(wait_s, other_wait_s)
    )


class OpenUsers(Users):
    """Requests that come when they are due, each arrival or conversation a user of its own: see scenarios/opened.py."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._talks: dict[int, Talk] = {}
        self._left: dict[int, list[tuple[float, int | None, int | None]]] = {}
        self._under_way = 0
        job = client.job
        assert not isinstance(job.load, ClosedLoop)
        self.load = job.load
        if isinstance(job.load, OpenLoop):
            assert job.rate_per_s is not None
            moments_s = arrivals_s(job.load, rate_per_s=job.rate_per_s, seed=job.seed)
            self._left = {user: [(at_s, None, None)] for user, at_s in enumerate(moments_s)}
            warmup_s = 0.0 if job.load.arrivals == "ramp" else job.load.warmup_s
            self.measure_s = client.go_s + warmup_s
            self.stopped_s = self.measure_s + job.load.duration_s
        else:
            self._left = visits(job.load)
            self.measure_s = client.go_s
            last_s = max(asks[-1][0] for asks in self._left.values())
            self.stopped_s = client.go_s + last_s

    def begin(self) -> None:
        """Puts the first request of each user on the clock."""
        for user, asks in self._left.items():
            self._talks[user] = Talk(self.job, user, turns=len(asks), first_turns=len(asks))
            self._next(user, not_before_s=0.0)

    def ended(self, asked: Asked, record: RequestRecord) -> None:
        """Goes on with the conversation, at the earliest when its next turn is due."""
        self._under_way -= record.status is not None
        self._talks[asked.user].answered(asked, is_ok=record.error is None)
        if self._left[asked.user]:
            self._next(asked.user, not_before_s=record.end_s)

    def _next(self, user: int, *, not_before_s: float) -> None:
        at_s, words, tokens = self._left[user].pop(0)
        due_s = self.client.go_s + at_s
        asked = self._talks[user].question(words=words, output_tokens=tokens, due_s=due_s)
        self.client.at(max(due_s, not_before_s), lambda now_s: self._send(asked, now_s))

    def _send(self, asked: Asked, now_s: float) -> None:
        if self._under_way >= self.load.max_in_flight:
            self.client.not_sent(asked, now_s, under_way=self._under_way)
            return
        self._under_way += 1
        self.client.send(asked, now_s)


def visits(load: Replay) -> dict[int, list[tuple[float, int | None, int | None]]]:
    """The conversations of a trace, in the order in which they begin: (seconds, words, tokens) of each turn."""
    sessions: dict[object, list[tuple[float, int | None, int | None]]] = {}
    for number, line in enumerate(config.trace(Path(load.trace))):
        name: object = number if line.session is None else line.session
        sessions.setdefault(name, []).append((line.at_s / load.speed, line.prompt_words, line.output_tokens))
    begun = sorted((sorted(asks, key=lambda ask: ask[0]) for asks in sessions.values()), key=lambda asks: asks[0][0])
    return dict(enumerate(begun))
