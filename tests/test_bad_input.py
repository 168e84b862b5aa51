"""Bad records between good ones, through the whole pipeline: none stops it, each gets its reason, good ones count."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
from typing import Any, NamedTuple

import apache_beam as beam
import pytest
from apache_beam.testing.test_stream import TestStream as Stream  # as TestStream pytest would collect it
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MAX_INSTANT, MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_SECOND
from ami_beam.records import MeterCount, RecordBatch
from ami_beam.settings import Settings
from tests.replays import EVENTS_TOPIC, READS_TOPIC, Replay, replay
from tests.stream import Published, at, read_json, run_pipeline

ARRIVAL = at("10:16")
MEGABYTES_10 = 10 * 1024 * 1024
READ = read_json()
NESTED_ARRAYS = b"[" * (MEGABYTES_10 // 2) + b"]" * (MEGABYTES_10 // 2)


def swapped(old: bytes, new: bytes, value: bytes = READ) -> bytes:
    assert value.count(old) == 1
    return value.replace(old, new)


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(READ).items() if key != name}).encode()


class Bad(NamedTuple):
    name: str
    value: bytes | None
    reason: Reason
    record_time: int | None = ARRIVAL


BAD_READS = [
    Bad("a tombstone", None, Reason.NULL_VALUE),
    Bad("no bytes", b"", Reason.EMPTY_VALUE),
    Bad("no text", b"\xff\xfe\x00\x01", Reason.INVALID_UTF8),
    Bad("Latin-1 in a field that nobody reads", swapped(b"{", b'{"note": "caf\xe9", '), Reason.INVALID_UTF8),
    Bad("half a surrogate pair in an id", swapped(b'"M1"', b'"M\\ud800"'), Reason.INVALID_UTF8),
    Bad("UTF-16", READ.decode().encode("utf-16"), Reason.INVALID_UTF8),
    Bad("a byte order mark", b"\xef\xbb\xbf" + READ, Reason.INVALID_JSON),
    Bad("cut off", READ[:100], Reason.INVALID_JSON),
    Bad("only a blank", b" ", Reason.INVALID_JSON),
    Bad("two documents", READ + READ, Reason.INVALID_JSON),
    Bad("two documents on two lines", READ + b"\n" + READ, Reason.INVALID_JSON),
    Bad("a zero byte after the document", READ + b"\0", Reason.INVALID_JSON),
    Bad("a trailing comma", READ[:-1] + b",}", Reason.INVALID_JSON),
    Bad("single quotes", READ.replace(b'"', b"'"), Reason.INVALID_JSON),
    Bad("NaN", swapped(b"230.0", b"NaN"), Reason.INVALID_JSON),
    Bad("-Infinity", swapped(b"230.0", b"-Infinity"), Reason.INVALID_JSON),
    Bad("a number with a leading zero", swapped(b"230.0", b"0230.0"), Reason.INVALID_JSON),
    Bad("10 MB of nested arrays", NESTED_ARRAYS, Reason.INVALID_JSON),
    Bad("10 MB of arrays never closed", b"[" * MEGABYTES_10, Reason.INVALID_JSON),
    Bad("10 MB of a string never closed", b'{"meter_id": "' + b"x" * MEGABYTES_10, Reason.INVALID_JSON),
    Bad("1,000 objects in a field that nobody reads",
        swapped(b"{", b'{"note": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b", "), Reason.INVALID_JSON),
    Bad("an array", b"[" + READ + b"]", Reason.NOT_AN_OBJECT),
    Bad("null", b"null", Reason.NOT_AN_OBJECT),
    Bad("a text that holds the object", json.dumps(READ.decode()).encode(), Reason.NOT_AN_OBJECT),
    Bad("no meter_id", without("meter_id"), Reason.MISSING_FIELD),
    Bad("no read_ts", without("read_ts"), Reason.MISSING_FIELD),
    Bad("an empty object", b"{}", Reason.MISSING_FIELD),
    Bad("null for an energy", read_json(received_kwh=None), Reason.WRONG_TYPE),
    Bad("a number in quotes", read_json(consumption_kwh="1.0"), Reason.WRONG_TYPE),
    Bad("true for a number", read_json(delivered_kwh=True), Reason.WRONG_TYPE),
    Bad("a fraction for an integer", read_json(power_quality_code=1.0), Reason.WRONG_TYPE),
    Bad("1 for true", read_json(estimated_flag=1), Reason.WRONG_TYPE),
    Bad("a number for an id", read_json(meter_id=17), Reason.WRONG_TYPE),
    Bad("a number for a time", read_json(read_ts=1772532910), Reason.WRONG_TYPE),
    Bad("an object for a voltage", read_json(voltage_v={"value": 230}), Reason.WRONG_TYPE),
    Bad("an empty id", read_json(transformer_id=""), Reason.EMPTY_ID),
    Bad("an unknown read type", read_json(read_type="HOURLY"), Reason.UNKNOWN_READ_TYPE),
    Bad("a read type in lower case", read_json(read_type="interval"), Reason.UNKNOWN_READ_TYPE),
    Bad("a time without a zone", read_json(interval_end="2026-03-03T10:15:00"), Reason.INVALID_TIMESTAMP),
    Bad("a blank instead of the T", read_json(interval_end="2026-03-03 10:15:00Z"), Reason.INVALID_TIMESTAMP),
    Bad("7 fraction digits", read_json(read_ts="2026-03-03T10:15:00.1234567Z"), Reason.INVALID_TIMESTAMP),
    Bad("30 February", read_json(interval_start="2026-02-30T10:00:00Z"), Reason.INVALID_TIMESTAMP),
    Bad("the year 2101", read_json(interval_end="2101-01-01T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    Bad("an interval that ends before it starts", read_json(minutes=-15), Reason.INTERVAL_REVERSED),
    Bad("an interval without length", read_json(minutes=0), Reason.INTERVAL_REVERSED),
    Bad("2^63", read_json(power_quality_code=2**63), Reason.NUMBER_OUT_OF_RANGE),
    Bad("an energy beyond a float", swapped(b"230.0", b"1e999"), Reason.NUMBER_OUT_OF_RANGE),
    Bad("an integer of 100,000 digits", swapped(b'"power_quality_code": 0', b'"power_quality_code": ' + b"9" * 100_000),
        Reason.NUMBER_OUT_OF_RANGE),
    Bad("1001 kWh in 15 minutes", read_json(consumption_kwh=1001, delivered_kwh=1001), Reason.IMPLAUSIBLE_CONSUMPTION),
    Bad("negative, and no net meter", read_json(consumption_kwh=-1.0), Reason.IMPLAUSIBLE_CONSUMPTION),
    Bad("an interval that ends in two days", read_json(end="10:15", interval_end="2026-03-05T10:15:00Z"),
        Reason.FUTURE_TIMESTAMP),
    Bad("a read of two days ago", READ, Reason.TOO_LATE, ARRIVAL + 48 * MICROS_PER_HOUR),
    Bad("no record time", READ, Reason.BAD_RECORD_TIME, None),
    Bad("a record time after 2100", READ, Reason.BAD_RECORD_TIME, MAX_INSTANT + MICROS_PER_SECOND),
]  # fmt: skip


def event_json(**fields: Any) -> bytes:
    row = {"meter_id": "M1", "event_code": 2048, "event_desc": "TAMPER", "event_ts": "2026-03-03T10:14:00Z", **fields}
    return json.dumps(row).encode()


BAD_EVENTS = [
    Bad("a tombstone", None, Reason.NULL_VALUE),
    Bad("no bytes", b"", Reason.EMPTY_VALUE),
    Bad("10 MB of nested arrays", NESTED_ARRAYS, Reason.INVALID_JSON),
    Bad("no time", b'{"meter_id": "M1", "event_code": 2048}', Reason.MISSING_FIELD),
    Bad("a code in quotes", event_json(event_code="2048"), Reason.WRONG_TYPE),
    Bad("a number for a description", event_json(event_desc=7), Reason.WRONG_TYPE),
    Bad("a code beyond 64 bits", event_json(event_code=2**64), Reason.NUMBER_OUT_OF_RANGE),
    Bad("an empty id", event_json(meter_id=""), Reason.EMPTY_ID),
    Bad("a time without a zone", event_json(event_ts="2026-03-03T10:14:00"), Reason.INVALID_TIMESTAMP),
    Bad("an array", b"[]", Reason.NOT_AN_OBJECT),
]


def good_read(number: int) -> bytes:
    return read_json(meter_id=f"GOOD-{number}", customer_id=f"SECRET-{number}")


def good_event(number: int) -> bytes:
    return event_json(meter_id=f"GOOD-{number}")


def records(bad: list[Bad], good: Any) -> list[tuple[int | None, bytes | None]]:
    """(record time, value): a good record before, between and after the bad ones. Bad ones have odd offsets."""
    rows: list[tuple[int | None, bytes | None]] = [(ARRIVAL, good(0))]
    for number, kind in enumerate(bad, start=1):
        rows += [(kind.record_time, kind.value), (ARRIVAL, good(number))]
    return rows


def batch(topic: str, first: int, rows: list[tuple[int | None, bytes | None]]) -> RecordBatch:
    times, values = [time for time, _ in rows], [value for _, value in rows]
    return RecordBatch(topic, [0] * len(rows), list(range(first, first + len(rows))), times, values)


READ_RECORDS = records(BAD_READS, good_read)
EVENT_RECORDS = records(BAD_EVENTS, good_event)
COUNTS = [MeterCount("T1", len(BAD_READS) + 1)]


def test_there_are_enough_kinds_and_every_reason_is_among_them():
    assert len(BAD_READS) >= 25
    # UNKNOWN_WORD is of announced outages and of work; the reasons of Avro are in test_avro_inputs, those of changes in
    # test_debezium.
    others = {Reason.IMPLAUSIBLE_VOLTAGE, Reason.UNKNOWN_WORD, Reason.INVALID_AVRO, Reason.AVRO_UNKNOWN_SCHEMA}
    others |= {Reason.ROW_DELETED, Reason.TABLE_TRUNCATED, Reason.NOT_A_CHANGE}
    assert {kind.reason for kind in BAD_READS} == set(Reason) - others
    assert len({kind.name for kind in BAD_READS}) == len(BAD_READS)


def check(published: Published) -> None:
    letters = {(letter.topic, letter.offset): letter for letter in published.dead_letters}
    assert len(letters) == len(published.dead_letters) == len(BAD_READS) + len(BAD_EVENTS)
    for topic, kinds in ((READS_TOPIC, BAD_READS), (EVENTS_TOPIC, BAD_EVENTS)):
        for number, kind in enumerate(kinds):
            letter = letters[topic, 2 * number + 1]
            assert letter.reason == kind.reason, kind.name
            assert (letter.value, letter.used) == (kind.value, False), kind.name
    (row,) = published.summary("10:15")
    assert row.meters_reported == len(BAD_READS) + 1
    assert {row.receipt_rate_pct for row in published.receipt("10:15")} <= {100.0}
    events = [alert for alert in published.alerts if alert.alert_source == "EVENT"]
    assert {alert.entity_id for alert in events} == {f"GOOD-{number}" for number in range(len(BAD_EVENTS) + 1)}
    assert len(events) == len(published.alerts)


def test_in_one_batch():
    reads = beam.Create([batch(READS_TOPIC, 0, READ_RECORDS)], reshuffle=False).with_output_types(RecordBatch)
    events = beam.Create([batch(EVENTS_TOPIC, 0, EVENT_RECORDS)], reshuffle=False).with_output_types(RecordBatch)
    check(run_pipeline(reads, COUNTS, Settings(shards=7), runner="FnApiRunner", events=events))


def test_one_by_one_in_a_stream():
    stream = Stream(coder=MsgspecCoder(RecordBatch)).advance_watermark_to(Timestamp(micros=ARRIVAL))
    for offset, record in enumerate(READ_RECORDS):
        stream.add_elements([TimestampedValue(batch(READS_TOPIC, offset, [record]), Timestamp(micros=ARRIVAL))])
    stream.advance_watermark_to(Timestamp(micros=at("10:21")))
    events = beam.Create([batch(EVENTS_TOPIC, 0, EVENT_RECORDS)], reshuffle=False).with_output_types(RecordBatch)
    check(run_pipeline(stream.advance_watermark_to_infinity(), COUNTS, Settings(shards=7), events=events))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """The same records through `python -m ami_beam.run`, with two reads of implausible voltage at the end."""
    folder = tmp_path_factory.mktemp("bad-input")
    zero_volts = [(ARRIVAL, read_json(meter_id="ZERO", voltage_v=0.0)), (ARRIVAL, read_json(voltage_v=1e300))]
    for name, rows in (("reads", READ_RECORDS + zero_volts), ("events", EVENT_RECORDS)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", compresslevel=1) as file:
            for time, value in rows:
                encoded = None if value is None else base64.b64encode(value).decode()
                line = {"ts_ms": -1 if time is None else time // MICROS_PER_MILLI, "key": None, "value_b64": encoded}
                file.write(json.dumps(line) + "\n")
    with (folder / "counts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("transformer_id", "total_meters"), ("T1", 100)])
    return replay(
        reads=folder / "reads.jsonl.gz", events=folder / "events.jsonl.gz", meter_counts=folder / "counts.csv"
    )


class TestReplay:
    def test_accepted_and_set_aside_are_all(self, replayed):
        counters, set_aside = replayed.counters(), replayed.set_aside()
        assert counters["accepted_reads"] == len(BAD_READS) + 3
        assert set_aside == {READS_TOPIC: len(BAD_READS), EVENTS_TOPIC: len(BAD_EVENTS)}
        assert counters["accepted_events"] == len(BAD_EVENTS) + 1

    def test_each_letter_has_its_reason_and_says_no_id(self, replayed):
        letters = {(row["topic"], row["offset"]): row for row in replayed.rows("ami.deadletter") if not row["used"]}
        for topic, kinds in ((READS_TOPIC, BAD_READS), (EVENTS_TOPIC, BAD_EVENTS)):
            for number, kind in enumerate(kinds):
                letter = letters[topic, 2 * number + 1]
                assert letter["reason"] == kind.reason, kind.name
                assert letter["detail"].endswith(".")
                assert not any(name in letter["detail"] for name in ("M1", "C1", "SECRET")), kind.name

    def test_a_read_without_a_plausible_voltage_counts_and_is_copied(self, replayed):
        used = [row for row in replayed.rows("ami.deadletter") if row["used"]]
        assert [row["reason"] for row in used] == ["IMPLAUSIBLE_VOLTAGE"] * 2
        (summary,) = replayed.rows("ami.transformer.summary")
        assert (summary["meters_reported"], summary["voltage_rejected_count"]) == (len(BAD_READS) + 3, 2)
        assert (summary["zero_voltage_count"], summary["min_voltage_v"]) == (1, 230.0)

    def test_a_letter_of_more_than_512_kib_is_cut_and_describes_the_whole(self, replayed):
        large = [kind for kind in BAD_READS + BAD_EVENTS if kind.value and len(kind.value) > 512 * 1024]
        assert len(large) == 4
        cut = [row for row in replayed.rows("ami.deadletter") if "value_size" in row]
        assert sorted((row["value_size"], row["value_sha256"]) for row in cut) == sorted(
            (len(kind.value or b""), hashlib.sha256(kind.value or b"").hexdigest()) for kind in large
        )
        beginnings = {(kind.value or b"")[: 512 * 1024] for kind in large}
        assert {base64.b64decode(row["value_b64"]) for row in cut} == beginnings
        # a Kafka broker takes records of up to 1 MiB
        assert max(len(line) for line in replayed.lines("ami.deadletter")) < 1024 * 1024

    def test_smaller_letters_hold_the_original_bytes(self, replayed):
        letters = {row["offset"]: row for row in replayed.rows("ami.deadletter") if row["topic"] == READS_TOPIC}
        for number, kind in enumerate(BAD_READS):
            letter = letters[2 * number + 1]
            if kind.value is None:
                assert letter["value_b64"] is None
            elif len(kind.value) <= 512 * 1024:
                assert base64.b64decode(letter["value_b64"]) == kind.value
                assert "value_size" not in letter
