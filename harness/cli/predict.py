"""`harness predict`."""

from pathlib import Path

import click

from harness import config, models, predict
from harness.cli.common import (
    TARGET_MISSED,
    Users,
    answer,
    cli,
    output_options,
)
from harness.predict import Prediction
from harness.roofline import GIB, PRECISIONS

SCENARIO = "concurrent"
"""Its lengths are the default, a word counting as one token."""
PREDICTED = "(predicted, not measured)"


@cli.command("predict")
@output_options
@click.option("--gpu", required=True, help="Card profile of gpus.toml; the card need not be in this machine.")
@click.option(
    "--model", "model_name", required=True, help="Model of the registry by any of its names (harness models list)."
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="bf16",
    show_default=True,
    help="Of the weights: vLLM's bf16, fp8 and int4 (AWQ, GPTQ), or Ollama's f16, q8_0, q4_k_m and q4_1.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens that one sequence must have room for in the memory plan. Default: the model's own context.",
)
@click.option("--users", type=Users(), default="1,5,10,50,100", show_default=True, help="Levels of concurrent users.")
@click.option("--prompt-tokens", type=click.IntRange(1), help=f"Of one request. Default: the words of {SCENARIO}.")
@click.option("--output-tokens", type=click.IntRange(1), help=f"Of one request. Default: those of {SCENARIO}.")
def predict_command(
    *,
    is_json: bool,
    results: Path,
    gpu: str,
    model_name: str,
    precision: str,
    context: int | None,
    users: tuple[int, ...],
    prompt_tokens: int | None,
    output_tokens: int | None,
) -> int:
    """Tell what a card's data sheet allows a model: memory, times, tokens per second. Nothing is measured.

    Exit codes: 0 it runs; 10 it does not fit the card: then memory and what would fit are all that is told.
    """
    del results
    usual = config.scenario(SCENARIO, is_cpu=False).workload
    found = predict.prediction(
        config.gpu_profile(gpu),
        models.entry(model_name),
        precision=precision,
        context_tokens=context,
        users=users,
        prompt_tokens=prompt_tokens or usual.prompt_words,
        output_tokens=output_tokens or usual.output_tokens,
    )
    if is_json:
        answer(found)
    else:
        click.echo("\n".join(lines(found)))
    return TARGET_MISSED if found.cannot_run else 0


def lines(found: Prediction) -> list[str]:
    """The prediction for people."""
    return [
        found.note,
        "",
        f"{found.gpu_title}: {found.bandwidth_bytes_s / 1e9:,.0f} GB/s, "
        f"{found.flop_s / 1e12:,.0f} TFLOP/s for {found.precision}",
        f"  source: {found.gpu_source}",
        *(["  harness launches no engine on this card"] if found.is_predict_only else []),
        f"{found.model_title} in {found.precision}: {found.prompt_tokens:,} prompt and {found.output_tokens:,} output "
        "tokens a request",
        *memory_lines(found),
        *(["", f"{found.cannot_run} {PREDICTED}"] if found.cannot_run else rate_lines(found)),
    ]


def rate_lines(found: Prediction) -> list[str]:
    """Ceilings, targets and Ollama, for a model that runs."""
    return [
        *level_lines(found),
        "",
        f"Targets {PREDICTED}",
        *(f"  {row.name}, {count(row.users, 'user')}: {row.text}" for row in found.targets),
        *(
            []
            if found.against is None
            else ["", f"Against Ollama on the same card {PREDICTED}", f"  {found.against.text}"]
        ),
    ]


def memory_lines(found: Prediction) -> list[str]:
    """Where the memory goes, and what fits."""
    plan = found.memory
    load = "" if found.load_s is None else f", at least {found.load_s:.1f} s to load over PCIe"
    rows = [
        ("the card has", plan.memory_bytes, ""),
        (f"{plan.engine} takes", plan.usable_bytes, ""),
        ("weights", plan.weights_bytes, load),
        ("reserve", plan.reserve_bytes, ", an estimate: context, activations, graphs"),
        ("KV cache", max(plan.kv_cache_bytes, 0), f": {plan.kv_cache_tokens:,} tokens of {plan.kv_token_bytes:,.0f} B"),
    ]
    held = "  ".join(f"{fit.context_tokens:,}: {fit.sequences:,}" for fit in plan.fits)
    return [
        "",
        f"Memory {PREDICTED}",
        *(f"  {name:14}{size / GIB:7.1f} GiB{rest}" for name, size, rest in rows),
        f"  {found.memory_text}",
        f"  sequences at once, by context: {held}",
    ]


def level_lines(found: Prediction) -> list[str]:
    """One line for each number of users."""
    head = (
        f"  {'users':>6}{'step':>10}{'decode':>14}{'prompts':>10}{'prefill':>14}{'TTFT':>10}{'ITL':>10}{'answer':>10}"
        f"{'mean':>10}{'output':>14}  limit of a step"
    )
    out = [
        "",
        f"Ceilings {PREDICTED}: times are at least, tok/s at most",
        "  step: a token for each user; prompts: everybody's, in one batch; TTFT, ITL, answer: of a request alone;",
        "  mean: of the answers of all these users (Little's law)",
        head,
    ]
    for level in found.levels:
        room = "" if level.fits else "; not all fit in memory at once"
        out.append(
            f"  {level.users:>6,}{ms(level.decode_step_s):>10}{rate(level.decode_tok_s):>14}{ms(level.prefill_s):>10}"
            f"{rate(level.prefill_tok_s):>14}{ms(level.ttft_s):>10}{ms(level.itl_s):>10}{ms(level.e2e_s):>10}"
            f"{ms(level.mean_e2e_s):>10}{rate(level.output_tok_s):>14}  {level.bound_by}{room}"
        )
    return out


def ms(seconds: float) -> str:
    """Three digits, in ms or s."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def rate(tok_s: float) -> str:
    """Whole tokens per second."""
    return f"{tok_s:,.0f} tok/s"


def count(number: int, noun: str) -> str:
    """1 user, 5 users."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
