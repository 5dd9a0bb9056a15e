import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines import reference


def timing(*flags):
    return msgspec.convert(vars(reference.parser().parse_args(flags)), reference.Timing)


@given(tokens=st.integers(1, 300), size=st.integers(1, 20))
def test_a_timetable_holds_every_token_once_and_in_order(tokens, size):
    steps = list(reference.timetable(timing(f"--tokens-per-chunk={size}"), start_s=5.0, tokens=tokens))
    assert sum(step.tokens for step in steps) == sum(len(step.text.split()) for step in steps) == tokens
    assert all(step.tokens == size for step in steps[:-1])
    assert [step.due_s for step in steps] == sorted(step.due_s for step in steps)
    assert steps[0].due_s == pytest.approx(5.2)


def test_the_token_rate_is_the_same_however_many_a_chunk_carries():
    single = list(reference.timetable(timing(), start_s=0.0, tokens=40))
    fours = list(reference.timetable(timing("--tokens-per-chunk=4"), start_s=0.0, tokens=40))
    assert [step.due_s for step in fours] == pytest.approx([step.due_s for step in single[::4]])


@pytest.mark.parametrize("text", ["a café here", "plain"])
def test_the_halves_of_a_chunk_are_the_chunk(text):
    first, last = reference.halves(text.encode())
    assert first + last == text.encode()
    assert first
    assert last


def test_a_split_chunk_is_cut_inside_a_character():
    first, _ = reference.halves("a café here".encode())
    with pytest.raises(UnicodeDecodeError):
        first.decode()


@pytest.mark.parametrize(
    ("payload", "limit"),
    [
        ({"messages": [{"content": "a b"}], "max_tokens": 9}, 9),
        ({"messages": [{"content": "a b"}], "max_completion_tokens": 9}, 9),
        ({"messages": [{"content": "a b"}], "options": {"num_predict": 9}}, 9),
        ({"prompt": "a b", "options": {"num_predict": -1}}, None),
        ({"prompt": "a b"}, None),
    ],
)
def test_the_limit_of_a_request_is_found_in_either_api(payload, limit):
    request = reference.asked(payload, streams_by_default=True)
    assert (request.max_tokens, request.prompt_tokens, request.prompt) == (limit, 2, "a b")


def test_each_api_streams_by_its_own_default():
    assert reference.asked({"prompt": "a"}, streams_by_default=True).is_streamed is True
    assert reference.asked({"prompt": "a", "stream": False}, streams_by_default=True).is_streamed is False
    assert reference.asked({"messages": []}, streams_by_default=False).is_streamed is False
