"""Requests that nobody would write."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.contract.fuzzing.bodies import OLLAMA_BODIES, OPENAI_BODIES
from tests.contract.fuzzing.nearly_json import ANYTHING, Members, dumped, mostly
from tests.contract.fuzzing.wire import Asked

METHODS = {b"/api/delete": b"DELETE"}
_TYPES = st.sampled_from([
    b"application/json", b"application/json", b"application/x-www-form-urlencoded", b"text/plain", b"", b"\xff\xfe",
    b"application/json; charset=utf-16", b"multipart/form-data; boundary=x", b"multipart/form-data", b"application/xml",
])  # fmt: skip
_HEADER_NAMES = st.sampled_from([
    b"accept", b"accept-encoding", b"authorization", b"cookie", b"x-forwarded-for", b"x-request-id", b"user-agent",
    b"x-vllm-priority", b"x-data-parallel-rank", b"x-session-id", b"content-encoding", b"origin", b"host", b"range",
    b"if-none-match", b"trailer", b"via", b"x-" + b"y" * 300, b"content-language", b"forwarded", b"x-openwebui-user",
    b"access-control-request-method", b"traceparent", b"x-http-method-override", b"upgrade",
])  # fmt: skip
_HEADER_VALUES = st.one_of(
    st.sampled_from([
        b"", b"*", b"gzip", b"identity", b"http://evil.example", b"http://localhost:3000", b"localhost", b"127.0.0.1:1",
        b"[::1]:5", b"evil.example", b"Bearer x", b"h2c", b"websocket", b"trailers", b"../../etc", b"a" * 4000,
        b"\xff\xfe", b"GitHubCopilotChat/1", b"bytes=0-1", b"1,2,3", b"0", b"null", b"'\"<>&", b"\xe2\x80\xa8",
    ]),
    st.binary(max_size=12).map(lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)),
)  # fmt: skip


@st.composite
def headers(draw: DrawFn) -> tuple[tuple[bytes, bytes], ...]:
    found = [(b"content-type", draw(_TYPES))] if draw(st.booleans()) else []
    if draw(st.integers(0, 3)) == 3:
        found += draw(st.lists(st.tuples(_HEADER_NAMES, _HEADER_VALUES), max_size=3))
    return tuple(found)


@st.composite
def mutated(draw: DrawFn, body: bytes) -> bytes:
    """`body` with a wound: cut, torn, doubled, or with bytes that do not belong."""
    at = draw(st.integers(0, len(body)))
    other = draw(st.sampled_from([
        b"", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\\u12", b"\\ud800", b",", b"{",
        b"}",
        b"[", b"]", b"null", b":", b"\r\n", b"/*x*/", b"'", b"NaN", b"\xf4\x90\x80\x80", b"\x0c",
    ]))  # fmt: skip
    how = draw(st.integers(0, 4))
    if how == 0:
        return body[:at]
    if how == 1:
        return body[at:]
    if how == 2:
        return body[:at] + other + body[at + 1 :]
    if how == 3:
        return body + other + body
    return body[:at] + other + body[at:]


def form(fields: Members) -> bytes:
    """A multipart form of these fields, between lines of `--x`."""
    parts = []
    for name, value in fields:
        file = '; filename="a.wav"\r\ncontent-type: audio/wav' if name == "file" else ""
        said = value if isinstance(value, str) else dumped(value)
        parts.append(f'--x\r\ncontent-disposition: form-data; name="{dumped(name)[1:-1]}"{file}\r\n\r\n{said}\r\n')
    return "".join([*parts, "--x--\r\n"]).encode("utf-8", "surrogatepass")


def bodied(bodies: dict[bytes, SearchStrategy[Members]]) -> SearchStrategy[Asked]:
    """Requests to these paths with a body that is good, nearly good, or no JSON at all."""

    @st.composite
    def build(draw: DrawFn) -> Asked:
        path = draw(paths)
        chance = draw(st.integers(0, 19))
        given = draw(headers())
        if chance == 19:
            body = draw(st.binary(max_size=60))
        elif chance == 18:
            body = dumped(draw(ANYTHING)).encode("utf-8", "surrogatepass")
        elif path == b"/v1/audio/transcriptions":
            body = form(draw(bodies[path]))
            given = ((b"content-type", b"multipart/form-data; boundary=x"), *given[1:])
        else:
            body = dumped(draw(bodies[path])).encode("utf-8", "surrogatepass")
        if chance in (16, 17):
            body = draw(mutated(body))
        return Asked(METHODS.get(path, b"POST"), path, given, body, draw(st.integers(0, 9)) == 9)

    weighted = [path for path in bodies for _ in range(4 if path in (b"/api/chat", b"/api/generate") else 1)]
    paths = st.sampled_from(weighted)
    return build()


_PATHS = [
    *OLLAMA_BODIES, *OPENAI_BODIES, b"/", b"/api/version", b"/api/status", b"/api/tags", b"/api/ps", b"/api/me",
    b"/api/signout", b"/v1/models", b"/v1/models/smollm2", b"/v1/models/nobody", b"/api/blobs/sha256:" + b"a" * 64,
    b"/api/blobs/sha256-" + b"0" * 64, b"/api/blobs/x", b"/openapi.json", b"/api/experimental/model-recommendations",
    b"/api/experimental/web_search", b"/api/user/keys/x", b"/docs", b"/metrics", b"/debug/pprof/", b"/tokenize",
]  # fmt: skip
_PATH_ENDS = mostly(st.just(b""), st.sampled_from([
    b"/", b"//", b"/..", b"%2f", b"%00", b"/%2e%2e/tokenize", b"%", b"%zz", b";a=b", b"\xc3\xa9", b"\xff",
    b"/" + b"x" * 300, b"/" + b"y" * 9000, b"%E2%80%A8", b"%0d%0aX:y", b"#x", b"\\", b"/../../etc/passwd",
]), one_in=2)  # fmt: skip
_QUERIES = st.one_of(
    st.just(b""),
    st.just(b""),
    st.sampled_from(
        [b"?", b"?a=b", b"?model=smollm2", b"?stream=false&stream=true", b"?%", b"?%ff", b"?" + b"q" * 9000]
    ),
    st.binary(max_size=10).map(lambda text: b"?" + bytes(byte for byte in text if 0x21 <= byte < 0x7F)),
)
_METHODS = st.sampled_from(
    [b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"TRACE", b"PROPFIND", b"PURGE", b"M-SEARCH"]
)


@st.composite
def odd_requests(draw: DrawFn) -> Asked:
    """Any method, on a path that there is or nearly is, with any query, headers and body."""
    path = draw(st.sampled_from(_PATHS)) + draw(_PATH_ENDS)
    if draw(st.integers(0, 15)) == 15:
        path = b"/" + bytes(byte for byte in draw(st.binary(max_size=20)) if byte > 0x20 and byte != 0x7F)
    method, body = draw(_METHODS), b""
    if method not in (b"GET", b"HEAD", b"TRACE"):
        body = draw(st.one_of(st.just(b""), st.just(b"{}"), st.just(b'{"model":"smollm2"}'), st.binary(max_size=20)))
    return Asked(method, path + draw(_QUERIES), draw(headers()), body, draw(st.integers(0, 9)) == 9)
