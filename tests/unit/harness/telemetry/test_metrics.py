"""What vLLM and llama.cpp say of themselves; answers/ was recorded from them under load, and shortened."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import EngineMetric
from harness.telemetry.metrics import LLAMACPP, VLLM, Scraper, metrics

ANSWERS = Path(__file__).parent / "answers"
VLLM_TEXT = (ANSWERS / "vllm_0.32.txt").read_text(encoding="utf-8")
LLAMACPP_TEXT = (ANSWERS / "llamacpp.txt").read_text(encoding="utf-8")


# ---------------------------------------------------------------- reading a text


def test_vllm_tells_all_of_them() -> None:
    assert metrics(VLLM_TEXT, dialect="vllm") == {
        EngineMetric.RUNNING: 6.0,
        EngineMetric.WAITING: 0.0,
        EngineMetric.KV_USED_RATIO: 0.024793388429752095,
        EngineMetric.PREEMPTIONS: 0.0,
        EngineMetric.PREFIX_QUERIES: 12322.0,
        EngineMetric.PREFIX_HITS: 4224.0,
        EngineMetric.PROMPT_TOKENS: 12322.0,
        EngineMetric.OUTPUT_TOKENS: 31435.0,
    }


def test_llamacpp_tells_of_no_preemptions_and_no_cache_share_and_counts_cached_prompt_tokens_apart() -> None:
    assert metrics(LLAMACPP_TEXT, dialect="llamacpp") == {
        EngineMetric.RUNNING: 2.0,
        EngineMetric.WAITING: 1.0,
        EngineMetric.PREFIX_QUERIES: 498.0 + 216.0,
        EngineMetric.PREFIX_HITS: 216.0,
        EngineMetric.PROMPT_TOKENS: 498.0 + 216.0,
        EngineMetric.OUTPUT_TOKENS: 482.0,
    }


def test_older_versions_of_vllm_name_the_cache_after_the_gpu() -> None:
    older = VLLM_TEXT.replace("vllm:kv_cache", "vllm:gpu_cache").replace("vllm:prefix_cache", "vllm:gpu_prefix_cache")
    assert metrics(older, dialect="vllm") == metrics(VLLM_TEXT, dialect="vllm")


def test_a_version_that_has_both_names_is_not_counted_twice() -> None:
    both = VLLM_TEXT + "\n".join(
        line.replace("vllm:prefix_cache", "vllm:gpu_prefix_cache")
        for line in VLLM_TEXT.splitlines()
        if line.startswith("vllm:prefix_cache")
    )
    assert metrics(both, dialect="vllm") == metrics(VLLM_TEXT, dialect="vllm")


def test_older_versions_of_llamacpp_tell_the_share_of_the_cache_and_nothing_of_hits() -> None:
    older = "".join(line for line in LLAMACPP_TEXT.splitlines(keepends=True) if "cached" not in line)
    seen = metrics(older + "llamacpp:kv_cache_usage_ratio 0.25\n", dialect="llamacpp")
    assert seen[EngineMetric.KV_USED_RATIO] == 0.25
    assert seen[EngineMetric.PROMPT_TOKENS] == 498.0
    assert EngineMetric.PREFIX_QUERIES not in seen
    assert EngineMetric.PREFIX_HITS not in seen


def test_engines_behind_one_server_are_added_up_and_the_fullest_cache_counts() -> None:
    second = VLLM_TEXT.replace('engine="0"', 'engine="1"')
    second = second.replace("0.024793388429752095", "0.75")
    lines = [line for line in second.splitlines() if not line.startswith("#")]
    seen, alone = metrics(VLLM_TEXT + "\n".join(lines), dialect="vllm"), metrics(VLLM_TEXT, dialect="vllm")
    assert seen[EngineMetric.OUTPUT_TOKENS] == 2 * alone[EngineMetric.OUTPUT_TOKENS]
    assert seen[EngineMetric.RUNNING] == 12.0
    assert seen[EngineMetric.KV_USED_RATIO] == 0.75


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_a_value_that_is_no_number_is_not_known(value: str) -> None:
    assert metrics(f"llamacpp:requests_processing {value}\n", dialect="llamacpp") == {}


def test_names_that_only_begin_alike_are_other_metrics() -> None:
    text = 'vllm:num_requests_waiting_by_reason{reason="capacity"} 3\nvllm:prompt_tokens_total_bytes 9\n'
    assert metrics(text, dialect="vllm") == {}


@given(text=st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        seen = metrics(f"{text}\nllamacpp:requests_deferred {text}", dialect="llamacpp")
    except ValueError:
        return
    assert set(seen) <= {metric.value for metric in LLAMACPP}


def test_every_metric_has_its_place_in_vllm() -> None:
    assert set(VLLM) == set(EngineMetric)


# ---------------------------------------------------------------- over HTTP


class Metrics(ThreadingHTTPServer):
    """Answers any GET with `text` and `status`, once `gate` is open."""

    daemon_threads = True

    def __init__(self) -> None:
        self.text, self.status, self.paths = VLLM_TEXT, 200, list[str]()
        self.gate = Event()
        self.gate.set()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Metrics

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.gate.wait(20)
        body = self.server.text.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


@contextmanager
def serving() -> Iterator[Metrics]:
    with Metrics() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.gate.set()
            server.shutdown()
            thread.join()


def test_a_running_engine_is_asked_at_its_own_address() -> None:
    with serving() as server, Scraper(server.url, dialect="vllm") as scraper:
        assert scraper.read()[EngineMetric.RUNNING] == 6.0
        server.text = VLLM_TEXT.replace("} 6.0", "} 2.0")
        assert scraper.read()[EngineMetric.RUNNING] == 2.0
        assert server.paths == ["/metrics", "/metrics"]


@pytest.mark.parametrize("dialect", ["ollama", "plain", ""])
def test_an_engine_without_metrics_is_not_asked(dialect: str) -> None:
    with serving() as server, Scraper(server.url, dialect=dialect) as scraper:
        assert scraper.read() == {}
        assert server.paths == []


@pytest.mark.parametrize("status", [401, 404, 500, 501, 307])
def test_a_refusal_gives_no_figures(status: int) -> None:
    with serving() as server, Scraper(server.url, dialect="vllm") as scraper:
        server.status = status
        assert scraper.read() == {}


def test_an_answer_that_is_no_metrics_gives_no_figures() -> None:
    with serving() as server, Scraper(server.url, dialect="vllm") as scraper:
        server.text = 'vllm:num_requests_running{engine="0 is not closed'
        assert scraper.read() == {}


def test_an_answer_that_comes_too_late_gives_no_figures_and_the_next_one_does() -> None:
    with serving() as server, Scraper(server.url, dialect="vllm", timeout_s=1.0) as scraper:
        server.gate.clear()
        assert scraper.read() == {}
        server.gate.set()
        assert scraper.read()[EngineMetric.RUNNING] == 6.0


def test_a_server_that_is_gone_gives_no_figures() -> None:
    with serving() as server:
        url = server.url
    with Scraper(url, dialect="vllm") as scraper:
        assert scraper.read() == {}
