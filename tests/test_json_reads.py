"""Reads: each rule of the contract with its reason code, and a fast path that never differs from the definition."""

from __future__ import annotations

import base64
import json
import pickle
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_reads import CHUNK, ReadDecoder
from ami_beam.instants import (
    MAX_INSTANT,
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    MICROS_PER_MINUTE,
    format_instant,
    parse_instant,
)
from ami_beam.records import DeadLetter, Read, RecordBatch
from ami_beam.settings import Settings

END = parse_instant("2026-03-03T12:15:00Z")
RECORD_TIME = END + 60_000_000
VALID: dict[str, Any] = {
    "meter_id": "MTR-154570",
    "service_point_id": "SP-0081987",
    "customer_id": "CUST-009444",
    "transformer_id": "TR-LV2.104",
    "feeder_id": "MV1.101-Feeder1",
    "read_type": "INTERVAL",
    "interval_start": "2026-03-03T12:00:00Z",
    "interval_end": "2026-03-03T12:15:00Z",
    "consumption_kwh": 0.0197,
    "delivered_kwh": 0.0197,
    "received_kwh": 0.0,
    "voltage_v": 242.2,
    "power_quality_code": 0,
    "estimated_flag": False,
    "read_ts": "2026-03-03T12:15:50Z",
}
IDS = ("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id")
INSTANTS = ("interval_start", "interval_end", "read_ts")
NUMBERS = ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")


def record(**changes: Any) -> bytes:
    return json.dumps({**VALID, **changes}, separators=(",", ":")).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in VALID.items() if key != name}).encode()


def raw(name: str, text: bytes) -> bytes:
    """The valid record with `text` for the value of `name`."""
    return record(**{name: "\x00"}).replace(b'"\\u0000"', text)


def with_extra(text: bytes) -> bytes:
    """The valid record with further fields at its end."""
    return record()[:-1] + b"," + text + b"}"


VALUE = record()

BAD: dict[str, tuple[bytes | None, Reason]] = {
    "tombstone": (None, Reason.NULL_VALUE),
    "empty": (b"", Reason.EMPTY_VALUE),
    "only space": (b" \n", Reason.INVALID_JSON),
    "10 MB of arrays": (b"[" * 10_000_000, Reason.INVALID_JSON),
    "10 MB of arrays in an unknown field": (with_extra(b'"x":' + b"[" * 10_000_000), Reason.INVALID_JSON),
    "too deep in an unknown field": (with_extra(b'"x":' + b"[" * 300 + b"]" * 300), Reason.INVALID_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + VALUE, Reason.INVALID_JSON),
    "UTF-16": (VALUE.decode().encode("utf-16"), Reason.INVALID_UTF8),
    "UTF-16 without mark": (VALUE.decode().encode("utf-16-le"), Reason.INVALID_JSON),
    "Latin-1 id": (raw("meter_id", b'"M\xfc"'), Reason.INVALID_UTF8),
    "invalid UTF-8 in an unknown field": (with_extra(b'"x":"\xff"'), Reason.INVALID_UTF8),
    "invalid UTF-8 in an unknown name": (with_extra(b'"\xff":1'), Reason.INVALID_UTF8),
    "encoded surrogate in an unknown field": (with_extra(b'"x":"\xed\xa0\x80"'), Reason.INVALID_UTF8),
    "lone surrogate in an id": (raw("meter_id", b'"\\ud800"'), Reason.INVALID_UTF8),
    "reversed surrogates in an id": (raw("feeder_id", b'"\\udc00\\ud800"'), Reason.INVALID_UTF8),
    "lone surrogate in a timestamp": (raw("read_ts", b'"\\ud800"'), Reason.INVALID_TIMESTAMP),
    "NaN": (raw("consumption_kwh", b"NaN"), Reason.INVALID_JSON),
    "NaN in an unknown field": (with_extra(b'"x":NaN'), Reason.INVALID_JSON),
    "-Infinity": (raw("voltage_v", b"-Infinity"), Reason.INVALID_JSON),
    "leading zero": (raw("consumption_kwh", b"00.1"), Reason.INVALID_JSON),
    "leading zero in an unknown field": (with_extra(b'"x":01'), Reason.INVALID_JSON),
    "control character": (raw("meter_id", b'"M\n1"'), Reason.INVALID_JSON),
    "control character in an unknown field": (with_extra(b'"x":"\x1f"'), Reason.INVALID_JSON),
    "bad escape in an unknown field": (with_extra(b'"x":"\\x"'), Reason.INVALID_JSON),
    "two documents": (VALUE + VALUE, Reason.INVALID_JSON),
    "two documents in two lines": (VALUE + b"\n" + VALUE, Reason.INVALID_JSON),
    "half a document": (VALUE[:200], Reason.INVALID_JSON),
    "trailing garbage": (VALUE + b"x", Reason.INVALID_JSON),
    "trailing comma": (VALUE[:-1] + b",}", Reason.INVALID_JSON),
    "array": (b"[" + VALUE + b"]", Reason.NOT_AN_OBJECT),
    "null document": (b"null", Reason.NOT_AN_OBJECT),
    "JSON in a string": (json.dumps(VALUE.decode()).encode(), Reason.NOT_AN_OBJECT),
    "empty object": (b"{}", Reason.MISSING_FIELD),
    "name in another case": (VALUE.replace(b"meter_id", b"METER_ID"), Reason.MISSING_FIELD),
    "empty read type": (record(read_type=""), Reason.EMPTY_ID),
    "unknown read type": (record(read_type="MONTHLY"), Reason.UNKNOWN_READ_TYPE),
    "lower-case read type": (record(read_type="interval"), Reason.UNKNOWN_READ_TYPE),
    "number as read type": (record(read_type=1), Reason.WRONG_TYPE),
    "lower-case t": (record(interval_end="2026-03-03t12:15:00Z"), Reason.INVALID_TIMESTAMP),
    "lower-case z": (record(interval_end="2026-03-03T12:15:00z"), Reason.INVALID_TIMESTAMP),
    "space for T": (record(read_ts="2026-03-03 12:15:00Z"), Reason.INVALID_TIMESTAMP),
    "no zone": (record(interval_end="2026-03-03T12:15:00"), Reason.INVALID_TIMESTAMP),
    "zone without colon": (record(interval_end="2026-03-03T12:15:00+0100"), Reason.INVALID_TIMESTAMP),
    "7 fraction digits": (record(interval_end="2026-03-03T12:14:59.9999999Z"), Reason.INVALID_TIMESTAMP),
    "year 2101": (record(read_ts="2101-01-01T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    "year 1969": (record(interval_start="1969-12-31T23:59:59Z"), Reason.INVALID_TIMESTAMP),
    "empty timestamp": (record(read_ts=""), Reason.INVALID_TIMESTAMP),
    "impossible date": (record(read_ts="2026-02-30T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    "interval reversed": (record(interval_start="2026-03-03T12:30:00Z"), Reason.INTERVAL_REVERSED),
    "interval empty": (record(interval_start="2026-03-03T13:15:00+01:00"), Reason.INTERVAL_REVERSED),
    "interval empty and nothing consumed": (
        record(interval_start="2026-03-03T12:15:00Z", consumption_kwh=0),
        Reason.INTERVAL_REVERSED,
    ),
    "2^63 as code": (record(power_quality_code=2**63), Reason.NUMBER_OUT_OF_RANGE),
    "2^64 as code": (record(power_quality_code=2**64), Reason.NUMBER_OUT_OF_RANGE),
    "-2^63-1 as code": (record(power_quality_code=-(2**63) - 1), Reason.NUMBER_OUT_OF_RANGE),
    "1e308 as energy": (record(delivered_kwh=1e308), Reason.NUMBER_OUT_OF_RANGE),
    "10^400 as voltage": (record(voltage_v=10**400), Reason.NUMBER_OUT_OF_RANGE),
    "2^64 as energy": (record(delivered_kwh=2**64), Reason.NUMBER_OUT_OF_RANGE),
    "5,000 digits": (raw("received_kwh", b"9" * 5_000), Reason.NUMBER_OUT_OF_RANGE),
    "1e999": (raw("consumption_kwh", b"1e999"), Reason.NUMBER_OUT_OF_RANGE),
    "-1e999 as voltage": (raw("voltage_v", b"-1e999"), Reason.NUMBER_OUT_OF_RANGE),
    "1.0 as code": (raw("power_quality_code", b"1.0"), Reason.WRONG_TYPE),
    "1e0 as code": (raw("power_quality_code", b"1e0"), Reason.WRONG_TYPE),
    "true as code": (record(power_quality_code=True), Reason.WRONG_TYPE),
    "string as code": (record(power_quality_code="0"), Reason.WRONG_TYPE),
    "null as energy": (record(consumption_kwh=None), Reason.WRONG_TYPE),
    "object as energy": (record(consumption_kwh={"value": 1}), Reason.WRONG_TYPE),
    "0 as flag": (record(estimated_flag=0), Reason.WRONG_TYPE),
    "string as flag": (record(estimated_flag="false"), Reason.WRONG_TYPE),
    "null as flag": (record(estimated_flag=None), Reason.WRONG_TYPE),
    "last of duplicates is wrong": (with_extra(b'"voltage_v":"230"'), Reason.WRONG_TYPE),
    "last of duplicates is wrong by an escaped name": (with_extra(b'"meter\\u005fid":1'), Reason.WRONG_TYPE),
    "consumption too great": (record(consumption_kwh=1000.001), Reason.IMPLAUSIBLE_CONSUMPTION),
    "consumption too great for 5 minutes": (
        record(interval_start="2026-03-03T12:10:00Z", consumption_kwh=334),
        Reason.IMPLAUSIBLE_CONSUMPTION,
    ),
    "consumption of 1e308": (raw("consumption_kwh", b"1e308"), Reason.NUMBER_OUT_OF_RANGE),
    "negative without export": (record(consumption_kwh=-0.0197), Reason.IMPLAUSIBLE_CONSUMPTION),
    "negative off balance": (
        record(consumption_kwh=-0.5, delivered_kwh=0, received_kwh=0.4989),
        Reason.IMPLAUSIBLE_CONSUMPTION,
    ),
    "negative too great": (
        record(consumption_kwh=-1001, delivered_kwh=0, received_kwh=1001),
        Reason.IMPLAUSIBLE_CONSUMPTION,
    ),
}
for _name in (*IDS, *INSTANTS, "read_type", "consumption_kwh", "delivered_kwh", "received_kwh"):
    BAD[f"no {_name}"] = (without(_name), Reason.MISSING_FIELD)
for _name in ("power_quality_code", "estimated_flag"):
    BAD[f"no {_name}"] = (without(_name), Reason.MISSING_FIELD)
for _name in IDS:
    BAD[f"empty {_name}"] = (record(**{_name: ""}), Reason.EMPTY_ID)
    BAD[f"null {_name}"] = (record(**{_name: None}), Reason.WRONG_TYPE)
    BAD[f"number as {_name}"] = (record(**{_name: 7}), Reason.WRONG_TYPE)
for _name in INSTANTS:
    BAD[f"number as {_name}"] = (record(**{_name: 1772540100}), Reason.WRONG_TYPE)
for _name in NUMBERS:
    BAD[f"bool as {_name}"] = (record(**{_name: True}), Reason.WRONG_TYPE)
    BAD[f"numeric string as {_name}"] = (record(**{_name: "1.5"}), Reason.WRONG_TYPE)

GOOD: dict[str, tuple[bytes, dict[str, object]]] = {
    "plain": (VALUE, {"meter_id": "MTR-154570", "voltage_v": 242.2, "interval_end": END, "window_end": END}),
    "space around": (b" \r\n\t" + json.dumps(VALID, indent=2).encode() + b"\n", {"meter_id": "MTR-154570"}),
    "unknown fields": (with_extra(b'"x":[{"y":[1,"{"]},null,1e999],"z":"\\ud800"'), {"meter_id": "MTR-154570"}),
    "5,000 digits in an unknown field": (with_extra(b'"x":' + b"9" * 5_000), {"voltage_v": 242.2}),
    "last of duplicates": (with_extra(b'"voltage_v":231,"meter\\u005fid":"M"'), {"voltage_v": 231.0, "meter_id": "M"}),
    "last of duplicates repairs": (b'{"voltage_v":"x","meter_id":1,' + VALUE[1:], {"voltage_v": 242.2}),
    "no voltage": (without("voltage_v"), {"voltage_v": None, "voltage_rejected": False}),
    "null voltage": (record(voltage_v=None), {"voltage_v": None, "voltage_rejected": False}),
    "integers as numbers": (record(consumption_kwh=1, delivered_kwh=1, voltage_v=230), {"voltage_v": 230.0}),
    "lowest plausible voltage": (record(voltage_v=100), {"voltage_v": 100.0}),
    "highest plausible voltage": (record(voltage_v=400.0), {"voltage_v": 400.0}),
    "other scripts": (record(feeder_id="Süd-変電所-😀"), {"feeder_id": "Süd-変電所-😀"}),
    "UTF-8 as it is": (raw("feeder_id", '"Süd"'.encode()), {"feeder_id": "Süd"}),
    "greatest code": (record(power_quality_code=2**63 - 1), {"power_quality_code": 2**63 - 1}),
    "smallest code": (record(power_quality_code=-(2**63)), {"power_quality_code": -(2**63)}),
    "greatest integer energy": (record(delivered_kwh=2**63 - 1), {"delivered_kwh": 2.0**63}),
    "zones": (record(interval_start="2026-03-03T13:00:00+01:00", interval_end="2026-03-03T07:15:00-05:00"), {}),
    "fractions": (record(read_ts="2026-03-03T12:15:50.25Z"), {"read_ts": END + 50_250_000}),
    "1 µs into the next window": (
        record(interval_end="2026-03-03T12:15:00.000001Z"),
        {"interval_end": END + 1, "window_end": END + 15 * MICROS_PER_MINUTE},
    ),
    "inside a window": (record(interval_end="2026-03-03T12:07:00Z"), {"window_end": END}),
    "daily": (record(read_type="DAILY", interval_start="2026-03-02T12:15:00Z", consumption_kwh=96_000), {}),
    "greatest consumption": (record(consumption_kwh=1000), {"consumption_kwh": 1000.0}),
    "net export": (record(consumption_kwh=-0.5, delivered_kwh=0, received_kwh=0.5), {"consumption_kwh": -0.5}),
    "net export off by 0.001": (record(consumption_kwh=-0.501, delivered_kwh=0, received_kwh=0.5), {}),
    "estimated": (record(estimated_flag=True), {"estimated_flag": True}),
}


def batch_of(*values: bytes | None, record_time: int | None = RECORD_TIME) -> RecordBatch:
    count = len(values)
    return RecordBatch("ami.headend.reads", [3] * count, list(range(count)), [record_time] * count, list(values))


def decode(
    batch: RecordBatch, settings: Settings | None = None, now: int | None = None
) -> tuple[list[Read], list[DeadLetter]]:
    """The result of both paths, which must be one, with the accounting checked."""
    decoder = ReadDecoder(settings or Settings())
    reads, letters = decoder.decode_carefully(batch, now)
    encode = msgspec.msgpack.encode  # tells -0.0 from 0.0 and 1 from 1.0
    for state in ("cold", "warm"):
        columns, quick_letters = decoder.decode(batch, now)
        assert encode((columns.reads(), quick_letters)) == encode((reads, letters)), f"with a {state} cache"
    set_aside = [letter.offset for letter in letters if not letter.used]
    assert sorted(set_aside + [read.offset for read in reads]) == batch.offsets
    assert {letter.offset for letter in letters if letter.used} == {r.offset for r in reads if r.voltage_rejected}
    return reads, letters


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_sets_aside(value: bytes | None, reason: Reason) -> None:
    reads, letters = decode(batch_of(VALUE, value, VALUE))
    assert [read.offset for read in reads] == [0, 2]
    (letter,) = letters
    assert (letter.reason, letter.used, letter.value) == (reason.value, False, value)
    assert (letter.topic, letter.partition, letter.offset) == ("ami.headend.reads", 3, 1)
    assert letter.record_time == RECORD_TIME
    assert letter.detail.endswith(".")
    for name in IDS:
        assert str(VALID[name]) not in letter.detail


@pytest.mark.parametrize(("value", "expected"), GOOD.values(), ids=GOOD.keys())
def test_accepts(value: bytes, expected: dict[str, object]) -> None:
    (read,), letters = decode(batch_of(value))
    assert letters == []
    assert {name: getattr(read, name) for name in expected} == expected
    assert (read.record_time, read.partition, read.offset) == (RECORD_TIME, 3, 0)


def test_every_field_arrives_but_the_customer() -> None:
    (read,), _ = decode(batch_of(VALUE))
    expected = {**VALID, **{name: parse_instant(VALID[name]) for name in INSTANTS}}
    del expected["customer_id"]
    assert {name: getattr(read, name) for name in expected} == expected
    columns, _ = ReadDecoder(Settings()).decode(batch_of(VALUE), None)
    for kept in (read, columns):
        assert VALID["customer_id"].encode() not in msgspec.msgpack.encode(kept)


@pytest.mark.parametrize("read_type", ["INTERVAL", "DAILY", "EVENT"])
def test_the_three_read_types(read_type: str) -> None:
    (read,), _ = decode(batch_of(record(read_type=read_type)))
    assert read.read_type == read_type


@pytest.mark.parametrize(
    ("voltage", "zero"), [(0, True), (9.99, True), (10, False), (99.999, False), (400.001, False), (-5, False)]
)
def test_an_implausible_voltage_is_dropped_and_the_read_is_used(voltage: float, zero: bool) -> None:
    value = record(voltage_v=voltage)
    (read, other), (letter,) = decode(batch_of(value, VALUE))
    assert (read.voltage_v, read.voltage_rejected, read.zero_voltage) == (None, True, zero)
    assert (other.voltage_v, other.voltage_rejected, other.zero_voltage) == (242.2, False, False)
    assert (letter.reason, letter.used, letter.offset, letter.value) == ("IMPLAUSIBLE_VOLTAGE", True, 0, value)


def test_zero_voltage_where_it_is_plausible() -> None:
    (read,), letters = decode(batch_of(record(voltage_v=0)), Settings(plausible_voltage=(0.0, 400.0)))
    assert (read.voltage_v, read.voltage_rejected, read.zero_voltage, letters) == (0.0, False, True, [])


def test_a_float_beyond_plausible_is_still_a_voltage() -> None:
    (read,), (letter,) = decode(batch_of(raw("voltage_v", b"1e300")))
    assert (read.voltage_rejected, letter.used) == (True, True)


def test_no_voltage_letter_for_a_read_that_is_set_aside() -> None:
    reads, letters = decode(batch_of(record(voltage_v=0, consumption_kwh=5_000)))
    assert (reads, [letter.reason for letter in letters]) == ([], ["IMPLAUSIBLE_CONSUMPTION"])


@pytest.mark.parametrize(
    ("record_time", "reason"),
    [
        (END - MICROS_PER_DAY, None),
        (END - MICROS_PER_DAY - 1, "FUTURE_TIMESTAMP"),
        (END + MICROS_PER_DAY, None),
        (END + MICROS_PER_DAY + 1, "TOO_LATE"),
        (0, "FUTURE_TIMESTAMP"),
        (MAX_INSTANT, "TOO_LATE"),
        (None, "BAD_RECORD_TIME"),
        (-1, "BAD_RECORD_TIME"),
        (-1_000, "BAD_RECORD_TIME"),
        (MAX_INSTANT + 1, "BAD_RECORD_TIME"),
        (2**63 * 1_000, "BAD_RECORD_TIME"),
    ],
)
def test_record_time(record_time: int | None, reason: str | None) -> None:
    _, letters = decode(batch_of(VALUE, record_time=record_time))
    assert [letter.reason for letter in letters] == ([reason] if reason else [])
    for letter in letters:
        readable = record_time is not None and 0 <= record_time <= MAX_INSTANT
        assert letter.record_time == (record_time if readable else None)


def test_lateness_counts_from_the_end_of_the_window() -> None:
    value = record(interval_end="2026-03-03T12:01:00Z")
    assert decode(batch_of(value, record_time=END + MICROS_PER_DAY))[1] == []
    assert [x.reason for x in decode(batch_of(value, record_time=END + MICROS_PER_DAY + 1))[1]] == ["TOO_LATE"]


def test_left_closed_windows() -> None:
    settings = Settings(window_closed="left")
    (read,), _ = decode(batch_of(VALUE), settings)
    assert read.window_end == END + 15 * MICROS_PER_MINUTE
    late = END + 15 * MICROS_PER_MINUTE + MICROS_PER_DAY
    assert decode(batch_of(VALUE, record_time=late), settings)[1] == []
    assert decode(batch_of(VALUE, record_time=late + 1), settings)[0] == []


def test_limits_are_the_settings() -> None:
    settings = Settings(
        window=MICROS_PER_HOUR, allowed_lateness=0, future_limit=0, max_interval_kwh=1.0, plausible_voltage=(1.0, 2.0)
    )
    at_noon = record(interval_end="2026-03-03T13:00:00Z", consumption_kwh=4.0, voltage_v=1.5)
    end = parse_instant("2026-03-03T13:00:00Z")
    (read,), letters = decode(batch_of(at_noon, record_time=end), settings)
    assert (read.window_end, read.voltage_v, letters) == (end, 1.5, [])
    assert decode(batch_of(at_noon, record_time=end + 1), settings)[1][0].reason == "TOO_LATE"
    assert decode(batch_of(at_noon, record_time=end - 1), settings)[1][0].reason == "FUTURE_TIMESTAMP"
    above = record(consumption_kwh=1.01)
    assert decode(batch_of(above, record_time=END), settings)[1][0].reason == "IMPLAUSIBLE_CONSUMPTION"


def test_a_live_record_time_may_not_run_ahead_of_the_wall_clock() -> None:
    settings = Settings(live=True)
    skew = settings.clock_skew
    assert decode(batch_of(VALUE), settings, now=RECORD_TIME - skew)[1] == []
    (letter,) = decode(batch_of(VALUE), settings, now=RECORD_TIME - skew - 1)[1]
    assert (letter.reason, letter.record_time) == ("BAD_RECORD_TIME", RECORD_TIME)
    assert decode(batch_of(VALUE), Settings(), now=0)[1] == [], "a replay is not held against the wall clock"
    with pytest.raises(ValueError, match="wall clock"):
        ReadDecoder(settings).decode(batch_of(VALUE), None)


def test_content_is_judged_before_the_record_time() -> None:
    (letter,) = decode(batch_of(b"{", record_time=None))[1]
    assert letter.reason == "INVALID_JSON"


def test_every_letter_can_be_written() -> None:
    _, letters = decode(batch_of(*[value for value, _ in BAD.values()], record_time=2**80))
    assert len(letters) == len(BAD)
    assert len(msgspec.msgpack.decode(msgspec.msgpack.encode(letters), type=list[DeadLetter])) == len(BAD)
    for letter in letters:
        base64.b64encode(letter.value or b"")
        letter.detail.encode()


def test_grouping_into_batches_changes_nothing() -> None:
    values = [value for value, _ in BAD.values()] + [value for value, _ in GOOD.values()]
    together = batch_of(*values)
    reads: list[Read] = []
    letters: list[DeadLetter] = []
    for offset, value in enumerate(values):
        alone = RecordBatch(together.topic, [3], [offset], [RECORD_TIME], [value])
        more_reads, more_letters = decode(alone)
        reads += more_reads
        letters += more_letters
    assert (reads, letters) == decode(together)


def test_empty_batch_and_pickle() -> None:
    assert decode(batch_of()) == ([], [])
    settings = Settings(max_interval_kwh=0.001)
    copy = pickle.loads(pickle.dumps(ReadDecoder(settings)))
    assert copy.decode(batch_of(VALUE), None) == ReadDecoder(settings).decode(batch_of(VALUE), None)


def test_columns_of_different_lengths_are_a_bug() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        ReadDecoder(Settings()).decode(RecordBatch("t", [0], [0], [0], []), None)


def test_numbers_are_rounded_as_python_rounds_them() -> None:
    source = random.Random(7)
    texts = [
        "4.9e-324",
        "2.2250738585072014e-308",
        "1e-999",
        "0.1e-400",
        "-0.0",
        "-0",
        "1E2",
        "1e+2",
        "9007199254740991",
    ]
    texts += [repr(source.uniform(0, 900)) for _ in range(2_000)]
    texts += [f"{source.randrange(10**6)}.{source.randrange(10**25):025d}" for _ in range(2_000)]
    texts += [f"{source.randrange(10**17)}e{source.randrange(-340, -10)}" for _ in range(2_000)]
    # Half-way between two floats, and a digit beyond.
    texts += [f"{1 + k * 2**-52 + 2**-53:.53f}{digit}" for k in (0, 1, 2, 3) for digit in ("", "0001")]
    values = [raw("delivered_kwh", text.encode()) for text in texts]
    reads, letters = decode(batch_of(*values))
    assert letters == []
    assert [str(read.delivered_kwh) for read in reads] == [str(float(text) if text != "-0" else 0.0) for text in texts]


SPLIT = st.integers(0, len(VALUE))
SNIPPETS = st.sampled_from(
    [
        *(b'{ } [ ] : , " \\ \n \t \x00 \x1f \x7f \xff \xc3\xbc \xed\xa0\x80 \xef\xbb\xbf - + . e 0 1'.split(b" ")),
        *(b"null true false NaN Infinity 1e999 1e308 01 -0 -0.0 1.0 \\u0041 \\ud800 \\ud83d\\ude00".split(b" ")),
        *(b"9223372036854775807 9223372036854775808 18446744073709551616 9007199254740993".split(b" ")),
        *(b'"voltage_v":0, "voltage_v":"0", "meter_id":"", "x":{"y":[]}, {"a": }'.split(b" ")),
        *(b"z t .9999999Z .999999Z +0100 +01:00 INTERVAL DAILY".split(b" ")),
        b"9" * 5_000,
        b"[" * 300,
        VALUE,
    ]
)
MUTATIONS = st.lists(st.tuples(SPLIT, st.integers(0, 30), SNIPPETS | st.binary(max_size=3)), max_size=3)


def mutated(mutations: list[tuple[int, int, bytes]]) -> bytes:
    value = VALUE
    for position, length, replacement in mutations:
        value = value[:position] + replacement + value[position + length :]
    return value


TOKENS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["INTERVAL", "2026-03-03T12:15:00Z", "2026-03-03T12:00:00.5+01:00", [], {}, 230, 0.0])
    | st.integers(END - 2 * MICROS_PER_DAY, END + 2 * MICROS_PER_DAY).map(format_instant)
)
DOCUMENTS = st.dictionaries(st.sampled_from([*VALID, "x"]), TOKENS, max_size=3).map(lambda changes: record(**changes))
VALUES = st.none() | st.binary(max_size=30) | MUTATIONS.map(mutated) | DOCUMENTS | st.just(VALUE)
RECORD_TIMES = st.sampled_from([RECORD_TIME, None, -1, END + MICROS_PER_DAY + 1, MAX_INSTANT + 1])


@hypothesis_settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(VALUES, RECORD_TIMES), max_size=5))
def test_the_fast_path_is_the_definition(records: list[tuple[bytes | None, int | None]]) -> None:
    count = range(len(records))
    decode(RecordBatch("t", [0 for _ in count], list(count), [t for _, t in records], [v for v, _ in records]))


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.lists(MUTATIONS.map(mutated), max_size=3),
    st.integers(1, len(VALUE) - 1),
    st.sampled_from([b"", b"\n", b" ", b","]),
)
def test_records_do_not_lean_on_their_neighbours(others: list[bytes], split: int, gap: bytes) -> None:
    """A document over two records, and two documents in one with an empty next: the counts would match."""
    bad = [VALUE[:split] + gap, VALUE[split:], VALUE + gap + VALUE, gap]
    reads, letters = decode(batch_of(*others, *bad, VALUE))
    assert [letter.value for letter in letters[-len(bad) :]] == bad
    assert reads[-1].offset == len(others) + len(bad)


FRAMES = [VALUE, VALUE + b"\n", b"\n" + VALUE, VALUE + b"\n" + VALUE, VALUE[:-1], VALUE[1:], VALUE[:60], VALUE[60:],
          b"", b"{}", b"}", b"{", b"[]", VALUE + b"{", b"}" + VALUE, VALUE.replace(b"{", b'{"x": "\n",'),
          VALUE.replace(b"{", b'{"x": "a}b{c",'), VALUE.replace(b"{", b'{"x": {"y": 1},')]  # fmt: skip
"""Values that, joined by line breaks, could be taken for other records than they are."""


@given(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=8))
def test_a_record_stays_a_record_among_others(values: list[bytes]) -> None:
    decode(batch_of(*values))


def test_one_bad_record_costs_a_chunk_and_not_the_batch() -> None:
    values = [VALUE] * (3 * CHUNK)
    values[CHUNK + 1] = b"{"
    decoder = ReadDecoder(Settings())
    slow: list[int] = []
    one_by_one = decoder._sorted_out
    decoder._sorted_out = lambda batch, *more: slow.append(len(batch.values)) or one_by_one(batch, *more)  # type: ignore
    columns, letters = decoder.decode(batch_of(*values), None)
    assert (slow, len(columns), len(letters)) == ([CHUNK], 3 * CHUNK - 1, 1)
