"""vLLM without vLLM: where it is looked for, its command line, what its real log tells."""

import sys
import textwrap
from pathlib import Path

import pytest

from harness.engines.flags import Install
from harness.engines.vllm import candidates, command, environment, find, launched, resolved_from_log
from harness.errors import EngineBadFlag, EngineCrashed, EngineModelNotFound, EngineNotFound
from harness.records import LaunchSpec

LOGS = Path(__file__).parent / "logs"
INSTALL = Install(python=Path("/venv/bin/python"), version="0.32.0")

API_SERVER = """
    import http.server, json, os, sys
    if "--help=all" in sys.argv:
        print("  --model MODEL\\n  --max-num-seqs N\\n  --max-num-batched-tokens N\\n  --disable-uvicorn-access-log")
        sys.exit()
    print(" ".join(sys.argv[1:]), flush=True)
    if os.environ.get("FAKE_CRASHES"):
        raise RuntimeError("something is broken")
    value = dict(zip(sys.argv, sys.argv[1:]))
    config = {"scheduler_config": {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "policy": "fcfs"}}
    bodies = {
        "/health": {},
        "/v1/models": {"data": [{"id": value["--served-model-name"]}]},
        "/server_info?config_format=json": {"vllm_config": config},
    }
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in bodies else 404)
            self.end_headers()
            self.wfile.write(json.dumps(bodies.get(self.path)).encode())
        def log_message(self, *words):
            pass
    http.server.HTTPServer((value["--host"], int(value["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter with a `vllm` that answers as the server of vLLM 0.32 does."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(textwrap.dedent(API_SERVER))
    (tmp_path / "site" / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "site" / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0+cu130\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return script(tmp_path / "python", f'export PYTHONPATH="{tmp_path}/site"; exec "{sys.executable}" "$@"')


def script(path: Path, line: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def vllm_script(path: Path, first_lines: str) -> Path:
    path.write_text(f"{first_lines}\nimport sys\n")
    path.chmod(0o755)
    return path


def spec_for(python: Path, tmp_path: Path, **changes: object) -> LaunchSpec:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    fields = {
        "engine": "vllm",
        "model": "small",
        "source": str(folder),
        "program": str(python),
        "ready_timeout_s": 20.0,
    }
    return LaunchSpec(**{**fields, **changes})  # type: ignore[arg-type]


# ---------------------------------------------------------------- where it is


def test_a_given_interpreter_is_taken_with_its_version(python: Path) -> None:
    assert find(str(python)) == Install(python=python, version="0.32.0+cu130")


def test_the_build_is_no_part_of_the_title(python: Path) -> None:
    assert find(str(python)).title == "vLLM 0.32.0"


def test_a_given_interpreter_without_vllm_is_not_replaced_by_another(tmp_path: Path) -> None:
    empty = script(tmp_path / "python", f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(EngineNotFound, match="has no vLLM") as caught:
        find(str(empty))
    assert "--vllm-python" in caught.value.hint
    assert "make venv-vllm" in caught.value.hint


def test_an_interpreter_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineNotFound, match="there is no program /no/such/python"):
        find("/no/such/python")


def test_this_interpreter_is_asked_first_and_the_one_on_path_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    venv = script(tmp_path / ".venv-vllm" / "bin" / "python", "")
    (tmp_path / "bin").mkdir()
    python3 = script(tmp_path / "bin" / "python3", "")
    vllm_script(tmp_path / "bin" / "vllm", f"#!{venv.parent}/python")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = candidates()
    assert (found[0], found[-1]) == (Path(sys.executable), python3)
    assert found[1:-1].count(venv) == 1, "the folder here, and the same again by the script on PATH"


@pytest.mark.parametrize(
    ("first_lines", "is_found"),
    [
        ("#!{python}", True),
        ("#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''", True),
        ("#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''", True),
        ("#!/bin/bash", False),
    ],
)
def test_the_interpreter_of_a_vllm_on_path_is_read_from_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_lines: str, is_found: bool
) -> None:
    """pip writes the shell line where the path is too long for the kernel."""
    python = script(tmp_path / "env" / "bin" / "python3.12", "")
    (tmp_path / "bin").mkdir()
    vllm_script(tmp_path / "bin" / "vllm", first_lines.format(python=python))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert (python in candidates()) is is_found


# ---------------------------------------------------------------- how it is started


def test_the_command_line_is_that_of_the_module_on_loopback() -> None:
    spec = LaunchSpec(
        engine="vllm", model="small", source="/models/small", flags={"max-num-seqs": 64, "enforce-eager": True}
    )
    assert command(INSTALL, spec, port=4711) == [
        *("/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", "4711"),
        *("--model", "/models/small", "--served-model-name", "small", "--max-num-seqs", "64", "--enforce-eager"),
    ]


def test_a_model_in_a_folder_is_not_looked_up_on_the_hub(tmp_path: Path) -> None:
    local = LaunchSpec(engine="vllm", model="small", source=str(tmp_path))
    remote = LaunchSpec(engine="vllm", model="small", source="some/model")
    assert environment(local, {})["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(remote, {})
    assert environment(remote, {})["VLLM_NO_USAGE_STATS"] == "1"


def test_settings_of_vllm_that_the_shell_has_are_remembered_but_no_key() -> None:
    """They bear on the figures, so a run must name them; a key must never be in a run."""
    spec = LaunchSpec(engine="vllm", model="m", source="a/b", env={"VLLM_CPU_KVCACHE_SPACE": "2"})
    shell = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CACHE_ROOT": "/c", "VLLM_API_KEY": "s", "HOME": "/root"}
    env = environment(spec, shell)
    assert env["VLLM_CACHE_ROOT"] == "/c"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not {"VLLM_API_KEY", "HOME"} & env.keys()


def test_a_server_is_launched_and_what_it_decided_itself_is_asked(python: Path, tmp_path: Path) -> None:
    spec = spec_for(python, tmp_path)
    with launched(spec, log=tmp_path / "engine.log") as engine:
        assert (engine.title, engine.api, engine.dialect, engine.model) == ("vLLM 0.32.0", "openai", "vllm", "small")
        assert engine.resolved == {"max-num-seqs": 128, "max-num-batched-tokens": 2048}
        assert "--disable-uvicorn-access-log" in engine.argv
        assert 0 < engine.launch_s < 20
        engine.check()
        pid = engine.pid
    assert f"$ {python} -m vllm" in (tmp_path / "engine.log").read_text()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


def test_a_crash_at_start_has_the_words_of_the_log(python: Path, tmp_path: Path) -> None:
    spec = spec_for(python, tmp_path, env={"FAKE_CRASHES": "1"})
    with (
        pytest.raises(EngineCrashed, match=r"exit code 1: RuntimeError: something is broken .*engine\.log"),
        launched(spec, log=tmp_path / "engine.log"),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"flags": {"max-seqs": 4}}, EngineBadFlag, "does not know the flag --max-seqs"),
        ({"flags": {"max-num-seqs": 8, "max-num-batched-tokens": 4}}, EngineBadFlag, "is less than max-num-seqs 8"),
        ({"source": "/no/such/folder"}, EngineModelNotFound, "no model folder '/no/such/folder'"),
        ({"source": ""}, EngineModelNotFound, "no model folder ''"),
    ],
)
def test_what_cannot_work_is_refused_before_the_launch(
    python: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    spec = spec_for(python, tmp_path, **changes)
    with pytest.raises(error, match=message), launched(spec, log=tmp_path / "engine.log"):
        pass
    assert not (tmp_path / "engine.log").exists()


# ---------------------------------------------------------------- what it took


def test_the_log_of_a_launch_with_defaults_does_not_tell_the_sequences() -> None:
    """So the server is asked for them: see `_resolved_from_server`."""
    assert resolved_from_log((LOGS / "vllm_ready.txt").read_text()) == {
        "max-model-len": 8192,
        "dtype": "bfloat16",
        "enforce-eager": True,
        "kv-cache-dtype": "auto",
        "enable-prefix-caching": True,
        "enable-chunked-prefill": True,
        "kv-cache-tokens": 46592,
    }


def test_the_log_of_a_launch_with_flags_tells_them() -> None:
    resolved = resolved_from_log((LOGS / "vllm_ready_with_flags.txt").read_text())
    assert resolved["max-num-seqs"] == 32
    assert resolved["max-num-batched-tokens"] == 1024
    assert resolved["max-model-len"] == 2048


def test_a_log_that_tells_nothing_gives_nothing() -> None:
    assert resolved_from_log("INFO:     Application startup complete.\n") == {}
