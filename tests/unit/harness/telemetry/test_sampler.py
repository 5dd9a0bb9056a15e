"""What lies in `samples` when the block has ended: readings on the client's clock, from begin to end."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from harness.records import EngineMetric, TelemetrySample
from harness.telemetry import Gpu, Sampler
from tests.fakes.nvml import Card, FakeNvml

from .conftest import Start, process_with

VLLM_TEXT = Path(__file__).parent / "answers" / "vllm_0.32.txt"
GPU_FIELDS = [name for name in TelemetrySample.__struct_fields__ if name.startswith("gpu_")]


def no_gpu(environ: Mapping[str, str]) -> None:
    return None


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.perf_counter() + 30
    while not is_so():
        assert time.perf_counter() < until_s
        time.sleep(0.01)


def test_samples_reach_from_the_begin_of_the_block_to_its_end(started: Start) -> None:
    parent, _, _ = started()
    before_s = time.perf_counter()
    with Sampler([parent], every_s=0.2, gpu=no_gpu) as sampler:
        wait_until(lambda: len(sampler.samples) > 2)
        end_s = time.perf_counter()
    moments = [sample.t_s for sample in sampler.samples]
    assert moments == sorted(moments)
    assert before_s < moments[0] < moments[2] < end_s < moments[-1] < time.perf_counter()


def test_even_a_block_that_is_over_at_once_has_a_begin_and_an_end(started: Start) -> None:
    parent, _, _ = started()
    with Sampler([parent], gpu=no_gpu) as sampler:
        pass
    assert len(sampler.samples) == 2


def test_the_clock_is_the_same_in_every_process() -> None:
    """Requests are stamped in Locust's processes, samples in ours: one clock, or nothing could be joined."""
    before_s = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(repr(time.perf_counter()))"], capture_output=True, check=True
    )
    assert before_s < float(told.stdout) < time.perf_counter()


def test_the_engines_memory_and_cpu_are_those_of_its_whole_tree(started: Start) -> None:
    parent, child, _ = started(held_bytes=100 * 2**20)
    with Sampler([parent], every_s=0.2, gpu=no_gpu) as sampler:
        wait_until(lambda: any(sample.engine_cpu_ratio is not None for sample in sampler.samples))
    first, *_, last = sampler.samples
    assert {process.pid for process in last.processes} == {parent, child}
    assert last.engine_rss_bytes == sum(process.rss_bytes for process in last.processes)
    assert last.engine_rss_bytes > 100 * 2**20
    assert first.engine_cpu_ratio is None
    assert first.machine_cpu_ratio is None
    assert any(sample.machine_cpu_ratio is not None for sample in sampler.samples)


def test_without_a_gpu_and_with_an_engine_that_is_not_ours_nothing_is_zero() -> None:
    with Sampler([], gpu=no_gpu) as sampler:
        pass
    for sample in sampler.samples:
        assert {name: getattr(sample, name) for name in GPU_FIELDS} == dict.fromkeys(GPU_FIELDS) | {
            "gpu_throttle": (),
        }
        assert sample.engine_rss_bytes is None
        assert sample.engine_cpu_ratio is None
        assert sample.processes == ()
        assert sample.engine == {}


def test_the_card_is_read_into_each_sample_with_who_else_is_on_it(started: Start) -> None:
    parent, child, _ = started()
    nvml = FakeNvml(cards=[Card(uuid="GPU-1", computing=(child, 1)), Card(uuid="GPU-2", memory_used=5)])
    with Sampler([parent], gpu=lambda environ: Gpu({}, nvml=nvml)) as sampler:
        pass
    for sample in sampler.samples:
        assert sample.gpu_power_w == 312.5
        assert sample.gpu_memory_bytes == 9 * 2**30  # of the engine's card alone
        assert sample.gpu_foreign_pids == (1,)
    assert nvml.open_times == 0


def test_a_card_that_is_lost_half_way_ends_its_readings_and_nothing_else(started: Start) -> None:
    parent, _, _ = started()
    nvml = FakeNvml(cards=[Card()])
    with Sampler([parent], every_s=0.2, gpu=lambda environ: Gpu({}, nvml=nvml)) as sampler:
        wait_until(lambda: len(sampler.samples) > 0)
        nvml.lose()
        nvml.open_times = 0  # shutting down fails as well
        lost_at = len(sampler.samples)
        wait_until(lambda: len(sampler.samples) > lost_at + 1)
    first, *_, last = sampler.samples
    assert first.gpu_power_w == 312.5
    assert [getattr(last, name) for name in GPU_FIELDS if name != "gpu_throttle"] == [None] * 9
    assert last.engine_rss_bytes is not None


def test_the_cards_are_those_that_the_engine_was_started_with() -> None:
    seen = []

    def open_gpu(environ: Mapping[str, str]) -> None:
        seen.append(environ.get("CUDA_VISIBLE_DEVICES"))

    with process_with({"CUDA_VISIBLE_DEVICES": "3"}) as pid, Sampler([pid], gpu=open_gpu):
        pass
    assert seen == ["3"]


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(VLLM_TEXT.read_bytes())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


def test_the_engines_own_metrics_are_asked_for_less_often_and_at_begin_and_end(started: Start) -> None:
    parent, _, _ = started()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Sampler([parent], url=url, dialect="vllm", every_s=0.1, metrics_every_s=600, gpu=no_gpu) as sampler:
            wait_until(lambda: len(sampler.samples) > 2)
        server.shutdown()
        thread.join()
        asked = server.asked  # type: ignore[attr-defined]
    with_metrics = [bool(sample.engine) for sample in sampler.samples]
    assert with_metrics == [True, *[False] * (len(with_metrics) - 2), True]
    assert asked == ["/metrics"] * 2
    assert sampler.samples[0].engine[EngineMetric.OUTPUT_TOKENS] == 31435.0


def test_an_engine_that_has_gone_leaves_its_metrics_out(started: Start) -> None:
    parent, _, _ = started()
    with Sampler([parent], url="http://127.0.0.1:9", dialect="llamacpp", gpu=no_gpu) as sampler:
        pass
    assert [sample.engine for sample in sampler.samples] == [{}, {}]


@pytest.mark.parametrize("is_sampled", [True, False])
def test_samples_survive_the_way_to_a_file_and_back(started: Start, is_sampled: bool) -> None:
    parent, _, _ = started()
    nvml = FakeNvml(cards=[Card(computing=(parent, 1), reasons=0x20)])
    with Sampler([parent], gpu=lambda environ: Gpu({}, nvml=nvml) if is_sampled else None) as sampler:
        pass
    for sample in sampler.samples:
        assert msgspec.json.decode(msgspec.json.encode(sample), type=TelemetrySample) == sample
