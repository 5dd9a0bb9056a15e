"""Facts from a model's folder: whole ones, damaged ones, absent ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import weights
from proxy.weights import UNKNOWN, Facts, facts, found, human_number

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 8192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "vocab_size": 100,
}


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]], *, data_bytes: int = 16) -> None:
    """A file with a true header and too few data, as far as a header's reader can see."""
    entries: dict[str, Any] = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * data_bytes)


def folder(at: Path, config: Any = None, **files: str) -> Path:
    """A model's folder; the files' names have `__` for a dot."""
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text(json.dumps(LLAMA if config is None else config))
    safetensors(at / "model.safetensors", {"embed.weight": ("BF16", [100, 64]), "lm_head.weight": ("BF16", [100, 64])})
    for name, text in files.items():
        (at / name.replace("__", ".")).write_text(text)
    return at


def test_a_whole_folder_tells_the_models_shape(tmp_path: Path) -> None:
    told = facts(folder(tmp_path / "m", LICENSE="Apache License"))
    assert told == Facts(
        architecture="llama",
        context_length=8192,
        embedding_length=64,
        block_count=2,
        feed_forward_length=128,
        head_count=4,
        head_count_kv=2,
        head_length=16,
        norm_epsilon=1e-5,
        rope_base=10000.0,
        vocab_size=100,
        parameter_count=2 * 100 * 64,
        size_bytes=(tmp_path / "m" / "model.safetensors").stat().st_size,
        quantization="BF16",
        license="Apache License",
        modified_ns=told.modified_ns,
    )
    assert told.cache_bytes_per_token() == 2 * 2 * 2 * 16 * 2
    assert told.cache_bytes_per_token("fp8_e4m3") == 2 * 2 * 2 * 16


def test_several_files_are_added_up(tmp_path: Path) -> None:
    made = folder(tmp_path)
    safetensors(made / "model-2.safetensors", {"x.weight": ("BF16", [10, 10])})
    assert facts(made).parameter_count == 2 * 6400 + 100


GROUPED: dict[str, Any] = {"quant_method": "compressed-tensors"}
INT4: dict[str, Any] = GROUPED | {"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}}
FP8: dict[str, Any] = GROUPED | {"config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}}


@pytest.mark.parametrize(
    ("quantization_config", "tensors", "level"),
    [
        ({"quant_method": "gptq", "bits": 4}, {"qweight": ("I32", [8, 64]), "scales": ("F16", [1, 64])}, "GPTQ-INT4"),
        ({"quant_method": "gptq", "bits": 8}, {"qweight": ("I32", [16, 64])}, "GPTQ-INT8"),
        ({"quant_method": "awq", "bits": 4}, {"qweight": ("I32", [64, 8]), "qzeros": ("I32", [1, 8])}, "AWQ"),
        ({"quant_method": "fp8"}, {"weight": ("F8_E4M3", [64, 64]), "weight_scale_inv": ("F32", [1, 1])}, "FP8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"weight": ("U8", [2048, 1])}, "BNB-INT4"),
        (INT4, {"weight_packed": ("I32", [64, 8]), "weight_shape": ("I64", [2])}, "INT4"),
        (FP8, {"weight": ("F8_E4M3", [64, 64])}, "FP8"),
        ({"quant_method": "mxfp4"}, {"w_blocks": ("U8", [64, 32]), "w_scales": ("U8", [64, 2])}, "MXFP4"),
        ({"quant_algo": "NVFP4"}, {"weight": ("U8", [64, 32])}, "NVFP4"),
    ],
)
def test_a_quantised_model_is_counted_in_weights_and_named_by_its_method(
    tmp_path: Path,
    quantization_config: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]]],
    level: str,
) -> None:
    made = folder(tmp_path, LLAMA | {"quantization_config": quantization_config})
    safetensors(made / "model.safetensors", {f"layer.q.{name}": tensor for name, tensor in tensors.items()})
    told = facts(made)
    assert (told.quantization, told.parameter_count) == (level, 64 * 64)


@pytest.mark.parametrize(
    ("dtype", "level"), [("float16", "F16"), ("torch.bfloat16", "BF16"), ("float32", "F32"), (None, "BF16")]
)
def test_an_unquantised_model_is_named_by_its_dtype(tmp_path: Path, dtype: str | None, level: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "dtype"}
    made = folder(tmp_path, config | ({"torch_dtype": dtype} if dtype else {}))
    assert facts(made).quantization == level


def test_a_vision_model_tells_its_language_part(tmp_path: Path) -> None:
    told = facts(folder(tmp_path, {"model_type": "qwen2_5_vl", "vision_config": {"depth": 3}, "text_config": LLAMA}))
    assert told.has_vision
    assert (told.architecture, told.embedding_length, told.block_count) == ("qwen2_5_vl", 64, 2)
    assert not facts(folder(tmp_path / "plain")).has_vision


def test_an_architecture_without_a_type_is_made_from_its_class(tmp_path: Path) -> None:
    assert facts(folder(tmp_path, {"architectures": ["Gemma3ForCausalLM"]})).architecture == "gemma3"


def test_compressed_attention_keeps_less_for_a_token(tmp_path: Path) -> None:
    told = facts(folder(tmp_path, LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}))
    assert told.cache_bytes_per_token() == 2 * (512 + 64) * 2


# ---------------------------------------------------------------- templates and tokens


@pytest.mark.parametrize(
    ("files", "has_tools", "is_thinking"),
    [
        ({"chat_template__jinja": "{% if tools %}x{% endif %}"}, True, False),
        ({"tokenizer_config__json": json.dumps({"chat_template": "<think></think>"})}, False, True),
        ({"tokenizer_config__json": json.dumps({"chat_template": [{"name": "t", "template": "tools"}]})}, True, False),
        ({"chat_template__json": json.dumps({"chat_template": "{{ enable_thinking }}"})}, False, True),
        ({"chat_template__jinja": "{{ content.split('</think>')[-1] }}"}, False, True),
        ({"chat_template__jinja": "{{ messages }}"}, False, False),
        ({}, None, None),
        ({"tokenizer_config__json": '{"chat_template": 3}'}, None, None),
    ],
)  # fmt: skip
def test_the_template_tells_tools_and_thinking(
    tmp_path: Path, files: dict[str, str], has_tools: bool | None, is_thinking: bool | None
) -> None:
    told = facts(folder(tmp_path, **files))
    assert (told.mentions_tools, told.mentions_thinking) == (has_tools, is_thinking)


def test_gpt_oss_thinks_whatever_its_template_says(tmp_path: Path) -> None:
    assert facts(folder(tmp_path, LLAMA | {"model_type": "gpt_oss"})).mentions_thinking


def added(*tokens: str) -> str:
    return json.dumps({"added_tokens_decoder": {str(i): {"content": token} for i, token in enumerate(tokens)}})


@pytest.mark.parametrize(
    "tokens",
    [
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ],
)
def test_fill_in_the_middle_tokens_are_found_in_the_order_of_use(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    made = folder(tmp_path, tokenizer_config__json=added(*reversed(tokens), "<other>"))
    assert facts(made).fim == tokens
    assert facts(folder(tmp_path / "two", tokenizer_config__json=added(*tokens[:2]))).fim is None


def test_tokens_are_found_in_a_tokenizer_file_without_reading_its_vocabulary(tmp_path: Path) -> None:
    listed = [{"id": 1, "content": token} for token in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")]
    text = json.dumps({"version": "1.0", "added_tokens": listed, "model": {}})
    made = folder(tmp_path, tokenizer_config__json="{}", tokenizer__json=text[:-1] + '"vocab": {"cut off')
    assert facts(made).fim == ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


# ---------------------------------------------------------------- where the folder is


def test_a_repository_is_found_in_the_cache_at_its_current_commit(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    for commit in ("aaa", "bbb"):
        folder(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa\n")
    place = found("org/name", hub=tmp_path)
    assert place == repository / "snapshots" / "aaa"
    assert facts(place).revision == "aaa"


def test_without_a_reference_the_latest_whole_snapshot_counts(tmp_path: Path) -> None:
    snapshots = tmp_path / "models--org--name" / "snapshots"
    folder(snapshots / "whole")
    (snapshots / "empty").mkdir()
    assert found("org/name", hub=tmp_path) == snapshots / "whole"


@pytest.mark.parametrize(
    "root", ["org/name", "", "/nowhere/at/all", "../..", "org/../x", "a/b/c", "x\0y", "~nobody-here/x", "s3://b/c"]
)
def test_what_is_not_on_this_machine_is_none(tmp_path: Path, root: str) -> None:
    assert found(root, hub=tmp_path) is None


def test_a_folder_is_itself(tmp_path: Path) -> None:
    made = folder(tmp_path / "m")
    assert found(str(made), hub=tmp_path) == made


def test_the_cache_is_where_its_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.hub_folder() == tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "/h")
    assert weights.hub_folder() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert weights.hub_folder() == Path("/c")


# ---------------------------------------------------------------- damage


def test_an_empty_folder_tells_nothing(tmp_path: Path) -> None:
    assert facts(tmp_path) == UNKNOWN
    assert facts(tmp_path / "nowhere") == UNKNOWN


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x01",
        (2**63).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe{}",
        (29).to_bytes(8, "little") + b'{"a":{"dtype":1,"shape":[1]}}',
    ],
)
def test_a_damaged_header_leaves_the_rest_known(tmp_path: Path, header: bytes) -> None:
    made = folder(tmp_path)
    (made / "model.safetensors").write_bytes(header)
    told = facts(made)
    assert told.parameter_count is None
    assert told.embedding_length == 64


def test_absurd_shapes_are_left_out(tmp_path: Path) -> None:
    made = folder(tmp_path)
    safetensors(
        made / "model.safetensors",
        {"a": ("BF16", [-5, 3]), "b": ("BF16", [2**60]), "c": ("BF16", [3] * 40), "d": ("BF16", [2, 3])},
    )
    assert facts(made).parameter_count == 6


def test_special_files_are_not_waited_for(tmp_path: Path) -> None:
    """A folder may hold a link to a device that never ends."""
    made = folder(tmp_path)
    (made / "chat_template.jinja").symlink_to("/dev/zero")
    (made / "LICENSE").symlink_to("/dev/zero")
    assert facts(made).template is None


@given(config=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                               st.sampled_from([*LLAMA, "text_config", "quantization_config", "vision_config", "bits",
                                                "quant_method", "config_groups", "weights"]), inner, max_size=6),
                           max_leaves=20))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_no_config_makes_it_raise(tmp_path: Path, config: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": config, "chat_template": config})
    )
    told = facts(tmp_path)
    told.cache_bytes_per_token()
    assert isinstance(told, Facts)


# ---------------------------------------------------------------- numbers and names


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "134.52M"),
        (1_543_714_304, "1.5B"),
        (8_000_000_000, "8B"),
        (7_000_000, "7M"),
        (1_500, "2K"),
        (999, "999"),
        (0, "0"),
        (999_999_999, "1000.00M"),
    ],
)
def test_numbers_are_printed_as_ollama_does(count: int, text: str) -> None:
    assert human_number(count) == text


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen2.5-1.5B-Instruct", 1_500_000_000),
        ("SmolLM2-135M", 135_000_000),
        ("Mixtral-8x7B-v0.1", 56_000_000_000),
        ("Qwen3-30B-A3B", 30_000_000_000),
        ("gpt-oss-20b", 20_000_000_000),
        ("bert-base", None),
        ("v1.5beta", None),
        ("m0b", None),
    ],
)
def test_a_name_may_tell_the_number_of_parameters(name: str, count: int | None) -> None:
    assert weights.parameters_in_name(name) == count


@pytest.mark.parametrize(
    ("name", "level"), [("Qwen3-8B-AWQ", "AWQ"), ("x-fp8", "FP8"), ("m-fp16", "F16"), ("hawqs", None), ("plain", None)]
)
def test_a_name_may_tell_the_precision(name: str, level: str | None) -> None:
    assert weights.quantization_in_name(name) == level


def test_tensors_are_listed_by_name_type_and_shape(tmp_path: Path) -> None:
    listed = weights.tensors(folder(tmp_path))
    assert (listed[0].name, listed[0].type, listed[0].shape) == ("embed.weight", "BF16", [100, 64])
