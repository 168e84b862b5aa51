"""The catalogue of results: what kinds of rows go to which topic, what identifies one, and the fields that they have.

For whatever has to know all of them: tables, schemas, tests. The fields are those of the record types; how they are
written as JSON is in `codecs/json_outputs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from ami_beam import consumers
from ami_beam.codecs import json_outputs
from ami_beam.codecs.json_outputs import INSTANTS
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


class Kind(Enum):
    """What a field's value is, however it is written."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    CONDITION = "condition"
    INSTANT = "instant"
    """Microseconds in a record, RFC 3339 in JSON."""
    BYTES = "bytes"
    TEXTS = "texts"
    INTEGERS = "integers"


@dataclass(frozen=True)
class Field:
    """A field of a row as JSON names it."""

    name: str
    kind: Kind
    optional: bool
    """Whether it may be null."""


@dataclass(frozen=True)
class Result:
    """One kind of row. Rows of the same identity are versions of one another: the greatest as_of counts."""

    topic: str
    table: str
    """A name for it that is an identifier in SQL and Avro."""
    row_type: type[Struct]
    identity: tuple[str, ...]
    kind: tuple[str, str] | None = None
    """The field, with its value, that tells it from other rows of the topic."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """All of its fields, in the order of JSON, without the one that tells kinds of rows apart."""
        return fields_of(self.row_type)


RESULTS = (
    Result(json_outputs.SUMMARY_TOPIC, "summary", SummaryRow, ("transformer_id", "feeder_id", "window_end")),
    Result(json_outputs.RECEIPT_TOPIC, "receipt", ReceiptRow, ("transformer_id", "window_end")),
    Result(json_outputs.GRID_ALERTS_TOPIC, "grid_alert", Alert, ("alert_id",)),
    Result(json_outputs.EVENT_ALERTS_TOPIC, "event_alert", Alert, ("alert_id",)),
    Result(json_outputs.ALARMS_TOPIC, "alarm", Alarm, ("alarm_id",)),
    Result(json_outputs.SILENT_METERS_TOPIC, "silent_meter", SilentMeter, ("day", "meter_id")),
    Result(json_outputs.DEAD_LETTER_TOPIC, "dead_letter", DeadLetter, ("topic", "partition", "offset", "reason")),
    Result(consumers.FEEDER_TOPIC, "feeder_summary", FeederRow, ("segment", "feeder_id", "window_end")),
    Result(
        consumers.HEATMAP_TOPIC, "transformer_heat", TransformerHeat, ("transformer_id", "window_end"),
        ("segment", "TRANSFORMER"),
    ),
    Result(
        consumers.HEATMAP_TOPIC, "feeder_heat", FeederHeat, ("feeder_id", "window_end"), ("segment", "FEEDER"),
    ),
    Result(
        consumers.HEATMAP_TOPIC, "transformer_day_heat", DayHeat, ("transformer_id", "day"),
        ("segment", "TRANSFORMER_DAY"),
    ),
    Result(
        consumers.VALIDATED_TOPIC, "validated_read", ValidatedRead, ("meter_id", "interval_end"), ("record", "READ"),
    ),
    Result(consumers.VALIDATED_TOPIC, "meter_day", MeterDay, ("meter_id", "day"), ("record", "METER_DAY")),
    Result(consumers.CUSTOMER_TOPIC, "customer_month", CustomerMonth, ("customer_id", "month"), ("period", "MONTH")),
    Result(consumers.CUSTOMER_TOPIC, "customer_day", CustomerDay, ("customer_id", "day"), ("period", "DAY")),
)  # fmt: skip
"""Every kind of row that the pipeline can publish."""

_KINDS: dict[Any, Kind] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    bool: Kind.CONDITION,
    bytes: Kind.BYTES,
    list[str]: Kind.TEXTS,
    list[int]: Kind.INTEGERS,
}


def fields_of(row_type: type[Struct]) -> tuple[Field, ...]:
    """The fields of a type of rows."""
    if row_type is DeadLetter:
        cut = Field("value_size", Kind.INTEGER, True), Field("value_sha256", Kind.TEXT, True)
        return *map(_of_letter, _plain_fields(row_type)), *cut
    return _plain_fields(row_type)


def _plain_fields(row_type: type[Struct]) -> tuple[Field, ...]:
    hints = get_type_hints(row_type)
    return tuple(_field(name, hints[name]) for name in row_type.__struct_fields__)


def _of_letter(field: Field) -> Field:
    if field.name == "value":
        return Field("value_b64", Kind.BYTES, True)
    return Field(field.name, Kind.INSTANT, True) if field.name == "record_time" else field


def _field(name: str, hint: Any) -> Field:
    arguments = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (own,) = [each for each in arguments if each is not NoneType]
    kind = Kind.TEXT if get_origin(own) is Literal else _KINDS[own]
    if name in INSTANTS:
        kind = Kind.INSTANT
    return Field(name, kind, NoneType in arguments)
