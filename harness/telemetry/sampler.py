"""The thread that reads while the load runs."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final

import msgspec

from harness.records import ProcessReading, TelemetrySample
from harness.telemetry.gpu import Gpu, open_gpu
from harness.telemetry.metrics import Scraper
from harness.telemetry.processes import MachineCpu, ProcessReader, environment

SAMPLE_EVERY_S: Final = 0.5
METRICS_EVERY_S: Final = 2.0
"""vLLM's own server writes the answer: 5 to 14 ms of it on a slow core, so under 1 % of one core at this interval."""
STOP_WITHIN_S: Final = 10.0


class Sampler:
    """Samples an engine's processes, the machine, the cards and the engine's metrics; then `samples` holds them.

    The first sample is taken at the begin of the `with` block and the last one at its end, so that counters are known
    on both sides of whatever was measured within. No `pids`: an engine that is not ours, its processes are unknown.
    The engine's metrics are read over `url` where `dialect` is "vllm" or "llamacpp".
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        url: str = "",
        dialect: str = "",
        every_s: float = SAMPLE_EVERY_S,
        metrics_every_s: float = METRICS_EVERY_S,
        gpu: Callable[[Mapping[str, str]], Gpu | None] = open_gpu,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.samples: list[TelemetrySample] = []
        self._pids, self._url, self._dialect = tuple(pids), url, dialect
        self._every_s, self._metrics_every_s = every_s, metrics_every_s
        self._open_gpu, self._clock = gpu, clock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="telemetry")

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join(STOP_WITHIN_S)  # a driver that hangs must not hang the run

    def _run(self) -> None:
        processes, machine = ProcessReader(self._pids), MachineCpu()
        with contextlib.ExitStack() as stack:
            gpu = self._open_gpu(environment(self._pids) or os.environ)
            if gpu is not None:
                stack.enter_context(gpu)
                gpu.keep_cards_of([reading.pid for reading in processes.read()])
            scraper = stack.enter_context(Scraper(self._url, dialect=self._dialect))
            due_s = metrics_due_s = self._clock()
            is_last = False
            while True:
                now_s = self._clock()
                is_scraped = is_last or due_s >= metrics_due_s
                if is_scraped:
                    metrics_due_s = due_s + self._metrics_every_s
                seen = sample(now_s, processes, machine, gpu)
                engine = scraper.read() if is_scraped else {}  # last, because it may take a while
                self.samples.append(msgspec.structs.replace(seen, engine=engine))
                if is_last:
                    return
                due_s = max(due_s + self._every_s, self._clock())
                is_last = self._done.wait(due_s - self._clock())


def sample(now_s: float, processes: ProcessReader, machine: MachineCpu, gpu: Gpu | None) -> TelemetrySample:
    """One look at everything but the engine's own metrics."""
    known = processes.read()
    cards = {} if gpu is None else gpu.reading()
    if gpu is not None:
        cards["gpu_foreign_pids"] = gpu.foreign_pids([process.pid for process in known])
    return TelemetrySample(
        t_s=now_s,
        engine_rss_bytes=sum(process.rss_bytes for process in known) if known else None,
        engine_cpu_ratio=engine_cpu_ratio(known),
        processes=known,
        machine_cpu_ratio=machine.busy_ratio(),
        **cards,
    )


def engine_cpu_ratio(processes: tuple[ProcessReading, ...]) -> float | None:
    """Of all processes that were there at the sample before. None: there was none."""
    known = [process.cpu_ratio for process in processes if process.cpu_ratio is not None]
    return sum(known) if known else None
