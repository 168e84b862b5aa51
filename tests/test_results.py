"""The catalogue of results: it has every topic, and says of every row what is written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ami_beam.codecs import json_outputs as codec
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.records import (
    Alarm,
    Alert,
    CustomerDay,
    CustomerMonth,
    DayHeat,
    DeadLetter,
    FeederHeat,
    FeederRow,
    MeterDay,
    ReceiptRow,
    SilentMeter,
    SummaryRow,
    TransformerHeat,
    ValidatedRead,
)
from ami_beam.results import RESULTS, Kind, Result
from tests.billing_json import customer_json, validated_json

ENCODERS: dict[type, Any] = {
    SummaryRow: codec.summary_json,
    ReceiptRow: codec.receipt_json,
    Alert: codec.alert_json,
    Alarm: codec.alarm_json,
    SilentMeter: codec.silent_meter_json,
    DeadLetter: codec.dead_letter_json,
    FeederRow: codec.feeder_json,
    TransformerHeat: codec.transformer_heat_json,
    FeederHeat: codec.feeder_heat_json,
    DayHeat: codec.day_heat_json,
    ValidatedRead: validated_json,
    MeterDay: validated_json,
    CustomerMonth: customer_json,
    CustomerDay: customer_json,
}
_EXAMPLES: dict[Kind, Any] = {
    Kind.TEXT: "x",
    Kind.INTEGER: 7,
    Kind.NUMBER: 1.5,
    Kind.CONDITION: True,
    Kind.INSTANT: 1_772_496_000_000_000,
    Kind.BYTES: b"x",
    Kind.TEXTS: ["x"],
    Kind.INTEGERS: [7],
}
_JSON: dict[Kind, Any] = {
    Kind.INTEGER: int,
    Kind.NUMBER: float,
    Kind.CONDITION: bool,
    Kind.TEXTS: list,
    Kind.INTEGERS: list,
}
each_result = pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.table)


def example(result: Result) -> Any:
    return result.row_type(*(_EXAMPLES[f.kind] for f in result.fields if f.name not in ("value_size", "value_sha256")))


def test_every_topic_and_table_is_there() -> None:
    assert {*codec.OUTPUT_TOPICS, *OPTIONAL_TOPICS.values()} <= {result.topic for result in RESULTS}
    assert len({result.table for result in RESULTS}) == len(RESULTS)


@each_result
def test_the_fields_are_those_that_are_written(result: Result) -> None:
    written = msgspec.json.decode(ENCODERS[result.row_type](example(result)))
    if result.kind is not None:
        assert written.pop(result.kind[0]) == result.kind[1]
    fields = {field.name: field for field in result.fields}
    assert set(written) <= set(fields)
    assert set(fields) - set(written) <= {"value_size", "value_sha256"}
    for name, value in written.items():
        assert isinstance(value, _JSON.get(fields[name].kind, str)), name
        if fields[name].kind is Kind.INSTANT:
            assert value == "2026-03-03T00:00:00Z"


@each_result
def test_the_identity_is_made_of_fields(result: Result) -> None:
    optional = {field.name: field.optional for field in result.fields}
    assert set(result.identity) <= set(optional)
    # The row of the whole system is the only one that has no name.
    assert [name for name in result.identity if optional[name]] == (
        ["feeder_id"] if result.table == "feeder_summary" else []
    )
