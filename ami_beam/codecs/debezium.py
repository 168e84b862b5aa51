"""Changes of a table as Debezium's connectors publish them in JSON, with or without the schema beside the payload.

A change is unwrapped, and the values of its row become what the same row would have in plain JSON. So the rules for
plain JSON decide about it, and only about a change itself there are reasons of its own.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from ami_beam.codecs import checks, strict_json
from ami_beam.codecs.checks import Fields
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.writer_schemas import MAGIC
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MIN_INSTANT, format_instant
from ami_beam.records import RecordBatch

Operation = Literal["c", "u", "r", "d", "t"]
"""Insert, update, row of a snapshot, delete, truncate: Debezium's own letters."""

UNAVAILABLE = "__debezium_unavailable_value"
"""Stands for a long text that an update has not changed, and that PostgreSQL therefore does not tell."""
DECIMAL = "org.apache.kafka.connect.data.Decimal"
"""The unscaled number as base64; the scale is in the schema."""
MAX_DECIMAL_BYTES = 512
"""Of an unscaled number: far more than 64 bits, and few enough to be turned into a text at once."""

_NANOS = "io.debezium.time.NanoTimestamp"
_INSTANT_MICROS = {
    "io.debezium.time.MicroTimestamp": 1,
    "io.debezium.time.Timestamp": MICROS_PER_MILLI,
    "org.apache.kafka.connect.data.Timestamp": MICROS_PER_MILLI,
}
"""What one of their units is, in microseconds."""
_OPERATIONS: tuple[Operation, ...] = ("c", "u", "r", "d", "t")
_DEPTH = strict_json.MAX_DEPTH
"""Of a row. Around it there are a payload and, with a schema, the document."""
_HEAD = b'{"schema":'
_PAYLOAD = ',"payload":'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Column(Struct, frozen=True):
    """How the values of a column are written."""

    type: str
    """Of Kafka Connect: `int64`, `string`, `bytes` …"""
    name: str | None
    """Of what it means, such as `io.debezium.time.MicroTimestamp`; None where it is only its type."""
    scale: int | None = None
    """Of a decimal."""


Columns = Mapping[str, Column]


class RowKinds(Struct, frozen=True):
    """Which fields of a row may be written in more than one way. All others are taken as they are."""

    instants: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    """Integers that may be texts that stay texts."""


class Change(Struct, frozen=True):
    """One change of a row, its images as they were sent; `plain` makes them what JSON would have."""

    operation: Operation
    before: Fields | None
    """Of an update or delete: by the table's replica identity the whole row or only its key."""
    after: Fields | None
    """None of a delete or a truncate, whatever was sent."""
    columns: Columns | None
    """By name; None where the record came without a schema."""
    committed: int | None
    """When the database did it; of a row of a snapshot when that was taken. In microseconds."""
    captured: int | None
    """When the connector saw it."""


def change_of(value: bytes | None) -> Change:
    """The change that a record's value is. Raises Rejection, and nothing else; NULL_VALUE for a tombstone."""
    if value is not None and value.startswith(MAGIC):
        raise Rejection(
            Reason.INVALID_JSON,
            "The value must be JSON and begins like Avro: set value.converter to Kafka Connect's JsonConverter.",
        )
    document = checks.fields_of(value, _DEPTH + 2)
    if "op" in document or "payload" not in document:
        return change_in(document, None)
    payload = document["payload"]
    if not isinstance(payload, dict):
        raise Rejection(Reason.NOT_A_CHANGE, "The payload must be an object.")
    return change_in(payload, columns_of(document.get("schema")))


def change_in(document: Fields, columns: Columns | None) -> Change:
    """The change that a document is, without a schema around it. Raises Rejection."""
    operation = next((each for each in _OPERATIONS if document.get("op") == each), None)
    if operation is None:
        raise Rejection(
            Reason.NOT_A_CHANGE,
            "The value must be a change of Debezium with op c, u, r, d or t; rows unwrapped by ExtractNewRecordState"
            " are plain JSON.",
        )
    before, after, source = document.get("before"), document.get("after"), document.get("source")
    if operation in ("d", "t"):
        after = None
    if after is not None and not isinstance(after, dict):
        raise Rejection(Reason.WRONG_TYPE, "after must be an object or null.")
    return Change(
        operation,
        before if isinstance(before, dict) else None,
        after,
        columns,
        _micros(source) if isinstance(source, dict) else None,
        _micros(document),
    )


def row_of(change: Change, kinds: RowKinds) -> Fields:
    """The row after an insert, an update or in a snapshot, as plain JSON would have it.

    Raises Rejection: ROW_DELETED, TABLE_TRUNCATED, MISSING_FIELD without the row, or what `plain` raises.
    """
    if change.operation == "d":
        raise row_deleted()
    if change.operation == "t":
        raise Rejection(Reason.TABLE_TRUNCATED, "The table was truncated; what was made of its rows stays as it is.")
    if change.after is None:
        raise Rejection(Reason.MISSING_FIELD, "after, the row itself, is required of this op.")
    return plain(change.after, change.columns, kinds)


def row_deleted() -> Rejection:
    """For a delete."""
    return Rejection(Reason.ROW_DELETED, "The row was deleted; what was made of it stays as it is.")


def plain(image: Fields, columns: Columns | None, kinds: RowKinds) -> Fields:
    """An image of a row as plain JSON would have it: instants as texts with a zone, numbers as numbers.

    A field whose value Debezium does not know (`UNAVAILABLE`) is missing. Raises Rejection where it is not certain
    what a value means: WRONG_TYPE, INVALID_TIMESTAMP or NUMBER_OUT_OF_RANGE.
    """
    found: Fields = {}
    for name, value in image.items():
        if value == UNAVAILABLE:
            continue
        column = None if columns is None else columns.get(name)
        is_text = isinstance(value, str) and (column is None or column.name != DECIMAL)
        if name in kinds.instants:
            value = instant(name, value, column)
        elif name in kinds.numbers:
            value = number(name, value, column)
        elif name in kinds.integers or (name in kinds.codes and not is_text):
            value = number(name, value, column, whole=True)
        found[name] = value
    return found


def instant(name: str, value: object, column: Column | None) -> object:
    """A timestamp as a text. What is no timestamp of Debezium stays as it is, for the rules of plain JSON."""
    if type(value) is not int:
        return value
    meaning = None if column is None else column.name
    if meaning == _NANOS:
        micros, rest = divmod(value, 1_000)
        if rest:
            raise Rejection(Reason.INVALID_TIMESTAMP, f"{name} must be whole microseconds.")
    elif meaning in _INSTANT_MICROS:
        micros = value * _INSTANT_MICROS[meaning]
    else:
        raise Rejection(
            Reason.WRONG_TYPE,
            f"{name} must be a text with a zone, or a timestamp by the record's schema: make the column timestamptz, or"
            " set time.precision.mode=isostring or value.converter.schemas.enable=true.",
        )
    if not MIN_INSTANT <= micros <= MAX_INSTANT:
        raise Rejection(Reason.INVALID_TIMESTAMP, f"{name} must lie in the years 1970 to 2100.")
    return format_instant(micros)


def number(name: str, value: object, column: Column | None, whole: bool = False) -> object:
    """A number as a number. What is no number of Debezium stays as it is, for the rules of plain JSON.

    Args:
      whole: whether decimals of the field must be integers.
    """
    if isinstance(value, str):
        if column is not None and column.name == DECIMAL:
            return decimal(name, value, column.scale, whole)
        if not is_number(value):
            raise Rejection(
                Reason.WRONG_TYPE,
                f"{name} must be a number: without a schema beside it a decimal must be one or its text, as the setting"
                " decimal.handling.mode=double or string gives it.",
            )
        if (column is None or column.type != "string") and may_be_base64(value):
            raise Rejection(
                Reason.WRONG_TYPE,
                f"{name} could be a number's text or its bytes: set decimal.handling.mode=double, or"
                " value.converter.schemas.enable=true.",
            )
        return strict_json.parse(value.encode())
    if isinstance(value, dict) and value.keys() == {"scale", "value"}:
        # Says all of itself, also without a schema.
        return decimal(name, value["value"], value["scale"], whole)
    return value


class Envelopes:
    """Takes payloads out of the schema around them, and parses each schema once.

    A converter writes the very same schema before every change of a table: kilobytes that nobody need parse again.
    """

    _KEPT = 16

    def __init__(self) -> None:
        self._columns: dict[bytes, Columns | None] = {}

    def head_of(self, value: bytes) -> bytes:
        """What stands before the payload of a value that begins with a schema; empty where it does not.

        Behind a head `{"schema":…,"payload":` a value is one document if what is left of it before a closing brace at
        its end is one.
        """
        if not value.startswith(_HEAD):
            return b""
        for head in self._columns:
            if value.startswith(head):
                return head
        found = _head(value)
        if found is None:
            return b""
        head, columns = found
        if len(self._columns) >= self._KEPT:
            self._columns.clear()
        self._columns[head] = columns
        return head

    def columns(self, head: bytes) -> Columns | None:
        """By the schema in a head that `head_of` has given."""
        return self._columns.get(head)

    def change_of(self, value: bytes | None) -> Change:
        """What `change_of` gives and raises, quickly where the schema has been seen before."""
        if value is None:
            return change_of(value)
        head = self.head_of(value)
        document: object = None
        if head and value.endswith(b"}"):
            with suppress(Rejection):
                document = strict_json.parse(value[len(head) : -1], _DEPTH + 1)
        return change_in(document, self.columns(head)) if isinstance(document, dict) else change_of(value)


def _head(value: bytes) -> tuple[bytes, Columns | None] | None:
    if strict_json.may_be_too_deep(value):
        # Perhaps only because the table has very many columns.
        with suppress(Rejection):
            strict_json.parse(value)
            return _split(value)
        return None
    return _split(value)


def _split(value: bytes) -> tuple[bytes, Columns | None] | None:
    try:
        text = value.decode("utf-8")
        schema, end = strict_json.parse_first(text, len(_HEAD))
    except ValueError:
        return None
    if not text.startswith(_PAYLOAD, end):
        return None
    return text[: end + len(_PAYLOAD)].encode(), columns_of(schema)


def without_tombstones(batch: RecordBatch) -> RecordBatch:
    """The records of `batch` that have a value: the others only say that a deleted key may be forgotten."""
    if None not in batch.values:
        return batch
    return batch.at([place for place, value in enumerate(batch.values) if value is not None])


def columns_of(schema: object) -> Columns | None:
    """The columns of a row by the schema of a change. None where it does not say them."""
    for image in _members(schema):
        if image.get("field") == "after":
            columns: dict[str, Column] = {}
            for each in _members(image):
                name, kind, meaning = each.get("field"), each.get("type"), each.get("name")
                if isinstance(name, str) and isinstance(kind, str):
                    columns[name] = Column(kind, meaning if isinstance(meaning, str) else None, _scale(each))
            return columns
    return None


def _members(schema: object) -> list[Fields]:
    fields = schema.get("fields") if isinstance(schema, dict) else None
    return [each for each in fields if isinstance(each, dict)] if isinstance(fields, list) else []


def _scale(schema: Fields) -> int | None:
    parameters = schema.get("parameters")
    text = parameters.get("scale") if isinstance(parameters, dict) else None
    return int(text) if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) else None


def _micros(times: Fields) -> int | None:
    """Of Debezium's ts_us, or of ts_ms, which older versions have alone."""
    for name, scale in (("ts_us", 1), ("ts_ms", MICROS_PER_MILLI)):
        value = times.get(name)
        if type(value) is int and MIN_INSTANT <= value * scale <= MAX_INSTANT:
            return value * scale
    return None


def is_number(text: str) -> bool:
    """Whether JSON has this text as a number."""
    return _NUMBER.fullmatch(text) is not None


def may_be_base64(number: str) -> bool:
    """Whether the text of a number could be bytes as well."""
    return len(number) % 4 == 0 and "." not in number and "-" not in number


def decimal(name: str, value: object, scale: object, whole: bool = False) -> int | float:
    """A decimal by its unscaled number in base64. Raises Rejection. `whole`: as an integer, or not at all."""
    if not isinstance(value, str) or type(scale) is not int:
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be a decimal: its unscaled number as base64, and its scale.")
    try:
        octets = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be a decimal in base64.") from None
    if not octets:
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be a decimal of at least one byte.")
    if len(octets) > MAX_DECIMAL_BYTES or abs(scale) > MAX_DECIMAL_BYTES:
        raise Rejection(Reason.NUMBER_OUT_OF_RANGE, f"{name} must be inside the range of a 64-bit float.")
    unscaled = int.from_bytes(octets, "big", signed=True)
    if whole:
        power = 10 ** abs(scale)
        if scale > 0 and unscaled % power:
            raise Rejection(Reason.WRONG_TYPE, f"{name} must be an integer.")
        return unscaled // power if scale > 0 else unscaled * power
    # A text is the only way that rounds once.
    return float(f"{unscaled}e{-scale}")
