"""The proxy and a running Ollama, asked the same: what needs no model must be answered alike.

Needs Ollama's binary (HARNESS_OLLAMA_BIN, or `ollama` on the PATH). It serves an empty folder, so nothing is run.
"""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import httpx
import pytest

from tests.contract.deviations import LIVE
from tests.contract.servers import Proxied, Starter, wait_until
from tests.contract.test_recorded import differences

BINARY = os.environ.get("HARNESS_OLLAMA_BIN") or shutil.which("ollama")
pytestmark = pytest.mark.skipif(not BINARY, reason="no ollama: name it in HARNESS_OLLAMA_BIN, or put it on the PATH")

HI = [{"role": "user", "content": "hi"}]
BODIES = (
    b"", b"{", b"[]", b"{}", b"null", b'"x"', b" ", b"hello", b'{"model":5}', b'{"model":null}', b'{"model":["a"]}',
    b'{"model":"nosuch"}', b'{"name":"nosuch"}', b'{"model":"","name":"nosuch"}', b'{"model":"nosuch",}',
    b'{"model":"bad name!"}', b'{"model":"a//b"}', b'{"model":"nosuch:"}', b'{"model":":x"}', b'{"model":"a:b:c"}',
    b'{"MODEL":"nosuch"}', b'{"model":"nosuch","stream":"x"}', b'{"model":"nosuch","stream":1}', b'{"model":"nosuch"',
)  # fmt: skip
ROUTES = ("generate", "chat", "embed", "embeddings", "show", "create", "copy", "pull", "push")
FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "generate": {
        "top_logprobs": (-1, 21, "x"),
        "options": ([], 5, "x"),
        "keep_alive": ("10", "x", "", True, [], {}, "1d", " 5m"),
        "think": (5, "banana", [], {}),
        "raw": ("x", 1),
        "prompt": (["a"],),
        **dict.fromkeys(("system", "template", "suffix", "images", "context", "truncate", "shift"), (5,)),
    },
    "chat": {"messages": ({}, "x", 5), "tools": ({}, "x"), "top_logprobs": (-1, 21), "model": ("", "bad name!", None)},
    "embed": {"input": (5, [5], {}, "x", None), "dimensions": ("a",)},
    "embeddings": {"prompt": (5,)},
    "copy": {"source": ("nosuch", "", "bad name", 5), "destination": ("bad name",)},
    "create": {"from": ("bad name!", 5, None), "files": ({},), "parameters": ("x",), "messages": (5,)},
    "push": {"insecure": ("x",)},
}
"""Route → field → values of the wrong kind, or out of range."""

LOCAL = {"origin": "http://localhost:3000"}
ASKING = {**LOCAL, "access-control-request-method": "POST"}


def cases() -> Iterator[tuple[str, str, bytes | None, dict[str, str]]]:
    """Method, path, body, headers."""
    for path in ("/", "/api/version", "/api/tags", "/api/ps", "/api/status", "/api/nosuch", "/api", "/api/", "/nosuch"):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            yield method, path, None, {}
    for path in (*ROUTES, "delete", "blobs/xx", "experimental/model-recommendations"):
        for method in ("GET", "PATCH"):
            yield method, f"/api/{path}", None, {}
    for path in ("/api/tags/", "/api//tags", "/api/show/", "/API/tags", "/v1", "/api/tags?x=1"):
        yield "GET", path, None, {}
    for digest in ("sha256:" + "0" * 64, "sha256:00", "xx"):
        yield "HEAD", f"/api/blobs/{digest}", None, {}
    for path in ROUTES:
        for body in BODIES:
            yield "POST", f"/api/{path}", body, {}
    for body in BODIES:
        yield "DELETE", "/api/delete", body, {}
    for path, fields in FIELDS.items():
        for name, values in fields.items():
            for value in values:
                yield "POST", f"/api/{path}", json.dumps({"model": "nosuch", name: value}).encode(), {}
    for origin in ("http://localhost", "https://127.0.0.1:1", "app://x", "http://evil.example", "null", "file://"):
        for path in ("/", "/api/tags"):
            yield "GET", path, None, {"origin": origin}
        yield "OPTIONS", "/api/chat", None, {"origin": origin, "access-control-request-method": "POST"}
    for method, path, headers in (
        ("OPTIONS", "/api/tags", {}),
        ("OPTIONS", "/api/chat", LOCAL),
        ("OPTIONS", "/nosuch", ASKING),
        ("GET", "/api/nosuch", LOCAL),
        ("POST", "/api/tags", LOCAL),
    ):
        yield method, path, None, headers
    for host in ("evil.example", "localhost", "127.0.0.1:1", "x.localhost", "nas.local", "a.internal", "8.8.8.8"):
        yield "GET", "/api/version", None, {"host": host}


@pytest.fixture(scope="module")
def ollama(start: Starter) -> Iterator[httpx.Client]:
    """`ollama serve` over an empty folder."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(start.folder), "OLLAMA_HOST": address, "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_MODELS": str(start.folder / "ollama-models"),
    }  # fmt: skip
    with (start.folder / "ollama.log").open("wb") as log:
        process = subprocess.Popen([str(BINARY), "serve"], env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=20, trust_env=False) as client:
            assert wait_until(lambda: _answers(client), within_s=20, every_s=0.1)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def told(start: Starter, ollama: httpx.Client) -> dict[str, list[str]]:
    """What differs, by case: all are asked at once, since each takes a millisecond."""
    vllm = start.fake("--model", "other")
    version = ollama.get("/api/version").json()["version"]
    proxy = start.proxy("--upstream", f"other={vllm.url}", "--version", version)
    proxy.http.request("POST", "/api/generate", json={"model": "other", "keep_alive": 0})
    return {case(it): list(compared(ollama, proxy, it)) for it in cases()}


def case(asked: tuple[str, str, bytes | None, dict[str, str]]) -> str:
    method, path, body, headers = asked
    return f"{method} {path} {(body or b'').decode()} {json.dumps(headers) if headers else ''}"


def compared(
    ollama: httpx.Client, proxy: Proxied, asked: tuple[str, str, bytes | None, dict[str, str]]
) -> Iterator[str]:
    method, path, body, headers = asked
    theirs, ours = (it.request(method, path, content=body, headers=headers) for it in (ollama, proxy.http))
    if method == "GET" and path in {"/api/tags", "/api/tags?x=1"}:
        return  # the one has models, the other none
    recorded = {
        "status": theirs.status_code,
        "headers": {name.lower(): value for name, value in theirs.headers.items()},
        "body": theirs.text,
        "method": method,
        "path": path,
    }
    yield from differences(recorded, ours)


def test_the_proxy_answers_as_ollama_does(told: dict[str, list[str]]) -> None:
    found = {
        name: [it for it in lines if not excused(name, it)]
        for name, lines in told.items()
        if any(not excused(name, it) for it in lines)
    }
    assert len(told) > 300
    assert not found, json.dumps(found, indent=1, ensure_ascii=False)


def test_what_is_listed_as_a_deviation_is_one(told: dict[str, list[str]]) -> None:
    idle = [
        it
        for it in LIVE
        if not any(
            fnmatchcase(name, it.case) and fnmatchcase(line.partition(": ")[0], it.where)
            for name, lines in told.items()
            for line in lines
        )
    ]
    assert not idle, "remove them, here and in the README"


def excused(name: str, difference: str) -> bool:
    where = difference.partition(": ")[0]
    return any(fnmatchcase(name, it.case) and fnmatchcase(where, it.where) for it in LIVE)
