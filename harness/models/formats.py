"""Weights into safetensors and GGUF files as they come, without a tensor in memory as a whole."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import gguf
import numpy as np

from harness.models.tensors import Tensor
from harness.models.weights import Floats

HEADER_ROOM_BYTES: Final = 16 << 20
"""More than names, tokenizer and padding take in any file."""
GGUF_TYPES: Final = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
"""What is written here; other precisions take llama.cpp's own quantiser."""


class WeightsFile(Protocol):
    """A file that takes all tensors in its own order, each in blocks of rows."""

    def append(self, tensor: Tensor, block: Floats) -> None:
        """The next rows of the tensor."""

    def close(self) -> None:
        """The last tensor is in."""


class SafetensorsFile:
    """bfloat16, in one file: the length of a JSON header, the header, and the tensors one after another."""

    def __init__(self, path: Path, tensors: Sequence[Tensor]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in tensors:
            begin, end = end, end + 2 * tensor.size
            header[tensor.hub_name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": (begin, end)}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def append(self, tensor: Tensor, block: Floats) -> None:
        """The next rows; their lower 16 bits are 0, so nothing is lost."""
        del tensor
        self._file.write((block.view(np.uint32) >> np.uint32(16)).astype("<u2").data)

    def close(self) -> None:
        """Writes what is still held back."""
        self._file.close()


class GgufFile:
    """One precision for all matrices, and 32 bits for norms and biases, as llama.cpp wants it.

    Args:    is_paired: see `Family`.
             describe: adds the keys that stand before the tensors.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[Tensor],
        *,
        architecture: str,
        precision: str,
        is_paired: bool,
        describe: Callable[[gguf.GGUFWriter], None],
    ) -> None:
        self._type, file_type = GGUF_TYPES[precision]
        self._is_paired = is_paired
        self._tensor: Tensor | None = None
        header = gguf.GGUFWriter(path, architecture)
        describe(header)
        header.add_file_type(file_type)
        header.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for tensor in tensors:
            kind = self._type_of(tensor)
            size_bytes = tensor_bytes(tensor, kind)
            header.add_tensor_info(tensor.gguf_name, tensor.shape, np.dtype(np.float32), size_bytes, raw_dtype=kind)
        header.write_header_to_file()
        header.write_kv_data_to_file()
        header.write_ti_data_to_file()
        header.close()
        self._file = path.open("ab")

    def append(self, tensor: Tensor, block: Floats) -> None:
        """The next rows, in the order and the precision of the file."""
        if tensor is not self._tensor:
            self._align()
            self._tensor = tensor
        if self._is_paired and tensor.rotary_heads:
            block = paired(block, head_dim=tensor.shape[0] // tensor.rotary_heads)
        self._file.write(gguf.quantize(block, self._type_of(tensor)).data)

    def close(self) -> None:
        """Writes what is still held back."""
        self._align()
        self._file.close()

    def _align(self) -> None:
        self._file.write(b"\0" * (-self._file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))

    def _type_of(self, tensor: Tensor) -> gguf.GGMLQuantizationType:
        return self._type if len(tensor.shape) == 2 else gguf.GGMLQuantizationType.F32


def paired(block: Floats, *, head_dim: int) -> Floats:
    """Rows of whole heads, reordered so that those that are turned together stand side by side."""
    halves = block.reshape(-1, 2, head_dim // 2, *block.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(block.shape)


def tensor_bytes(tensor: Tensor, kind: gguf.GGMLQuantizationType) -> int:
    """Size of a tensor in a GGUF file."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return tensor.size // block_size * block_bytes
