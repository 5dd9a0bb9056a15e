"""What the reference engine sends, byte by byte, as a socket reads it."""

import contextlib
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parents[1]
OPENAI, OLLAMA = "/v1/chat/completions", "/api/chat"


@contextlib.contextmanager
def reference(*flags):
    """The process and its port."""
    argv = [sys.executable, "-m", "harness.engines.reference", "--ttft-s=0.01", "--itl-s=0.001", "--tokens=6", *flags]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server, int(server.stdout.readline().rsplit(":", 1)[1])
        finally:
            server.kill()


def connected(port):
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5))


def ask(connection, path=OPENAI, *, prompt="hello there", is_streamed=True):
    body = {"messages": [{"role": "user", "content": prompt}], "stream": is_streamed}
    body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    connection.sendall(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data))


def until(connection, end):
    """What comes up to `end`, or to the connection's end."""
    got = b""
    while not got.endswith(end) and (piece := connection.recv(65536)):
        got += piece
    return got


def all_that_comes(connection):
    """Until nothing more does within the connection's timeout."""
    got = b""
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(65536):
            got += piece
    return got


def times(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/times") as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def texts(stream):
    """The pieces of text in a stream of either API."""
    lines = [line.removeprefix(b"data: ") for line in stream.splitlines() if b'"content":' in line]
    chunks = [json.loads(line) for line in lines]
    messages = [chunk.get("message") or chunk["choices"][0]["delta"] for chunk in chunks]
    return [message["content"] for message in messages if message["content"]]


@pytest.mark.parametrize("path", [OPENAI, OLLAMA])
def test_an_answer_is_whole_and_its_times_are_told(path):
    with reference() as (_, port), connected(port) as connection:
        ask(connection, path)
        stream = until(connection, b"\r\n0\r\n\r\n")
        [told] = times(port)
    assert len(texts(stream)) == told["tokens"] == len(told["chunks_s"]) == 6
    assert told["prompt_start"] == "hello there"
    assert told["prompt_tokens"] == 2
    assert told["received_s"] + 0.01 <= told["chunks_s"][0]
    assert told["chunks_s"] == sorted(told["chunks_s"])
    assert told["end_s"] >= told["chunks_s"][-1]
    assert told["fault"] is None


def test_a_second_request_waits_for_the_first_on_its_connection():
    with reference() as (_, port), connected(port) as connection:
        ask(connection, prompt="first")
        ask(connection, prompt="second")
        got = b""
        while got.count(b"\r\n0\r\n\r\n") < 2:  # the end of one and the begin of the other may come as one
            piece = connection.recv(65536)
            assert piece
            got += piece
        first, second = times(port)
    assert first["end_s"] < second["chunks_s"][0]


def test_a_client_that_hangs_up_frees_its_slot():
    with reference("--capacity=1", "--itl-s=5") as (_, port):
        for _ in range(3):
            with connected(port) as connection:
                ask(connection)
                assert b"200 OK" in connection.recv(1000)
                while not times(port)[-1]["chunks_s"]:
                    pass
        assert len(times(port)) == 3


@pytest.mark.parametrize("path", [OPENAI, OLLAMA])
@pytest.mark.parametrize(
    ("fault", "chunks", "end"),
    [("close-early", 3, b""), ("end-early", 3, b"\r\n0\r\n\r\n"), ("duplicate", 7, b"\r\n0\r\n\r\n")],
)
def test_an_answer_that_is_not_whole(path, fault, chunks, end):
    with reference(f"--{fault}=1") as (_, port), connected(port) as connection:
        ask(connection, path)
        stream = until(connection, end or b"never")
        [told] = times(port)
    assert told["fault"] == fault
    assert len(texts(stream)) == chunks
    assert stream.endswith(b"0\r\n\r\n") is bool(end)
    assert (b"[DONE]" in stream or b'"done":true' in stream) is (fault == "duplicate")


def test_a_dropped_request_gets_not_a_byte():
    with reference("--drop=1") as (_, port), connected(port) as connection:
        ask(connection)
        assert connection.recv(1) == b""
        [told] = times(port)
    assert (told["fault"], told["chunks_s"], told["end_s"]) == ("drop", [], None)


def test_a_stalled_answer_stays_open():
    with reference("--stall=1", "--fault-at-token=2") as (_, port), connected(port) as connection:
        ask(connection)
        connection.settimeout(0.4)
        stream = all_that_comes(connection)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert len(texts(stream)) == 2


@pytest.mark.parametrize("path", [OPENAI, OLLAMA])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_garbage_is_neither_utf8_nor_json(path, is_streamed):
    with reference("--garbage=1") as (_, port), connected(port) as connection:
        ask(connection, path, is_streamed=is_streamed)
        stream = until(connection, b"\r\n0\r\n\r\n" if is_streamed else b"API")
    with pytest.raises(UnicodeDecodeError):
        stream.decode()


@pytest.mark.parametrize("path", [OPENAI, OLLAMA])
@pytest.mark.parametrize("status", [500, 503])
def test_a_refusal_has_the_words_of_its_api(path, status):
    with reference(f"--http-{status}=1") as (_, port):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", b'{"messages": [{"content": "a"}]}')
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        error = json.loads(caught.value.read())["error"]
    assert caught.value.code == status
    if path == OLLAMA:
        assert isinstance(error, str)
    else:
        assert error["code"] == status
        assert error["message"]


@pytest.mark.parametrize("fault", ["close-early", "end-early", "duplicate"])
def test_a_whole_answer_can_be_broken_too(fault):
    with reference(f"--{fault}=1") as (_, port), connected(port) as connection:
        connection.settimeout(0.5)
        ask(connection, is_streamed=False)
        head, _, body = all_that_comes(connection).partition(b"\r\n\r\n")
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert (len(body) == length) is (fault != "close-early")


def test_the_server_dies_at_the_request_after_so_many(tmp_path):
    kept = tmp_path / "times.jsonl"
    with reference("--die-after=1", f"--times={kept}") as (server, port), connected(port) as connection:
        ask(connection, prompt="the last words")
        until(connection, b"\r\n0\r\n\r\n")
        ask(connection)
        with contextlib.suppress(ConnectionResetError):
            assert until(connection, b"never") == b""
        assert server.wait(5) == -9
    assert json.loads(kept.read_text())["prompt_start"] == "the last words"


def test_what_is_not_a_question_is_refused():
    with reference() as (_, port):
        for path, data, code in [(OPENAI, b"[]", 400), ("/v1/nothing", b"{}", 404), ("/nothing", None, 404)]:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data))
            assert caught.value.code == code
            caught.value.close()
