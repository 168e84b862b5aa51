"""Validated reads of their topic as columns: JSON and Avro say the same, in any mixture; what is neither is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.codecs.validated_columns import wire_columns
from ami_beam.codecs.writer_schemas import KnownSchemas, head
from ami_beam.consumers import VALIDATED_TOPIC
from ami_beam.reconcile_rows import HERE
from ami_beam.records import MeterDay
from ami_beam.schemas import schema_text, subject_of
from tests.billing_json import validated_json
from tests.test_reconcile import DAY, QUARTER, read

NUMBER = 7
SCHEMA = schema_text(subject_of(VALIDATED_TOPIC))
SCHEMAS = KnownSchemas({NUMBER: SCHEMA, 8: SCHEMA.replace("timestamp-micros", "nothing-known"), 9: '"string"'})
AVRO = AvroValues({VALIDATED_TOPIC: NUMBER})
DAY_ROW = MeterDay("M1", "2026-03-03", 96, 96, 0, 9.0, 9.0, 0.0, None, 0, None, 0, 0, None, [], DAY, 0)
ROWS = st.one_of(
    st.just(DAY_ROW),
    st.builds(
        read,
        meter=st.text(max_size=4),
        end=st.integers(0, 96).map(lambda number: DAY + number * QUARTER),
        kwh=st.floats(allow_nan=False, allow_infinity=False),
        quality=st.sampled_from(["ACTUAL", "ESTIMATED"]),
        late=st.booleans(),
        revised=st.booleans(),
        customer_id=st.none() | st.just("C"),
        revision=st.integers(0, 3),
    ),
)


def columns(values, schemas=SCHEMAS):
    """All rows, in order, and what was bad about which value."""
    problems: list[tuple[int, str]] = []
    rows: list[dict] = []
    for batch in wire_columns(values, schemas, lambda number, text: problems.append((number, text))):
        assert batch.schema == HERE
        rows += batch.to_pylist()
    return rows, problems


@given(st.lists(st.tuples(ROWS, st.booleans()), max_size=12))
def test_a_topic_may_hold_both(rows):
    mixed = [AVRO(row) if is_avro else validated_json(row) for row, is_avro in rows]
    expected, problems = columns([validated_json(row) for row, _ in rows])
    assert problems == []
    assert columns(mixed) == (expected, [])


@pytest.mark.parametrize(
    ("value", "schemas", "says"),
    [
        (AVRO(read()), None, "--schema_registry"),
        (head(3) + AVRO(read())[5:], SCHEMAS, "no schema 3"),
        (head(8) + AVRO(read())[5:], SCHEMAS, "interval_end is no instant"),
        (head(9) + b"\2a", SCHEMAS, "schema cannot be used"),
        (AVRO(read())[:-3], SCHEMAS, "not a record of its schema"),
        (b"\0", SCHEMAS, "id of a schema"),
        (AVRO(read(kwh=float("nan"))), SCHEMAS, "consumption_kwh is no number"),
        (b"[]", SCHEMAS, "object"),
    ],
)
def test_what_is_no_read_is_named_and_the_others_are_there(value, schemas, says):
    good = validated_json(read("M2"))
    rows, problems = columns([good, value, good], schemas)
    assert [row["meter_id"] for row in rows] == ["M2", "M2"]
    ((number, text),) = problems
    assert number == 1
    assert says in text
