"""What this machine and the registry have of what the options name: card, model, preset."""

import click

from harness import config, engines, models, presets, specs, telemetry
from harness.cli.common import say
from harness.errors import UsageError
from harness.records import GpuProfile, ModelFiles

any_preset_option = click.option(
    presets.ANY_PRESET,
    "is_any_preset",
    is_flag=True,
    help="Use a preset of another card, model or version of vLLM, or a simulated one, all the same; that is noted.",
)


def profile_for(name: str | None) -> GpuProfile:
    """The card named, else the one that NVML sees, else the CPU; what was chosen without being named is said."""
    wanted = None if name is None else config.gpu_profile(name)
    if wanted is not None and wanted.is_cpu:
        return wanted
    if wanted is not None and wanted.is_predict_only:
        raise UsageError(
            f"--gpu {wanted.name}: harness launches no engine on {wanted.title}",
            hint=f"see what its data sheet allows: harness predict --gpu {wanted.name} --model {wanted.default_model}",
        )
    gpu = telemetry.open_gpu()
    if gpu is None:
        if wanted is not None:
            raise UsageError(
                f"--gpu {wanted.name}, and NVML sees no GPU on this machine",
                hint="install the NVIDIA driver, or measure the CPU with --gpu cpu",
            )
        say("no GPU found: using the CPU profile; its figures say nothing about a GPU")
        return config.gpu_profile("cpu")
    with gpu:
        card = gpu.name
    if wanted is None:
        profile = config.profile_of_card(card)
        say(f"found {profile.title}")
        return profile
    try:
        found = config.profile_of_card(card)
    except UsageError:  # a card without a profile may be measured under the nearest one
        say(f"warning: {card!r} has no profile; measuring it under {wanted.name}")
        return wanted
    if found.name != wanted.name:
        raise UsageError(
            f"--gpu {wanted.name}, and this machine's card is {card}", hint=f"say --gpu {found.name}, or nothing"
        )
    return wanted


def simulated_profile(name: str | None) -> GpuProfile:
    """The card to simulate; which one this machine has does not matter. Raises: UsageError where none is named."""
    if name is None:
        raise UsageError(
            "--engine simulated needs --gpu: the card to simulate", hint=f"one of {', '.join(specs.simulated_cards())}"
        )
    return config.gpu_profile(name)


def files_for(model: str, *, vllm_python: str | None, needs_vllm: bool, precision: str | None = None) -> ModelFiles:
    """The model's files, fetched where they are not here; `precision` is of the GGUF file or Ollama's tag."""
    interpreter = str(engines.find_vllm(vllm_python).python) if needs_vllm else None
    return models.fetch(model, vllm_python=interpreter, say=say, precision=precision)
