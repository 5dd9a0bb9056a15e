"""The tensors of a model's shape: names on both sides, sizes, purposes. What values they get stands in weights.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from math import prod
from typing import Final

from harness.records import ModelShape


class Kind(Enum):
    """What a tensor is for, which decides how its values are drawn."""

    EMBEDDING = auto()
    OUTPUT = auto()
    MATRIX = auto()
    NORM = auto()
    BIAS = auto()


@dataclass(frozen=True, slots=True)
class Family:
    """What a model's config.json says beside its shape."""

    model_type: str
    """As config.json and GGUF call it alike."""
    architecture: str
    rope_theta: float
    norm_eps: float
    has_bias: bool = False
    """On query, key and value."""
    is_paired: bool = False
    """llama.cpp turns neighbouring values of a head together, where Hugging Face turns those half a head apart."""


def _llama(*, rope_theta: float) -> Family:
    return Family("llama", "LlamaForCausalLM", rope_theta=rope_theta, norm_eps=1e-5, is_paired=True)


FAMILIES: Final = {
    "smollm2-135m": _llama(rope_theta=1e5),
    "qwen2.5-1.5b": Family("qwen2", "Qwen2ForCausalLM", rope_theta=1e6, norm_eps=1e-6, has_bias=True),
    "llama-3.2-3b": _llama(rope_theta=5e5),
    "llama-3.1-8b": _llama(rope_theta=5e5),
}
"""By the name in the registry. Llama 3's stretching of the rotary frequencies is left out: it costs no time."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor under its names on both sides."""

    hub_name: str
    gguf_name: str
    shape: tuple[int, ...]
    """Rows and columns, or a length."""
    kind: Kind
    rotary_heads: int = 0
    """How many heads its rows are, where they are turned by position."""

    @property
    def size(self) -> int:
        """How many values it has."""
        return prod(self.shape)


def tensors(shape: ModelShape, family: Family) -> tuple[Tensor, ...]:
    """All tensors in the order of the files; the output projection is always one of its own."""
    table = (shape.vocab, shape.hidden)
    found = [Tensor("model.embed_tokens.weight", "token_embd.weight", table, Kind.EMBEDDING)]
    for layer in range(shape.layers):
        found += _layer(layer, shape, family)
    found.append(Tensor("model.norm.weight", "output_norm.weight", (shape.hidden,), Kind.NORM))
    found.append(Tensor("lm_head.weight", "output.weight", table, Kind.OUTPUT))
    return tuple(found)


def _layer(layer: int, shape: ModelShape, family: Family) -> Iterator[Tensor]:
    hub, gguf = f"model.layers.{layer}", f"blk.{layer}"
    hidden, wide = shape.hidden, shape.intermediate
    all_heads, kv_heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Tensor(f"{hub}.input_layernorm.weight", f"{gguf}.attn_norm.weight", (hidden,), Kind.NORM)
    for letter, size, heads in (("q", all_heads, shape.heads), ("k", kv_heads, shape.kv_heads), ("v", kv_heads, 0)):
        names = f"{hub}.self_attn.{letter}_proj", f"{gguf}.attn_{letter}"
        yield Tensor(f"{names[0]}.weight", f"{names[1]}.weight", (size, hidden), Kind.MATRIX, rotary_heads=heads)
        if family.has_bias:
            yield Tensor(f"{names[0]}.bias", f"{names[1]}.bias", (size,), Kind.BIAS, rotary_heads=heads)
    yield Tensor(f"{hub}.self_attn.o_proj.weight", f"{gguf}.attn_output.weight", (hidden, all_heads), Kind.MATRIX)
    yield Tensor(f"{hub}.post_attention_layernorm.weight", f"{gguf}.ffn_norm.weight", (hidden,), Kind.NORM)
    yield Tensor(f"{hub}.mlp.gate_proj.weight", f"{gguf}.ffn_gate.weight", (wide, hidden), Kind.MATRIX)
    yield Tensor(f"{hub}.mlp.up_proj.weight", f"{gguf}.ffn_up.weight", (wide, hidden), Kind.MATRIX)
    yield Tensor(f"{hub}.mlp.down_proj.weight", f"{gguf}.ffn_down.weight", (hidden, wide), Kind.MATRIX)


def parameters(shape: ModelShape, family: Family) -> int:
    """How many values all tensors have together."""
    return sum(tensor.size for tensor in tensors(shape, family))
