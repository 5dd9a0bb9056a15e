"""What a model's folder tells about it: shape, size, precision, template, fill-in-the-middle tokens, license.

vLLM says where its weights came from, not what they are. Where the folder can be read on this machine, its JSON files
and the headers of its safetensors files are read; what is missing or makes no sense is None here, and the catalog says
what stands in for it. Nothing here raises: a damaged folder is an unknown one. Every read has a limit.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

MAX_JSON_BYTES: Final = 8 * 2**20
MAX_HEADER_BYTES: Final = 32 * 2**20
MAX_HEADERS_BYTES: Final = 128 * 2**20
"""Of all files of one model together."""

MAX_FILES: Final = 1_024
MAX_TEXT_BYTES: Final = 128 * 2**10
TOKENIZER_HEAD_BYTES: Final = 4 * 2**20
"""Of tokenizer.json: the special tokens stand in front of the vocabulary."""

T = TypeVar("T")


class Tensor(msgspec.Struct, frozen=True):
    """One entry of a safetensors header."""

    dtype: str
    shape: list[int]


class NamedTensor(msgspec.Struct, frozen=True):
    """A tensor as /api/show lists it."""

    name: str
    type: str
    shape: list[int]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """None: the folder does not tell, or there is none on this machine."""

    architecture: str | None = None
    """config.json's model_type, `qwen2`, the nearest to GGUF's general.architecture."""

    context_length: int | None = None
    """Tokens the model was trained for; vLLM may serve fewer."""

    embedding_length: int | None = None
    block_count: int | None = None
    feed_forward_length: int | None = None
    head_count: int | None = None
    head_count_kv: int | None = None
    head_length: int | None = None
    norm_epsilon: float | None = None
    rope_base: float | None = None
    vocab_size: int | None = None
    expert_count: int | None = None
    expert_used_count: int | None = None
    latent_length: int | None = None
    """Numbers that a token leaves in the cache of each layer, where attention is compressed (MLA)."""

    parameter_count: int | None = None
    size_bytes: int | None = None
    quantization: str | None = None
    """`BF16`, `FP8`, `AWQ`, `GPTQ-INT4`, …"""

    has_vision: bool = False
    template: str | None = None
    """The chat template's source; of several, all of them."""

    fim: tuple[str, str, str] | None = None
    """What stands before the prompt, between prompt and suffix, and after the suffix."""

    license: str | None = None
    revision: str | None = None
    """The commit of a Hugging Face snapshot."""

    modified_ns: int | None = None

    @property
    def opens_thinking(self) -> bool:
        """Whether the prompt itself ends with `<think>`, so that answers begin within the thinking (R1, QwQ)."""
        _, _, tail = (self.template or "").rpartition("add_generation_prompt")
        return "<think>" in tail and "</think>" not in tail

    @property
    def mentions_tools(self) -> bool | None:
        """None: no template was found."""
        return None if self.template is None else "tools" in self.template or "tool_call" in self.template

    @property
    def mentions_thinking(self) -> bool | None:
        """Whether the template opens or cuts away thinking, as Ollama looks for it; None: no template was found."""
        if self.architecture in ("gpt_oss", "gpt-oss"):
            return True
        if self.template is None:
            return None
        return ("<think>" in self.template and "</think>" in self.template) or any(
            sign in self.template for sign in ("split('</think>')", 'split("</think>")', "enable_thinking")
        )

    def cache_bytes_per_token(self, cache_dtype: str = "auto") -> int | None:
        """What one token takes in vLLM's KV cache, all layers together."""
        if self.block_count is None:
            return None
        if self.latent_length is not None:
            numbers = self.latent_length
        elif self.head_count_kv is not None and self.head_length is not None:
            numbers = 2 * self.head_count_kv * self.head_length
        else:
            return None
        width = 1 if cache_dtype.startswith(("fp8", "int8")) else 4 if self.quantization == "F32" else 2
        return self.block_count * numbers * width


UNKNOWN: Final = Facts()


def found(root: str, *, hub: Path | None = None) -> Path | None:
    """The folder of the weights that vLLM calls `root`: a folder itself, or a repository in Hugging Face's cache.

    None: neither is on this machine.
    """
    try:
        folder = Path(root).expanduser()
        if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
            return folder
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", root) or ".." in root:
            return None
        repository = (hub or hub_folder()) / f"models--{root.replace('/', '--')}"
        commit = _text(repository / "refs" / "main", 256)
        snapshots = repository / "snapshots"
        if commit is not None and (snapshots / commit.strip() / "config.json").is_file():
            return snapshots / commit.strip()
        complete = [folder for folder in snapshots.iterdir() if (folder / "config.json").is_file()]
        return max(complete, key=lambda folder: (folder.stat().st_mtime_ns, folder.name), default=None)
    except (OSError, ValueError, RuntimeError):
        return None


def hub_folder() -> Path:
    """Where Hugging Face's libraries keep what they fetched."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def facts(folder: Path) -> Facts:
    """All that the folder tells."""
    try:
        return _facts(folder)
    except (OSError, ValueError, RecursionError):  # what no check below foresaw is a damaged folder too
        return UNKNOWN


def tensors(folder: Path) -> list[NamedTensor]:
    """Every tensor that the headers name; [] where none can be read."""
    return [NamedTensor(name, tensor.dtype, tensor.shape) for name, tensor in _headers(_weight_files(folder))]


def human_number(count: int) -> str:
    """A number of parameters as Ollama prints it: `134.52M`, `1.5B`, `8B`."""
    if count >= 10**9:
        return f"{count // 10**9}B" if count % 10**9 == 0 else f"{count / 1e9:.1f}B"
    if count >= 10**6:
        return f"{count // 10**6}M" if count % 10**6 == 0 else f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.0f}K" if count >= 1_000 else str(count)


def parameters_in_name(name: str) -> int | None:
    """The number of parameters that a name such as `Qwen2.5-1.5B-Instruct` tells; None: it tells none."""
    sizes = re.findall(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", name.lower())
    if not sizes:
        return None
    times, number, unit = sizes[0]
    return round(int(times or 1) * float(number) * (10**9 if unit == "b" else 10**6)) or None


def quantization_in_name(name: str) -> str | None:
    """The precision that a name tells, such as `AWQ`; None: it tells none."""
    told = re.search(r"(?<![a-z])(awq|gptq|fp8|nvfp4|mxfp4|bf16|fp16|int8|int4|w4a16|w8a8)(?![a-z])", name.lower())
    return None if told is None else {"fp16": "F16"}.get(told[1], told[1].upper())


# ---------------------------------------------------------------- the folder


def _facts(folder: Path) -> Facts:
    config = _json(folder / "config.json")
    text = _table(config, "text_config") or _table(config, "llm_config") or _table(config, "language_config") or config
    files = _weight_files(folder)
    headers = list(_headers(files))
    architecture = _string(config, "model_type") or _architecture_of(config)
    heads = _count(text, "num_attention_heads", "n_head", "num_heads")
    width = _count(text, "hidden_size", "n_embd", "d_model", "dim")
    latent = _count(text, "kv_lora_rank")
    head_length = _count(text, "head_dim") or (width // heads if width and heads else None)
    rope = _table(text, "rope_parameters") or _table(text, "rope_scaling")
    quantization = _quantization(config, text, headers)
    return Facts(
        architecture=architecture,
        context_length=_count(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        embedding_length=width,
        block_count=_count(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        feed_forward_length=_count(text, "intermediate_size", "n_inner", "ffn_dim"),
        head_count=heads,
        head_count_kv=_count(text, "num_key_value_heads", "num_kv_heads") or heads,
        head_length=head_length,
        norm_epsilon=_number(text, "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps"),
        rope_base=_number(text, "rope_theta", "rotary_emb_base") or _number(rope, "rope_theta"),
        vocab_size=_count(text, "vocab_size") or _count(config, "vocab_size"),
        expert_count=_count(text, "num_experts", "num_local_experts", "n_routed_experts"),
        expert_used_count=_count(text, "num_experts_per_tok", "num_experts_per_token"),
        latent_length=None if latent is None else latent + (_count(text, "qk_rope_head_dim") or 0),
        parameter_count=_parameter_count(headers, bits=_bits(config)) or None,
        size_bytes=_size_bytes(folder, files) or None,
        quantization=quantization,
        has_vision=any(_table(config, key) for key in ("vision_config", "vit_config", "vision_tower_config", "visual")),
        template=_template(folder),
        fim=_fim(folder),
        license=_license(folder),
        revision=folder.name if folder.parent.name == "snapshots" else None,
        modified_ns=_modified_ns([folder / "config.json", folder / "adapter_config.json", *files]),
    )


def _architecture_of(config: dict[str, Any]) -> str | None:
    """`Gemma3ForCausalLM` → `gemma3`."""
    listed = config.get("architectures")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], str):
        return None
    return re.sub(r"(for(causallm|conditionalgeneration)|model|lmheadmodel)$", "", listed[0].lower()) or None


def _weight_files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.safetensors"))[:MAX_FILES]
    except OSError:
        return []


def _size_bytes(folder: Path, files: list[Path]) -> int:
    """What the weights take on disk: safetensors, or else whatever other form is there."""
    if not files:
        for form in ("*.bin", "*.pt", "*.pth", "*.gguf"):
            files = sorted(folder.glob(form))[:MAX_FILES]
            if files:
                break
    return sum(size for file in files if (size := _size_of(file)) is not None)


def _size_of(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _modified_ns(files: Iterable[Path]) -> int | None:
    times = []
    for file in files:
        try:
            times.append(file.stat().st_mtime_ns)
        except OSError:
            continue
    return max(times, default=None)


# ---------------------------------------------------------------- tensors


def _headers(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and shape of every tensor; a file whose header makes no sense is left out."""
    left_bytes = MAX_HEADERS_BYTES
    for file in files:
        header = _header(file, min(MAX_HEADER_BYTES, left_bytes))
        if header is None:
            continue
        left_bytes -= len(header)
        try:
            entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError:
            continue
        for name, raw in entries.items():
            if name == "__metadata__":
                continue
            try:
                tensor = msgspec.json.decode(raw, type=Tensor)
            except msgspec.DecodeError:
                continue
            if len(tensor.shape) <= 16 and all(0 <= length < 2**48 for length in tensor.shape):
                yield name, tensor


def _header(file: Path, limit_bytes: int) -> bytes | None:
    try:
        with file.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            if not 2 <= length <= limit_bytes:
                return None
            header = source.read(length)
    except OSError:
        return None
    return header if len(header) == length else None


_SIDE: Final = re.compile(
    r"(scales?|zeros?|zero_point|qzeros|g_idx|absmax|quant_map|quant_state\S*|scale_inv|"
    r"input_scale|weight_scale\S*|weight_shape|nested_\w+|k_scale|v_scale)$"
)
_WHOLE: Final = {"I32", "U32", "I64", "U8", "I8"}


def _parameter_count(headers: Iterable[tuple[str, Tensor]], *, bits: int | None) -> int:
    """Weights, however many share one stored number; scales and zero points are none."""
    total = 0
    for name, tensor in headers:
        last = name.rpartition(".")[2]
        if _SIDE.search(last):
            continue
        numbers = math.prod(tensor.shape)
        if tensor.dtype in ("I32", "U32", "I64") and ("qweight" in last or "packed" in last):
            numbers *= (64 if tensor.dtype == "I64" else 32) // (bits or 4)
        elif tensor.dtype == "U8" and (bits == 4 or "packed" in last or last.endswith("_blocks")):
            numbers *= 2
        total += numbers
    return total


_DTYPES: Final = {"bfloat16": "BF16", "float16": "F16", "half": "F16", "float32": "F32", "float": "F32"}


def _bits(config: dict[str, Any]) -> int | None:
    """Bits of one quantised weight, as config.json's quantization_config words it."""
    quant = _table(config, "quantization_config") or _table(config, "compression_config")
    if bits := _count(quant, "bits", "w_bit", "wbits"):
        return bits if bits in (2, 3, 4, 8) else None
    if quant.get("load_in_4bit") is True:
        return 4
    if quant.get("load_in_8bit") is True:
        return 8
    for group in _table(quant, "config_groups").values():
        if isinstance(group, dict) and (bits := _count(_table(group, "weights"), "num_bits")):
            return bits
    method = (_string(quant, "quant_method") or _string(quant, "quant_algo") or "").lower()
    return 4 if method in ("awq", "mxfp4", "nvfp4") else None


def _quantization(config: dict[str, Any], text: dict[str, Any], headers: list[tuple[str, Tensor]]) -> str | None:
    quant = _table(config, "quantization_config") or _table(config, "compression_config")
    method = (_string(quant, "quant_method") or "").lower()
    bits = _bits(config)
    if method in ("gptq", "gptq_marlin", "auto-round"):
        return f"GPTQ-INT{bits or 4}"
    if method == "awq":
        return "AWQ"
    if method in ("bitsandbytes", "bnb"):
        return f"BNB-INT{bits or 8}"
    if method == "compressed-tensors":
        groups = [group for group in _table(quant, "config_groups").values() if isinstance(group, dict)]
        kind = _string(_table(groups[0], "weights"), "type") if groups else None
        return f"{'FP' if kind == 'float' else 'INT'}{bits or 8}"
    if method == "modelopt" or (not method and _string(quant, "quant_algo")):
        return (_string(quant, "quant_algo") or method).upper()[:32]
    if method:
        return method.upper()[:32]
    for table, key in ((config, "dtype"), (config, "torch_dtype"), (text, "dtype"), (text, "torch_dtype")):
        if (dtype := _string(table, key)) is not None:
            return _DTYPES.get(dtype.removeprefix("torch."), dtype.upper()[:32])
    stored: dict[str, int] = {}
    for _, tensor in headers:
        stored[tensor.dtype] = stored.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return max(stored, key=stored.__getitem__)[:32] if stored else None


# ---------------------------------------------------------------- texts


def _template(folder: Path) -> str | None:
    """The chat template, where it is kept: a file of its own, the tokenizer's or the processor's settings."""
    if (source := _text(folder / "chat_template.jinja", MAX_JSON_BYTES)) is not None:
        return source
    for file in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        kept = _json(folder / file).get("chat_template")
        if isinstance(kept, str):
            return kept
        if isinstance(kept, list):
            named = [entry["template"] for entry in kept if isinstance(entry, dict) and "template" in entry]
            texts = [text for text in named if isinstance(text, str)]
            if texts:
                return "\n".join(texts)
    return None


_FIM: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
"""Prompt first, suffix second: Codestral wants its suffix first, so it is none of these."""


def _fim(folder: Path) -> tuple[str, str, str] | None:
    special = _special_tokens(folder)
    return next((tokens for tokens in _FIM if special.issuperset(tokens)), None)


def _special_tokens(folder: Path) -> set[str]:
    """Tokens that stand beside the vocabulary."""
    settings = _json(folder / "tokenizer_config.json")
    listed: list[object] = [
        entry.get("content") for entry in _table(settings, "added_tokens_decoder").values() if isinstance(entry, dict)
    ]
    for table in (settings, _json(folder / "special_tokens_map.json")):
        for key in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(extra := table.get(key), list):
                listed += [entry.get("content") if isinstance(entry, dict) else entry for entry in extra]
    if not listed:
        listed = _added_tokens(folder / "tokenizer.json")
    return {token for token in listed if isinstance(token, str)}


def _added_tokens(file: Path) -> list[object]:
    """The list that stands near the top of a tokenizer.json, without reading the vocabulary below it."""
    head = _head(file, TOKENIZER_HEAD_BYTES)
    start = head.find('"added_tokens"')
    start = head.find("[", start) if start >= 0 else -1
    if start < 0:
        return []
    try:
        entries, _ = json.JSONDecoder().raw_decode(head, start)
    except (ValueError, RecursionError):
        return []
    return [entry.get("content") for entry in entries if isinstance(entry, dict)]


def _license(folder: Path) -> str | None:
    try:
        files = sorted(file for file in folder.iterdir() if re.match(r"licen[cs]e", file.name, re.IGNORECASE))
    except OSError:
        return None
    return next((text for file in files[:4] if (text := _head(file, MAX_TEXT_BYTES).strip())), None)


# ---------------------------------------------------------------- files and values that are not trusted


def _head(file: Path, limit_bytes: int) -> str:
    """The beginning of a file; "" where it is none."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as source:
            return source.read(limit_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def _text(file: Path, limit_bytes: int) -> str | None:
    """The whole of a file; None where it is none, or longer."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as source:
            data = source.read(limit_bytes + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= limit_bytes else None


def _json(file: Path) -> dict[str, Any]:
    """The object in a file; {} where it holds none."""
    text = _text(file, MAX_JSON_BYTES)
    if text is None:
        return {}
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _table(table: dict[str, Any], key: str) -> dict[str, Any]:
    kept = table.get(key)
    return kept if isinstance(kept, dict) else {}


def _string(table: dict[str, Any], key: str) -> str | None:
    kept = table.get(key)
    return kept if isinstance(kept, str) and 0 < len(kept) <= 256 and kept.isprintable() else None


def _count(table: dict[str, Any], *keys: str) -> int | None:
    """The first of the keys that holds a sensible number of things."""
    for key in keys:
        kept = table.get(key)
        if isinstance(kept, int) and not isinstance(kept, bool) and 0 < kept < 2**48:
            return kept
    return None


def _number(table: dict[str, Any], *keys: str) -> float | None:
    for key in keys:
        kept = table.get(key)
        if isinstance(kept, (int, float)) and not isinstance(kept, bool) and math.isfinite(kept):
            return float(kept)
    return None
