"""The Avro schemas: in step with the record types, and compatible with those of the first version."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.schema import parse_schema
from fastavro.utils import generate_many
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.codecs.json_outputs import SUMMARY_TOPIC
from ami_beam.results import RESULTS, Kind
from ami_beam.schemas import __main__ as command
from ami_beam.schemas import result_topics, schema_text, subject_of

BASELINE = Path(__file__).parent / "avro_baseline"
"""The schemas of the first version that had any. They are not changed any more."""
NAMES = sorted(path.stem if path.suffix == ".avsc" else path.name for path in BASELINE.glob("*.avsc"))
each_schema = pytest.mark.parametrize("name", NAMES)


def read(name: str) -> Any:
    return parse_schema(json.loads(schema_text(name)))


def baseline(name: str) -> Any:
    return parse_schema(json.loads((BASELINE / f"{name}.avsc").read_text()))


def test_the_files_are_what_the_record_types_say() -> None:
    assert command.out_of_step() == []


def test_a_file_that_is_out_of_step_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = command.all_schemas()
    made["ami.alarms-value"]["fields"].pop()
    monkeypatch.setattr(command, "all_schemas", lambda: made | {"ami.new-value": made["ami.alarms-value"]})
    assert command.main([]) == 1
    said = capsys.readouterr().out
    assert "ami.alarms-value.avsc is out of step" in said
    assert "ami.new-value.avsc is out of step" in said
    assert said.count("\n") == 2


def test_every_topic_has_a_schema_with_all_fields_of_its_rows() -> None:
    for result in RESULTS:
        schema = json.loads(schema_text(subject_of(result.topic)))
        types = {field["name"]: field["type"] for field in schema["fields"]}
        for field in result.fields:
            kind = types[field.name.removesuffix("_b64")]
            if field.optional:
                assert kind[0] == "null"
            plain = kind[1] if isinstance(kind, list) else kind
            if field.kind is Kind.INSTANT:
                assert plain == {"type": "long", "logicalType": "timestamp-micros"}
        if result.kind is not None:
            assert schema["fields"][0]["name"] == result.kind[0]
    assert {subject_of(topic) for topic in result_topics()} <= set(NAMES)


LATER = ("sag_count", "swell_count", "voltage_count", "apportioned_count")


@each_schema
def test_what_may_be_null_is_null_by_default(name: str) -> None:
    for field in json.loads(schema_text(name))["fields"]:
        nullable = isinstance(field["type"], list) and "null" in field["type"]
        # A count that was added later was 0 before.
        counts = name == subject_of(SUMMARY_TOPIC) and field["name"] in LATER
        assert (nullable or counts) == ("default" in field)
        assert field.get("default") == (0 if counts else None)


def moved(row: Any, writer: Any, reader: Any) -> Any:
    """A row written with one schema as a consumer with the other one reads it."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, writer, row)
    stream.seek(0)
    return fastavro.schemaless_reader(stream, writer, reader)


@each_schema
@given(data=st.data())
@settings(max_examples=20)
def test_old_and_new_rows_are_readable_by_old_and_new_readers(name: str, data: st.DataObject) -> None:
    old, new = baseline(name), read(name)
    row = data.draw(st.sampled_from(list(generate_many(old, 3))))
    # BACKWARD: what is in the topic already. FORWARD: consumers that have not been changed.
    found = moved(row, old, new)
    assert {field: found[field] for field in row} == moved(row, old, old)
    row = data.draw(st.sampled_from(list(generate_many(new, 3))))
    found = moved(row, new, old)
    assert found == {field: moved(row, new, new)[field] for field in found}


def test_a_new_field_that_may_not_be_null_is_caught() -> None:
    old = json.loads((BASELINE / "ami.alarms-value.avsc").read_text())
    new = parse_schema({**old, "fields": [*old["fields"], {"name": "more", "type": "long"}]})
    (row,) = generate_many(baseline("ami.alarms-value"), 1)
    with pytest.raises(fastavro.read.SchemaResolutionError):
        moved(row, baseline("ami.alarms-value"), new)


def test_the_command_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["print", "ami.alarms"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "Alarms"
    assert command.main(["print", "ami.nothing"]) == 2
    assert "ami.nothing" in capsys.readouterr().err
