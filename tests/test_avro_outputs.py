"""Result rows in Avro: what an independent reader makes of them is what was in the row, for every kind of row."""

from __future__ import annotations

import io
import json
import pickle
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.codecs.avro_outputs import AvroValues, RowParser, letter, topic_of
from ami_beam.codecs.json_outputs import MAX_LETTER_BYTES, alarm_json, alert_json, parse_alarm, parse_alert
from ami_beam.codecs.writer_schemas import KnownSchemas
from ami_beam.records import Alarm, Alert, DeadLetter
from ami_beam.results import RESULTS, Kind, Result
from ami_beam.schemas import schema_text, subject_of
from tests.avro_rows import rows

TOPICS = tuple(dict.fromkeys(result.topic for result in RESULTS))
NUMBERS = {topic: 1_000_000 + place for place, topic in enumerate(TOPICS)}
VALUES = AvroValues(NUMBERS)
SCHEMAS = KnownSchemas({number: schema_text(subject_of(topic)) for topic, number in NUMBERS.items()})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GRID_ALERT, ALARM = (next(each for each in RESULTS if each.table == table) for table in ("grid_alert", "alarm"))
each_result = pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.table)


def read(topic: str, value: bytes) -> dict[str, Any]:
    """What a consumer makes of it who knows the format, fastavro and the registry's schema, and none of our code."""
    assert value[0] == 0
    assert int.from_bytes(value[1:5], "big") == NUMBERS[topic]
    stream = io.BytesIO(value[5:])
    found = fastavro.schemaless_reader(stream, fastavro.parse_schema(json.loads(schema_text(subject_of(topic)))), None)
    assert stream.read() == b""
    assert isinstance(found, dict)
    return found


@each_result
@given(data=st.data())
@settings(max_examples=60)
def test_any_reader_finds_what_is_in_the_row(result: Result, data: st.DataObject) -> None:
    row = data.draw(rows(result))
    assert topic_of(row) == result.topic
    found = read(result.topic, VALUES(row))
    if result.kind is not None:
        assert found.pop(result.kind[0]) == result.kind[1]
    own = {field.name.removesuffix("_b64"): field for field in result.fields}
    for name, value in found.items():
        expected = getattr(row, name, None) if name in own else None
        if name in own and own[name].kind is Kind.INSTANT and expected is not None:
            expected = EPOCH + timedelta(microseconds=expected)
        assert value == expected, name
    assert set(own) <= set(found)


@each_result
@given(data=st.data())
@settings(max_examples=40)
def test_the_bytes_are_those_of_fastavro(result: Result, data: st.DataObject) -> None:
    row = data.draw(rows(result))
    schema = fastavro.parse_schema(json.loads(schema_text(subject_of(result.topic))))
    written: Any = letter(row) if isinstance(row, DeadLetter) else row
    fields = {name: getattr(written, name) for name in written.__struct_fields__}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, fields | (dict([result.kind]) if result.kind else {}))
    assert VALUES(row)[5:] == stream.getvalue()


@given(alert=rows(GRID_ALERT), alarm=rows(ALARM))
@settings(max_examples=40)
def test_what_is_read_back_is_the_same_in_both_formats(alert: Alert, alarm: Alarm) -> None:
    parse_alerts = pickle.loads(pickle.dumps(RowParser(parse_alert, Alert, SCHEMAS)))
    assert parse_alerts(VALUES(alert)) == parse_alerts(alert_json(alert)) == alert
    parse_alarms = RowParser(parse_alarm, Alarm, SCHEMAS)
    assert parse_alarms(VALUES(alarm)) == parse_alarms(alarm_json(alarm)) == alarm


@given(alarm=rows(ALARM))
@settings(max_examples=10)
def test_what_is_none_of_ours_is_not_read_back(alarm: Alarm) -> None:
    parse, value = RowParser(parse_alarm, Alarm, SCHEMAS), VALUES(alarm)
    for bad in (b"", b"\0", b"\0\0\0\0\1x", value[:-1], value + b"x", b"\1" + value[1:]):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            parse(bad)


def test_workers_get_the_ids_and_nothing_else() -> None:
    row = DeadLetter("r", "d", "t", 0, 1, None, b"x")
    assert pickle.loads(pickle.dumps(VALUES))(row) == VALUES(row)


@pytest.mark.parametrize("time", [None, -1, 2**62])
def test_every_dead_letter_can_be_written(time: int | None) -> None:
    value = bytes(MAX_LETTER_BYTES + 1)
    found = read("ami.deadletter", VALUES(DeadLetter("R", "half a pair: \ud800", "t", 0, 1, time, value)))
    assert found["record_time"] is None
    assert found["detail"] == "half a pair: ?"
    assert found["value"] == value[:-1]
    assert (found["value_size"], found["value_sha256"]) == (len(value), sha256(value).hexdigest())
