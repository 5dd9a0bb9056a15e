"""What the command line promises, without starting an engine."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

import harness.cli
from harness import errors, telemetry
from harness.cli import common, engine, machine
from harness.cli.compare import open_target, target_exit_code
from harness.errors import UsageError
from harness.records import Cell, CellState, Comparison, Estimate, Host, Run, RunState, Verdict

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


def run_with(*rows: Comparison) -> Run:
    return Run(
        version=1, id="r", command="harness compare", kind="compare", state=RunState.DONE, started_utc="", model="m",
        harness_version="0", host=Host(cpu="", cores=2, memory_bytes=1, os="", python=""), gpu="cpu", seed=1,
        comparisons=rows,
    )  # fmt: skip


def row(*, met: bool | None, has_ratio: bool = True, target: float | None = 2.0) -> Comparison:
    ratio = Estimate(value=2, low=1.9, high=2.1, confidence=0.95, n=6, unit="ratio")
    return Comparison(
        scenario="concurrent", users=5, metric="output_tok_s", ratio=ratio if has_ratio else None,
        verdict=Verdict.UNDECIDED, target=target, met=met, reason="because",
    )  # fmt: skip


def test_only_targets_that_are_all_met_exit_with_0():
    assert target_exit_code(run_with(row(met=True), row(met=True))) == 0
    assert target_exit_code(run_with(row(met=None, target=None))) == 0


@pytest.mark.parametrize("met", [False, None])
def test_a_target_that_is_missed_or_not_shown_exits_with_10(met):
    assert target_exit_code(run_with(row(met=True), row(met=met))) == 10


def test_a_target_without_a_ratio_is_not_to_be_trusted():
    error = open_target(run_with(row(met=False), row(met=None, has_ratio=False)))
    assert error is not None
    assert error.exit_code == 4
    assert error.message == "1 of 2 targets cannot be judged: because"
    assert open_target(run_with(row(met=False), row(met=True))) is None


def test_cells_that_are_all_invalid_are_refused():
    bad = Cell(engine="e", title="e", role="bench", model="m", scenario="s", users=1, repeat=1, state=CellState.INVALID)
    good = Cell(
        engine="e", title="e", role="bench", model="m", scenario="s", users=1, repeat=1, state=CellState.MEASURED
    )
    assert common.untrusted([bad, good]) is None
    error = common.untrusted([bad, bad])
    assert error is not None
    assert error.exit_code == 4


def test_seconds_that_are_missed_are_a_missed_target():
    slow = msgspec.structs.replace(row(met=None, target=None), absolute_s=0.2, absolute_met=False)
    assert target_exit_code(run_with(row(met=True), slow)) == 10


def test_a_gpu_that_is_not_there_is_refused_and_not_measured_as_one():
    if telemetry.open_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match="no GPU"):
        machine.profile_for("rtx4090")
    assert machine.profile_for("cpu").is_cpu


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match="not the address"):
        engine.checked_url(url)


def test_a_folder_that_cannot_be_written_is_found_before_measuring(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        common.writable(tmp_path / "file" / "reports")


@pytest.mark.parametrize(("text", "seconds"), [("45m", 2700), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("0.5m", 30)])
def test_a_duration_is_read_in_its_units(text, seconds):
    assert common.Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "45", "m", "4 m", "45m!", "-5m", "1d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(click.UsageError):
        common.Duration().convert(text, None, None)


def test_users_are_sorted_and_without_doubles():
    assert common.Users().convert("50,1,5,5", None, None) == (1, 5, 50)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0", "-1", "1.5", "99999999"])
def test_what_is_no_list_of_users_is_refused(text):
    with pytest.raises(click.UsageError):
        common.Users().convert(text, None, None)


def test_flags_for_an_engine_are_read_as_what_they_are():
    words = [
        "max-num-seqs=64",
        "enforce-eager=true",
        "gpu-memory-utilization=0.9",
        "dtype=bfloat16",
        "revision=0012",
        "x=nan",
    ]
    assert common.parsed_flags(words) == {
        "max-num-seqs": 64, "enforce-eager": True, "gpu-memory-utilization": 0.9, "dtype": "bfloat16",
        "revision": "0012", "x": "nan",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["max-num-seqs", "=5", "--max-num-seqs=5"])
def test_a_flag_of_another_form_is_refused(word):
    with pytest.raises(UsageError, match="NAME=VALUE"):
        common.parsed_flags([word])


@pytest.fixture(scope="module")
def commands():
    """All of them, loaded, by name."""
    for module in pkgutil.iter_modules(harness.cli.__path__):
        importlib.import_module(f"harness.cli.{module.name}")
    return common.cli.commands


def test_the_help_lists_every_command_with_the_first_sentence_of_its_own_help(commands):
    assert {name: command.get_short_help_str(limit=1000) for name, command in commands.items()} == common.COMMANDS


def test_every_command_stands_in_the_readme_and_has_help(commands):
    for name, command in commands.items():
        assert f"`harness {name}" in README
        assert command.help
    for command in [*commands.values(), *commands["models"].commands.values()]:
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts}"


def test_every_exit_code_stands_in_the_readme_and_no_other():
    table = README[README.index("| exit code |") :].split("\n\n")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert listed == codes | {0, common.TARGET_MISSED, common.INTERRUPTED, common.BUG}


def test_every_command_can_print_json(commands):
    # `proxy` hands all its words on to a program of its own.
    plain = [c for name, c in commands.items() if not isinstance(c, click.Group) and name != "proxy"]
    for command in [*plain, *commands["models"].commands.values()]:
        assert {"--json", "--results"} <= {option for parameter in command.params for option in parameter.opts}


SLOW = ("gguf", "jinja2", "locust", "matplotlib", "numpy", "optuna", "pandas", "scipy", "sqlalchemy")
LOADED = f"""
import sys
from harness.cli import main
try:
    main(sys.argv[1:])
finally:
    print("loaded:", *sorted(set(sys.modules) & {set(SLOW)}))
"""


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("--help", []),
        ("--version", []),
        ("models list", []),
        ("predict --gpu rtx4090 --model llama-3.1-8b", []),
        ("report no-such-run", []),
        ("doctor --gpu no-such-card", []),
        ("worker --master :", []),
        ("serve --gpu no-such-card", ["numpy"]),
        ("export no-such-preset --format shell", ["numpy"]),
        ("bench --engine vllm --gpu no-such-card", ["numpy", "pandas"]),
        ("tune --gpu no-such-card", ["numpy", "optuna", "pandas", "sqlalchemy"]),
    ],
)
def test_a_command_loads_no_library_that_is_slow_to_load_before_it_needs_it(words, loaded, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, *words.split()], capture_output=True, text=True, check=False, cwd=tmp_path,
        timeout=55, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ended.returncode in {0, 2}, ended.stderr
    assert ended.stdout.splitlines()[-1].split() == ["loaded:", *loaded]


def test_a_mistyped_command_is_told_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        harness.cli.main(["benhc"])
    assert "bench" in capsys.readouterr().err


INTERRUPTED_IN_A_CALLBACK = """
import os, signal, sys, time, weakref
import click
from harness.cli import cli, main

class Engine: pass

@cli.command("linger")
def linger():
    engine = Engine()
    gone = weakref.ref(engine, lambda _: os.kill(os.getpid(), signal.SIGTERM))  # no exception leaves a callback
    del engine
    time.sleep(60)

main(["linger"])
"""


def test_an_interruption_that_comes_in_a_callback_is_not_lost():
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_A_CALLBACK], capture_output=True, text=True, check=False, timeout=55
    )
    assert ended.returncode == 130
    assert "interrupted" in ended.stderr
    assert "Traceback" not in ended.stderr
