"""`harness serve` and `harness proxy` as whole commands: what clients see, and that nothing is left of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from harness import models
from harness.engines.process import free_port
from tests.e2e.conftest import Ended

ROOT = Path(__file__).parents[2]
NAME = "smollm2:135m"
MODEL = ["--gpu", "cpu", "--model", "smollm2-135m"]
KEY = "a-key-that-clients-have-to-send"


class Serving:
    """A running `harness serve`."""

    def __init__(self, process: subprocess.Popen[str], *, log: Path) -> None:
        self.process, self._log = process, log
        self.document: dict[str, Any] = {}
        self.headers: dict[str, str] = {}

    @property
    def said(self) -> str:
        """All of stderr so far."""
        return self._log.read_text()

    def wait_ready(self, *, at_most_s: float) -> None:
        """Until the JSON document is there, whole."""

        def document() -> object:
            assert self.process.poll() is None, self.said
            text = self._log.with_suffix(".out").read_text()
            return text.endswith("}\n") and json.loads(text)

        self.document = wait_for(document, at_most_s=at_most_s)

    def chat(self, text: str = "Why is the sky blue?") -> httpx.Response:
        """One short answer of the first model, through Ollama's API."""
        body = {
            "model": self.document["models"][0],
            "messages": [{"role": "user", "content": text}],
            "stream": False,
            "options": {"num_predict": 8},
        }
        url = f"{self.document['url']}/api/chat"
        return httpx.post(url, json=body, timeout=60, trust_env=False, headers=self.headers)

    def family(self) -> list[psutil.Process]:
        """The harness and all that it started, in whatever group."""
        leader = psutil.Process(self.process.pid)
        return [leader, *leader.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture
def served(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Serving]]:
    """Starts `harness serve WORDS` on a free port; what still runs at the end of the test is ended."""
    with contextlib.ExitStack() as block:

        def start(*words: str | Path, env: dict[str, str] | None = None) -> Serving:
            log = tmp_path / "serve.err"
            process = subprocess.Popen(
                [sys.executable, "-m", "harness", "serve", "--json", "--port", "0", *map(str, words)],
                cwd=tmp_path, env={**environment, **(env or {})},
                stdout=block.enter_context(log.with_suffix(".out").open("w")),
                stderr=block.enter_context(log.open("w")), text=True,
            )  # fmt: skip
            block.callback(process.wait, timeout=60)
            block.callback(process.terminate)
            return Serving(process, log=log)

        yield start


@pytest.fixture
def serving(served: Callable[..., Serving], fake_vllm_python: Path) -> Serving:
    """One that is ready, with the fake vLLM."""
    found = served(*MODEL, "--vllm-python", fake_vllm_python)
    found.wait_ready(at_most_s=60)
    return found


def wait_for(found: Callable[[], Any], *, at_most_s: float = 60.0, every_s: float = 0.05) -> Any:
    """What `found` gives as soon as it is something."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(every_s)
    raise TimeoutError("it never came")


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def assert_gone(processes: list[psutil.Process], *, within_s: float = 0.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    left = [process for process in alive if lives(process)]
    assert not left, f"still there: {left}"


def assert_free(url: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", httpx.URL(url).port or 0))


def test_a_living_process_is_not_gone_and_its_port_not_free() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(AssertionError, match="still there"):
            assert_gone([psutil.Process()])
        with pytest.raises(OSError, match="in use"):
            assert_free(f"http://127.0.0.1:{held.getsockname()[1]}")


def answers_after_a_crash(serving: Serving) -> list[httpx.Response]:
    """What a client that does not give up is told, from the crash of vLLM until it is answered again."""
    told: list[httpx.Response] = []

    def is_answered() -> bool:
        told.append(serving.chat())
        return told[-1].status_code == httpx.codes.OK

    wait_for(is_answered, at_most_s=180, every_s=0.3)
    return told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clients_of_ollama_are_served_until_a_signal(serving: Serving, tmp_path: Path, number: int) -> None:
    document = serving.document
    assert {"url", "models", "vllm_url", "pids", "logs"} <= set(document)
    assert document["models"] == [NAME]
    assert serving.chat().json()["message"]["content"]
    assert all(Path(log).parent.parent == tmp_path / "results" for log in document["logs"].values())
    assert "--disable-uvicorn-access-log" in document["argv"]["vllm"]
    assert "--enable-prompt-tokens-details" not in document["argv"]["vllm"], "the fake does not know it"
    family = serving.family()
    assert {document["pids"]["vllm"], document["pids"]["proxy"]} <= {process.pid for process in family}
    assert serving.stop(number) == 0, serving.said
    assert_gone(family)
    assert_free(document["url"])


def test_a_crashed_vllm_is_started_again_and_clients_are_told_to_wait(serving: Serving) -> None:
    os.kill(serving.document["pids"]["vllm"], signal.SIGKILL)
    told = answers_after_a_crash(serving)
    assert {answer.status_code for answer in told} == {200, 503}, serving.said
    assert all("try again" in answer.json()["error"] for answer in told[:-1])
    assert "starting it again in 1 s" in serving.said
    family = serving.family()
    assert serving.stop() == 0
    assert_gone(family)


def test_a_crashed_proxy_is_started_again_on_its_port(serving: Serving) -> None:
    os.kill(serving.document["pids"]["proxy"], signal.SIGKILL)
    wait_for(lambda: serving.said.count("the proxy answers after") == 2)
    assert serving.chat().status_code == httpx.codes.OK
    assert "the proxy ended" in serving.said


def test_nothing_is_left_of_a_harness_that_is_killed(serving: Serving) -> None:
    family = serving.family()
    serving.process.kill()
    assert_gone(family, within_s=30)
    assert_free(serving.document["url"])


def test_what_fails_at_the_first_start_is_told_and_final(
    served: Callable[..., Serving], fake_vllm_python: Path, tmp_path: Path
) -> None:
    failing = served(*MODEL, "--vllm-python", fake_vllm_python, env={"FAKE_VLLM_FITS": "600"})
    assert failing.process.wait(timeout=60) == 3, failing.said
    assert "set max-model-len to 600 or less" in failing.said
    assert json.loads((tmp_path / "serve.out").read_text())["error"]["exit_code"] == 3


def test_an_end_before_it_is_ready_is_no_success(served: Callable[..., Serving], fake_vllm_python: Path) -> None:
    starting = served(*MODEL, "--vllm-python", fake_vllm_python)
    wait_for(lambda: "starting vLLM" in starting.said)
    assert starting.stop() == 130, starting.said


def test_a_client_without_the_key_is_refused_by_the_proxy(
    served: Callable[..., Serving], fake_vllm_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    guarded = served(*MODEL, "--vllm-python", fake_vllm_python, "--api-key-file", "key")
    guarded.wait_ready(at_most_s=60)
    assert guarded.chat().status_code == httpx.codes.UNAUTHORIZED
    guarded.headers = {"authorization": f"Bearer {KEY}"}
    assert guarded.chat().status_code == httpx.codes.OK
    assert KEY not in str(guarded.document["argv"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "qwen2.5-1b"], 2, "did you mean"),
        (["--preset", "nothing"], 2, "no run called"),
        (["--", "--port", "8000"], 2, "--port before the --"),
        (["--", "--max-num-seq", "8"], 3, "did you mean --max-num-seqs?"),
        (["--proxy-flag", "worker=2"], 2, "--worker"),
        (["--api-key-file", "nothing"], 2, "nothing"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    harness_here: Callable[..., Ended], fake_vllm_python: Path, words: list[str], code: int, said: str
) -> None:
    ended = harness_here("serve", "--port", "0", *MODEL, "--vllm-python", fake_vllm_python, *words)
    assert ended.code == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_ollama_has_is_told_at_once(harness: Callable[..., Any]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = harness("serve", "--gpu", "cpu", "--port", port)
    assert ended.code == 3
    assert f"listens on port {port}" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr


# ---------------------------------------------------------------- harness proxy


def test_the_proxys_help_is_that_of_harness_proxy(harness: Callable[..., Any]) -> None:
    ended = harness("proxy", "--help")
    assert ended.code == 0, ended.stderr
    assert "harness proxy" in ended.stdout
    assert "--upstream" in ended.stdout


def test_the_proxys_exit_code_is_passed_on(harness: Callable[..., Any]) -> None:
    ended = harness("proxy", "--upstream", "ftp://x")
    assert ended.code == 2
    assert "ftp://x" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_called_proxy_where_the_user_stands_is_not_the_proxy(
    harness: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__main__.py").write_text("raise SystemExit(77)")
    assert harness("proxy", "--help").code == 0


def test_the_proxy_runs_until_a_signal(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "proxy", "--upstream", "m=http://127.0.0.1:9", "--port", "0"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    ) as proxy:  # fmt: skip
        assert proxy.stdout is not None
        url = proxy.stdout.readline().split()[-1]
        assert "version" in httpx.get(f"{url}/api/version", trust_env=False).json()
        proxy.terminate()
        proxy.wait(timeout=30)
    assert_free(url)


# ---------------------------------------------------------------- a real vLLM


@pytest.mark.timeout(600)
def test_a_real_vllm_is_served_killed_served_again_and_stopped(
    served: Callable[..., Serving], environment: dict[str, str]
) -> None:
    python = os.environ.get("HARNESS_VLLM_PYTHON")
    if not python or not Path(python).exists() or not models.files("smollm2-135m").vllm_source:
        said = "no vLLM or no smollm2-135m; get them with: make venv-vllm model"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    cache = {name: os.environ[name] for name in ("XDG_CACHE_HOME",) if name in os.environ}
    if not cache:
        environment.pop("XDG_CACHE_HOME")
    port = free_port()
    words = [*MODEL, "--vllm-python", python, "--port", port, "--", "--max-model-len", "2048"]
    serving = served(*words, env=cache)
    serving.document = {"url": f"http://127.0.0.1:{port}", "models": [NAME]}
    early = wait_for(lambda: "the proxy answers" in serving.said and serving.chat())
    assert early.status_code == httpx.codes.SERVICE_UNAVAILABLE, early.text
    serving.wait_ready(at_most_s=240)
    assert serving.document["models"] == [NAME]
    assert {"--enable-prompt-tokens-details", "--enable-per-request-metrics"} <= set(serving.document["argv"]["vllm"])
    answer = serving.chat()
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["message"]["content"]

    first = psutil.Process(serving.document["pids"]["vllm"])
    workers = first.children(recursive=True)
    assert workers, "the engine runs in a process of its own, which must not outlive its server"
    first.kill()
    told = answers_after_a_crash(serving)
    # A request that was under way as vLLM died hears what Ollama says there; from then on it is 503 until vLLM is back.
    under_way = [answer for answer in told if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR]
    assert all("unexpected EOF" in answer.text for answer in under_way)
    assert {answer.status_code for answer in told} - {500} == {200, 503}, serving.said
    assert_gone([first, *workers])

    family = serving.family()
    assert serving.stop() == 0, serving.said
    assert_gone(family)
    assert_free(serving.document["url"])
