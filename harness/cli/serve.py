"""`harness serve` and `harness proxy`."""

from pathlib import Path
from typing import NoReturn

import click
import msgspec

from harness import serve
from harness.cli.common import (
    Duration,
    Interrupted,
    cli,
    closing,
    output_options,
    parsed_flags,
    say,
    spoiled,
    told,
    writable,
)
from harness.cli.machine import any_preset_option, profile_for
from harness.errors import HarnessError


@cli.command("serve")
@output_options
@click.option(
    "--preset",
    metavar="PRESET",
    help="Settings: a card (rtx4090), card/model, a file, a run of tune, or none. Default: this card's and model's.",
)
@any_preset_option
@click.option(
    "--model",
    "model_name",
    help="Model of the registry by any of its names, an id of Hugging Face, or a folder. Default: the preset's.",
)
@click.option("--name", help="What clients call the model. Default: Ollama's short name, such as qwen2.5:1.5b.")
@click.option("--gpu", help="Card profile of gpus.toml. Default: the card that NVML sees, else the CPU profile.")
@click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where clients reach the proxy.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=serve.OLLAMA_PORT,
    show_default=True,
    help="Port for clients, Ollama's by default; 0 picks a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask clients for the key in this file (Authorization: Bearer).",
)
@click.option("--no-tools", is_flag=True, help="Start vLLM without the parsers for tool calls and thoughts.")
@click.option(
    "--ready-timeout",
    "ready_timeout_s",
    type=Duration(),
    default="30m",
    show_default=True,
    help="How long vLLM may load before it counts as hung.",
)
@click.option(
    "--proxy-flag", "proxy_flags", multiple=True, metavar="NAME=VALUE", help="A flag for the proxy; repeatable."
)
@click.argument("vllm_words", metavar="[-- VLLM_FLAGS...]", nargs=-1, type=click.UNPROCESSED)
def serve_command(
    *,
    is_json: bool,
    results: Path,
    preset: str | None,
    is_any_preset: bool,
    model_name: str | None,
    name: str | None,
    gpu: str | None,
    vllm_python: str | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    no_tools: bool,
    ready_timeout_s: float,
    proxy_flags: tuple[str, ...],
    vllm_words: tuple[str, ...],
) -> int:
    """Serve a model with its preset's settings to clients of Ollama: vLLM and the proxy, until Ctrl-C.

    A vLLM or proxy that ends by itself is started again, after 1, 2, 4, … seconds, at most 60; requests get a 503
    meanwhile. Ctrl-C or SIGTERM is the normal end: exit code 0, or 130 before it was ready. What fails before it was
    ever ready, or five times in a row at once, exits with 3. Logs: RESULTS/serve-PORT/.
    """
    serve.refuse_taken_port(host, port)
    plan = serve.planned(
        profile=profile_for(gpu),
        results=writable(results),
        preset=preset,
        is_any_preset=is_any_preset,
        model=model_name,
        name=name,
        vllm_python=vllm_python,
        host=host,
        port=port,
        api_key_file=api_key_file,
        has_tools=not no_tools,
        ready_timeout_s=ready_timeout_s,
        proxy_flags=parsed_flags(proxy_flags, option="--proxy-flag", example="num-ctx=reject"),
        vllm_words=vllm_words,
        say=say,
    )

    printed: list[serve.Serving] = []

    def on_ready(serving: serve.Serving) -> None:
        line = serve.how_to_use(serving, has_key=api_key_file is not None)
        closing(msgspec.to_builtins(serving), None, is_json=is_json, lines=[line])
        printed.append(serving)

    try:
        serve.run(plan, say=say, on_ready=on_ready)
    except HarnessError as error:
        if printed:
            return spoiled(error)
        raise
    return 0 if printed else told(Interrupted("interrupted before it was ready"), is_json=is_json)


@cli.command(
    "proxy", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", metavar="--upstream URL ...", nargs=-1, type=click.UNPROCESSED)
def proxy_command(*, words: tuple[str, ...]) -> NoReturn:
    """Ollama's HTTP API in front of a vLLM that already runs; `harness proxy --help` has its options."""
    serve.become_proxy(words)
