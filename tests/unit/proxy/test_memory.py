"""What a model takes of memory, by vLLM's metrics and by this machine."""

import asyncio
import socket

import pytest

from proxy.errors import UpstreamUnreachable
from proxy.memory import Footprint, Memory, cache_bytes, vram_of_listener
from proxy.weights import UNKNOWN, Facts

SHAPE = Facts(block_count=2, head_count_kv=2, head_length=16, quantization="BF16")
PER_TOKEN = 2 * (2 * 2 * 16) * 2


def page(**labels: str) -> str:
    told = {
        "block_size": "16",
        "cache_dtype": "auto",
        "kv_cache_memory_bytes": "None",
        "num_gpu_blocks": "100",
    } | labels
    line = ",".join(f'{name}="{value}"' for name, value in told.items())
    return f"# HELP vllm:cache_config_info Information\nvllm:cache_config_info{{{line}}} 1.0\nvllm:other 1\n"


class Vllm:
    """A server with a metrics page."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked = 0

    async def metrics(self) -> str:
        self.asked += 1
        if self.text is None:
            raise UpstreamUnreachable
        return self.text


@pytest.mark.parametrize(
    ("text", "facts", "size"),
    [
        (page(), SHAPE, 1600 * PER_TOKEN),
        (page(cache_dtype="fp8"), SHAPE, 1600 * PER_TOKEN // 2),
        (page(engine="0") + page(engine="1"), SHAPE, 2 * 1600 * PER_TOKEN),
        (page(), UNKNOWN, 0),
        (page(kv_cache_memory_bytes="12345"), UNKNOWN, 12345),
        (page(num_gpu_blocks="None"), SHAPE, 0),
        (page(num_gpu_blocks="9" * 400), SHAPE, 0),
        ("", SHAPE, 0),
    ],
)
def test_the_cache_is_blocks_times_what_a_token_leaves(text: str, facts: Facts, size: int) -> None:
    assert cache_bytes(text, facts) == size


OURS = 1_000 + 1600 * PER_TOKEN


@pytest.mark.parametrize(
    ("device_bytes", "footprint"), [(None, Footprint(OURS, OURS)), (0, Footprint(OURS, 0)), (77, Footprint(77, 77))]
)
def test_the_drivers_figure_goes_before_ours(device_bytes: int | None, footprint: Footprint) -> None:
    memory = Memory(device_bytes=lambda _: device_bytes)
    assert asyncio.run(memory.footprint(Vllm(page()), url="u", weights_bytes=1_000, facts=SHAPE)) == footprint


def test_a_page_is_kept_for_a_while_and_outlives_the_server() -> None:
    now_s = 0.0
    memory = Memory(device_bytes=lambda _: None, now_s=lambda: now_s)
    server = Vllm(page())

    def size() -> int:
        return asyncio.run(memory.footprint(server, url="u", weights_bytes=0, facts=SHAPE)).size

    assert size() == size() == 1600 * PER_TOKEN
    assert server.asked == 1
    server.text = None
    now_s = 100.0
    assert size() == 1600 * PER_TOKEN
    assert server.asked == 2


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000", "http://example.org:8000"])
def test_a_server_elsewhere_cannot_be_looked_into(url: str) -> None:
    assert vram_of_listener(url) is None


def test_a_listener_that_uses_no_gpu_has_none_or_cannot_be_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert vram_of_listener(f"http://127.0.0.1:{listener.getsockname()[1]}") in (0, None)
