"""What a served model takes of memory: its weights and vLLM's KV cache, or what the GPU's driver counts."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
import psutil

from proxy.errors import OllamaError
from proxy.guard import is_loopback
from proxy.weights import Facts

CACHE_S: Final = 30.0
"""How long the size of the KV cache is believed; vLLM fixes it at its start."""

DEVICE_S: Final = 10.0

_CONFIG = re.compile(r"^vllm:cache_config_info\{([^\n}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Footprint(msgspec.Struct, frozen=True):
    """Bytes as /api/ps has them."""

    size: int
    size_vram: int


class Measured(Protocol):
    """What is asked of a server."""

    async def metrics(self) -> str: ...


class Memory:
    """Footprints of models, with what was found out about their servers kept for a while."""

    def __init__(
        self,
        *,
        device_bytes: Callable[[str], int | None] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device_bytes = device_bytes or vram_of_listener
        self._now_s = now_s
        self._pages: dict[str, tuple[float, str]] = {}
        self._devices: dict[str, tuple[float, int | None]] = {}

    async def footprint(self, upstream: Measured, *, url: str, weights_bytes: int, facts: Facts) -> Footprint:
        """The driver's figure where it is known; else weights and KV cache, on a GPU unless there is none."""
        device_bytes = await self._device(url)
        if device_bytes:
            return Footprint(device_bytes, device_bytes)
        total = weights_bytes + cache_bytes(await self._page(upstream, url), facts)
        return Footprint(total, 0 if device_bytes == 0 else total)

    async def _page(self, upstream: Measured, url: str) -> str:
        known = self._pages.get(url)
        if known is None or self._now_s() - known[0] > CACHE_S:
            try:
                page = await upstream.metrics()
            except OllamaError:
                page = known[1] if known else ""
            known = self._pages[url] = (self._now_s(), page)
        return known[1]

    async def _device(self, url: str) -> int | None:
        known = self._devices.get(url)
        if known is None or self._now_s() - known[0] > DEVICE_S:
            known = self._devices[url] = (self._now_s(), await asyncio.to_thread(self._device_bytes, url))
        return known[1]


def cache_bytes(metrics: str, facts: Facts) -> int:
    """The KV caches that vLLM has set aside, over all its engines; 0 where it cannot be told."""
    total = 0
    for line in _CONFIG.finditer(metrics):
        labels = dict(_LABEL.findall(line[1]))
        per_token = facts.cache_bytes_per_token(labels.get("cache_dtype", "auto"))
        blocks, block_size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
        if per_token is not None and _is_count(blocks) and _is_count(block_size):
            total += int(blocks) * int(block_size) * per_token
        elif _is_count(bytes_told := labels.get("kv_cache_memory_bytes", "")):
            total += int(bytes_told)
    return total


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 18


# ---------------------------------------------------------------- this machine


def vram_of_listener(url: str) -> int | None:
    """GPU memory of the process that listens on this machine at `url`, and of its children.

    0: this machine has no accelerator. None: it cannot be told, as for a server elsewhere or in a container.
    """
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return None
    used = _used_by_process()
    if used is None:
        return None if _has_accelerator() else 0
    return sum(used.get(pid, 0) for pid in _family(parts.port or 80)) or None


def _has_accelerator() -> bool:
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/accel", "/dev/dxg")) or any(
        Path("/dev/dri").glob("renderD*")
    )


def _family(port: int) -> set[int]:
    """Ids of the process that listens on `port` and of all it started."""
    try:
        listeners = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        }
        return {
            member.pid
            for pid in listeners
            if pid
            for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        }
    except (psutil.Error, OSError):
        return set()


def _used_by_process() -> dict[int, int] | None:
    """Bytes of GPU memory by process; None: there is no NVIDIA driver, or no Python package that asks it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    used: dict[int, int] = {}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(card):
                used[process.pid] = used.get(process.pid, 0) + (process.usedGpuMemory or 0)
    except pynvml.NVMLError:
        return used
    finally:
        pynvml.nvmlShutdown()
    return used
