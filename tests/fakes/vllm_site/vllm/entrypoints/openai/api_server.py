"""vLLM's server as far as the harness can see it: flags, log lines, refusals, and a speed that depends on the flags.

`max-num-seqs` is how many requests run at once; everything else is the reference engine. Environment variables
make it fail as vLLM 0.32 does:

FAKE_VLLM_FITS=N             contexts longer than N do not fit into the KV cache
FAKE_VLLM_CRASHES_AT=N       max-num-seqs N crashes at start, for no known reason
FAKE_VLLM_BASELINE_FAILS=1   it does not start without max-num-seqs
FAKE_VLLM_DIES_AFTER_S=T     it is killed T seconds after it was ready
FAKE_VLLM_DIES_ONCE=PATH     but only while there is no such file; it is made then
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from harness.engines.reference.command import main as serve

DEFAULT_SEQS, DEFAULT_BATCHED, MODEL_MAX_LEN = 4, 2048, 8192


def parser() -> argparse.ArgumentParser:
    """The flags that the harness sends, spelled as in vLLM."""
    flags = argparse.ArgumentParser(prog="api_server.py")
    add = flags.add_argument
    add("--host")
    add("--port", type=int)
    add("--model")
    add("--served-model-name")
    add("--max-num-seqs", type=int)
    add("--max-num-batched-tokens", type=int, default=DEFAULT_BATCHED)
    add("--max-model-len", type=int, default=MODEL_MAX_LEN)
    add("--enforce-eager", action=argparse.BooleanOptionalAction)
    add("--disable-uvicorn-access-log", action=argparse.BooleanOptionalAction)
    add("--disable-access-log-for-endpoints")
    add("--disable-log-stats", action=argparse.BooleanOptionalAction)
    return flags


def refuse(args: argparse.Namespace) -> None:
    """Ends the process with the words of vLLM 0.32 where it would not start."""
    fits = int(os.environ.get("FAKE_VLLM_FITS", MODEL_MAX_LEN))
    if args.max_model_len > fits:
        raise ValueError(
            f"To serve at least one request with the model's max seq len ({args.max_model_len}), (4.00 GiB KV cache "
            "is needed, which is larger than the available KV cache memory (2.00 GiB). Based on the available memory, "
            f"the estimated maximum model length is {fits}. Try increasing `gpu_memory_utilization` or decreasing "
            "`max_model_len` when initializing the engine."
        )
    if os.environ.get("FAKE_VLLM_CRASHES_AT") == str(args.max_num_seqs):
        raise RuntimeError("an internal error of the fake engine")
    if os.environ.get("FAKE_VLLM_BASELINE_FAILS") and args.max_num_seqs is None:
        raise RuntimeError("the defaults of the fake engine never start")


def main() -> None:
    """Log, refuse, or serve."""
    args = parser().parse_args()
    sys.stderr.write(f"INFO Using max model len {args.max_model_len}\n")
    sys.stderr.write(f"INFO Chunked prefill is enabled with max_num_batched_tokens={args.max_num_batched_tokens}.\n")
    refuse(args)
    sys.stderr.write(
        "INFO Initializing a V1 LLM engine (v0.32.0) with config: dtype=torch.bfloat16, "
        f"max_seq_len={args.max_model_len}, kv_cache_dtype=auto, enable_prefix_caching=True\n"
    )
    once = Path(os.environ.get("FAKE_VLLM_DIES_ONCE", "/"))
    lasts_s = os.environ.get("FAKE_VLLM_DIES_AFTER_S")
    if lasts_s and not (once != Path("/") and once.exists()):
        if once != Path("/"):
            once.touch()
        threading.Timer(float(lasts_s), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    serve(
        [
            f"--port={args.port}",
            f"--model={args.served_model_name}",
            f"--capacity={args.max_num_seqs or DEFAULT_SEQS}",
            "--ttft-s=0.02",
            "--itl-s=0.01",
        ]
    )


if __name__ == "__main__":
    main()
