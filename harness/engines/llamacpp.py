"""llama.cpp's own server, the engine inside Ollama, set up as Ollama sets it up; a program of its own.

    python -m harness.engines.llamacpp --model X.gguf --port 8080

Ollama's settings are those of `startLlamaServer` in llm/llama_server.go and `DefaultOptions` in api/types.go, 0.33.
"""

import argparse
import signal
from collections.abc import Sequence
from typing import Final

CONTEXT_TOKENS: Final = 4096
"""Ollama's context without a GPU, and on one with less than 23 GiB."""
BATCH_TOKENS: Final = 512
"""Ollama's `num_batch`, which it passes as both -b and -ub."""

FLASH_ATTENTION: Final = ("auto", "on", "off")
CACHE_TYPES: Final = ("f16", "q8_0")


def parser() -> argparse.ArgumentParser:
    """The flags of the server."""
    arguments = argparse.ArgumentParser(prog="python -m harness.engines.llamacpp", allow_abbrev=False)
    arguments.add_argument("--model", required=True, help="GGUF file")
    arguments.add_argument("--alias", default="", help="name of the model in requests; default: its path")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--slots", type=int, default=1, help="requests at a time (default 1, as in Ollama)")
    arguments.add_argument(
        "--context-tokens", type=int, default=CONTEXT_TOKENS, help=f"context of each slot (default {CONTEXT_TOKENS})"
    )
    arguments.add_argument(
        "--flash-attn", choices=FLASH_ATTENTION, default="auto", help="OLLAMA_FLASH_ATTENTION (default auto)"
    )
    for half in ("k", "v"):
        arguments.add_argument(
            f"--cache-type-{half}", choices=CACHE_TYPES, default="f16", help="OLLAMA_KV_CACHE_TYPE (default f16)"
        )
    arguments.add_argument("--threads", type=int, default=-1, help="default: llama.cpp decides, as Ollama lets it")
    return arguments


def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM, whose default action ends the process at once."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    if arguments.alias:
        params.model_alias = {arguments.alias}
    params.port = arguments.port
    params.hostnames = ["127.0.0.1"]
    params.n_parallel = arguments.slots  # OLLAMA_NUM_PARALLEL, 1 by default
    params.n_ctx = arguments.context_tokens * arguments.slots  # Ollama: -c NumCtx × parallel
    params.n_batch = BATCH_TOKENS
    params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = arguments.threads  # Ollama passes none: llama.cpp takes the physical cores
    params.n_gpu_layers = -1  # Ollama passes none: all that fit
    kinds = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = {  # Ollama: --flash-attn auto
        "auto": kinds.LLAMA_FLASH_ATTN_TYPE_AUTO,
        "on": kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "off": kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[arguments.flash_attn]
    cache_types = {"f16": xllamacpp.ggml_type.GGML_TYPE_F16, "q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0}
    params.cache_type_k = cache_types[arguments.cache_type_k]
    params.cache_type_v = cache_types[arguments.cache_type_v]
    params.cont_batching = True  # llama.cpp's default, which Ollama leaves
    params.cache_prompt = True  # Ollama sends it with every request
    params.use_jinja = True  # chat templates of the GGUF file; Ollama leaves llama.cpp's default
    params.ui = False  # Ollama: --no-webui
    params.offline = True  # Ollama: --offline
    params.endpoint_metrics = True  # ours: the queue and the KV cache are read while we measure
    print(f"xllamacpp {xllamacpp.__version__}", flush=True)  # noqa: T201 - read back from the log
    server = xllamacpp.Server(params)  # returns when the model is loaded
    while server:
        signal.pause()


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    serve(parser().parse_args(argv))


if __name__ == "__main__":
    main()
