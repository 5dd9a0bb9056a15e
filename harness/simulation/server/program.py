"""The program: cards and models by their names."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import harness.simulation.server
from harness import config, models
from harness.errors import HarnessError, UsageError
from harness.records import Simulation
from harness.simulation.server.options import Options
from harness.simulation.server.running import run
from harness.simulation.server.standin import stand_in


def main(words: Sequence[str] | None = None) -> int:
    """Serve, or write the stand-in. Returns the exit code."""
    own, theirs = parser().parse_known_args(words)
    try:
        options = _options(own)
    except HarnessError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return error.exit_code
    if own.stand_in is None:
        return run(options, theirs)
    if theirs:
        parser().error(f"--stand-in takes none of vLLM's flags: {' '.join(theirs)}")
    sys.stdout.write(f"{stand_in(options, own.stand_in)}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """Our own flags, among those of vLLM."""
    flags = argparse.ArgumentParser(
        prog="python -m harness.simulation.server",
        description=harness.simulation.server.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other flags are vLLM's.",
        allow_abbrev=False,
    )
    add = flags.add_argument
    add("--gpu", required=True, help="name of the simulated card, as in: harness doctor --gpu NAME")
    add("--model-shape", required=True, help="name of the model whose size is simulated, as in: harness models list")
    add("--speed", type=_positive, default=1.0, help="its seconds in one of ours (default 1)")
    add("--launch-speed", type=_positive, help="the same while it starts (default: as --speed)")
    add("--simulation-seed", type=int, default=1, help="of its noise (default 1)")
    add("--stand-in", type=Path, metavar="FOLDER", help="write FOLDER/bin/python for --vllm-python, and start nothing")
    return flags


def _positive(text: str) -> float:
    if (value := float(text)) <= 0:
        raise argparse.ArgumentTypeError("must be over 0")
    return value


def _options(own: argparse.Namespace) -> Options:
    """Raises: UsageError: there is no such card or model, or none that can be simulated."""
    profile = config.gpu_profile(own.gpu)
    if profile.is_cpu or profile.is_predict_only or profile.memory_bytes is None:
        raise UsageError(f"--gpu {own.gpu}: it is no card that vLLM can be simulated on", hint="name another one")
    simulation = Simulation(profile=profile, shape=models.entry(own.model_shape).shape, seed=own.simulation_seed)
    return Options(simulation=simulation, speed=own.speed, launch_speed=own.launch_speed or own.speed)
