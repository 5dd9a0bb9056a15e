"""JSON that is nearly JSON."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy


class Bare(str):
    """Written as it stands, without quotes."""

    __slots__ = ()


class Members(list[tuple[Any, Any]]):
    """An object, whose keys may come twice."""


def dumped(value: object) -> str:
    """JSON of what the strategies make."""
    if isinstance(value, Bare):
        return str(value)
    if isinstance(value, Members):
        return "{" + ",".join(f"{dumped(key)}:{dumped(its)}" for key, its in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


ODD_TEXTS = st.sampled_from([
    "", " ", "null", "json", "\x00", "\n", "\u2028\u2029\x85", "\U0001f600", "é" * 40, "{{ .Prompt }}", "<think>",
    "../../etc/passwd", "http://127.0.0.1:1/x", "data:image/png;base64,AAAA", "-1", "1e400", "x" * 3000, "\ufeff",
    "</think>", "<|im_start|>", "%s%n", "${x}", "A" * 90, "\ud83d",
])  # fmt: skip
TEXTS = st.one_of(ODD_TEXTS, st.text(max_size=12), st.sampled_from(["hi", "why is the sky blue?"]))
NUMBERS = st.one_of(
    st.sampled_from([
        0, 1, -1, -2, 2, 16, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, -0.1, 1e-9, 1e308, -1e308, 5e-324, 4096, 2**31, 2**53 + 1,
        2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30, 1e19, -1e19, 8192.0, 49151, 49152,
    ]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(list(map(Bare, (
        "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "1.", ".5", "-", "0x10", "1e5", "-0", "1E+2",
        "9" * 400, "0." + "3" * 400, "1e-999",
    )))),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def nested(inner: SearchStrategy[Any]) -> SearchStrategy[Any]:
    pairs = st.lists(st.tuples(TEXTS, inner), max_size=3).map(Members)
    return st.one_of(st.lists(inner, max_size=3), pairs)


VALUES = st.one_of(LEAVES, nested(LEAVES), nested(nested(LEAVES)))


@st.composite
def deep(draw: DrawFn) -> Bare:
    """Many levels, closed or not."""
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"b":', "}]")]))
    depth = draw(st.sampled_from([3, 60, 127, 128, 129, 1_000, 1_025, 20_000]))
    return Bare(opening * depth + "1" + closing * (depth if draw(st.booleans()) else depth - 1))


def mostly(usual: SearchStrategy[Any], *others: SearchStrategy[Any], one_in: int = 6) -> SearchStrategy[Any]:
    """`usual`, and one time in so many one of the others: `one_of` gives each the same chance."""
    other = st.one_of(*others)
    return st.integers(0, one_in - 1).flatmap(lambda chance: other if chance == one_in - 1 else usual)


ANYTHING = mostly(VALUES, deep())


def objects(
    fields: dict[str, SearchStrategy[Any]], *, needs: Sequence[str] = (), most: int = 6, odd: int = 8
) -> SearchStrategy[Members]:
    """Objects of some of `fields`; one value in `odd` is anything at all, and some keys come twice or otherwise."""
    names = sorted(set(fields) - set(needs))
    other = (
        ODD_TEXTS
        if not names
        else st.one_of(
            ODD_TEXTS,
            st.sampled_from(names).map(str.upper),
            st.sampled_from(names).map(str.title),
            st.sampled_from(names),
        )
    )

    @st.composite
    def build(draw: DrawFn) -> Members:
        chosen = list(needs)
        if names:
            chosen += draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
        chances = draw(st.lists(st.integers(0, odd - 1), min_size=len(chosen), max_size=len(chosen)))
        members = Members()
        for name, chance in zip(chosen, chances, strict=True):
            members.append((name, draw(ANYTHING if chance == odd - 1 else fields[name])))
        if draw(st.integers(0, 5)) == 5:
            members.append((draw(other), draw(ANYTHING)))
        return members

    return build()
