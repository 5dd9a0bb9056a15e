"""One way to every model, be it from a hub, from the Python registry, or made here."""

from harness.models import places
from harness.models.fetch import Say
from harness.models.fetch import fetch as fetch_real
from harness.models.fetch import files as files_of_real
from harness.models.registry import synthetic_parts
from harness.records import ModelFiles


def files(name: str, *, precision: str | None = None) -> ModelFiles:
    """What this machine has of the model; nothing is fetched or made.

    Args:     precision: of the GGUF file or Ollama's tag. None: what the name alone means, for a synthetic model f16.
    Raises:   UsageError: unknown name or precision.
    """
    if is_synthetic(name):
        return places.files(name, precision=precision)
    return files_of_real(name, precision=precision)


def fetch(name: str, *, vllm_python: str | None, say: Say, precision: str | None = None) -> ModelFiles:
    """Brings the model onto this machine, or makes it, where it is not there yet.

    Args:     vllm_python: interpreter that has vLLM. None: what needs it is left out. A synthetic model never does.
              precision: see `files`.
    Raises:   UsageError: unknown name or precision. ModelUnavailable: it cannot be had.
    """
    if is_synthetic(name):
        from harness.models import synth  # brings gguf and numpy, which nobody else needs

        return synth.fetch(name, precision=precision, say=say)
    return fetch_real(name, vllm_python=vllm_python, precision=precision, say=say)


def is_synthetic(name: str) -> bool:
    """Whether the name is that of a synthetic model, such as synth-qwen2.5-1.5b."""
    return synthetic_parts(name) is not None
