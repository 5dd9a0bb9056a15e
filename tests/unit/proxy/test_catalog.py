"""Which models clients see, how a name is found, what is known and what is guessed."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proxy.catalog import FRESH_S, MISS_S, PROBE_S, STALE_S, Catalog, Model, timestamp
from proxy.errors import ModelNotFound, OllamaError, UpstreamNotReady, UpstreamUnreachable
from proxy.settings import Settings, UpstreamAddress
from proxy.upstream import ServedModel

NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
NO_TEMPLATE = "Chat template is passed with request, but --trust-request-chat-template is not set."
NO_BUDGET = "thinking_token_budget is set but reasoning_config is not configured."
NO_RANK = "data_parallel_rank 2147483647 is out of range [0, 1)."


class Vllm:
    """What the catalog asks of an `Upstream`, answered as vLLM 0.32 was seen to answer."""

    def __init__(self, *cards: ServedModel, url: str = "http://127.0.0.1:8000", name: str | None = None) -> None:
        self.address = UpstreamAddress(url, name)
        self.cards = list(cards)
        self.down: OllamaError | None = None
        self.does = {"generate"}
        self.has_tool_parser = False
        self.has_reasoning_parser = False
        self.knows_budgets = True
        self.asked: list[str] = []
        self.lists = 0
        self.delay_s = 0.0
        self.wire = SimpleNamespace(post=self._post)

    async def models(self, *, timeout_s: float) -> list[ServedModel]:
        self.lists += 1
        await asyncio.sleep(self.delay_s)
        if self.down is not None:
            raise self.down
        return [msgspec.structs.replace(card, created=time.time_ns()) for card in self.cards]

    async def tasks(self) -> frozenset[str]:
        return frozenset(self.does)

    async def json(self, method: str, path: str, body: dict[str, Any] | None, *, timeout_s: float | None) -> object:
        self.asked.append(path)
        assert body is not None
        assert body["max_completion_tokens"] == 1
        raise OllamaError(400, NO_TEMPLATE if self.has_tool_parser or "tools" not in body else NO_PARSER)

    async def _post(self, path: str, body: bytes, *, headers: dict[str, str]) -> object:
        asked = json.loads(body)
        told = NO_RANK
        if self.knows_budgets and not isinstance(asked["thinking_token_budget"], int):
            told = "`thinking_token_budget` must be a non-negative integer"
        elif self.knows_budgets and not self.has_reasoning_parser:
            told = NO_BUDGET
        assert headers == {"x-data-parallel-rank": "2147483647"}

        async def read() -> bytes:
            return json.dumps({"error": {"message": told, "code": 400}}).encode()

        return SimpleNamespace(status=400, read=read)


class HandClock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def card(id_: str = "llama3", *, root: str | None = None, parent: str | None = None) -> ServedModel:
    return ServedModel(id=id_, root=root or id_, parent=parent, max_model_len=None if parent else 4096, created=1)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def made(tmp_path: Path, clock: HandClock) -> Callable[..., Catalog]:
    def catalog(*servers: Vllm, **settings: Any) -> Catalog:
        told = Settings(upstreams=tuple(server.address for server in servers), **settings)
        return Catalog(told, servers, hub=tmp_path / "hub", now_s=clock)  # type: ignore[arg-type]

    return catalog


@pytest.fixture
def run() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    with asyncio.Runner() as runner:

        def one(awaited: Awaitable[Any]) -> Any:
            async def waited() -> Any:
                return await awaited

            return runner.run(waited())

        yield one


Run = Callable[[Awaitable[Any]], Any]
Made = Callable[..., Catalog]


def folder(at: Path, *, template: str = "", tokens: tuple[str, ...] = (), **config: Any) -> Path:
    at.mkdir(parents=True)
    shape = {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    (at / "config.json").write_text(json.dumps(shape | {"dtype": "bfloat16"} | config))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1000, 64], "data_offsets": [0, 128_000]}}).encode()
    (at / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 128_000)
    if template:
        (at / "chat_template.jinja").write_text(template)
    listed = {str(i): {"content": token} for i, token in enumerate(tokens)}
    (at / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    return at


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("text", ["llama3", "LLAMA3", "llama3:latest", "library/llama3", " llama3", "llama3:local"])
def test_a_model_is_found_however_its_name_is_spelled(made: Made, run: Run, text: str) -> None:
    model = run(made(Vllm(card())).find(text))
    assert (model.name, model.served_id, model.max_model_len) == ("llama3:latest", "llama3", 4096)


@pytest.mark.parametrize("text", ["", "other", "llama3:8b", "llama3:cloud", "ns/llama3", "llama3:8b-cloud"])
def test_an_unknown_name_is_told_as_it_was_spelled(made: Made, run: Run, text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        run(made(Vllm(card())).find(text))
    assert caught.value.text == f"model '{text}' not found"


@pytest.mark.parametrize("text", ["a b", "../x", "/models/m", "x" * 5000])
def test_no_name_at_all_is_refused(made: Made, run: Run, text: str) -> None:
    with pytest.raises(OllamaError) as caught:
        run(made(Vllm(card("/models/m"))).find(text))
    assert (caught.value.status, caught.value.text) == (400, "invalid model name")


def test_a_path_is_served_under_its_last_part(made: Made, run: Run) -> None:
    catalog = made(Vllm(card("/models/Qwen3")))
    assert run(catalog.find("qwen3")).served_id == "/models/Qwen3"
    assert [model.name for model in run(catalog.models())] == ["Qwen3:latest"]


def test_a_given_name_stands_for_the_base_model_and_vllms_own_id_still_works(made: Made, run: Run) -> None:
    server = Vllm(card("Qwen/Qwen3-8B"), card("sql", root="/l/sql", parent="Qwen/Qwen3-8B"), name="qwen3:8b")
    catalog = made(server)
    assert {model.name for model in run(catalog.models())} == {"qwen3:8b", "sql:latest"}
    assert run(catalog.find("qwen3:8b")).served_id == "Qwen/Qwen3-8B"
    assert run(catalog.find("qwen/qwen3-8b")).name == "qwen3:8b"


def test_the_repository_of_the_weights_is_a_name_too(made: Made, run: Run) -> None:
    catalog = made(Vllm(card("chat", root="Qwen/Qwen3-8B")))
    assert run(catalog.find("Qwen/Qwen3-8B:latest")).name == "chat:latest"


def test_an_adapter_is_an_entry_of_its_own_with_its_bases_context(made: Made, run: Run) -> None:
    catalog = made(Vllm(card(), card("sql", root="org/sql", parent="llama3")))
    adapter = run(catalog.find("sql"))
    assert (adapter.served_id, adapter.max_model_len) == ("sql", 4096)
    assert adapter.details["parent_model"] == "llama3:latest"
    assert adapter.digest != run(catalog.find("llama3")).digest


def test_of_two_servers_with_one_name_the_first_is_meant(made: Made, run: Run) -> None:
    first, second = Vllm(card(), card("a")), Vllm(card(), card("b"))
    catalog = made(first, second)
    assert run(catalog.find("llama3")).upstream is first
    assert run(catalog.find("b")).upstream is second
    assert len(run(catalog.models())) == 3


# ---------------------------------------------------------------- freshness


def test_a_fresh_list_is_not_fetched_again(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    for _ in range(5):
        run(catalog.models())
        run(catalog.find("llama3"))
    assert server.lists == 1
    clock.s += FRESH_S
    run(catalog.models())
    assert server.lists == 2


def test_however_many_ask_at_once_one_list_is_fetched(made: Made, run: Run) -> None:
    server = Vllm(card())
    server.delay_s = 0.02
    catalog = made(server)

    async def many() -> None:
        await asyncio.gather(*(catalog.find("llama3") for _ in range(50)), *(catalog.models() for _ in range(50)))

    run(many())
    assert server.lists == 1


def test_one_who_leaves_does_not_stop_the_fetch_for_the_others(made: Made, run: Run) -> None:
    server = Vllm(card())
    server.delay_s = 0.05
    catalog = made(server)

    async def leave() -> Model:
        first = asyncio.create_task(catalog.find("llama3"))
        second = asyncio.create_task(catalog.find("llama3"))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    assert run(leave()).served_id == "llama3"
    assert server.lists == 1


def test_a_request_does_not_wait_for_a_new_list(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.find("llama3"))
    server.delay_s = 30.0
    clock.s += FRESH_S + 1

    async def quick() -> Model:
        async with asyncio.timeout(1):
            return await catalog.find("llama3")

    assert run(quick()).served_id == "llama3"
    run(catalog.aclose())


def test_an_old_list_is_waited_for(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.find("llama3"))
    server.cards = [card("other")]
    clock.s += STALE_S
    with pytest.raises(ModelNotFound):
        run(catalog.find("llama3"))


def test_an_unknown_name_has_the_list_fetched_anew_once_in_a_while(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.find("llama3"))
    server.cards.append(card("new", parent="llama3"))
    for _ in range(3):
        with pytest.raises(ModelNotFound):
            run(catalog.find("new"))
    assert server.lists == 1
    clock.s += MISS_S
    assert run(catalog.find("new")).served_id == "new"
    assert server.lists == 2


def test_a_forgotten_list_is_fetched_anew(made: Made, run: Run) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.find("llama3"))
    server.cards = [card("other")]
    catalog.forget()
    assert run(catalog.find("other")).served_id == "other"


def test_a_server_that_went_away_keeps_its_last_list(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.models())
    server.down = UpstreamUnreachable()
    clock.s += STALE_S
    assert [model.name for model in run(catalog.models())] == ["llama3:latest"]
    assert run(catalog.find("llama3")).served_id == "llama3"
    with pytest.raises(ModelNotFound):
        run(catalog.find("other"))


@pytest.mark.parametrize("error", [UpstreamUnreachable(), UpstreamNotReady()])
def test_a_server_that_was_never_there_is_an_error_for_a_request_and_no_model_in_a_list(
    made: Made, run: Run, error: OllamaError
) -> None:
    server = Vllm(card())
    server.down = error
    catalog = made(server)
    assert run(catalog.models()) == []
    with pytest.raises(OllamaError) as caught:
        run(catalog.find("llama3"))
    assert caught.value.status == error.status


def test_finding_a_model_costs_far_less_than_a_millisecond(made: Made, run: Run, tmp_path: Path) -> None:
    catalog = made(Vllm(card()), state_dir=tmp_path / "state")

    async def best_s() -> float:
        await catalog.find("llama3")
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(200):
                await catalog.find("llama3")
            best = min(best, (time.perf_counter() - began) / 200)
        return best

    assert run(best_s()) < 1e-3


# ---------------------------------------------------------------- what a model is


def test_a_readable_folder_tells_shape_size_and_precision(made: Made, run: Run, tmp_path: Path) -> None:
    root = folder(tmp_path / "m")
    model = run(made(Vllm(card("m", root=str(root)))).find("m"))
    assert model.details == {
        "parent_model": "",
        "format": "safetensors",
        "family": "qwen2",
        "families": ["qwen2"],
        "parameter_size": "64K",
        "quantization_level": "BF16",
    }
    assert model.model_info["general.architecture"] == "qwen2"
    assert model.model_info["general.parameter_count"] == 64_000
    assert model.model_info["qwen2.context_length"] == model.max_model_len == 4096
    assert model.model_info["qwen2.attention.head_count"] == 4
    assert model.size_bytes == (root / "model.safetensors").stat().st_size
    assert str(tmp_path) not in json.dumps([model.model_info, model.details, model.template, model.name])


def test_without_a_folder_the_name_is_all_there_is(made: Made, run: Run) -> None:
    model = run(made(Vllm(card("chat", root="Qwen/Qwen2.5-1.5B-Instruct-AWQ"))).find("chat"))
    assert model.details["parameter_size"] == "1.5B"
    assert model.details["quantization_level"] == "AWQ"
    assert model.size_bytes == 1_500_000_000 * 9 // 16
    assert model.model_info["general.architecture"] == model.details["family"] == "unknown"
    assert model.model_info["unknown.context_length"] == 4096


def test_where_not_even_the_name_tells_a_size_it_is_one_byte(made: Made, run: Run) -> None:
    model = run(made(Vllm(card("chat"))).find("chat"))
    assert (model.size_bytes, model.details["parameter_size"]) == (1, "")
    assert "general.parameter_count" not in model.model_info


def test_digest_and_date_do_not_move(made: Made, run: Run, tmp_path: Path, clock: HandClock) -> None:
    root = folder(tmp_path / "m")
    server = Vllm(card("m", root=str(root)), card("remote"))
    catalogs = [made(server, state_dir=tmp_path / "state") for _ in range(2)]
    seen = [[(m.name, m.digest, m.modified_at) for m in run(catalog.models())] for catalog in catalogs]
    clock.s += STALE_S
    seen.append([(m.name, m.digest, m.modified_at) for m in run(catalogs[0].models())])
    assert seen[0] == seen[1] == seen[2]
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for _, digest, _ in seen[0])


@pytest.mark.parametrize(
    ("template", "has_parser", "listed"),
    [
        ("{{ tools }}", True, ("completion", "tools")),
        ("{{ tools }}", False, ("completion",)),
        ("{{ messages }}", True, ("completion",)),
        ("<think></think>", False, ("completion", "thinking")),
    ],
)
def test_tools_need_a_template_and_a_parser(
    made: Made, run: Run, tmp_path: Path, template: str, has_parser: bool, listed: tuple[str, ...]
) -> None:
    server = Vllm(card("m", root=str(folder(tmp_path / "m", template=template))))
    server.has_tool_parser = has_parser
    assert run(made(server).find("m")).capabilities == listed


def test_without_a_readable_template_the_parser_decides(made: Made, run: Run) -> None:
    server = Vllm(card("m"))
    server.has_tool_parser = True
    assert run(made(server).find("m")).capabilities == ("completion", "tools")


def test_a_vision_part_means_vision(made: Made, run: Run, tmp_path: Path) -> None:
    server = Vllm(card("m", root=str(folder(tmp_path / "m", vision_config={"depth": 2}))))
    assert run(made(server).find("m")).capabilities == ("completion", "vision")


def test_a_pooling_model_embeds_and_does_nothing_else(made: Made, run: Run) -> None:
    server = Vllm(card("m"))
    server.does = {"embed"}
    assert run(made(server).find("m")).capabilities == ("embedding",)
    assert server.asked == []


FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def test_a_coder_with_the_tokens_fills_in_and_a_chat_model_with_them_does_not(
    made: Made, run: Run, tmp_path: Path
) -> None:
    server = Vllm(
        card("coder", root=str(folder(tmp_path / "Qwen2.5-Coder", tokens=FIM))),
        card("chat", root=str(folder(tmp_path / "Qwen2.5", tokens=FIM))),
    )
    catalog = made(server)
    coder, chat = run(catalog.find("coder")), run(catalog.find("chat"))
    assert (coder.capabilities, coder.fim) == (("completion", "insert"), FIM)
    assert (chat.capabilities, chat.fim) == (("completion",), FIM)
    assert ".Suffix" in coder.template
    assert chat.template == "{{ .Prompt }}"


def test_capabilities_that_were_set_replace_those_found(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()), capabilities={"LLAMA3": ("completion", "thinking")})
    model = run(catalog.find("llama3"))
    assert model.capabilities == ("completion", "thinking")
    assert ".Thinking" in model.template


def test_flags_are_asked_for_anew_after_a_restart_and_once_a_minute(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    assert "tools" not in run(catalog.find("llama3")).capabilities
    server.has_tool_parser = True
    clock.s += FRESH_S
    run(catalog.models())
    assert len(server.asked) == 1
    clock.s += PROBE_S
    run(catalog.models())
    assert "tools" in run(catalog.find("llama3")).capabilities
    server.down = UpstreamUnreachable()
    clock.s += FRESH_S
    run(catalog.models())
    server.down, server.has_tool_parser = None, False
    clock.s += FRESH_S
    run(catalog.models())
    assert "tools" not in run(catalog.find("llama3")).capabilities


@pytest.mark.parametrize(
    ("has_parser", "knows", "told"), [(True, True, True), (False, True, False), (True, False, None)]
)
def test_a_reasoning_parser_is_told_by_which_refusal_comes_first(
    made: Made, run: Run, has_parser: bool, knows: bool, told: bool | None
) -> None:
    server = Vllm(card())
    server.has_reasoning_parser, server.knows_budgets = has_parser, knows
    assert run(made(server).find("llama3")).has_reasoning_parser is told


def test_reasoning_that_was_seen_is_remembered(made: Made, run: Run) -> None:
    server = Vllm(card())
    server.knows_budgets = False
    catalog = made(server)
    catalog.saw_reasoning(run(catalog.find("llama3")))
    assert run(catalog.find("llama3")).has_reasoning_parser


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_795_371_017_000_000_001, "2026-11-22T18:10:17.000000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(time_ns: int, text: str) -> None:
    assert timestamp(time_ns) == text


# ---------------------------------------------------------------- aliases


def test_a_copy_is_listed_first_and_means_the_same_model(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    run(catalog.copy("LLAMA3", "ns/Mine:v1"))
    assert [model.name for model in run(catalog.models())] == ["ns/Mine:v1", "llama3:latest"]
    copy, base = run(catalog.find("NS/mine:V1")), run(catalog.find("llama3"))
    assert (copy.served_id, copy.digest, copy.is_alias, copy.base) == ("llama3", base.digest, True, "llama3:latest")
    assert catalog.served(copy) == base


def test_a_copy_onto_itself_changes_nothing(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    run(catalog.copy("llama3", "Llama3:latest"))
    assert not run(catalog.find("llama3")).is_alias


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        ("", "x", 400, 'source "" is invalid'),
        ('a b"q', "x", 400, 'source "a b\\"q" is invalid'),
        ("llama3", "", 400, 'destination "" is invalid'),
        ("llama3", "a b", 400, 'destination "a b" is invalid'),
        ("llama3", "x:cloud", 400, 'destination "x:cloud" is invalid'),
        ("nosuch", "x", 404, 'model "nosuch" not found'),
    ],
)
def test_copy_refuses_in_ollamas_words(
    made: Made, run: Run, source: str, destination: str, status: int, text: str
) -> None:
    with pytest.raises(OllamaError) as caught:
        run(made(Vllm(card())).copy(source, destination))
    assert (caught.value.status, caught.value.text) == (status, text)


def made_with(catalog: Catalog, run: Run, text: str, parent: str, **own: Any) -> None:
    from proxy.names import parsed

    name = parsed(text)
    assert name is not None
    own = {"system": "", "parameters": {}, "messages": [], "licenses": []} | own
    run(catalog.create(name, run(catalog.find(parent)), **own))


def test_what_is_created_has_its_own_and_inherits_the_rest(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    made_with(catalog, run, "a", "llama3", system="S", parameters={"top_k": 1, "seed": 2}, licenses=["L1"])
    made_with(catalog, run, "b", "a", parameters={"top_k": 3}, licenses=["L2"])
    model = run(catalog.find("b"))
    assert model.system == "S"
    assert model.parameters == {"top_k": 3, "seed": 2}
    assert model.license == ("L1", "L2")
    assert model.details["parent_model"] == "a:latest"
    assert (model.served_id, model.base) == ("llama3", "llama3:latest")
    assert model.digest != run(catalog.find("a")).digest != run(catalog.find("llama3")).digest


def test_an_alias_may_cover_a_served_name_until_it_is_deleted(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    made_with(catalog, run, "llama3", "llama3", system="S")
    assert [(model.name, model.system) for model in run(catalog.models())] == [("llama3:latest", "S")]
    made_with(catalog, run, "other", "llama3", parameters={"top_k": 1})
    assert run(catalog.delete("llama3")) == "llama3:latest"
    assert run(catalog.find("llama3")).system == ""
    assert run(catalog.find("other")).system == "S"


def test_deleting_what_vllm_serves_is_refused(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    with pytest.raises(OllamaError) as caught:
        run(catalog.delete("LLAMA3"))
    assert caught.value.status == 403
    assert run(catalog.find("llama3"))


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("gone", 404, "model 'gone' not found"),
        ("a b", 400, 'name "a b" is invalid'),
        ("x:local:cloud", 400, 'use either :local or :cloud, not both: "x:local:cloud"'),
    ],
)
def test_delete_refuses_in_ollamas_words(made: Made, run: Run, text: str, status: int, told: str) -> None:
    with pytest.raises(OllamaError) as caught:
        run(made(Vllm(card())).delete(text))
    assert (caught.value.status, caught.value.text) == (status, told)


def test_a_name_of_the_cloud_deletes_no_alias_of_ours(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))
    run(catalog.copy("llama3", "mine"))
    with pytest.raises(ModelNotFound):
        run(catalog.delete("mine:cloud"))
    assert run(catalog.find("mine"))


def test_copies_made_at_once_are_all_kept(made: Made, run: Run) -> None:
    catalog = made(Vllm(card()))

    async def many() -> None:
        await asyncio.gather(*(catalog.copy("llama3", f"c{number}") for number in range(30)))

    run(many())
    assert len(run(catalog.models())) == 31


def test_a_server_that_answers_nonsense_does_not_hide_the_others(
    made: Made, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = Vllm(card("a")), Vllm(card("b"))
    broken.down = ZeroDivisionError("a mistake of ours")  # type: ignore[assignment]
    assert [model.name for model in run(made(broken, whole).models())] == ["b:latest"]
    assert "could not be understood" in caplog.text


def test_an_alias_whose_model_is_gone_is_not_shown_and_not_lost(made: Made, run: Run, clock: HandClock) -> None:
    server = Vllm(card())
    catalog = made(server)
    run(catalog.copy("llama3", "mine"))
    server.cards = [card("other")]
    clock.s += STALE_S
    assert [model.name for model in run(catalog.models())] == ["other:latest"]
    server.cards = [card()]
    clock.s += STALE_S
    assert run(catalog.find("mine")).served_id == "llama3"
    server.cards = [card("other")]
    clock.s += STALE_S
    assert run(catalog.delete("mine")) == "mine:latest"


def test_aliases_outlive_the_worker_and_reach_the_others(made: Made, run: Run, tmp_path: Path) -> None:
    one, other = (made(Vllm(card()), state_dir=tmp_path / "state") for _ in range(2))
    run(other.models())
    run(one.copy("llama3", "mine"))
    assert run(other.find("mine")).served_id == "llama3"
    run(other.delete("mine"))
    with pytest.raises(ModelNotFound):
        run(one.find("mine"))
    run(one.copy("llama3", "kept"))
    assert run(made(Vllm(card()), state_dir=tmp_path / "state").find("kept")).is_alias
