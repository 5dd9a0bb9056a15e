"""What engines say of themselves: the `/metrics` of vLLM and llama.cpp, in Prometheus' text form. Ollama has none.

vLLM's counters grow with each step. llama.cpp counts a prompt when it is read and an answer when it has ended.
"""

import contextlib
import math
from collections import defaultdict
from types import TracebackType
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness.records import EngineMetric

TIMEOUT_S: Final = 1.0

Sources = dict[EngineMetric, tuple[tuple[str, ...], ...]]
"""Where a metric stands: the first line of names that are all there, added up."""

VLLM: Final[Sources] = {
    EngineMetric.RUNNING: (("vllm:num_requests_running",),),
    EngineMetric.WAITING: (("vllm:num_requests_waiting",),),
    EngineMetric.KV_USED_RATIO: (("vllm:kv_cache_usage_perc",), ("vllm:gpu_cache_usage_perc",)),
    EngineMetric.PREEMPTIONS: (("vllm:num_preemptions_total",),),
    EngineMetric.PREFIX_QUERIES: (("vllm:prefix_cache_queries_total",), ("vllm:gpu_prefix_cache_queries_total",)),
    EngineMetric.PREFIX_HITS: (("vllm:prefix_cache_hits_total",), ("vllm:gpu_prefix_cache_hits_total",)),
    EngineMetric.PROMPT_TOKENS: (("vllm:prompt_tokens_total",),),
    EngineMetric.OUTPUT_TOKENS: (("vllm:generation_tokens_total",),),
}
# llama.cpp's prompt_tokens_total leaves out what came from the cache, vLLM's does not.
LLAMACPP: Final[Sources] = {
    EngineMetric.RUNNING: (("llamacpp:requests_processing",),),
    EngineMetric.WAITING: (("llamacpp:requests_deferred",),),
    EngineMetric.KV_USED_RATIO: (("llamacpp:kv_cache_usage_ratio",),),
    EngineMetric.PREFIX_QUERIES: (("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),),
    EngineMetric.PREFIX_HITS: (("llamacpp:prompt_tokens_cached_total",),),
    EngineMetric.PROMPT_TOKENS: (
        ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        ("llamacpp:prompt_tokens_total",),
    ),
    EngineMetric.OUTPUT_TOKENS: (("llamacpp:tokens_predicted_total",),),
}
SOURCES: Final = {"vllm": VLLM, "llamacpp": LLAMACPP}


def metrics(text: str, *, dialect: str) -> dict[str, float]:
    """The engine's own figures by `EngineMetric`; what the text does not hold is left out.

    Figures of several engines behind one server are added up; of the shares of their KV caches the largest counts.
    Raises: ValueError: it is no such text.
    """
    sources = SOURCES[dialect]
    names = {name for lines in sources.values() for line in lines for name in line}
    found: dict[str, list[float]] = defaultdict(list)
    # Of some 500 lines a dozen are wanted; to parse only these takes a tenth of the time.
    wanted = [line for line in text.splitlines() if line.startswith(tuple(names))]
    for family in text_string_to_metric_families("\n".join([*wanted, ""])):
        for sample in family.samples:
            if sample.name in names and math.isfinite(sample.value):
                found[sample.name].append(sample.value)
    out: dict[str, float] = {}
    for metric, lines in sources.items():
        line = next((line for line in lines if all(name in found for name in line)), None)
        if line is not None:
            values = [value for name in line for value in found[name]]
            out[metric.value] = max(values) if metric is EngineMetric.KV_USED_RATIO else sum(values)
    return out


class Scraper:
    """Asks one engine for its metrics, over one connection; a context manager."""

    def __init__(self, url: str, *, dialect: str, timeout_s: float = TIMEOUT_S) -> None:
        self._dialect = dialect if url else ""
        # A proxy from the environment must not stand between us and the engine.
        self._http = httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> "Scraper":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def read(self) -> dict[str, float]:
        """What the engine says now; empty where it has no metrics, or did not give them in time."""
        if self._dialect not in SOURCES:
            return {}
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answer = self._http.get("/metrics")
            if answer.status_code == httpx.codes.OK:
                return metrics(answer.text, dialect=self._dialect)
        return {}
