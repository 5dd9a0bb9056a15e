"""`harness models`."""

import contextlib
from pathlib import Path
from typing import Any

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
from harness.report.text_models import models_table


class Names(click.ParamType[tuple[str, ...]]):
    """f16,q8_0: some words, in lower case."""

    name = "NAME,NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Without doubles."""
        del param, ctx
        return value if isinstance(value, tuple) else tuple(dict.fromkeys(str(value).lower().split(",")))


@cli.group("models")
def models_group() -> None:
    """List, fetch and make models."""


@models_group.command("list")
@output_options
def models_list(*, is_json: bool, results: Path) -> int:
    """List the models of the registry under their names on both sides, and the synthetic ones made here."""
    del results
    entries = [*models.entries().values(), *models.made()]
    if is_json:
        answer({"models": [{**msgspec.to_builtins(e), "files": models.files(e.name)} for e in entries]})
    else:
        click.echo(models_table(entries))
    return 0


@models_group.command("fetch")
@click.argument("name")
@output_options
@click.option("--vllm-python", help="Python interpreter that has vLLM; it converts the weights.")
def models_fetch(*, name: str, is_json: bool, results: Path, vllm_python: str | None) -> int:
    """Bring a model to this machine, in the forms that the engines want."""
    del results
    name = models.entry(name).name
    interpreter = None
    with contextlib.suppress(EngineError):
        interpreter = str(engines.find_vllm(vllm_python).python)
    found = models.fetch(name, vllm_python=interpreter, say=say)
    if is_json:
        answer(found)
    else:
        click.echo(f"{name}: {found.vllm_source or 'not for vLLM yet'}; {found.gguf_path or found.ollama_tag}")
    return 0


@models_group.command("synth")
@output_options
@click.option("--like", required=True, metavar="NAME", help="Model of the registry whose shape the weights get.")
@click.option("--seed", type=click.IntRange(0), default=models.DEFAULT_SEED, show_default=True, help="Of the weights.")
@click.option(
    "--precision",
    "precisions",
    type=Names(),
    default=models.PRECISIONS[0],
    show_default=True,
    help=f"Of the GGUF files, any of {', '.join(models.PRECISIONS)}; q4_k_m takes llama-quantize or an Ollama on PATH.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model's folder. Default: the cache, where --model finds it by its name.",
)
def models_synth(
    *, is_json: bool, results: Path, like: str, seed: int, precisions: tuple[str, ...], out: Path | None
) -> int:
    """Make a model of random weights, the same for every engine: to compare their speed, and nothing else.

    Its name is synth-NAME, or synth-NAME-seedN, and its answers always have exactly the asked length.
    """
    del results
    place = models.place_of(like, seed=seed, out=out)
    from harness.models.synth import synthesise

    found = synthesise(like, seed=seed, precisions=precisions, out=out, say=say)
    if is_json:
        answer({**msgspec.to_builtins(found), "gguf_paths": place.gguf_paths})
        return 0
    click.echo(f"{found.model}: {models.entry(found.model).title}")
    for form, path in {"vllm": found.vllm_source, **place.gguf_paths}.items():
        click.echo(f"  {form:7} {path}")
    return 0
