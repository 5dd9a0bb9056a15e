"""The client: one job a line on stdin, one result a line on stdout. It reads HTTP itself and parses no JSON.

A job: {"port", "path", "body", "headers", "is_streamed", "streams", "turns", "spread_s", "tokens", "reuse",
"timeout_s"}.
`streams` clients, their starts spread over `spread_s`, ask `turns` times each, one after another, on a fresh
connection or, with `reuse`, on one that is renewed after that many requests.
"""

import asyncio
import gc
import json
import re
import sys
from itertools import pairwise
from time import perf_counter_ns, process_time

import httptools
import uvloop

from benchproxy.figures import quantile

STAMP = re.compile(rb"@(\d+)@")
MS = 1e6


class Answer(asyncio.Protocol):
    """One connection. Of each answer: when its tokens were written and when they were read."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] | None = None
        self.is_open = True
        self.served = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[None]":
        """Send; the future is done when the answer is whole."""
        self.parser = httptools.HttpResponseParser(self)
        self.written: list[int] = []
        self.read: list[int] = []
        self.rest = b""
        self.status = 0
        self.served += 1
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        self.now = perf_counter_ns()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_body(self, piece: bytes) -> None:
        lines, newline, rest = (self.rest + piece).rpartition(b"\n")
        self.rest = rest
        if newline:
            self.take(lines)

    def take(self, text: bytes) -> None:
        for stamp in STAMP.findall(text):
            self.written.append(int(stamp))
            self.read.append(self.now)

    def on_message_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.take(self.rest)
        if not self.parser.should_keep_alive():
            self.is_open = False
        if self.done and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, why: Exception | None) -> None:
        self.is_open = False
        if self.done and not self.done.done():
            self.done.set_exception(ConnectionError("connection lost within an answer"))


class Tally:
    """What the clients of one job saw, in ns."""

    def __init__(self) -> None:
        self.tokens = 0
        self.latencies: list[int] = []
        self.firsts: list[int] = []
        self.gaps: list[int] = []
        self.complete = 0
        self.failures: dict[str, int] = {}
        self.last_ns = 0

    def add(self, answer: Answer, sent_ns: int, *, tokens: int, is_streamed: bool) -> None:
        read = answer.read
        late = [seen - written for seen, written in zip(read, answer.written, strict=True)]
        self.tokens += len(late)
        # A whole answer is as late as its last token: a proxy may have had the others long before.
        self.latencies += late if is_streamed else late[-1:]
        if read:
            self.firsts.append(read[0] - sent_ns)
            self.gaps += [later - earlier for earlier, later in pairwise(read)]
            self.last_ns = max(self.last_ns, read[-1])
        if answer.status == 200 and len(read) == tokens:
            self.complete += 1
        else:
            self.fail(f"status {answer.status}, {len(read)} of {tokens} tokens")

    def fail(self, why: str) -> None:
        self.failures[why] = self.failures.get(why, 0) + 1


async def user(job: dict, request: bytes, number: int, tally: Tally) -> None:
    """Ask `turns` times."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(number * job["spread_s"] / job["streams"])
    answer: Answer | None = None
    for _ in range(job["turns"]):
        sent_ns = perf_counter_ns()
        is_done = False
        try:
            if answer is None:
                _, answer = await loop.create_connection(Answer, "127.0.0.1", job["port"])
            await answer.ask(request)
            is_done = True
        except OSError as error:
            tally.fail(f"{type(error).__name__}: {error}")
        finally:
            # A stream that the job's time limit cut short counts with what came.
            if answer is not None:
                if answer.done is not None:
                    tally.add(answer, sent_ns, tokens=job["tokens"], is_streamed=job["is_streamed"])
                if not (is_done and answer.is_open and answer.served < job["reuse"]):
                    answer.transport.abort()
                    answer = None


def request_bytes(job: dict) -> bytes:
    body = json.dumps(job["body"]).encode()
    lines = [f"POST {job['path']} HTTP/1.1", f"host: 127.0.0.1:{job['port']}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in job["headers"].items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def run(job: dict) -> dict:
    """The figures of one job; milliseconds, but for `elapsed_s`."""
    tally = Tally()
    request = request_bytes(job)
    cpu_s, start_ns = process_time(), perf_counter_ns()
    tasks = [asyncio.ensure_future(user(job, request, number, tally)) for number in range(job["streams"])]
    _, late = await asyncio.wait(tasks, timeout=job["timeout_s"])
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if late:
        tally.fail(f"{len(late)} not done within {job['timeout_s']:g} s")
    elapsed_s = (max(tally.last_ns, start_ns + 1) - start_ns) / 1e9
    cpu_s = process_time() - cpu_s
    spread = {
        f"{name}_p{share * 100:g}_ms": quantile(values, share) / MS if values else None
        for name, values in (("token", tally.latencies), ("ttft", tally.firsts), ("itl", tally.gaps))
        for share in (0.5, 0.95, 0.99)
    }
    return {
        "tokens": tally.tokens,
        "wanted": job["streams"] * job["turns"] * job["tokens"],
        "complete": tally.complete,
        "failures": tally.failures,
        "elapsed_s": elapsed_s,
        "client_busy": cpu_s / elapsed_s,
        **spread,
    }


def main() -> None:
    gc.freeze()
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            print(json.dumps(runner.run(run(json.loads(line)))), flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
