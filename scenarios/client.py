"""The streaming client: one request sent, one `RequestRecord` back, whatever happens.

It stands on geventhttpclient, which Locust's FastHttpUser stands on, but not on Locust's session:
`iter_lines` there waits until 1,024 bytes are in, which delays the first token by several others and
turns gaps between tokens into bursts; and a request yields to all other users after its clock has
started, which at 100 users adds several milliseconds to each TTFT. Here the time of a line is taken
before anything else is done with it, and tokens are never counted: the server does that.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import gevent
import msgspec
from geventhttpclient.connectionpool import ConnectionPool, SSLConnectionPool
from geventhttpclient.response import HTTPConnectionClosed, HTTPSocketPoolResponse

from harness.records import LoadJob, RequestRecord, Sampling

Clock = Callable[[], float]
Body = dict[str, Any]


SYSTEM: Final = "You are a helpful assistant."
"""Said in every request: without it some templates put in a system message of their own and others none, and the same
question would be a longer prompt to one engine than to the other."""


class Response(Protocol):
    """What is used of a response of geventhttpclient."""

    def get_code(self) -> int: ...
    def readline(self, sep: bytes) -> bytes: ...
    def read(self) -> bytes: ...
    def release(self) -> None: ...


class StaleConnection(Exception):
    """The server closed a kept connection just as it was used again: not a byte of an answer came."""


class Transport(Protocol):
    """One user's way to the server: `open`, then `post`, then read the response to its end.

    `post` raises StaleConnection on a connection that had been used before, never on a new one.
    """

    def open(self) -> None: ...
    def post(self, path: str, body: bytes) -> Response: ...


class Connection:
    """A user's connection, kept from one request to the next as long as the server keeps it."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        is_secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
        kind = SSLConnectionPool if is_secure else ConnectionPool
        self._pool = kind(host, port, host, port, size=1, connection_timeout=timeout_s, network_timeout=timeout_s)
        self._prefix = parts.path.rstrip("/")
        self._host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._socket: Any = None
        self._used: Any = None  # the socket of the request before

    def open(self) -> None:
        """Have a connection that stands, a new one where the server has closed the old one.

        All waiting is done here, also the turn that other users get while the old connection is looked
        at: what follows `open` is sent at once.
        """
        self._put_back()
        self._socket = self._pool.get_socket()
        # Or the end of a prompt of several packets waits for the first ones to be acknowledged.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes) -> Response:
        """Send one request and wait for the headers; the response takes the connection over."""
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: vllm-harness\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connected, self._socket = self._socket, None
        is_reused, self._used = connected is self._used, connected
        try:
            return self._exchanged(connected, head.encode("ascii") + body)
        except (ConnectionError, HTTPConnectionClosed):
            if is_reused:
                raise StaleConnection from None
            raise

    def _exchanged(self, connected: Any, request: bytes) -> Response:
        try:
            connected.sendall(request)
        except BaseException:
            self._pool.release_socket(connected)
            raise
        response: Response = HTTPSocketPoolResponse(connected, self._pool, method="POST")
        return response

    def close(self) -> None:
        """Hang up."""
        self._put_back()
        self._pool.close()

    def _put_back(self) -> None:
        if self._socket is not None:
            self._pool.return_socket(self._socket)
            self._socket = None


def connect(transport: Transport) -> None:
    """Have the connection stand before anything is timed.

    A hundred that are opened in one instant cost tens of milliseconds. A server that cannot be reached
    is the matter of the request that follows.
    """
    with contextlib.suppress(OSError):
        transport.open()


# ---------------------------------------------------------------- what is asked


def request_body(job: LoadJob, *, prompt: str, output_tokens: int) -> Body:
    """The JSON body of one request, every sampling value spelled out as the server spells it."""
    body: Body = {
        "model": job.model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
        "stream": job.workload.is_streamed,
    }
    if job.api == "ollama":
        return body | {
            "keep_alive": -1,
            "options": {"num_predict": output_tokens} | _llama_sampling(job.workload.sampling),
        }
    if job.workload.is_streamed:
        body["stream_options"] = {"include_usage": True}
    return body | {"max_tokens": output_tokens} | SAMPLING[job.dialect](job.workload.sampling)


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


# ---------------------------------------------------------------- what is answered


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What one line of a stream, or a whole answer, says that matters here."""

    has_text: bool = False
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    is_last: bool = False
    error: str | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None  # older vLLM, llama.cpp
    reasoning: str | None = None  # vLLM
    thinking: str | None = None  # Ollama

    def has_text(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.thinking)


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None

    def has_text(self) -> bool:
        said = self.delta or self.message
        return said is not None and said.has_text()


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _OpenAIChunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _OllamaLine(msgspec.Struct):
    message: _Said | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_OPENAI: Final = msgspec.json.Decoder(_OpenAIChunk)
_OLLAMA: Final = msgspec.json.Decoder(_OllamaLine)
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


def openai_event(line: bytes) -> Event | None:
    """One line of a server-sent event stream; None for a blank line, a comment or another field."""
    if not line.startswith(_DATA):
        # A server that fails at once may answer a stream with a bare error object.
        return openai_answer(line) if line.startswith(b"{") else None
    data = line[len(_DATA) :].strip()
    return Event(is_last=True) if data == _DONE else openai_answer(data)


def openai_answer(data: bytes) -> Event:
    """The JSON of one streamed chunk, or of a whole answer."""
    chunk = _OPENAI.decode(data)
    reasons = [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
    return Event(
        has_text=any(choice.has_text() for choice in chunk.choices),
        finish_reason=reasons[0] if reasons else None,
        prompt_tokens=chunk.usage.prompt_tokens if chunk.usage else None,
        output_tokens=chunk.usage.completion_tokens if chunk.usage else None,
        error=_error_text(chunk.error),
    )


def ollama_event(line: bytes) -> Event | None:
    """One line of an NDJSON stream, or a whole answer; None for a blank line."""
    if not line.strip():
        return None
    said = _OLLAMA.decode(line)
    return Event(
        has_text=said.message is not None and said.message.has_text(),
        # Old versions of Ollama give no reason with the last line.
        finish_reason=said.done_reason or ("done" if said.done else None),
        prompt_tokens=said.prompt_eval_count,
        output_tokens=said.eval_count,
        is_last=said.done,
        error=_error_text(said.error),
    )


def refusal(status: int, body: bytes) -> str:
    """Why a request was refused, from a body in any of the shapes that servers use."""
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        answer = body.decode(errors="replace")
    if isinstance(answer, dict):
        answer = answer.get("error") or answer.get("message") or answer.get("detail") or answer
    return f"HTTP {status}: {_error_text(answer) or 'no reason given'}"


def _error_text(error: object) -> str | None:
    """`error` as a short text: servers send a string or an object with a message."""
    if not error:
        return None
    if isinstance(error, dict):
        error = error.get("message") or error
    return str(error).strip()[:300]


class _Api(msgspec.Struct, frozen=True):
    path: str
    event: Callable[[bytes], Event | None]
    answer: Callable[[bytes], Event | None]


UNFINISHED: Final[dict[str | None, str]] = {
    None: "the answer ended without a finish reason",
    "abort": "the server aborted the answer",
    "error": "the server ended the answer with an error",
}

APIS: Final = {
    "openai": _Api("/v1/chat/completions", openai_event, openai_answer),
    "ollama": _Api("/api/chat", ollama_event, ollama_event),
}


# ---------------------------------------------------------------- one request


class _Late(Exception):
    """The request took longer than it may."""


class _Answer:
    """What has been seen of one answer so far; kept when the connection breaks."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers_s: float | None = None
        self.end_s: float | None = None
        self.chunks_s: list[float] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.error: str | None = None

    def read_stream(self, response: Response, event_of: Callable[[bytes], Event | None], clock: Clock) -> None:
        """Read to the end of the body, so that the connection can be used again."""
        while line := response.readline(b"\n"):
            now_s = clock()
            if self.end_s is None and (event := event_of(line)):
                if event.has_text:
                    self.chunks_s.append(now_s)
                if event.is_last:
                    self.end_s = now_s
                self._note(event)
        if self.end_s is None and (event := event_of(response.read())):  # a last line without its end
            self._note(event)

    def read_whole(self, response: Response, event_of: Callable[[bytes], Event | None], clock: Clock) -> None:
        """Read an answer that is not streamed: it has an end, and no chunks."""
        body = response.read()
        self.end_s = clock()
        if event := event_of(body):
            self._note(event)

    def fail(self, reason: str) -> None:
        """Keep the first reason. What happens to the connection after the answer's end is no failure of it."""
        if self.error is None and self.end_s is None:
            seen = f" (after {len(self.chunks_s)} chunks)" if self.chunks_s else ""
            self.error = reason + seen

    def _note(self, event: Event) -> None:
        self.error = self.error or event.error
        self.finish_reason = event.finish_reason or self.finish_reason
        self.prompt_tokens = self.prompt_tokens if event.prompt_tokens is None else event.prompt_tokens
        self.output_tokens = self.output_tokens if event.output_tokens is None else event.output_tokens


def send(
    transport: Transport,
    job: LoadJob,
    *,
    prompt: str,
    user: int,
    index: int,
    is_warmup: bool = False,
    clock: Clock = time.perf_counter,
) -> RequestRecord:
    """Send one request and read its answer to the end. What goes wrong is told in `error`, never raised."""
    api = APIS[job.api]
    output_tokens = job.load.warmup_output_tokens if is_warmup else job.workload.output_tokens
    body = msgspec.json.encode(request_body(job, prompt=prompt, output_tokens=output_tokens))
    answer = _Answer()
    response: Response | None = None
    sent_s = clock()  # stands where no connection can be had
    try:
        with gevent.Timeout(job.load.request_timeout_s, _Late):
            while response is None:
                transport.open()
                sent_s = clock()  # anew after a stale connection: the server never saw that request
                with contextlib.suppress(StaleConnection):
                    response = transport.post(api.path, body)
            answer.headers_s = clock()
            answer.status = response.get_code()
            if answer.status != HTTPStatus.OK:
                answer.error = refusal(answer.status, response.read())
            elif job.workload.is_streamed:
                answer.read_stream(response, api.event, clock)
            else:
                answer.read_whole(response, api.answer, clock)
    except _Late:
        answer.fail(f"no end after {job.load.request_timeout_s:g} s")
    except (OSError, HTTPException) as error:
        what = "no answer" if response is None else "the connection broke"
        answer.fail(f"{what}: {error}")
    except msgspec.MsgspecError as error:
        answer.fail(f"not an answer of the {job.api} API: {error}")
    finally:
        if response is not None:
            response.release()
    if answer.error is None:
        answer.error = UNFINISHED.get(answer.finish_reason)
    return RequestRecord(
        user=user,
        index=index,
        is_warmup=is_warmup,
        sent_s=sent_s,
        end_s=clock() if answer.end_s is None else answer.end_s,
        chunks_s=tuple(answer.chunks_s),
        headers_s=answer.headers_s,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        finish_reason=answer.finish_reason,
        error=answer.error,
        status=answer.status,
    )
