"""What the real Ollama 0.33 answered to the same requests, bound to 127.0.0.1, is what the guard is held to."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.guard import BodyRefused, ClientGone, Guard, allowed_methods, read_body
from proxy.settings import Settings, UpstreamAddress

UPSTREAMS = (UpstreamAddress("http://127.0.0.1:8000"),)


class Application:
    """Answers 200 and remembers the `send` it was given."""

    def __init__(self):
        self.sends = []

    async def __call__(self, scope, receive, send):
        self.sends.append(send)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"ok"})


def asked(*headers, method="GET", path="/api/tags", query=b"", **settings):
    """Status, headers and body of the guard's answer, and whether the application was reached."""
    application, sent = Application(), []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    names = [name for name, _ in headers]
    all_headers = [(name.encode(), value.encode()) for name, value in headers]
    if "host" not in names:
        all_headers.append((b"host", b"127.0.0.1:11434"))
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": all_headers}
    made = Guard(application, settings=Settings(upstreams=UPSTREAMS, **settings))
    asyncio.run(made(scope, receive, send))
    answer = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return sent[0]["status"], answer, sent[1]["body"], bool(application.sends)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000", "https://localhost", "http://127.0.0.1", "http://127.0.0.1:1", "https://0.0.0.0:99",
        "http://localhost:", "app://x", "file://", "tauri://localhost", "vscode-webview://abc", "vscode-file://vscode-app",
    ],
)  # fmt: skip
def test_a_local_page_is_served_and_told_so(origin):
    status, headers, _, reached = asked(("origin", origin))
    assert (status, reached) == (200, True)
    assert headers[1:] == [("access-control-allow-origin", origin), ("vary", "Origin")]


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "HTTP://localhost", "http://LOCALHOST", "chrome-extension://abc",
        "http://[::1]:3000", "http://localhost.evil.example", "http://localhost:3000.evil.example", "xapp://x",
    ],
)  # fmt: skip
def test_a_foreign_page_is_refused_before_any_handler_runs(origin):
    assert asked(("origin", origin)) == (403, [("content-length", "0")], b"", False)


def test_the_body_of_a_foreign_page_is_not_read():
    headers = asked(("origin", "http://evil.example"), ("content-length", "5"), method="POST", path="/api/chat")[1]
    assert headers == [("connection", "close"), ("content-length", "0")]


def test_a_refusal_names_the_methods_where_the_method_was_wrong():
    status, headers, _, _ = asked(("origin", "http://evil.example"), method="OPTIONS", path="/api/generate")
    assert (status, headers) == (403, [("allow", "POST"), ("content-length", "0")])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxys_own_page_is_no_foreign_one(scheme):
    headers = asked(("host", "box.local:11434"), ("origin", f"{scheme}://box.local:11434"))
    assert headers == (200, [("content-type", "text/plain")], b"ok", True)


def test_the_own_name_of_a_rebound_site_does_not_help_it():
    assert asked(("host", "evil.example"), ("origin", "http://evil.example"))[0] == 403


@pytest.mark.parametrize("origin", [None, ""])
def test_without_an_origin_nothing_is_added_and_nothing_wrapped(origin):
    assert asked(*([("origin", origin)] if origin is not None else []))[1] == [("content-type", "text/plain")]


def test_a_preflight_is_answered_as_ollama_answers_it():
    origin = "http://localhost:3000"
    status, headers, body, reached = asked(("origin", origin), method="OPTIONS", path="/api/generate")
    assert (status, body, reached) == (204, b"", False)
    assert sorted(headers) == [
        (
            "access-control-allow-headers",
            "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
            "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
            "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
            "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
        ),
        ("access-control-allow-methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("access-control-allow-origin", origin),
        ("access-control-max-age", "43200"),
        ("allow", "POST"),
        ("vary", "Access-Control-Request-Headers"),
        ("vary", "Access-Control-Request-Method"),
        ("vary", "Origin"),
    ]


def test_a_preflight_needs_no_key():
    assert asked(("origin", "http://localhost"), method="OPTIONS", api_key="k")[0] == 204


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("https://chat.example", "https://chat.example", 200),
        ("https://chat.example", "https://chat.example.evil", 403),
        ("https://chat.example", "https://chatXexample", 403),
        ("https://*.example", "https://a.example", 200),
        ("https://*.example", "http://a.example", 403),
        ("chrome-extension://*", "chrome-extension://abc", 200),
    ],
)
def test_origins_of_the_settings_are_allowed(allowed, origin, status):
    assert asked(("origin", origin), origins=(allowed,))[0] == status


def test_a_star_allows_every_origin():
    _, headers, _, _ = asked(("origin", "http://evil.example"), origins=("*",))
    assert headers[1:] == [("access-control-allow-origin", "*")]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:99", 200), ("a.localhost", 200), ("box.local:1", 200), ("vm.internal", 200),
        ("", 200), ("127.0.0.1", 200), ("127.8.8.8:1", 200), ("10.1.2.3", 200), ("192.168.1.1:80", 200),
        ("0.0.0.0", 200),
        ("[::1]:5", 200), ("::1", 200), ("[fd00::1]:80", 200),
        ("evil.example", 403), ("evil.example:11434", 403), ("8.8.8.8", 403), ("localhost.", 403), ("169.254.1.1", 403),
        ("x.local:1:2", 403), ("127.0.0.1.evil.example", 403), ("local", 403), ("[::1]", 403),
        ("localhost@evil.example", 403),
    ],
)  # fmt: skip
def test_on_loopback_only_local_names_are_answered_to(host, status):
    assert asked(("host", host))[0] == status


def test_a_server_for_the_network_answers_to_any_name():
    assert asked(("host", "gpu.example"), host="0.0.0.0")[0] == 200


def test_options_for_a_local_name_is_answered_as_ollama_answers_it():
    assert asked(("host", "localhost"), method="OPTIONS", path="/api/chat") == (204, [("allow", "POST")], b"", False)
    assert asked(method="OPTIONS", path="/api/chat")[3]  # by address: the router's affair


def test_two_hosts_are_refused():
    assert asked(("host", "localhost"), ("host", "evil.example"))[0] == 400


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic secret", "secret", "Bearer secret2"]
)
@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/docs", "//", "/API/tags"])
def test_a_stranger_is_refused_everywhere(path, authorization):
    headers = [] if authorization is None else [("authorization", authorization)]
    status, answer, body, reached = asked(*headers, path=path, api_key="secret")
    assert (status, body, reached) == (401, b'{"error":"unauthorized"}', False)
    assert ("content-type", "application/json; charset=utf-8") in answer


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer secret"])
def test_the_key_opens_everything_and_the_root_is_open(authorization):
    assert asked(("authorization", authorization), api_key="secret")[0] == 200
    assert asked(path="/", api_key="secret")[0] == 200


def test_a_page_may_read_that_it_is_a_stranger():
    assert ("access-control-allow-origin", "http://localhost") in asked(("origin", "http://localhost"), api_key="k")[1]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/" + "a" * 9000}, 414),
        ({"query": b"a" * 9000}, 414),
        ({"path": "/api/tags\0"}, 400),
        ({"path": "/api/\r\nx"}, 400),
    ],
)
def test_senseless_urls_are_refused(request_, status):
    assert asked(**request_)[0] == status


def test_endless_headers_are_refused():
    assert asked(("x-a", "a" * 70_000))[0] == 431


def test_what_is_not_http_is_passed_on_or_closed():
    application, sent = [], []

    async def app(scope, receive, send):
        application.append(scope["type"])

    async def send(message):
        sent.append(message["type"])

    made = Guard(app, settings=Settings(upstreams=UPSTREAMS))
    asyncio.run(made({"type": "lifespan"}, None, send))
    asyncio.run(made({"type": "websocket"}, None, send))
    assert (application, sent) == (["lifespan"], ["websocket.close"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "HEAD, GET"), ("/api/tags", "HEAD, GET"), ("/api/ps", "GET"), ("/api/delete", "DELETE"),
        ("/api/blobs/sha256:00", "HEAD, POST"), ("/v1/models/x", "GET"), ("/v1/models", "GET"), ("/api/blobs/", None),
        ("/api/blobs", None), ("/api/nosuch", None), ("/v1/models/a/b", None),
    ],
)  # fmt: skip
def test_the_methods_of_a_path_are_ollamas(path, methods):
    assert allowed_methods(path) == methods


# ---------------------------------------------------------------------------------------------------------------------


class Client:
    """Sends `chunks`, then waits for ever, or leaves; `received` counts what was asked for."""

    def __init__(self, *chunks, ends=True, leaves=False, pause_s=0.0):
        self.chunks, self.ends, self.leaves, self.pause_s = list(chunks), ends, leaves, pause_s
        self.received = 0

    async def receive(self):
        self.received += 1
        await asyncio.sleep(self.pause_s)
        if self.chunks:
            chunk = self.chunks.pop(0)
            return {
                "type": "http.request",
                "body": chunk,
                "more_body": bool(self.chunks) or not self.ends or self.leaves,
            }
        if self.leaves:
            return {"type": "http.disconnect"}
        return await asyncio.Event().wait()


def body_of(client, *headers, linger_s=1.0, **settings):
    made = Settings(upstreams=UPSTREAMS, **{"max_body_bytes": 10, "body_timeout_s": 5.0, **settings})
    return asyncio.run(read_body(client.receive, [(b"accept", b"*/*"), *headers], settings=made, linger_s=linger_s))


def refused(client, *headers, **settings):
    with pytest.raises(BodyRefused) as caught:
        body_of(client, *headers, **settings)
    return caught.value.status


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=6))
def test_a_body_is_whole_however_it_is_cut(chunks):
    body = b"".join(chunks)
    if len(body) <= 10:
        assert body_of(Client(*chunks)) == body
    else:
        assert refused(Client(*chunks)) == 413


def test_an_announced_length_beyond_the_limit_is_refused():
    assert refused(Client(b"x"), (b"content-length", b"11")) == 413
    assert refused(Client(b"x"), (b"content-length", b"9" * 5000)) == 413


def test_who_waits_for_leave_to_send_is_not_asked_to_send():
    client = Client(b"x")
    assert refused(client, (b"content-length", b"11"), (b"expect", b"100-continue")) == 413
    assert client.received == 0


def test_a_short_announced_length_is_no_leave_for_a_long_body():
    assert refused(Client(b"x" * 11), (b"content-length", b"1")) == 413


def test_an_endless_body_is_left_after_a_moment():
    assert refused(Client(b"x" * 11, ends=False), linger_s=0.05) == 413


def test_a_slow_body_is_refused():
    assert refused(Client(b"x", ends=False), body_timeout_s=0.05) == 408


@pytest.mark.parametrize("encoding", [b"gzip", b"zstd", b"br", b"GZIP", b"gzip, identity"])
def test_compressed_bodies_are_refused(encoding):
    assert refused(Client(b"x"), (b"content-encoding", encoding)) == 415


@pytest.mark.parametrize("encoding", [b"identity", b"", b" Identity "])
def test_identity_is_no_compression(encoding):
    assert body_of(Client(b"x"), (b"content-encoding", encoding)) == b"x"


@pytest.mark.parametrize("headers", [(), ((b"content-length", b"11"),)])
def test_a_client_that_left_is_owed_nothing(headers):
    with pytest.raises(ClientGone):
        body_of(Client(b"x", leaves=True), *headers)
