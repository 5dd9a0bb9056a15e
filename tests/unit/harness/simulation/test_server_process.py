"""The simulated vLLM as a process that the harness starts in vLLM's place: what it answers, how it fails and ends."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import engines
from harness.engines import Engine, failure
from harness.engines.process import free_port
from harness.errors import (
    EngineBadFlag,
    EngineContextTooLong,
    EngineError,
    EngineOutOfMemory,
    EnginePortTaken,
)
from harness.records import CrashRegion, EngineMetric, LaunchSpec, Simulation
from harness.simulation.server.options import Options
from harness.simulation.server.standin import stand_in
from harness.telemetry.metrics import metrics

Even = Callable[..., Simulation]
MODEL = "qwen2.5-1.5b"
CRASH = CrashRegion(
    flags={"max-num-seqs": 4},
    users=3,
    log_text="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of "
    "23.60 GiB of which 12.00 MiB is free.",
)
SPEED = 4.0
LONG = 30_000
"""Tokens of an answer that nobody waits for: over 20 seconds."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which flags it knows is asked once for all tests of this process, and not written to the user's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def launched(tmp_path: Path, even: Even) -> Callable[..., Any]:
    """A launch as the harness launches a vLLM, of a start that takes no time."""

    def launch(flags: dict[str, Any] | None = None, *, speed: float = SPEED, **more: Any) -> Any:
        simulation = even(**more) if "gpu" in more or "crashes" in more else even()
        python = stand_in(Options(simulation=simulation, speed=speed, launch_speed=1e4), tmp_path / "vllm")
        spec = LaunchSpec(engine="vllm", model=MODEL, source="hub/model", program=str(python), flags=flags or {})
        return engines.launched(spec, log=tmp_path / "engine.log")

    return launch


def client(engine: Engine) -> httpx.Client:
    return httpx.Client(base_url=engine.url, timeout=60, trust_env=False)


def body(tokens: int, *, is_streamed: bool = True, text: str = "hello there", **more: Any) -> dict[str, Any]:
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
    asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True}
    return asked | streamed | more


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def read_metrics(http: httpx.Client) -> dict[str, float]:
    return metrics(http.get("/metrics").text, dialect="vllm")


def until(is_so: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


# ---------------------------------------------------------------- what it answers


def test_it_is_launched_as_vllm_and_taken_for_what_it_is(launched: Callable[..., Any], tmp_path: Path) -> None:
    flags = {"max-num-batched-tokens": 1024, "max-model-len": 2048, "enforce-eager": True}
    with launched(flags) as engine, client(engine) as http:
        assert engine.title == "simulated vLLM 0.32.0"
        assert engine.version == "0.32.0+simulated.rtx4090.x4"
        assert engine.is_simulated
        assert engine.facts(role="bench", precision="bf16", flags=flags).is_simulated
        tokens = engine.resolved.pop("kv-cache-tokens")
        assert isinstance(tokens, int)
        assert tokens > 100_000
        assert engine.resolved == {
            "max-num-batched-tokens": 1024,
            "max-num-seqs": 256,
            "max-model-len": 2048,
            "dtype": "bfloat16",
            "enforce-eager": True,
            "kv-cache-dtype": "auto",
            "enable-prefix-caching": True,
            "enable-chunked-prefill": True,
        }
        card = http.get("/v1/models").json()["data"][0]
        assert (card["id"], card["owned_by"], card["max_model_len"]) == (MODEL, "vllm", 2048)
        assert http.get("/version").json() == {"version": engine.version}
        attached = LaunchSpec(engine="url", model=MODEL, source=MODEL, url=engine.url)
        with engines.launched(attached, log=tmp_path / "none.log") as found:
            assert found.is_simulated
            assert found.dialect == "vllm"
            assert "simulated" in found.title
    log = (tmp_path / "engine.log").read_text()
    assert "SIMULATED: no engine runs and no card is used" in log
    assert "Maximum concurrency for 2,048 tokens per request" in log
    assert "Application startup complete." in log


def test_answers_have_exact_lengths(launched: Callable[..., Any]) -> None:
    with launched() as engine, client(engine) as http:
        with http.stream("POST", "/v1/chat/completions", json=body(40)) as answer:
            found = events(answer)
        first, *pieces, usage = found
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert len(pieces) == 40
        text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
        assert len(text.split()) == 40
        assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * 39 + ["length"]
        assert usage["choices"] == []
        assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47}
        whole = http.post("/v1/chat/completions", json=body(40, is_streamed=False)).json()
        assert whole["choices"][0]["message"]["content"] == text
        assert whole["usage"] == usage["usage"]
        asked = {"model": MODEL, "prompt": "one two three", "stream": True, "max_tokens": 9}
        with http.stream("POST", "/v1/completions", json=asked) as answer:
            pieces = events(answer)
        assert sum(len(piece["choices"][0]["text"].split()) for piece in pieces) == 9
        assert all("usage" not in piece for piece in pieces)
        seen = read_metrics(http)
        assert seen[EngineMetric.OUTPUT_TOKENS] == 40 + 40 + 9
        assert seen[EngineMetric.PROMPT_TOKENS] == 7 + 7 + 3


def test_a_stream_interval_joins_tokens_and_loses_none(launched: Callable[..., Any]) -> None:
    with launched({"stream-interval": 8}) as engine, client(engine) as http:
        with http.stream("POST", "/v1/chat/completions", json=body(20)) as answer:
            _, *pieces, usage = events(answer)
        lengths = [len(piece["choices"][0]["delta"]["content"].split()) for piece in pieces]
        assert lengths == [1, 8, 8, 3]
        assert usage["usage"]["completion_tokens"] == 20


def test_requests_are_refused_with_vllms_status_and_words(launched: Callable[..., Any]) -> None:
    with launched({"max-model-len": 256}) as engine, client(engine) as http:
        long = http.post("/v1/chat/completions", json=body(9, text="word " * 300))
        assert long.status_code == 400
        assert "This model's maximum context length is 256 tokens." in long.json()["error"]["message"]
        other = http.post("/v1/chat/completions", json=body(9, model="other"))
        assert (other.status_code, other.json()["error"]["type"]) == (404, "NotFoundError")
        broken = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 400
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.get("/nothing").status_code == 404


def test_a_client_that_leaves_frees_its_blocks(launched: Callable[..., Any]) -> None:
    with launched() as engine, client(engine) as http:
        with (
            http.stream("POST", "/v1/chat/completions", json=body(LONG)) as one,
            http.stream("POST", "/v1/chat/completions", json=body(LONG)) as other,
        ):
            assert one.status_code == other.status_code == 200
            until(lambda: read_metrics(http)[EngineMetric.RUNNING] == 2)
            assert read_metrics(http)[EngineMetric.KV_USED_RATIO] > 0
        until(lambda: read_metrics(http)[EngineMetric.RUNNING] == 0)
        seen = read_metrics(http)
        assert seen[EngineMetric.KV_USED_RATIO] == seen[EngineMetric.WAITING] == 0
        assert seen[EngineMetric.OUTPUT_TOKENS] < 2 * LONG


def test_what_waits_is_counted_and_its_leaving_too(launched: Callable[..., Any]) -> None:
    with (
        launched({"max-num-seqs": 1}) as engine,
        client(engine) as http,
        http.stream("POST", "/v1/chat/completions", json=body(LONG)),
    ):
        with sent(engine.url, body(5)):
            until(lambda: read_metrics(http)[EngineMetric.WAITING] == 1)
        until(lambda: read_metrics(http)[EngineMetric.WAITING] == 0)
        assert read_metrics(http)[EngineMetric.RUNNING] == 1


def sent(url: str, asked: dict[str, Any]) -> socket.socket:
    """A request on its way, whose answer nobody reads yet."""
    address = httpx.URL(url)
    content = json.dumps(asked).encode()
    found = socket.create_connection((address.host, address.port), timeout=60)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    found.sendall(head.encode() + content)
    return found


def test_preempted_answers_are_counted_and_come_whole(launched: Callable[..., Any]) -> None:
    """A cache of 640 tokens for three answers of 490; they begin within a second of each other, and last for three."""
    flags = {"max-model-len": 512, "kv-cache-memory-bytes": 40 * 16 * 28672}
    with launched(flags, speed=0.5) as engine, client(engine) as http, contextlib.ExitStack() as stack:
        asked = [body(490, is_streamed=False, text=text) for text in ("one", "two", "three")]
        connections = [stack.enter_context(sent(engine.url, one)) for one in asked]
        for connection in connections:
            answer = b"".join(iter(lambda: connection.recv(65536), b""))  # noqa: B023 - it is read at once
            told = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert told["usage"]["completion_tokens"] == 490
            assert len(told["choices"][0]["message"]["content"].split()) == 490
        seen = read_metrics(http)
        assert seen[EngineMetric.PREEMPTIONS] > 0
        assert seen[EngineMetric.OUTPUT_TOKENS] == 3 * 490
        assert seen[EngineMetric.RUNNING] == seen[EngineMetric.KV_USED_RATIO] == 0


def test_the_prefix_cache_is_used_and_forgets_on_demand(launched: Callable[..., Any]) -> None:
    with launched() as engine, client(engine) as http:
        asked = body(2, is_streamed=False, text="word " * 200)
        hits = []
        for is_reset in (False, False, True):
            if is_reset:
                assert http.post("/reset_prefix_cache").status_code == 200
            http.post("/v1/chat/completions", json=asked)
            hits.append(read_metrics(http)[EngineMetric.PREFIX_HITS])
        assert hits == [0, 192, 192]


# ---------------------------------------------------------------- how it fails


@pytest.mark.parametrize(
    ("flags", "more", "kind", "said"),
    [
        ({"kv-cache-dtype": "fp99"}, {}, EngineBadFlag, "invalid choice: 'fp99'"),
        ({"max-num-seqs": 4096}, {}, EngineBadFlag, "must be greater than or equal to max_num_seqs"),
        ({"gpu-memory-utilization": 1.5}, {}, EngineBadFlag, "gpu_memory_utilization"),
        ({"max-model-len": 999_999}, {}, EngineContextTooLong, "asked for a context of 999999"),
        ({"kv-cache-memory-bytes": 40 * 16 * 28672}, {}, EngineContextTooLong, "needs 0.88 GiB of KV cache"),
        ({"gpu-memory-utilization": 0.1}, {}, EngineOutOfMemory, "no memory left for the KV cache"),
        ({}, {"gpu": "rtx4060", "model": "llama-3.1-8b"}, EngineOutOfMemory, "ran out of memory"),
    ],
)
def test_a_start_that_fails_is_told_as_that_of_vllm(
    launched: Callable[..., Any], flags: dict[str, Any], more: dict[str, Any], kind: type[EngineError], said: str
) -> None:
    with pytest.raises(EngineError, match="simulated vLLM") as caught, launched(flags, **more):
        pass
    assert type(caught.value) is kind
    assert said in caught.value.message
    if isinstance(caught.value, EngineContextTooLong) and "kv-cache-memory-bytes" in flags:
        assert caught.value.fits == 640


@contextlib.contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[str]]:
    own = ["--gpu", "rtx4090", "--model-shape", MODEL, "--speed", "10"]
    argv = [sys.executable, "-m", "harness.simulation.server", *own, *words]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_unknown_flag_and_a_taken_port_end_the_program_as_vllm_ends() -> None:
    with program("--max-num-sequences", "8") as process:
        _, log = process.communicate(timeout=60)
        assert process.returncode == 2
        assert isinstance(failure("it", log, returncode=2), EngineBadFlag)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with program("--port", str(stranger.getsockname()[1])) as process:
            _, log = process.communicate(timeout=60)
            assert process.returncode == 1
            assert isinstance(failure("it", log, returncode=1), EnginePortTaken)


@pytest.mark.parametrize("is_ready", [False, True])
def test_sigterm_ends_it_at_once_while_it_starts_and_while_it_answers(is_ready: bool) -> None:
    port = free_port()
    with program("--port", str(port), "--launch-speed", "1000" if is_ready else "0.001") as process:
        assert process.stderr is not None
        last = "Application startup complete" if is_ready else "non-default args"
        while last not in (line := process.stderr.readline()):
            assert line
        if is_ready:
            with (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http,
                http.stream("POST", "/v1/chat/completions", json=body(LONG, model=None)) as answer,
            ):
                assert answer.status_code == 200
                process.terminate()
                assert process.wait(timeout=30) == 0
        else:
            process.terminate()
            assert process.wait(timeout=30) == -signal.SIGTERM


def test_an_engine_that_dies_under_load_says_so_to_its_clients_and_in_its_log(launched: Callable[..., Any]) -> None:
    with launched(crashes=(CRASH,)) as engine, client(engine) as http:
        with (
            http.stream("POST", "/v1/chat/completions", json=body(LONG)) as one,
            http.stream("POST", "/v1/chat/completions", json=body(LONG)),
        ):
            last = http.post("/v1/chat/completions", json=body(9, is_streamed=False))
            assert last.status_code == 500
            assert last.json()["error"]["type"] == "InternalServerError"
            assert "EngineCore encountered an issue" in events(one)[-1]["error"]["message"]
        until(lambda: has_died(engine))
        with pytest.raises(EngineOutOfMemory, match=r"asked for 0\.25 GiB"):
            engine.check()


def has_died(engine: Engine) -> bool:
    return engine.process is not None and engine.process.returncode is not None
