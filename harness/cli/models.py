"""`harness models`."""

import contextlib
from pathlib import Path

import click
import msgspec

from harness import engines, models
from harness.cli.common import (
    answer,
    cli,
    output_options,
    say,
)
from harness.errors import EngineError
from harness.report import text


@cli.group("models")
def models_group() -> None:
    """List and fetch models."""


@models_group.command("list")
@output_options
def models_list(*, is_json: bool, results: Path) -> int:
    """List the models of the registry under their names on both sides."""
    del results
    entries = models.entries()
    if is_json:
        answer({"models": [{**msgspec.to_builtins(e), "files": models.files(e.name)} for e in entries.values()]})
    else:
        click.echo(text.models_table(list(entries.values())))
    return 0


@models_group.command("fetch")
@click.argument("name")
@output_options
@click.option("--vllm-python", help="Python interpreter that has vLLM; it converts the weights.")
def models_fetch(*, name: str, is_json: bool, results: Path, vllm_python: str | None) -> int:
    """Bring a model to this machine, in the forms that the engines want."""
    del results
    models.entry(name)
    interpreter = None
    with contextlib.suppress(EngineError):
        interpreter = str(engines.find_vllm(vllm_python).python)
    found = models.fetch(name, vllm_python=interpreter, say=say)
    if is_json:
        answer(found)
    else:
        click.echo(f"{name}: {found.vllm_source or 'not for vLLM yet'}; {found.gguf_path or found.ollama_tag}")
    return 0
