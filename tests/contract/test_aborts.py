"""A client that leaves: vLLM works on for nobody no longer, and nothing of the request stays in the proxy."""

import functools
import json
import socket
import struct
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.contract.servers import Fake, Json, Proxied, Starter, connections, wait_until

WITHIN_S = 4.0
"""Far less than a slow answer takes, and enough for a machine that is busy with other tests."""
HI = [{"role": "user", "content": "hi"}]
SLOW: Json = {"pieces": ["word "] * 500, "delay_s": 0.02}

PHASES: dict[str, tuple[Json, bool]] = {
    "while the headers are awaited": ({"never_headers": True}, True),
    "before the first token": ({"stall_after": 1}, True),
    "in mid-stream": (SLOW, True),
    "in a stream that has stalled": ({"stall_after": 4}, True),
    "while a whole answer is awaited": (SLOW, False),
    "while a whole answer's headers are awaited": ({"never_headers": True}, False),
}
ROUTES: dict[str, Json] = {
    "/api/chat": {"model": "smollm2", "messages": HI},
    "/api/generate": {"model": "smollm2", "prompt": "hi"},
    "/v1/chat/completions": {"model": "smollm2", "messages": HI},
    "/v1/completions": {"model": "smollm2", "prompt": "hi"},
}


def request(proxy: Proxied, path: str, body: Json) -> socket.socket:
    """A connection on which the request was sent and nothing was read."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    client = socket.create_connection(proxy.address, timeout=10)
    client.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return client


def leave(client: socket.socket, *, resets: bool = False) -> None:
    if resets:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("phase", PHASES)
def test_42_vllm_stops_when_the_client_leaves(proxy: Proxied, vllm: Fake, phase: str, path: str, resets: bool) -> None:
    proxy.generate()
    script, stream = PHASES[phase]
    vllm.script(script)
    client = request(proxy, path, {**ROUTES[path], "stream": stream})
    assert wait_until(lambda: vllm.running() == 1)
    if phase == "in mid-stream":
        received = b""
        while b"word" not in received:
            received += client.recv(65536)
    leave(client, resets=resets)
    assert wait_until(lambda: vllm.running() == 0, within_s=WITHIN_S)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_42_a_whole_answer_with_tools_is_given_up_as_well(proxy: Proxied, vllm: Fake, path: str) -> None:
    proxy.generate()
    vllm.script(SLOW)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    client = request(proxy, path, {"model": "smollm2", "messages": HI, "tools": [tool], "stream": False})
    assert wait_until(lambda: vllm.running() == 1)
    leave(client)
    assert wait_until(lambda: vllm.running() == 0, within_s=WITHIN_S)


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
def test_42_an_embedding_is_given_up_as_well(proxy: Proxied, embedder: Fake, path: str) -> None:
    proxy.post("/api/embed", {"model": "minilm", "input": "warm"})
    for script in ({"never_headers": True}, {"delay_first_s": 30}):
        embedder.script(script)
        client = request(proxy, path, {"model": "minilm", "input": "x", "prompt": "x"})
        assert wait_until(lambda: embedder.running() == 1)
        leave(client)
        assert wait_until(lambda: embedder.running() == 0, within_s=WITHIN_S)


def test_42_a_client_that_reads_no_more_is_given_up(start: Starter, vllm: Fake) -> None:
    """It keeps its connection: only the time that it takes nothing tells."""
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}", "--stall-timeout", "1")
    proxy.generate()
    vllm.script({"pieces": ["x" * 20_000] * 5_000, "delay_s": 0})
    client = request(proxy, "/api/chat", ROUTES["/api/chat"])
    try:
        assert wait_until(lambda: vllm.running() == 1)
        assert wait_until(lambda: vllm.running() == 0, within_s=10)
    finally:
        client.close()
        proxy.stop()


def test_43_a_thousand_aborts_leave_nothing(start: Starter, vllm: Fake) -> None:
    proxy = start.proxy("--upstream", f"smollm2={vllm.url}")
    process = psutil.Process(proxy.pid)
    _abort(proxy, vllm, 40)
    before = settled(proxy, process)
    _abort(proxy, vllm, 1000)
    assert wait_until(lambda: vllm.running() == 0, within_s=20)
    after = settled(proxy, process)
    assert after.sockets <= before.sockets + 4
    assert after.descriptors <= before.descriptors + 4
    assert after.threads <= before.threads + 2
    assert after.resident_mib < before.resident_mib + 24
    assert proxy.chat()["done"] is True
    assert "Traceback" not in proxy.errors()
    assert "never awaited" not in proxy.errors()
    proxy.stop()


class Held:
    """What a process holds."""

    def __init__(self, proxy: Proxied, process: psutil.Process) -> None:
        self.sockets = len(list(connections(proxy)))
        self.descriptors = process.num_fds()
        self.threads = process.num_threads()
        self.resident_mib = process.memory_info().rss / 2**20


def settled(proxy: Proxied, process: psutil.Process) -> Held:
    """Once its sockets are no longer being closed."""
    proxy.http.close()
    proxy.http = type(proxy.http)(base_url=proxy.url, timeout=20, trust_env=False)
    last, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < 0.5:
        count = len(list(connections(proxy)))
        if count != last:
            last, since_s = count, time.monotonic()
        time.sleep(0.05)
    return Held(proxy, process)


def _abort(proxy: Proxied, vllm: Fake, times: int) -> None:
    """`times` requests, fifty at a time, on all routes and in all phases, left by their clients."""
    kinds = list(_kinds())
    for batch in range(0, times, 50):
        count = min(50, times - batch)
        vllm.forget()
        vllm.script(*(kinds[(batch + n) % len(kinds)][0] for n in range(count)))
        clients = [request(proxy, *kinds[(batch + n) % len(kinds)][1]) for n in range(count)]
        arrived = functools.partial(_is_busy, vllm, count // 2)
        wait_until(arrived, within_s=2)
        for n, client in enumerate(clients):
            leave(client, resets=n % 2 == 1)
        assert wait_until(lambda: vllm.running() == 0, within_s=20)
    vllm.forget()


def _is_busy(vllm: Fake, count: int) -> bool:
    return vllm.running() > count


def _kinds() -> Iterator[tuple[Json, tuple[str, Json]]]:
    for script, stream in PHASES.values():
        for path, body in ROUTES.items():
            yield script, (path, {**body, "stream": stream})
