"""The texts were obtained from Ollama's own types, decoded by Go 1.26 with its second encoding/json."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import gojson

REFUSED = [
    (b"{", "unexpected EOF"),
    (b'{"a', "unexpected EOF"),
    (b'{"a":tru', "unexpected EOF"),
    (b'{"a":"\\u12', "unexpected EOF"),
    (b"-", "unexpected EOF"),
    (b"", "unexpected EOF"),
    (b"hello", "invalid character 'h' looking for beginning of value"),
    (b'{"model": }', "invalid character '}' looking for beginning of value"),
    (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
    (b"[1,]", "invalid character ']' looking for beginning of value"),
    (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 2}', "invalid character '2' after object key:value pair"),
    (b'{"a":01}', "invalid character '1' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"[1}", "invalid character '}' after array element"),
    (b'{"a":nulL}', "invalid character 'L' in literal null (expecting 'l')"),
    (b'{"a":-Infinity}', "invalid character 'I' in numeric literal"),
    (b'{"a":1.}', "invalid character '}' in numeric literal"),
    (b'{"a":1e+}', "invalid character '}' in numeric literal"),
    (b'"a\nb"', "invalid character '\\n' in string"),
    (b'"a\x00b"', "invalid character '\\x00' in string"),
    (b'"\\x"', "invalid escape sequence `\\x` in string"),
    (b'"\\uZZZZ"', "invalid escape sequence `\\uZZZZ` in string"),
    (b'"\\\xe2"', 'invalid escape sequence "\\\\\\xe2" in string'),
    (b"\xef\xbb\xbf{}", "invalid character '\\ufeff' looking for beginning of value"),
    (b"\xff", "invalid character '\\xff' looking for beginning of value"),
    (b'{"a":1 \xe2\x82\xac}', "invalid character '€' after object key:value pair"),
]


@pytest.mark.parametrize(("body", "text"), REFUSED)
def test_syntax_errors_are_worded_as_go_words_them(body, text):
    assert gojson.syntax_error(body) == text


@pytest.mark.parametrize("body", [b'{"a":1} x', b"{}}", b"1x", b'"\\ud800"', b'"\xff"', b" null\n", b"-0", b"[[],{}]"])
def test_what_follows_the_first_value_and_what_is_in_its_strings_is_not_judged(body):
    assert gojson.syntax_error(body) is None


def test_nesting_is_refused_beyond_the_limit_only():
    assert gojson.syntax_error(b"[" * 10_000 + b"]" * 10_000) is None
    assert gojson.syntax_error(b"[" * 10_001 + b"]" * 10_001) == "exceeded max depth"
    assert gojson.syntax_error(b"[[[", max_depth=2) == "exceeded max depth"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def nesting(value):
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if members is None else 1 + max(map(nesting, members), default=0)


@given(JSON, st.booleans())
def test_valid_json_is_never_refused(value, is_ascii):
    assert gojson.syntax_error(json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")) is None


@given(JSON)
def test_depth_is_counted_outside_of_strings(value):
    body = json.dumps([value, '[[[[{"\\']).encode()
    assert gojson.depth(body, limit=0) == min(nesting([value]), 1)
    assert gojson.depth(body, limit=3) in (0, min(nesting([value]), 4))
    assert (gojson.depth(body, limit=3) > 3) == (nesting([value]) > 3)


FRAGMENTS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"', b"1", b"-", b".5", b"e3", b"true", b"nul", b" "]
)


@given(st.lists(FRAGMENTS, max_size=9).map(b"".join))
def test_validity_is_what_pythons_json_says(body):
    try:
        json.JSONDecoder(parse_constant=lambda _: 1 / 0).raw_decode(body.decode().lstrip(" "))
        valid = True
    except ValueError:
        valid = False
    if b"-" not in body and b"." not in body and b"e3" not in body:  # Python stops before a broken end of a number
        assert (gojson.syntax_error(body) is None) == valid
    elif not valid:
        assert gojson.syntax_error(body) is not None


@given(st.binary(max_size=40))
def test_any_bytes_are_either_valid_or_explained(body):
    text = gojson.syntax_error(body)
    assert text is None or text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("!!notbase64", 0),
        ("data:image", 4),
        ("AA", 0),
        ("A===", 1),
        ("AAAAA", 4),
        ("AA=A", 2),
        ("AA=", 3),
        ("AAAA=", 4),
    ],
)
def test_bad_base64_is_located_as_go_locates_it(text, place):
    with pytest.raises(gojson.Refused, match=f"illegal base64 data at input byte {place}$"):
        gojson.decoded_base64(text)


@given(st.binary(max_size=50), st.integers(1, 10))
def test_base64_may_be_broken_into_lines(data, width):
    text = base64.b64encode(data).decode()
    lines = "\r\n".join(text[n : n + width] for n in range(0, len(text), width))
    assert gojson.decoded_base64(lines) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [('a"b\\', '"a\\"b\\\\"'), ("\x01\n\x7f", '"\\x01\\n\\x7f"'), ("é\ufeff", '"é\\ufeff"'), (b"\xff", '"\\xff"')],
)
def test_quoting_is_gos(text, said):
    assert gojson.quoted(text) == said


def test_a_long_text_is_quoted_in_part():
    assert len(gojson.quoted("x" * 10**6)) == gojson.LONGEST_QUOTE + 2


def test_the_kelvin_sign_is_a_k():
    assert gojson.folded("\u212aEEP_ALIVE") == "keep_alive"
