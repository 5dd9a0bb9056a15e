"""Llama and Qwen2 in plain NumPy and 64 bits, straight from a folder that vLLM loads: what both engines should compute.

It shares no code with the harness, reads safetensors with that format's own library, and is made to be read.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

Array = NDArray[Any]


def bfloat16_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file of bfloat16 values, as float32."""
    return {
        name: (np.frombuffer(found["data"], "<u2").astype(np.uint32) << 16).view(np.float32).reshape(found["shape"])
        for name, found in safetensors.deserialize(path.read_bytes())
        if found["dtype"] == "BF16"
    }


class Transformer:
    """A model in memory."""

    def __init__(self, folder: Path, *, dtype: type = np.float64) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = {name: one.astype(dtype) for name, one in bfloat16_tensors(folder / "model.safetensors").items()}

    def logits(self, ids: list[int]) -> Array:
        """Of the next token after each of these."""
        stream = self.tensors["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            stream = stream + self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", stream))
            stream = stream + self.mlp(f"{name}.mlp", self.norm(f"{name}.post_attention_layernorm", stream))
        self.last = stream
        return self.norm("model.norm", stream) @ self.tensors["lm_head.weight"].T

    def norm(self, name: str, x: Array) -> Array:
        size = np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / size * self.tensors[f"{name}.weight"]

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0)

    def mlp(self, name: str, x: Array) -> Array:
        gate = self.linear(f"{name}.gate_proj", x)
        return self.linear(f"{name}.down_proj", gate / (1 + np.exp(-gate)) * self.linear(f"{name}.up_proj", x))

    def attention(self, name: str, x: Array) -> Array:
        heads, kv_heads, dim = (self.config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        length = len(x)
        query = turned(self.linear(f"{name}.q_proj", x).reshape(length, heads, dim), self.config["rope_theta"])
        key = turned(self.linear(f"{name}.k_proj", x).reshape(length, kv_heads, dim), self.config["rope_theta"])
        value = self.linear(f"{name}.v_proj", x).reshape(length, kv_heads, dim)
        key, value = (np.repeat(one, heads // kv_heads, axis=1) for one in (key, value))
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(dim)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(f"{name}.o_proj", np.einsum("hqk,khd->qhd", weights, value).reshape(length, heads * dim))


def turned(x: Array, theta: float) -> Array:
    """Rotary position embedding, of values half a head apart."""
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))[:, None, :]
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], -1)


def log_probabilities(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
