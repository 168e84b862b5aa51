"""The JSON of the outputs, field by field, its keys, and that every dead letter can be written."""

import json
from base64 import b64decode, b64encode
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from ami_beam.alert_ids import alert_id, event_alert_id
from ami_beam.codecs import json_outputs as outputs
from ami_beam.codecs.billing_batches import (
    FLAG_LISTS,
    customer_batches,
    days_of_month,
    months_of,
    reads_of,
    validated_batch,
)
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MIN_INSTANT, parse_instant
from ami_beam.records import (
    Alarm,
    Alert,
    CustomerDay,
    CustomerMonth,
    DayHeat,
    DeadLetter,
    DeadLetterBatch,
    FeederBatch,
    FeederHeat,
    FeederRow,
    HeatBatch,
    MeterDay,
    ReceiptBatch,
    ReceiptRow,
    SilentMeter,
    SilentMeterBatch,
    SummaryBatch,
    SummaryRow,
    TransformerHeat,
    ValidatedRead,
)
from tests.billing_json import customer_json, validated_json

START, END = parse_instant("2026-03-03T10:00:00Z"), parse_instant("2026-03-03T10:15:00Z")
AS_OF = parse_instant("2026-03-03T10:15:42.125Z")
INSTANTS = st.integers(MIN_INSTANT, MAX_INSTANT)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-10, 10).map(lambda kwh: round(kwh, 6))


def to_millis(instant: int) -> int:
    return instant // MICROS_PER_MILLI * MICROS_PER_MILLI


SUMMARY = SummaryRow("T1", "F1", START, END, 1.5, 2.0, 0.5, 2, None, None, 242.2, 1, 0, 0, AS_OF, 3, 2)
RECEIPT = ReceiptRow("T1", None, START, END, 0, 3, 0.0, 0, 0.0, END, 0)
ALERT = Alert(
    "a" * 32, "EVENT", "M1", END, "LAST_GASP", 3840, "CRITICAL", "RAISED", 0, AS_OF, None, None, None,
    event_type="LAST_GASP", event_code="3840",
)  # fmt: skip
ALARM = Alarm(
    "b" * 32, "LOW_VOLTAGE", "T1", "F1", "ACTIVE", "WARNING", START, END, 198.5, 2, 3, "M7", 0, None, 1, AS_OF,
    meter_counts_version="9a",
)  # fmt: skip
MIDNIGHT, NEXT_MIDNIGHT = parse_instant("2026-03-03T00:00:00Z"), parse_instant("2026-03-04T00:00:00Z")
SILENT = SilentMeter(
    "2026-03-03", NEXT_MIDNIGHT, "M7", "T1", "F1", MIDNIGHT, 96, "LISTED", 0, NEXT_MIDNIGHT
)  # fmt: skip
FEEDER = FeederRow(
    "FEEDER", "F1", START, END, 1.5, 2.0, 0.5, 2, 3, 66.7, None, None, 242.2, 1, 2, 1, AS_OF, 3
)  # fmt: skip
LETTER = DeadLetter("NOT_JSON", "It is not JSON.", "ami.headend.reads", 3, 17, AS_OF, b"\xff{")


def test_a_summary_row() -> None:
    (key,), (value,) = astuple(outputs.summary_records(SummaryBatch([SUMMARY])))
    assert key == b"T1"
    assert json.loads(value) == {
        "transformer_id": "T1",
        "feeder_id": "F1",
        "window_start": "2026-03-03T10:00:00Z",
        "window_end": "2026-03-03T10:15:00Z",
        "total_consumption_kwh": 1.5,
        "total_delivered_kwh": 2.0,
        "total_received_kwh": 0.5,
        "meters_reported": 2,
        "avg_voltage_v": None,
        "min_voltage_v": None,
        "max_voltage_v": 242.2,
        "estimated_count": 1,
        "voltage_rejected_count": 0,
        "zero_voltage_count": 0,
        "as_of": "2026-03-03T10:15:42.125Z",
        "revision": 3,
        "sag_count": 2,
        "swell_count": 0,
        "voltage_count": 0,
        "apportioned_count": 0,
        "completeness_pct": None,
    }


def test_a_receipt_row() -> None:
    (key,), (value,) = astuple(outputs.receipt_records(ReceiptBatch([RECEIPT])))
    assert key == b"T1"
    assert json.loads(value) == {
        "transformer_id": "T1",
        "feeder_id": None,
        "window_start": "2026-03-03T10:00:00Z",
        "window_end": "2026-03-03T10:15:00Z",
        "meters_reported": 0,
        "total_meters": 3,
        "receipt_rate_pct": 0.0,
        "actual_meters_reported": 0,
        "actual_rate_pct": 0.0,
        "as_of": "2026-03-03T10:15:00Z",
        "revision": 0,
    }


def test_a_feeder_row_and_the_systems() -> None:
    system = replace(FEEDER, segment="SYSTEM", feeder_id=None)
    keys, values = astuple(outputs.feeder_records(FeederBatch([FEEDER, system])))
    assert keys == [b"F1", b"SYSTEM"]
    assert [outputs.parse_feeder(value) for value in values] == [FEEDER, system]
    assert json.loads(values[0]) == {
        "segment": "FEEDER",
        "feeder_id": "F1",
        "window_start": "2026-03-03T10:00:00Z",
        "window_end": "2026-03-03T10:15:00Z",
        "total_consumption_kwh": 1.5,
        "total_delivered_kwh": 2.0,
        "total_received_kwh": 0.5,
        "meters_reported": 2,
        "meters_expected": 3,
        "receipt_rate_pct": 66.7,
        "avg_voltage_v": None,
        "min_voltage_v": None,
        "max_voltage_v": 242.2,
        "transformers_reported": 1,
        "transformers_expected": 2,
        "transformers_in_violation": 1,
        "as_of": "2026-03-03T10:15:42.125Z",
        "revision": 3,
    }


def test_rows_of_the_heat_map() -> None:
    rows = HeatBatch(
        [TransformerHeat("T1", "F1", START, END, 230.0, 89.42, None, 102.1, "OUTSIDE", "EXTENDED", AS_OF, 1)],
        [FeederHeat("F1", START, END, 3, 85, 1, [0, 2], 0, AS_OF, 0)],
        [DayHeat("T1", "F1", "2026-03-03", 30.0, 15.0, 0.0, AS_OF, 2)],
    )
    keys, values = astuple(outputs.heat_records(rows))
    assert keys == [b"T1", b"F1", b"T1"]
    parsed = [outputs.parse_heat(value) for value in values]
    assert parsed == [*rows.transformers, *rows.feeders, *rows.days]
    transformer, feeder, day = map(json.loads, values)
    assert [each["segment"] for each in (transformer, feeder, day)] == ["TRANSFORMER", "FEEDER", "TRANSFORMER_DAY"]
    times = {"window_start": "2026-03-03T10:00:00Z", "window_end": "2026-03-03T10:15:00Z"}
    as_of = {"as_of": "2026-03-03T10:15:42.125Z"}
    assert transformer == {
        "segment": "TRANSFORMER", "transformer_id": "T1", "feeder_id": "F1", **times, "nominal_voltage_v": 230.0,
        "min_pct": 89.42, "avg_pct": None, "max_pct": 102.1, "ansi_c84_1": "OUTSIDE", "en_50160": "EXTENDED",
        **as_of, "revision": 1,
    }  # fmt: skip
    assert feeder == {
        "segment": "FEEDER", "feeder_id": "F1", **times, "reads": 3, "from_pct": 85, "below": 1, "histogram": [0, 2],
        "above": 0, **as_of, "revision": 0,
    }  # fmt: skip
    assert day == {
        "segment": "TRANSFORMER_DAY", "transformer_id": "T1", "feeder_id": "F1", "day": "2026-03-03",
        "outside_ansi_a_minutes": 30.0, "outside_ansi_b_minutes": 15.0, "outside_en_50160_minutes": 0.0, **as_of,
        "revision": 2,
    }  # fmt: skip


def test_an_alert() -> None:
    (key,), (value,) = astuple(outputs.alert_records(ALERT, "c0f1"))
    assert key == b"M1"
    assert json.loads(value) == {
        "alert_id": "a" * 32,
        "alert_source": "EVENT",
        "entity_id": "M1",
        "alert_time": "2026-03-03T10:15:00Z",
        "alert_type": "LAST_GASP",
        "detail_value": 3840,
        "severity": "CRITICAL",
        "status": "RAISED",
        "revision": 0,
        "as_of": "2026-03-03T10:15:42.125Z",
        "window_start": None,
        "window_end": None,
        "feeder_id": None,
        "explained_by": None,
        "event_type": "LAST_GASP",
        "event_code": "3840",
        "config_id": "c0f1",
        "meter_counts_version": None,
        "late": None,
    }


def test_an_alarm() -> None:
    (key,), (value,) = astuple(outputs.alarm_records(ALARM, "c0f1"))
    assert key == b"T1"
    assert json.loads(value) == {
        "alarm_id": "b" * 32,
        "alarm_type": "LOW_VOLTAGE",
        "entity_id": "T1",
        "feeder_id": "F1",
        "state": "ACTIVE",
        "severity": "WARNING",
        "first_window": "2026-03-03T10:00:00Z",
        "last_window": "2026-03-03T10:15:00Z",
        "worst_value": 198.5,
        "windows_in_violation": 2,
        "meters_in_violation": 3,
        "worst_meter_id": "M7",
        "meters_missing": 0,
        "cause": None,
        "revision": 1,
        "as_of": "2026-03-03T10:15:42.125Z",
        "config_id": "c0f1",
        "meter_counts_version": "9a",
        "began_at": None,
        "ended_at": None,
        "meters_total": None,
        "momentary": None,
    }


def test_a_silent_meter() -> None:
    (key,), (value,) = astuple(outputs.silent_meter_records(SilentMeterBatch([SILENT]), "c0f1"))
    assert key == b"M7"
    assert json.loads(value) == {
        "day": "2026-03-03",
        "window_end": "2026-03-04T00:00:00Z",
        "meter_id": "M7",
        "transformer_id": "T1",
        "feeder_id": "F1",
        "silent_since": "2026-03-03T00:00:00Z",
        "windows_missing": 96,
        "status": "LISTED",
        "revision": 0,
        "as_of": "2026-03-04T00:00:00Z",
        "config_id": "c0f1",
    }
    never = msgspec.structs.replace(SILENT, silent_since=None)
    assert outputs.parse_silent_meter(outputs.silent_meter_json(never)) == never


def test_a_dead_letter() -> None:
    (key,), (value,) = astuple(outputs.dead_letter_records(DeadLetterBatch([LETTER])))
    assert key == b"ami.headend.reads/3/17"
    assert json.loads(value) == {
        "reason": "NOT_JSON",
        "detail": "It is not JSON.",
        "topic": "ami.headend.reads",
        "partition": 3,
        "offset": 17,
        "record_time": "2026-03-03T10:15:42.125Z",
        "value_b64": b64encode(b"\xff{").decode(),
        "used": False,
    }


@pytest.mark.parametrize("row", [SUMMARY, RECEIPT, ALERT, ALARM, SILENT])
def test_no_field_of_a_row_is_forgotten(row: SummaryRow | ReceiptRow | Alert | Alarm | SilentMeter) -> None:
    encode = {
        SummaryRow: outputs.summary_json,
        ReceiptRow: outputs.receipt_json,
        Alert: outputs.alert_json,
        Alarm: outputs.alarm_json,
        SilentMeter: outputs.silent_meter_json,
    }[type(row)]
    assert tuple(json.loads(encode(row))) == row.__struct_fields__  # type: ignore[operator]


def test_rows_come_back() -> None:
    assert outputs.parse_summary(outputs.summary_json(SUMMARY)) == SUMMARY
    assert outputs.parse_receipt(outputs.receipt_json(RECEIPT)) == RECEIPT
    assert outputs.parse_alert(outputs.alert_json(ALERT)) == ALERT
    assert outputs.parse_alarm(outputs.alarm_json(ALARM)) == ALARM
    assert outputs.parse_silent_meter(outputs.silent_meter_json(SILENT)) == SILENT
    with pytest.raises(msgspec.ValidationError):
        outputs.parse_alert(outputs.summary_json(SUMMARY))


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_a_row_is_one_line_and_comes_back_whatever_its_texts(text: str, number: float) -> None:
    row = SummaryRow(text, text, START, END, number, number, number, 2, number, None, number, 1, 0, 0, AS_OF, 3)
    value = outputs.summary_json(row)
    assert b"\n" not in value
    assert outputs.parse_summary(value) == row


@given(st.lists(st.tuples(st.text(), FLOATS, INSTANTS, INSTANTS.map(to_millis)), max_size=5), st.booleans())
def test_rows_for_billing_come_back_whatever_is_in_them(
    drawn: list[tuple[str, float, int, int]], dropped: bool
) -> None:
    """They are columns, and are written together."""
    reads = [
        ValidatedRead(
            text, text, None if dropped else text, text, at, END, kwh, kwh + 1, 0.0,
            "ACTUAL" if at % 2 else "ESTIMATED", 14, at % 3 == 0, at % 5 == 0, FLAG_LISTS[at % len(FLAG_LISTS)],
            millis, at, at % 7,
        )
        for text, kwh, at, millis in drawn
    ]  # fmt: skip
    days = [
        MeterDay(text, text, 96, 95, 1, kwh, kwh, 0.0, None, 15, at, 0, 0, None, [text], at, 0)
        for text, kwh, at, _ in drawn
    ]
    batch = validated_batch(reads, days)
    assert reads_of(batch) == reads
    keys, values = astuple(outputs.validated_records(batch))
    assert [outputs.parse_validated(value) for value in values] == [*reads, *days]
    assert keys == [row.meter_id.encode() for row in [*reads, *days]]
    _says_as_much(values, list(map(validated_json, [*reads, *days])))


@given(st.lists(st.tuples(st.text(), FLOATS, INSTANTS, INSTANTS.map(to_millis)), max_size=5))
def test_rows_of_customers_come_back_whatever_is_in_them(drawn: list[tuple[str, float, int, int]]) -> None:
    months = [
        CustomerMonth(
            text, "2026-03", at, millis, kwh, 1.0, -1.5, days_of_month("2026-03")[at % 31 + 1], kwh, kwh, kwh, kwh, kwh,
            kwh, at % 9, 0, millis, 0,
        )
        for text, kwh, at, millis in drawn
    ]  # fmt: skip
    days = [CustomerDay(text, text, kwh, kwh, kwh, 96, 1, at, 2) for text, kwh, at, _ in drawn]
    batches = customer_batches(months, days)
    assert [row for batch in batches for row in months_of(batch)] == months
    records = [astuple(outputs.customer_records(batch)) for batch in batches]
    values = [value for _, each in records for value in each]
    assert [outputs.parse_customer(value) for value in values] == [*days, *months]
    assert [key for keys, _ in records for key in keys] == [row.customer_id.encode() for row in [*days, *months]]
    _says_as_much(values, list(map(customer_json, [*days, *months])))


def _says_as_much(values: list[bytes], one_by_one: list[bytes]) -> None:
    """The same fields in the same order, and the same types and values."""
    for value, expected in zip(values, one_by_one, strict=True):
        assert b"\n" not in value
        written, said = json.loads(value), json.loads(expected)
        assert [(name, type(each), each) for name, each in written.items()] == [
            (name, type(each), each) for name, each in said.items()
        ]


def test_a_summary_row_of_before_is_read() -> None:
    fields = json.loads(outputs.summary_json(SUMMARY))
    del fields["sag_count"], fields["swell_count"]
    assert outputs.parse_summary(json.dumps(fields)) == msgspec.structs.replace(SUMMARY, sag_count=0)


def test_a_tombstone_and_an_empty_value_differ() -> None:
    for value, expected in ((None, None), (b"", "")):
        letter = msgspec.structs.replace(LETTER, value=value, record_time=None)
        fields = json.loads(outputs.dead_letter_json(letter))
        assert (fields["value_b64"], fields["record_time"]) == (expected, None)


def test_a_value_too_large_for_kafka_is_truncated_with_size_and_digest() -> None:
    whole = bytes(range(256)) * 40_000
    fields = json.loads(written := outputs.dead_letter_json(msgspec.structs.replace(LETTER, value=whole, used=True)))
    assert b64decode(fields["value_b64"]) == whole[: outputs.MAX_LETTER_BYTES]
    assert (fields["value_size"], fields["value_sha256"]) == (len(whole), sha256(whole).hexdigest())
    assert len(written) < 1_000_000
    assert fields["used"] is True
    largest = whole[: outputs.MAX_LETTER_BYTES]
    fields = json.loads(outputs.dead_letter_json(msgspec.structs.replace(LETTER, value=largest)))
    assert b64decode(fields["value_b64"]) == largest
    assert "value_size" not in fields


@given(
    st.text(st.characters(codec=None, categories=None)),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.binary()),
)
def test_every_letter_can_be_written(detail: str, record_time: int | None, value: bytes | None) -> None:
    written = outputs.dead_letter_json(
        msgspec.structs.replace(LETTER, detail=detail + "\ud800", record_time=record_time, value=value)
    )
    fields = json.loads(written)
    assert fields["value_b64"] == (None if value is None else b64encode(value).decode())


def test_alert_ids_are_the_same_in_every_run_and_different_for_different_alerts() -> None:
    assert alert_id("COMM", "LOW_RECEIPT_RATE", "T1", END) == "15fd9e99719b55b5b056335860733843"
    others = [
        ("COMM", "LOW_RECEIPT_RATE", "T1", END + 1),
        ("COMM", "LOW_RECEIPT_RATE", "T2", END),
        ("COMM", "LOW_RECEIPT_RAT", "ET1", END),
        ("COMM", 'LOW","X', "T1", END),
        ("COMM", "LOW", 'X","T1', END),
        ("VOLTAGE", "LOW_RECEIPT_RATE", "T1", END),
    ]
    ids = {alert_id(*other) for other in others} | {event_alert_id("T1", 3840, END), event_alert_id("T1", 3841, END)}
    assert len(ids) == 8
    assert all(len(identity) == 32 for identity in ids)
