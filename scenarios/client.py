"""The streaming client: one request sent, one `RequestRecord` back, whatever happens.

It reads the connection itself (see wire.py) and not through Locust's session: `iter_lines` there waits until 1,024
bytes are in, which delays the first token by several others and turns gaps between tokens into bursts; and a request
yields to all other users after its clock has started, which at 100 users adds several milliseconds to each TTFT. Here a
piece of an answer is timed before anything else is done with it, and tokens are never counted: the server does that.
"""

import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, NamedTuple

import gevent
import msgspec

from harness.records import LoadJob, RequestRecord, Sampling
from scenarios.answers import APIS, UNFINISHED, UNREADABLE, Event, refusal
from scenarios.talk import Question
from scenarios.wire import Clock, StaleConnection, Transport

Body = dict[str, Any]


# ---------------------------------------------------------------- what is asked


def request_body(job: LoadJob, question: Question) -> Body:
    """The JSON body of one request, every sampling value spelled out as the server spells it."""
    body: Body = {"model": job.model, "messages": question.messages, "stream": job.workload.is_streamed}
    if job.api == "ollama":
        return body | {
            "keep_alive": -1,
            "options": {"num_predict": question.output_tokens} | _llama_sampling(job.workload.sampling),
        }
    if job.workload.is_streamed:
        body["stream_options"] = {"include_usage": True}
    return body | {"max_tokens": question.output_tokens} | SAMPLING[job.dialect](job.workload.sampling)


def _openai_sampling(sampling: Sampling) -> Body:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }


def _llama_sampling(sampling: Sampling) -> Body:
    return _openai_sampling(sampling) | {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }


def _vllm_sampling(sampling: Sampling) -> Body:
    # No `seed`: with one, vLLM samples each request by a generator of its own, which is slow.
    return _openai_sampling(sampling) | {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repeat_penalty,
        "ignore_eos": True,
    }


SAMPLING: Final[dict[str, Callable[[Sampling], Body]]] = {
    "vllm": _vllm_sampling,
    "llamacpp": lambda sampling: _llama_sampling(sampling) | {"ignore_eos": True},
    "ollama": _openai_sampling,  # Ollama's /v1 takes only OpenAI's own fields
    "plain": _openai_sampling,
}


# ---------------------------------------------------------------- what has come of one answer


class _Late(Exception):
    """The request took longer than it may."""


class _Answer:
    """What has been seen of one answer so far; kept when the connection breaks."""

    def __init__(self, event_of: Callable[[bytes], Event | None], *, is_streamed: bool, keeps_text: bool) -> None:
        self._event_of, self._is_streamed, self._keeps_text = event_of, is_streamed, keeps_text
        self._rest = b""
        self._last_s = 0.0  # set with the headers
        self.status: int | None = None
        self.headers_s: float | None = None
        self.end_s: float | None = None
        self.chunks_s: list[float] = []
        self.texts: list[str] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.error: str | None = None

    def headers(self, status: int, now_s: float) -> None:
        """The server has begun to answer."""
        self.status, self.headers_s = status, now_s
        self._last_s = now_s

    def body(self, piece: bytes, now_s: float) -> None:
        """A piece of the answer, cut wherever the network cut it."""
        if not self._is_streamed or self.status != HTTPStatus.OK:
            self._rest += piece
            self._last_s = now_s
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line and self.end_s is None and (event := self._event_of(line)):
                if event.has_text:
                    self.chunks_s.append(now_s)
                if event.is_last:
                    self.end_s = now_s
                self._note(event)

    def close(self) -> None:
        """The last byte has come: what is left is a refusal, a whole answer, or a last line without its end."""
        if self.status is not None and self.status != HTTPStatus.OK:
            self.error = refusal(self.status, self._rest)
        elif self.end_s is None:
            if not self._is_streamed:
                self.end_s = self._last_s
            if self._rest and (event := self._event_of(self._rest)):
                self._note(event)

    def fail(self, reason: str) -> None:
        """Keep the first reason. What happens to the connection after the answer's end is no failure of it."""
        if self.error is None and self.end_s is None:
            seen = f" (after {len(self.chunks_s)} chunks)" if self.chunks_s else ""
            self.error = reason + seen

    def _note(self, event: Event) -> None:
        if self._keeps_text:
            self.texts.append(event.content)
        self.error = self.error or event.error
        self.finish_reason = event.finish_reason or self.finish_reason
        self.prompt_tokens = self.prompt_tokens if event.prompt_tokens is None else event.prompt_tokens
        self.output_tokens = self.output_tokens if event.output_tokens is None else event.output_tokens


# ---------------------------------------------------------------- one request


class Reply(NamedTuple):
    """What one request came to."""

    record: RequestRecord
    text: str | None
    """What the server said, where the question keeps it. None: the request failed."""


def encoded(job: LoadJob, question: Question) -> bytes:
    """The body of the request: made before it is due, so that making it is no part of any time."""
    return msgspec.json.encode(request_body(job, question))


def send(
    transport: Transport, job: LoadJob, question: Question, *, body: bytes, clock: Clock = time.perf_counter
) -> Reply:
    """Send one request and read its answer to the end. What goes wrong is told in `error`, never raised."""
    api = APIS[job.api]
    is_streamed = job.workload.is_streamed
    answer = _Answer(api.event if is_streamed else api.answer, is_streamed=is_streamed, keeps_text=question.keeps_text)
    wanted_s = sent_s = clock()  # the latter stands where no connection can be had
    connect_s: float | None = None
    try:
        with gevent.Timeout(job.load.request_timeout_s, _Late):
            is_sent = False
            while not is_sent:
                is_new = transport.open()
                sent_s = clock()  # anew after a stale connection: the server never saw that request
                connect_s = sent_s - wanted_s if is_new else connect_s
                with contextlib.suppress(StaleConnection):
                    transport.post(api.path, body, answer)
                    is_sent = True
            answer.close()
    except _Late:
        answer.fail(f"no end after {job.load.request_timeout_s:g} s")
    except (OSError, HTTPException) as error:
        answer.fail(f"{'no answer' if answer.status is None else 'the connection broke'}: {error}")
    except UNREADABLE as error:
        answer.fail(f"not an answer of the {job.api} API: {error}")
    if answer.error is None:
        answer.error = UNFINISHED.get(answer.finish_reason)
    record = RequestRecord(
        user=question.user,
        index=question.index,
        turn=question.turn,
        is_warmup=False,
        due_s=question.due_s,
        sent_s=sent_s,
        end_s=clock() if answer.end_s is None else answer.end_s,
        chunks_s=tuple(answer.chunks_s),
        headers_s=answer.headers_s,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        asked_tokens=question.output_tokens,
        finish_reason=answer.finish_reason,
        error=answer.error,
        status=answer.status,
        connect_s=connect_s,
    )
    return Reply(record, None if answer.error is not None else "".join(answer.texts))


def not_sent(question: Question, *, under_way: int, now_s: float) -> RequestRecord:
    """The record of a request that was due while more were under way than the load allows."""
    return RequestRecord(
        user=question.user,
        index=question.index,
        turn=question.turn,
        is_warmup=False,
        due_s=question.due_s,
        sent_s=now_s,
        end_s=now_s,
        error=f"not sent: {under_way} requests were under way",
    )
