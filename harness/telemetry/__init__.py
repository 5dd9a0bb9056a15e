"""Readings of the engine, the machine and the GPU, on the client's clock.

`Sampler` is the way in while something is measured, `host` and `strangers_note` before. What is read stands in
`gpu.py` (NVML), `processes.py` (psutil) and `metrics.py` (what vLLM and llama.cpp say of themselves).
"""

from harness.telemetry.gpu import Gpu, open_gpu
from harness.telemetry.machine import host, strangers_note
from harness.telemetry.processes import busy_cpu_ratio, tree
from harness.telemetry.sampler import Sampler

__all__ = ["Gpu", "Sampler", "busy_cpu_ratio", "host", "open_gpu", "strangers_note", "tree"]
