"""What `harness serve` decides at first, and, by the test's clock, how it keeps a program running."""

import contextlib
import dataclasses
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import config, models, presets, serve
from harness.engines import proxied
from harness.engines.flags import Install
from harness.errors import EngineCrashed, EngineHung, EngineNotFound, EnginePortTaken, HarnessError, UsageError
from harness.presets import Use
from harness.records import LaunchSpec, Preset

PORT = 21_434


@pytest.fixture
def plan(tmp_path: Path) -> serve.Plan:
    spec = LaunchSpec(
        engine="vllm", model="smollm2:135m", source="HuggingFaceTB/SmolLM2-135M-Instruct",
        flags={"max-num-seqs": 64, "enforce-eager": True},
    )  # fmt: skip
    return serve.Plan(
        spec=spec, install=Install(python=Path("/v/bin/python"), version="0.32.0"), words=("--max-num-seqs", "8"),
        host="127.0.0.1", port=11_434, vllm_port=PORT, api_key_file=None, proxy_words=("--workers", "2"),
        folder=tmp_path / "serve-11434",
    )  # fmt: skip


# ---------------------------------------------------------------- models and their parsers


@pytest.mark.parametrize(
    ("name", "tag"),
    [("qwen2.5-1.5b", "qwen2.5:1.5b"), ("smollm2-135m", "smollm2:135m"), ("llama-3.1-8b", "llama3.1:8b")],
)
def test_clients_see_the_name_that_users_of_ollama_type(name, tag):
    assert models.short_tag(models.entry(name)) == tag


@pytest.mark.parametrize("wanted", ["qwen2.5-1.5b", "qwen2.5:1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "QWEN2.5:1.5B"])
def test_a_model_of_the_registry_is_known_by_each_of_its_names(wanted):
    found = models.registered(wanted)
    assert found is not None
    assert found.name == "qwen2.5-1.5b"


def test_a_tag_that_promises_another_precision_is_not_the_model():
    assert models.registered("qwen2.5:1.5b-instruct-q4_K_M") is None


def test_a_folder_is_called_as_it_is_called(tmp_path):
    folder = tmp_path / "My model (v2)"
    folder.mkdir()
    assert serve.foreign(str(folder)) == (str(folder), "My-model-v2")


def test_an_id_of_the_hub_is_its_own_name():
    assert serve.foreign("Qwen/Qwen2.5-7B-Instruct") == ("Qwen/Qwen2.5-7B-Instruct",) * 2


@pytest.mark.parametrize(("wanted", "said"), [("/no/such", "no model folder"), ("qwen2.5-1b", "no model is called")])
def test_what_is_no_model_is_refused(wanted, said):
    with pytest.raises(UsageError, match=said):
        serve.foreign(wanted)


@pytest.mark.parametrize(
    ("name", "tools", "reasoning"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "hermes", None),
        ("Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("qwen3:8b", "hermes", "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "hermes", None),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder", None),
        ("Qwen/Qwen3-Embedding-0.6B", None, None),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
        ("llama3.2:3b", "llama3_json", None),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", None, None),
        ("meta-llama/Llama-2-7b-chat-hf", None, None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, None),
    ],
)
def test_a_known_family_gets_its_parsers(name, tools, reasoning):
    flags = serve.parser_flags(name)
    assert flags.get("tool-call-parser") == tools
    assert flags.get("enable-auto-tool-choice") == (True if tools else None)
    assert flags.get("reasoning-parser") == reasoning


# ---------------------------------------------------------------- presets

CPU = Use(gpu="cpu", model=None, vllm_version="0.32.0")


def written_preset(path: Path, *, gpu: str = "cpu", **changes: Any) -> Preset:
    usual = {
        "gpu": gpu, "model": "smollm2-135m", "flags": {"max-num-seqs": 32}, "is_default": False, "run": "r",
        "objective": "balanced", "vllm_version": "0.32.0", "gpu_title": "CPU", "created_utc": "",
    }  # fmt: skip
    preset = Preset(**{**usual, **changes})
    presets.write_preset(preset, path)
    return preset


def chosen(wanted: str | None, results: Path, *, is_any: bool = False) -> tuple[Preset | None, str]:
    """The settings, and what was said."""
    said: list[str] = []
    found = serve.chosen_settings(
        wanted, results=results, profile=config.gpu_profile("cpu"), model=None, use=CPU, is_any=is_any, say=said.append
    )
    return found, "\n".join(said)


@pytest.mark.parametrize("wanted", [None, "cpu", "cpu/smollm2-135m", "FILE"])
def test_a_preset_is_found_by_card_by_model_and_by_file(tmp_path, wanted):
    path = presets.preset_path(tmp_path, gpu="cpu", model="smollm2-135m")
    preset = written_preset(path)
    assert chosen(str(path) if wanted == "FILE" else wanted, tmp_path) == (preset, f"settings: {path}")


def test_without_a_preset_it_is_vllms_defaults_and_said(tmp_path):
    found, said = chosen(None, tmp_path)
    assert found is None
    assert "harness tune" in said
    with pytest.raises(UsageError, match="no preset of cpu for smollm2-135m"):
        chosen("cpu", tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpu": "rtx4090"}, "found on rtx4090, this is cpu"),
        ({"vllm_version": "0.31.0"}, "this is 0.32.0"),
        ({"is_simulated": True}, "by a simulation"),
    ],
)
def test_settings_of_something_else_are_taken_only_where_that_is_wanted(tmp_path, changes, said):
    path = tmp_path / "p.toml"
    preset = written_preset(path, **changes)
    with pytest.raises(UsageError, match=said) as refused:
        chosen(str(path), tmp_path)
    assert "--preset none" in refused.value.hint
    found, heard = chosen(str(path), tmp_path, is_any=True)
    assert found == preset
    assert said in heard


def test_a_preset_that_does_not_fit_is_not_passed_over_where_none_was_named(tmp_path):
    written_preset(presets.preset_path(tmp_path, gpu="cpu", model="smollm2-135m"), vllm_version="0.31.0")
    with pytest.raises(UsageError, match=r"found with vLLM 0\.31\.0"):
        chosen(None, tmp_path)
    assert chosen("none", tmp_path) == (None, "")


# ---------------------------------------------------------------- command lines


def test_what_was_typed_stands_behind_the_preset(plan):
    words = serve.vllm_command(plan)
    assert words[: words.index("--model")] == [
        "/v/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(PORT),
    ]  # fmt: skip
    assert words[words.index("--served-model-name") + 1] == "smollm2:135m"
    assert words[-5:] == ["--max-num-seqs", "64", "--enforce-eager", "--max-num-seqs", "8"]


def test_vllm_is_started_without_the_endpoints_of_developers_and_without_a_strangers_key(plan):
    inherited = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": "old", "VLLM_MAX_STOP_STRINGS": "9", "HOME": "/h"}
    env = serve.vllm_environment(plan, inherited, key=None)
    assert "VLLM_SERVER_DEV_MODE" not in env
    assert "VLLM_API_KEY" not in env
    assert env["VLLM_MAX_STOP_STRINGS"] == "9", "what the user's environment says comes first"
    assert env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "75"
    assert env["PATH"].startswith("/v/bin:")
    assert serve.vllm_environment(plan, {}, key="k")["VLLM_API_KEY"] == "k"


def test_the_proxy_is_told_where_vllm_is_and_how_clients_call_the_model(plan):
    words = serve.proxy_command(plan)
    assert words[words.index("--upstream") + 1] == f"smollm2:135m=http://127.0.0.1:{PORT}"
    assert words[words.index("--port") + 1] == "11434"
    assert words[-2:] == ["--workers", "2"]
    assert "--api-key-file" not in words


def test_with_a_key_for_clients_vllm_asks_for_one_that_only_the_proxy_knows(plan, tmp_path):
    guarded = dataclasses.replace(plan, api_key_file=tmp_path / "key")
    serve.prepare(guarded)
    assert guarded.vllm_key_file is not None
    assert guarded.vllm_key_file.stat().st_mode & 0o077 == 0
    assert len(serve.key_in(guarded.vllm_key_file)) >= 32
    words = serve.proxy_command(guarded)
    assert words[words.index("--upstream-api-key-file") + 1] == str(guarded.vllm_key_file)


def test_the_logs_of_the_time_before_are_set_aside(plan):
    serve.prepare(plan)
    (plan.folder / "vllm.log").write_text("old")
    serve.prepare(plan)
    assert (plan.folder / "vllm.previous.log").read_text() == "old"
    assert not (plan.folder / "vllm.log").exists()


@pytest.mark.parametrize("flag", ["--port", "--served_model_name=x", "--api-key", "--model"])
def test_flags_that_serve_decides_itself_are_refused_with_what_to_say_instead(flag):
    with pytest.raises(UsageError, match="not for harness serve") as error:
        serve.typed_flags(["--max-num-seqs", "8", flag, "x"])
    assert error.value.hint


def test_a_word_that_is_no_flag_is_refused():
    with pytest.raises(UsageError, match="no flag of vLLM"):
        serve.typed_flags(["rtx4090"])


def test_flags_of_any_form_are_known_by_name():
    typed = serve.typed_flags(["--max_num_seqs=8", "--lora-modules", "a=b", "c=d", "-tp", "2", "--no-enforce-eager"])
    assert list(typed) == ["max-num-seqs", "lora-modules", "no-enforce-eager"]


@pytest.mark.parametrize(("text", "why"), [(b"", "empty"), (b"\xff", "ASCII"), (None, "No such file")])
def test_a_file_without_a_key_is_refused(tmp_path, text, why):
    path = tmp_path / "key"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError, match=why):
        serve.key_in(path)


# ---------------------------------------------------------------- the port


def test_a_taken_port_is_refused_before_anything_is_started():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnginePortTaken, match=f"port {port}") as error:
            serve.refuse_taken_port("127.0.0.1", port)
        assert f"--port {port + 1}" in error.value.hint
    serve.refuse_taken_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        serve.refuse_taken_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")]
)
def test_a_host_is_asked_by_an_address_that_can_be_asked(host, asked):
    assert serve.reachable(host) == asked


# ---------------------------------------------------------------- keeping a program running


class FakeProcess:
    """A process that ends when the test says so."""

    pid = 1

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.is_there = True

    def listens_on(self, port: int) -> bool:
        return True


class World:
    """A program, the clock and all that was said."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.answers = True
        self.fails_to_start = False
        self.processes: list[FakeProcess] = []
        self.said: list[str] = []
        program = serve.Program(
            title="vLLM", port=1, log=Path("vllm.log"), ready_timeout_s=900, start=self.start,
            is_ready=lambda: self.answers, why_ended=lambda: EngineCrashed("vLLM ended"),
        )  # fmt: skip
        self.kept = serve.Supervised(program, say=self.said.append, clock=lambda: self.now_s)

    @contextlib.contextmanager
    def start(self) -> Iterator[FakeProcess]:
        if self.fails_to_start:
            raise EngineNotFound("it is gone")
        process = FakeProcess()
        self.processes.append(process)
        yield process
        process.is_there = False

    def up(self) -> FakeProcess:
        """Started and ready."""
        self.kept.look()
        self.kept.look()
        assert self.kept.is_ready
        return self.processes[-1]

    def crash(self, *, after_s: float) -> float:
        """Ends after it was up so long; gives the seconds until it is started again."""
        process = self.up()
        self.now_s += after_s
        process.returncode = 1
        self.kept.look()
        assert not process.is_there, "what is left of it must be gone before it is started again"
        assert self.kept.process is None
        waited_s = 0.0
        while self.kept.process is None:
            self.now_s += 0.5
            waited_s += 0.5
            self.kept.look()
        return waited_s


@pytest.fixture
def world() -> World:
    return World()


def test_delays_double_up_to_a_minute():
    assert [serve.delay_s(n) for n in (1, 2, 3, 6, 7, 8, 10_000)] == [1, 2, 4, 32, 60, 60, 60]


def test_a_crash_is_told_and_mended_with_growing_delays(world):
    assert [world.crash(after_s=120) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "vLLM ended; starting it again in 1 s" in world.said


def test_ten_minutes_without_a_crash_make_the_next_one_the_first(world):
    assert [world.crash(after_s=120) for _ in range(3)] == [1, 2, 4]
    assert world.crash(after_s=601) == 1


def test_five_quick_crashes_in_a_row_are_final(world):
    for _ in range(4):
        world.crash(after_s=5)
    process = world.up()
    process.returncode = 1
    with pytest.raises(EngineCrashed, match="vLLM ended"):
        world.kept.look()
    assert not process.is_there


def test_a_minute_without_a_crash_ends_the_row(world):
    for _ in range(4):
        world.crash(after_s=5)
    world.crash(after_s=61)
    world.crash(after_s=5)


def test_what_fails_before_it_ever_answered_is_final_at_once(world):
    world.answers = False
    world.kept.look()
    world.processes[0].returncode = 1
    with pytest.raises(EngineCrashed):
        world.kept.look()
    assert not world.processes[0].is_there


def test_what_cannot_be_started_at_first_is_final_and_later_is_tried_again(world):
    world.crash(after_s=120)
    world.up().returncode = 1
    world.fails_to_start = True
    world.kept.look()
    world.now_s += 2
    world.kept.look()
    assert world.said[-1] == "it is gone; starting it again in 4 s"
    other = World()
    other.fails_to_start = True
    with pytest.raises(EngineNotFound):
        other.kept.look()


def test_what_never_answers_is_ended(world):
    world.answers = False
    world.kept.look()
    world.now_s += 901
    with pytest.raises(EngineHung, match="900 s"):
        world.kept.look()
    assert not world.processes[0].is_there


def test_a_stopped_program_is_gone(world):
    process = world.up()
    world.kept.stop()
    assert not process.is_there
    assert not world.kept.is_ready


def test_signals_are_noted_and_interrupt_nothing():
    with serve.stop_signals() as is_stopped:
        assert not is_stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert is_stopped()


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("url", "has_key", "ending"),
    [
        ("http://127.0.0.1:11434", False, "try: ollama run smollm2:135m"),
        ("http://127.0.0.1:11435", False, "try: OLLAMA_HOST=127.0.0.1:11435 ollama run smollm2:135m"),
        ("http://127.0.0.1:11434", True, "-H 'Authorization: Bearer KEY'"),
    ],
)
def test_one_line_tells_how_to_use_it(url, has_key, ending):
    serving = serve.Serving(url=url, models=("smollm2:135m",), vllm_url="", pids={}, logs={}, argv={})
    line = serve.how_to_use(serving, has_key=has_key)
    assert line.startswith(f"serving smollm2:135m on {url}; ")
    assert line.endswith(ending)
    assert "\n" not in line


def test_the_proxys_own_words_are_passed_on():
    usage = "Usage: harness serve …\n\nError: Invalid value: x is no model name\n"
    refused = proxied.failure(usage, returncode=2, log=Path("p.log"))
    assert isinstance(refused, UsageError)
    assert refused.message == "the proxy refuses: Invalid value: x is no model name"
    taken = proxied.failure("error: cannot listen\nhint: stop it\n", returncode=3, log=Path("p.log"))
    assert (taken.exit_code, taken.hint) == (3, "stop it")
    assert "cannot listen" in taken.message
    crashed: HarnessError = proxied.failure("Traceback …\nKeyError: 1\n\n", returncode=1, log=Path("p.log"))
    assert "KeyError: 1" in crashed.message
    assert "p.log" in crashed.message
