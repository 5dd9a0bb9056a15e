"""What vLLM is asked for what Ollama's clients ask: options, formats, thinking, messages, tools, images, templates."""

import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import translate
from proxy.catalog import Model
from proxy.errors import OllamaError
from proxy.schemas import OPTION_TYPES, ChatRequest, GenerateRequest, Message, ToolCall, ToolFunction
from proxy.settings import Settings, UpstreamAddress
from proxy.translate import Asked, chat_asked, continued, generate_asked, rendered, response_format, sampling
from proxy.upstream import Upstream

Json = dict[str, Any]
ADDRESS = UpstreamAddress(url="http://127.0.0.1:1")
OLLAMA = Settings(upstreams=(ADDRESS,))
BARE = Settings(upstreams=(ADDRESS,), sampling_defaults="model")
STRICT = Settings(upstreams=(ADDRESS,), num_ctx="reject")
UPSTREAM = Upstream(ADDRESS, OLLAMA)
PNG = b"\x89PNG\r\n\x1a\nrest"
JPEG, GIF, WEBP = b"\xff\xd8\xffrest", b"GIF89arest", b"RIFF\0\0\0\0WEBPrest"
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
USER = Message(role="user", content="hi")


def model(**fields: Any) -> Model:
    given_ = {
        "name": "m:latest", "served_id": "org/M-1B", "upstream": UPSTREAM, "max_model_len": 2048, "digest": "0" * 64,
        "size_bytes": 1, "modified_ns": 1, "details": {}, "model_info": {}, "capabilities": ("completion",),
        "template": "{{ .Prompt }}", "base": "m:latest",
    } | fields  # fmt: skip
    return Model(**given_)


THINKER = model(capabilities=("completion", "thinking"), has_reasoning_parser=True)


def chat(*messages: Message, to: Model | None = None, settings: Settings = OLLAMA, **fields: Any) -> Json:
    """The body that vLLM gets for a chat."""
    request = ChatRequest(model="M", messages=list(messages) or [USER], **fields)
    return chat_asked(request, to or model(), settings=settings).body


def generate(to: Model | None = None, settings: Settings = OLLAMA, **fields: Any) -> Asked:
    request = GenerateRequest(**({"model": "M", "prompt": "hi"} | fields))
    return generate_asked(request, to or model(), settings=settings)


def sent(options: Json, settings: Settings = BARE) -> Json:
    """The sampling of a chat with these options, without what is always there."""
    body = chat(options=options, settings=settings)
    return {name: value for name, value in body.items() if name not in ALWAYS} | (
        {"max_tokens": body["max_tokens"]} if body["max_tokens"] != 2048 else {}
    )


ALWAYS = {"model", "stream", "stream_options", "messages", "max_tokens"}


# ---------------------------------------------------------------- options


def test_ollamas_sampling_is_sent_where_nothing_is_said() -> None:
    assert sent({}, OLLAMA) == {
        "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert sent({}, BARE) == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 3}, {"temperature": 2.0}),
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"top_k": 7.9}, {"top_k": 7}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": 1.5}, {"top_p": 1.0}),
        ({"top_p": 0}, {"top_k": 1}),
        ({"top_p": -1, "top_k": 30}, {"top_k": 1}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"min_p": -1}, {"min_p": 0.0}),
        ({"min_p": 2}, {"min_p": 1.0}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 0}, {"repetition_penalty": 1.0}),
        ({"repeat_penalty": -2}, {"repetition_penalty": 1.0}),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, {"repetition_penalty": 1.1}),
        ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
        ({"presence_penalty": 5}, {"presence_penalty": 2.0}),
        ({"presence_penalty": -5}, {"presence_penalty": -2.0}),
        ({"frequency_penalty": 5}, {"frequency_penalty": 2.0}),
        ({"frequency_penalty": -5}, {"frequency_penalty": -2.0}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": 42.9}, {"seed": 42}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": -1}, {}),
        ({"seed": -2}, {"seed": -2}),
        ({"stop": ["a", "", "b", "a"]}, {"stop": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"stop": [""]}, {}),
        ({"stop": ["a", "b", "c", "d", "e"]}, {"stop": ["a", "b", "c", "d", "e"]}),
        ({"num_predict": 5}, {"max_tokens": 5}),
        ({"num_predict": 5.9}, {"max_tokens": 5}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"num_predict": 10**9}, {}),
        ({"num_ctx": 8192.0}, {}),
        ({"num_keep": 4, "typical_p": 0.5, "repeat_last_n": 64, "num_batch": 1, "num_gpu": 1}, {}),
        ({"main_gpu": 1, "num_thread": 1, "use_mmap": True, "draft_num_predict": 1}, {}),
        ({"mirostat": 1, "mirostat_eta": 0.1, "tfs_z": 1, "penalize_newline": True, "numa": True, "f16_kv": True}, {}),
        ({"temperature": None, "top_k": None, "stop": None}, {}),
    ],
)  # fmt: skip
def test_an_option_becomes_what_vllm_accepts(options: Json, expected: Json) -> None:
    assert sent(options) == expected


def test_penalties_are_off_where_nothing_is_looked_back_at() -> None:
    options = {"repeat_last_n": 0, "repeat_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": 1}
    assert not {"repetition_penalty", "presence_penalty", "frequency_penalty"} & sent(options).keys()


@pytest.mark.parametrize("options", [{}, {"num_predict": 0}, {"num_predict": -1}, {"num_predict": 10**9}])
@pytest.mark.parametrize("raw", [True, False])
def test_a_limit_is_always_sent_since_completions_stop_after_16_tokens_without(options: Json, raw: bool) -> None:
    assert generate(raw=raw, options=options).body["max_tokens"] == 2048


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"temperature": []}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_an_option_of_another_type_is_refused_as_ollama_does(options: Json, text: str) -> None:
    for ask in (lambda: chat(options=options), lambda: generate(options=options)):
        with pytest.raises(OllamaError) as error:
            ask()
        assert (error.value.status, error.value.text) == (500, text)


def test_the_request_wins_over_the_alias_and_the_alias_over_the_defaults() -> None:
    alias = model(parameters={"temperature": 0.1, "top_k": 3, "stop": ["x"], "unknown": 1})
    body = chat(to=alias, options={"top_k": 5, "temperature": None})
    assert (body["temperature"], body["top_k"], body["stop"], body["top_p"]) == (0.1, 5, ["x"], 0.9)
    assert "unknown" not in body


def test_a_context_beyond_vllms_is_ignored_or_refused_as_was_chosen() -> None:
    assert "num_ctx" not in chat(options={"num_ctx": 4096})
    assert chat(options={"num_ctx": 2048}, settings=STRICT)
    for ask in (chat, generate):
        with pytest.raises(OllamaError, match="num_ctx 4096 is more than this server's context of 2048 tokens"):
            ask(options={"num_ctx": 4096}, settings=STRICT)


# ---------------------------------------------------------------- format


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, None),
        (b"null", None),
        (b'""', None),
        (b'"json"', {"type": "json_object"}),
        (b' "json" ', {"type": "json_object"}),
        (b"{}", {"type": "json_schema", "json_schema": {"name": "response", "schema": {}}}),
    ],
)
def test_a_format_becomes_a_response_format(raw: bytes | None, expected: Json | None) -> None:
    assert response_format(None if raw is None else msgspec.Raw(raw)) == expected


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    raw = b'{"type":"object","properties":{"z":{},"a":{},"m":{"enum":[1]}},"required":["z"]}'
    found = chat(format=msgspec.Raw(raw))["response_format"]
    assert msgspec.json.encode(found["json_schema"]["schema"]) == raw
    assert generate(raw=True, format=msgspec.Raw(raw)).body["response_format"] == found


@pytest.mark.parametrize(
    ("raw", "shown"), [(b'"xml"', r"\"xml\""), (b"1", "1"), (b"true", "true"), (b"[]", "[]"), (b'"a\\n"', r"\"a\\n\"")]
)
def test_any_other_format_is_refused_in_ollamas_words(raw: bytes, shown: str) -> None:
    with pytest.raises(OllamaError) as error:
        response_format(msgspec.Raw(raw))
    assert error.value.status == 500
    assert error.value.text == f'invalid format: "{shown}"; expected "json" or a valid JSON Schema object'


# ---------------------------------------------------------------- thinking

ON = {"enable_thinking": True, "thinking": True}
OFF = {"enable_thinking": False, "thinking": False}


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, {"chat_template_kwargs": ON}),
        (True, {"chat_template_kwargs": ON}),
        (False, {"chat_template_kwargs": OFF}),
        *[
            (level, {"chat_template_kwargs": ON, "reasoning_effort": level})
            for level in ("low", "medium", "high", "max")
        ],
    ],
)
def test_a_model_that_can_think_is_told_whether_to(think: translate.Think, expected: Json) -> None:
    for body in (chat(to=THINKER, think=think), generate(THINKER, think=think).body):
        assert {key: body[key] for key in ("chat_template_kwargs", "reasoning_effort") if key in body} == expected


@pytest.mark.parametrize("think", [None, False])
def test_a_model_that_cannot_think_is_told_nothing(think: translate.Think) -> None:
    assert not {"chat_template_kwargs", "reasoning_effort"} & chat(think=think).keys()
    translate.checked_thinking(think, model(), "M")
    assert not translate.is_thinking(think, model())


@pytest.mark.parametrize("think", [True, "low", "max"])
def test_thinking_is_refused_for_a_model_that_cannot(think: translate.Think) -> None:
    with pytest.raises(OllamaError, match=r'^"M" does not support thinking$') as error:
        translate.checked_thinking(think, model(), "M")
    assert error.value.status == 400
    translate.checked_thinking(think, THINKER, "M")


@pytest.mark.parametrize(
    ("parser", "think", "expected"),
    [(True, True, ON), (None, True, OFF), (False, None, OFF), (None, "high", OFF), (True, False, OFF)],
)
def test_a_format_turns_thinking_off_where_vllm_would_force_it_upon_the_thoughts(
    parser: bool | None, think: translate.Think, expected: Json
) -> None:
    thinker = msgspec.structs.replace(THINKER, has_reasoning_parser=parser)
    body = chat(to=thinker, think=think, format=msgspec.Raw(b'"json"'))
    assert body["chat_template_kwargs"] == expected
    assert "reasoning_effort" not in body


def test_thinking_is_on_where_nothing_is_said_and_the_model_can() -> None:
    assert translate.is_thinking(None, THINKER)
    assert translate.is_thinking("low", THINKER)
    assert not translate.is_thinking(False, THINKER)


# ---------------------------------------------------------------- messages


def test_a_chat_is_streamed_with_its_usage_to_the_served_model() -> None:
    request = ChatRequest(model="M:Latest", messages=[USER], stream=False)
    asked = chat_asked(request, model(), settings=BARE)
    assert (asked.path, asked.is_streamed) == ("/v1/chat/completions", True)
    assert asked.body == {
        "model": "org/M-1B", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2048,
        "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip


SYSTEM: Json = {"role": "system", "content": "Be brief."}
TURNS: list[Json] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_an_alias_brings_its_system_prompt_and_messages_first() -> None:
    alias = model(system="Be brief.", messages=TURNS)
    hi = {"role": "user", "content": "hi"}
    assert chat(to=alias)["messages"] == [SYSTEM, *TURNS, hi]
    assert generate(alias).body["messages"] == [SYSTEM, *TURNS, hi]
    assert alias.messages == TURNS


def test_the_requests_system_prompt_takes_the_aliases_place_in_front() -> None:
    alias = model(system="Be brief.", messages=TURNS)
    mine = {"role": "system", "content": "Mine."}
    hi = {"role": "user", "content": "hi"}
    assert chat(Message(role="system", content="Mine."), USER, to=alias)["messages"] == [mine, *TURNS, hi]
    assert generate(alias, system="Mine.").body["messages"] == [mine, *TURNS, hi]
    late = chat(USER, Message(role="system", content="Mine."), to=alias)["messages"]
    assert late == [SYSTEM, *TURNS, hi, mine]


def test_a_context_stands_for_the_aliases_messages() -> None:
    alias = model(system="Be brief.", messages=TURNS)
    assert generate(alias, context=[1, 2]).body["messages"] == [SYSTEM, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer", "", "nobody"])
def test_roles_pass_as_they_are(role: str) -> None:
    assert chat(Message(role=role, content="x"), USER)["messages"][0]["role"] == role


def test_earlier_thoughts_are_reasoning_of_the_assistants() -> None:
    told = chat(Message(role="assistant", content="b", thinking="hm"), Message(role="user", thinking="no"), USER)
    assert told["messages"][0] == {"role": "assistant", "content": "b", "reasoning": "hm"}
    assert told["messages"][1] == {"role": "user", "content": ""}


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    begun = chat(USER, Message(role="assistant", content="The sky"))
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)
    call = ToolCall(function=ToolFunction(name="f"))
    for body in (chat(), chat(USER, Message(role="assistant", tool_calls=[call]))):
        assert not {"continue_final_message", "add_generation_prompt"} & body.keys()


@pytest.mark.parametrize(
    ("image", "mime"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_images_stand_before_the_text_as_data_of_their_kind(image: bytes, mime: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{base64.b64encode(image).decode()}"}}
    text = {"type": "text", "text": "hi"}
    with_images = msgspec.structs.replace(USER, images=[image, PNG])
    assert chat(with_images)["messages"][0]["content"] == [part, translate.image_part(PNG), text]
    assert generate(images=[image]).body["messages"][0]["content"] == [part, text]
    assert chat(Message(role="user", images=[image]))["messages"][0]["content"] == [part]


@pytest.mark.parametrize("image", [b"", b"BM", b"<svg/>", b"RIFF\0\0\0\0WAVE", b"http://x/y.png"])
def test_what_is_no_image_is_refused(image: bytes) -> None:
    with pytest.raises(OllamaError, match="Failed to load image") as error:
        chat(Message(role="user", images=[image]))
    assert error.value.status == 400


# ---------------------------------------------------------------- tools

CAN_CALL = model(capabilities=("completion", "tools"))


def call(name: str, id_: str = "", **arguments: object) -> ToolCall:
    return ToolCall(id=id_, function=ToolFunction(name=name, arguments=arguments))


def result(name: str = "", id_: str = "") -> Message:
    return Message(role="tool", content="42", tool_name=name, tool_call_id=id_)


def answered(*turns: Message) -> list[str]:
    """The ids that results of tools are given."""
    return [told["tool_call_id"] for told in chat(USER, *turns, to=CAN_CALL)["messages"] if told["role"] == "tool"]


def test_tools_pass_and_an_empty_list_does_not() -> None:
    assert chat(to=CAN_CALL, tools=[TOOL])["tools"] == [TOOL]
    assert "tools" not in chat(to=CAN_CALL, tools=[])
    assert "tool_choice" not in chat(to=CAN_CALL, tools=[TOOL])


def test_a_whole_answer_with_tools_is_asked_for_whole() -> None:
    request = ChatRequest(model="m", messages=[USER], tools=[TOOL], stream=False)
    asked = chat_asked(request, CAN_CALL, settings=OLLAMA)
    assert (asked.is_streamed, asked.body["stream"], "stream_options" in asked.body) == (False, False, False)
    streamed = chat_asked(msgspec.structs.replace(request, stream=None), CAN_CALL, settings=OLLAMA)
    assert (streamed.is_streamed, streamed.body["stream"]) == (True, True)


def test_tools_are_refused_for_a_model_that_cannot_call() -> None:
    with pytest.raises(OllamaError, match=r"^registry\.ollama\.ai/library/M:latest does not support tools$") as error:
        chat(tools=[TOOL])
    assert error.value.status == 400


def test_calls_become_openais_with_their_arguments_as_text() -> None:
    turn = Message(role="assistant", tool_calls=[call("f", "abc", city="Paris", n=1), call("g")])
    assert chat(turn, USER, to=CAN_CALL)["messages"][0] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "abc", "type": "function", "function": {"name": "f", "arguments": '{"city":"Paris","n":1}'}},
            {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_results_find_their_calls_by_id_then_name_then_order() -> None:
    calls = Message(role="assistant", tool_calls=[call("f"), call("g"), call("f")])
    assert answered(calls, result("f"), result("f"), result("g")) == ["call_0", "call_2", "call_1"]
    assert answered(calls, result(), result(), result()) == ["call_0", "call_1", "call_2"]
    assert answered(calls, result("h"), result("f")) == ["call_0", "call_2"]
    named = Message(role="assistant", tool_calls=[call("f", "x"), call("f", "y")])
    assert answered(named, result("f", "y"), result("f")) == ["y", "x"]
    assert answered(named, result("f"), result("f", "zzz"), result("f")) == ["x", "zzz", "y"]


def test_a_result_without_a_call_gets_an_id_of_its_own() -> None:
    assert answered(result("f"), result()) == ["call_0", "call_1"]
    calls = Message(role="assistant", tool_calls=[call("f")])
    assert answered(calls, result("f"), result("f"), calls, result("f")) == ["call_0", "call_1", "call_2"]


def test_a_result_tells_its_tools_name() -> None:
    told = chat(result("f", "x"), to=CAN_CALL)["messages"][0]
    assert told == {"role": "tool", "content": "42", "tool_call_id": "x", "name": "f"}
    assert "name" not in chat(result("", "x"), to=CAN_CALL)["messages"][0]


# ---------------------------------------------------------------- generate


def test_a_prompt_is_a_chat_of_one_message_whose_ids_come_back() -> None:
    asked = generate(settings=BARE)
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": "org/M-1B", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2048,
        "messages": [{"role": "user", "content": "hi"}], "return_token_ids": True,
    }  # fmt: skip


def test_a_raw_prompt_is_completed_as_it_stands() -> None:
    asked = generate(model(system="Be brief."), settings=BARE, raw=True, prompt="<|im_start|>", suffix="x")
    assert asked.path == "/v1/completions"
    assert asked.body == {
        "model": "org/M-1B", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2048,
        "prompt": "<|im_start|>",
    }  # fmt: skip


def test_a_suffix_is_written_with_the_models_tokens_or_left_to_vllm() -> None:
    inserts = model(capabilities=("completion", "insert"), fim=("<PRE>", "<SUF>", "<MID>"))
    asked = generate(inserts, prompt="def f(", suffix="return 1")
    assert (asked.path, asked.body["prompt"]) == ("/v1/completions", "<PRE>def f(<SUF>return 1<MID>")
    assert "suffix" not in asked.body
    left = generate(msgspec.structs.replace(inserts, fim=None), prompt="def f(", suffix="return 1")
    assert (left.body["prompt"], left.body["suffix"]) == ("def f(", "return 1")
    with pytest.raises(OllamaError, match=r"^registry\.ollama\.ai/library/M:latest does not support insert$"):
        generate(suffix="x")


def test_logprobs_are_asked_for_in_each_routes_own_way() -> None:
    assert (chat(logprobs=True)["logprobs"], chat(logprobs=True)["top_logprobs"]) == (True, 0)
    of_chat = generate(logprobs=True, top_logprobs=3).body
    assert (of_chat["logprobs"], of_chat["top_logprobs"]) == (True, 3)
    raw = generate(raw=True, logprobs=True, top_logprobs=3).body
    assert raw["logprobs"] == 3
    assert "top_logprobs" not in raw
    for body in (chat(top_logprobs=5), generate(top_logprobs=5).body, generate(raw=True, top_logprobs=5).body):
        assert not {"logprobs", "top_logprobs"} & body.keys()


def test_a_context_is_completed_as_ids_without_what_only_chats_have() -> None:
    request = GenerateRequest(model="m", prompt="hi", context=[1], logprobs=True, top_logprobs=2, think="low")
    asked = generate_asked(request, THINKER, settings=OLLAMA)
    done = continued(asked, [1, 2, 3])
    assert (done.path, done.body["prompt"], done.body["logprobs"]) == ("/v1/completions", [1, 2, 3], 2)
    assert not {"messages", "chat_template_kwargs", "reasoning_effort", "top_logprobs"} & done.body.keys()
    assert done.body["max_tokens"] == 2048
    assert "messages" in asked.body


# ---------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ .Prompt }}", "P"),
        ("{{.Prompt}}", "P"),
        ("{{ .System }}|{{ .Prompt }}", "S|P"),
        ("<s>{{ .System }} {{ .Prompt }}</s>{{ .Response }}tail", "<s>S P</s>"),
        ("{{ if .System }}[{{ .System }}]{{ end }}{{ .Prompt }}", "[S]P"),
        ("{{ if .Suffix }}a{{ else }}b{{ end }}c", "bc"),
        ("{{ if .System }}a{{ else }}b{{ end }}c", "ac"),
        ("{{ if .Suffix }}{{ if .System }}a{{ end }}b{{ else }}c{{ end }}", "c"),
        ("{{ if .Suffix }}{{ .Prompt }}{{ .Response }}{{ end }}x", "x"),
        ("a  {{- .Prompt -}}  b", "aPb"),
        ("no action", "no action"),
        ("", ""),
        ("{ {{ .Prompt }} }", "{ P }"),
    ],
)
def test_a_simple_template_is_rendered_up_to_the_response(template: str, expected: str) -> None:
    assert rendered(template, system="S", prompt="P") == expected


def test_what_a_prompt_holds_is_no_template() -> None:
    assert rendered("{{ .Prompt }}", system="", prompt="{{ .System }}{{ if }}") == "{{ .System }}{{ if }}"


@pytest.mark.parametrize(
    "template",
    ["{{ range .Messages }}{{ end }}", "{{ .Prompt", "{{ .Tools }}", "{{ end }}", "{{ else }}", "{{ }}", "{{ if .X }}",
     "{{ $x := 1 }}", "{{ .Prompt | len }}", "{{/* a */}}"],
)  # fmt: skip
def test_any_other_template_is_refused_rather_than_guessed(template: str) -> None:
    with pytest.raises(OllamaError, match="template override is not supported") as error:
        rendered(template, system="S", prompt="P")
    assert error.value.status == 400


def test_a_template_takes_the_aliases_system_prompt_where_the_request_has_none() -> None:
    alias = model(system="Alias.")
    asked = generate(alias, template="{{ .System }}:{{ .Prompt }}")
    assert (asked.path, asked.body["prompt"], asked.body["return_token_ids"]) == ("/v1/completions", "Alias.:hi", True)
    assert generate(alias, template="{{ .System }}:{{ .Prompt }}", system="Mine.").body["prompt"] == "Mine.:hi"


@given(st.text("{}-. \nifendlsSyPromptRue", max_size=40), st.text(max_size=5), st.text(max_size=5))
def test_any_template_is_rendered_or_refused(template: str, system: str, prompt: str) -> None:
    with contextlib.suppress(OllamaError):
        text = rendered(template, system=system, prompt=prompt)
        assert "{{" in system + prompt or "{{" not in text


# ---------------------------------------------------------------- nothing else, and within the ranges

SAMPLING = {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "stop", "max_tokens",
}  # fmt: skip
COMMON = SAMPLING | {"model", "stream", "stream_options", "response_format", "logprobs", "return_token_ids"}
FIELDS = {
    "/v1/chat/completions": COMMON
    | {"messages", "tools", "chat_template_kwargs", "reasoning_effort", "top_logprobs", "continue_final_message"}
    | {"add_generation_prompt"},
    "/v1/completions": COMMON | {"prompt", "suffix"},
}

numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, -2, 1, 2**63 - 1, 2**63, -(2**63), 1e308, -1e308, 5e-324, 10**30]),
)
options = st.fixed_dictionaries(
    {},
    optional={
        **{name: numbers for name, kind in OPTION_TYPES.items() if kind in ("integer", "float32")},
        "stop": st.lists(st.text(max_size=3), max_size=7),
        "use_mmap": st.booleans(),
        "chat_template": st.text(max_size=3),
        "priority": numbers,
    },
)
images = st.lists(st.sampled_from([PNG, JPEG]), max_size=2)
calls = st.builds(
    ToolCall,
    id=st.text(max_size=2),
    function=st.builds(
        ToolFunction, name=st.text(max_size=3), arguments=st.dictionaries(st.text(max_size=3), numbers, max_size=2)
    ),
)
messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant", "system", "tool", ""]),
        content=st.text(max_size=5),
        thinking=st.text(max_size=3),
        images=images,
        tool_calls=st.lists(calls, max_size=2),
        tool_name=st.sampled_from(["", "f"]),
        tool_call_id=st.sampled_from(["", "call_0"]),
    ),
    min_size=1,
    max_size=4,
)
run: Json = {
    "model": st.just("m"),
    "stream": st.sampled_from([None, True, False]),
    "format": st.sampled_from([None, msgspec.Raw(b'"json"'), msgspec.Raw(b'{"type":"object"}')]),
    "options": options,
    "think": st.sampled_from([None, True, False, "low", "max"]),
    "truncate": st.sampled_from([None, True, False]),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
}
chats = st.builds(ChatRequest, messages=messages, tools=st.sampled_from([[], [TOOL]]), **run)
prompts = st.builds(
    GenerateRequest,
    prompt=st.text(min_size=1, max_size=5),
    suffix=st.text(max_size=3),
    system=st.text(max_size=3),
    template=st.sampled_from(["", "{{ .Prompt }}"]),
    context=st.lists(st.integers(0, 9), max_size=2),
    raw=st.booleans(),
    images=images,
    **run,
)
models = st.builds(
    model,
    capabilities=st.sampled_from(
        [("completion", "tools", "vision", "insert"), ("completion", "tools", "insert", "thinking")]
    ),
    has_reasoning_parser=st.sampled_from([None, True, False]),
    fim=st.sampled_from([None, ("a", "b", "c")]),
    system=st.text(max_size=2),
    parameters=options,
    messages=st.sampled_from([[], TURNS]),
)


def assert_within_vllms_ranges(body: Json) -> None:
    """As vLLM's SamplingParams checks them."""
    assert body["model"] == "org/M-1B"
    assert 0 <= body.get("temperature", 1) <= 2
    assert isinstance(body.get("top_k", 0), int)
    assert body.get("top_k", 0) >= 0
    assert 0 < body.get("top_p", 1) <= 1
    assert 0 <= body.get("min_p", 0) <= 1
    assert body.get("repetition_penalty", 1) > 0
    assert -2 <= body.get("presence_penalty", 0) <= 2
    assert -2 <= body.get("frequency_penalty", 0) <= 2
    assert -(2**63) <= body.get("seed", 0) < 2**63
    assert 1 <= body["max_tokens"] <= 2048
    stops = body.get("stop", ["x"])
    assert all(stops)
    assert len(set(stops)) == len(stops) > 0
    assert body["stream"] or "stream_options" not in body
    assert not body.get("continue_final_message") or body["add_generation_prompt"] is False
    assert json.loads(msgspec.json.encode(body)) is not None


def assert_known(asked: Asked) -> None:
    assert asked.body.keys() <= FIELDS[asked.path]
    assert asked.body.keys() >= {"model", "stream", "max_tokens"}
    assert ("messages" in asked.body) == (asked.path == "/v1/chat/completions") == ("prompt" not in asked.body)
    for message in asked.body.get("messages", ()):
        assert message.keys() <= {"role", "content", "reasoning", "tool_calls", "tool_call_id", "name"}
        assert message["role"] != "tool" or message["tool_call_id"]
        for made in message.get("tool_calls", ()):
            assert made.keys() == {"id", "type", "function"}
            assert isinstance(json.loads(made["function"]["arguments"]), dict)
    assert asked.body.get("chat_template_kwargs", ON) in (ON, OFF)
    assert_within_vllms_ranges(asked.body)


@given(chats, models, st.sampled_from([OLLAMA, BARE]))
def test_any_chat_sends_known_fields_within_vllms_ranges(request: ChatRequest, to: Model, settings: Settings) -> None:
    assert_known(chat_asked(request, to, settings=settings))


@given(prompts, models, st.sampled_from([OLLAMA, BARE]))
def test_any_prompt_sends_known_fields_within_vllms_ranges(
    request: GenerateRequest, to: Model, settings: Settings
) -> None:
    asked = generate_asked(request, to, settings=settings)
    assert_known(asked)
    if request.context and "messages" in asked.body:
        assert_known(continued(asked, [1, 2]))


@given(options, st.integers(1, 2**20), st.sampled_from([OLLAMA, BARE]))
def test_any_sampling_names_a_limit_that_vllm_takes(found: Json, longest: int, settings: Settings) -> None:
    checked = translate.merged_options(found, model())
    assert 1 <= sampling(checked, settings=settings, max_model_len=longest)["max_tokens"] <= longest
