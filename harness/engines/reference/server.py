"""The server: all answers on their timetables."""

import asyncio
import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.engines.reference.pace import Slots
from harness.engines.reference.plan import Fault, Plan, timetable
from harness.engines.reference.sent import Sent
from harness.engines.reference.spelling import (
    GARBAGE,
    SPEAKS,
    Dialect,
    Request,
    asked,
    halves,
    is_ollama,
    pages,
    refusal,
    trouble,
)
from harness.wire.connection import Connection
from harness.wire.http import LAST_CHUNK, Call, chunk, chunked_head, plain, plain_head
from harness.wire.ticker import FOR_EVER, Ticker, Waits

KEPT_ANSWERS: Final = 20_000
"""How many answers GET /times remembers: a soak must not fill the memory."""
SPLIT_PAUSE_S: Final = 0.001
"""Between the two parts of a split chunk, so that they travel in packets of their own."""
REFUSALS: Final = {
    Fault.HTTP_500: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.HTTP_503: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One question that is to be answered, and all that it takes."""

    connection: Connection
    request: Request
    dialect: Dialect
    fault: Fault | None
    tokens: int
    reason: str
    sent: Sent


class ReferenceServer:
    """Answers what connections take in."""

    def __init__(self, plan: Plan, *, times: Path | None = None) -> None:
        self._plan = plan
        self._sent: deque[Sent] = deque(maxlen=KEPT_ANSWERS)
        self._times = times
        self._ticker = Ticker(asyncio.get_running_loop())
        self._slots = Slots(plan.capacity)
        self._numbers = itertools.count(1)

    def take(self, call: Call, connection: Connection, *, received_s: float) -> None:
        """Answer one request, at once or by and by."""
        if call.method == "POST" and call.path in SPEAKS:
            self._take_question(call, connection, received_s=received_s)
            return
        connection.write(self._page(call.path) if call.method == "GET" else _unknown(call))
        connection.ended()

    def _page(self, path: str) -> bytes:
        if path == "/times":
            lines = b"".join(msgspec.json.encode(sent) + b"\n" for sent in self._sent)
            return plain(HTTPStatus.OK, lines, "application/x-ndjson")
        page = pages(self._plan).get(path)
        if page is None:
            return plain(HTTPStatus.NOT_FOUND, refusal(HTTPStatus.NOT_FOUND, f"GET {path} is unknown", path=path))
        return plain(HTTPStatus.OK, msgspec.json.encode(page))

    def _take_question(self, call: Call, connection: Connection, *, received_s: float) -> None:
        try:
            payload = msgspec.json.decode(call.body, type=dict[str, Any])
            request = asked(payload, streams_by_default=is_ollama(call.path))
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
            status = HTTPStatus.BAD_REQUEST
            connection.write(plain(status, refusal(status, f"not a chat request: {error}", path=call.path)))
            connection.ended()
            return
        number = next(self._numbers)
        if self._plan.die_after is not None and number > self._plan.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        fault = self._plan.fault(number=number, prompt=request.prompt)
        sent = Sent(
            prompt_start=request.prompt[:40],
            received_s=received_s,
            prompt_tokens=request.prompt_tokens,
            fault=fault,
        )
        self._sent.append(sent)
        if fault is Fault.DROP or fault in REFUSALS:
            self._refuse(fault, connection, path=call.path)
            self._note(sent)
            return
        tokens, reason = self._plan.length(request.max_tokens, prompt=request.prompt)
        self._begin(
            Turn(
                connection=connection,
                request=request,
                dialect=SPEAKS[call.path](self._plan, request, number),
                fault=fault,
                tokens=tokens,
                reason=reason,
                sent=sent,
            )
        )

    def _refuse(self, fault: Fault, connection: Connection, *, path: str) -> None:
        """Answer with a failure, or not at all."""
        if fault is Fault.DROP:
            connection.close()
        else:
            connection.write(plain(REFUSALS[fault], trouble(REFUSALS[fault], path=path)))
            connection.ended()

    def _begin(self, turn: Turn) -> None:
        answer = self._answer(turn)
        turn.connection.begin(answer)

        def begin() -> None:
            if turn.connection.is_lost:  # while it waited for a slot
                self._slots.leave()
            else:
                self._ticker.run(answer, turn.connection.ended)

        self._slots.enter(begin)

    def _answer(self, turn: Turn) -> Waits:
        start_s = time.perf_counter() if self._plan.capacity else turn.sent.received_s
        try:
            if turn.request.is_streamed:
                yield from self._stream(turn, start_s)
            else:
                yield from self._whole(turn, start_s)
        finally:
            self._note(turn.sent)
            self._slots.leave()

    def _stream(self, turn: Turn, start_s: float) -> Waits:
        connection, dialect, sent = turn.connection, turn.dialect, turn.sent
        fault_place = self._plan.fault_place(turn.tokens) if turn.fault is not None else None
        pending = chunked_head(dialect.content_type) + chunk(dialect.opening())
        if dialect.sends_headers_first:
            connection.write(pending)
            pending = b""
        for step in timetable(self._plan, start_s=start_s, tokens=turn.tokens):
            yield step.due_s
            line = dialect.step(step.text)
            if self._plan.splits_utf8:
                first, line = halves(line)
                connection.write(pending + chunk(first))
                pending = b""
                yield time.perf_counter() + SPLIT_PAUSE_S
            sent.chunks_s.append(time.perf_counter())
            connection.write(pending + chunk(line))
            pending = b""
            sent.tokens += step.tokens
            if fault_place is not None and sent.tokens >= fault_place:
                fault_place = None
                if (yield from _go_wrong(turn, line)):
                    return
        sent.end_s = time.perf_counter()
        closing = dialect.closing(turn.tokens, turn.reason, sent.end_s - sent.received_s)
        connection.write(chunk(closing) + LAST_CHUNK)

    def _whole(self, turn: Turn, start_s: float) -> Waits:
        connection, sent = turn.connection, turn.sent
        steps = list(timetable(self._plan, start_s=start_s, tokens=turn.tokens))
        yield steps[-1].due_s
        text = "".join(step.text for step in steps)
        sent.tokens = turn.tokens
        end_s = time.perf_counter()
        body = turn.dialect.whole(text, turn.tokens, turn.reason, end_s - sent.received_s)
        half = body[: len(body) // 2]
        match turn.fault:
            case Fault.CLOSE_EARLY:
                connection.write(plain_head(HTTPStatus.OK, len(body)) + half)
                connection.close()
            case Fault.STALL:
                connection.write(plain_head(HTTPStatus.OK, len(body)) + half)
                yield FOR_EVER
            case Fault.END_EARLY:
                connection.write(plain(HTTPStatus.OK, half))
            case Fault.DUPLICATE:
                connection.write(plain(HTTPStatus.OK, body * 2))
            case Fault.GARBAGE:
                connection.write(plain(HTTPStatus.OK, GARBAGE))
            case _:
                sent.end_s = end_s
                connection.write(plain(HTTPStatus.OK, body))

    def _note(self, sent: Sent) -> None:
        if self._times is not None:
            with self._times.open("ab", buffering=0) as sink:
                sink.write(msgspec.json.encode(sent) + b"\n")


def _go_wrong(turn: Turn, line: bytes) -> Generator[float, None, bool]:
    """Do to a stream what is to go wrong with it; `line` is its last chunk. Returns whether the answer ends there."""
    match turn.fault:
        case Fault.CLOSE_EARLY:
            turn.connection.close()
        case Fault.END_EARLY:
            turn.connection.write(LAST_CHUNK)
        case Fault.STALL:
            yield FOR_EVER
        case Fault.DUPLICATE:
            turn.connection.write(chunk(line))
            return False
        case Fault.GARBAGE:
            turn.connection.write(chunk(turn.dialect.garbage()))
            return False
    return True


def _unknown(call: Call) -> bytes:
    status = HTTPStatus.NOT_FOUND
    return plain(status, refusal(status, f"{call.method} {call.path} is unknown", path=call.path))
