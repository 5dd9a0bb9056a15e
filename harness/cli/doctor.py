"""`harness doctor`."""

from pathlib import Path

import click

from harness import __version__, config, doctor, store, telemetry
from harness.cli.common import (
    answer,
    cli,
    output_options,
    say,
)


@cli.command("doctor")
@output_options
@click.option("--gpu", help="Card profile that you are going to measure with.")
@click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing.")
@click.option("--ollama-bin", help="Ollama's binary. Default: the one on PATH.")
def doctor_command(
    *, is_json: bool, results: Path, gpu: str | None, vllm_python: str | None, ollama_bin: str | None
) -> int:
    """Tell whether this machine is fit to measure, and how far the client is off."""
    profile = config.gpu_profile(gpu) if gpu else None
    found = doctor.findings(profile=profile, vllm_python=vllm_python, ollama_bin=ollama_bin, results=results, say=say)
    code = next((finding.exit_code for finding in found if finding.exit_code), 0)
    if is_json:
        known = store.calibrations(results, host=telemetry.host(), harness_version=__version__)
        answer({"checks": found, "fit": code == 0, "calibrations": known})
    else:
        warnings = sum(finding.state == doctor.State.WARNING for finding in found)
        doubt = f", but heed the {warnings} warnings above" if warnings else ""
        click.echo(f"fit to measure{doubt}" if code == 0 else "not fit to measure: see the checks that failed")
    return code
