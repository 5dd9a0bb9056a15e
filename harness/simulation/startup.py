"""How a launch of the simulated vLLM goes: how its memory is spent, how long it takes, and of what it dies.

What it dies of is told in the words of vLLM's own log, so that whoever reads those reads these.
"""

from typing import Final

from harness.records import GpuProfile, ModelShape, Record
from harness.roofline import GIB, kv_token_bytes, weights
from harness.simulation.settings import Refused, Settings

CONTEXT_BYTES: Final = int(0.6 * GIB)
"""Assumed: the CUDA context and libraries, which vLLM counts as its own. With graphs, activations and logits this gives
for Llama 3 8B on 80 GB what its log had (see `roofline.reserve_bytes`) within 0.4 GiB."""
GRAPH_BYTES: Final = 8 * 2**20
"""Assumed: of each captured size. vLLM captures after it has cut its KV cache, beyond gpu-memory-utilization."""
DEVICE_SHARE: Final = 0.985
"""Of the data sheet's memory, what programs get: an L4's 24 GB are 23,034 MiB to NVML (0.94), an H100's 81,559 (0.996).
Assumed: a value between them for all cards."""
PEAK_SHARE: Final = 0.35
"""Assumed: by so much of the activations of a full batch memory grows under load beyond what was profiled."""
FRAGMENT_BYTES: Final = 96 * 2**20
"""Assumed: what torch's allocator has lost to fragments by then."""

PROCESS_S: Final = 24.0
"""Assumed: Python, torch and vLLM are imported, the card is opened; of the 26 s that a launch without compilation takes
on two cores, nearly all."""
READ_BYTES_S: Final = 1.6e9
"""Assumed: weights from a disk whose pages are warm."""
COMPILE_LAYER_S, CACHED_LAYER_S = 1.6, 0.25
"""Fitted to the 94 to 149 s that recorded launches took on an H100, most of it compilation; and assumed, where it lies
in the cache."""
CAPTURE_S: Final = 0.35
"""Assumed: of each captured size."""
PROFILE_S: Final = 6.0
"""Assumed: the run that finds out how much memory activations take."""


class MemoryPlan(Record, frozen=True, kw_only=True):
    """Bytes of one launch."""

    device_bytes: float
    """What the card gives."""
    budget_bytes: float
    """What vLLM may take by gpu-memory-utilization."""
    weights_bytes: float
    activation_bytes: float
    """Of a full batch, with the logits of all sequences."""
    graph_bytes: float
    cache_bytes: float
    """KV cache. Under 0: so much is missing for the rest."""
    token_bytes: float
    """KV cache of one token."""

    @property
    def start_bytes(self) -> float:
        """What is taken once the server is ready."""
        return self.weights_bytes + CONTEXT_BYTES + self.activation_bytes + self.graph_bytes + max(self.cache_bytes, 0)

    def peak_bytes(self, batch_ratio: float) -> float:
        """What is taken in a step whose batch is so full."""
        return self.start_bytes + FRAGMENT_BYTES + PEAK_SHARE * self.activation_bytes * batch_ratio

    def blocks(self, block_tokens: int) -> int:
        """Of the KV cache."""
        return max(0, int(self.cache_bytes // (self.token_bytes * block_tokens)))


def memory_plan(made: Settings, *, profile: GpuProfile, shape: ModelShape) -> MemoryPlan:
    """How vLLM would cut the card's memory."""
    memory = float(profile.memory_bytes or 0)
    held = weights(shape, made.precision).total_bytes
    activations = made.batched_tokens * 2 * (2 * shape.intermediate + 4 * shape.hidden)
    logits = made.sequences * shape.vocab * 4 * 2
    budget = memory * made.memory_ratio * DEVICE_SHARE
    rest = budget - held - CONTEXT_BYTES - activations - logits
    return MemoryPlan(
        device_bytes=memory * DEVICE_SHARE,
        budget_bytes=budget,
        weights_bytes=held,
        activation_bytes=float(activations + logits),
        graph_bytes=float(GRAPH_BYTES * len(made.capture_sizes)),
        cache_bytes=rest if made.cache_bytes is None else float(made.cache_bytes),
        token_bytes=kv_token_bytes(shape, made.kv_number_bytes),
    )


def context_tokens(made: Settings, plan: MemoryPlan, *, shape: ModelShape) -> int:
    """The context of one sequence, and nothing where the launch succeeds.

    Raises: Refused, with what vLLM writes as it dies of want of memory.
    """
    fits = plan.blocks(made.block_tokens) * made.block_tokens
    profiled = plan.weights_bytes + CONTEXT_BYTES + plan.activation_bytes
    if profiled > plan.device_bytes:
        raise Refused(out_of_memory(plan, asked_bytes=profiled - plan.device_bytes))
    if plan.cache_bytes <= 0 or not fits:
        raise Refused(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            "initializing the engine."
        )
    wanted = made.context_tokens
    if wanted is not None and wanted > fits:
        raise Refused(
            f"ValueError: To serve at least one request with the model's max seq len ({wanted}), "
            f"({wanted * plan.token_bytes / GIB:.2f} GiB KV cache is needed, which is larger than the available KV "
            f"cache memory ({plan.cache_bytes / GIB:.2f} GiB). Based on the available memory, the estimated maximum "
            f"model length is {fits}. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when "
            "initializing the engine."
        )
    if plan.start_bytes > plan.device_bytes:
        raise Refused(out_of_memory(plan, asked_bytes=plan.start_bytes - plan.device_bytes))
    return min(shape.max_context_tokens, fits) if wanted is None else wanted


def out_of_memory(plan: MemoryPlan, *, asked_bytes: float) -> str:
    """torch's words for an allocation of which so much is missing."""
    mib = asked_bytes / 2**20
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {mib:.2f} MiB. GPU 0 has a total capacity of "
        f"{plan.device_bytes / GIB:.2f} GiB of which 0 bytes is free."
    )


def launch_s(made: Settings, plan: MemoryPlan, *, shape: ModelShape, is_cached: bool) -> float:
    """From the start of the program until it can answer, without noise.

    Args:  is_cached: a launch of the same compile key was ready on this machine before.
    """
    compile_s = shape.layers * (CACHED_LAYER_S if is_cached else COMPILE_LAYER_S) if made.is_compiled else 0.0
    return load_s(plan) + PROFILE_S + compile_s + CAPTURE_S * len(made.capture_sizes)


def load_s(plan: MemoryPlan) -> float:
    """Until the weights are on the card: so long a launch takes at least that dies for want of memory."""
    return PROCESS_S + plan.weights_bytes / READ_BYTES_S
