"""Real processes: a fake vLLM, and the proxy in front of it."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fakes" / "vllm_server.py"
START_S = 30.0
Json = dict[str, Any]
T = TypeVar("T", bound="Server")


def wait_until(is_so: Callable[[], object], *, within_s: float = 5.0, every_s: float = 0.01) -> bool:
    """Whether `is_so` came to be true in time."""
    end_s = time.monotonic() + within_s
    while not (it := is_so()) and time.monotonic() < end_s:
        time.sleep(every_s)
    return bool(it)


class Server:
    """A process that printed where it listens; `http` asks it."""

    def __init__(self, argv: list[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self.argv, self.log = argv, log
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                argv, cwd=log.parent, env=environment, stdout=subprocess.PIPE, stderr=sink, text=True
            )
        self.url = self._address()
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def _address(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(START_S) else ""
        if not line.startswith("listening on "):
            self.kill()
            raise AssertionError(f"{self.argv} did not start: {line!r} {self.log.read_text()[-2000:]}")
        return line.split()[-1]

    @property
    def pid(self) -> int:
        return self.process.pid

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """At once, as a crash would."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        """Ends it by its own signal; kills it where that takes too long."""
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Fake(Server):
    """tests/fakes/vllm_server.py."""

    def script(self, *scripts: Json) -> None:
        """The next answers; see the fake's docstring."""
        self.http.post("/_script", json=list(scripts)).raise_for_status()

    def forget(self) -> None:
        """No scripts, no requests."""
        self.http.delete("/_script")
        self.http.delete("/_requests")

    def requests(self, path: str | None = None) -> list[Json]:
        """What it was asked on one of the routes that make tokens or vectors, oldest first; not what it can do."""
        all_of_them = self.http.get("/_requests").json()
        wanted = {path} if path else {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
        posted = [asked for asked in all_of_them if asked["method"] == "POST" and not asked["is_question"]]
        return [asked for asked in posted if asked["path"] in wanted]

    def asked(self, path: str | None = None) -> Json:
        """The body of the last of them."""
        body: Json = self.requests(path)[-1]["body"]
        return body

    def running(self) -> int:
        """Requests that it works on now."""
        return int(self.http.get("/_running").json()["running"])


class Proxied(Server):
    """python -m proxy."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def post(self, path: str, body: object, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def lines(self, path: str, body: Json) -> list[Json]:
        """The objects of a streamed answer; fails where a line is none."""
        answer = self.post(path, {"stream": True, **body})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        return objects(answer.text)

    def generate(self, **body: Any) -> Json:
        """The whole answer of /api/generate."""
        return self._whole("/api/generate", {"prompt": "hi", **body})

    def chat(self, **body: Any) -> Json:
        """The whole answer of /api/chat."""
        return self._whole("/api/chat", {"messages": [{"role": "user", "content": "hi"}], **body})

    def _whole(self, path: str, body: Json) -> Json:
        answer = self.post(path, {"model": "smollm2", "stream": False, **body})
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def error(self, path: str, body: object, status: int, **more: Any) -> str:
        """The text of an error of that status, in Ollama's form."""
        answer = self.post(path, body, **more)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert set(answer.json()) == {"error"}
        text = answer.json()["error"]
        assert isinstance(text, str)
        return text


class Starter:
    """Starts servers and ends them all, each by its own process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Server] = []

    def fake(self, *flags: str) -> Fake:
        return self._kept(Fake([sys.executable, str(FAKE), *flags], log=self._log("vllm")))

    def proxy(self, *flags: str, env: dict[str, str] | None = None) -> Proxied:
        argv = [sys.executable, "-m", "proxy", "--port", "0", *flags]
        return self._kept(Proxied(argv, log=self._log("proxy"), env=env))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}-{len(self.started)}.log"

    def _kept(self, server: T) -> T:
        self.started.append(server)
        return server

    def stop(self) -> None:
        for server in reversed(self.started):
            server.stop()


def objects(text: str) -> list[Json]:
    """The objects of NDJSON: every line is one, the last ends with a line's end."""
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    assert all(isinstance(it, dict) for it in found)
    return found


def assert_stream(lines: list[Json]) -> None:
    """Lines of an answer: one says `done`, it is the last, and it counts."""
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    assert last["done_reason"] in {"stop", "length"}
    for name in ("total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"):
        assert isinstance(last[name], int)
    assert all("done_reason" not in line and "eval_count" not in line for line in lines[:-1])


def text_of(lines: list[Json], key: str = "content") -> str:
    """What the lines add up to; a line of /api/generate has its text at the top."""
    return "".join(line["message"].get(key, "") if "message" in line else line.get(key, "") for line in lines)


def config_folder(folder: Path, *, special_tokens: tuple[str, ...] = ()) -> Path:
    """A model folder as vLLM's `root` would name it: a config.json and the sizes of weights, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rope_theta": 100000, "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    index = {"metadata": {"total_size": 269_030_016, "total_parameters": 134_515_008}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": special_tokens}))
    return folder


def connections(server: Server) -> Iterator[Any]:
    """The sockets a server has open, but for those it listens on."""
    yield from (it for it in psutil.Process(server.pid).net_connections("tcp") if it.status != psutil.CONN_LISTEN)
