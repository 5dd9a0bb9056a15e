"""Requests that nobody would write, an HTTP client that sends anything, and what every answer to them must keep to."""

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Json = dict[str, Any]
ANSWER_WITHIN_S = 20.0


class Asked(NamedTuple):
    """One request, as it goes over the wire."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    is_chunked: bool = False

    def wire(self) -> bytes:
        head = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        if not any(name.lower() == b"host" for name, _ in self.headers):
            head.append(b"host: localhost")
        head += [b"%b: %b" % header for header in self.headers]
        if self.is_chunked:
            sizes = (1, 7, 4096)
            pieces, at = [], 0
            while at < len(self.body):
                piece = self.body[at : at + sizes[len(pieces) % 3]]
                pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
                at += len(piece)
            return b"\r\n".join([*head, b"transfer-encoding: chunked", b"", b"".join([*pieces, b"0\r\n\r\n"])])
        return b"\r\n".join([*head, b"content-length: %d" % len(self.body), b"", self.body])

    @property
    def path(self) -> str:
        return re.split(rb"[?#]", self.target)[0].decode("latin-1")


class Answered(NamedTuple):
    """What came back; status 0: the connection was closed without a word."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


# ---------------------------------------------------------------- the client


class Client:
    """Sends each list of requests over connections that it keeps, one request at a time on each."""

    def __init__(self, address: tuple[str, int], *, connections: int) -> None:
        self._address = address
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._runner = asyncio.Runner()
        self._room = connections
        self.sent = 0

    def answers(self, requests: Sequence[Asked]) -> list[Answered]:
        """The answers, in the order of the requests."""
        return self._runner.run(self._all(requests))

    def close(self) -> None:
        self._runner.run(self._closed())
        self._runner.close()

    async def _all(self, requests: Sequence[Asked]) -> list[Answered]:
        room = asyncio.Semaphore(self._room)

        async def one(asked: Asked) -> Answered:
            async with room, asyncio.timeout(ANSWER_WITHIN_S):
                return await self._one(asked)

        return await asyncio.gather(*(one(asked) for asked in requests))

    async def _one(self, asked: Asked) -> Answered:
        is_used = bool(self._idle)
        reader, writer = self._idle.pop() if self._idle else await self._connected()
        self.sent += 1
        answered, is_kept = Answered(0, {}, b""), False
        try:
            writer.write(asked.wire())
            answered, is_kept = await read_answer(reader, is_head=asked.method == b"HEAD")
        except (ConnectionError, asyncio.IncompleteReadError):
            if is_used:  # an idle connection that the server was about to close
                writer.close()
                return await self._one(asked)
        if is_kept and answered.headers.get("connection", "").lower() != "close":
            self._idle.append((reader, writer))
        else:
            writer.close()
        return answered

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._address, limit=2**20)

    async def _closed(self) -> None:
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()
        self._idle.clear()


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool) -> tuple[Answered, bool]:
    """The next answer, and whether the connection can be used again."""
    while True:
        status, headers = read_head(await reader.readuntil(b"\r\n\r\n"))
        if status >= 200:
            break
    if is_head or status in (204, 304):
        return Answered(status, headers, b""), True
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return Answered(status, headers, b"".join(pieces)), True
    if "content-length" in headers:
        return Answered(status, headers, await reader.readexactly(int(headers["content-length"]))), True
    return Answered(status, headers, await reader.read()), False


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = (header.partition(":") for header in lines if header)
    return int(line.split()[1]), {name.lower(): value.strip() for name, _, value in headers}


# ---------------------------------------------------------------- what every answer keeps to

ALLOWED_5XX: tuple[tuple[str, int, str], ...] = (
    (r"/api/(generate|chat|embed|embeddings|show)", 500, r'option "\w+" must be of type \w+'),
    (r"/api/(generate|chat|embed|embeddings|show)", 500, r'option "\w+" must be of an array of strings'),
    (r"/api/(generate|chat)", 500, r'invalid format: ".*"; expected "json" or a valid JSON Schema object'),
    (r"/api/create", 500, r"json: cannot unmarshal \w+ into Go value of type (\[\]string|string)"),
    (r"/api/(create|pull)", 500, r"pull model manifest: file does not exist"),
    (
        r"/api/push",
        500,
        r"push is not supported: this server stores no model files|model '.*' not found.*|invalid model name",
    ),
    (r"/api/signout", 500, r"there was an error signing out"),
    (r"/api/me", 503, r"account unavailable"),
    (r"/api/embeddings", 500, r"This server does not support embeddings\. Start it with `--embeddings`"),
    (r"/api/embeddings", 500, r"the input length exceeds the context length"),
    (r"/(api/embed|v1/embeddings)", 501, r"This server does not support embeddings\. Start it with `--embeddings`"),
    (r"/api/blobs/.*", 501, r"model files are not stored: this server serves what vLLM has loaded"),
)
"""Path, status and text of the answers from 500 on that Ollama gives too, or that say what this server cannot do."""

OUR_FAULT = re.compile(
    r"must be in \[|must be in \(|must be greater than|must be non-negative|must be at least 1|Field required|"
    r"Input should be|cannot both|cannot contain an empty|must not be an empty array|cannot be greater than|"
    r"JSON decode error|only be defined when|empty conversation|should be a valid"
)
"""What vLLM says of a body that is not as it wants it: where the proxy wrote the body, it should have known better."""

PAGES = {404: "404 page not found", 405: "405 method not allowed", 400: "Invalid HTTP request received."}


CRASHED = "an error was encountered while running the model: unexpected EOF"
"""vLLM closed the connection: the fake does where it cannot read what passes as the client wrote it."""


class Broken(AssertionError):
    """An answer that no request may get."""


def check(asked: Asked, answered: Answered, *, secrets: Iterable[str]) -> None:
    """Raises Broken, with the request, where the answer is not one of those that are allowed."""

    def fail(why: str) -> Broken:
        return Broken(
            f"{why}\n  asked    {asked.wire()[:3000]!r}\n  answered {answered.status} {answered.body[:1500]!r}"
        )

    status = answered.status
    if status == 0:
        raise fail("the connection was closed without an answer")
    if "server" in answered.headers or "x-powered-by" in answered.headers:
        raise fail("a header names the server")
    kind = answered.headers.get("content-type", "")
    if status == 200:
        check_success(asked, answered, fail, secrets=secrets)
        return
    if status in (204, 301, 307) or (status == 403 and not answered.body):
        return
    if asked.method == b"HEAD":
        if status >= 500:
            raise fail("HEAD answered as no request may be")
        return
    if kind.startswith("text/plain"):
        if answered.body.decode() != PAGES.get(status):
            raise fail("a page that is none of the known ones")
        return
    check_error(asked, error_text(asked, answered, fail), status, fail, secrets=secrets)


def error_text(asked: Asked, answered: Answered, fail: Any) -> str:
    """The text of an error that has the shape its path asks for."""
    if not answered.headers.get("content-type", "").startswith("application/json"):
        raise fail("an error that is no JSON")
    try:
        told = json.loads(answered.body)
    except ValueError:
        raise fail("an error that is no JSON") from None
    if not isinstance(told, dict):
        raise fail("an error that is no object")
    text = told.get("error")
    if asked.path.startswith("/v1/") and isinstance(text, dict):
        if asked.path == "/v1/messages":
            is_good = set(told) == {"type", "error", "request_id"} and set(text) == {"type", "message"}
        else:
            is_good = set(told) == {"error"} and set(text) == {"message", "type", "param", "code"}
        text = text.get("message")
    else:
        is_good = set(told) == {"error"}
    if not is_good or not isinstance(text, str) or not text:
        raise fail("an error of another shape")
    return text


def check_error(asked: Asked, text: str, status: int, fail: Any, *, secrets: Iterable[str]) -> None:
    for secret in secrets:
        if secret in text and secret.encode() not in asked.wire():
            raise fail(f"an error tells {secret!r}")
    if len(text) > 4_000:
        raise fail("an error that is too long")
    is_clients = asked.path.startswith("/v1/") or b"tools" in asked.body.lower()
    if OUR_FAULT.search(text) and not is_clients:
        raise fail("the proxy wrote what vLLM refuses")
    if status < 500 or (text == CRASHED and (is_clients or b"format" in asked.body.lower())):
        return
    path = asked.path.rstrip("/")
    if not any(
        re.fullmatch(where, path) and its == status and re.fullmatch(told, text, re.DOTALL)
        for where, its, told in ALLOWED_5XX
    ):
        raise fail("an error of ours")


def check_success(asked: Asked, answered: Answered, fail: Any, *, secrets: Iterable[str]) -> None:
    """A stream is whole or says why not, and a whole answer is JSON."""
    kind = answered.headers.get("content-type", "")
    if asked.method == b"HEAD" or not answered.body:
        return
    if kind == "application/x-ndjson":
        if not answered.body.endswith(b"\n"):
            raise fail("a last line without its end")
        lines = [json.loads(line) for line in answered.body.removesuffix(b"\n").split(b"\n")]
        if not all(isinstance(line, dict) for line in lines):
            raise fail("a line that is no object")
        *earlier, last = lines
        if any("error" in line or line.get("done") is True for line in earlier):
            raise fail("lines after the end")
        if "error" in last:
            check_error(asked, last["error"], 500, fail, secrets=secrets)
        elif last.get("done") is not True and last.get("status") != "success":
            raise fail("a stream without its end")
    elif kind.startswith("application/json"):
        told = json.loads(answered.body)
        if isinstance(told, dict) and "error" in told and asked.path.startswith("/api/"):
            raise fail("an error that is called a success")
    elif kind.startswith("text/event-stream"):
        if not answered.body.startswith((b"data:", b"event:", b":")):
            raise fail("a stream of events that begins otherwise")
    elif answered.body != b"Ollama is running":
        raise fail("a success of an unknown kind")


# ---------------------------------------------------------------- what may reach vLLM

_SAMPLING = (
    "model stream stream_options temperature top_k top_p min_p repetition_penalty presence_penalty frequency_penalty "
    "seed stop max_tokens response_format return_token_ids truncate_prompt_tokens logprobs "
)
_RENDERED = "messages tools chat_template_kwargs continue_final_message add_generation_prompt "
_OPENAI = _SAMPLING + (
    "logit_bias min_tokens ignore_eos stop_token_ids skip_special_tokens include_stop_str_in_output n user "
)
FROM_OLLAMA = {
    "/v1/chat/completions": _SAMPLING + _RENDERED + "reasoning_effort top_logprobs",
    "/v1/completions": _SAMPLING + "prompt suffix continue_final_message add_generation_prompt",
    "/v1/embeddings": "model input encoding_format truncate_prompt_tokens",
    "/tokenize": _RENDERED + "model prompt add_special_tokens",
    "/detokenize": "model tokens",
}
FROM_OPENAI = {
    "/v1/chat/completions": _OPENAI
    + "messages tools tool_choice parallel_tool_calls top_logprobs max_completion_tokens reasoning_effort "
    "continue_final_message add_generation_prompt",
    "/v1/completions": _OPENAI + "prompt suffix",
    "/v1/embeddings": "model input encoding_format truncate_prompt_tokens",
    "/v1/responses": "model input instructions max_output_tokens metadata parallel_tool_calls reasoning service_tier "
    "stream temperature top_p top_k text tool_choice tools top_logprobs truncation user include",
    "/v1/messages": "model messages max_tokens system temperature top_p top_k stop_sequences stream tools tool_choice "
    "metadata thinking output_config",
}
FROM_EITHER = {
    path: f"{FROM_OLLAMA.get(path, '')} {FROM_OPENAI.get(path, '')}" for path in (*FROM_OLLAMA, *FROM_OPENAI)
}
FORM = {"file", "model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]"}
_MESSAGE = {"role", "content", "reasoning", "tool_calls", "tool_call_id", "name"}
HEADERS = {"host", "content-type", "content-length", "authorization", "x-request-id", "accept", "accept-encoding",
           "connection", "user-agent", "transfer-encoding"}  # fmt: skip
PROBE = "{{ raise_exception('probe') }}"


def check_upstream(request: Json, *, served: str, is_openai: bool) -> None:
    """Raises Broken where a client's request brought something to vLLM that has no business there.

    `is_openai`: requests under /v1 are among them, most of whose fields pass as they are.
    """
    body, path = request["body"], request["path"]
    if request["method"] == "GET":
        if path not in {"/v1/models", "/health", "/metrics", "/is_sleeping", "/version", "/openapi.json",
                        "/v1/embeddings", "/v1/chat/completions", "/v1/completions"}:  # fmt: skip
            raise Broken(f"asked of vLLM: GET {path}")
        return
    if isinstance(body, dict) and (body.get("chat_template") == PROBE or body.get("thinking_token_budget") is not None):
        return  # the proxy's own questions, which no client can make
    if request["headers"].get("x-data-parallel-rank") == str(2**31 - 1):
        return
    if is_openai and path == "/v1/audio/transcriptions" and isinstance(body, str):
        fields = re.findall(r'^Content-Disposition: form-data; name="([^"]*)"', body, re.MULTILINE)
        if extra := set(fields) - FORM:
            raise Broken(f"{path} was sent {sorted(extra)}: {body[:1500]}")
        return
    allowed = FROM_EITHER if is_openai else FROM_OLLAMA
    if path not in allowed or not isinstance(body, dict):
        raise Broken(f"asked of vLLM: {request['method']} {path} {str(body)[:500]}")
    if extra := set(body) - set(allowed[path].split()):
        raise Broken(f"{path} was sent {sorted(extra)}: {str(body)[:1500]}")
    if extra := set(request["headers"]) - HEADERS:
        raise Broken(f"{path} was sent the headers {sorted(extra)}")
    if body.get("model") != served:
        raise Broken(f"{path} was asked for the model {body.get('model')!r}")
    if is_openai:
        return
    for message in body.get("messages", ()):
        if extra := set(message) - _MESSAGE:
            raise Broken(f"a message has {sorted(extra)}")
    kwargs = body.get("chat_template_kwargs", {})
    if set(kwargs) - {"enable_thinking", "thinking"} or not all(isinstance(it, bool) for it in kwargs.values()):
        raise Broken(f"chat_template_kwargs {kwargs}")
    if body.get("stream_options", {"include_usage": True}) != {"include_usage": True}:
        raise Broken(f"stream_options {body['stream_options']}")


# ---------------------------------------------------------------- JSON that is nearly JSON


class Bare(str):
    """Written as it stands, without quotes."""

    __slots__ = ()


class Members(list[tuple[Any, Any]]):
    """An object, whose keys may come twice."""


def dumped(value: object) -> str:
    """JSON of what the strategies make."""
    if isinstance(value, Bare):
        return str(value)
    if isinstance(value, Members):
        return "{" + ",".join(f"{dumped(key)}:{dumped(its)}" for key, its in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


_ODD_TEXTS = st.sampled_from([
    "", " ", "null", "json", "\x00", "\n", "\u2028\u2029\x85", "\U0001f600", "é" * 40, "{{ .Prompt }}", "<think>",
    "../../etc/passwd", "http://127.0.0.1:1/x", "data:image/png;base64,AAAA", "-1", "1e400", "x" * 3000, "\ufeff",
    "</think>", "<|im_start|>", "%s%n", "${x}", "A" * 90, "\ud83d",
])  # fmt: skip
TEXTS = st.one_of(_ODD_TEXTS, st.text(max_size=12), st.sampled_from(["hi", "why is the sky blue?"]))
NUMBERS = st.one_of(
    st.sampled_from([
        0, 1, -1, -2, 2, 16, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, -0.1, 1e-9, 1e308, -1e308, 5e-324, 4096, 2**31, 2**53 + 1,
        2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, 1e19, -1e19, 8192.0, 49151, 49152,
    ]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(list(map(Bare, (
        "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "1.", ".5", "-", "0x10", "1e5", "-0", "1E+2",
        "9" * 400, "0." + "3" * 400, "1e-999",
    )))),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def _nested(inner: SearchStrategy[Any]) -> SearchStrategy[Any]:
    pairs = st.lists(st.tuples(TEXTS, inner), max_size=3).map(Members)
    return st.one_of(st.lists(inner, max_size=3), pairs)


VALUES = st.one_of(LEAVES, _nested(LEAVES), _nested(_nested(LEAVES)))


@st.composite
def deep(draw: DrawFn) -> Bare:
    """Many levels, closed or not."""
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"b":', "}]")]))
    depth = draw(st.sampled_from([3, 60, 127, 128, 129, 1_000, 1_025, 20_000]))
    return Bare(opening * depth + "1" + closing * (depth if draw(st.booleans()) else depth - 1))


def mostly(usual: SearchStrategy[Any], *others: SearchStrategy[Any], one_in: int = 6) -> SearchStrategy[Any]:
    """`usual`, and one time in so many one of the others: `one_of` gives each the same chance."""
    other = st.one_of(*others)
    return st.integers(0, one_in - 1).flatmap(lambda chance: other if chance == one_in - 1 else usual)


ANYTHING = mostly(VALUES, deep())


def objects(
    fields: dict[str, SearchStrategy[Any]], *, needs: Sequence[str] = (), most: int = 6, odd: int = 8
) -> SearchStrategy[Members]:
    """Objects of some of `fields`; one value in `odd` is anything at all, and some keys come twice or otherwise."""
    names = sorted(set(fields) - set(needs))
    other = (
        _ODD_TEXTS
        if not names
        else st.one_of(
            _ODD_TEXTS,
            st.sampled_from(names).map(str.upper),
            st.sampled_from(names).map(str.title),
            st.sampled_from(names),
        )
    )

    @st.composite
    def build(draw: DrawFn) -> Members:
        chosen = list(needs)
        if names:
            chosen += draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
        chances = draw(st.lists(st.integers(0, odd - 1), min_size=len(chosen), max_size=len(chosen)))
        members = Members()
        for name, chance in zip(chosen, chances, strict=True):
            members.append((name, draw(ANYTHING if chance == odd - 1 else fields[name])))
        if draw(st.integers(0, 5)) == 5:
            members.append((draw(other), draw(ANYTHING)))
        return members

    return build()


# ---------------------------------------------------------------- bodies

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SERVED = ("smollm2", "thinker", "minilm")
GOOD_NAMES = ["smollm2", "SmolLM2", "smollm2:latest", "thinker", "Thinker:LATEST", "library/smollm2"]
NAMES = mostly(
    st.sampled_from(GOOD_NAMES),
    st.sampled_from(["minilm", "fuzz1", "fuzz2:tag", "fuzz3", "nobody", "hf.co/a/b:c"]),
    st.sampled_from([
        "", " ", ":", "a:", "/x", "../../x", "a%2f..", "x" * 5000, "a b", "a\x00b", "é", "a:b:c", "http://127.0.0.1/x",
        "a/b/c/d", "ſmollm2", "smollm2\n", "ＳＭＯＬＬＭ２", "smollm2:", "-x", "K", "\ud83d",
    ]),
)  # fmt: skip
BOOLS = st.one_of(st.booleans(), st.booleans(), st.none())
IMAGES = st.lists(
    st.one_of(
        *[st.just(PNG)] * 4,
        st.sampled_from(
            ["data:image/png;base64," + PNG, "AAAA", "!!!", "", "AA", "data:,x", "http://x/y.png", PNG[:-1]]
        ),
    ),
    max_size=3,
)
_OPTION_NAMES = [
    "num_keep", "seed", "num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "num_ctx", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict", "mirostat", "tfs_z", "unknown",
]  # fmt: skip
PRIVATE = dict.fromkeys(
    [
        "chat_template",
        "chat_template_kwargs",
        "kv_transfer_params",
        "vllm_xargs",
        "priority",
        "structured_outputs",
        "n",
        "prompt_logprobs",
        "mm_processor_kwargs",
        "truncate_prompt_tokens",
        "ignore_eos",
        "guided_json",
        "cache_salt",
        "request_id",
        "echo",
        "documents",
        "tool_choice",
        "best_of",
        "lora_request",
        "add_special_tokens",
        "bad_words",
        "allowed_token_ids",
        "media_io_kwargs",
    ],
    VALUES,
)
OPTIONS = objects(
    dict.fromkeys(_OPTION_NAMES, NUMBERS)
    | {"stop": st.lists(TEXTS, max_size=7), "use_mmap": BOOLS, "penalize_newline": BOOLS}
    | {"chat_template": TEXTS, "ignore_eos": BOOLS},
    odd=20,
)
SCHEMAS = objects({
    "type": st.sampled_from(["object", "array", "string", "integer", ["string", "null"]]),
    "properties": objects({"a": st.just({}), "b": st.just({"type": "string"}), "é": st.just({"enum": [1]})}),
    "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    "enum": st.lists(LEAVES, min_size=1, max_size=2), "pattern": TEXTS, "$ref": TEXTS, "anyOf": st.just([]),
}, most=3)  # fmt: skip
FORMATS = st.one_of(st.sampled_from(["json", "", None]), SCHEMAS, st.sampled_from(["json", "xml"]))
KEEP_ALIVES = st.one_of(
    NUMBERS,
    st.sampled_from(["5m", "0", "-1", "10", "1h30m", "-1s", "", "5 m", "9" * 30 + "h", "1e3s", ".5s", "300s", None]),
)
THINKS = st.sampled_from([True, False, False, None, None, "low", "medium", "high", "max", "", "ultra", 1])
TOOLS = st.lists(
    objects({
        "type": st.just("function"),
        "function": objects({
            "name": TEXTS, "description": TEXTS,
            "parameters": objects({
                "type": st.just("object"),
                "properties": objects({"a": SCHEMAS, "b": SCHEMAS}, odd=12),
                "required": st.lists(TEXTS, max_size=2),
                "$defs": VALUES,
            }, odd=12),
            "strict": BOOLS, "chat_template": TEXTS,
        }, needs=("name",), odd=12),
    }, needs=("type", "function"), odd=12),
    max_size=2,
)  # fmt: skip
CALLS = st.lists(
    objects({
        "id": TEXTS, "type": st.just("function"),
        "function": objects({
            "name": TEXTS, "index": NUMBERS,
            "arguments": st.one_of(_nested(LEAVES), st.sampled_from(["{}", '{"a":1}', "[]", "x", ""])),
        }, needs=("name", "arguments"), odd=12),
    }, needs=("function",), odd=12),
    max_size=2,
)  # fmt: skip
MESSAGES = st.lists(
    objects({
        "role": st.sampled_from(["user", "assistant", "system", "tool", "USER", "developer", "", "Tool"]),
        "content": TEXTS, "thinking": TEXTS, "images": IMAGES, "tool_calls": CALLS, "tool_name": TEXTS,
        "tool_call_id": TEXTS, "name": TEXTS, "reasoning": TEXTS,
    }, needs=("role", "content"), most=2, odd=16),
    max_size=4,
)  # fmt: skip
RUN = {
    "model": NAMES, "stream": BOOLS, "format": FORMATS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    "think": THINKS, "truncate": BOOLS, "shift": BOOLS, "logprobs": BOOLS, "top_logprobs": st.integers(-1, 21),
    "_debug_render_only": BOOLS,
}  # fmt: skip
PULLED = {"model": NAMES, "name": NAMES, "insecure": BOOLS, "username": TEXTS, "password": TEXTS, "stream": BOOLS}

OLLAMA_BODIES: dict[bytes, SearchStrategy[Members]] = {
    b"/api/generate": objects(RUN | PRIVATE | {
        "prompt": TEXTS, "suffix": TEXTS, "system": TEXTS, "template": TEXTS, "raw": BOOLS, "images": IMAGES,
        "context": st.lists(mostly(st.integers(0, 60), NUMBERS), max_size=5),
    }, needs=("model", "prompt"), odd=14),
    b"/api/chat": objects(
        RUN | PRIVATE | {"messages": MESSAGES, "tools": TOOLS}, needs=("model", "messages"), odd=14
    ),
    b"/api/embed": objects({
        "model": mostly(st.just("minilm"), NAMES), "input": st.one_of(TEXTS, st.lists(TEXTS, max_size=4), VALUES),
        "truncate": BOOLS, "dimensions": NUMBERS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    }, needs=("model", "input")),
    b"/api/embeddings": objects({
        "model": mostly(st.just("minilm"), NAMES), "prompt": TEXTS, "keep_alive": KEEP_ALIVES, "options": OPTIONS,
    }, needs=("model", "prompt")),
    b"/api/show": objects({
        "model": NAMES, "name": NAMES, "verbose": BOOLS, "system": TEXTS, "template": TEXTS, "options": OPTIONS,
    }, needs=("model",)),
    b"/api/pull": objects(PULLED, needs=("model",)),
    b"/api/push": objects(PULLED, needs=("model",)),
    b"/api/create": objects({
        "model": st.sampled_from(["fuzz1", "fuzz2:tag", "fuzz3", "smollm2", "", "../x"]), "from": NAMES,
        "stream": BOOLS, "files": OPTIONS, "adapters": OPTIONS, "template": TEXTS, "license": VALUES,
        "system": TEXTS, "parameters": OPTIONS, "messages": MESSAGES, "quantize": TEXTS, "info": OPTIONS,
        "renderer": TEXTS, "remote_host": TEXTS,
    }, needs=("model", "from"), most=4),
    b"/api/copy": objects({
        "source": NAMES, "destination": st.sampled_from(["fuzz1", "fuzz2:tag", "FUZZ3", "smollm2", "", "../x", "a b"]),
    }, needs=("source", "destination")),
    b"/api/delete": objects({
        "model": st.sampled_from(["fuzz1", "fuzz2:tag", "fuzz3", "smollm2", "", "nobody"]), "name": NAMES,
    }, needs=("model",)),
}  # fmt: skip

_PARTS = st.lists(
    objects({
        "type": st.sampled_from(["text", "image_url", "input_audio", "url", "image"]), "text": TEXTS,
        "image_url": st.one_of(
            TEXTS, objects({"url": st.one_of(TEXTS, st.just("data:image/png;base64," + PNG))}, needs=("url",))
        ),
        "source": objects({"type": st.sampled_from(["url", "base64"]), "url": TEXTS, "data": st.just(PNG)}),
    }, needs=("type",)),
    max_size=3,
)  # fmt: skip
_OPENAI_MESSAGES = st.lists(
    objects({
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]),
        "content": st.one_of(TEXTS, TEXTS, _PARTS), "tool_calls": CALLS, "tool_call_id": TEXTS, "name": TEXTS,
    }, needs=("role", "content"), most=1, odd=16),
    min_size=1,
    max_size=3,
)  # fmt: skip
_SAMPLED = {
    "model": NAMES, "stream": BOOLS, "temperature": NUMBERS, "top_p": NUMBERS, "max_tokens": NUMBERS, "seed": NUMBERS,
    "frequency_penalty": NUMBERS, "presence_penalty": NUMBERS, "n": NUMBERS, "stop": st.one_of(TEXTS, VALUES),
    "stream_options": objects({"include_usage": BOOLS}), "user": TEXTS, "logit_bias": VALUES,
    "response_format": objects({
        "type": st.sampled_from(["text", "json_object", "json_schema", "structural_tag"]),
        "json_schema": objects({"name": TEXTS, "schema": SCHEMAS}),
    }, needs=("type",)),
}  # fmt: skip
_IDS = st.lists(st.integers(0, 60), max_size=4)
_PROMPTS = st.one_of(TEXTS, st.lists(TEXTS, max_size=2), _IDS, st.lists(_IDS, max_size=2))
OPENAI_BODIES: dict[bytes, SearchStrategy[Members]] = {
    b"/v1/chat/completions": objects(PRIVATE | _SAMPLED | {
        "messages": _OPENAI_MESSAGES, "tools": TOOLS, "tool_choice": VALUES, "reasoning_effort": TEXTS,
        "reasoning": objects({"effort": THINKS}), "logprobs": BOOLS, "top_logprobs": NUMBERS,
    }, needs=("model", "messages"), odd=14),
    b"/v1/completions": objects(
        PRIVATE | _SAMPLED | {"prompt": _PROMPTS, "suffix": TEXTS, "logprobs": NUMBERS},
        needs=("model", "prompt"), odd=14,
    ),
    b"/v1/embeddings": objects({
        "model": mostly(st.just("minilm"), NAMES), "input": st.one_of(TEXTS, st.lists(TEXTS, max_size=3), VALUES),
        "dimensions": NUMBERS, "encoding_format": st.sampled_from(["float", "base64", "BASE64", "x", None]),
    }, needs=("model", "input")),
    b"/v1/responses": objects(PRIVATE | _SAMPLED | {
        "input": st.one_of(TEXTS, _OPENAI_MESSAGES), "instructions": TEXTS, "max_output_tokens": NUMBERS,
        "tools": TOOLS, "store": BOOLS, "background": BOOLS, "previous_response_id": TEXTS,
    }, needs=("model", "input"), odd=14),
    b"/v1/messages": objects(PRIVATE | _SAMPLED | {
        "messages": _OPENAI_MESSAGES, "system": TEXTS, "thinking": VALUES, "metadata": VALUES, "tools": VALUES,
    }, needs=("model", "messages", "max_tokens"), odd=14),
    b"/v1/audio/transcriptions": objects(
        {"model": NAMES, "file": TEXTS, "language": TEXTS, "prompt": TEXTS, "stream": TEXTS, "chat_template": TEXTS},
        needs=("model", "file"), most=2, odd=100,
    ),
}  # fmt: skip


# ---------------------------------------------------------------- requests

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
