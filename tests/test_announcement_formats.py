"""Announced outages and work at meters in Avro, and as changes of a table, are held against the same rules as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.input_decoders import announcement_decoder
from ami_beam.codecs.json_announcements import Source
from ami_beam.codecs.writer_schemas import Changes, KnownSchemas, Written, head
from ami_beam.input_topics import OUTAGES_TOPIC, WORK_TOPIC
from ami_beam.instants import parse_instant
from ami_beam.records import Announcement
from ami_beam.schemas import schema_text, subject_of
from ami_beam.settings import Settings
from tests.debezium import change, with_schema
from tests.test_json_announcements import VALID, batch_of

TEXTS: dict[Source, str] = {
    "oms": schema_text(subject_of(OUTAGES_TOPIC)),
    "work": schema_text(subject_of(WORK_TOPIC)),
}
NUMBERS: dict[Source, int] = {"oms": 1, "work": 2}
SCHEMAS = KnownSchemas({NUMBERS[source]: text for source, text in TEXTS.items()})
SOURCES: list[Source] = ["oms", "work"]


def as_json(source: Source, fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def as_avro(source: Source, fields: Mapping[str, Any]) -> bytes:
    """By the schema of the repository, and fastavro."""
    row = {name: parse_instant(value) if name in ("from", "to") and value else value for name, value in fields.items()}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(TEXTS[source])), row)
    return head(NUMBERS[source]) + stream.getvalue()


def as_change(source: Source, fields: Mapping[str, Any]) -> bytes:
    return change(json.dumps(fields).encode(), "u")


def as_change_with_schema(source: Source, fields: Mapping[str, Any]) -> bytes:
    """Of columns without a zone, which PostgreSQL has as microseconds."""
    column = {"type": "int64", "optional": True, "name": "io.debezium.time.MicroTimestamp", "version": 1}
    row = {name: parse_instant(value) if name in ("from", "to") and value else value for name, value in fields.items()}
    texts = {name: {"type": "string", "optional": True} for name in fields}
    columns = texts | {name: column for name in ("from", "to") if name in fields}
    return with_schema(change(json.dumps(row).encode(), "r"), columns)


FORMATS: dict[str, tuple[Callable[[Source, Mapping[str, Any]], bytes], Written]] = {
    "avro": (as_avro, SCHEMAS),
    "change": (as_change, Changes()),
    "change with a schema": (as_change_with_schema, Changes()),
}


def decode(
    source: Source, written: Written, *values: bytes | None
) -> tuple[list[Announcement], list[tuple[int, str, str]]]:
    batch = batch_of(*values)
    found, letters = announcement_decoder(Settings(), source, written).decode(batch, None)
    assert all(letter.value == batch.values[letter.offset] for letter in letters)
    return found, [(letter.offset, letter.reason, letter.detail) for letter in letters]


SPAN = st.sampled_from(["2026-03-03T10:00:00Z", "2026-03-03T13:00:00+01:00", "2026-03-04T00:00:00Z"])
CHANGES: dict[Source, st.SearchStrategy[dict[str, Any]]] = {
    "oms": st.fixed_dictionaries(
        {},
        optional={
            "outage_id": st.text(max_size=3), "kind": st.sampled_from(["PLANNED", "KNOWN", "planned"]),
            "status": st.sampled_from(["ACTIVE", "CANCELLED"]), "entity_type": st.sampled_from(["FEEDER", "METER"]),
            "from": SPAN, "to": st.none() | SPAN, "reason": st.none() | st.text(max_size=3),
        },
    ),
    "work": st.fixed_dictionaries(
        {},
        optional={
            "work_id": st.text(max_size=3), "kind": st.sampled_from(["EXCHANGE", "TEST", "KNOWN"]),
            "meter_id": st.text(max_size=3), "transformer_id": st.none() | st.text(max_size=3),
            "from": SPAN, "to": SPAN,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@given(source=st.sampled_from(SOURCES), data=st.data())
def test_the_same_rules_hold_as_for_json(name: str, source: Source, data: st.DataObject) -> None:
    write, written = FORMATS[name]
    rows = [VALID[source] | each for each in data.draw(st.lists(CHANGES[source], min_size=1, max_size=4))]
    expected = decode(source, None, *(as_json(source, row) for row in rows))
    assert decode(source, written, *(write(source, row) for row in rows)) == expected


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_deleted_is_told_and_takes_nothing_back(source: Source) -> None:
    row = json.dumps(VALID[source]).encode()
    deleted = change(b"null", "d", row)
    found, letters = decode(source, Changes(), change(row), deleted, None)
    assert len(found) == 1
    assert [letter[:2] for letter in letters] == [(1, "ROW_DELETED")]


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_of_another_format_is_a_letter(source: Source) -> None:
    plain, avro = as_json(source, VALID[source]), as_avro(source, VALID[source])
    for written, value, reason in (
        (SCHEMAS, plain, "INVALID_AVRO"),
        (SCHEMAS, head(9) + avro[5:], "AVRO_UNKNOWN_SCHEMA"),
        (SCHEMAS, None, "NULL_VALUE"),
        (Changes(), plain, "NOT_A_CHANGE"),
    ):
        found, letters = decode(source, written, value)
        assert (found, [letter[:2] for letter in letters]) == ([], [(0, reason)])
