"""Synthetic models of a toy's shape: their files, read with the formats' own libraries, and what goes wrong."""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from harness import models
from harness.errors import ModelUnavailable, UsageError
from harness.models import tensors as shapes
from harness.models.fetch import models_folder
from harness.models.places import PRECISIONS, SYNTHESIS, Place
from harness.models.synth import quantise, quantiser, sizes, synthesise
from harness.models.weights import LEVELS, as_bfloat16, embedding_std, levels, output_ratio
from tests.fakes import toy_model
from tests.fakes.toy_model import NAME, SHAPE, TOKENS, made
from tests.fakes.transformer import Transformer, bfloat16_tensors

ROOT = Path(__file__).parents[4]
FAMILIES = ("smollm2-135m", "qwen2.5-1.5b")
HUB_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""llama.cpp's names and Hugging Face's, from llama.cpp's gguf-py (tensor_mapping.py)."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A toy of each family, in both precisions that are written here."""
    return {family: made(tmp_path_factory.mktemp(family), "f16", "q8_0", family=family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def toy(request, toys):
    return toys[request.param]


def of_vllm(place):
    return bfloat16_tensors(place.for_vllm / "model.safetensors")


def of_llama_cpp(place, precision="f16"):
    """All tensors under Hugging Face's names, unpacked by gguf's code."""
    found = {}
    for tensor in gguf.GGUFReader(place.gguf(precision)).tensors:
        stem, kind = tensor.name.rsplit(".", 1)
        layer, _, part = stem.removeprefix("blk.").rpartition(".")
        name = f"model.layers.{layer}.{HUB_NAMES[part]}" if layer else HUB_NAMES[part]
        found[f"{name}.{kind}"] = gguf.dequantize(tensor.data, tensor.tensor_type)
    return found


def keys_of(place, precision="f16"):
    return {name: field.contents() for name, field in gguf.GGUFReader(place.gguf(precision)).fields.items()}


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names_in(folder):
    """What lies in the folder, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.exists() else []


# ---------------------------------------------------------------- the files


def test_every_tensor_has_the_shape_that_the_architecture_asks_for(toy):
    config = Transformer(toy.for_vllm).config
    heads, kv_heads = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    hidden, wide, vocab = (config[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    layer = {
        "input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (heads, hidden), "self_attn.k_proj.weight": (kv_heads, hidden),
        "self_attn.v_proj.weight": (kv_heads, hidden), "self_attn.o_proj.weight": (hidden, heads),
        "mlp.gate_proj.weight": (wide, hidden), "mlp.up_proj.weight": (wide, hidden),
        "mlp.down_proj.weight": (hidden, wide),
    }  # fmt: skip
    if config["model_type"] == "qwen2":
        layer |= {
            f"self_attn.{one}_proj.bias": (size,) for one, size in zip("qkv", (heads, kv_heads, kv_heads), strict=True)
        }
    expected = {
        f"model.layers.{number}.{name}": shape for number in range(SHAPE.layers) for name, shape in layer.items()
    }
    expected |= {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden)}
    expected |= {"model.norm.weight": (hidden,)}
    for found in (of_vllm(toy), of_llama_cpp(toy), of_llama_cpp(toy, "q8_0")):
        assert {name: values.shape for name, values in found.items()} == expected


def test_both_engines_have_exactly_the_same_values(toys):
    """Qwen2's rows stand alike in both files; Llama's query and key rows do not, see the next test."""
    for family, place in toys.items():
        theirs = of_llama_cpp(place)
        for name, values in of_vllm(place).items():
            if family.startswith("qwen") or not name.endswith(("q_proj.weight", "k_proj.weight")):
                assert np.array_equal(values, theirs[name]), name


@pytest.mark.parametrize("name", ["q_proj", "k_proj"])
def test_llama_cpp_finds_rows_side_by_side_that_are_half_a_head_apart_for_vllm(toys, name):
    """llama.cpp turns rows 2i and 2i+1 of a head together, where transformers turns i and i + half."""
    ours = of_vllm(toys["smollm2-135m"])[f"model.layers.1.self_attn.{name}.weight"]
    theirs = of_llama_cpp(toys["smollm2-135m"])[f"model.layers.1.self_attn.{name}.weight"]
    half = SHAPE.head_dim // 2
    for head in range(len(ours) // SHAPE.head_dim):
        base = head * SHAPE.head_dim
        for i in (0, 1, half - 1):
            assert np.array_equal(theirs[base + 2 * i], ours[base + i])
            assert np.array_equal(theirs[base + 2 * i + 1], ours[base + i + half])


def test_8_bits_are_within_half_a_step_of_the_value(toy):
    """A block of 32 has steps of its largest value over 127, and that step is itself rounded to f16."""
    exact = of_llama_cpp(toy)
    for name, values in of_llama_cpp(toy, "q8_0").items():
        if values.ndim == 1:
            assert np.array_equal(values, exact[name])
            continue
        blocks = exact[name].reshape(-1, 32)
        step = np.abs(blocks).max(1, keepdims=True) / 127
        assert (np.abs(values.reshape(-1, 32) - blocks) <= step * 0.57).all()
        assert not np.array_equal(values, exact[name])


@pytest.mark.parametrize("like", sorted(models.entries()))
def test_every_value_of_every_shape_is_exact_in_bf16_and_in_f16(like):
    shape = models.entry(f"synth-{like}").shape
    inputs = {tensor.shape[1] for tensor in shapes.tensors(shape, shapes.FAMILIES[like]) if len(tensor.shape) == 2}
    deviations = [*(size**-0.5 for size in inputs), embedding_std(shape), embedding_std(shape) * output_ratio(shape)]
    for values in (*map(levels, deviations), levels(0.1), levels(0.1, mean=1.0)):
        assert len(np.unique(values)) >= LEVELS // 4
        assert np.isfinite(values).all()
        assert values.all()
        assert np.array_equal(values.astype(np.float16).astype(np.float32), values)
        assert not (values.view(np.uint32) & 0xFFFF).any()


def test_rounding_to_bfloat16_is_to_the_nearest_and_a_tie_to_the_even_one():
    step = 2.0**-7
    given = np.array([1 + step * 0.49, 1 + step * 0.51, 1 + step * 0.5, 1 + step * 1.5, -1 - step * 0.51], np.float32)
    assert as_bfloat16(given).tolist() == [1.0, 1 + step, 1.0, 1 + 2 * step, -1 - step]


def test_what_engines_read_beside_the_weights(toy):
    config, keys = Transformer(toy.for_vllm).config, keys_of(toy)
    arch = keys["general.architecture"]
    assert (arch, config["architectures"][0]) in {("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")}
    assert config["model_type"] == arch
    assert config["torch_dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is False
    pairs = {
        "block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "vocab_size": "vocab_size",
        "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
        "rope.freq_base": "rope_theta", "rope.dimension_count": "head_dim", "attention.key_length": "head_dim",
    }  # fmt: skip
    assert {key: keys[f"{arch}.{key}"] for key in pairs} == {key: config[theirs] for key, theirs in pairs.items()}
    assert keys[f"{arch}.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])
    assert (keys["general.file_type"], keys_of(toy, "q8_0")["general.file_type"]) == (1, 7)  # llama.h, llama_ftype


def test_the_sizes_that_are_looked_for_on_the_disk_are_those_of_the_files(toy):
    promised = sizes(toy_model.weights(), ("vllm", "f16", "q8_0"))
    found = {"f16": toy.gguf("f16"), "q8_0": toy.gguf("q8_0"), "vllm": toy.for_vllm / "model.safetensors"}
    for what, path in found.items():
        assert 0 <= promised[what] - path.stat().st_size < 17 << 20


# ---------------------------------------------------------------- seeds


def test_one_seed_gives_the_same_bytes(tmp_path):
    made(tmp_path / "a", "f16", "q8_0")
    made(tmp_path / "b", "q8_0")  # alone, and not beside another file
    made(tmp_path / "b", "f16")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_the_bytes_are_those_of_yesterday(toys):
    """Figures of two days are only comparable on the same weights; who changes them raises SYNTHESIS."""
    assert SYNTHESIS == 1
    embedding = of_vllm(toys["smollm2-135m"])["model.embed_tokens.weight"]
    first = of_vllm(toys["smollm2-135m"])["model.layers.0.self_attn.q_proj.weight"]
    assert hashlib.sha256(embedding.tobytes() + first.tobytes()).hexdigest()[:16] == "11a62bd03d0cb8e2"


def test_another_seed_gives_other_values_in_every_tensor(toys, tmp_path):
    other = of_vllm(made(tmp_path, seed=2))
    for name, values in of_vllm(toys["smollm2-135m"]).items():
        assert not np.array_equal(values, other[name]), name


def test_tensors_of_one_model_differ(toy):
    found = of_vllm(toy)
    alike = [values for name, values in found.items() if name.endswith(("gate_proj.weight", "up_proj.weight"))]
    assert len({values.tobytes() for values in alike}) == 2 * SHAPE.layers


# ---------------------------------------------------------------- what makes an answer as long as it was asked for


def test_output_rows_are_zero_but_for_plain_words(toy):
    rows = of_vllm(toy)["lm_head.weight"].any(1)
    texts = [TOKENS.texts[number] if number < len(TOKENS.texts) else "" for number in np.flatnonzero(rows)]
    assert texts == list(toy_model.WORDS)
    assert not {"<|im_end|>", "Ġcafé", "Ġ1", "Ġa1", "word", ""} & set(texts)


def test_after_a_word_comes_its_successor_and_no_answer_ends(toy):
    """By plain NumPy: the successor leads by far, the end has logit 0, and nothing is tied."""
    ids = np.random.default_rng(5).choice(len(TOKENS.texts), 96).tolist()
    logits = Transformer(toy.for_vllm).logits(ids)
    words, circle = set(TOKENS.words), toy_model.weights().circle.tolist()
    ordered = np.sort(logits, axis=-1)
    assert (ordered[:, -1] > 0).all()
    assert (ordered[:, -1] > ordered[:, -2]).all()
    assert set(logits.argmax(-1).tolist()) <= words
    assert not logits[:, TOKENS.end].any()
    after_words = [place for place, number in enumerate(ids) if number in words and place >= 8]
    for place in after_words:
        assert logits[place].argmax() == circle[(circle.index(ids[place]) + 1) % len(circle)]
    assert len(after_words) > 50


def test_the_circle_has_every_word_once_in_an_order_of_the_seed():
    first, second = (toy_model.weights(seed=seed).circle.tolist() for seed in (1, 2))
    assert sorted(first) == sorted(second) == list(TOKENS.words)
    assert first != second


def test_activations_stay_far_below_what_f16_holds(toy):
    model = Transformer(toy.for_vllm)
    model.logits(list(range(100)))
    assert 0.5 < model.last.std() < 20
    assert np.abs(model.last).max() < 200


# ---------------------------------------------------------------- memory


def test_no_tensor_is_ever_in_memory_as_a_whole(tmp_path):
    """Files of 400 MB, with tensors of 67 MB in 16 bits, by a process that grows by less than one of these."""
    code = (
        "import resource; from pathlib import Path; from tests.fakes import toy_model\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"before = peak(); toy_model.make_large(Path({str(tmp_path)!r})); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200, check=True
    )
    place = Place(tmp_path, NAME)
    written = place.gguf("f16").stat().st_size + (place.for_vllm / "model.safetensors").stat().st_size
    grown_bytes = int(done.stdout.splitlines()[-1]) * 1024
    shutil.rmtree(tmp_path)
    assert written > 400e6
    assert grown_bytes < 64e6


# ---------------------------------------------------------------- names


def test_a_synthetic_model_is_an_entry_like_any_other():
    entry, real = models.entry("synth-qwen2.5-1.5b"), models.entry("qwen2.5-1.5b")
    assert entry.name == "synth-qwen2.5-1.5b"
    assert entry.title == "random weights of Qwen2.5 1.5B's shape"
    assert not entry.shape.is_tied
    assert entry.shape.parameters == real.shape.parameters + real.shape.vocab * real.shape.hidden
    assert entry.gguf_file is not None
    assert entry.ollama_tags == {}
    assert models.entry("synth-llama-3.1-8b").shape == models.entry("llama-3.1-8b").shape


def test_the_seed_is_in_the_name_but_for_the_usual_one():
    assert models.entry("synth-smollm2-135m-seed7").name == "synth-smollm2-135m-seed7"
    assert models.entry("synth-smollm2-135m-seed1").name == "synth-smollm2-135m"
    assert models.place_of("smollm2-135m", seed=7, out=None).folder == models_folder() / "synth-smollm2-135m-seed7"
    assert models.place_of("smollm2-135m", seed=1, out=Path("/x")).folder == Path("/x/synth-smollm2-135m")


@pytest.mark.parametrize("name", ["synth-smollm", "synth-", "synth-smollm2-135m-seedy", "synth-synth-smollm2-135m"])
def test_an_unknown_synthetic_name_is_refused_with_the_closest_one(name):
    with pytest.raises(UsageError, match=name) as caught:
        models.files(name)
    assert "synth-smollm2-135m" in caught.value.hint


def test_only_synthetic_names_are_synthetic():
    assert models.is_synthetic("synth-llama-3.1-8b")
    assert not any(models.is_synthetic(name) for name in models.entries())


def test_harness_serve_takes_a_synthetic_name_for_what_it_is():
    found = models.registered("synth-smollm2-135m")
    assert found == models.entry("synth-smollm2-135m")
    assert models.short_tag(found) == "synth-smollm2-135m"


def test_nothing_is_made_by_asking_what_is_there():
    found = models.files("synth-smollm2-135m")
    assert found.is_synthetic
    assert (found.vllm_source, found.gguf_path, found.vllm_bytes, found.gguf_bytes) == (None,) * 4
    assert not models_folder().exists()


def test_a_model_in_the_cache_is_found_by_its_name_with_its_sizes():
    place = models.place_of("smollm2-135m", seed=3, out=None)
    toy = made(place.folder, "f16", "q8_0")
    for path in toy.folder.glob("*.gguf"):
        path.rename(path.with_name(path.name.replace(NAME, place.name)))
    found = models.files("synth-smollm2-135m-seed3")
    assert (found.vllm_precision, found.gguf_precision, found.ollama_tag) == ("bf16", "f16", None)
    assert found.vllm_bytes == (place.for_vllm / "model.safetensors").stat().st_size
    assert found.gguf_bytes == Path(found.gguf_path).stat().st_size
    smaller = models.files("synth-smollm2-135m-seed3", precision="q8_0")
    assert Path(smaller.gguf_path) == place.gguf("q8_0")
    assert smaller.gguf_bytes < found.gguf_bytes
    assert models.files("synth-smollm2-135m-seed3", precision="q4_k_m").gguf_path is None
    assert [entry.name for entry in models.made()] == ["synth-smollm2-135m-seed3"]
    # all that is asked for is there, so that neither a tokenizer nor a lock is wanted
    said = []
    again = models.fetch("synth-smollm2-135m-seed3", vllm_python=None, precision="q8_0", say=said.append)
    assert (again, said) == (smaller, [])


# ---------------------------------------------------------------- what cannot be


def command(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "harness", "models", "synth", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--like", "gpt-5"], "no model is called 'gpt-5'", "known: llama-3.1-8b"),
        (["--like", "smollm2-135"], "no model is called", "did you mean 'smollm2-135m'"),
        (["--like", "smollm2-135m", "--precision", "f16,q2_k"], "no synthetic weights in q2_k", "f16, q8_0, q4_k_m"),
        (["--like", "smollm2-135m", "--seed", "-1"], "--seed", "--help"),
        ([], "--like", "--help"),
    ],
)
def test_bad_words_are_refused_before_anything_is_written(words, message, hint, tmp_path):
    done = command(*words, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 1 << 20))
    with pytest.raises(ModelUnavailable, match=r"needs 0\.0 GiB, and .* has 0\.0 GiB left") as caught:
        made(tmp_path / "toy")
    assert "--out DIR" in caught.value.hint
    assert names_in(tmp_path / "toy") == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelUnavailable, match="Not a directory") as caught:
        made(tmp_path / "file" / "toy")
    assert str(tmp_path / "file") in caught.value.message


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    """A limit on the size of a file stands for a disk that fills up although there was room at first."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150 << 20, 150 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.toy_model", str(tmp_path / "toy")],
        cwd=ROOT, preexec_fn=limited, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ModelUnavailable" in done.stderr
    assert "File too large" in done.stderr
    assert names_in(tmp_path / "toy") == []


def test_a_killed_writer_leaves_no_file_that_looks_whole_and_the_next_one_clears_up(tmp_path):
    child = subprocess.Popen([sys.executable, "-m", "tests.fakes.toy_model", str(tmp_path)], cwd=ROOT)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*/*.gguf")):
        assert time.monotonic() < until, "the writer never began"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert all(name.startswith(".partial-") for name in names_in(tmp_path))
    assert Place(tmp_path, NAME).missing(("f16",)) == ("vllm", "f16")
    place = made(tmp_path)
    assert names_in(tmp_path) == sorted([place.for_vllm.name, place.gguf("f16").name])


def test_what_is_there_is_not_written_again(tmp_path):
    place = made(tmp_path)
    before = place.gguf("f16").stat().st_mtime_ns, place.for_vllm.stat().st_mtime_ns
    made(tmp_path, "f16", "q8_0")
    assert (place.gguf("f16").stat().st_mtime_ns, place.for_vllm.stat().st_mtime_ns) == before
    assert place.gguf("q8_0").exists()


# ---------------------------------------------------------------- the quantiser


def program(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_without_a_quantiser_4_bits_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="no quantiser for q4_k_m") as caught:
        synthesise("smollm2-135m", seed=1, precisions=("q4_k_m",), out=tmp_path / "out", say=print)
    assert "f16 and q8_0 need neither" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_ollamas_own_quantiser_is_found_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin" / "ollama", "exit 1")
    with pytest.raises(ModelUnavailable):  # an older Ollama, which brings none
        quantiser()
    beside = program(tmp_path / "lib" / "ollama" / "llama-quantize", "exit 1")
    assert quantiser() == beside
    on_path = program(tmp_path / "bin" / "llama-quantize", "exit 1")
    assert quantiser() == on_path


def test_the_quantiser_starts_from_the_exact_file_and_says_the_precision(tmp_path, monkeypatch):
    program(tmp_path / "bin" / "llama-quantize", 'cp "$1" "$2" && printf %s "$3" >> "$2"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    place = made(tmp_path / "toy", "q4_k_m")
    assert place.gguf("q4_k_m").read_bytes() == place.gguf("f16").read_bytes() + b"Q4_K_M"
    assert place.missing(PRECISIONS) == ("q8_0",)


def test_a_quantiser_that_fails_leaves_the_other_files_and_its_last_words(tmp_path, monkeypatch):
    program(tmp_path / "bin" / "llama-quantize", 'head -c 99 "$1" > "$2"; echo "main: failed to quantize" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(ModelUnavailable, match="main: failed to quantize"):
        made(tmp_path / "toy", "q4_k_m")
    place = Place(tmp_path / "toy", NAME)
    assert names_in(place.folder) == sorted([place.for_vllm.name, place.gguf("f16").name])


def test_a_quantiser_that_writes_nothing_is_no_success(tmp_path, monkeypatch):
    program(tmp_path / "bin" / "llama-quantize", "echo usage")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(ModelUnavailable, match="usage"):
        quantise(tmp_path / "from.gguf", tmp_path / "to.gguf")
