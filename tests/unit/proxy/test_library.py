"""What Ollama answers beside generation, against what the real one was recorded to answer."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy import library
from proxy.answers import error_response
from proxy.catalog import Catalog
from proxy.errors import OllamaError, UpstreamUnreachable
from proxy.memory import Memory
from proxy.residency import Residency
from proxy.settings import Settings, UpstreamAddress
from proxy.upstream import ServedModel

ZEROS = "0" * 64
METRICS = (
    'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",kv_cache_memory_bytes="None",'
    'num_gpu_blocks="100"} 1.0\n'
)


class Vllm:
    """A vLLM on the CPU that serves one model."""

    def __init__(self, root: Path) -> None:
        self.address = UpstreamAddress("http://127.0.0.1:8000")
        self.root = root
        self.is_up = True
        self.is_sleeping: bool | None = None

    async def models(self, *, timeout_s: float) -> list[ServedModel]:
        if not self.is_up:
            raise UpstreamUnreachable
        return [ServedModel(id="smollm2", root=str(self.root), parent=None, max_model_len=2048, created=1)]

    async def tasks(self) -> frozenset[str]:
        return frozenset({"generate"})

    async def is_healthy(self) -> bool:
        return self.is_up

    async def version(self) -> str | None:
        return "0.32.0"

    async def metrics(self) -> str:
        return METRICS

    async def json(self, method: str, path: str, body: dict[str, Any] | None, *, timeout_s: float | None) -> object:
        if path == "/is_sleeping" and self.is_sleeping is not None:
            return {"is_sleeping": self.is_sleeping}
        raise OllamaError(400, "tool choice requires --enable-auto-tool-choice and --tool-call-parser")

    @property
    def wire(self) -> Any:
        async def post(path: str, body: bytes, *, headers: dict[str, str]) -> object:
            raise UpstreamUnreachable

        return SimpleNamespace(post=post)


ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/", library.root),
    ("GET", "/api/version", library.version),
    ("GET", "/api/status", library.status),
    ("GET", "/api/tags", library.tags),
    ("GET", "/api/ps", library.ps),
    ("POST", "/api/show", library.show),
    ("POST", "/api/copy", library.copy),
    ("DELETE", "/api/delete", library.delete),
    ("POST", "/api/create", library.create),
    ("POST", "/api/pull", library.pull),
    ("POST", "/api/push", library.push),
    ("HEAD", "/api/blobs/{digest}", library.blob_exists),
    ("POST", "/api/blobs/{digest}", library.blob_upload),
    ("POST", "/api/me", library.me),
    ("POST", "/api/signout", library.signout),
    ("GET", "/api/experimental/model-recommendations", library.recommendations),
)


class Server:
    """The handlers behind HTTP, with a clock that is moved by hand."""

    def __init__(self, upstream: Vllm, **settings: Any) -> None:
        self.upstream = upstream
        self.now_ns = 1_800_000_000 * 10**9
        self.now_s = 0.0
        told = Settings(upstreams=(upstream.address,), **settings)
        self.catalog = Catalog(told, [upstream], hub=upstream.root / "no-cache", now_s=lambda: self.now_s)  # type: ignore[list-item]
        self.catalog.memory = Memory(device_bytes=lambda _: 0)
        self.residency = Residency(told, now_ns=lambda: self.now_ns)
        self.app = Starlette(
            routes=[Route(path, handler, methods=[method]) for method, path, handler in ROUTES],
            exception_handlers={OllamaError: _refused},  # type: ignore[dict-item]
        )
        self.app.state.proxy = SimpleNamespace(
            settings=told, catalog=self.catalog, upstreams=[upstream], residency=self.residency
        )
        self.runner = asyncio.Runner()

    def ask(
        self, method: str, path: str, body: object = None, *, content: bytes | None = None, user_agent: str = "test"
    ) -> httpx.Response:
        if body is not None:
            content = json.dumps(body).encode()

        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x") as client:
                return await client.request(method, path, content=content, headers={"user-agent": user_agent})

        return self.runner.run(asked())


async def _refused(_: Request, why: OllamaError) -> Response:
    return error_response(why.status, why.text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "secret-place"
    folder.mkdir()
    shape = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(shape))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1000, 64], "data_offsets": [0, 128_000]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 128_000)
    return folder


@pytest.fixture
def upstream(root: Path) -> Vllm:
    return Vllm(root)


@pytest.fixture
def server(upstream: Vllm) -> Iterator[Server]:
    made = Server(upstream)
    yield made
    made.runner.close()


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and text of a refusal, which must have Ollama's form."""
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert list(body) == ["error"]
    return answer.status_code, body["error"]


def lines(answer: httpx.Response) -> list[dict[str, str]]:
    """The objects of a stream."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def statuses(answer: httpx.Response) -> list[str]:
    return [line["status"] for line in lines(answer)]


# ---------------------------------------------------------------- the server


def test_the_root_says_that_ollama_is_running(server: Server) -> None:
    answer = server.ask("GET", "/")
    assert (answer.text, answer.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")


def test_version_and_status(server: Server) -> None:
    assert server.ask("GET", "/api/version").json() == {"version": "0.33.0"}
    assert server.ask("GET", "/api/status").json() == {"cloud": {"disabled": True, "source": "config"}}
    assert server.ask("GET", "/api/experimental/model-recommendations").json() == {"recommendations": []}


def test_there_are_no_accounts(server: Server) -> None:
    assert told(server.ask("POST", "/api/me")) == (503, "account unavailable")
    assert told(server.ask("POST", "/api/signout")) == (500, "there was an error signing out")


# ---------------------------------------------------------------- tags and ps


def test_tags_have_what_clients_read(server: Server, root: Path) -> None:
    answer = server.ask("GET", "/api/tags")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    (model,) = answer.json()["models"]
    assert model["name"] == model["model"] == "smollm2:latest"
    assert model["details"] == {
        "parent_model": "",
        "format": "safetensors",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "64K",
        "quantization_level": "BF16",
        "context_length": 2048,
        "embedding_length": 64,
    }
    assert model["capabilities"] == ["completion"]
    assert model["size"] == (root / "model.safetensors").stat().st_size
    assert len(model["digest"]) == 64
    assert datetime.fromisoformat(model["modified_at"]).tzinfo == UTC


def test_no_model_is_an_empty_list(server: Server, upstream: Vllm) -> None:
    upstream.is_up = False
    assert server.ask("GET", "/api/tags").json() == {"models": []}
    assert server.ask("GET", "/api/ps").json() == {"models": []}


def test_ps_shows_what_vllm_holds(server: Server, root: Path) -> None:
    (model,) = server.ask("GET", "/api/ps").json()["models"]
    weights, cache = (root / "model.safetensors").stat().st_size, 100 * 16 * (2 * 2 * 2 * 16 * 2)
    assert (model["size"], model["size_vram"], model["context_length"]) == (weights + cache, 0, 2048)
    assert set(model) == {
        "name",
        "model",
        "size",
        "digest",
        "details",
        "expires_at",
        "size_vram",
        "context_length",
    }
    assert set(model["details"]) == {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }
    assert model["expires_at"] == "2027-01-15T08:05:00Z"


def test_on_a_gpu_all_of_it_lies_there(server: Server) -> None:
    server.catalog.memory = Memory(device_bytes=lambda _: None)
    (model,) = server.ask("GET", "/api/ps").json()["models"]
    assert model["size_vram"] == model["size"] > 0
    server.catalog.memory = Memory(device_bytes=lambda _: 12_345)
    (model,) = server.ask("GET", "/api/ps").json()["models"]
    assert model["size_vram"] == model["size"] == 12_345


def test_an_unloaded_model_is_not_shown_until_it_is_used(server: Server) -> None:
    server.residency.unload("smollm2:latest")
    assert server.ask("GET", "/api/ps").json() == {"models": []}
    server.residency.used("smollm2:latest", 7.0)
    (model,) = server.ask("GET", "/api/ps").json()["models"]
    assert model["expires_at"] == "2027-01-15T08:00:07Z"


@pytest.mark.parametrize(("is_sleeping", "count"), [(True, 0), (False, 1), (None, 1)])
def test_a_server_that_sleeps_holds_nothing(
    server: Server, upstream: Vllm, is_sleeping: bool | None, count: int
) -> None:
    upstream.is_sleeping = is_sleeping
    assert len(server.ask("GET", "/api/ps").json()["models"]) == count


def test_an_alias_is_shown_once_it_was_used_and_the_longest_kept_comes_first(server: Server) -> None:
    server.ask("POST", "/api/copy", {"source": "smollm2", "destination": "mine"})
    assert [model["name"] for model in server.ask("GET", "/api/ps").json()["models"]] == ["smollm2:latest"]
    server.residency.used("mine:latest", float("inf"))
    shown = server.ask("GET", "/api/ps").json()["models"]
    assert [model["name"] for model in shown] == ["mine:latest", "smollm2:latest"]
    assert shown[0]["expires_at"].startswith("2319-")


# ---------------------------------------------------------------- show


def test_show_tells_a_served_model(server: Server) -> None:
    answer = server.ask("POST", "/api/show", {"model": "SmolLM2"})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    shown = answer.json()
    assert shown["parameters"] == "num_ctx                        2048"
    assert shown["template"] == "{{ .Prompt }}"
    assert shown["details"]["quantization_level"] == "BF16"
    assert "context_length" not in shown["details"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 2048
    assert shown["model_info"]["llama.rope.freq_base"] == 10000
    assert shown["capabilities"] == ["completion"]
    assert shown["modelfile"] == (
        '# Modelfile generated by "ollama show"\n# To build a new Modelfile based on this, replace FROM with:\n'
        "# FROM smollm2:latest\n\nFROM smollm2:latest\nTEMPLATE {{ .Prompt }}\nPARAMETER num_ctx 2048\n"
    )
    for absent in ("license", "system", "messages", "projector_info"):
        assert absent not in shown
    listed = server.ask("GET", "/api/tags").json()["models"][0]
    assert {key: shown[key] for key in ("model", "size", "digest", "modified_at")} == {
        key: listed[key] for key in ("model", "size", "digest", "modified_at")
    }


def test_no_answer_tells_where_the_weights_lie(server: Server) -> None:
    for method, path, body in (
        ("GET", "/api/tags", None),
        ("GET", "/api/ps", None),
        ("POST", "/api/show", {"model": "smollm2", "verbose": True}),
    ):
        assert "secret-place" not in server.ask(method, path, body).text


@pytest.mark.parametrize("is_verbose", [True, False])
def test_show_lists_the_tensors(server: Server, is_verbose: bool) -> None:
    shown = server.ask("POST", "/api/show", {"name": "smollm2", "verbose": is_verbose}).json()
    assert shown["tensors"] == [{"name": "w", "type": "BF16", "shape": [1000, 64]}]


@pytest.mark.parametrize(("is_verbose", "count"), [(True, 2001), (False, None)])
def test_thousands_of_tensors_are_listed_only_where_asked_for(
    server: Server, root: Path, is_verbose: bool, count: int | None
) -> None:
    tensors = {f"experts.{i}": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]} for i in range(2001)}
    header = json.dumps(tensors).encode()
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    shown = server.ask("POST", "/api/show", {"name": "smollm2", "verbose": is_verbose}).json()
    assert len(shown.get("tensors", [])) == (count or 0)
    assert ("tensors" in shown) == is_verbose


def test_copilot_is_told_the_name_it_asked_for(server: Server) -> None:
    asked = {"model": "SmolLM2"}
    answer = server.ask("POST", "/api/show", asked, user_agent="GitHubCopilotChat/0.30")
    assert answer.json()["model_info"]["general.basename"] == "SmolLM2"
    assert server.ask("POST", "/api/show", asked).json()["model_info"]["general.basename"] == "smollm2"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "missing request body"),
        (b"{}", 400, "model is required"),
        (b'{"model":""}', 400, "model is required"),
        (b'{"model":"nosuchmodel"}', 404, "model 'nosuchmodel:latest' not found"),
        (b'{"model":"Foo/Bar"}', 404, "model 'Foo/Bar:latest' not found"),
        (b'{"model":"x:local"}', 404, "model 'x:latest' not found"),
        (b'{"model":"a b"}', 400, "invalid model name"),
        (b'{"model":"../x"}', 400, "invalid model name"),
        (b'{"model":"x:local:cloud"}', 400, 'use either :local or :cloud, not both: "x:local:cloud"'),
    ],
)
def test_show_refuses_in_ollamas_words(server: Server, body: bytes, status: int, text: str) -> None:
    assert told(server.ask("POST", "/api/show", content=body)) == (status, text)


# ---------------------------------------------------------------- copy, delete, create

CREATED: dict[str, Any] = {
    "model": "Mine",
    "from": "smollm2",
    "system": "S\nT",
    "parameters": {"temperature": 0.5, "top_p": 1, "stop": ["a", "b c"], "num_ctx": 100, "top_k": 40.0},
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x\ny"}],
    "license": ["L1", "L2"],
}


def test_a_copy_answers_with_nothing_and_is_there(server: Server) -> None:
    answer = server.ask("POST", "/api/copy", {"source": "smollm2", "destination": "smollm2-copy"})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert "content-type" not in answer.headers
    names = [model["name"] for model in server.ask("GET", "/api/tags").json()["models"]]
    assert names == ["smollm2-copy:latest", "smollm2:latest"]


@pytest.mark.parametrize("body", [{"model": "mine"}, {"name": "MINE"}, {"model": "", "name": "mine:latest"}])
def test_an_alias_can_be_deleted_by_either_field(server: Server, body: dict[str, str]) -> None:
    server.ask("POST", "/api/copy", {"source": "smollm2", "destination": "mine"})
    answer = server.ask("DELETE", "/api/delete", body)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert told(server.ask("DELETE", "/api/delete", body))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/copy", {}, 400, 'source "" is invalid'),
        ("POST", "/api/copy", {"source": "smollm2"}, 400, 'destination "" is invalid'),
        ("POST", "/api/copy", {"source": "nosuch", "destination": "y"}, 404, 'model "nosuch" not found'),
        ("POST", "/api/copy", {"source": "smollm2:cloud", "destination": "y"}, 404, 'model "smollm2:cloud" not found'),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("DELETE", "/api/delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
        ("DELETE", "/api/delete", {"model": "Nosuch:TAG"}, 404, "model 'Nosuch:TAG' not found"),
        ("POST", "/api/create", {}, 400, "invalid model name"),
        ("POST", "/api/create", {"from": "smollm2"}, 400, "invalid model name"),
        ("POST", "/api/create", {"model": "c"}, 400, "neither 'from' or 'files' was specified"),
        ("POST", "/api/create", {"model": "c", "from": "a b"}, 400, "invalid model name"),
        (
            "POST",
            "/api/create",
            {"model": "c", "from": "smollm2", "license": 5},
            500,
            "json: cannot unmarshal number into Go value of type []string",
        ),
        (
            "POST",
            "/api/create",
            {"model": "c", "from": "smollm2", "license": [1]},
            500,
            "json: cannot unmarshal number into Go value of type string",
        ),
        (
            "POST",
            "/api/create",
            {"model": "c", "from": "smollm2", "parameters": {"temperature": "hot"}},
            400,
            'option "temperature" must be of type float32',
        ),
        ("POST", "/api/pull", {}, 400, "invalid model name"),
        ("POST", "/api/push", {}, 400, "model is required"),
    ],
)
def test_requests_are_refused_in_ollamas_words(
    server: Server, method: str, path: str, body: dict[str, Any], status: int, text: str
) -> None:
    assert told(server.ask(method, path, body)) == (status, text)


@pytest.mark.parametrize("path", ["/api/copy", "/api/create", "/api/pull", "/api/push", "/api/show"])
def test_a_missing_or_broken_body_is_told(server: Server, path: str) -> None:
    assert told(server.ask("POST", path)) == (400, "missing request body")
    assert told(server.ask("POST", path, content=b"{")) == (400, "unexpected EOF")


def test_a_served_model_is_not_deleted(server: Server) -> None:
    status, text = told(server.ask("DELETE", "/api/delete", {"model": "smollm2"}))
    assert status == 403
    assert "served by vLLM" in text
    assert len(server.ask("GET", "/api/tags").json()["models"]) == 1


def test_create_tells_its_steps(server: Server) -> None:
    steps = statuses(server.ask("POST", "/api/create", CREATED))
    assert steps[0].startswith("using existing layer sha256:")
    assert steps[-2:] == ["writing manifest", "success"]
    assert all(step.startswith("creating new layer sha256:") for step in steps[1:-2])
    assert len(steps) == 1 + 5 + 2


def test_without_a_stream_create_tells_its_end(server: Server) -> None:
    answer = server.ask("POST", "/api/create", CREATED | {"stream": False})
    assert (answer.json(), answer.headers["content-type"]) == ({"status": "success"}, "application/json")


def test_what_was_created_is_shown_as_ollama_shows_it(server: Server) -> None:
    server.ask("POST", "/api/create", CREATED)
    shown = server.ask("POST", "/api/show", {"model": "mine"}).json()
    assert shown["license"] == "L1\nL2"
    assert shown["system"] == "S\nT"
    assert shown["messages"] == CREATED["messages"]
    assert shown["details"]["parent_model"] == "smollm2:latest"
    assert shown["parameters"].splitlines() == [
        "num_ctx                        100",
        'stop                           "a"',
        'stop                           "b c"',
        "temperature                    0.5",
        "top_k                          40",
        "top_p                          1",
    ]
    assert shown["modelfile"].splitlines()[2:] == [
        "# FROM Mine:latest",
        "",
        "FROM smollm2:latest",
        "TEMPLATE {{ .Prompt }}",
        'SYSTEM "S',
        'T"',
        "PARAMETER num_ctx 100",
        "PARAMETER stop a",
        "PARAMETER stop b c",
        "PARAMETER temperature 0.5",
        "PARAMETER top_k 40",
        "PARAMETER top_p 1",
        "LICENSE L1",
        "LICENSE L2",
        "MESSAGE user hi",
        'MESSAGE assistant "x',
        'y"',
    ]


def test_show_takes_a_system_prompt_and_options_to_try(server: Server) -> None:
    server.ask("POST", "/api/create", CREATED)
    asked = {"model": "mine", "system": "over", "options": {"temperature": 9}}
    shown = server.ask("POST", "/api/show", asked).json()
    assert shown["system"] == "over"
    assert "SYSTEM over\n" in shown["modelfile"]
    assert "PARAMETER temperature 9\n" in shown["modelfile"]
    assert "temperature                    0.5" in shown["parameters"]


def test_what_a_modelfile_of_ours_holds_can_be_created_again(server: Server) -> None:
    template = server.ask("POST", "/api/show", {"model": "smollm2"}).json()["template"]
    body = {"model": "again", "from": "smollm2", "template": template, "parameters": {"num_ctx": 2048}}
    assert statuses(server.ask("POST", "/api/create", body))[-1] == "success"


@pytest.mark.parametrize(
    "asked",
    [
        {"template": "{{ .Other }}"},
        {"files": {"a.gguf": f"sha256:{ZEROS}"}},
        {"adapters": {"a": f"sha256:{ZEROS}"}},
        {"quantize": "q4_0"},
        {"remote_host": "http://evil.example"},
    ],
)
def test_what_vllm_fixes_at_its_start_cannot_be_created(server: Server, asked: dict[str, Any]) -> None:
    answer = server.ask("POST", "/api/create", {"model": "c", "from": "smollm2"} | asked)
    assert answer.headers["content-type"] == "application/json"
    assert told(answer)[0] == 400
    assert "not supported" in told(answer)[1]
    assert len(server.ask("GET", "/api/tags").json()["models"]) == 1


def test_an_alias_made_from_files_is_refused(server: Server) -> None:
    answer = server.ask("POST", "/api/create", {"model": "c", "files": {"a.gguf": f"sha256:{ZEROS}"}})
    assert told(answer)[0] == 400


@pytest.mark.parametrize("parent", ["nosuch", "nosuch:cloud", "evil.example/a/b"])
def test_an_unknown_parent_cannot_be_pulled(server: Server, parent: str) -> None:
    body = {"model": "c", "from": parent}
    assert lines(server.ask("POST", "/api/create", body)) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    answer = server.ask("POST", "/api/create", body | {"stream": False})
    assert told(answer) == (500, "pull model manifest: file does not exist")
    assert answer.headers["content-type"] == "application/json"


# ---------------------------------------------------------------- pull, push, blobs


def test_a_served_model_is_pulled_already(server: Server) -> None:
    assert statuses(server.ask("POST", "/api/pull", {"name": "SMOLLM2"})) == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    answer = server.ask("POST", "/api/pull", {"model": "smollm2", "stream": False})
    assert (answer.json(), answer.headers["content-type"]) == ({"status": "success"}, "application/json")


@pytest.mark.parametrize("name", ["nosuch", "http://evil.example/a/b", "nosuch:cloud"])
def test_nothing_else_can_be_pulled(server: Server, name: str) -> None:
    assert lines(server.ask("POST", "/api/pull", {"model": name})) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    answer = server.ask("POST", "/api/pull", {"model": name, "stream": False})
    assert told(answer) == (500, "pull model manifest: file does not exist")
    assert answer.headers["content-type"] == "application/json"


def test_push_never_succeeds(server: Server) -> None:
    first, last = lines(server.ask("POST", "/api/push", {"model": "smollm2"}))
    assert first == {"status": "retrieving manifest"}
    assert "not supported" in last["error"]
    assert [list(line) for line in lines(server.ask("POST", "/api/push", {"model": "nosuch"}))] == [
        ["status"],
        ["status"],
        ["error"],
    ]
    assert told(server.ask("POST", "/api/push", {"model": "smollm2", "stream": False}))[0] == 500


def test_no_blob_is_there_and_none_is_taken(server: Server) -> None:
    hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert server.ask("HEAD", f"/api/blobs/{hello}").status_code == 404
    assert server.ask("HEAD", "/api/blobs/xx").status_code == 400
    assert told(server.ask("POST", "/api/blobs/xx", content=b"hello")) == (400, "invalid digest format")
    assert told(server.ask("POST", f"/api/blobs/{hello}", content=b"hello"))[0] == 501
    assert told(server.ask("POST", f"/api/blobs/sha256:{ZEROS}", content=b"hello")) == (
        400,
        f'digest mismatch, expected "sha256:{ZEROS}", got "{hello}"',
    )


def test_a_large_blob_is_refused_unread(server: Server) -> None:
    async def asked() -> tuple[int, int]:
        read = 0

        async def body() -> Any:
            nonlocal read
            for _ in range(100):
                read += 1
                yield b"x" * 2**20

        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://x") as client:
            answer = await client.post(f"/api/blobs/sha256:{ZEROS}", content=body())
        return answer.status_code, read

    status, read = server.runner.run(asked())
    assert (status, read) == (501, 0)


# ---------------------------------------------------------------- who may change something

CHANGES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("POST", "/api/copy", {"source": "smollm2", "destination": "c"}),
    ("POST", "/api/create", {"model": "c", "from": "smollm2"}),
    ("DELETE", "/api/delete", {"model": "c"}),
    ("POST", "/api/pull", {"model": "smollm2"}),
    ("POST", f"/api/blobs/sha256:{ZEROS}", {}),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    ("settings", "is_allowed"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"host": "0.0.0.0", "allow_admin": True}, True),
        ({"allow_admin": False}, False),
    ],
)
def test_changes_are_for_the_machine_itself_unless_allowed(
    upstream: Vllm, method: str, path: str, body: dict[str, str], settings: dict[str, Any], is_allowed: bool
) -> None:
    server = Server(upstream, **settings)
    answer = server.ask(method, path, body)
    server.runner.close()
    assert (answer.status_code != 403) == is_allowed
    if not is_allowed:
        assert "--allow-admin" in told(answer)[1]
