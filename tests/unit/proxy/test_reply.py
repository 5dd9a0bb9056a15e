"""vLLM's events become Ollama's lines: their shape, their order, their figures, whatever the split of the bytes."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.reply import Clock, Reply, Stamp, ThinkSplitter, converted_logprobs, parsed_arguments

MS = 1_000_000


class Frozen(Clock):
    """A clock that stands at 2026-11-22T13:05:46.000000007Z and at 0 s."""

    wall_ns = staticmethod(lambda: 1_795_352_746_000_000_007)
    steady_ns = staticmethod(lambda: 0)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def usage(prompt: int = 7, completion: int = 3) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion})


DONE = b"data: [DONE]\n\n"
ROLE = delta(role="assistant", content="")


def reply(**kwargs: Any) -> Reply:
    given_ = {"kind": "chat", "model": "m", "is_streamed": True, "received_ns": 0, "clock": Frozen} | kwargs
    return Reply(**given_)


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.split(b"\n") if line]


def told(answer: Reply, *pieces: bytes) -> list[Any]:
    data = b"".join(answer.feed(piece) for piece in pieces)
    return lines(data + answer.end())


def test_a_chat_is_told_line_by_line_and_done_comes_once_and_last() -> None:
    answer = told(reply(), ROLE, delta(content="He"), delta(content="llo", finish="stop"), usage(), DONE)
    assert answer[:2] == [
        {
            "model": "m",
            "created_at": "2026-11-22T13:05:46.000000007Z",
            "message": {"role": "assistant", "content": text},
            "done": False,
        }
        for text in ("He", "llo")
    ]
    assert answer[2:] == [
        {
            "model": "m",
            "created_at": "2026-11-22T13:05:46.000000007Z",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 0,
            "load_duration": 0,
            "prompt_eval_count": 7,
            "prompt_eval_duration": 1000,
            "eval_count": 3,
            "eval_duration": 1000,
        }
    ]


def test_generate_tells_response_and_context() -> None:
    stream = [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], prompt_token_ids=[1, 2]),
        event(choices=[{"index": 0, "delta": {"content": "a"}, "finish_reason": "length", "token_ids": [3]}]),
        usage(2, 1),
        DONE,
    ]
    answer = told(reply(kind="generate", has_context=True), *stream)
    assert [line["response"] for line in answer] == ["a", ""]
    assert (answer[-1]["context"], answer[-1]["done_reason"]) == ([1, 2, 3], "length")


def test_completions_bring_text_and_ids_within_the_choice() -> None:
    stream = [
        event(choices=[{"index": 0, "text": " Paris", "prompt_token_ids": [5], "token_ids": [6]}]),
        event(choices=[{"index": 0, "text": ".", "finish_reason": "stop", "token_ids": [7]}]),
        usage(),
        DONE,
    ]
    answer = told(reply(kind="generate", has_context=True), *stream)
    assert "".join(line["response"] for line in answer) == " Paris."
    assert answer[-1]["context"] == [5, 6, 7]


def test_a_whole_answer_is_one_object() -> None:
    answer = reply(is_streamed=False)
    assert told(answer, ROLE, delta(content="He"), delta(content="llo", finish="stop"), usage(), DONE) == []
    assert answer.whole()["message"] == {"role": "assistant", "content": "Hello"}
    assert answer.whole()["done"] is True


def test_usage_on_the_finish_chunk_is_as_good() -> None:
    last = event(
        choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
        usage={"prompt_tokens": 1, "completion_tokens": 9},
    )
    assert told(reply(), last, DONE)[-1]["eval_count"] == 9


def test_without_usage_tokens_are_counted_by_their_ids_and_never_by_chunks() -> None:
    chunk = event(choices=[{"index": 0, "delta": {"content": "abc"}, "finish_reason": "stop", "token_ids": [1, 2, 3]}])
    assert told(reply(), chunk, DONE)[-1]["eval_count"] == 3
    assert "eval_count" not in told(reply(), delta(content="abc", finish="stop"), DONE)[-1]


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "content_filter", "something new"])
def test_done_reason_is_stop_unless_the_length_ended_it(reason: str) -> None:
    assert told(reply(), delta(content="x", finish=reason), usage(), DONE)[-1]["done_reason"] == "stop"


def test_durations_are_measured_from_receipt_over_acceptance_to_first_and_last_token() -> None:
    now = 0

    class Moving(Frozen):
        steady_ns = staticmethod(lambda: now)

    answer = reply(clock=Moving)
    now = 5 * MS
    answer.accepted()
    now = 30 * MS
    answer.feed(ROLE)
    now = 45 * MS
    answer.feed(delta(content="a"))
    now = 75 * MS
    answer.feed(delta(content="b", finish="stop"))
    now = 80 * MS
    (line,) = lines(answer.feed(usage() + DONE))
    assert {name: line[name] for name in line if name.endswith("_duration")} == {
        "total_duration": 80 * MS,
        "load_duration": 5 * MS,
        "prompt_eval_duration": 40 * MS,
        "eval_duration": 30 * MS,
    }


def test_figures_of_vllm_itself_are_preferred() -> None:
    metrics = event(
        choices=[],
        usage={"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
        metrics={"time_to_first_token_ms": 12.5, "generation_time_ms": 40.0},
    )
    line = told(reply(), delta(content="a", finish="stop"), metrics, DONE)[-1]
    assert (line["prompt_eval_duration"], line["eval_duration"]) == (12_500_000, 40_000_000)
    assert line["prompt_eval_cached_count"] == 3


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_is_thinking_and_told_once(key: str) -> None:
    both = delta(reasoning="Hm", reasoning_content="Hm")
    answer = told(reply(), both, delta(**{key: ", well"}), delta(content="4", finish="stop"), usage(), DONE)
    assert "".join(line["message"].get("thinking", "") for line in answer) == "Hm, well"
    assert "".join(line["message"]["content"] for line in answer) == "4"


def test_think_false_shows_what_was_thought_all_the_same_as_text() -> None:
    answer = told(reply(shows_thinking=False), delta(reasoning="Hm "), delta(content="4", finish="stop"), usage(), DONE)
    assert "".join(line["message"]["content"] for line in answer) == "Hm 4"
    assert all("thinking" not in line["message"] for line in answer)


def call(index: int, arguments: str, name: str | None = None, identity: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": identity, "function": {"name": name, "arguments": arguments}}


def test_fragments_of_two_parallel_calls_become_two_whole_calls() -> None:
    answer = told(
        reply(),
        delta(tool_calls=[call(0, '{"ci', "weather", "call_a")]),
        delta(tool_calls=[call(1, "", "time", "call_b")]),
        delta(tool_calls=[call(0, 'ty":"Paris"}')]),
        delta(tool_calls=[call(1, "{}")]),
        delta(finish="tool_calls"),
        usage(),
        DONE,
    )
    calls = [made for line in answer for made in line["message"].get("tool_calls", [])]
    assert calls == [
        {"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}},
        {"id": "call_b", "function": {"index": 1, "name": "time", "arguments": {}}},
    ]
    assert all(line["message"]["content"] == "" for line in answer)
    assert [line["done"] for line in answer] == [False, True]
    assert answer[-1]["done_reason"] == "stop"


def test_a_call_cut_in_its_arguments_is_text_and_no_call() -> None:
    answer = told(reply(), delta(tool_calls=[call(0, '{"city":"Pa', "weather")], finish="length"), usage(), DONE)
    assert [line["message"].get("tool_calls") for line in answer] == [None, None]
    assert answer[0]["message"]["content"] == '{"city":"Pa'
    assert answer[-1]["done_reason"] == "length"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_answer_without_an_end_is_a_failure(is_streamed: bool) -> None:
    for pieces in ([delta(content="a")], [delta(content="a"), DONE], [delta(content="a", finish="abort"), DONE]):
        answer = reply(is_streamed=is_streamed)
        assert not any(line["done"] for line in told(answer, *pieces))
        assert answer.failure is not None
        assert answer.failure.status == 500


def test_an_error_event_is_a_failure_and_nothing_follows() -> None:
    answer = reply()
    error = event(error={"message": "out of memory", "code": 500})
    said = told(answer, delta(content="a"), error, delta(content="b"), DONE)
    assert [line["message"]["content"] for line in said] == ["a"]
    assert answer.failure is not None
    assert answer.failure.text == "out of memory"


@pytest.mark.parametrize("garbage", [b"data: nonsense\n\n", b'data: {"choices": 5}\n\n', b"data: \xff\n\n"])
def test_garbage_is_a_failure(garbage: bytes) -> None:
    answer = reply()
    answer.feed(garbage)
    assert answer.failure is not None


def test_logprobs_of_chat_and_of_completions_have_one_shape() -> None:
    item = {"token": " a", "logprob": -0.5, "bytes": [32, 97]}
    expected = [item | {"top_logprobs": [item]}]
    assert converted_logprobs({"content": expected}) == expected
    completions = {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5}]}
    assert converted_logprobs(completions) == expected


def test_characters_that_end_lines_for_some_clients_leave_escaped() -> None:
    answer = reply()
    data = answer.feed(delta(content="a\u2028b\u2029c\u0085d"))
    assert json.loads(data)["message"]["content"] == "a\u2028b\u2029c\u0085d"
    assert len(data.decode().splitlines()) == 1


STREAM = b"".join(
    [
        ROLE,
        delta(reasoning="Hm é"),
        b": keep-alive\n\n",
        delta(content="Hé"),
        delta(content="🙂\u2028"),
        delta(tool_calls=[call(0, '{"a":', "f", "call_x")]),
        delta(tool_calls=[call(0, "1}")]),
        delta(content="!", finish="stop"),
        usage(),
        DONE,
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=60), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_answer(cuts: list[int], is_streamed: bool) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    cut, uncut = reply(is_streamed=is_streamed), reply(is_streamed=is_streamed)
    assert told(cut, *pieces) == told(uncut, STREAM)
    assert cut.whole() == uncut.whole()


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    answer = reply()
    answer.feed(data)
    answer.end()
    assert answer.is_done or answer.failure is not None


THOUGHT = "<think>\nTwo and two.\n</think>\n\nFour </think> <think>"


@given(st.lists(st.integers(0, len(THOUGHT)), max_size=30))
def test_tags_split_over_pieces_are_found(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(THOUGHT)]
    splitter = ThinkSplitter()
    found = [splitter.feed(THOUGHT[start:end]) for start, end in pairwise(edges)] + [splitter.end()]
    assert "".join(thinking for thinking, _ in found).strip() == "Two and two."
    assert "".join(text for _, text in found) == "Four </think> <think>"


def test_text_that_only_begins_like_a_tag_is_text() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("  <th") == ("", "")
    assert splitter.feed("at>") == ("", "  <that>")


def test_an_answer_cut_inside_the_thinking_is_thinking() -> None:
    splitter = ThinkSplitter(is_inside=True)
    assert splitter.feed("Hm</th") == ("Hm", "")
    assert splitter.end() == ("</th", "")


@pytest.mark.parametrize(
    ("text", "found"), [("", {}), (" ", {}), ("{}", {}), ('{"a":1}', {"a": 1}), ("[1]", None), ("{", None)]
)
def test_arguments_are_an_object_or_nothing(text: str, found: dict[str, Any] | None) -> None:
    assert parsed_arguments(text) == found


def test_stamps_have_nanoseconds_and_a_zone() -> None:
    stamp = Stamp()
    assert stamp(1_795_352_746_000_000_007) == b"2026-11-22T13:05:46.000000007Z"
    assert stamp(1_795_352_746_999_999_999) == b"2026-11-22T13:05:46.999999999Z"
    assert stamp(1_795_352_747_000_000_000) == b"2026-11-22T13:05:47.000000000Z"
