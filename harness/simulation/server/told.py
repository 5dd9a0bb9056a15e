"""What the server says of itself: its log in vLLM's words, its metrics, its settings."""

import os
import sys
import time
from typing import Final

from harness.simulation.machine import Server
from harness.simulation.server.live import Live
from harness.simulation.server.options import PROGRAM, Given, Options
from harness.simulation.startup import load_s

NOT_RESET: Final = "Failed to reset prefix cache because some blocks are not freed yet"
USAGE: Final = f"usage: {PROGRAM} [-h] [--model MODEL] [--port PORT] ..."
CORE_FAILED: Final = (
    "Traceback (most recent call last):\n"
    '  File "vllm/v1/engine/utils.py", line 1351, in launch_core_engines\n'
    "    wait_for_engine_startup(\n"
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)
CORE_DIED: Final = (
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root "
    "cause."
)


def write(text: str) -> None:
    """Lines that have nothing before them."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def say(process: str, place: str, text: str, *, level: str = "INFO") -> None:
    """Lines as vLLM's logger writes them."""
    head = f"({process} pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} [{place}] "
    write("\n".join(head + line for line in text.rstrip("\n").splitlines()))


# ---------------------------------------------------------------- how it starts


def simulated(options: Options) -> None:
    """What must be known of everything that follows."""
    card, speed = options.simulation.profile, options.speed
    pace = "" if speed == 1 else f", on a clock {speed:g} times as fast as ours"
    text = f"SIMULATED: no engine runs and no card is used. vLLM's scheduler on the data sheet of {card.title}{pace}."
    say("APIServer", "simulation:0", text, level="WARNING")


def parsed(given: Given) -> None:
    """What the command line said."""
    names = {name.replace("-", "_"): value for name, value in given.flags.items()}
    told = names | ({"served_model_name": list(given.names)} if "served_model_name" in names else {})
    say("APIServer", "api_utils.py:286", f"non-default args: {told}")


def configured(server: Server, given: Given, *, version: str) -> None:
    """What became of it."""
    made, longest = server.made, server.context_tokens
    say("APIServer", "model.py:2152", f"Using max model len {longest}")
    if made.is_chunked:
        chunked = f"Chunked prefill is enabled with max_num_batched_tokens={made.batched_tokens}."
        say("APIServer", "scheduler.py:307", chunked)
    kv = given.flags.get("kv-cache-dtype", "auto")
    text = (
        f"Initializing a V1 LLM engine (v{version}) with config: model={given.model!r}, "
        f"trust_remote_code=False, dtype=torch.{_dtype(given)}, max_seq_len={longest}, tensor_parallel_size=1, "
        f"enforce_eager={not made.is_compiled}, kv_cache_dtype={kv}, device_config=cuda, "
        f"enable_prefix_caching={made.has_prefix_cache}, enable_chunked_prefill={made.is_chunked}"
    )
    say("EngineCore", "core.py:133", text)


def loaded(server: Server) -> None:
    """The weights are on the card."""
    gib, seconds = server.plan.weights_bytes / 2**30, load_s(server.plan)
    say("EngineCore", "gpu_model_runner.py:4834", f"Model loading took {gib:.2f} GiB and {seconds:.6f} seconds")


def cached(server: Server) -> None:
    """The KV cache is cut."""
    tokens, longest = server.scheduler.limits.blocks * server.made.block_tokens, server.context_tokens
    text = (
        f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {longest:,} tokens per request: "
        f"{tokens / longest:.2f}x"
    )
    say("EngineCore", "kv_cache_utils.py:2327", text)


def ready(given: Given) -> None:
    """It answers."""
    say("APIServer", "entry.py:140", f"Starting vLLM server on http://{given.host}:{given.port}")
    write(f"INFO:     Started server process [{os.getpid()}]")
    write("INFO:     Application startup complete.")


def _dtype(given: Given) -> str:
    asked = str(given.flags.get("dtype", "auto"))
    return {"auto": "bfloat16", "half": "float16"}.get(asked, asked)


# ---------------------------------------------------------------- how it fails


def refused(log_text: str) -> int:
    """Why it does not start. Returns the exit code."""
    if log_text.startswith(f"{PROGRAM}: error:"):
        write(f"{USAGE}\n{log_text}")
        return 2
    if log_text.startswith("pydantic_core"):
        write(f"Traceback (most recent call last):\n{log_text}")
        return 1
    trace = f"Traceback (most recent call last):\n{log_text}"
    say("EngineCore", "core.py:1510", f"EngineCore failed to start.\n{trace}", level="ERROR")
    write(f"Process EngineCore:\n{trace}\n{CORE_FAILED}")
    return 1


def crashed(log_text: str) -> None:
    """What killed it under load."""
    trace = f"EngineCore encountered a fatal error.\nTraceback (most recent call last):\n{log_text}"
    say("EngineCore", "core.py:1519", trace, level="ERROR")
    say("APIServer", "async_llm.py:725", f"AsyncLLM output_handler failed.\n{CORE_DIED}", level="ERROR")


def stopped(live: Live) -> None:
    """It was told to end."""
    write("INFO:     Shutting down")
    text = f"SIMULATED: {live.output_tokens} tokens; the latest step ended {live.late_s:.3f} s after its time."
    say("APIServer", "simulation:0", text)


# ---------------------------------------------------------------- what it is asked


def metrics(live: Live, *, model: str) -> str:
    """In Prometheus' text form, under vLLM's names."""
    schedule = live.scheduler
    gauges = {
        "num_requests_running": len(schedule.running),
        "num_requests_waiting": len(schedule.waiting),
        "kv_cache_usage_perc": schedule.pool.held / schedule.pool.capacity,
    }
    counters = {
        "prefix_cache_queries": schedule.queried_tokens,
        "prefix_cache_hits": schedule.hit_tokens,
        "num_preemptions": schedule.preemptions,
        "prompt_tokens": live.prompt_tokens,
        "generation_tokens": live.output_tokens,
    }
    labels = f'{{engine="0",model_name="{model}"}}'
    lines = [f"# TYPE vllm:{name} gauge\nvllm:{name}{labels} {float(value)}" for name, value in gauges.items()]
    lines += [
        f"# TYPE vllm:{name}_total counter\nvllm:{name}_total{labels} {float(value)}"
        for name, value in counters.items()
    ]
    lines.append("# HELP simulation_late_seconds Simulated: the latest that a step has ended after its time.")
    lines.append(f"# TYPE simulation_late_seconds gauge\nsimulation_late_seconds {live.late_s}")
    return "\n".join([*lines, ""])


def server_info(server: Server) -> dict[str, object]:
    """What a vLLM in development mode tells of its settings."""
    made = server.made
    return {
        "vllm_config": {
            "scheduler_config": {
                "max_num_seqs": made.sequences,
                "max_num_batched_tokens": made.batched_tokens,
                "enable_chunked_prefill": made.is_chunked,
            },
            "model_config": {"max_model_len": server.context_tokens},
            "cache_config": {
                "block_size": made.block_tokens,
                "enable_prefix_caching": made.has_prefix_cache,
                "num_gpu_blocks": server.scheduler.limits.blocks,
            },
        }
    }
