"""Where synthetic models lie, and which of them are there.

    <models>/synth-qwen2.5-1.5b/             seed 1; another seed N: synth-qwen2.5-1.5b-seedN
        vllm-bf16-<n>/                       safetensors, config and tokenizer; <n> is SYNTHESIS
        synth-qwen2.5-1.5b-<n>.f16.gguf      exactly the same values; .q8_0 and .q4_k_m are quantised from them
        .partial-*  .lock                    as in fetch.py

<models> is the cache's folder, where --model finds them by name, or the one of --out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.config import unknown_name
from harness.errors import UsageError
from harness.models.fetch import models_folder, size_of
from harness.models.registry import entries, entry, synthetic_parts
from harness.records import ModelEntry, ModelFiles

SYNTHESIS: Final = 1  # raise it when other values come out, so that no old file is used
PRECISIONS: Final = ("f16", "q8_0", "q4_k_m")
"""Of GGUF files. The first is what a name alone means; the last takes llama.cpp's quantiser."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one synthetic model lies, whether it is there yet or not."""

    folder: Path
    name: str

    @property
    def for_vllm(self) -> Path:
        """The folder that vLLM loads."""
        return self.folder / f"vllm-bf16-{SYNTHESIS}"

    def gguf(self, precision: str) -> Path:
        """The GGUF file in this precision."""
        return self.folder / f"{self.name}-{SYNTHESIS}.{precision}.gguf"

    @property
    def gguf_paths(self) -> dict[str, str]:
        """The GGUF files that are there, by precision."""
        return {precision: str(self.gguf(precision)) for precision in PRECISIONS if self.gguf(precision).is_file()}

    def missing(self, precisions: Sequence[str]) -> tuple[str, ...]:
        """What must be made for these precisions; "vllm" is the folder. The quantiser starts from f16."""
        wanted = {*precisions} | ({"f16"} if "q4_k_m" in precisions else set())
        lacks = [precision for precision in PRECISIONS if precision in wanted and not self.gguf(precision).exists()]
        return (*(() if self.for_vllm.exists() else ("vllm",)), *lacks)


def place_of(like: str, *, seed: int, out: Path | None) -> Place:
    """Where the model lies that is like this one. Raises: UsageError for a name that is not in the registry."""
    if like not in entries():
        raise unknown_name("model", like, entries())
    name = entry(f"synth-{like}-seed{seed}").name
    return Place((out or models_folder()).absolute() / name, name)


def files(name: str, *, precision: str | None = None) -> ModelFiles:
    """What this machine has of the synthetic model; nothing is made. Raises: UsageError for an unknown name.

    Args:     precision: of the GGUF file. None: f16, whose values are those of the safetensors.
    """
    here = Place(models_folder() / entry(name).name, entry(name).name)
    return files_at(here, precision=checked([precision or PRECISIONS[0]])[0])


def files_at(place: Place, *, precision: str) -> ModelFiles:
    """What lies there, with the GGUF file of this precision."""
    path, has_vllm = place.gguf(precision), place.for_vllm.is_dir()
    has_gguf = path.is_file()
    return ModelFiles(
        model=place.name,
        vllm_source=str(place.for_vllm) if has_vllm else None,
        vllm_precision="bf16" if has_vllm else "",
        vllm_bytes=size_of(place.for_vllm.glob("*.safetensors")) if has_vllm else None,
        gguf_path=str(path) if has_gguf else None,
        gguf_precision=precision if has_gguf else "",
        gguf_bytes=path.stat().st_size if has_gguf else None,
        is_synthetic=True,
    )


def made() -> list[ModelEntry]:
    """The synthetic models in the cache's folder."""
    found = [path for path in sorted(models_folder().glob("synth-*")) if synthetic_parts(path.name)]
    places = [Place(path, path.name) for path in found]
    return [entry(one.name) for one in places if one.for_vllm.is_dir() or one.gguf_paths]


def checked(precisions: Sequence[str]) -> Sequence[str]:
    """The same. Raises: UsageError for one that is not known."""
    if unknown := [precision for precision in precisions if precision not in PRECISIONS]:
        raise UsageError(
            f"there are no synthetic weights in {', '.join(unknown)}", hint=f"choose of {', '.join(PRECISIONS)}"
        )
    return precisions
