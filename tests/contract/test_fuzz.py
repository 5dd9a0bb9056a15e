"""Section 5 of the contract under fire: whatever is sent, the proxy answers as it may, and nothing of it stays.

FUZZ_REQUESTS is how many generated requests are sent (8000); FUZZ_SEED makes others than those of every run:
`make fuzz` sends many, new ones each time.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.contract import fuzzing
from tests.contract.fuzzing import Answered, Asked, Client
from tests.contract.servers import ROOT, Fake, Json, Proxied, connections, wait_until

WANTED = int(os.environ.get("FUZZ_REQUESTS", "8000"))
SEED = os.environ.get("FUZZ_SEED")
SOCKETS = max(50, WANTED // 50)
SHARES = {"ollama": 0.47, "openai": 0.18, "odd": 0.25, "document": 0.10}
AT_ONCE = 10
LOOKED_AT_EVERY = max(50, min(500, WANTED // 80))
GROWTH_MIB = 12.0
"""Of the resident size between the second and the last quarter of a test's requests."""


class Campaign:
    """Sends requests to the proxy, looks at every answer, and now and then at all that stands behind them."""

    def __init__(self, proxy: Proxied, fakes: dict[str, Fake]) -> None:
        self.proxy, self.fakes = proxy, fakes
        self.client = Client(proxy.address, connections=AT_ONCE)
        self.is_openai = False
        self.upstream_requests = self.crashes = 0
        self.statuses: dict[int, int] = {}
        self._process = psutil.Process(proxy.pid)
        self.resident_mib: list[float] = []
        self._looked_at = 0
        ports = [str(fake.port) for fake in fakes.values()]
        self.secrets = [f":{port}" for port in ports] + [
            str(ROOT), str(proxy.log.parent), "Traceback (most recent call last)", 'File "', "site-packages", "proxy/",
        ]  # fmt: skip

    def send(self, requests: Sequence[Asked]) -> list[Answered]:
        answers = self.client.answers(requests)
        for asked, answered in zip(requests, answers, strict=True):
            self.statuses[answered.status] = self.statuses.get(answered.status, 0) + 1
            self.crashes += fuzzing.CRASHED.encode() in answered.body
            fuzzing.check(asked, answered, secrets=self.secrets)
        if self.client.sent - self._looked_at >= LOOKED_AT_EVERY:
            self.look()
        return answers

    def look(self) -> None:
        """What reached vLLM was allowed to; names that were made are taken away; the size is noted."""
        self._looked_at = self.client.sent
        self.resident_mib.append(self._process.memory_info().rss / 2**20)
        for served, fake in self.fakes.items():
            for request in fake.http.get("/_requests").json():
                self.upstream_requests += request["method"] == "POST"
                fuzzing.check_upstream(request, served=served, is_openai=self.is_openai)
            fake.http.delete("/_requests")
        for model in self.proxy.http.get("/api/tags").json()["models"]:
            if model["name"].removesuffix(":latest") not in self.fakes:
                gone = self.proxy.http.request("DELETE", "/api/delete", json={"model": model["name"]})
                assert gone.status_code == 200, gone.text

    def growth_mib(self) -> float:
        """Between the middle of the second and of the last quarter."""
        quarter = max(1, len(self.resident_mib) // 4)
        return statistics.median(self.resident_mib[-quarter:]) - statistics.median(
            self.resident_mib[quarter : 2 * quarter] or self.resident_mib
        )


class Held:
    """What the process has open while nobody is connected."""

    def __init__(self, proxy: Proxied) -> None:
        proxy.http.close()
        proxy.http = type(proxy.http)(base_url=proxy.url, timeout=20, trust_env=False)
        process = psutil.Process(proxy.pid)
        clients = f":{proxy.port}"
        assert wait_until(lambda: not [it for it in connections(proxy) if clients == f":{it.laddr.port}"])
        self.descriptors = process.num_fds()
        self.threads = process.num_threads()


@pytest.fixture
def campaign(proxy: Proxied, vllm: Fake, thinker: Fake, embedder: Fake) -> Iterator[Campaign]:
    """A client before the proxy; at the end everything must be as it was at the start."""
    fakes = {"smollm2": vllm, "thinker": thinker, "minilm": embedder}
    for name in ("smollm2", "thinker"):
        assert proxy.chat(model=name)["done"] is True
    for fake in fakes.values():
        fake.forget()
    before, said_before = Held(proxy), len(proxy.errors())
    campaign = Campaign(proxy, fakes)
    started_s = time.monotonic()
    yield campaign
    campaign.client.close()
    campaign.look()
    took_s = time.monotonic() - started_s
    growth = campaign.growth_mib()
    print(
        f"{campaign.client.sent} requests in {took_s:.0f} s, {campaign.upstream_requests} reached vLLM, "
        f"{growth:+.1f} MiB of {campaign.resident_mib[-1]:.0f}, statuses {dict(sorted(campaign.statuses.items()))}"
    )
    for fake in fakes.values():
        assert wait_until(lambda fake=fake: fake.running() == 0, within_s=30)
    assert campaign.crashes <= sum(fake.errors().count("Traceback") for fake in fakes.values())
    said = proxy.errors()[said_before:]
    assert "Traceback" not in said, said[-6000:]
    assert "never awaited" not in said
    assert "never retrieved" not in said
    after = Held(proxy)
    assert after.descriptors <= before.descriptors + 40  # idle connections to vLLM are kept for some seconds
    assert after.threads <= before.threads + 4
    assert growth < GROWTH_MIB
    for name in ("smollm2", "thinker"):
        assert proxy.chat(model=name)["done"] is True
    assert proxy.post("/api/embed", {"model": "minilm", "input": "x"}).status_code == 200


def send_all(campaign: Campaign, strategy: SearchStrategy[Asked], *, share: str) -> None:
    """At least so many of its requests; the shortest that breaks a rule is told."""
    wanted = math.ceil(WANTED * SHARES[share])

    @settings(
        max_examples=math.ceil(wanted / AT_ONCE) + 1,
        deadline=None,
        database=None,
        derandomize=SEED is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.lists(strategy, min_size=AT_ONCE, max_size=AT_ONCE))
    def batches(requests: list[Asked]) -> None:
        campaign.send(requests)

    (batches if SEED is None else seed(int(SEED))(batches))()
    campaign.look()
    assert campaign.client.sent >= wanted


@pytest.mark.timeout(600)
def test_bodies_of_ollamas_api(campaign: Campaign) -> None:
    send_all(campaign, fuzzing.bodied(fuzzing.OLLAMA_BODIES), share="ollama")
    assert campaign.upstream_requests > campaign.client.sent / 20  # not everything is refused at the door


@pytest.mark.timeout(600)
def test_bodies_under_v1(campaign: Campaign) -> None:
    campaign.is_openai = True
    send_all(campaign, fuzzing.bodied(fuzzing.OPENAI_BODIES), share="openai")
    assert campaign.upstream_requests > campaign.client.sent / 50


@pytest.mark.timeout(600)
def test_methods_paths_queries_and_headers(campaign: Campaign) -> None:
    campaign.is_openai = True
    send_all(campaign, fuzzing.odd_requests(), share="odd")


# ---------------------------------------------------------------- the document

NOT_AS_TOLD = re.compile(
    r"cannot unmarshal(?!.*illegal base64)|invalid character|unexpected EOF|missing request body|invalid JSON|Mismatch"
)
"""What a body is refused with that is no such request at all: none that keeps to the document is.

Base64 is but a remark in the document, which no schema can check.
"""


def documented(document: Json) -> SearchStrategy[tuple[bool, Asked]]:
    """Requests as the document describes them (True), and such as it forbids."""
    schemathesis = pytest.importorskip("schemathesis")
    modes = schemathesis.GenerationMode
    schema = schemathesis.openapi.from_dict(document)
    found: list[SearchStrategy[tuple[bool, Asked]]] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            cases = schema[path][method.upper()].as_strategy
            found.append(cases(generation_mode=modes.POSITIVE).map(lambda case: (True, request_of(case))))
            if "requestBody" in operation:
                found.append(cases(generation_mode=modes.NEGATIVE).map(lambda case: (False, request_of(case))))
                served = cases(generation_mode=modes.POSITIVE).map(lambda case: (True, request_of(case, "smollm2")))
                found += [served, served.map(tuple), served.map(tuple)]  # they alone go further than the door
    return st.one_of(found)


def request_of(case: Any, model: str | None = None) -> Asked:
    """A case of schemathesis, as it goes over the wire; for `model` where one is given."""
    body, headers = case.body, dict(case.headers or {})
    if model is not None and isinstance(body, dict) and "model" in body:
        body = body | {"model": model}
    if case.media_type:
        headers.setdefault("content-type", case.media_type)
    body = whole_numbers(body)
    if isinstance(body, bytes):
        content = body
    elif type(body).__name__ == "NotSet":
        content = b""
    else:
        content = json.dumps(body).encode()
    query = urlencode(case.query or {}, doseq=True, errors="replace")
    target = case.formatted_path + (f"?{query}" if query else "")
    sent = tuple((name.encode(), str(value).encode("latin-1", "replace")) for name, value in headers.items())
    return Asked(case.method.upper().encode(), target.encode(), sent, content)


def whole_numbers(value: Any) -> Any:
    """43 for 43.0: one integer to JSON Schema, yet to Go only the first is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(it) for it in value]
    return {key: whole_numbers(it) for key, it in value.items()} if isinstance(value, dict) else value


def test_the_document_tells_parameters_and_bodies(proxy: Proxied) -> None:
    document = proxy.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            told = {it["name"] for it in operation.get("parameters", ()) if it["in"] == "path" and it["required"]}
            assert told == set(re.findall(r"{(\w+)}", path)), (method, path)
            has_body = (method, path.rpartition("/")[0]) not in {("post", "/api/blobs")} and path not in {
                "/api/me", "/api/signout",
            }  # fmt: skip
            assert ("requestBody" in operation) == (method in ("post", "delete") and has_body), (method, path)


@pytest.mark.timeout(600)
def test_the_document_holds(campaign: Campaign) -> None:
    document = campaign.proxy.http.get("/openapi.json").json()
    cases = documented(document)
    wanted = math.ceil(WANTED * SHARES["document"])
    campaign.is_openai = True

    @settings(
        max_examples=wanted + 10,
        deadline=None,
        database=None,
        derandomize=SEED is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(cases)
    def each(case: tuple[bool, Asked]) -> None:
        is_told, asked = case
        (answered,) = campaign.send([asked])
        if is_told and answered.status == 400:
            assert not NOT_AS_TOLD.search(answered.text), (asked, answered)

    (each if SEED is None else seed(int(SEED))(each))()
    assert campaign.client.sent >= wanted


# ---------------------------------------------------------------- what is hardly HTTP

CHAT = b'{"model":"smollm2","messages":[{"role":"user","content":"hi"}]}'
POST = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(CHAT) + CHAT
GET = b"GET /api/version HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
HARDLY: tuple[bytes, ...] = (
    b"", b"\r\n" * 50, b"GET", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nhost: loc", GET, b"GET /\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, b"\x00" * 4096, b"A" * 200_000,
    b"GET " + b"/x" * 100_000, b"GET http://evil.example/api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET //api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET \\api\\tags HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /api/tags\r\nhost: localhost\r\n\r\n", b"get /api/tags HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\nhost: localhost\n\n", GET + b"host: other\r\n\r\n",
    GET + b"no colon\r\n\r\n", GET + b"a : b\r\n\r\n", GET + b"a: b\r\n folded\r\n\r\n", GET + b": b\r\n\r\n",
    GET + b"a: \x00\r\n\r\n", GET + b"a: b\rc: d\r\n\r\n", GET + b"\xff\xfe: b\r\n\r\n",
    GET + b"".join(b"x-%d: y\r\n" % n for n in range(8_000)) + b"\r\n", GET + b"x: " + b"y" * 2**20 + b"\r\n\r\n",
    GET + b"x: y\r\n" * 100_000, GET + b"connection: " + b"close, " * 2_000 + b"\r\n\r\n",
    GET * 3 + b"\r\n", (GET + b"\r\n") * 40, WHOLE * 8, WHOLE + b"garbage", WHOLE[:-1],
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", POST + b"content-length: -1\r\n\r\n",
    POST + b"content-length: 1e3\r\n\r\n", POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n",
    POST + b"content-length: 9999999999\r\n\r\n{", POST + b"content-length: 0\r\n\r\n",
    POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n",
    POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", POST + b"transfer-encoding: gzip\r\n\r\nx",
    POST + b"expect: 100-continue\r\ncontent-length: 9999999999\r\n\r\n",
    POST + b"expect: x\r\ncontent-length: 2\r\n\r\n{}",
    CHUNKED + b"\r\nzz\r\n", CHUNKED + b"\r\n-1\r\nx\r\n", CHUNKED + b"\r\n" + b"f" * 16 + b"\r\nx",
    CHUNKED + b"\r\n5\r\nhelloX\r\n",
    CHUNKED + b"\r\n5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
    CHUNKED + b"\r\n1\r\n{\r\n" + b"1\r\n \r\n" * 20_000,
    CHUNKED + b"\r\n0\r\n" + b"trailer: x\r\n" * 20_000 + b"\r\n", CHUNKED + b"\r\n5", CHUNKED + b"\r\n0\r\n\r\n" * 5,
    CHUNKED + b"\r\n%x\r\n" % len(CHAT) + CHAT + b"\r\n0\r\n\r\n",
    GET + b"upgrade: websocket\r\nconnection: upgrade\r\n\r\nxx",
    GET + b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAA\r\n\r\n",
)  # fmt: skip
"""Sent as they stand; what never ends is left open for a while."""


async def told(address: tuple[str, int], data: bytes, *, within_s: float, drip: bytes = b"") -> bytes:
    """What comes back before the server closes or the time is over; then the client leaves. `drip` follows slowly."""
    reader, writer = await asyncio.open_connection(*address)
    heard = bytearray()

    async def say() -> None:
        writer.write(data)
        await writer.drain()
        for byte in drip:
            await asyncio.sleep(0.2)
            writer.write(bytes([byte]))

    async def listen() -> None:
        while piece := await reader.read(2**16):
            heard.extend(piece)

    saying = asyncio.create_task(say())
    try:
        async with asyncio.timeout(within_s):
            await listen()
    except (TimeoutError, ConnectionError):
        pass
    finally:
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
        writer.transport.abort()
    return bytes(heard)


def all_told(campaign: Campaign, pieces: Sequence[bytes], **how: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        room = asyncio.Semaphore(25)

        async def one(data: bytes) -> bytes:
            async with room:
                return await told(campaign.proxy.address, data, **how)

        return await asyncio.gather(*map(one, pieces))

    campaign.client.sent += len(pieces)
    return asyncio.run(run())


def check_heard(campaign: Campaign, data: bytes, heard: bytes) -> None:
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", heard)]
    assert heard == b"" or heard.startswith(b"HTTP/1.1 "), (data[:300], heard[:300])
    assert all(100 <= status < 500 for status in statuses), (data[:300], heard[:600])
    assert not any(secret.encode() in heard for secret in campaign.secrets), (data[:300], heard[:600])


def test_what_is_hardly_http_is_refused(campaign: Campaign) -> None:
    for data, heard in zip(HARDLY, all_told(campaign, HARDLY, within_s=0.7), strict=True):
        check_heard(campaign, data, heard)
    assert campaign.proxy.http.get("/api/version").status_code == 200


def test_torn_requests_are_refused(campaign: Campaign) -> None:
    torn: list[bytes] = []

    @settings(
        max_examples=SOCKETS, deadline=None, database=None, derandomize=SEED is None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from([WHOLE, GET + b"\r\n", HARDLY[-3]]).flatmap(fuzzing.mutated))
    def collect(data: bytes) -> None:
        torn.append(data)

    (collect if SEED is None else seed(int(SEED))(collect))()
    for data, heard in zip(torn, all_told(campaign, torn, within_s=0.25), strict=True):
        check_heard(campaign, data, heard)
    assert len(torn) >= SOCKETS * 0.9


def test_a_body_that_never_comes_is_given_up_and_keeps_nobody_waiting(campaign: Campaign) -> None:
    """The limit of the proxy here is 1.5 s for a whole body."""
    halves = [WHOLE[:-20], CHUNKED + b"\r\n5\r\nhel", POST + b"content-length: 7000000\r\n\r\n" + b"{" * 1000] * 20
    started_s = time.monotonic()
    for heard in all_told(campaign, halves, within_s=20.0):
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert b'{"error":"the request body did not arrive within' in heard
    assert time.monotonic() - started_s < 45  # far less than one after the other
    slow = [POST + b"content-length: 500\r\n\r\n"] * 10
    for heard in all_told(campaign, slow, within_s=20.0, drip=b" " * 25):
        assert heard.startswith(b"HTTP/1.1 408 ")
    assert campaign.proxy.http.get("/api/version").elapsed.total_seconds() < 5


async def leave_while_vllm_works(address: tuple[str, int], vllm: Fake, *, clients: int) -> list[bytes]:
    """What the clients heard until vLLM worked for all of them, or 20 s were over; then all leave at once."""
    streams = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(clients)))
    for _, writer in streams:
        writer.write(WHOLE)
    await asyncio.to_thread(wait_until, lambda: vllm.running() == clients, within_s=20)
    heard = []
    for reader, writer in streams:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            heard.append(await reader.read())
    return heard


def test_clients_that_leave_at_once_leave_nothing(campaign: Campaign, vllm: Fake) -> None:
    """Where the machine stalls for the 1.5 s that a body may take here, some are told so instead of waiting."""
    expected = vllm.http.get("/_running").json()["aborted"]
    vllm.script({"delay_first_s": 600.0, "times": None})
    try:
        for _ in range(2):
            told = [
                data for data in asyncio.run(leave_while_vllm_works(campaign.proxy.address, vllm, clients=50)) if data
            ]
            assert all(data.startswith(b"HTTP/1.1 408 ") for data in told), told
            assert len(told) < 50
            assert wait_until(lambda: vllm.running() == 0, within_s=20)
            expected += 50 - len(told)
            assert vllm.http.get("/_running").json()["aborted"] == expected
    finally:
        vllm.forget()
