"""How long a step of the simulated vLLM takes: a roofline that no engine reaches, and what the host adds.

Every constant is one of three kinds: from a data sheet (in gpus.toml, through `roofline`), fitted to the recorded grid
(recorded/*.toml, four constants by least squares of the logarithms; `calibrate` prints what is left of the error), or
assumed. All hold for every card and model alike: a constant per point would fit anything and foretell nothing.
"""

import bisect
from typing import Final

import msgspec

from harness.records import GpuProfile, ModelShape
from harness.roofline import Roof, pass_s, roof
from harness.simulation.scheduler import Step
from harness.simulation.settings import Settings

BANDWIDTH_SHARE: Final = 0.85
"""Assumed: vLLM's decode kernels read at 80 to 90% of the data sheet's bandwidth."""
FLOP_SHARE: Final = 0.55
"""Assumed: large matrix products in 16 bits reach 50 to 65% of the data sheet's dense peak, attention included."""
LAYER_S: Final = 20e-6
"""Assumed: of each layer, what its dozen kernels take beside their traffic when a CUDA graph starts them."""
LAYER_UNGRAPHED_S: Final = 90e-6
"""Assumed: the least that a layer takes whose kernels are started one by one, which the card may outrun."""
HOST_STEP_S: Final = 1.4e-3
"""Fitted: scheduling, inputs and sampling of one step that no other work hides."""
HOST_SEQUENCE_S: Final = 6.2e-6
"""Fitted: of each sequence in a step: block tables, sampling, detokenization."""
SLOT_SHARE: Final = 1 / 315
"""Fitted: by so much of itself `HOST_SEQUENCE_S` grows for each sequence that vLLM is set up for (max-num-seqs). The
recorded runs with 1024 are slower for each sequence than those with 128; why is not known."""
CHUNK_S: Final = 5e-6
"""Assumed: of each piece of an answer that is sent (stream-interval)."""
PROMPT_S: Final = 0.3e-3
"""Fitted: what a new prompt adds to the step in which it is let in: its inputs, and a batch of mixed lengths."""
SYNCHRONOUS_S, SYNCHRONOUS_SEQUENCE_S = 0.5e-3, 6e-6
"""Assumed: what a step takes longer without async scheduling, and for each sequence."""
PREFIX_LOOKUP_S: Final = 20e-6
"""Assumed: of each new prompt, to look it up in the prefix cache and keep it there."""
HTTP_IN_S: Final = 1.5e-3
"""Assumed: from a client's sending until the scheduler has the request: loopback, JSON, template, tokenizer."""
TOKENIZE_S: Final = 0.6e-6
"""Assumed: of that, for each token of the prompt."""
HTTP_OUT_S: Final = 0.3e-3
"""Assumed: from the end of a step until a client has its token."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One launch's step times."""

    at: Roof
    layers: int
    capture_sizes: tuple[int, ...]
    host_sequence_s: float
    host_step_s: float
    chunk_s: float
    prompt_s: float

    def step_s(self, step: Step) -> float:
        """From the start of the step to its tokens, without noise."""
        return self.card_s(step) + self.host_s(step)

    def card_s(self, step: Step) -> float:
        """What the card works: weights once, the KV cache of each sequence, the arithmetic of all tokens."""
        at, tokens = self.at, step.tokens
        place = bisect.bisect_left(self.capture_sizes, tokens)
        is_graphed = place < len(self.capture_sizes)
        computed = self.capture_sizes[place] if is_graphed else tokens
        looked_back = float(step.context_tokens)
        read_tokens = step.context_tokens
        for _, piece, context, _ in step.prefills:
            looked_back += piece * (context + piece / 2)
            read_tokens += context
        roof_s = pass_s(
            at,
            moved_bytes=at.read_bytes + at.kv_token_bytes * read_tokens,
            flop=computed * at.layers_flop + step.sampled * at.head_flop + looked_back * at.attention_flop,
        )
        least_s = 0.0 if is_graphed else self.layers * LAYER_UNGRAPHED_S
        return max(roof_s + self.layers * LAYER_S, least_s)

    def host_s(self, step: Step) -> float:
        """What the host adds that the card does not hide."""
        each_s = self.host_sequence_s + self.chunk_s
        fresh = sum(piece.context_tokens == piece.sequence.cached_tokens for piece in step.prefills)
        return self.host_step_s + step.sampled * each_s + fresh * self.prompt_s


def timing(made: Settings, *, profile: GpuProfile, shape: ModelShape) -> Timing | None:
    """None: the profile has no figures."""
    best = roof(profile, shape, made.precision, kv_number_bytes=made.kv_number_bytes)
    if best is None:
        return None
    real = msgspec.structs.replace(
        best, bandwidth_bytes_s=best.bandwidth_bytes_s * BANDWIDTH_SHARE, flop_s=best.flop_s * FLOP_SHARE
    )
    late_s, late_sequence_s = (0.0, 0.0) if made.is_async else (SYNCHRONOUS_S, SYNCHRONOUS_SEQUENCE_S)
    return Timing(
        at=real,
        layers=shape.layers,
        capture_sizes=made.capture_sizes,
        host_step_s=HOST_STEP_S + late_s,
        host_sequence_s=HOST_SEQUENCE_S * (1 + made.sequences * SLOT_SHARE) + late_sequence_s,
        chunk_s=CHUNK_S / made.stream_interval,
        prompt_s=PROMPT_S + (PREFIX_LOOKUP_S if made.has_prefix_cache else 0.0),
    )
