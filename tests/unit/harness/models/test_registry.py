"""The TOML files of cards, targets and models say what the records ask for, and agree with each other."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from harness import models
from harness.errors import UsageError
from harness.records import GpuProfile, ModelEntry, Target

HARNESS = Path(models.__file__).parents[1]
GPUS = tomllib.loads((HARNESS / "gpus.toml").read_text())
TARGETS = tomllib.loads((HARNESS / "targets.toml").read_text())["target"]
MODELS = tomllib.loads((HARNESS / "models" / "registry.toml").read_text())

KNOWN_CARDS = {"rtx4090", "rtx3090", "rtx4060", "rtx5090", "a100", "l4", "h100", "h200", "m3max", "cpu"}
WITHOUT_NVML = {"m3max", "cpu"}
KNOWN_MODELS = {"smollm2-135m", "qwen2.5-1.5b", "llama-3.2-3b", "llama-3.1-8b"}

# Bits on the memory bus and Gbit/s per pin, as the makers of the memory give them; GDDR only.
MEMORY_BUS = {
    "rtx4090": (384, 21.0),
    "rtx3090": (384, 19.5),
    "rtx4060": (128, 17.0),
    "rtx5090": (512, 28.0),
    "l4": (192, 12.5),
}


def profile(name: str) -> GpuProfile:
    return msgspec.convert({"name": name, **GPUS[name]}, GpuProfile, strict=True)


def targets() -> list[Target]:
    return [msgspec.convert(row, Target, strict=True) for row in TARGETS]


# ---------------------------------------------------------------- cards


def test_the_known_cards_are_all_there():
    assert set(GPUS) == KNOWN_CARDS


@pytest.mark.parametrize("name", sorted(KNOWN_CARDS))
def test_a_profile_is_a_record_whose_ladders_ascend(name):
    card = profile(name)
    for ladder in (card.search.max_num_batched_tokens, card.search.max_num_seqs, card.search.max_model_len):
        assert ladder == tuple(sorted(set(ladder)))
        assert min(ladder) > 0
    # vLLM refuses to start otherwise
    assert min(card.search.max_num_batched_tokens) >= max(card.search.max_num_seqs)


@pytest.mark.parametrize("name", sorted(KNOWN_CARDS))
def test_the_default_model_of_a_card_is_in_the_registry_and_needs_no_licence(name):
    assert not models.entry(profile(name).default_model).is_gated


@pytest.mark.parametrize("name", sorted(KNOWN_CARDS - {"cpu"}))
def test_a_card_has_memory_bandwidth_a_source_and_names(name):
    card = profile(name)
    assert not card.is_cpu
    assert card.memory_bytes is not None
    assert card.bandwidth_bytes_s is not None
    assert card.source
    assert bool(card.nvml_names) == (name not in WITHOUT_NVML)
    assert card.memory_bytes % 2**30 == 0
    if card.nvml_names:  # Apple's GPU has a part of the memory that the title names
        assert f"{card.memory_bytes // 2**30} GB" in card.title


@pytest.mark.parametrize("name", sorted(MEMORY_BUS))
def test_the_bandwidth_is_the_bus_width_times_the_rate_of_a_pin(name):
    bits, gbit_s = MEMORY_BUS[name]
    assert profile(name).bandwidth_bytes_s == pytest.approx(bits / 8 * gbit_s * 1e9, rel=0.001)


def test_no_two_cards_share_a_name_of_nvml():
    names = [name.casefold() for card in KNOWN_CARDS for name in profile(card).nvml_names]
    assert len(names) == len(set(names))


def test_the_ladders_of_the_4090_are_those_of_the_plan():
    search = profile("rtx4090").search
    assert search.max_num_batched_tokens == (2048, 4096, 8192, 16384)
    assert search.max_num_seqs == (32, 64, 128, 256)
    assert search.max_model_len == (2048, 4096, 8192)


def test_the_cpu_starts_vllm_without_compilation():
    cpu = profile("cpu")
    assert cpu.is_cpu
    assert cpu.memory_bytes is None
    assert cpu.vllm_flags == {"enforce-eager": True}
    assert cpu.vllm_env == {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}


# ---------------------------------------------------------------- targets


def test_the_targets_are_those_of_the_planning_document():
    rows = {t.name: (t.scenario, t.users, t.done_ratio, t.target_ratio, t.stretch_ratio) for t in targets()}
    assert rows == {
        "sequential": ("sequential", 1, 2.0, 2.0, 5.0),
        "concurrent-5": ("concurrent", 5, 1.5, 2.0, None),
        "concurrent-50": ("concurrent", 50, 1.5, 2.0, None),
        "streaming": ("streaming", 1, 1.5, 2.0, None),
    }
    assert {t.name: (t.then_s, t.absolute_s) for t in targets()} == {
        "sequential": (0.232, 0.2),
        "concurrent-5": (7.57, 3.0),
        "concurrent-50": (None, None),
        "streaming": (0.617, 0.5),
    }


def test_seconds_are_targets_only_on_the_card_and_model_they_were_set_for():
    for target in targets():
        is_absolute = target.absolute_s is not None
        assert (target.absolute_metric is not None) == is_absolute
        assert (target.gpu, target.model) == (("rtx4090", "qwen2.5-1.5b") if is_absolute else (None, None))


def test_a_target_is_never_below_what_counts_as_done():
    for target in targets():
        assert 1 < target.done_ratio <= target.target_ratio <= (target.stretch_ratio or target.target_ratio)


# ---------------------------------------------------------------- models


def test_entries_are_the_models_of_the_file():
    assert set(models.entries()) == set(MODELS) == KNOWN_MODELS
    assert all(name == entry.name for name, entry in models.entries().items())


@pytest.mark.parametrize("name", sorted(KNOWN_MODELS))
def test_a_shape_has_as_many_parameters_as_the_hub_counts(name):
    """Llama's and Qwen2's layers by the formula; Qwen2 alone has biases, on query, key and value."""
    s = models.entry(name).shape
    attention = s.hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    biases = s.head_dim * (s.heads + 2 * s.kv_heads) if name.startswith("qwen") else 0
    layer = attention + biases + 3 * s.hidden * s.intermediate + 2 * s.hidden
    embeddings = s.vocab * s.hidden * (1 if s.is_tied else 2)
    assert s.parameters == s.layers * layer + s.hidden + embeddings


@pytest.mark.parametrize("name", sorted(KNOWN_MODELS))
def test_a_model_has_an_ollama_tag_for_its_default_and_for_16_bit(name):
    entry = models.entry(name)
    assert entry.ollama_default in entry.ollama_tags
    assert entry.ollama_tags["f16"].endswith("-fp16")
    for precision, tag in entry.ollama_tags.items():
        assert tag.lower().replace("fp16", "f16").endswith(f"-{precision}")


@pytest.mark.parametrize("name", sorted(KNOWN_MODELS))
def test_only_metas_models_are_gated(name):
    entry = models.entry(name)
    assert entry.is_gated == entry.hf_id.startswith("meta-llama/")
    assert entry.license == ("apache-2.0" if not entry.is_gated else "llama3.1" if "3.1" in name else "llama3.2")


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "llama3.1:8b", "meta-llama/Llama-3.1-8B-Instruct", "META-LLAMA/llama-3.1-8b-instruct"]
)
def test_a_model_is_found_by_its_names_on_both_sides(name):
    assert models.entry(name).name == "llama-3.1-8b"


def test_no_two_models_share_a_name():
    names = [
        name.casefold() for one in models.entries().values() for name in (one.name, one.hf_id, models.short_tag(one))
    ]
    assert len(set(names)) == len(names)


def test_a_tag_that_names_a_precision_is_refused_with_the_name_to_use():
    with pytest.raises(UsageError, match=r"llama3\.1:8b-instruct-q8_0 is llama-3\.1-8b in q8_0") as caught:
        models.entry("llama3.1:8b-instruct-q8_0")
    assert caught.value.hint == "say llama-3.1-8b"


def test_an_unknown_model_is_refused_with_the_closest_name_and_the_list():
    with pytest.raises(UsageError) as caught:
        models.entry("qwen-1.5b")
    assert "qwen-1.5b" in caught.value.message
    assert "did you mean 'qwen2.5-1.5b'" in caught.value.hint
    assert all(name in caught.value.hint for name in KNOWN_MODELS)


def test_a_misspelled_key_is_refused():
    """Strict decoding is what all tests above rely on."""
    with pytest.raises(msgspec.ValidationError, match="licence"):
        msgspec.convert({"name": "x", **MODELS["smollm2-135m"], "licence": "MIT"}, ModelEntry, strict=True)
