"""The texts were obtained from Ollama's own types, decoded by Go 1.26 with its second encoding/json, or recorded."""

import base64
import itertools
import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import schemas
from proxy.errors import OllamaError
from proxy.schemas import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    PullRequest,
    PushRequest,
    ShowRequest,
)

KINDS = [
    GenerateRequest, ChatRequest, EmbedRequest, EmbeddingsRequest, PullRequest, PushRequest, ShowRequest, CreateRequest,
    CopyRequest, DeleteRequest,
]  # fmt: skip


def decoded(body, kind=GenerateRequest, **limits):
    if not isinstance(body, bytes):
        body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return schemas.decoded(body, kind, **{"max_depth": 128, **limits})


def refusal(body, kind=GenerateRequest, **limits):
    with pytest.raises(OllamaError) as caught:
        decoded(body, kind, **limits)
    assert caught.value.status == 400
    return caught.value.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b" \t\r\n"])
def test_an_empty_body_is_missing(body, kind):
    assert refusal(body, kind) == "missing request body"


@pytest.mark.parametrize("kind", KINDS)
def test_null_is_an_empty_request_and_null_fields_are_absent(kind):
    names = kind.__struct_encode_fields__
    assert decoded(b"null", kind) == decoded(b"{}", kind) == decoded(dict.fromkeys(names), kind) == kind()


GENERATE = [
    ("[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
    ('"x"', "json: cannot unmarshal string into Go value of type api.GenerateRequest"),
    ('{"model":5}', "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string"),
    ('{"MODEL":5}', "json: cannot unmarshal number into Go struct field GenerateRequest.MODEL of type string"),
    ('{"stream":"false"}', "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool"),
    ('{"raw":1}', "json: cannot unmarshal number into Go struct field GenerateRequest.raw of type bool"),
    (
        '{"options":"x"}',
        "json: cannot unmarshal string into Go struct field GenerateRequest.options of type map[string]interface {}",
    ),
    (
        '{"options":{"temperature":1e999}}',
        "json: cannot unmarshal number 1e999 into Go struct field GenerateRequest.options.temperature of type float64",
    ),
    ('{"context":[1.5]}', "json: cannot unmarshal number 1.5 into GenerateRequest.context.0 of type int"),
    ('{"context":["a"]}', "json: cannot unmarshal string into GenerateRequest.context.0 of type int"),
    (
        '{"top_logprobs":1e2}',
        "json: cannot unmarshal number 1e2 into Go struct field GenerateRequest.top_logprobs of type int",
    ),
    (
        '{"top_logprobs":9223372036854775808}',
        "json: cannot unmarshal number 9223372036854775808 into Go struct field GenerateRequest.top_logprobs"
        " of type int",
    ),
    (
        '{"images":["!!notbase64"]}',
        "json: cannot unmarshal string into GenerateRequest.images.0 of type api.ImageData:"
        " illegal base64 data at input byte 0",
    ),
    ('{"images":[5]}', "json: cannot unmarshal number into GenerateRequest.images.0 of type api.ImageData"),
    ('{"think":5}', 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
    ('{"think":"x"}', 'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)'),
    ('{"keep_alive":true}', "Unsupported type: 'bool'"),
    ('{"keep_alive":[]}', "Unsupported type: '[]interface {}'"),
    ('{"keep_alive":1e999}', "json: cannot unmarshal number 1e999 into Go value of type float64"),
    ('{"keep_alive":"10"}', 'time: missing unit in duration "10"'),
    ('{"keep_alive":"5x"}', 'time: unknown unit "x" in duration "5x"'),
    ('{"keep_alive":""}', 'time: invalid duration ""'),
    (
        '{"model":5,"think":5}',
        "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
    ),
    ('{"model":5,"raw":}', "invalid character '}' looking for beginning of value"),
    ('{"raw":5} x', "json: cannot unmarshal number into Go struct field GenerateRequest.raw of type bool"),
]

CHAT = [
    (
        '{"messages":"hi"}',
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
    ),
    ('{"messages":[5]}', "json: cannot unmarshal number into Go value of type api.Alias"),
    (
        '{"messages":[{"content":[{"type":"text","text":"x"}]}]}',
        "json: cannot unmarshal array into Go struct field Alias.content of type string",
    ),
    (
        '{"messages":[{"tool_calls":[{"function":{"index":1.5}}]}]}',
        "json: cannot unmarshal number 1.5 into Go struct field Alias.tool_calls.0.function.index of type int",
    ),
    (
        '{"messages":[{"tool_calls":[{"function":{"arguments":5}}]}]}',
        "Value looks like object, but can't find closing '}' symbol",
    ),
    (
        '{"messages":[{"tool_calls":[{"function":{"arguments":"no object"}}]}]}',
        "Value looks like object, but can't find closing '}' symbol",
    ),
    ('{"tools":1.5}', "json: cannot unmarshal number into Go struct field ChatRequest.tools of type api.Tools"),
    ('{"tools":[5]}', "json: cannot unmarshal number into ChatRequest.tools.0 of type api.Tool"),
    (
        '{"tools":[{"function":{"name":5}}]}',
        "json: cannot unmarshal number into Go struct field ChatRequest.tools.0.function.name of type string",
    ),
    (
        '{"tools":[{"function":{"parameters":{"properties":{"a":{"type":5}}}}}]}',
        "json: cannot unmarshal number into Go value of type []string",
    ),
    (
        '{"tools":[{"function":{"parameters":{"properties":{"a":{"required":true}}}}}]}',
        "json: cannot unmarshal bool into Go struct field ToolProperty.required of type []string",
    ),
]

OTHERS = [
    (EmbedRequest, '{"dimensions":1.5}', "number 1.5 into Go struct field EmbedRequest.dimensions of type int"),
    (EmbedRequest, '{"input":[1e999]}', "number 1e999 into EmbedRequest.input.0 of type float64"),
    (EmbeddingsRequest, '{"prompt":5}', "number into Go struct field EmbeddingRequest.prompt of type string"),
    (EmbeddingsRequest, "[]", "array into Go value of type api.EmbeddingRequest"),
    (PullRequest, '{"insecure":"x"}', "string into Go struct field PullRequest.insecure of type bool"),
    (ShowRequest, '{"options":5}', "number into Go struct field ShowRequest.options of type map[string]interface {}"),
    (CreateRequest, '{"files":{"a":5}}', "number into Go struct field CreateRequest.files.a of type string"),
    (CreateRequest, '{"messages":[{"role":5}]}', "number into Go struct field Alias.role of type string"),
    (CopyRequest, '{"source":5}', "number into Go struct field CopyRequest.source of type string"),
    (DeleteRequest, '{"name":5}', "number into Go struct field DeleteRequest.name of type string"),
]


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [(GenerateRequest, *one) for one in GENERATE]
    + [(ChatRequest, *one) for one in CHAT]
    + [(kind, body, f"json: cannot unmarshal {text}") for kind, body, text in OTHERS],
)
def test_a_wrong_type_is_refused_in_gos_words(kind, body, text):
    assert refusal(body, kind) == text


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"PROMPT":"x"}', "x"),
        (b'{"prompt":"x"} trailing', "x"),
        (b'{"prompt":"x"}}', "x"),
        (b'{"prompt":"y","prompt":"x"}', "x"),
        (b'{"Prompt":"y","prompt":"x"}', "x"),
        (b'{"prompt":"x\xff"}', "x\ufffd"),
        (b'{"prompt":"\\ud800x\\udc00"}', "\ufffdx\ufffd"),
        (b'{"prompt":"\\ud83d\\ude00 \\\\ud800"}', "\U0001f600 \\ud800"),
        (b'{"other":"\xff","prompt":"x"}', "x"),
        (b'{"other":[1e999],"prompt":"x"}', "x"),
    ],
)
def test_what_go_takes_is_taken(body, prompt):
    assert decoded(body).prompt == prompt


def test_a_chat_is_decoded_whole():
    image = base64.b64encode(b"\x89PNG").decode()
    call = {"id": "c", "type": "function", "function": {"index": 1, "name": "f", "arguments": {"a": [1]}}}
    asked = decoded(
        {
            "model": "m",
            "messages": [
                {"role": "USER", "content": "hi", "images": [image]},
                {"role": "assistant", "content": None, "tool_calls": [call], "name": "unknown keys are passed over"},
                {"role": "tool", "tool_name": "f", "tool_call_id": "c", "content": "1"},
                None,
            ],
            "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
            "format": {"type": "object"},
            "think": "low",
            "unknown": 1,
        },
        ChatRequest,
    )
    assert [message.role for message in asked.messages] == ["user", "assistant", "tool", ""]
    assert asked.messages[0].images == [b"\x89PNG"]
    assert asked.messages[1].tool_calls[0].function.arguments == {"a": [1]}
    assert asked.messages[3] == Message()
    assert asked.tools == [{"type": "function", "function": {"name": "f", "strict": True}}]
    assert bytes(asked.format) == b'{"type": "object"}'
    assert (asked.think, asked.stream) == ("low", None)


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
@pytest.mark.parametrize("role", ["role", "Role"])
def test_arguments_of_a_call_are_an_object_or_its_text(role, arguments):
    message = {role: "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    asked = decoded({"messages": [message]}, ChatRequest)
    assert asked.messages[0].role == "assistant"
    assert asked.messages[0].tool_calls[0].function.arguments == {"a": 1}


def test_a_data_uri_is_an_image():
    assert decoded({"images": ["data:image/png;base64,AAAA"]}).images == [b"\0\0\0"]


@pytest.mark.parametrize("field", ["options", "keep_alive", "top_logprobs", "context"])
def test_a_number_that_no_float_holds_is_refused(field):
    number = "1" + "0" * 400
    value = {"options": f'{{"seed":{number}}}', "context": f"[{number}]"}.get(field, number)
    assert refusal(f'{{"{field}":{value}}}').startswith(f"json: cannot unmarshal number {number} into")


@pytest.mark.parametrize("form", [None, ""])
def test_an_empty_format_is_none(form):
    assert decoded({"format": form}).format is None


def test_the_older_name_counts_where_there_is_no_model():
    assert decoded({"name": "a"}, PullRequest).target == "a"
    assert decoded({"model": "", "name": "a"}, DeleteRequest).target == "a"
    assert decoded({"model": "b", "name": "a"}, ShowRequest).target == "b"


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ({"images": [""] * 3}, GenerateRequest, "too many images: 3, at most 2 are taken"),
        ({"messages": [{"images": [""]}] * 3}, ChatRequest, "too many images: 3, at most 2 are taken"),
        ({"images": ["AAAA" * 10]}, GenerateRequest, "an image has 30 bytes: at most 9 are taken"),
        ({"messages": [{}] * 10_001}, ChatRequest, "too many messages: 10001, at most 10000 are taken"),
        ({"tools": [{}] * 513}, ChatRequest, "too many tools: 513, at most 512 are taken"),
        ({"input": ["x"] * 10_001}, EmbedRequest, "too many inputs: 10001, at most 10000 are taken"),
    ],
)
def test_more_than_anybody_needs_is_refused(body, kind, text):
    assert refusal(body, kind, max_images=2, max_image_bytes=9) == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"other":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"Options":{"a":' + b"[" * 200 + b"]" * 200 + b"}}",
        b'{"format":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
        b'{"other":' + b"[" * 100_000,
    ],
)
def test_deep_nesting_is_refused_wherever_it_is(body):
    assert refusal(body) == "exceeded max depth"


def test_many_brackets_side_by_side_are_not_deep():
    assert len(decoded({"messages": [{"content": "[[[{"}] * 500}, ChatRequest).messages) == 500


@pytest.mark.parametrize(
    "body",
    [b'{"a":[' + b"1," * 500_000 + b"1}", b'{"context":[' + b"1," * 500_000 + b"1.5]}", b"[" + b"{}," * 2_000_000],
)
def test_a_large_broken_body_is_refused_without_a_long_search(body):
    assert refusal(body).startswith(("invalid JSON: ", "too many values"))


def request_or_error(body, kind):
    try:
        return decoded(body, kind)
    except OllamaError as error:
        return error


BODIES = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"{", b"}", b"[", b"]", b",", b":", b'"model"', b'"messages"', b'"options"', b'"images"', b'"keep_alive"',
             b'"tools"', b'"think"', b'"context"', b'"input"', b'"format"', b'"x"', b"1", b"1e999", b"null", b"\xff",
             b'"\\ud800"', b" ", b"true", b"-", b"1" + b"0" * 400]
        ),
        max_size=12,
    ).map(b"".join),
)  # fmt: skip


@given(BODIES, st.sampled_from(KINDS))
def test_any_bytes_are_a_request_or_a_400(body, kind):
    answer = request_or_error(body, kind)
    assert isinstance(answer, kind) or (answer.status == 400 and answer.text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["function", "parameters"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(
    st.just(kind), st.dictionaries(st.sampled_from(kind.__struct_encode_fields__), VALUES, max_size=3))))  # fmt: skip
def test_any_values_in_known_fields_are_a_request_or_a_400(asked):
    kind, body = asked
    fast = request_or_error(body, kind)
    slow = request_or_error({name.upper(): value for name, value in body.items()}, kind)
    if isinstance(fast, OllamaError):
        assert fast.status == slow.status == 400
        return
    for name in kind.__struct_fields__:  # the slow way gives what the fast way gives
        assert getattr(fast, name) == getattr(slow, name) or name in ("format", "input"), name


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), (300, 300.0), (1.5, 1.5), (0, 0.0), (-0.0, 0.0), (-1, math.inf), (-0.5, math.inf), ("5m", 300.0),
        ("1h30m", 5400.0), ("300ms", 0.3), ("0s", 0.0), ("0", 0.0), ("-0", 0.0), ("5m0s", 300.0), ("-1m0s", math.inf),
        ("-1s", math.inf), ("1.5h", 5400.0), (".5s", 0.5), ("1.s", 1.0), ("+1s", 1.0), ("1µs", 1e-6), ("1μs", 1e-6),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)  # fmt: skip
def test_keep_alive_is_seconds(value, seconds):
    assert schemas.parsed_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("-", 'time: invalid duration "-"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        ("1é", r'time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9"'),
        ("99999999999999h", 'time: invalid duration "99999999999999h"'),
        ("2562047h47m16.854775808s", 'time: invalid duration "2562047h47m16.854775808s"'),
    ],
)
def test_what_is_no_duration_is_refused_in_gos_words(text, said):
    with pytest.raises(OllamaError) as caught:
        schemas.parsed_keep_alive(text)
    assert (caught.value.status, caught.value.text) == (400, said)


UNITS = {"ns": Fraction(1, 10**9), "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}


@given(st.lists(st.tuples(st.decimals(0, 1000, places=3), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    exact = sum(Fraction(number) * UNITS[unit] for number, unit in parts)
    assert schemas.duration_s(text) == pytest.approx(float(exact), abs=len(parts) * 1e-9)


# ---------------------------------------------------------------------------------------------------------------------


def test_options_are_known_ones_with_values_of_their_type():
    options = {
        "num_ctx": 8192.0,
        "seed": -1.9,
        "temperature": 1,
        "stop": ["a"],
        "use_mmap": False,
        "top_k": None,
        "x": [],
    }
    checked = schemas.checked_options(options)
    assert checked == {"num_ctx": 8192, "seed": -1, "temperature": 1.0, "stop": ["a"], "use_mmap": False}
    assert isinstance(checked["num_ctx"], int)
    assert isinstance(checked["temperature"], float)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", True, 'option "temperature" must be of type float32'),
        ("num_ctx", "1", 'option "num_ctx" must be of type integer'),
        ("main_gpu", [], 'option "main_gpu" must be of type integer'),
        ("use_mmap", "yes", 'option "use_mmap" must be of type boolean'),
        ("stop", "e", 'option "stop" must be of type array'),
        ("stop", ["a", 5], 'option "stop" must be of an array of strings'),
    ],
)
def test_an_option_of_another_type_is_a_500(name, value, text):
    with pytest.raises(OllamaError) as caught:
        schemas.checked_options({name: value})
    assert (caught.value.status, caught.value.text) == (500, text)


def test_an_integer_beyond_64_bits_becomes_the_smallest():
    assert schemas.checked_options({"num_predict": 1e30, "seed": -(10**30)}) == {
        "num_predict": -(2**63),
        "seed": -(2**63),
    }


def test_too_many_stop_strings_are_refused():
    with pytest.raises(OllamaError) as caught:
        schemas.checked_options({"stop": ["a"] * 257})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("start", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"), (b"GIF87a", "image/gif"), (b"RIFF....WAVE", None), (b"<svg", None), (b"", None),
    ],
)  # fmt: skip
def test_images_are_told_by_their_first_bytes(start, mime):
    assert schemas.image_mime(start) == mime


@pytest.mark.parametrize("kind", KINDS)
def test_the_openapi_document_knows_every_field(kind):
    schema = schemas.openapi_body(kind)["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == set(kind.__struct_encode_fields__)
    required = set(itertools.chain.from_iterable(one["required"] for one in schema["anyOf"]))
    assert required <= set(schema["properties"])
