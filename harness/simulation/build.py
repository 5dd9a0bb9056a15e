"""How a simulated vLLM calls itself, so that whoever asks its version knows that its figures are no measurement."""

from typing import Final

VLLM: Final = "0.32.0"
"""The vLLM whose scheduler, defaults, words and refusals are simulated."""
MARK: Final = "simulated"


def version_of(card: str, *, speed: float) -> str:
    """ "0.32.0+simulated.h100", with ".x10" behind it where its clock runs ten times as fast as ours."""
    pace = f".x{f'{speed:g}'.replace('.', '_')}" if speed != 1 else ""
    return f"{VLLM}+{MARK}.{card}{pace}"


def is_simulated(version: str) -> bool:
    """Whether this is the version of a simulated vLLM."""
    return version.partition("+")[2].split(".")[0] == MARK


def simulated_card(version: str) -> str | None:
    """Name of the card that a vLLM of this version simulates. None: it simulates none."""
    return version.partition("+")[2].split(".")[1] if is_simulated(version) else None


def simulated_speed(version: str) -> float:
    """How often as fast as ours its clock runs."""
    parts = version.partition("+")[2].split(".")[2:]
    return float(parts[0].removeprefix("x").replace("_", ".")) if parts else 1.0
