"""A quantised GGUF file as one of 16 bits."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from harness.errors import ModelUnavailable, UsageError
from harness.models.gguf_f16 import unpack, with_f16
from harness.records import ModelFiles

ROWS, COLUMNS = 4, 64


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    """A file of one matrix in Q8_0, one vector, and some words about itself."""
    path = tmp_path / "Tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_token_list(["<a>", "b", "c"])
    writer.add_quantization_version(2)
    matrix = np.linspace(-1, 1, ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    packed = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.arange(COLUMNS, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_matrices_become_their_own_values_in_16_bits_and_vectors_stay(quantised: Path, tmp_path: Path) -> None:
    unpack(quantised, tmp_path / "out.gguf")
    old, new = ({one.name: one for one in gguf.GGUFReader(path).tensors} for path in (quantised, tmp_path / "out.gguf"))
    matrix, vector = new["blk.0.attn_q.weight"], new["output_norm.weight"]
    assert matrix.tensor_type == gguf.GGMLQuantizationType.F16
    assert list(matrix.shape) == [COLUMNS, ROWS]
    packed = old["blk.0.attn_q.weight"]
    expected = gguf.dequantize(packed.data, packed.tensor_type).astype(np.float16)
    assert np.array_equal(matrix.data, expected)
    assert vector.tensor_type == gguf.GGMLQuantizationType.F32
    assert np.array_equal(vector.data, np.arange(COLUMNS, dtype=np.float32))


def test_what_the_file_says_of_itself_is_kept_but_for_its_precision(quantised: Path, tmp_path: Path) -> None:
    unpack(quantised, tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    told = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert told["general.name"] == "Tiny"
    assert told["general.architecture"] == "llama"
    assert told["tokenizer.ggml.tokens"] == ["<a>", "b", "c"]
    assert told["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16
    assert "general.quantization_version" not in told


def test_the_file_is_made_once_and_lies_beside_the_other(quantised: Path) -> None:
    said: list[str] = []
    files = ModelFiles(model="tiny", gguf_path=str(quantised), gguf_precision="q8_0", vllm_source="x")
    made = with_f16(files, say=said.append)
    assert made.gguf_path is not None
    assert (made.gguf_precision, made.vllm_source) == ("f16", "x")
    path = Path(made.gguf_path)
    assert path.parent == quantised.parent
    assert made.gguf_bytes == path.stat().st_size
    assert said
    born = path.stat().st_mtime_ns
    assert with_f16(files, say=said.append) == made
    assert path.stat().st_mtime_ns == born
    assert not list(quantised.parent.glob(".partial-*"))


def test_a_file_of_16_bits_stays_as_it_is() -> None:
    files = ModelFiles(model="tiny", gguf_path="/nowhere.gguf", gguf_precision="f16")
    assert with_f16(files, say=print) == files


def test_no_file_and_no_gguf_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no GGUF file"):
        with_f16(ModelFiles(model="tiny"), say=print)
    broken = tmp_path / "Broken.Q8_0.gguf"
    broken.write_bytes(b"GGUF but not really" * 9)
    with pytest.raises(ModelUnavailable, match="could not be unpacked"):
        with_f16(ModelFiles(model="tiny", gguf_path=str(broken), gguf_precision="q8_0"), say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "Broken.Q8_0.gguf"]
