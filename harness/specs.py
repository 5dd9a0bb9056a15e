"""What to launch: an engine with a model's files, on a card."""

from collections.abc import Mapping

from harness import config, roofline
from harness.errors import EngineError, UsageError
from harness.records import Flags, GpuProfile, LaunchSpec, ModelEntry, ModelFiles, Simulation

SIMULATED_PRECISION = "bf16"
"""What vLLM makes of a checkpoint that nobody quantized."""


def launch_spec(
    engine: str,
    files: ModelFiles,
    *,
    flags: Flags | None = None,
    env: Mapping[str, str] | None = None,
    program: str | None = None,
    slots: int = 1,
) -> LaunchSpec:
    """How to start `engine` with the model that lies in `files`; vLLM and the others want different files."""
    source, precision = {
        "vllm": (files.vllm_source, files.vllm_precision),
        "proxied": (files.vllm_source, files.vllm_precision),
        "ollama": (files.gguf_path or files.ollama_tag, files.gguf_precision),
        "llamacpp": (files.gguf_path, files.gguf_precision),
        "reference": ("", ""),
    }[engine]
    if source is None:
        raise EngineError(
            f"{engine} has no file of {files.model} on this machine",
            hint=f"run: harness models fetch {files.model}",
        )
    return LaunchSpec(
        engine=engine,
        model=files.model,
        source=source,
        precision=precision,
        is_synthetic=files.is_synthetic,
        flags=flags or {},
        env=dict(env or {}),
        program=program,
        slots=slots,
    )


def vllm_spec(files: ModelFiles, profile: GpuProfile, *, flags: Flags, python: str | None) -> LaunchSpec:
    """vLLM with what every launch on this card gets, and `flags` on top."""
    return launch_spec("vllm", files, flags={**profile.vllm_flags, **flags}, env=profile.vllm_env, program=python)


def simulated_spec(model: ModelEntry, profile: GpuProfile, *, flags: Flags, seed: int) -> LaunchSpec:
    """How to launch a simulated vLLM of this model on this card. Raises: UsageError where the card has no figures."""
    if profile.is_cpu or profile.is_predict_only or roofline.roof(profile, model.shape, SIMULATED_PRECISION) is None:
        raise UsageError(
            f"--engine simulated: {profile.name} is no card that vLLM can be simulated on",
            hint=f"name one: --gpu {', '.join(simulated_cards())}",
        )
    return LaunchSpec(
        engine="simulated",
        model=model.name,
        precision=SIMULATED_PRECISION,
        flags={**profile.vllm_flags, **flags},
        simulation=Simulation(profile=profile, shape=model.shape, seed=seed),
    )


def simulated_cards() -> list[str]:
    """Names of the cards that can be simulated."""
    known = config.gpu_profiles().items()
    return [name for name, one in known if one.bandwidth_bytes_s and not one.is_predict_only]
