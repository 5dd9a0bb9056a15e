"""What all commands share: their names, options, how results and errors are said. Nothing that is slow to load."""

import contextlib
import importlib
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from harness import __version__, report
from harness.errors import HarnessError, MeasurementInvalid, UsageError
from harness.records import Cell, CellState, ClosedLoop, Flags, Level, OpenLoop, Scenario
from harness.store import RunFolder

TARGET_MISSED = 10
INTERRUPTED = 130
BUG = 1

DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)", re.ASCII)
LONGEST_S = 365 * 24 * 3600.0

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------- what all commands share


def say(line: str) -> None:
    """Progress and hints go to stderr; stdout is for the result alone.

    A terminal that was closed, or a pipe that nobody reads any more, ends nothing: what is measured counts more.
    """
    with contextlib.suppress(OSError):
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
        seconds = sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
        if seconds > LONGEST_S:
            self.fail(f"{value!r} is longer than a year", param, ctx)
        return seconds


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
        help="Model of the registry by any of its names (harness models list); with --url the server's own id. "
        "Default: the profile's.",
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
reports_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("reports"),
    show_default=True,
    help="Folder that the HTML report is written to.",
)


def write_report(folder: RunFolder, out: Path) -> Path:
    """The run's page; made from its folder alone."""
    try:
        return report.render(folder.run(), folder.cells(), folder.trials(), launches=folder.defence(), out=out)
    except UsageError as error:
        error.hint = f"all that was measured is in {folder.path}; its page: harness report {folder.id} --out FOLDER"
        raise


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


COMMANDS = {
    "bench": "Measure one engine under one scenario.",
    "capacity": "Find the largest load under which an engine keeps its objectives of service.",
    "compare": "Measure vLLM against Ollama at rising concurrency and judge the targets.",
    "doctor": "Tell whether this machine is fit to measure, and how far the client is off.",
    "export": "Write the settings of PRESET (a file, card/model, a card, or a run) for those who run vLLM without the "
    "harness.",
    "models": "List, fetch and make models.",
    "predict": "Tell what a card's data sheet allows a model: memory, times, tokens per second.",
    "proxy": "Ollama's HTTP API in front of a vLLM that already runs; `harness proxy --help` has its options.",
    "report": "Write the HTML report of runs from their folders, at any later day.",
    "serve": "Serve a model with its preset's settings to clients of Ollama: vLLM and the proxy, until Ctrl-C.",
    "tune": "Search the vllm serve settings that are fastest for a model on this card.",
    "worker": "Send a part of the load that `harness bench --expect-workers` on another machine asks for.",
}
"""What `harness --help` says of them: the first sentence of their own help."""
MODULES = {"proxy": "serve"}
"""Of harness.cli, where it is not called like the command."""


class Commands(click.Group):
    """A command is imported when it is asked for: what measures takes two seconds to load, and most need none of it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command itself, which its module has put in the place of the one that only has a name."""
        if args[0] in COMMANDS:
            importlib.import_module(f"harness.cli.{MODULES.get(args[0], args[0])}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Find the vllm serve settings that make a model fastest on your GPU, and prove them against Ollama.

    Exit codes: 0 done, target met; 1 a bug of ours; 2 usage or file; 3 engine; 4 figures not to be trusted;
    5 results unreadable; 10 target missed; 130 interrupted.
    """


for name, first_sentence in COMMANDS.items():
    cli.add_command(click.Command(name, help=first_sentence))


# ---------------------------------------------------------------- between flags and records


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
