"""Makes synthetic models: random weights of a known shape, the same values for every engine. See places.py."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import gguf

from harness.errors import ModelUnavailable
from harness.models import tokens as tokenizer
from harness.models.fetch import PARTIAL, Say, bring, gib, last_error, locked, sweep
from harness.models.formats import GGUF_TYPES, HEADER_ROOM_BYTES, GgufFile, SafetensorsFile, WeightsFile, tensor_bytes
from harness.models.places import PRECISIONS, Place, checked, files_at, place_of
from harness.models.registry import DEFAULT_SEED, entry, synthetic_parts
from harness.models.tensors import FAMILIES
from harness.models.tokens import Tokens
from harness.models.weights import Weights
from harness.records import ModelFiles

Q4_K_M_BITS: Final = 5.2
"""Bits a weight, with those tensors that the mixture keeps at 6 bits; for the check of the disk."""


def fetch(name: str, *, precision: str | None, say: Say) -> ModelFiles:
    """Makes the synthetic model of that name, where it is not there yet, as `fetch.fetch` brings another one."""
    like, seed = synthetic_parts(entry(name).name) or (name, DEFAULT_SEED)
    return synthesise(like, seed=seed, precisions=(precision or PRECISIONS[0],), out=None, say=say)


def synthesise(like: str, *, seed: int, precisions: Sequence[str], out: Path | None, say: Say) -> ModelFiles:
    """Writes random weights of the shape of a registry model, where they are not there yet.

    Args:     precisions: of the GGUF files, any of PRECISIONS. The safetensors are bfloat16.
              out: in place of the cache's folder of models.
    Raises:   UsageError: a name or a precision. ModelUnavailable: no room, no rights, no quantiser, no tokenizer.
    """
    place = place_of(like, seed=seed, out=out)
    if place.missing(checked(precisions)):
        model = entry(place.name)
        if "q4_k_m" in place.missing(precisions):
            quantiser()  # or minutes of writing would be in vain
        vocabulary = tokenizer.read(bring(entry(tokenizer.SOURCE), vllm_python=None, say=say))
        weights = Weights(model.shape, FAMILIES[like], words=vocabulary.words, seed=seed)
        make(weights, vocabulary, place, title=f"{model.title}, seed {seed}", precisions=precisions, say=say)
    return files_at(place, precision=precisions[0])


def make(
    weights: Weights, vocabulary: Tokens, place: Place, *, title: str, precisions: Sequence[str], say: Say
) -> None:
    """Makes what is missing at the place. A file gets its name when it is whole."""
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        with locked(place.folder / ".lock", say=say):
            sweep(place.folder)
            wanted = place.missing(precisions)
            refuse_without_room(place.folder, needed_bytes=sum(sizes(weights, wanted).values()))
            began = time.monotonic()
            say(f"{place.name}: writing {title}: {', '.join(sized(weights, wanted))}")
            with tempfile.TemporaryDirectory(dir=place.folder, prefix=PARTIAL) as scratch:
                drafts = Place(Path(scratch), place.name)
                write(weights, vocabulary, drafts, title=title, wanted=wanted)
                publish(drafts, place, wanted=wanted)
                if "q4_k_m" in wanted:
                    quantise(place.gguf("f16"), drafts.gguf("q4_k_m"))
                    publish(drafts, place, wanted=["q4_k_m"])
            say(f"{place.name}: made in {time.monotonic() - began:.0f} s")
    except OSError as error:
        raise ModelUnavailable(
            f"{place.name} could not be written to {place.folder}: {error.strerror or error}",
            hint="make room there, or name another folder: --out DIR, or XDG_CACHE_HOME=/path",
        ) from error


def write(weights: Weights, vocabulary: Tokens, place: Place, *, title: str, wanted: Sequence[str]) -> None:
    """All files that are written here, each block of rows into all of them before the next is drawn."""
    with contextlib.ExitStack() as closing:
        files = begun(weights, vocabulary, place, title=title, wanted=wanted)
        for file in files:
            closing.callback(file.close)
        for tensor in weights.tensors if files else ():
            for block in weights.blocks(tensor):
                for file in files:
                    file.append(tensor, block)


def begun(
    weights: Weights, vocabulary: Tokens, place: Place, *, title: str, wanted: Sequence[str]
) -> list[WeightsFile]:
    """The wanted files with all that stands before the tensors."""
    files: list[WeightsFile] = [
        GgufFile(
            place.gguf(precision),
            weights.tensors,
            architecture=weights.family.model_type,
            precision=precision,
            is_paired=weights.family.is_paired,
            describe=lambda header: describe_for_llama_cpp(header, weights, vocabulary, title=title),
        )
        for precision in GGUF_TYPES
        if precision in wanted
    ]
    if "vllm" in wanted:
        describe_for_vllm(weights, vocabulary, place.for_vllm)
        files.append(SafetensorsFile(place.for_vllm / "model.safetensors", weights.tensors))
    return files


def publish(drafts: Place, place: Place, *, wanted: Iterable[str]) -> None:
    """Gives whole files their names, all but the one that is still to be quantised."""
    for what in wanted:
        draft, final = (drafts.for_vllm, place.for_vllm) if what == "vllm" else (drafts.gguf(what), place.gguf(what))
        if draft.exists():
            draft.replace(final)


# ---------------------------------------------------------------- room


def sizes(weights: Weights, wanted: Iterable[str]) -> dict[str, int]:
    """Bytes of each wanted file, rather too many than too few."""
    count = sum(tensor.size for tensor in weights.tensors)
    found = {"vllm": 2 * count, "q4_k_m": int(count * Q4_K_M_BITS / 8)}
    for precision, (kind, _) in GGUF_TYPES.items():
        plain = gguf.GGMLQuantizationType.F32
        found[precision] = sum(tensor_bytes(one, kind if len(one.shape) == 2 else plain) for one in weights.tensors)
    return {what: found[what] + HEADER_ROOM_BYTES for what in wanted}


def sized(weights: Weights, wanted: Iterable[str]) -> list[str]:
    """The wanted files for people."""
    return [
        f"{'safetensors' if what == 'vllm' else what} {gib(size_bytes)}"
        for what, size_bytes in sizes(weights, wanted).items()
    ]


def refuse_without_room(folder: Path, *, needed_bytes: int) -> None:
    """Nothing, where the disk has room. Raises: ModelUnavailable."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ModelUnavailable(
            f"{folder.name} needs {gib(needed_bytes)}, and {folder} has {gib(free_bytes)} left",
            hint="make room there, or name another folder: --out DIR, or XDG_CACHE_HOME=/path",
        )


# ---------------------------------------------------------------- what stands beside the weights


def describe_for_vllm(weights: Weights, vocabulary: Tokens, folder: Path) -> None:
    """A new folder with all that vLLM wants beside the weights."""
    shape, family = weights.shape, weights.family
    special = {"bos_token_id": vocabulary.begin, "eos_token_id": vocabulary.end, "pad_token_id": vocabulary.end}
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_context_tokens,
        "rope_theta": family.rope_theta,
        "rms_norm_eps": family.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_cache": True,
        **special,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    tokenizer.write_for_hub(folder, vocabulary)


def describe_for_llama_cpp(header: gguf.GGUFWriter, weights: Weights, vocabulary: Tokens, *, title: str) -> None:
    """The keys of a GGUF file."""
    shape, family = weights.shape, weights.family
    header.add_name(title)
    header.add_block_count(shape.layers)
    header.add_context_length(shape.max_context_tokens)
    header.add_embedding_length(shape.hidden)
    header.add_feed_forward_length(shape.intermediate)
    header.add_head_count(shape.heads)
    header.add_head_count_kv(shape.kv_heads)
    header.add_key_length(shape.head_dim)
    header.add_value_length(shape.head_dim)
    header.add_rope_dimension_count(shape.head_dim)
    header.add_rope_freq_base(family.rope_theta)
    header.add_layer_norm_rms_eps(family.norm_eps)
    header.add_vocab_size(shape.vocab)
    tokenizer.add_to_gguf(header, vocabulary, vocab=shape.vocab)


# ---------------------------------------------------------------- llama.cpp's quantiser


def quantiser() -> Path:
    """llama-quantize: the one on PATH, or the one that the Ollama on PATH quantises with.

    Raises: ModelUnavailable where there is neither.
    """
    found, ollama = shutil.which("llama-quantize"), shutil.which("ollama")
    if found is not None:
        return Path(found)
    if ollama is not None:
        beside = Path(ollama).resolve().parents[1] / "lib" / "ollama" / "llama-quantize"
        if os.access(beside, os.X_OK):
            return beside
    raise ModelUnavailable(
        "there is no quantiser for q4_k_m: no llama-quantize on PATH, and none beside an Ollama there",
        hint="install Ollama 0.33 or newer, or llama.cpp; f16 and q8_0 need neither",
    )


def quantise(source: Path, target: Path) -> None:
    """Writes the f16 file as Q4_K_M, as Ollama does. Raises: ModelUnavailable."""
    program = quantiser()
    ended = subprocess.run(
        [str(program), str(source), str(target), "Q4_K_M"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode != 0 or not target.is_file():
        raise ModelUnavailable(
            f"{program} could not make {target.name}: {last_error(ended.stderr + ended.stdout)}",
            hint="leave q4_k_m out, or put another llama-quantize on PATH",
        )
