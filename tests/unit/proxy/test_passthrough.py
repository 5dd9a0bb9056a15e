"""/v1: what passes to a fake vLLM in a process of its own, what comes back, and Ollama 0.33's errors (recorded)."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from proxy import multipart
from proxy.dialects import check_media
from proxy.errors import OllamaError
from proxy.settings import Settings, UpstreamAddress
from tests.contract.servers import Fake, Starter, wait_until
from tests.unit.proxy.asgi import answer, left_by_client

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Json] = {
    CHAT: {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 3},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("servers"))
    yield starter
    starter.stop()


@pytest.fixture(scope="module")
def chat(start: Starter) -> Fake:
    return start.fake("--model", "org/Chat-1B", "--api-key", "upstream-secret")


@pytest.fixture(scope="module")
def embedder(start: Starter) -> Fake:
    return start.fake("--kind", "embed", "--model", "e", "--api-key", "upstream-secret")


@pytest.fixture(autouse=True)
def _fresh(chat: Fake, embedder: Fake) -> None:
    chat.forget()
    embedder.forget()


@pytest.fixture
def settings(chat: Fake, embedder: Fake) -> Settings:
    return Settings(
        upstreams=(UpstreamAddress(url=chat.url, name="c"), UpstreamAddress(url=embedder.url)),
        upstream_api_key="upstream-secret",
        capabilities={"c": ("completion", "tools", "vision")},
    )


def whole(settings: Settings, path: str, body: Json) -> Json:
    response = answer(settings, path, body)
    assert response.status_code == 200, response.text
    told: Json = response.json()
    return told


def refusal(settings: Settings, path: str, body: Json) -> tuple[int, str, str]:
    """Status, type and message of an error in the form of the API that was asked."""
    response = answer(settings, path, body)
    told = response.json()
    if path == "/v1/messages":
        assert told.keys() == {"type", "error", "request_id"}
        assert told["error"].keys() == {"type", "message"}
    else:
        assert told.keys() == {"error"}
        assert told["error"].keys() == {"message", "type", "param", "code"}
    return response.status_code, told["error"]["type"], told["error"]["message"]


# ---------------------------------------------------------------- what passes


def test_the_name_is_rewritten_and_the_rest_is_kept(settings: Settings, chat: Fake) -> None:
    body = {"model": "C:latest", "messages": HI, "temperature": 0.25, "stop": ["é\u2028"], "max_tokens": 3}
    whole(settings, CHAT, body)
    assert chat.requests(CHAT)[-1]["body"] == body | {"model": "org/Chat-1B"}


def test_fields_that_ollama_does_not_know_and_vllm_should_not_see_are_dropped(settings: Settings, chat: Fake) -> None:
    dangerous = {
        "chat_template": "{{ 1 }}", "chat_template_kwargs": {}, "mm_processor_kwargs": {}, "kv_transfer_params": {},
        "vllm_xargs": {}, "priority": -1, "structured_outputs": {"regex": "(a+)+"}, "prompt_logprobs": 5,
        "truncate_prompt_tokens": 1, "guided_regex": "x", "use_beam_search": True, "cache_salt": "x",
    }  # fmt: skip
    whole(settings, CHAT, {"model": "c", "messages": HI, "max_tokens": 2} | dangerous)
    assert chat.requests(CHAT)[-1]["body"].keys() == {"model", "messages", "max_tokens"}


def test_what_means_nothing_to_ollama_and_is_refused_by_vllm_is_left_out(settings: Settings, chat: Fake) -> None:
    body = {"model": "c", "messages": HI, "tools": [], "tool_choice": "auto", "stream_options": {"include_usage": True}}
    whole(settings, CHAT, body)
    assert chat.requests(CHAT)[-1]["body"].keys() == {"model", "messages"}


def test_the_clients_key_stays_here_and_the_proxys_goes_to_vllm(settings: Settings, chat: Fake) -> None:
    headers = {"authorization": "Bearer client", "cookie": "a=b", "x-vllm-priority": "1", "x-request-id": "abc-1"}
    answer(settings, CHAT, {"model": "c", "messages": HI}, headers=headers)
    seen = {name.lower(): value for name, value in chat.requests(CHAT)[-1]["headers"].items()}
    assert seen["authorization"] == "Bearer upstream-secret"
    assert seen["x-request-id"] == "abc-1"
    assert seen.keys().isdisjoint({"cookie", "x-vllm-priority"})


def test_a_stream_is_relayed_byte_for_byte(settings: Settings, chat: Fake) -> None:
    raw = 'data: {"a":"é\u2028"}\r\n\r\n: comment\n\ndata: [DONE]\n\n'
    chat.script({"match": "verbatim", "raw": raw})
    asked = {"model": "c", "messages": [{"role": "user", "content": "verbatim"}], "stream": True}
    response = answer(settings, CHAT, asked)
    assert response.content == raw.encode()
    assert response.headers["content-type"].startswith("text/event-stream")


def test_a_stream_that_breaks_off_ends_with_an_error_event(settings: Settings, chat: Fake) -> None:
    chat.script({"match": "break off", "cut_after": 2, "cut_how": "half"})
    asked = {"model": "c", "messages": [{"role": "user", "content": "break off"}], "stream": True}
    last = answer(settings, CHAT, asked).content.rstrip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "api_error"


def test_a_client_that_leaves_ends_vllms_work_before_and_amid_the_answer(settings: Settings, chat: Fake) -> None:
    for script, stream in (
        ({"never_headers": True}, True),
        ({"stall_after": 1}, True),
        ({"never_headers": True}, False),
    ):
        chat.script({"match": "leave", **script})
        asked = {"model": "c", "messages": [{"role": "user", "content": "leave"}], "stream": stream}
        left_by_client(settings, CHAT, json.dumps(asked).encode(), once=lambda: chat.running() == 1)
        assert wait_until(lambda: chat.running() == 0, within_s=1)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    ("body", "text"), [("", "EOF"), ("{", "unexpected EOF"), ("[]", "json: cannot unmarshal array into Go value of ")]
)
def test_a_body_that_is_none_is_refused_in_gos_words(settings: Settings, path: str, body: str, text: str) -> None:
    response = answer(settings, path, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(text)


@pytest.mark.parametrize("path", ASKED)
def test_an_unknown_model_is_404(settings: Settings, path: str) -> None:
    told = 'model "nosuch" not found, try pulling it first' if "embed" in path else "model 'nosuch' not found"
    assert refusal(settings, path, {"model": "nosuch", **ASKED[path]}) == (404, "not_found_error", told)


@pytest.mark.parametrize("path", ASKED)
def test_a_missing_model_is_refused(settings: Settings, path: str) -> None:
    status, _, text = refusal(settings, path, ASKED[path])
    if path in ("/v1/completions", "/v1/embeddings"):
        assert (status, text) == (404, "model '' not found")
    else:
        assert (status, text) == (400, "model is required")


@pytest.mark.parametrize(
    ("path", "verb"),
    [(CHAT, "chat"), ("/v1/completions", "generate"), ("/v1/responses", "chat"), ("/v1/messages", "chat")],
)
def test_a_model_that_embeds_does_not_chat(settings: Settings, path: str, verb: str) -> None:
    told = (400, "invalid_request_error", f'"e" does not support {verb}')
    assert refusal(settings, path, {"model": "e", **ASKED[path]}) == told


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"messages": []}, "[] is too short - 'messages'"),
        ({"messages": [5]}, "json: cannot unmarshal number into Go struct field ChatCompletionRequest.messages of type openai.Message"),  # noqa: E501
        ({"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid message content type: float64"),
        ({"messages": [{"role": "user", "content": [{"type": "zz"}]}]}, "invalid message format"),
        ({"temperature": "hot"}, "json: cannot unmarshal string into Go struct field ChatCompletionRequest.temperature of type float64"),  # noqa: E501
        ({"max_tokens": 1.5}, "json: cannot unmarshal number 1.5 into Go struct field ChatCompletionRequest.max_tokens of type int"),  # noqa: E501
        ({"model": 5}, "json: cannot unmarshal number into Go struct field ChatCompletionRequest.model of type string"),
        ({"reasoning_effort": "banana"}, 'invalid reasoning value: "banana" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")'),  # noqa: E501
        ({"reasoning_effort": "high"}, '"c" does not support thinking'),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"n": 9}, "n is 9, at most 8 are made"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "registry.ollama.ai/library/c:latest does not support tools"),  # noqa: E501
        ({"response_format": {"type": "structural_tag"}}, "response_format must be of type text, json_object or json_schema"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_chat_is_refused_in_ollamas_words(settings: Settings, more: Json, text: str) -> None:
    assert refusal(settings, CHAT, {"model": "c", "messages": HI} | more) == (400, "invalid_request_error", text)


@pytest.mark.parametrize(
    ("more", "text"),
    [({"max_tokens": 0}, "max_tokens is required and must be positive"), ({"messages": []}, "messages is required")],
)
def test_messages_are_refused_in_ollamas_words(settings: Settings, more: Json, text: str) -> None:
    asked = {"model": "c", "messages": HI, "max_tokens": 3} | more
    assert refusal(settings, "/v1/messages", asked) == (400, "invalid_request_error", text)


@pytest.mark.parametrize("kind", ["image_url", "audio_url", "video_url"])
@pytest.mark.parametrize("address", ["http://10.0.0.1/x", "https://x/y", "file:///etc/passwd", " data:x", "DATA:x", ""])
def test_no_address_is_fetched_from(kind: str, address: str) -> None:
    for told in (address, {"url": address}):
        with pytest.raises(OllamaError, match="URLs are not currently supported"):
            check_media({"messages": [{"role": "user", "content": [{"type": kind, kind: told}]}]})


def test_an_image_within_the_request_passes() -> None:
    check_media(
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]}
    )


def test_an_address_that_only_the_model_reads_passes() -> None:
    schema = {
        "properties": {"image_url": {"type": "string", "default": "http://x"}},
        "example": {"image_url": "http://x"},
    }
    check_media({"tools": [{"function": {"name": "f", "parameters": schema}}]})
    check_media({"messages": [{"content": [{"type": "tool_use", "input": {"image_url": "http://x"}}]}]})


def test_anthropics_image_source_is_refused() -> None:
    with pytest.raises(OllamaError, match="invalid image source type: url"):
        check_media({"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}]})


def test_vllms_refusal_has_openais_shape(settings: Settings, chat: Fake) -> None:
    chat.script({"match": "too far", "status": 400, "body": {"error": {"message": "at http://10.1.1.1:8000/x"}}})
    asked = {"model": "c", "messages": [{"role": "user", "content": "too far"}]}
    assert refusal(settings, CHAT, asked) == (400, "invalid_request_error", "at <address>")


# ---------------------------------------------------------------- what the proxy answers itself


def test_models_are_listed_as_ollama_lists_them(settings: Settings) -> None:
    told = answer(settings, "/v1/models", method="GET").json()
    assert {(card["id"], card["owned_by"], card["object"]) for card in told["data"]} == {
        ("c:latest", "library", "model"),
        ("e:latest", "library", "model"),
    }


def test_one_model_is_told_under_the_name_that_was_asked(settings: Settings) -> None:
    assert answer(settings, "/v1/models/C", method="GET").json()["id"] == "C"
    missing = answer(settings, "/v1/models/nosuch", method="GET")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "model 'nosuch:latest' not found"


def test_a_completion_without_a_prompt_loads_the_model(settings: Settings, chat: Fake) -> None:
    told = whole(settings, "/v1/completions", {"model": "c"})
    assert told["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]
    assert told["model"] == "c"
    assert not chat.requests("/v1/completions")


def test_a_completion_that_only_loads_is_streamed_where_asked(settings: Settings) -> None:
    asked = {"model": "c", "prompt": "", "stream": True, "stream_options": {"include_usage": True}}
    events = answer(settings, "/v1/completions", asked).text.split("\n\n")
    assert [event[:6] for event in events if event] == ["data: "] * 3
    assert events[-2] == "data: [DONE]"


def test_embeddings_honour_dimensions_for_every_model(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[0.36, 0.48, 0.8]]})
    told = whole(settings, "/v1/embeddings", {"model": "e", "input": "hi", "dimensions": 2})
    assert told["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
    assert told["model"] == "e"
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > 0


def test_embeddings_come_in_base64_where_asked(settings: Settings, embedder: Fake) -> None:
    embedder.script({"embeddings": [[3.0, 4.0]]})
    told = whole(settings, "/v1/embeddings", {"model": "e", "input": "hi", "encoding_format": "base64"})
    packed = base64.b64decode(told["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"input": []}, (400, "invalid_request_error", "invalid input")),
        ({"input": 5}, (400, "invalid_request_error", "invalid input type")),
        ({"input": [1, 2]}, (400, "invalid_request_error", "invalid input type")),
        ({"encoding_format": "zz"}, (400, "invalid_request_error", "Invalid value for 'encoding_format' = zz. Supported values: ['float', 'base64'].")),  # noqa: E501
        ({"model": "c"}, (501, "api_error", "This server does not support embeddings. Start it with `--embeddings`")),
    ],
)  # fmt: skip
def test_embeddings_are_refused_in_ollamas_words(settings: Settings, more: Json, told: tuple[int, str, str]) -> None:
    assert refusal(settings, "/v1/embeddings", {"model": "e", "input": "hi"} | more) == told


# ---------------------------------------------------------------- forms


def test_a_form_is_needed_and_has_a_file_and_a_model(settings: Settings) -> None:
    path = "/v1/audio/transcriptions"
    text = "failed to parse multipart form: request Content-Type isn't multipart/form-data"
    assert refusal(settings, path, {"model": "c"})[2] == text
    no_file = answer(settings, path, files={"model": (None, "c")})
    assert no_file.json()["error"]["message"] == "file is required: http: no such file"
    no_model = answer(settings, path, files={"file": ("a.wav", b"RIFF")})
    assert no_model.json()["error"]["message"] == "model is required"
    deaf = answer(settings, path, files={"file": ("a.wav", b"RIFF")}, data={"model": "c"})
    assert (deaf.status_code, deaf.json()["error"]["message"]) == (400, '"c" does not support transcription')


def test_a_form_survives_being_taken_apart_and_only_known_fields_do() -> None:
    parts = [
        multipart.Part("file", b"\r\n--x\r\nRIFF\x00", "../../a b.wav"),
        multipart.Part("model", b"m"),
        multipart.Part("vllm_xargs", b"{}"),
    ]
    content_type, body = multipart.encoded(parts)
    kept = multipart.parsed(body, content_type, names={"file", "model"})
    assert kept == [multipart.Part("file", b"\r\n--x\r\nRIFF\x00", ".._.._a_b.wav"), multipart.Part("model", b"m")]


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\n\r\n", b"no boundary"])
def test_a_form_that_is_cut_is_refused(body: bytes) -> None:
    with pytest.raises(OllamaError, match="failed to parse multipart form"):
        multipart.parsed(body, "multipart/form-data; boundary=x", names={"model"})
