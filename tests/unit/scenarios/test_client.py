"""One request and its record: what is asked, and what is made of whatever comes back."""

import itertools
import json

import gevent
import pytest
from geventhttpclient.response import HTTPParseError

from harness.records import ClosedLoop, LoadJob, Sampling, Workload
from scenarios import client
from scenarios.talk import Question
from scenarios.wire import StaleConnection

SAMPLING = Sampling(
    temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repeat_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3
)
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "tell"}]


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
        requests_path="",
        client_path="",
    )


def question(**of_question):
    return Question(**{"user": 4, "index": 9, "messages": MESSAGES, "output_tokens": 7} | of_question)


def sse(*chunks):
    """A stream as vLLM writes it: an event, then a blank line."""
    return [b"data: " + chunk + b"\n\n" for chunk in chunks]


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
    """A transport that gives the pieces it was made with; an exception among them is raised, a function called."""

    def __init__(self, pieces, clock, *, status=200, opens=True, is_new=False):
        self.pieces, self.clock, self.status, self.opens, self.is_new = pieces, clock, status, opens, is_new
        self.asked = []

    def open(self):
        if not self.opens:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.is_new

    def post(self, path, body, sink):
        self.asked.append((path, json.loads(body)))
        sink.headers(self.status, self.clock())
        for piece in self.pieces:
            if callable(piece):
                piece()
            elif isinstance(piece, Exception):
                raise piece
            else:
                sink.body(piece, self.clock())


def reply(pieces, *, api="openai", status=200, opens=True, is_new=False, of_question=None, **of_job):
    clock = Clock()
    a_job, asked = job(api, **of_job), question(**of_question or {})
    transport = Answers(pieces, clock, status=status, opens=opens, is_new=is_new)
    return client.send(transport, a_job, asked, body=client.encoded(a_job, asked), clock=clock)


def ask(pieces, **more):
    return reply(pieces, **more).record


# ---------------------------------------------------------------- what is asked


def test_vllm_is_asked_with_every_sampling_value_and_never_with_a_seed():
    """A seed gives each request a generator of its own in vLLM, which makes sampling slow."""
    assert client.request_body(job("openai", "vllm"), question()) == {
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
    assert client.request_body(job("ollama", "ollama"), question()) == {
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
    body = client.request_body(job("openai", "llamacpp"), question())
    assert body["repeat_penalty"] == 1.1
    assert "repetition_penalty" not in body
    assert body["ignore_eos"] is True


def test_an_unknown_server_is_asked_only_what_openai_itself_knows():
    assert set(client.request_body(job("openai", "plain"), question())) == {
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
    body = client.request_body(job(is_streamed=False), question())
    assert body["stream"] is False
    assert "stream_options" not in body


@pytest.mark.parametrize(("api", "path"), [("openai", "/v1/chat/completions"), ("ollama", "/api/chat")])
def test_a_question_has_a_length_of_its_own(api, path):
    transport = Answers([], Clock())
    a_job, asked = job(api), question(output_tokens=3)
    client.send(transport, a_job, asked, body=client.encoded(a_job, asked))
    [(asked_path, body)] = transport.asked
    assert asked_path == path
    assert body.get("max_tokens", body.get("options", {}).get("num_predict")) == 3


# ---------------------------------------------------------------- one request


def test_a_connection_that_had_to_be_made_anew_is_told_beside_the_latencies():
    """In a closed loop no latency holds it: the clock starts when the request is sent."""
    kept, fresh = ask(WHOLE), ask(WHOLE, is_new=True)
    assert kept.connect_s is None
    assert fresh.connect_s == 1.0
    assert (fresh.sent_s, fresh.ttft_s) == (kept.sent_s, kept.ttft_s)


def test_a_stream_is_timed_chunk_by_chunk_and_counted_by_the_server():
    record = ask(WHOLE)
    # The clock is looked at: before opening (100), at sending, at the headers, at each piece.
    assert (record.sent_s, record.headers_s) == (101.0, 102.0)
    assert record.chunks_s == (104.0, 105.0)  # 103 was the role
    assert record.end_s == 108.0  # the end mark
    assert (record.prompt_tokens, record.output_tokens) == (11, 2)
    assert (record.finish_reason, record.status, record.error) == ("length", 200, None)
    assert (record.user, record.index, record.turn, record.due_s) == (4, 9, 0, None)


def test_an_answer_of_ollama_ends_with_its_done_line():
    record = ask(OLLAMA, api="ollama")
    assert record.chunks_s == (103.0,)
    assert record.end_s == 104.0
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (31, 8, "length")
    assert record.error is None


def test_two_tokens_in_one_piece_came_at_one_moment_and_half_a_token_came_with_its_rest():
    whole = b"".join(WHOLE)
    assert ask([whole]).chunks_s == (103.0, 103.0)
    cut = whole.index(b"upon")
    assert ask([whole[:cut], whole[cut:]]).chunks_s == (103.0, 104.0)


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
    record, text = reply([body[:9], body[9:]], api=api, is_streamed=False, of_question={"keeps_text": True})
    assert (record.chunks_s, record.ttft_s, record.end_s) == ((), None, 104.0)  # its last piece
    assert (record.prompt_tokens, record.output_tokens, record.finish_reason) == (3, 1, "stop")
    assert (record.error, text) == (None, "hi")


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
    record = ask([*WHOLE, *sse(delta(content="late")), b"data: half"])
    assert (len(record.chunks_s), record.end_s, record.error) == (2, 108.0, None)


def test_a_connection_that_breaks_after_the_end_is_no_failure():
    assert ask([*WHOLE, ConnectionResetError(104, "reset")]).error is None


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (sse(delta(content="hi")), "ended without a finish reason"),
        (sse(delta(content="hi"), DONE), "ended without a finish reason"),
        (sse(delta(content="hi"), delta("abort"), DONE), "aborted"),
        (sse(delta(content="hi"), b'{"error":{"message":"engine died"}}', DONE), "engine died"),
        ([*sse(delta(content="hi")), HTTPParseError("Incomplete response.")], "broke: Incomplete response. (after 1"),
        ([*sse(delta(content="hi")), ConnectionResetError(104, "reset by peer")], "reset by peer (after 1 chunks)"),
        (sse(b'{"choices":'), "not an answer of the openai API"),
        ([b"data: {\xff}\n"], "not an answer of the openai API"),
        ([], "ended without a finish reason"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_an_error_in_words(pieces, words):
    record, text = reply(pieces, of_question={"keeps_text": True})
    assert words in record.error
    assert record.status == 200
    assert len(record.chunks_s) == (1 if b"hi" in b"".join(p for p in pieces if isinstance(p, bytes)) else 0)
    assert text is None


def test_a_refused_request_has_its_status_and_the_reason():
    record = ask([b'{"error":', b'"server busy"}'], api="ollama", status=503)
    assert (record.status, record.error, record.chunks_s) == (503, "HTTP 503: server busy", ())


def test_a_server_that_is_not_there_is_an_error_too():
    record = ask([], opens=False)
    assert record.error == "no answer: [Errno 111] Connection refused"
    assert (record.status, record.headers_s) == (None, None)
    assert record.end_s >= record.sent_s


def test_an_answer_that_takes_too_long_is_given_up():
    record = ask([*sse(delta(content="hi")), lambda: gevent.sleep(30)], timeout_s=0.05)
    assert record.error == "no end after 0.05 s (after 1 chunks)"


def test_a_request_that_met_a_connection_being_closed_is_timed_from_when_it_was_sent_again():
    clock = Clock()

    class Closing(Answers):
        def post(self, path, body, sink):
            if not self.asked:
                self.asked.append(None)
                raise StaleConnection
            super().post(path, body, sink)

    record = client.send(Closing(WHOLE, clock), job(), question(), body=b"{}", clock=clock).record
    assert (record.sent_s, record.error) == (102.0, None)


# ---------------------------------------------------------------- open loops and conversations


def test_latency_counts_from_when_a_request_was_due():
    """A queue in the client is a wait like any other; to leave it out is called coordinated omission."""
    record = ask(WHOLE, of_question={"due_s": 90.0})
    assert (record.sent_s, record.due_s, record.ttft_s, record.e2e_s) == (101.0, 90.0, 14.0, 18.0)


def test_the_text_of_an_answer_is_kept_only_where_it_is_asked_for():
    assert reply(WHOLE, of_question={"keeps_text": True, "turn": 2}).text == "Once upon"
    assert reply(WHOLE, of_question={"turn": 2}).record.turn == 2
    assert reply(WHOLE).text == ""


def test_a_request_over_the_limit_is_a_failure_that_says_how_many_were_under_way():
    record = client.not_sent(question(due_s=7.0, turn=1), under_way=12, now_s=7.5)
    assert record.error == "not sent: 12 requests were under way"
    assert (record.began_s, record.e2e_s, record.status, record.turn) == (7.0, 0.5, None, 1)
