"""A GGUF file of 16 bits, made once from a quantised one beside it.

Its weights are what `convert.py` unpacks for vLLM, there rounded to bf16 and here to f16: as near as two files of the
same size come.
"""

import tempfile
from pathlib import Path
from typing import Final

import gguf
import msgspec
import numpy as np

from harness.errors import ModelUnavailable, UsageError
from harness.models.fetch import PARTIAL, Say, gib, locked
from harness.records import ModelFiles

SIXTEEN_BIT: Final = frozenset({"f16", "fp16", "float16", "bf16", "bfloat16"})
MADE_BY_WRITER: Final = (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.QUANTIZATION_VERSION)
"""Keys that are not copied: the writer sets them itself, or there is nothing left that they speak of."""


def with_f16(files: ModelFiles, *, say: Say) -> ModelFiles:
    """The same model with a GGUF file of 16 bits, unpacked where it is not there yet; one of 16 bits stays as it is.

    Raises: UsageError: the model has no GGUF file.  ModelUnavailable: it cannot be read, or no file be written.
    """
    if files.gguf_path is None:
        raise UsageError(f"{files.model} has no GGUF file here", hint=f"run: harness models fetch {files.model}")
    if files.gguf_precision in SIXTEEN_BIT:
        return files
    source = Path(files.gguf_path)
    target = source.with_name(f"{source.stem.rpartition('.')[0] or source.stem}.from-{files.gguf_precision}.F16.gguf")
    if not target.exists():
        say(f"{files.model}: unpacking {source.name} to 16 bits, once")
        try:
            with (
                locked(source.parent / ".lock", say=say),
                tempfile.TemporaryDirectory(dir=source.parent, prefix=PARTIAL) as scratch,
            ):
                draft = Path(scratch) / target.name
                unpack(source, draft)
                draft.replace(target)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(
                f"{source} could not be unpacked to 16 bits: {error}",
                hint=f"make room in {source.parent}, or fetch the file anew: harness models fetch {files.model}",
            ) from error
        say(f"{files.model}: {target.name}, {gib(target.stat().st_size)}")
    return msgspec.structs.replace(files, gguf_path=str(target), gguf_precision="f16", gguf_bytes=target.stat().st_size)


def unpack(source: Path, target: Path) -> None:
    """Writes `target`: all that `source` says of itself, its matrices as 16-bit floats. One tensor at a time.

    Raises: ValueError: `source` is no whole GGUF file.  OSError: `target` cannot be written.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE)
    if architecture is None:
        raise ValueError(f"{source.name} does not name its architecture")
    writer = gguf.GGUFWriter(target, architecture.contents())
    try:
        for field in reader.fields.values():
            if field.name not in MADE_BY_WRITER and not field.name.startswith("GGUF."):
                kind = field.types[0]
                items = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                value = gguf.LlamaFileType.MOSTLY_F16 if field.name == gguf.Keys.General.FILE_TYPE else field.contents()
                writer.add_key_value(field.name, value, kind, sub_type=items)
        for tensor in reader.tensors:
            dtype = width(tensor)
            shape = tuple(int(size) for size in reversed(tensor.shape))
            writer.add_tensor_info(tensor.name, shape, np.dtype(dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            writer.write_tensor_data(values.astype(width(tensor)))
    finally:
        writer.close()


def width(tensor: gguf.ReaderTensor) -> type[np.float16] | type[np.float32]:
    """Vectors (norms) stay as they are: llama.cpp wants them in 32 bits."""
    return np.float32 if len(tensor.shape) < 2 else np.float16
