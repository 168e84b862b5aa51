"""Result rows as the JSON that goes to Kafka and to files, with their partition keys; and back, for tests and tools.

Instants are RFC 3339 text in UTC; every other field is as in `records`. One row is one line: no value holds a newline.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ami_beam.codecs.billing_batches import (
    FLAG_LISTS,
    QUALITIES,
    days_of_month,
    month_numbers,
    months_of,
    read_numbers,
    reads_of,
)
from ami_beam.codecs.json_columns import always, chosen, floats, instants, integers, json_rows, texts
from ami_beam.instants import MAX_INSTANT, MIN_INSTANT, format_instant, parse_instant
from ami_beam.records import (
    Alarm,
    Alert,
    CustomerBatch,
    CustomerDay,
    CustomerMonth,
    DayHeat,
    DeadLetter,
    DeadLetterBatch,
    FeederBatch,
    FeederHeat,
    FeederRow,
    HeatBatch,
    KeyedRecords,
    MeterDay,
    ReceiptBatch,
    ReceiptRow,
    SilentMeter,
    SilentMeterBatch,
    SummaryBatch,
    SummaryRow,
    TransformerHeat,
    ValidatedBatch,
    ValidatedRead,
)

SUMMARY_TOPIC = "ami.transformer.summary"
RECEIPT_TOPIC = "ami.transformer.receipt"
GRID_ALERTS_TOPIC = "ami.alerts.grid"
EVENT_ALERTS_TOPIC = "ami.alerts.events"
ALARMS_TOPIC = "ami.alarms"
SILENT_METERS_TOPIC = "ami.meters.silent"
DEAD_LETTER_TOPIC = "ami.deadletter"
CONFIG_TOPIC = "ami.config"
OUTPUT_TOPICS = (
    SUMMARY_TOPIC,
    RECEIPT_TOPIC,
    GRID_ALERTS_TOPIC,
    EVENT_ALERTS_TOPIC,
    ALARMS_TOPIC,
    SILENT_METERS_TOPIC,
    DEAD_LETTER_TOPIC,
)
"""What the pipeline always writes."""
RESULT_TOPICS = (*OUTPUT_TOPICS, CONFIG_TOPIC)
"""All topics that must be there: what a run's rules are is written once, at its start."""

MAX_LETTER_BYTES = 512 * 1024
"""How much of a dead letter's original bytes is kept: base64 makes it a third longer, and a broker takes 1 MiB."""

INSTANTS = {"window_start", "window_end", "as_of", "alert_time", "first_window", "last_window", "began_at", "ended_at"}
INSTANTS |= {"silent_since", "interval_start", "interval_end", "read_ts", "first_gap", "first_spike"}
"""Fields of rows that are instants: microseconds in records, text in JSON. Of dead letters record_time is one, too."""
_encode = msgspec.json.Encoder().encode
Encode = Callable[[Any], bytes]
"""What makes the value of a row's record: a row's own JSON, or `avro_outputs.AvroValues`."""
TransformerRow = TypeVar("TransformerRow", SummaryRow, ReceiptRow)
Row = TypeVar("Row", bound=Struct)
SYSTEM_KEY = b"SYSTEM"
"""The partition key of the whole system's rows."""


class LetterJson(Struct):
    """The fields of a dead letter as they are written: msgspec writes bytes as base64."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    record_time: str | None
    value_b64: bytes | None
    used: bool


class _CutLetterJson(LetterJson):
    """Of a value of which only the beginning is written."""

    value_size: int
    value_sha256: str


def _optional_text(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)


def summary_json(row: SummaryRow) -> bytes:
    """The value of a summary record."""
    return _encode(
        {
            "transformer_id": row.transformer_id,
            "feeder_id": row.feeder_id,
            "window_start": format_instant(row.window_start),
            "window_end": format_instant(row.window_end),
            "total_consumption_kwh": row.total_consumption_kwh,
            "total_delivered_kwh": row.total_delivered_kwh,
            "total_received_kwh": row.total_received_kwh,
            "meters_reported": row.meters_reported,
            "avg_voltage_v": row.avg_voltage_v,
            "min_voltage_v": row.min_voltage_v,
            "max_voltage_v": row.max_voltage_v,
            "estimated_count": row.estimated_count,
            "voltage_rejected_count": row.voltage_rejected_count,
            "zero_voltage_count": row.zero_voltage_count,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
            "sag_count": row.sag_count,
            "swell_count": row.swell_count,
            "voltage_count": row.voltage_count,
            "apportioned_count": row.apportioned_count,
            "completeness_pct": row.completeness_pct,
        }
    )


def receipt_json(row: ReceiptRow) -> bytes:
    """The value of a receipt record."""
    return _encode(
        {
            "transformer_id": row.transformer_id,
            "feeder_id": row.feeder_id,
            "window_start": format_instant(row.window_start),
            "window_end": format_instant(row.window_end),
            "meters_reported": row.meters_reported,
            "total_meters": row.total_meters,
            "receipt_rate_pct": row.receipt_rate_pct,
            "actual_meters_reported": row.actual_meters_reported,
            "actual_rate_pct": row.actual_rate_pct,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def alert_json(alert: Alert) -> bytes:
    """The value of an alert record."""
    return _encode(
        {
            "alert_id": alert.alert_id,
            "alert_source": alert.alert_source,
            "entity_id": alert.entity_id,
            "alert_time": format_instant(alert.alert_time),
            "alert_type": alert.alert_type,
            "detail_value": alert.detail_value,
            "severity": alert.severity,
            "status": alert.status,
            "revision": alert.revision,
            "as_of": format_instant(alert.as_of),
            "window_start": _optional_text(alert.window_start),
            "window_end": _optional_text(alert.window_end),
            "feeder_id": alert.feeder_id,
            "explained_by": alert.explained_by,
            "event_type": alert.event_type,
            "event_code": alert.event_code,
            "config_id": alert.config_id,
            "meter_counts_version": alert.meter_counts_version,
            "late": alert.late,
        }
    )


def alarm_json(alarm: Alarm) -> bytes:
    """The value of an alarm record."""
    return _encode(
        {
            "alarm_id": alarm.alarm_id,
            "alarm_type": alarm.alarm_type,
            "entity_id": alarm.entity_id,
            "feeder_id": alarm.feeder_id,
            "state": alarm.state,
            "severity": alarm.severity,
            "first_window": format_instant(alarm.first_window),
            "last_window": format_instant(alarm.last_window),
            "worst_value": alarm.worst_value,
            "windows_in_violation": alarm.windows_in_violation,
            "meters_in_violation": alarm.meters_in_violation,
            "worst_meter_id": alarm.worst_meter_id,
            "meters_missing": alarm.meters_missing,
            "cause": alarm.cause,
            "revision": alarm.revision,
            "as_of": format_instant(alarm.as_of),
            "config_id": alarm.config_id,
            "meter_counts_version": alarm.meter_counts_version,
            "began_at": _optional_text(alarm.began_at),
            "ended_at": _optional_text(alarm.ended_at),
            "meters_total": alarm.meters_total,
            "momentary": alarm.momentary,
        }
    )


def silent_meter_json(row: SilentMeter) -> bytes:
    """The value of a silent meter's record."""
    return _encode(
        {
            "day": row.day,
            "window_end": format_instant(row.window_end),
            "meter_id": row.meter_id,
            "transformer_id": row.transformer_id,
            "feeder_id": row.feeder_id,
            "silent_since": _optional_text(row.silent_since),
            "windows_missing": row.windows_missing,
            "status": row.status,
            "revision": row.revision,
            "as_of": format_instant(row.as_of),
            "config_id": row.config_id,
        }
    )


def feeder_json(row: FeederRow) -> bytes:
    """The value of a feeder's record, or of the system's."""
    return _encode(
        {
            "segment": row.segment,
            "feeder_id": row.feeder_id,
            "window_start": format_instant(row.window_start),
            "window_end": format_instant(row.window_end),
            "total_consumption_kwh": row.total_consumption_kwh,
            "total_delivered_kwh": row.total_delivered_kwh,
            "total_received_kwh": row.total_received_kwh,
            "meters_reported": row.meters_reported,
            "meters_expected": row.meters_expected,
            "receipt_rate_pct": row.receipt_rate_pct,
            "avg_voltage_v": row.avg_voltage_v,
            "min_voltage_v": row.min_voltage_v,
            "max_voltage_v": row.max_voltage_v,
            "transformers_reported": row.transformers_reported,
            "transformers_expected": row.transformers_expected,
            "transformers_in_violation": row.transformers_in_violation,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def transformer_heat_json(row: TransformerHeat) -> bytes:
    """The value of a heat-map record of a transformer's window."""
    return _encode(
        {
            "segment": "TRANSFORMER",
            "transformer_id": row.transformer_id,
            "feeder_id": row.feeder_id,
            "window_start": format_instant(row.window_start),
            "window_end": format_instant(row.window_end),
            "nominal_voltage_v": row.nominal_voltage_v,
            "min_pct": row.min_pct,
            "avg_pct": row.avg_pct,
            "max_pct": row.max_pct,
            "ansi_c84_1": row.ansi_c84_1,
            "en_50160": row.en_50160,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def feeder_heat_json(row: FeederHeat) -> bytes:
    """The value of a heat-map record of a feeder's window."""
    return _encode(
        {
            "segment": "FEEDER",
            "feeder_id": row.feeder_id,
            "window_start": format_instant(row.window_start),
            "window_end": format_instant(row.window_end),
            "reads": row.reads,
            "from_pct": row.from_pct,
            "below": row.below,
            "histogram": row.histogram,
            "above": row.above,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def day_heat_json(row: DayHeat) -> bytes:
    """The value of a heat-map record of a transformer's day."""
    return _encode(
        {
            "segment": "TRANSFORMER_DAY",
            "transformer_id": row.transformer_id,
            "feeder_id": row.feeder_id,
            "day": row.day,
            "outside_ansi_a_minutes": row.outside_ansi_a_minutes,
            "outside_ansi_b_minutes": row.outside_ansi_b_minutes,
            "outside_en_50160_minutes": row.outside_en_50160_minutes,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def _read_jsons(batch: ValidatedBatch) -> list[bytes]:
    numbers = read_numbers(batch)
    return json_rows(
        {
            "record": always("READ"),
            "meter_id": texts(batch.meter_id),
            "service_point_id": texts(batch.service_point_id),
            "customer_id": texts(batch.customer_id) if batch.customer_id else always(None),
            "transformer_id": texts(batch.transformer_id),
            "interval_start": instants(numbers["interval_start"]),
            "interval_end": instants(numbers["interval_end"]),
            "consumption_kwh": floats(numbers["consumption_kwh"]),
            "delivered_kwh": floats(numbers["delivered_kwh"]),
            "received_kwh": floats(numbers["received_kwh"]),
            "quality": chosen(numbers["quality"], QUALITIES),
            "espi_quality": integers(numbers["espi_quality"]),
            "late": chosen(numbers["late"], (False, True)),
            "revised": chosen(numbers["revised"], (False, True)),
            "flags": chosen(numbers["flags"], FLAG_LISTS),
            "read_ts": instants(numbers["read_ts"]),
            "as_of": instants(numbers["as_of"]),
            "revision": integers(numbers["revision"]),
        }
    )


def _month_jsons(batch: CustomerBatch) -> list[bytes]:
    numbers = month_numbers(batch)
    return json_rows(
        {
            "period": always("MONTH"),
            "customer_id": texts(batch.customer_id),
            "month": always(batch.month),
            "interval_start": instants(numbers["interval_start"]),
            "interval_end": instants(numbers["interval_end"]),
            "interval_delivered_kwh": floats(numbers["interval_delivered_kwh"]),
            "interval_received_kwh": floats(numbers["interval_received_kwh"]),
            "interval_net_kwh": floats(numbers["interval_net_kwh"]),
            "day": chosen(numbers["day"], days_of_month(batch.month)),
            "day_delivered_kwh": floats(numbers["day_delivered_kwh"]),
            "day_received_kwh": floats(numbers["day_received_kwh"]),
            "day_net_kwh": floats(numbers["day_net_kwh"]),
            "month_delivered_kwh": floats(numbers["month_delivered_kwh"]),
            "month_received_kwh": floats(numbers["month_received_kwh"]),
            "month_net_kwh": floats(numbers["month_net_kwh"]),
            "intervals": integers(numbers["intervals"]),
            "estimated_intervals": integers(numbers["estimated_intervals"]),
            "as_of": instants(numbers["as_of"]),
            "revision": integers(numbers["revision"]),
        }
    )


def meter_day_json(row: MeterDay) -> bytes:
    """The value of a record of a meter's day."""
    return _encode(
        {
            "record": "METER_DAY",
            "meter_id": row.meter_id,
            "day": row.day,
            "intervals_expected": row.intervals_expected,
            "intervals_reported": row.intervals_reported,
            "intervals_estimated": row.intervals_estimated,
            "consumption_kwh": row.consumption_kwh,
            "delivered_kwh": row.delivered_kwh,
            "received_kwh": row.received_kwh,
            "register_kwh": row.register_kwh,
            "missing_minutes": row.missing_minutes,
            "first_gap": _optional_text(row.first_gap),
            "longest_zero_run": row.longest_zero_run,
            "spikes": row.spikes,
            "first_spike": _optional_text(row.first_spike),
            "flags": row.flags,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def customer_day_json(row: CustomerDay) -> bytes:
    """The value of a record of a customer's day."""
    return _encode(
        {
            "period": "DAY",
            "customer_id": row.customer_id,
            "day": row.day,
            "delivered_kwh": row.delivered_kwh,
            "received_kwh": row.received_kwh,
            "net_kwh": row.net_kwh,
            "intervals": row.intervals,
            "estimated_intervals": row.estimated_intervals,
            "as_of": format_instant(row.as_of),
            "revision": row.revision,
        }
    )


def dead_letter_json(letter: DeadLetter) -> bytes:
    """The value of a dead-letter record: can be written for every letter, whatever the record was.

    `value_b64` is null for a tombstone. Of more than 512 KiB it holds the beginning, and `value_size` and
    `value_sha256` describe the whole. `record_time` is null where there is none, or none that a date can say.
    """
    value, time = letter.value, letter.record_time
    # Kafka takes any 64-bit number for a timestamp, also one of the year 290,000
    at = format_instant(time) if time is not None and MIN_INSTANT <= time <= MAX_INSTANT else None
    fields: LetterJson
    if value is None or len(value) <= MAX_LETTER_BYTES:
        fields = LetterJson(
            letter.reason, letter.detail, letter.topic, letter.partition, letter.offset, at, value, letter.used
        )
    else:
        fields = _CutLetterJson(
            letter.reason, letter.detail, letter.topic, letter.partition, letter.offset, at, value[:MAX_LETTER_BYTES],
            letter.used, len(value), sha256(value).hexdigest(),
        )  # fmt: skip
    try:
        return _encode(fields)
    except UnicodeEncodeError:  # a detail that quotes half a surrogate pair
        fields.detail = letter.detail.encode(errors="replace").decode()
        return _encode(fields)


def summary_records(batch: SummaryBatch, value: Encode = summary_json) -> KeyedRecords:
    """A record for each row, by transformer."""
    return _by_transformer(batch.rows, value)


def receipt_records(batch: ReceiptBatch, value: Encode = receipt_json) -> KeyedRecords:
    """A record for each row, by transformer."""
    return _by_transformer(batch.rows, value)


def _by_transformer(rows: list[TransformerRow], value: Encode) -> KeyedRecords:
    return KeyedRecords([row.transformer_id.encode() for row in rows], list(map(value, rows)))


def alert_records(alert: Alert, config_id: str | None = None, value: Encode = alert_json) -> KeyedRecords:
    """Its one record, by entity. `config_id`: of the run that publishes it."""
    return KeyedRecords([alert.entity_id.encode()], [value(replace(alert, config_id=config_id))])


def alarm_records(alarm: Alarm, config_id: str | None = None, value: Encode = alarm_json) -> KeyedRecords:
    """Its one record, by entity. `config_id`: of the run that publishes it."""
    return KeyedRecords([alarm.entity_id.encode()], [value(replace(alarm, config_id=config_id))])


def silent_meter_records(
    batch: SilentMeterBatch, config_id: str | None = None, value: Encode = silent_meter_json
) -> KeyedRecords:
    """A record for each row, by meter: a meter that moves keeps its partition, and with it the order of its rows."""
    rows = [replace(row, config_id=config_id) for row in batch.rows]
    return KeyedRecords([row.meter_id.encode() for row in rows], list(map(value, rows)))


def feeder_records(batch: FeederBatch, value: Encode = feeder_json) -> KeyedRecords:
    """A record for each row, by feeder."""
    keys = [SYSTEM_KEY if row.feeder_id is None else row.feeder_id.encode() for row in batch.rows]
    return KeyedRecords(keys, list(map(value, batch.rows)))


def heat_json(row: TransformerHeat | FeederHeat | DayHeat) -> bytes:
    """The value of a heat-map record."""
    if type(row) is TransformerHeat:
        return transformer_heat_json(row)
    return feeder_heat_json(row) if type(row) is FeederHeat else day_heat_json(row)  # type: ignore[arg-type]


def heat_records(batch: HeatBatch, value: Encode = heat_json) -> KeyedRecords:
    """A record for each row, by transformer, or by feeder where it is a feeder's."""
    keys = [row.transformer_id.encode() for row in batch.transformers]
    keys += [row.feeder_id.encode() for row in batch.feeders]
    keys += [row.transformer_id.encode() for row in batch.days]
    return KeyedRecords(keys, list(map(value, [*batch.transformers, *batch.feeders, *batch.days])))


def validated_records(batch: ValidatedBatch, value: Encode | None = None) -> KeyedRecords:
    """A record for each row, by meter."""
    keys = [*map(str.encode, batch.meter_id), *(row.meter_id.encode() for row in batch.days)]
    if value is not None:
        return KeyedRecords(keys, list(map(value, [*reads_of(batch), *batch.days])))
    reads = _read_jsons(batch) if batch.numbers else []
    return KeyedRecords(keys, [*reads, *map(meter_day_json, batch.days)])


def customer_records(batch: CustomerBatch, value: Encode | None = None) -> KeyedRecords:
    """A record for each row, by customer."""
    keys = [*map(str.encode, batch.customer_id), *(row.customer_id.encode() for row in batch.days)]
    if value is not None:
        return KeyedRecords(keys, list(map(value, [*months_of(batch), *batch.days])))
    months = _month_jsons(batch) if batch.numbers else []
    return KeyedRecords(keys, [*months, *map(customer_day_json, batch.days)])


def dead_letter_records(batch: DeadLetterBatch, value: Encode = dead_letter_json) -> KeyedRecords:
    """A record for each letter, by the provenance of what was set aside."""
    keys = [f"{letter.topic}/{letter.partition}/{letter.offset}".encode() for letter in batch.rows]
    return KeyedRecords(keys, list(map(value, batch.rows)))


def _parse(data: bytes | str, row_type: type[Row]) -> Row:
    fields = msgspec.json.decode(data)
    for name in INSTANTS & fields.keys():
        if fields[name] is not None:
            fields[name] = parse_instant(fields[name])
    return msgspec.convert(fields, row_type)


def parse_summary(data: bytes | str) -> SummaryRow:
    """The row of `summary_json`."""
    return _parse(data, SummaryRow)


def parse_receipt(data: bytes | str) -> ReceiptRow:
    """The row of `receipt_json`."""
    return _parse(data, ReceiptRow)


def parse_alert(data: bytes | str) -> Alert:
    """The alert of `alert_json`."""
    return _parse(data, Alert)


def parse_alarm(data: bytes | str) -> Alarm:
    """The alarm of `alarm_json`."""
    return _parse(data, Alarm)


def parse_silent_meter(data: bytes | str) -> SilentMeter:
    """The row of `silent_meter_json`."""
    return _parse(data, SilentMeter)


def parse_feeder(data: bytes | str) -> FeederRow:
    """The row of `feeder_json`."""
    return _parse(data, FeederRow)


def parse_heat(data: bytes | str) -> TransformerHeat | FeederHeat | DayHeat:
    """The row of `transformer_heat_json`, `feeder_heat_json` or `day_heat_json`."""
    segment = msgspec.json.decode(data)["segment"]
    if segment == "TRANSFORMER":
        return _parse(data, TransformerHeat)
    return _parse(data, FeederHeat) if segment == "FEEDER" else _parse(data, DayHeat)


def parse_validated(data: bytes | str) -> ValidatedRead | MeterDay:
    """A row of `validated_records`."""
    return _parse(data, ValidatedRead) if msgspec.json.decode(data)["record"] == "READ" else _parse(data, MeterDay)


def parse_customer(data: bytes | str) -> CustomerMonth | CustomerDay:
    """A row of `customer_records`."""
    return _parse(data, CustomerMonth) if msgspec.json.decode(data)["period"] == "MONTH" else _parse(data, CustomerDay)
