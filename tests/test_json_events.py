"""Events: what the contract accepts, the reason for the rest, and both paths in agreement."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.instants import MAX_INSTANT, MICROS_PER_DAY, parse_instant
from ami_beam.records import DeadLetter, Event, RecordBatch
from ami_beam.settings import Settings

EVENT_TS = parse_instant("2026-03-03T00:16:33Z")
RECORD_TIME = EVENT_TS + 2_000_000
VALID: dict[str, Any] = {
    "meter_id": "MTR-835898",
    "event_code": 2048,
    "event_desc": "TAMPER_COVER_OPEN",
    "event_ts": "2026-03-03T00:16:33Z",
}


def record(**changes: Any) -> bytes:
    return json.dumps({**VALID, **changes}, separators=(",", ":")).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in VALID.items() if key != name}).encode()


VALUE = record()
BAD: dict[str, tuple[bytes | None, Reason]] = {
    "tombstone": (None, Reason.NULL_VALUE),
    "empty": (b"", Reason.EMPTY_VALUE),
    "10 MB of arrays": (b"[" * 10_000_000, Reason.INVALID_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + VALUE, Reason.INVALID_JSON),
    "UTF-16": (VALUE.decode().encode("utf-16"), Reason.INVALID_UTF8),
    "two documents": (VALUE + b"\n" + VALUE, Reason.INVALID_JSON),
    "half a document": (VALUE[:50], Reason.INVALID_JSON),
    "NaN": (VALUE.replace(b"2048", b"NaN"), Reason.INVALID_JSON),
    "array": (b"[1]", Reason.NOT_AN_OBJECT),
    "no meter_id": (without("meter_id"), Reason.MISSING_FIELD),
    "no event_code": (without("event_code"), Reason.MISSING_FIELD),
    "no event_ts": (without("event_ts"), Reason.MISSING_FIELD),
    "empty meter_id": (record(meter_id=""), Reason.EMPTY_ID),
    "null meter_id": (record(meter_id=None), Reason.WRONG_TYPE),
    "lone surrogate in meter_id": (record(meter_id="\ud800"), Reason.INVALID_UTF8),
    "string as code": (record(event_code="2048"), Reason.WRONG_TYPE),
    "float as code": (record(event_code=2048.0), Reason.WRONG_TYPE),
    "bool as code": (record(event_code=True), Reason.WRONG_TYPE),
    "null code": (record(event_code=None), Reason.WRONG_TYPE),
    "2^63 as code": (record(event_code=2**63), Reason.NUMBER_OUT_OF_RANGE),
    "5,000 digits as code": (VALUE.replace(b"2048", b"9" * 5_000), Reason.NUMBER_OUT_OF_RANGE),
    "number as description": (record(event_desc=5), Reason.WRONG_TYPE),
    "lone surrogate in description": (record(event_desc="\udfff"), Reason.INVALID_UTF8),
    "invalid UTF-8 in description": (VALUE.replace(b"TAMPER", b"\xff"), Reason.INVALID_UTF8),
    "invalid UTF-8 in an unknown field": (VALUE[:-1] + b',"x":"\xff"}', Reason.INVALID_UTF8),
    "no zone": (record(event_ts="2026-03-03T00:16:33"), Reason.INVALID_TIMESTAMP),
    "lower-case z": (record(event_ts="2026-03-03T00:16:33z"), Reason.INVALID_TIMESTAMP),
    "number as timestamp": (record(event_ts=1772496993), Reason.WRONG_TYPE),
    "year 2101": (record(event_ts="2101-01-01T00:00:00Z"), Reason.INVALID_TIMESTAMP),
}
GOOD: dict[str, tuple[bytes, dict[str, object]]] = {
    "plain": (VALUE, {**VALID, "event_ts": EVENT_TS}),
    "no description": (without("event_desc"), {"event_desc": None}),
    "null description": (record(event_desc=None), {"event_desc": None}),
    "empty description": (record(event_desc=""), {"event_desc": ""}),
    "any script": (record(event_desc="Gehäuse geöffnet 😀"), {"event_desc": "Gehäuse geöffnet 😀"}),
    "any code": (record(event_code=-(2**63)), {"event_code": -(2**63)}),
    "last of duplicates": (VALUE[:-1] + b',"event_code":3840}', {"event_code": 3840}),
    "last of duplicates repairs": (b'{"event_code":"x",' + VALUE[1:], {"event_code": 2048}),
    "unknown fields": (VALUE[:-1] + b',"x":{"y":[1e999,"\\ud800"]}}', {"event_code": 2048}),
    "zone and fraction": (record(event_ts="2026-03-03T01:16:33.5+01:00"), {"event_ts": EVENT_TS + 500_000}),
    "a year ahead": (record(event_ts="2027-03-03T00:16:33Z"), {"event_code": 2048}),
    "years late": (record(event_ts="1970-01-01T00:00:00Z"), {"event_ts": 0}),
}


def batch_of(*values: bytes | None, record_time: int | None = RECORD_TIME) -> RecordBatch:
    count = len(values)
    return RecordBatch("ami.headend.events", [1] * count, list(range(count)), [record_time] * count, list(values))


def decode(
    batch: RecordBatch, settings: Settings | None = None, now: int | None = None
) -> tuple[list[Event], list[DeadLetter]]:
    """The result of both paths, which must be one, with the accounting checked."""
    decoder = EventDecoder(settings or Settings())
    events, letters = decoder.decode(batch, now)
    assert (events, letters) == decoder.decode_carefully(batch, now) == decoder.decode(batch, now)
    assert sorted(x.offset for x in [*events, *letters]) == batch.offsets
    assert not any(letter.used for letter in letters)
    msgspec.msgpack.encode((events, letters))
    return events, letters


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_sets_aside(value: bytes | None, reason: Reason) -> None:
    events, (letter,) = decode(batch_of(VALUE, value, VALUE))
    assert [event.offset for event in events] == [0, 2]
    assert (letter.reason, letter.value, letter.offset) == (reason.value, value, 1)
    assert (letter.topic, letter.partition, letter.record_time) == ("ami.headend.events", 1, RECORD_TIME)
    assert letter.detail.endswith(".")
    assert VALID["meter_id"] not in letter.detail


@pytest.mark.parametrize(("value", "expected"), GOOD.values(), ids=GOOD.keys())
def test_accepts(value: bytes, expected: dict[str, object]) -> None:
    (event,), letters = decode(batch_of(value))
    assert letters == []
    assert {name: getattr(event, name) for name in expected} == expected
    assert (event.record_time, event.partition, event.offset) == (RECORD_TIME, 1, 0)


@pytest.mark.parametrize("record_time", [None, -1, MAX_INSTANT + 1, 2**80])
def test_a_bad_record_time(record_time: int | None) -> None:
    (letter,) = decode(batch_of(VALUE, record_time=record_time))[1]
    assert (letter.reason, letter.record_time) == ("BAD_RECORD_TIME", None)


def test_a_live_record_time_may_not_run_ahead_of_the_wall_clock() -> None:
    settings = Settings(live=True)
    assert decode(batch_of(VALUE), settings, now=RECORD_TIME - settings.clock_skew)[1] == []
    (letter,) = decode(batch_of(VALUE), settings, now=RECORD_TIME - settings.clock_skew - 1)[1]
    assert letter.reason == "BAD_RECORD_TIME"
    with pytest.raises(ValueError, match="wall clock"):
        EventDecoder(settings).decode(batch_of(VALUE), None)


def test_lateness_does_not_matter() -> None:
    assert decode(batch_of(VALUE, record_time=EVENT_TS + 300 * MICROS_PER_DAY))[1] == []


def test_pickle() -> None:
    copy = pickle.loads(pickle.dumps(EventDecoder(Settings())))
    assert copy.decode(batch_of(VALUE), None) == decode(batch_of(VALUE))


SNIPPETS = st.sampled_from(
    [*b'{ } [ ] : , " \\ 0 1.0 1e3 -0 null true \xff \xc3\xbc \\ud800 \\u0041 z +0100 .9999999'.split(b" "), VALUE]
)
MUTATIONS = st.lists(
    st.tuples(st.integers(0, len(VALUE)), st.integers(0, 12), SNIPPETS | st.binary(max_size=3)), max_size=3
)


def mutated(mutations: list[tuple[int, int, bytes]]) -> bytes:
    value = VALUE
    for position, length, replacement in mutations:
        value = value[:position] + replacement + value[position + length :]
    return value


@hypothesis_settings(max_examples=400, deadline=None)
@given(st.lists(st.none() | st.binary(max_size=30) | MUTATIONS.map(mutated), max_size=5))
def test_the_fast_path_is_the_definition(values: list[bytes | None]) -> None:
    decode(batch_of(*values))
