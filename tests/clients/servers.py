"""What the clients talk to: the proxy before vLLM, the proxy before a scripted vLLM, and Ollama itself."""

import contextlib
import hashlib
import os
import re
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import httpx
import pytest

from harness import engines, models
from harness.engines.process import ProcessGroup, free_port, process_group
from harness.errors import HarnessError
from tests.contract.servers import Starter

ROOT = Path(__file__).parents[2]
CLIENTS = Path(os.environ.get("HARNESS_CLIENTS", ROOT / ".venv-clients"))
MODEL = "smollm2-135m"
READY_S = 300
Json = dict[str, Any]


class Target(NamedTuple):
    """A server and the names of its models; None: it has none that can do this."""

    kind: str
    url: str
    chat: str
    embed: str | None = None
    tools: str | None = None
    thinking: str | None = None
    upstream: str | None = None
    """The vLLM that chats."""

    def running(self) -> int | None:
        """Requests that the vLLM works on now; None: there is none to ask."""
        if self.upstream is None:
            return None
        if self.is_scripted:
            return int(httpx.get(f"{self.upstream}/_running", trust_env=False).json()["running"])
        told = httpx.get(f"{self.upstream}/metrics", trust_env=False).text
        found = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", told, re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    @property
    def is_scripted(self) -> bool:
        """Whether tools are called and thoughts are thought, as `SCRIPT` says."""
        return self.kind == "scripted"


def missing(what: str, *, get_it: str) -> NoReturn:
    """Skips, naming what is missing; in CI, where all must be there, fails."""
    said = f"{what}; get it with: {get_it}"
    if os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)


def client_part(*path: str) -> Path:
    """A file or folder of the installed clients."""
    left_out = CLIENTS / f"{path[0]}.left-out"
    if left_out.is_file():
        pytest.skip(f"the client {path[0]} cannot be here: {left_out.read_text().strip()}")
    found = CLIENTS.joinpath(*path)
    if not found.exists():
        missing(f"the client {path[0]} is not installed", get_it="make clients")
    return found


def ollama_binary() -> Path:
    """The real Ollama; skips where there is none, for it is a reference and not a dependency."""
    found = os.environ.get("HARNESS_OLLAMA_BIN") or shutil.which("ollama")
    if not found:
        pytest.skip("Ollama is not installed: put it on the PATH or name it in HARNESS_OLLAMA_BIN")
    return Path(found)


# ---------------------------------------------------------------- the proxy before vLLM


@contextlib.contextmanager
def before_vllm(folder: Path) -> Iterator[Target]:
    """The proxy before two vLLM servers on the CPU, of which one chats and one embeds."""
    try:
        program = str(engines.find_vllm(os.environ.get("HARNESS_VLLM_PYTHON")).python)
    except HarnessError as error:
        missing(f"vLLM is not installed ({error.message})", get_it="make venv-vllm")
    try:
        chat_model = models.files(MODEL).vllm_source
    except HarnessError as error:
        missing(f"{MODEL} is not on this machine ({error.message})", get_it="make model")
    if chat_model is None:
        missing(f"{MODEL} is here, but not as vLLM wants it", get_it="make model")
    embedding_model = client_part("models", "all-minilm-l6-v2")
    # Without the prefix cache the same request is computed in the same way twice, and says the same.
    flags = ["--no-enable-prefix-caching", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with contextlib.ExitStack() as running:
        # Both start at once: most of a start is one thread's work.
        ports = [free_port(), free_port()]
        commands = [
            [program, "-m", ENTRY, "--model", chat_model, "--max-model-len", "2048", *flags],
            [program, "-m", ENTRY, "--model", str(embedding_model), "--runner", "pooling"],
        ]
        started = []
        for port, argv in zip(ports, commands, strict=True):
            common = ["--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
            log = folder / f"vllm-{port}.log"
            started.append(running.enter_context(process_group([*argv, *common], log=log, env=VLLM_ENV)))
        for process, port in zip(started, ports, strict=True):
            wait_until_healthy(process, f"http://127.0.0.1:{port}/health")
        starter = Starter(folder)
        running.callback(starter.stop)
        chat, embed = (f"http://127.0.0.1:{port}" for port in ports)
        upstreams = ["--upstream", f"smollm2={chat}", "--upstream", f"all-minilm={embed}"]
        proxy = starter.proxy(*upstreams, "--capabilities", "smollm2=completion,tools")
        yield Target("vllm", proxy.url, "smollm2", embed="all-minilm", tools="smollm2", upstream=chat)


ENTRY = "vllm.entrypoints.openai.api_server"
VLLM_ENV = {
    **os.environ,
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def wait_until_healthy(process: ProcessGroup, url: str) -> None:
    """Returns once the server answers 200; fails where it ends before, with its last words."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        assert process.returncode is None, process.output()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"not ready in {READY_S} s: {process.output()[-3000:]}")


# ---------------------------------------------------------------- the proxy before a script

CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}
THOUGHT, SUNNY, WITH_THOUGHT = "The sky scatters light.", "It is sunny in Paris.", "Blue, I think."
SCRIPT: list[Json] = [
    {"match": '"tool_call_id"', "text": SUNNY, "times": None},
    {"match": "weather in Paris", "tool_calls": [CALL], "times": None},
    {"match": '"enable_thinking":false', "text": "Blue.", "times": None},
    {"match": "Think about the sky", "reasoning": THOUGHT, "text": WITH_THOUGHT, "times": None},
]


@contextlib.contextmanager
def before_script(folder: Path) -> Iterator[Target]:
    """The proxy before a fake vLLM that calls tools and thinks when asked in the right words."""
    starter = Starter(folder)
    try:
        chat = starter.fake(
            "--model", "actor", "--tool-parser", "hermes", "--reasoning-parser", "qwen3", "--token-s", "0.01"
        )
        embed = starter.fake("--kind", "embed", "--model", "minilm")
        chat.script(*SCRIPT)
        proxy = starter.proxy(
            *("--upstream", f"actor={chat.url}", "--upstream", f"minilm={embed.url}"),
            *("--capabilities", "actor=completion,tools,thinking"),
        )
        yield Target("scripted", proxy.url, "actor", "minilm", "actor", "actor", upstream=chat.url)
    finally:
        starter.stop()


# ---------------------------------------------------------------- Ollama itself

TOOLS_TEMPLATE = (
    "{{ range .Tools }}{{ . }}{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant:"
)
THINKING_TEMPLATE = (
    "{{ range .Messages }}{{ .Role }}: {{ if and .Thinking $.Think }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}\n{{ end }}assistant:"
)


@contextlib.contextmanager
def ollama_itself(folder: Path) -> Iterator[Target]:
    """Ollama with the same model, and with one that embeds, one that takes tools, one that may think."""
    binary = ollama_binary()
    try:
        gguf = models.files(MODEL).gguf_path
    except HarnessError as error:
        missing(f"{MODEL} is not on this machine ({error.message})", get_it="make model")
    assert gguf is not None
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"OLLAMA_HOST": url, "OLLAMA_MODELS": str(folder / "models"), "OLLAMA_NO_CLOUD": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    env = inherited | settings | {"HOME": str(folder)}
    with process_group([str(binary), "serve"], log=folder / "ollama.log", env=env) as process:
        wait_until_healthy(process, url)
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
            weights = Path(gguf).read_bytes()
            create(http, "smollm2", files={"model.gguf": uploaded(http, weights)})
            create(http, "minilm", files={"model.gguf": uploaded(http, with_pooling(weights))})
            create(http, "tools", **{"from": "smollm2"}, template=TOOLS_TEMPLATE)
            create(http, "thinking", **{"from": "smollm2"}, template=THINKING_TEMPLATE)
        yield Target("ollama", url, "smollm2", "minilm", tools="tools", thinking="thinking")


def create(http: httpx.Client, model: str, **given: Any) -> None:
    answer = http.post("/api/create", json={"model": model, "stream": False, **given})
    assert answer.json() == {"status": "success"}, answer.text


def uploaded(http: httpx.Client, data: bytes) -> str:
    """The digest under which Ollama has the bytes now."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    http.post(f"/api/blobs/{digest}", content=data).raise_for_status()
    return digest


def with_pooling(gguf: bytes) -> bytes:
    """The same weights, said to pool by the mean: that makes a model of Ollama's one that embeds.

    Two entries are put before the others; together they have 64 bytes, so the tensors stay aligned.
    """
    magic, version, tensors, entries = struct.unpack_from("<4sIQQ", gguf)
    assert magic == b"GGUF"
    entries_added = [(b"llama.pooling_type", 1), (b"harness.filler", 0)]
    added = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, value) for key, value in entries_added)
    assert len(added) == 64
    return struct.pack("<4sIQQ", magic, version, tensors, entries + len(entries_added)) + added + gguf[24:]
