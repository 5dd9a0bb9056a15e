"""What all commands share: options, how results and errors are said, and the way from words to records."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from harness import __version__, bench, config, engines, models, presets, report, telemetry, tune
from harness.errors import HarnessError, MeasurementInvalid, UsageError
from harness.records import (
    Cell,
    CellState,
    ClosedLoop,
    Flags,
    GpuProfile,
    LaunchSpec,
    Level,
    ModelFiles,
    OpenLoop,
    Scenario,
)
from harness.store import RunFolder

TARGET_MISSED = 10
INTERRUPTED = 130
BUG = 1

ENGINES = ("vllm", "proxied", "ollama", "llamacpp", "reference", "simulated")
VLLM_ENGINES = ("vllm", "proxied")
"""Those that vLLM's settings are for."""
DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------- what all commands share


def say(line: str) -> None:
    """Progress and hints go to stderr; stdout is for the result alone."""
    click.echo(line, err=True)


def answer(document: object) -> None:
    """The one JSON document of `--json`."""
    click.echo(json.dumps(msgspec.to_builtins(document), ensure_ascii=False, indent=2))


class Users(click.ParamType[tuple[int, ...]]):
    """1,5,10: levels of concurrent users."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Ascending, without doubles."""
        if isinstance(value, tuple):
            return value
        try:
            levels = sorted({int(part) for part in str(value).split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,5,10", param, ctx)
        if levels[0] < 1 or levels[-1] > 10_000:
            self.fail(f"{value!r}: users go from 1 to 10000", param, ctx)
        return tuple(levels)


class Share(click.ParamType[float]):
    """3%, as 0.03."""

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Between 0 and 1."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)%", str(value))
        if found is None or not 0 < float(found[1]) < 100:
            self.fail(f"{value!r} is not a share such as 3%", param, ctx)
        return float(found[1]) / 100


class Rates(click.ParamType[tuple[float, ...]]):
    """0.5,1,2: requests per second."""

    name = "R,R,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Ascending, without doubles."""
        if isinstance(value, tuple):
            return value
        try:
            levels = sorted({float(part) for part in str(value).split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0.5,1,2", param, ctx)
        if not 0 < levels[0] <= levels[-1] <= 10_000:  # also refuses nan
            self.fail(f"{value!r}: rates are over 0 and go up to 10000", param, ctx)
        return tuple(levels)


class Duration(click.ParamType[float]):
    """45m, 90s, 2h, or 1h30m, in seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        parts = DURATION.findall(str(value))
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration such as 45m, 90s or 1h30m", param, ctx)
        return sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


output_options = options(
    click.option("--json", "is_json", is_flag=True, help="Print one JSON document on stdout and nothing else there."),
    click.option(
        "--results",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results"),
        show_default=True,
        help="Folder that runs are kept in.",
    ),
)
machine_options = options(
    click.option("--gpu", help="Card profile of gpus.toml. Default: the card that NVML sees, else the CPU profile."),
    click.option(
        "--model",
        "model_name",
        help="Model of the registry (harness models list); with --url the server's own id. Default: the profile's.",
    ),
    click.option("--vllm-python", help="Python interpreter that has vLLM. Default: found by probing."),
)
load_options = options(
    click.option(
        "--users", type=Users(), help="Levels of concurrent users. Default: the scenario's; tune: the profile's."
    ),
    click.option(
        "--repeats",
        type=click.IntRange(1, 100),
        help="How often each level is measured. Default: 3; tune: the profile's; compare: 2 in each block, 3 in all.",
    ),
    click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of prompts and search."),
)
any_preset_option = click.option(
    presets.ANY_PRESET,
    "is_any_preset",
    is_flag=True,
    help="Use a preset of another card, model or version of vLLM, or a simulated one, all the same; that is noted.",
)
reports_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("reports"),
    show_default=True,
    help="Folder that the HTML report is written to.",
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
            "--engine simulated needs --gpu: the card to simulate", hint=f"one of {', '.join(bench.simulated_cards())}"
        )
    return config.gpu_profile(name)


def files_for(model: str, *, vllm_python: str | None, needs_vllm: bool, precision: str | None = None) -> ModelFiles:
    """The model's files, fetched where they are not here; `precision` is of the GGUF file or Ollama's tag."""
    interpreter = str(engines.find_vllm(vllm_python).python) if needs_vllm else None
    return models.fetch(model, vllm_python=interpreter, say=say, precision=precision)


def write_report(folder: RunFolder, out: Path) -> Path:
    """The run's page; made from its folder alone."""
    return report.render(folder.run(), folder.cells(), folder.trials(), launches=folder.defence(), out=out)


def untrusted(cells: Sequence[Cell]) -> MeasurementInvalid | None:
    """The error of a run in which not one cell has figures that count. None: some have."""
    if not cells or any(cell.state == CellState.MEASURED for cell in cells):
        return None
    return MeasurementInvalid(
        f"none of {len(cells)} cells can be trusted: {'; '.join(cells[0].reasons)}",
        hint="run `harness doctor`; the records are kept",
    )


def writable(folder: Path) -> Path:
    """The folder, made where it is not there yet: found out before an hour of measuring, not after it.

    Raises: UsageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}", hint="choose another folder") from error
    return folder


def refuse_in_vain(out: Path, *, repeats: int | None, blocks: int = 1) -> None:
    """Raises: UsageError for what would make an hour of measuring worthless at its end."""
    writable(out)
    if repeats == 1 and blocks == 1:
        raise UsageError("--repeats 1: a ratio needs two repeats a side", hint="say --repeats 2 or more")


def closing(document: dict[str, Any], error: HarnessError | None, *, is_json: bool, lines: Sequence[str]) -> None:
    """The result, on stdout: the one document, or the lines; an error that spoils it is in both."""
    if is_json:
        answer(document if error is None else {**document, "error": error_answer(error)})
        return
    for line in lines:
        click.echo(line)


def error_answer(error: HarnessError) -> dict[str, Any]:
    """An error as `--json` gives it."""
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def spoiled(error: HarnessError | None) -> int:
    """Says the error that spoils a result which has been printed, and gives its exit code; 0 where there is none."""
    return 0 if error is None else told(error, is_json=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Find the vllm serve settings that make a model fastest on your GPU, and prove them against Ollama.

    Exit codes: 0 done, target met; 1 a bug of ours; 2 usage or file; 3 engine; 4 figures not to be trusted;
    5 results unreadable; 10 target missed; 130 interrupted.
    """


# ---------------------------------------------------------------- between flags and records


def spec_for(
    engine: str,
    model: str,
    *,
    profile: GpuProfile,
    flags: Flags,
    program: str | None,
    slots: int,
) -> LaunchSpec:
    """How to start `engine` with a model of the registry, fetched where it is not here."""
    if engine == "llamacpp" and models.entry(model).gguf_file is None:
        raise UsageError(
            f"{model} has no GGUF file in the registry, so llama.cpp cannot serve it here",
            hint="compare with Ollama itself, which fetches its own: https://ollama.com/download",
        )
    if engine == "ollama":
        engines.find_ollama(program)
    is_vllm = engine in VLLM_ENGINES
    files = files_for(model, vllm_python=program if is_vllm else None, needs_vllm=is_vllm)
    if is_vllm:
        return msgspec.structs.replace(tune.vllm_spec(files, profile, flags=flags, python=program), engine=engine)
    return bench.launch_spec(engine, files, flags=flags, program=program, slots=slots)


def at_levels(
    scenario: Scenario, users: Sequence[int] | None, *, rates_per_s: Sequence[float] | None = None
) -> Scenario:
    """The scenario with the levels that are really measured. Raises: UsageError where it has none of that kind."""
    if users is not None and not isinstance(scenario.load, ClosedLoop):
        raise UsageError(f"--users: {scenario.name} is no load of users", hint="leave it out")
    if rates_per_s is not None and not isinstance(scenario.load, OpenLoop):
        raise UsageError(
            f"--rates: {scenario.name} is no load of requests per second", hint='name a scenario of kind = "open"'
        )
    levels = [*(Level(users=count) for count in users or ()), *(Level(rate_per_s=rate) for rate in rates_per_s or ())]
    return scenario.at(levels) if levels else scenario


def parsed_flags(words: Sequence[str], *, option: str = "--flag", example: str = "max-num-seqs=64") -> Flags:
    """["max-num-seqs=64", "enforce-eager=true"] as flags; raises UsageError for a word of another form."""
    out: Flags = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name.startswith("-"):
            raise UsageError(f"{option} {word!r} is not NAME=VALUE", hint=f"for example {option} {example}")
        out[name] = parsed_value(value)
    return out


def parsed_value(value: str) -> int | float | str | bool:
    """A boolean or a number where it is written as one, else the text: 0012 and nan stay what they are."""
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if str(kind(value)) == value and math.isfinite(kind(value)):
                return kind(value)
    return value


def running_ollama(model: str, *, url: str, tag: str) -> LaunchSpec:
    """An Ollama that already runs; the precision is known where the registry has this tag."""
    precision = next((name for name, known in models.entry(model).ollama_tags.items() if known == tag), "")
    return LaunchSpec(engine="ollama", model=model, source=tag, precision=precision, url=checked_url(url), api="ollama")


def checked_url(url: str) -> str:
    """The address of a server. Raises: UsageError for what is none."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or a bracket that is not closed
        is_address = False
    if not is_address:
        raise UsageError(f"{url!r} is not the address of a server", hint="for example http://127.0.0.1:8000")
    return url


def cell_answer(cell: Cell) -> dict[str, Any]:
    """A cell as `--json` promises it: the figures under "metrics", the rest beside them."""
    raw: dict[str, Any] = msgspec.to_builtins(cell)
    names = ("ttft_s", "itl_s", "tpot_s", "e2e_s", "output_tok_s")
    raw["metrics"] = {name: raw.pop(name) for name in names}
    return raw


class Interrupted(HarnessError):
    """Ctrl-C, or a polite signal: not an error of anybody, but an end with an exit code of its own."""

    exit_code = INTERRUPTED


def told(error: HarnessError, *, is_json: bool) -> int:
    """Says an error and returns its exit code."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    if is_json:
        answer({"error": error_answer(error)})
    return error.exit_code
