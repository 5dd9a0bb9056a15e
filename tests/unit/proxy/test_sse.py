"""Bytes of a stream, however they are cut, give the same events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroke
from proxy.sse import MAX_LINE_BYTES, EventSplitter

STREAM = (
    'data: {"a":"é 🙂 "}\n\n: keep-alive\n\ndata: {"b":1}\r\n\r\nevent: x\ndata:{"c":2}\n\ndata: [DONE]\n\n'
).encode()
EVENTS = ['{"a":"é 🙂 "}'.encode(), b'{"b":1}', b'{"c":2}', b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    splitter = EventSplitter()
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]
    assert [event for piece in pieces for event in splitter.feed(piece)] == EVENTS


def test_an_event_waits_for_its_line_end() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b'data: {"a"') == []
    assert splitter.feed(b":1}") == []
    assert splitter.feed(b"\n") == [b'{"a":1}']


def test_unicode_line_separators_are_text() -> None:
    text = 'data: "\u2028\u2029\u0085"\n'
    assert EventSplitter().feed(text.encode()) == ['"\u2028\u2029\u0085"'.encode()]


def test_an_endless_line_is_refused() -> None:
    splitter = EventSplitter()
    piece = b"x" * (MAX_LINE_BYTES // 4)
    for _ in range(4):
        splitter.feed(piece)
    with pytest.raises(UpstreamBroke):
        splitter.feed(piece)
