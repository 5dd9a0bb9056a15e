"""`harness serve`: a tuned vLLM and the proxy in front of it, kept running until somebody stops them.

The proxy is a program to us, as vLLM is, and never imported. It is there from the first second, so that a client is
told "not ready yet" while vLLM loads, also after a crash. Both run in process groups of their own with a watchdog
beside each: whatever ends the harness, nothing of them is left.

    <results>/serve-<port>/
        vllm.log, proxy.log              of this start; of the one before: *.previous.log
        state/                           what the proxy keeps: aliases
        vllm.key                         with --api-key-file: what vLLM asks of the proxy
"""

from harness.serve.model import foreign, parser_flags
from harness.serve.plan import (
    OLLAMA_PORT,
    Plan,
    become_proxy,
    chosen_settings,
    key_in,
    planned,
    proxy_command,
    typed_flags,
    vllm_command,
    vllm_environment,
)
from harness.serve.port import reachable, refuse_taken_port
from harness.serve.running import Serving, how_to_use, prepare, run, stop_signals
from harness.serve.supervised import Program, Supervised, delay_s

__all__ = [
    "OLLAMA_PORT",
    "Plan",
    "Program",
    "Serving",
    "Supervised",
    "become_proxy",
    "chosen_settings",
    "delay_s",
    "foreign",
    "how_to_use",
    "key_in",
    "parser_flags",
    "planned",
    "prepare",
    "proxy_command",
    "reachable",
    "refuse_taken_port",
    "run",
    "stop_signals",
    "typed_flags",
    "vllm_command",
    "vllm_environment",
]
