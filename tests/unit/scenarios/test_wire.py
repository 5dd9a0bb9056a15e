"""Connections over real sockets: what is kept, what is opened anew, and what breaks."""

import itertools
import json
import shutil
import ssl
import subprocess
from contextlib import closing

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer
from geventhttpclient.response import HTTPParseError
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios import wire

LINES = ['data: {"a":"café"}\n'.encode(), b"\n", b"data: x\n\n", b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(lines):
    return b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"


WHOLE = HEAD + framed(LINES)


class Seen:
    """A sink that remembers."""

    def __init__(self, fault=None):
        self.statuses, self.pieces, self.moments_s, self.fault = [], [], [], fault

    def headers(self, status, now_s):
        self.statuses.append(status)
        self.moments_s.append(now_s)

    def body(self, piece, now_s):
        self.pieces.append(piece)
        self.moments_s.append(now_s)
        if self.fault is not None:
            raise self.fault


class Server:
    """Answers each request on a connection with the same pieces, and knows what came in how many connections."""

    def __init__(self, *pieces, answers_per_connection=99, waits_to_hang_up=False):
        self.pieces = pieces or (WHOLE,)
        self.heads, self.bodies, self.connections = [], [], 0
        self.limit, self.waits_to_hang_up = answers_per_connection, waits_to_hang_up
        self.server = StreamServer(("127.0.0.1", 0), self.handle, spawn=Pool(10))

    def __enter__(self):
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.stop(timeout=1)

    def handle(self, sock, _address):
        self.connections += 1
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        with sock, sock.makefile("rb") as lines:
            for _ in range(self.limit):
                head = []
                while line := lines.readline().strip():
                    head.append(line)
                if not head:
                    return
                self.heads.append(head)
                length = next(int(line[15:]) for line in head if line.lower().startswith(b"content-length:"))
                self.bodies.append(lines.read(length))
                for piece in self.pieces:
                    sock.sendall(piece)
                    gevent.sleep(0)
            if self.waits_to_hang_up:  # stays until the next request comes, and then hangs up on it
                lines.readline()


def posted(connection, *, path="/p", body=b"{}", **of_sink):
    seen = Seen(**of_sink)
    connection.open()
    connection.post(path, body, seen)
    return seen


def asked(server, times=1, *, pause_s=0.0, path=""):
    """What each of so many requests on one connection saw."""
    with closing(wire.Connection(server.url + path, timeout_s=5)) as connection:
        found = []
        for _ in range(times):
            found.append(posted(connection))
            gevent.sleep(pause_s)
        return found


# ---------------------------------------------------------------- answers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=len(WHOLE)), max_size=12))
def test_however_the_network_cuts_an_answer_it_says_the_same(cuts):
    bounds = [0, *sorted(set(cuts)), len(WHOLE)]
    with Server(*(WHOLE[a:b] for a, b in itertools.pairwise(bounds))) as server:
        first, second = asked(server, times=2)
    for seen in (first, second):
        assert b"".join(seen.pieces) == b"".join(LINES)
        assert seen.statuses == [200]
        assert seen.moments_s == sorted(seen.moments_s)
    assert server.connections == 1


def test_pieces_are_passed_on_as_they_come_and_not_when_there_are_enough():
    gate = gevent.event.Event()

    class Slow(Server):
        def handle(self, sock, address):
            self.pieces = iter_with(gate, HEAD + framed(LINES[:1])[:-5], framed(LINES[1:]))
            super().handle(sock, address)

    def iter_with(event, first, second):
        yield first
        event.wait(5)
        yield second

    with Slow() as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        seen = Seen()
        connection.open()
        waiting = gevent.spawn(connection.post, "/p", b"{}", seen)
        with gevent.Timeout(5):
            while not seen.pieces:
                gevent.sleep(0.005)
        assert seen.pieces == LINES[:1]
        assert not waiting.ready()
        gate.set()
        waiting.get(timeout=5)
    assert b"".join(seen.pieces) == b"".join(LINES)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    ],
)
def test_answers_of_known_length_end_there(answer, body):
    with Server(answer) as server:
        first, second = asked(server, times=2)
    assert (b"".join(first.pieces), first.statuses) == (b"".join(second.pieces), second.statuses) == (body, [200])
    assert server.connections == 1


def test_an_answer_without_a_length_ends_with_its_connection():
    with Server(b"HTTP/1.1 200 OK\r\n\r\nhi", answers_per_connection=1) as server:
        [seen] = asked(server)
    assert (seen.pieces, seen.statuses) == ([b"hi"], [200])


def test_a_refusal_has_its_status_and_body():
    with Server(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy") as server:
        [seen] = asked(server)
    assert (seen.statuses, seen.pieces) == ([503], [b"busy"])


def test_opening_tells_whether_a_new_connection_had_to_be_made():
    with Server() as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        assert connection.open()
        assert not connection.open()
        connection.post("/p", b"{}", Seen())
        assert not connection.open()
    with Server(answers_per_connection=1) as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        posted(connection)
        with gevent.Timeout(5):
            while not connection.open():  # until the server's hanging up has come
                gevent.sleep(0.005)


def test_what_came_before_a_break_has_been_passed_on():
    with (
        Server(HEAD + framed(LINES)[:-5], answers_per_connection=1) as server,
        closing(wire.Connection(server.url, timeout_s=5)) as connection,
    ):
        connection.open()
        with pytest.raises(HTTPParseError):
            connection.post("/p", b"{}", seen := Seen())
    assert b"".join(seen.pieces) == b"".join(LINES)


def test_garbage_is_an_error_and_its_connection_is_not_used_again():
    with Server(b"SSH-2.0-OpenSSH_9.6\r\n") as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        for _ in range(2):
            with pytest.raises(HTTPParseError):
                posted(connection)
    assert server.connections == 2


def test_what_the_sink_raises_ends_the_request():
    """It is called by the event loop, where an exception would be printed and forgotten."""
    with Server() as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        with gevent.Timeout(5), pytest.raises(ZeroDivisionError):
            posted(connection, fault=ZeroDivisionError())
        assert posted(connection).statuses == [200]
    assert server.connections == 2


def test_a_request_that_is_given_up_takes_its_connection_with_it():
    """Else the rest of its answer would be the answer to the next one."""
    with Server(HEAD) as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            posted(connection)
        server.pieces = (WHOLE,)
        assert b"".join(posted(connection).pieces) == b"".join(LINES)
    assert server.connections == 2


# ---------------------------------------------------------------- connections


def test_a_user_keeps_its_connection_from_request_to_request():
    with Server() as server:
        asked(server, times=3)
    assert server.connections == 1


def test_a_connection_that_the_server_has_closed_is_opened_anew():
    with Server(answers_per_connection=1) as server:
        asked(server, times=3, pause_s=0.02)
    assert server.connections == 3


def test_a_request_that_meets_a_connection_being_closed_says_so():
    """cpp-httplib, llama.cpp's server, hangs up on kept connections at any time; its answer never began."""
    with (
        Server(answers_per_connection=1, waits_to_hang_up=True) as server,
        closing(wire.Connection(server.url, timeout_s=5)) as connection,
    ):
        posted(connection)
        with pytest.raises(wire.StaleConnection):
            posted(connection)
        assert posted(connection).statuses == [200]
    assert server.connections == 2


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure():
    with (
        Server(answers_per_connection=0, waits_to_hang_up=True) as server,
        closing(wire.Connection(server.url, timeout_s=5)) as connection,
        pytest.raises((ConnectionError, wire.HTTPConnectionClosed)),
    ):
        posted(connection)
    assert server.connections == 1


def test_a_path_in_the_address_is_kept():
    with Server() as server:
        asked(server, path="/engines/a/")
    assert server.heads[0][0] == b"POST /engines/a/p HTTP/1.1"
    assert b"Content-Type: application/json" in server.heads[0]


def test_a_long_request_arrives_whole():
    long = json.dumps({"prompt": "word " * 400_000}).encode()
    with Server() as server, closing(wire.Connection(server.url, timeout_s=5)) as connection:
        assert posted(connection, body=long).statuses == [200]
    assert server.bodies == [long]


def test_an_unreachable_server_is_left_to_the_request_to_report():
    with Server() as server:
        url = server.url
    connection = wire.Connection(url, timeout_s=5)
    wire.connect(connection)
    with pytest.raises(ConnectionRefusedError):
        connection.open()


# ---------------------------------------------------------------- TLS


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """What a server needs that our client trusts."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl here to make a certificate with")
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(made)]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(made))
    wire._tls.cache_clear()
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    yield context
    wire._tls.cache_clear()


def test_an_answer_over_tls_is_whole_also_where_several_records_come_at_once(certificate):
    """A record that was deciphered with the one before it makes no sound: no event tells of it."""
    server = Server(HEAD, *(framed([LINES[0] * 2000])[:-5] for _ in range(5)), b"0\r\n\r\n")
    server.server = StreamServer(("127.0.0.1", 0), server.handle, spawn=Pool(10), ssl_context=certificate)
    with server, gevent.Timeout(10):
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        connection = wire.Connection(url, timeout_s=5)
        first, second = posted(connection), posted(connection)
        connection.close()
    assert b"".join(first.pieces) == b"".join(second.pieces) == LINES[0] * 10_000
    assert server.connections == 1
