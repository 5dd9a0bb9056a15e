"""vLLM's routes."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from harness.simulation.server import told
from harness.simulation.server.live import Live
from harness.simulation.server.options import Given
from harness.simulation.server.questions import CHAT, COMPLETION, Question, Refused, TextSequence, question
from harness.wire import openai
from harness.wire.connection import Connection
from harness.wire.http import LAST_CHUNK, Call, chunk, chunked_head, plain

JSON: Final = "application/json"
METRICS: Final = "text/plain; version=1.0.0; charset=utf-8"
DEAD: Final = "EngineCore encountered an issue. See stack trace (above) for the root cause."
ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR


class Answer:
    """One answer on its way, as tokens come. Headers go out with the first, as in vLLM."""

    def __init__(
        self,
        connection: Connection,
        live: Live,
        asked: Question,
        *,
        number: int,
        model: str,
        received_s: float,
    ) -> None:
        self._connection, self._live, self._asked = connection, live, asked
        shape = openai.Chat if asked.is_chat else openai.Completion
        self._shape = shape(number, model=model, prompt_tokens=len(asked.prompt), has_usage=asked.has_usage)
        self._every = live.server.made.stream_interval
        self._tokens, self._sent = 0, 0
        self._sequence: TextSequence = asked.sequence(block_tokens=live.server.made.block_tokens)
        connection.begin(self)
        live.submit(self._sequence, self, received_s=received_s)

    def close(self) -> None:
        """The client has gone."""
        self._live.abort(self._sequence)

    def token(self) -> None:
        """Sent at once, or with the next ones where --stream-interval says so."""
        self._tokens += 1
        is_last = self._tokens == len(self._asked.pieces)
        if self._asked.is_streamed and (is_last or (self._tokens - 1) % self._every == 0):
            self._send(is_last=is_last)
        if is_last:
            self._live.ended(self._sequence)
            if not self._asked.is_streamed:
                text = "".join(self._asked.pieces)
                body = self._shape.whole(text, self._tokens, self._asked.reason)
                self._connection.write(plain(HTTPStatus.OK, body, JSON))
            self._connection.ended()

    def fail(self) -> None:
        """The engine is dead."""
        body = openai.refusal(ERROR, DEAD, kind="InternalServerError")
        if self._sent:
            self._connection.write(chunk(b"data: " + body + b"\n\n" + openai.SSE_END) + LAST_CHUNK)
        else:
            self._connection.write(plain(ERROR, body, JSON))
        self._connection.ended()

    def _send(self, *, is_last: bool) -> None:
        text = "".join(self._asked.pieces[self._sent : self._tokens])
        data = b"" if self._sent else chunked_head(openai.EVENTS) + chunk(self._shape.opening())
        self._sent = self._tokens
        if is_last:
            data += chunk(self._shape.last(text, self._asked.reason))
            data += chunk(self._shape.closing(self._tokens)) + LAST_CHUNK
        else:
            data += chunk(self._shape.step(text))
        self._connection.write(data)


class Service:
    """Answers what connections take in."""

    def __init__(self, live: Live, given: Given, *, version: str, is_developed: bool) -> None:
        self._live, self._given, self._version = live, given, version
        self._number = 0
        self._pages: dict[tuple[str, str], Callable[[], tuple[bytes, str]]] = {
            ("GET", "/health"): lambda: (b"", "text/plain"),
            ("GET", "/ping"): lambda: (b"", "text/plain"),
            ("GET", "/version"): lambda: (msgspec.json.encode({"version": version}), JSON),
            ("GET", "/v1/models"): lambda: (msgspec.json.encode(self._models()), JSON),
            ("GET", "/metrics"): lambda: (told.metrics(live, model=given.names[0]).encode(), METRICS),
        }
        if is_developed:
            self._pages |= {
                ("GET", "/server_info"): lambda: (msgspec.json.encode(told.server_info(live.server)), JSON),
                ("POST", "/reset_prefix_cache"): self._reset,
            }

    def take(self, call: Call, connection: Connection, *, received_s: float) -> None:
        """Answer one request, at once or by and by."""
        key = self._given.api_key
        if key and call.path.startswith("/v1") and call.headers.get("authorization") != f"Bearer {key}":
            self._say(connection, HTTPStatus.UNAUTHORIZED, msgspec.json.encode({"error": "Unauthorized"}))
        elif call.method == "POST" and call.path in (CHAT, COMPLETION):
            self._answer(call, connection, received_s=received_s)
        elif page := self._pages.get((call.method, call.path)):
            body, kind = page()
            self._say(connection, HTTPStatus.OK, body, kind)
        else:
            is_known = call.path in (CHAT, COMPLETION) or any(path == call.path for _, path in self._pages)
            status = HTTPStatus.METHOD_NOT_ALLOWED if is_known else HTTPStatus.NOT_FOUND
            self._say(connection, status, msgspec.json.encode({"detail": status.phrase}))

    def _answer(self, call: Call, connection: Connection, *, received_s: float) -> None:
        names, context = self._given.names, self._live.server.context_tokens
        try:
            payload = msgspec.json.decode(call.body, type=dict[str, Any])
            asked = question(call.path, payload, names=names, context_tokens=context)
        except msgspec.MsgspecError as error:
            refused = Refused(HTTPStatus.BAD_REQUEST, f"JSON decode error: {error}", kind="Bad Request", param="body")
        except Refused as error:
            refused = error
        else:
            self._number += 1
            model = str(payload.get("model") or names[0])
            Answer(connection, self._live, asked, number=self._number, model=model, received_s=received_s)
            return
        body = openai.refusal(refused.status, refused.message, kind=refused.kind, param=refused.param)
        self._say(connection, refused.status, body)

    def _say(self, connection: Connection, status: HTTPStatus, body: bytes, kind: str = JSON) -> None:
        connection.write(plain(status, body, kind))
        connection.ended()

    def _models(self) -> dict[str, object]:
        context = self._live.server.context_tokens
        cards = [
            {"id": name, "object": "model", "owned_by": "vllm", "root": self._given.model, "parent": None,
             "max_model_len": context}
            for name in self._given.names
        ]  # fmt: skip
        return {"object": "list", "data": cards}

    def _reset(self) -> tuple[bytes, str]:
        if not self._live.scheduler.pool.forget():
            told.say("APIServer", "block_pool.py:469", told.NOT_RESET, level="WARNING")
        return b"", "text/plain"
