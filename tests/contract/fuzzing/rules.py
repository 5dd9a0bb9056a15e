"""What every answer must keep to, and what may reach vLLM."""

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.contract.fuzzing.wire import Answered, Asked

Json = dict[str, Any]

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
