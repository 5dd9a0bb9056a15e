import itertools
import json
from contextlib import closing

import gevent
import gevent.socket
import msgspec
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import ClosedLoop, LoadJob, Sampling, Workload
from scenarios import client

SAMPLING = Sampling(
    temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repeat_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3
)


def job(api="openai", dialect="vllm", *, is_streamed=True, timeout_s=5.0, url="http://127.0.0.1:1"):
    return LoadJob(
        url=url,
        api=api,
        dialect=dialect,
        model="m",
        workload=Workload(prompt_words=3, output_tokens=7, is_streamed=is_streamed, sampling=SAMPLING),
        load=ClosedLoop(users=(1,), requests_per_user=1, min_s=0, max_s=1, request_timeout_s=timeout_s),
        users=1,
        repeat=0,
        seed=1,
        has_warmup=False,
        requests_path="",
        client_path="",
    )


def sse(*chunks):
    """A stream as vLLM writes it: an event, then a blank line."""
    return [line for chunk in chunks for line in (b"data: " + chunk + b"\n", b"\n")]


def delta(finish_reason=None, **fields):
    return json.dumps({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}).encode()


ROLE = delta(role="assistant", content="")
USAGE = b'{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13}}'
DONE = b"[DONE]"
WHOLE = sse(ROLE, delta(content="Once"), delta(content=" upon"), delta("length"), USAGE, DONE)
# As the real Ollama 0.33 answered.
OLLAMA = [
    b'{"model":"smollm2","created_at":"2026-11-22T13:05:48.1Z","message":{"role":"assistant","content":"I"},'
    b'"done":false}\n',
    b'{"model":"smollm2","created_at":"2026-11-22T13:05:48.2Z","message":{"role":"assistant","content":""},'
    b'"done":true,"done_reason":"length","total_duration":23,"load_duration":1,"prompt_eval_count":31,'
    b'"prompt_eval_duration":9,"eval_count":8,"eval_duration":4}\n',
]


class Clock:
    """One second later each time it is looked at."""

    def __init__(self):
        self.now_s = itertools.count(100.0)

    def __call__(self):
        return next(self.now_s)


class Answers:
    """A transport and its response in one: gives the lines it was made with; an exception is raised."""

    def __init__(self, lines, *, status=200, opens=True):
        self.lines, self.status, self.opens = list(lines), status, opens
        self.asked, self.released = [], 0

    def open(self):
        if not self.opens:
            raise ConnectionRefusedError(111, "Connection refused")

    def post(self, path, body):
        self.asked.append((path, json.loads(body)))
        return self

    def get_code(self):
        return self.status

    def readline(self, sep):
        assert sep == b"\n"
        if not self.lines or (isinstance(self.lines[0], bytes) and not self.lines[0].endswith(b"\n")):
            return b""  # as geventhttpclient does at the end, and with a rest that no newline follows
        return self.take()

    def read(self):
        return b"".join(self.take() for _ in range(len(self.lines)))

    def take(self):
        line = self.lines.pop(0)
        if callable(line):
            line = line()
        if isinstance(line, Exception):
            raise line
        return line

    def release(self):
        self.released += 1


def ask(lines, *, api="openai", status=200, opens=True, clock=None, **of_job):
    transport = Answers(lines, status=status, opens=opens)
    record = client.send(
        transport, job(api, **of_job), prompt="tell", user=4, index=9, clock=clock or Clock(), is_warmup=False
    )
    assert transport.released == (1 if opens else 0)
    return record


# ---------------------------------------------------------------- what is asked


MESSAGES = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "tell"}]


def test_vllm_is_asked_with_every_sampling_value_and_never_with_a_seed():
    """A seed gives each request a generator of its own in vLLM, which makes sampling slow."""
    body = client.request_body(job("openai", "vllm"), prompt="tell", output_tokens=7)
    assert body == {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
        "ignore_eos": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
    }


def test_ollama_is_asked_with_options_and_to_keep_the_model():
    assert client.request_body(job("ollama", "ollama"), prompt="tell", output_tokens=7) == {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "keep_alive": -1,
        "options": {
            "num_predict": 7,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "repeat_penalty": 1.1,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.3,
        },
    }


def test_llamacpp_spells_the_penalty_as_ollama_does_and_ignores_the_end_as_vllm_does():
    body = client.request_body(job("openai", "llamacpp"), prompt="tell", output_tokens=7)
    assert body["repeat_penalty"] == 1.1
    assert "repetition_penalty" not in body
    assert body["ignore_eos"] is True


def test_an_unknown_server_is_asked_only_what_openai_itself_knows():
    body = client.request_body(job("openai", "plain"), prompt="tell", output_tokens=7)
    assert set(body) == {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
    }


def test_usage_is_asked_for_only_in_a_stream():
    """OpenAI's API refuses stream_options without stream."""
    body = client.request_body(job(is_streamed=False), prompt="tell", output_tokens=7)
    assert body["stream"] is False
    assert "stream_options" not in body


def test_a_warmup_asks_for_its_own_number_of_tokens():
    transport = Answers(list(WHOLE))
    record = client.send(transport, job(), prompt="tell", user=0, index=0, is_warmup=True)
    assert record.is_warmup
    [(path, body)] = transport.asked
    assert (path, body["max_tokens"]) == ("/v1/chat/completions", 4)


# ---------------------------------------------------------------- one line


def test_a_role_only_chunk_is_not_the_first_token():
    assert client.openai_event(b"data: " + ROLE).has_text is False
    assert client.openai_event(b"data: " + delta(role="assistant", content=None)).has_text is False


@pytest.mark.parametrize("key", ["content", "reasoning", "reasoning_content"])
def test_reasoning_is_text_whatever_the_version_calls_it(key):
    assert client.openai_event(b"data: " + delta(**{key: "hm"})).has_text is True


def test_the_thinking_of_ollama_is_text():
    line = b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    assert client.ollama_event(line).has_text is True


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b": keep-alive\n", b"event: message\n", b"id: 7\n", b"retry: 3\n"])
def test_what_is_no_data_says_nothing(line):
    assert client.openai_event(line) is None


def test_a_blank_line_of_ollama_says_nothing():
    assert client.ollama_event(b"\n") is None


@pytest.mark.parametrize("line", [b"data:[DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]"])
def test_the_end_mark_is_known_with_and_without_blanks(line):
    assert client.openai_event(line) == client.Event(is_last=True)


def test_a_usage_chunk_has_counts_and_no_text():
    event = client.openai_event(b"data: " + USAGE)
    assert (event.prompt_tokens, event.output_tokens, event.has_text) == (11, 2, False)


def test_the_chunk_that_finishes_may_carry_the_last_text():
    event = client.openai_event(b"data: " + delta("stop", content="end"))
    assert (event.has_text, event.finish_reason) == (True, "stop")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'data: {"error":{"message":"engine died","code":500}}\n', "engine died"),
        (b'data: {"error":"Unauthorized"}\n', "Unauthorized"),
        (b'{"error":{"message":"no such model"}}\n', "no such model"),
    ],
)
def test_an_error_in_a_stream_is_told_in_the_words_of_the_server(line, words):
    assert client.openai_event(line).error == words


def test_an_error_line_of_ollama_is_told_in_its_words():
    line = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'
    assert client.ollama_event(line).error == "an error was encountered while running the model: unexpected EOF"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"too long","type":"x"}}', "HTTP 400: too long"),
        (b'{"error":"model \'x\' not found"}', "HTTP 400: model 'x' not found"),
        (b'{"detail":"Not Found"}', "HTTP 400: Not Found"),
        (b"<html>nginx</html>", "HTTP 400: <html>nginx</html>"),
        (b"", "HTTP 400: no reason given"),
    ],
)
def test_a_refusal_is_told_whatever_its_shape(body, words):
    assert client.refusal(400, body) == words


@given(st.binary(max_size=200))
def test_no_line_does_worse_than_not_being_json(line):
    for event_of in (client.openai_event, client.ollama_event, client.openai_answer):
        try:
            event = event_of(line)
        except msgspec.MsgspecError:
            continue
        assert event is None or isinstance(event, client.Event)


# ---------------------------------------------------------------- one request


def test_a_stream_is_timed_chunk_by_chunk_and_counted_by_the_server():
    record = ask(WHOLE)
    # The clock is looked at: before opening (100), at sending, at the headers, at each line.
    assert (record.sent_s, record.headers_s) == (101.0, 102.0)
    assert record.chunks_s == (105.0, 107.0)  # 103 was the role, even lines are blank
    assert record.end_s == 113.0  # the end mark
    assert (record.prompt_tokens, record.output_tokens) == (11, 2)
    assert (record.finish_reason, record.status, record.error) == ("length", 200, None)
    assert (record.user, record.index, record.is_warmup) == (4, 9, False)


def test_an_answer_of_ollama_ends_with_its_done_line():
    record = ask(OLLAMA, api="ollama")
    assert record.chunks_s == (103.0,)
    assert record.end_s == 104.0
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (31, 8, "length")
    assert record.error is None


@pytest.mark.parametrize(
    ("api", "body"),
    [
        (
            "openai",
            b'{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":3,"completion_tokens":1}}',
        ),
        (
            "ollama",
            b'{"message":{"role":"assistant","content":"hi"},"done":true,"done_reason":"stop",'
            b'"prompt_eval_count":3,"eval_count":1}',
        ),
    ],
)
def test_an_answer_that_is_not_streamed_has_an_end_and_no_chunks(api, body):
    record = ask([body], api=api, is_streamed=False)
    assert (record.chunks_s, record.ttft_s, record.end_s) == ((), None, 103.0)
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (3, 1, "stop")
    assert record.error is None


def test_lines_are_cut_at_newlines_only():
    """Servers write U+2028 and U+0085 raw inside a JSON string; str.splitlines would cut there."""
    text = json.dumps({"choices": [{"delta": {"content": "a\u2028b\x85c"}}]}, ensure_ascii=False).encode()
    record = ask(sse(text, delta("stop"), DONE))
    assert record.error is None
    assert len(record.chunks_s) == 1


def test_a_last_line_without_its_newline_still_counts():
    record = ask([OLLAMA[0], OLLAMA[1].rstrip(b"\n")], api="ollama")
    assert (record.output_tokens, record.error) == (8, None)


def test_a_stream_without_an_end_mark_has_ended_when_it_has_finished():
    record = ask(sse(delta(content="hi"), delta("stop")))
    assert record.error is None
    assert record.end_s > record.chunks_s[-1]


def test_what_comes_after_the_end_mark_is_read_and_not_counted():
    record = ask([*WHOLE, *sse(delta(content="late"))])
    assert (len(record.chunks_s), record.end_s) == (2, 113.0)


def test_a_connection_that_breaks_after_the_end_is_no_failure():
    assert ask([*WHOLE, ConnectionResetError(104, "reset")]).error is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (sse(delta(content="hi")), "ended without a finish reason"),
        (sse(delta(content="hi"), DONE), "ended without a finish reason"),
        (sse(delta(content="hi"), delta("abort"), DONE), "aborted"),
        (sse(delta(content="hi"), b'{"error":{"message":"engine died"}}', DONE), "engine died"),
        ([*sse(delta(content="hi")), HTTPParseError("Incomplete response.")], "broke: Incomplete response. (after 1"),
        ([*sse(delta(content="hi")), ConnectionResetError(104, "reset by peer")], "reset by peer (after 1 chunks)"),
        (sse(b'{"choices":'), "not an answer of the openai API"),
        ([], "ended without a finish reason"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_an_error_in_words(lines, words):
    record = ask(lines)
    assert words in record.error
    assert record.status == 200
    assert len(record.chunks_s) == (0 if lines in ([], sse(b'{"choices":')) else 1)


def test_a_refused_request_has_its_status_and_the_reason():
    record = ask([b'{"error":"server busy"}'], api="ollama", status=503)
    assert (record.status, record.error, record.chunks_s) == (503, "HTTP 503: server busy", ())


def test_a_server_that_is_not_there_is_an_error_too():
    record = ask([], opens=False)
    assert record.error == "no answer: [Errno 111] Connection refused"
    assert (record.status, record.headers_s) == (None, None)
    assert record.end_s >= record.sent_s


def test_an_answer_that_takes_too_long_is_given_up():
    record = ask([*sse(delta(content="hi")), lambda: gevent.sleep(30)], timeout_s=0.05)
    assert record.error == "no end after 0.05 s (after 1 chunks)"


# ---------------------------------------------------------------- over real sockets


class Wire:
    """A transport whose answer comes over a real socket, in pieces."""

    def __init__(self, pieces):
        self.pieces = pieces

    def open(self):
        self.near, self.far = gevent.socket.socketpair()

    def post(self, path, body):
        gevent.spawn(self.write)
        return HTTPSocketPoolResponse(self.near, self, method="POST")

    def write(self):
        for piece in self.pieces:
            self.far.sendall(piece)
            gevent.sleep(0)
        self.far.close()

    def return_socket(self, sock):
        sock.close()

    release_socket = return_socket


def chunked(lines):
    framed = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=900), max_size=12))
def test_however_the_network_cuts_an_answer_it_says_the_same(cuts):
    text = json.dumps({"choices": [{"delta": {"content": "café"}}]}, ensure_ascii=False).encode()
    wire = chunked([*sse(ROLE, text), *WHOLE])
    bounds = [0, *sorted(cut for cut in set(cuts) if cut < len(wire)), len(wire)]
    record = client.send(
        Wire([wire[a:b] for a, b in itertools.pairwise(bounds)]), job(), prompt="tell", user=0, index=0
    )
    assert record.error is None
    assert len(record.chunks_s) == 3
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (11, 2, "length")
    assert record.sent_s <= record.headers_s <= record.chunks_s[0]
    assert list(record.chunks_s) == sorted(record.chunks_s)
    assert record.chunks_s[-1] <= record.end_s


class Server:
    """Answers each request on a connection with the same bytes, and knows what came in how many connections."""

    def __init__(self, *, answers_per_connection=99, has_last_words=True):
        self.heads, self.connections = [], 0
        self.limit, self.has_last_words = answers_per_connection, has_last_words
        self.server = StreamServer(("127.0.0.1", 0), self.handle, spawn=Pool(10))

    def __enter__(self):
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.stop(timeout=1)

    def handle(self, sock, _address):
        self.connections += 1
        with sock, sock.makefile("rb") as lines:
            for _ in range(self.limit):
                head = []
                while line := lines.readline().strip():
                    head.append(line)
                if not head:
                    return
                self.heads.append(head)
                length = next(int(line[15:]) for line in head if line.lower().startswith(b"content-length:"))
                lines.read(length)
                sock.sendall(chunked(WHOLE))
            if not self.has_last_words:  # stays until the next request comes, and then hangs up on it
                lines.readline()


def test_a_user_keeps_its_connection_from_request_to_request():
    with Server() as server, closing(client.Connection(server.url, timeout_s=5)) as connection:
        client.connect(connection)
        records = [client.send(connection, job(), prompt="tell", user=0, index=n) for n in range(3)]
    assert [record.error for record in records] == [None] * 3
    assert server.connections == 1


def test_a_connection_that_the_server_has_closed_is_opened_anew():
    with Server(answers_per_connection=1) as server, closing(client.Connection(server.url, timeout_s=5)) as connection:
        records = []
        for index in range(3):
            records.append(client.send(connection, job(), prompt="tell", user=0, index=index))
            gevent.sleep(0.02)
    assert [record.error for record in records] == [None] * 3
    assert server.connections == 3


def test_a_request_that_meets_a_connection_being_closed_is_sent_again_on_a_new_one():
    """cpp-httplib, llama.cpp's server, hangs up on kept connections at any time; its answer never began."""
    with (
        Server(answers_per_connection=1, has_last_words=False) as server,
        closing(client.Connection(server.url, timeout_s=5)) as connection,
    ):
        records = [client.send(connection, job(), prompt="tell", user=0, index=index) for index in range(3)]
    assert [record.error for record in records] == [None] * 3
    assert server.connections == 3


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure():
    with (
        Server(answers_per_connection=0, has_last_words=False) as server,
        closing(client.Connection(server.url, timeout_s=5)) as connection,
    ):
        record = client.send(connection, job(), prompt="tell", user=0, index=0)
    assert record.error.startswith("no answer: ")
    assert server.connections == 1


def test_a_path_in_the_address_is_kept():
    with Server() as server:
        url = f"{server.url}/engines/a/"
        with closing(client.Connection(url, timeout_s=5)) as connection:
            client.send(connection, job(url=url), prompt="tell", user=0, index=0)
    assert server.heads[0][0] == b"POST /engines/a/v1/chat/completions HTTP/1.1"
    assert b"Content-Type: application/json" in server.heads[0]


def test_an_unreachable_server_is_left_to_the_request_to_report():
    with Server() as server:
        url = server.url
    connection = client.Connection(url, timeout_s=5)
    client.connect(connection)
    record = client.send(connection, job(), prompt="tell", user=0, index=0)
    assert record.error.startswith("no answer: ")
