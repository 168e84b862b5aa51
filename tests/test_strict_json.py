"""Strict JSON: RFC 8259 and nothing more, whatever the bytes."""

from __future__ import annotations

import json
import math
import time

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.strict_json import MAX_DEPTH, parse

BAD = {
    "nothing": (b" ", Reason.INVALID_JSON),
    "byte order mark": (b"\xef\xbb\xbf{}", Reason.INVALID_JSON),
    "UTF-16 with mark": ("{}".encode("utf-16"), Reason.INVALID_UTF8),
    "UTF-16 without mark": ("{}".encode("utf-16-le"), Reason.INVALID_JSON),
    "Latin-1": ('"ü"'.encode("latin-1"), Reason.INVALID_UTF8),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', Reason.INVALID_UTF8),
    "overlong UTF-8": (b'"\xc0\xaf"', Reason.INVALID_UTF8),
    "NaN": (b'{"a":NaN}', Reason.INVALID_JSON),
    "Infinity": (b"[Infinity]", Reason.INVALID_JSON),
    "-Infinity": (b"-Infinity", Reason.INVALID_JSON),
    "two documents": (b"{}{}", Reason.INVALID_JSON),
    "two lines": (b"{}\n{}", Reason.INVALID_JSON),
    "trailing garbage": (b"{} x", Reason.INVALID_JSON),
    "trailing NUL": (b"{}\x00", Reason.INVALID_JSON),
    "half a document": (b'{"a":', Reason.INVALID_JSON),
    "trailing comma": (b'{"a":1,}', Reason.INVALID_JSON),
    "trailing comma in an array": (b"[1,]", Reason.INVALID_JSON),
    "single quotes": (b"{'a':1}", Reason.INVALID_JSON),
    "bare name": (b"{a:1}", Reason.INVALID_JSON),
    "comment": (b"{} // no", Reason.INVALID_JSON),
    "leading zero": (b"01", Reason.INVALID_JSON),
    "plus sign": (b"+1", Reason.INVALID_JSON),
    "no digit after the point": (b"1.", Reason.INVALID_JSON),
    "no digit before the point": (b".5", Reason.INVALID_JSON),
    "hexadecimal": (b"0x10", Reason.INVALID_JSON),
    "digits of another script": ("٣".encode(), Reason.INVALID_JSON),
    "upper-case literal": (b"True", Reason.INVALID_JSON),
    "control character in a string": (b'"a\nb"', Reason.INVALID_JSON),
    "unknown escape": (b'"\\x41"', Reason.INVALID_JSON),
    "form feed as space": (b"\x0c{}", Reason.INVALID_JSON),
    "no-break space": (b"\xc2\xa0{}", Reason.INVALID_JSON),
}


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_refuses(value: bytes, reason: Reason) -> None:
    with pytest.raises(Rejection) as caught:
        parse(value)
    assert caught.value.reason is reason
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (b' \t\r\n{"a" : [1, -2.5e3, true, null, "\\u00fc\\n"]} ', {"a": [1, -2500.0, True, None, "ü\n"]}),
        (b'{"a":1,"a":"2"}', {"a": "2"}),
        (b'{"a":{"b":1},"a":{}}', {"a": {}}),
        (b"18446744073709551616", 2**64),
        (b"-0", 0),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ud800"', "\ud800"),
        (b'"\x7f"', "\x7f"),
        (b'{"":1}', {"": 1}),
    ],
)
def test_accepts(value: bytes, document: object) -> None:
    assert parse(value) == document


def test_types_of_numbers_are_kept() -> None:
    assert [type(x) for x in parse(b"[1, 1.0, 1e0, true]")] == [int, float, float, bool]  # type: ignore[attr-defined]


def test_greatest_numbers_are_left_to_the_range_check() -> None:
    assert parse(b"[1e999, -1e999]") == [math.inf, -math.inf]
    assert parse(b"9" * 400) == int("9" * 400)
    for digits in (b"9" * 5_000, b"9" * 1_000_000):
        assert abs(parse(digits)) > 10**399  # type: ignore[arg-type]
        assert parse(b"-" + digits) == -parse(digits)  # type: ignore[operator]


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
        b'{"a":[' * 1_500_000 + b"]}" * 1_500_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'"' * 1_000_000 + b"[" * 1_000,
        b'"\\' * 1_000_000,
        b'"' + b'\\"' * 1_000_000 + b"[" * 1_000,
    ],
    ids=["arrays", "objects", "closed", "one too deep", "quotes", "escapes", "open string"],
)
def test_bombs_are_refused_quickly(value: bytes) -> None:
    started = time.process_time()
    with pytest.raises(Rejection) as caught:
        parse(value)
    assert caught.value.reason is Reason.INVALID_JSON
    assert time.process_time() - started < 5


def test_depth_counts_nesting_and_not_brackets() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    document = parse(deepest)
    for _ in range(MAX_DEPTH - 1):
        document = document[0]  # type: ignore[index]
    assert document == []
    assert parse(b"[" + b",".join([b"[]"] * 10_000) + b"]") == [[]] * 10_000
    brackets = "[{" * 1_000 + '\\"' + "[" * 1_000
    assert parse(json.dumps([brackets]).encode()) == [brackets]


def test_a_full_stack_is_no_crash() -> None:
    def nested(levels: int) -> object:
        return nested(levels - 1) if levels else parse(b"[" * 200 + b"]" * 200)

    outcomes = set()
    for levels in range(500, 990, 10):
        try:
            outcomes.add(type(nested(levels)))
        except (Rejection, RecursionError) as error:
            outcomes.add(type(error))
    assert Rejection in outcomes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.booleans())
def test_round_trip(document: object, escaped: bool) -> None:
    assert parse(json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")) == document


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn\\u \n', max_size=30).map(str.encode))
@example(b"")
def test_agrees_with_another_strict_parser(value: bytes) -> None:
    try:
        document = parse(value)
    except Rejection:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(value)
    else:
        # The other parser turns integers beyond 64 bits into floats and refuses infinities and lone surrogates.
        try:
            other = orjson.loads(value)
        except orjson.JSONDecodeError:
            assert b"\\u" in value or b"e" in value.lower()
        else:
            assert document == other or any(len(digits) > 18 for digits in value.split())
