"""Readings of the engine's processes and the GPU, on the client's clock; the one file that knows NVML and psutil."""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import psutil
import pynvml

from harness.records import Host, TelemetrySample


class Gpu:
    """The card that engines will use; a context manager, because NVML must be shut down."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(visible_index(os.environ.get("CUDA_VISIBLE_DEVICES", "")))

    def __enter__(self) -> "Gpu":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pynvml.nvmlShutdown()

    @property
    def name(self) -> str:
        """As the driver names it, for example "NVIDIA GeForce RTX 4090"."""
        return str(pynvml.nvmlDeviceGetName(self._handle))

    @property
    def driver(self) -> str:
        """Version of the driver."""
        return str(pynvml.nvmlSystemGetDriverVersion())

    def memory_used_bytes(self) -> int:
        """Of all programs on the card."""
        return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def process_ids(self) -> tuple[int, ...]:
        """Programs that compute on the card."""
        return tuple(int(p.pid) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle))

    def reading(self) -> dict[str, int | float | None]:
        """The GPU fields of a TelemetrySample; None for what this card does not report."""

        def read(ask: object, *args: object, scale: float = 1.0) -> float | None:
            try:
                return float(ask(self._handle, *args)) * scale  # type: ignore[operator]
            except pynvml.NVMLError:
                return None

        try:
            memory_bytes: int | None = self.memory_used_bytes()
        except pynvml.NVMLError:
            memory_bytes = None
        return {
            "gpu_memory_bytes": memory_bytes,
            "gpu_power_w": read(pynvml.nvmlDeviceGetPowerUsage, scale=1e-3),
            "gpu_temperature_c": read(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            "gpu_clock_hz": read(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM, scale=1e6),
        }


def visible_index(cuda_visible_devices: str) -> int:
    """Index of the first card that CUDA_VISIBLE_DEVICES lets a program use; 0 where it does not name one by number."""
    first = cuda_visible_devices.split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def strangers_note() -> str:
    """What other programs take of the card before anything of ours is started; empty where none does."""
    gpu = open_gpu()
    if gpu is None:
        return ""
    with gpu:
        programs, used_bytes = gpu.process_ids(), gpu.memory_used_bytes()
    if not programs:
        return ""
    return (
        f"Other programs were on the card when this began (process ids {', '.join(map(str, programs))}, "
        f"{used_bytes / 2**30:.1f} GiB in use): the figures are of a shared card."
    )


def open_gpu() -> Gpu | None:
    """The machine's card. None: NVML sees none."""
    try:
        return Gpu()
    except pynvml.NVMLError:
        return None


def host() -> Host:
    """The machine, as far as it bears on the figures."""
    gpu_name, driver = None, None
    gpu = open_gpu()
    if gpu is not None:
        with gpu:
            gpu_name, driver = gpu.name, gpu.driver
    return Host(
        cpu=cpu_name(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=gpu_name,
        gpu_driver=driver,
    )


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123  a device file
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def busy_cpu_ratio(*, over_s: float = 0.5) -> float:
    """Share of all cores in use during `over_s` seconds, 0–1: what strangers take before we start."""
    return psutil.cpu_percent(interval=over_s) / 100


class Sampler:
    """Samples a process tree and the card in a thread, between `with` and its end; then `samples` holds them."""

    def __init__(self, pid: int | None, *, every_s: float = 0.5) -> None:
        self.samples: list[TelemetrySample] = []
        self._pid, self._every_s = pid, every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="telemetry")

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            gpu = open_gpu()
            if gpu is not None:
                stack.enter_context(gpu)
            before: tuple[float, float] | None = None
            while not self._done.is_set():
                now, cpu_s, rss = time.perf_counter(), 0.0, 0
                for process in tree(self._pid):
                    with contextlib.suppress(psutil.Error):
                        times = process.cpu_times()
                        cpu_s += times.user + times.system
                        rss += process.memory_info().rss
                ratio = None if before is None else max(cpu_s - before[1], 0.0) / (now - before[0])
                before = (now, cpu_s)
                fields = gpu.reading() if gpu is not None else {}
                self.samples.append(
                    TelemetrySample(t_s=now, engine_rss_bytes=rss, engine_cpu_ratio=ratio, **fields)  # type: ignore[arg-type]
                )
                self._done.wait(self._every_s)


def tree(pid: int | None) -> Iterator[psutil.Process]:
    """The process and all below it; nothing for None or a process that has ended."""
    if pid is None:
        return
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        yield top
        yield from top.children(recursive=True)
