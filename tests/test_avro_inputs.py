"""Reads and events in Avro are held against the same rules as in JSON, whoever wrote them and however."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import fastavro
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ami_beam.codecs.avro_events import AvroEventDecoder
from ami_beam.codecs.avro_reads import AvroReadDecoder
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.writer_schemas import KnownSchemas, head
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MINUTE, format_instant
from ami_beam.records import DeadLetter, RecordBatch
from ami_beam.schemas import schema_text
from ami_beam.settings import Settings

END = 1_772_496_900_000_000
ARRIVAL = END + MICROS_PER_MINUTE
READ = {
    "meter_id": "M1",
    "service_point_id": "S1",
    "customer_id": "C1",
    "transformer_id": "T1",
    "feeder_id": "F1",
    "read_type": "INTERVAL",
    "interval_start": END - 15 * MICROS_PER_MINUTE,
    "interval_end": END,
    "consumption_kwh": 0.25,
    "delivered_kwh": 0.25,
    "received_kwh": 0.0,
    "voltage_v": 231.5,
    "power_quality_code": 0,
    "estimated_flag": False,
    "read_ts": END + 1,
}
EVENT = {"meter_id": "M1", "event_code": 3840, "event_ts": END, "event_desc": "LAST_GASP"}
TIMES = ("interval_start", "interval_end", "read_ts", "event_ts")
OURS = json.loads(schema_text("ami.headend.reads-value"))
EVENTS = json.loads(schema_text("ami.headend.events-value"))


def changed(schema: Mapping[str, Any], **types: Any) -> dict[str, Any]:
    """The schema with other types of some fields; without those whose type is None."""
    fields = [{"name": field["name"], "type": types.get(field["name"], field["type"])} for field in schema["fields"]]
    return {"type": "record", "name": "Other", "fields": [field for field in fields if field["type"] is not None]}


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
OTHERS: dict[str, dict[str, Any]] = {
    "ours": OURS,
    "times in milliseconds": changed(OURS, **dict.fromkeys(TIMES, MILLIS)),
    "times as texts": changed(OURS, **dict.fromkeys(TIMES, "string")),
    "without a voltage": changed(OURS, voltage_v=None),
    "a voltage that is never null": changed(OURS, voltage_v="float"),
    "everything may be null": changed(
        OURS, **{f["name"]: ["null", f["type"]] for f in OURS["fields"] if f["name"] != "voltage_v"}
    ),
    "null last": changed(OURS, voltage_v=["double", "null"]),
    "fields in another order": {**OURS, "fields": OURS["fields"][::-1]},
    "smaller types": changed(OURS, power_quality_code="int", consumption_kwh="float", received_kwh="int"),
    "words": changed(OURS, read_type={"type": "enum", "name": "T", "symbols": ["DAILY", "INTERVAL", "EVENT"]}),
    "plain extra fields": {
        **OURS,
        "fields": [{"name": "site", "type": ["null", "string"]}, *OURS["fields"], {"name": "seq", "type": "long"}],
    },
    "nested extra fields": {
        **OURS,
        "fields": [
            {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "string"}}},
            *OURS["fields"],
        ],
    },
}
EXTRA = {"site": "somewhere", "seq": 7, "tags": {"a": ["b"]}}
NUMBERS = {name: place for place, name in enumerate(OTHERS, 1)}
SCHEMAS = KnownSchemas(
    {NUMBERS[name]: json.dumps(schema) for name, schema in OTHERS.items()} | {99: json.dumps(EVENTS)}
)


def avro(fields: Mapping[str, Any], schema: Mapping[str, Any], number: int) -> bytes:
    """As a producer writes it, who knows fastavro and none of our code."""
    types = {field["name"]: field["type"] for field in schema["fields"]}
    row = dict(fields)
    for name in TIMES:
        kind = types.get(name)
        if name not in row or row[name] is None:
            continue
        if kind == "string":
            row[name] = format_instant(row[name])
        elif kind == MILLIS:
            row[name] //= 1_000
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), row)
    return head(number) + stream.getvalue()


def as_json(fields: Mapping[str, Any]) -> bytes:
    texts = {
        name: format_instant(value) if name in TIMES and type(value) is int else value for name, value in fields.items()
    }
    return json.dumps(texts).encode()


def batch(values: list[bytes | None], times: list[int | None] | None = None) -> RecordBatch:
    count = len(values)
    return RecordBatch("topic", [0] * count, list(range(count)), times or [ARRIVAL] * count, values)


def reasons(letters: list[DeadLetter]) -> list[tuple[int, str, bool]]:
    return [(letter.offset, letter.reason, letter.used) for letter in letters]


DECODER, JSON = AvroReadDecoder(Settings(), SCHEMAS, keep_customers=True), ReadDecoder(Settings(), keep_customers=True)


@pytest.mark.parametrize("name", OTHERS)
def test_a_read_is_the_same_whatever_schema_wrote_it(name: str) -> None:
    fields = READ | {"interval_start": END - 15 * MICROS_PER_MINUTE, "read_ts": END + 1_000}
    if name == "without a voltage":
        del fields["voltage_v"]
    rows = [fields | {"meter_id": f"M{number}-é" if number % 2 else f"M{number}"} for number in range(7)]
    found, letters = DECODER.decode(batch([avro(row | EXTRA, OTHERS[name], NUMBERS[name]) for row in rows]), None)
    assert (found.reads(), letters) == (JSON.decode(batch([as_json(row) for row in rows]), None)[0].reads(), [])
    assert [read.meter_id for read in found.reads()] == [row["meter_id"] for row in rows]


@pytest.mark.parametrize("name", OTHERS)
def test_plain_schemas_are_decoded_as_columns(name: str) -> None:
    """What is not is right as well, at a few times the cost."""
    fields = {key: value for key, value in READ.items() if name != "without a voltage" or key != "voltage_v"}
    made = batch([avro(fields | EXTRA, OTHERS[name], NUMBERS[name])] * 3)
    plain = name not in ("words", "nested extra fields")
    assert (DECODER._clean_columns(made, MAX_INSTANT) is not None) is plain


_NUMBER = st.floats() | st.sampled_from([0.0, -0.5, 0.25, 1e9, 2.0**53, -(2.0**63), 250.0, 5.0])
_INSTANT = st.integers(END - 10**12, END + 10**12) | st.integers(-(2**63), 2**63 - 1) | st.just(END)
_ID = st.sampled_from(["", "M1", "MTR-é", "x" * 200])
READS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id"), _ID),
        "read_type": st.sampled_from(["INTERVAL", "DAILY", "EVENT", "interval", ""]),
        **dict.fromkeys(TIMES[:3], _INSTANT),
        **dict.fromkeys(("consumption_kwh", "delivered_kwh", "received_kwh"), _NUMBER),
        "voltage_v": st.none() | _NUMBER,
        "power_quality_code": st.integers(-(2**63), 2**63 - 1),
        "estimated_flag": st.booleans(),
    },
)
RECORDS = st.lists(
    st.tuples(READS, st.sampled_from([ARRIVAL, ARRIVAL, END + 10**12, None, -5, 2**62])), min_size=1, max_size=8
)


@given(records=RECORDS, live=st.booleans())
@settings(max_examples=300)
def test_the_same_rules_hold_as_for_json(records: list[tuple[dict[str, Any], int | None]], live: bool) -> None:
    rows, times = [READ | change for change, _ in records], [time for _, time in records]
    rules = Settings(live=live)
    made = batch([avro(row, OURS, 1) for row in rows], times)
    decoder = AvroReadDecoder(rules, SCHEMAS)
    found, letters = decoder.decode(made, ARRIVAL)
    assert (found.reads(), letters) == decoder.decode_carefully(made, ARRIVAL)
    # JSON says instants as texts, which cannot say all that Avro's numbers can, and has no NaN.
    sayable = [
        all(0 <= row[name] <= MAX_INSTANT for name in TIMES[:3])
        and all(
            row[name] is None or math.isfinite(row[name])
            for name in ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")
        )
        for row in rows
    ]
    said = [place for place, yes in enumerate(sayable) if yes]
    texts = batch([as_json(row) if yes else b"" for row, yes in zip(rows, sayable, strict=True)], times)
    expected, json_letters = ReadDecoder(rules).decode(texts, ARRIVAL)
    assert [read for read in found.reads() if read.offset in said] == expected.reads()
    assert [each for each in reasons(letters) if each[0] in said] == [
        each for each in reasons(json_letters) if each[0] in said
    ]
    for letter in letters:
        assert letter.value == made.values[letter.offset]
        if letter.offset not in said:
            assert letter.reason in ("INVALID_TIMESTAMP", "NUMBER_OUT_OF_RANGE", "EMPTY_ID", "UNKNOWN_READ_TYPE")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NULL_VALUE"),
        (b"", "EMPTY_VALUE"),
        (as_json(READ), "INVALID_AVRO"),
        (b"\0\0\0", "INVALID_AVRO"),
        (b"\0\0\0\0\1", "INVALID_AVRO"),
        (avro(READ, OURS, 1)[:-1], "INVALID_AVRO"),
        (avro(READ, OURS, 1) + b"\0", "INVALID_AVRO"),
        (avro(READ, OURS, 7_000), "AVRO_UNKNOWN_SCHEMA"),
        (avro(READ, OURS, 1).replace(b"M1", b"M\xff"), "INVALID_UTF8"),
        (avro(EVENT, EVENTS, 99), "MISSING_FIELD"),
    ],
)
def test_what_is_no_record_is_a_dead_letter_with_its_bytes(value: bytes | None, reason: str) -> None:
    good = avro(READ, OURS, 1)
    found, letters = DECODER.decode(batch([good, value, good]), None)
    assert [read.offset for read in found.reads()] == [0, 2]
    assert [(letter.reason, letter.value, letter.used) for letter in letters] == [(reason, value, False)]
    _, letters = AvroEventDecoder(Settings(), SCHEMAS).decode(batch([value]), None)
    assert (reason == "MISSING_FIELD") == (not letters)


@given(
    values=st.lists(
        st.binary(max_size=60).map(lambda tail: head(1) + tail) | st.binary(max_size=40), min_size=1, max_size=5
    )
)
@example(values=[head(1) + b"\xff" * 30])
@example(values=[head(NUMBERS["nested extra fields"]) + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 3])
@settings(max_examples=400)
def test_bytes_of_any_kind_are_reads_or_dead_letters(values: list[bytes | None]) -> None:
    made = batch([*values, avro(READ, OURS, 1)])
    for decoder in (DECODER, AvroEventDecoder(Settings(), SCHEMAS)):
        found, letters = decoder.decode(made, None)
        assert len(found) + sum(not letter.used for letter in letters) == len(made.values)
    found, letters = DECODER.decode(made, None)
    assert (found.reads(), letters) == DECODER.decode_carefully(made, None)
    assert found.reads()[-1].offset == len(values)


@given(place=st.integers(5, 200), octet=st.integers(0, 255), name=st.sampled_from(list(OTHERS)))
@settings(max_examples=400)
def test_a_flipped_byte_is_judged_as_by_definition(place: int, octet: int, name: str) -> None:
    fields = {key: value for key, value in READ.items() if name != "without a voltage" or key != "voltage_v"}
    value = bytearray(avro(fields | EXTRA, OTHERS[name], NUMBERS[name]))
    value[5 + place % (len(value) - 5)] = octet
    made = batch([bytes(value)] * 2)
    found, letters = DECODER.decode(made, None)
    assert (found.reads(), letters) == DECODER.decode_carefully(made, None)


EVENT_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "meter_id": _ID,
        "event_code": st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["x", ""]),
        "event_ts": st.integers(0, MAX_INSTANT),
        "event_desc": st.none() | st.just("é"),
    },
)


@given(change=EVENT_CHANGES, time=st.sampled_from([ARRIVAL, None, -5]))
@settings(max_examples=100)
def test_events_are_judged_as_in_json(change: dict[str, Any], time: int | None) -> None:
    row = EVENT | change
    found, letters = AvroEventDecoder(Settings(), SCHEMAS).decode(batch([avro(row, EVENTS, 99)], [time]), None)
    expected, expected_letters = EventDecoder(Settings()).decode(batch([as_json(row)], [time]), None)
    assert (found, reasons(letters)) == (expected, reasons(expected_letters))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]},
        {"type": "record", "name": "R", "fields": [{"name": "many", "type": {"type": "array", "items": "null"}}]},
        {"type": "array", "items": "string"},
        "no schema",
        {"type": "record", "name": "R", "fields": [{"name": "deep", "type": "unknown"}]},
    ],
)
def test_a_schema_that_a_few_bytes_could_make_endless_is_refused(schema: Any) -> None:
    # Of the second one these bytes say that 2**62 nulls follow.
    value = head(5) + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    decoder = AvroReadDecoder(Settings(), KnownSchemas({5: json.dumps(schema)}))
    _, letters = decoder.decode(batch([value]), None)
    assert [letter.reason for letter in letters] == ["INVALID_AVRO"]


class NobodyAnswers:
    """A registry that is away."""

    def schema(self, number: int) -> Any:
        raise ConnectionError("nobody answers")

    def close(self) -> None:
        pass


def test_records_are_no_dead_letters_because_nobody_knows_their_schema_now() -> None:
    value = avro(READ, OURS, 1)
    for decoder in (AvroReadDecoder(Settings(), NobodyAnswers()), AvroEventDecoder(Settings(), NobodyAnswers())):
        with pytest.raises(ConnectionError):
            decoder.decode(batch([value]), None)
