"""The machine that is measured on, and who else is on it."""

import contextlib
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from harness.records import Host
from harness.telemetry.gpu import Gpu, open_gpu


def host(*, find_gpu: Callable[[], Gpu | None] = open_gpu) -> Host:
    """The machine, as far as it bears on the figures."""
    machine = Host(
        cpu=cpu_name(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
    gpu = find_gpu()
    if gpu is None:
        return machine
    with gpu:
        return msgspec.structs.replace(
            machine,
            gpu=gpu.name,
            gpu_id=gpu.id,
            gpu_driver=gpu.driver,
            gpu_memory_bytes=gpu.memory_bytes,
            gpu_power_limit_w=gpu.power_limit_w,
            gpu_default_power_limit_w=gpu.default_power_limit_w,
        )


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def strangers_note(*, find_gpu: Callable[[], Gpu | None] = open_gpu) -> str:
    """What other programs take of the card before anything of ours is started; empty where none does."""
    gpu = find_gpu()
    if gpu is None:
        return ""
    with gpu:
        programs, used_bytes = gpu.process_ids(), gpu.memory_used_bytes()
    if not programs:
        return ""
    used = "" if used_bytes is None else f", {used_bytes / 2**30:.1f} GiB in use"
    return (
        f"Other programs were on the card when this began (process ids {', '.join(map(str, programs))}{used}): "
        "the figures are of a shared card."
    )
