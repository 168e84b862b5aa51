"""Avro records in Confluent's wire format: which schema one was written with, and its fields by that schema.

The format: a zero byte, the schema's id in four bytes (big-endian), the record in Avro's binary encoding.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastavro import parse_schema, schemaless_reader

from ami_beam.codecs.checks import Fields, Micros
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection

MAGIC = b"\0"
HEAD_BYTES = 5
_SCALES = {"timestamp-micros": 1, "timestamp-millis": 1_000}
_NAMED = ("record", "enum", "fixed")


class WriterSchemas(Protocol):
    """Where writers' schemas are looked up by their id. A pickled one looks them up where it arrives."""

    def schema(self, number: int) -> WriterSchema:
        """Raises Rejection AVRO_UNKNOWN_SCHEMA for an id that was never given, and any other exception where nobody
        can be asked: that says nothing of the record."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Changes:
    """In the place of schemas: records are changes of a table, in Debezium's JSON."""


Written = WriterSchemas | Changes | None
"""How the records of a topic were written: in Avro by schemas, as changes, or as plain JSON."""


def schemas_of(written: Written) -> WriterSchemas | None:
    """Where the schemas of records in Avro are; None where they are none."""
    return None if isinstance(written, Changes) else written


@dataclass(frozen=True)
class Schemas:
    """What the records of a run were written with; None where they are plain JSON."""

    reads: Written = None
    events: Written = None
    outages: Written = None
    work: Written = None
    published: WriterSchemas | None = None
    """Of alerts and alarms that are read back, where any are in Avro."""


NO_SCHEMAS = Schemas()


class KnownSchemas:
    """Schemas that travel with whoever asks: their texts by id."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = dict(texts)
        self._made: dict[int, WriterSchema] = {}

    def __reduce__(self) -> tuple[type[KnownSchemas], tuple[dict[int, str]]]:
        return KnownSchemas, (self._texts,)

    def schema(self, number: int) -> WriterSchema:
        if number not in self._made:
            if number not in self._texts:
                raise unknown_schema(number)
            self._made[number] = WriterSchema(self._texts[number])
        return self._made[number]

    def close(self) -> None:
        pass


def unknown_schema(number: int) -> Rejection:
    """For a record whose schema there is not."""
    return Rejection(Reason.AVRO_UNKNOWN_SCHEMA, f"The schema registry has no schema {number}.")


def head(number: int) -> bytes:
    """What stands before a record of this schema."""
    return MAGIC + number.to_bytes(4, "big")


def number_of(value: bytes | None) -> int:
    """The id of the schema that a value was written with. Raises Rejection."""
    if value is None:
        raise Rejection(Reason.NULL_VALUE, "The record has no value.")
    if not value:
        raise Rejection(Reason.EMPTY_VALUE, "The record's value is empty.")
    if len(value) < HEAD_BYTES or not value.startswith(MAGIC):
        raise Rejection(Reason.INVALID_AVRO, "The value does not begin with a zero byte and the id of a schema.")
    return int.from_bytes(value[1:HEAD_BYTES], "big")


class WriterSchema:
    """A schema as decoding needs it. One that cannot be read safely refuses every record, with the reason.

    Such are schemas of no record, and those by which a few bytes would say something endless: recursive ones, and
    arrays of what takes no bytes.

    Args:
      text: the schema as JSON.
      named: schemas that it refers to, parsed by fastavro, by their full names.
    """

    def __init__(self, text: str, named: Mapping[str, Any] | None = None) -> None:
        self.problem: str | None = None
        self.fields: tuple[tuple[str, Any], ...] = ()
        """Of the record: names and types, without logical types."""
        self.scales: dict[str, int] = {}
        """Of the fields that are instants: how many microseconds one of their units is."""
        self._parsed: Any = None
        try:
            given: Any = parse_schema(json.loads(text), named_schemas=dict(named or {}), expand=True)
            plain = _without_logical_types(given, (), set())
            if not isinstance(plain, dict) or plain["type"] != "record":
                raise ValueError("it is none of a record")
            self._parsed = parse_schema(plain)
        except RecursionError:
            self.problem = "it is nested too deeply"
        except Exception as error:  # fastavro's are of many kinds
            self.problem = str(error).strip(". ") or type(error).__name__
        else:
            self.fields = tuple((field["name"], field["type"]) for field in self._parsed["fields"])
            scales = ((field["name"], _scale(field["type"])) for field in given["fields"])
            self.scales = {name: scale for name, scale in scales if scale is not None}

    def document(self, value: bytes) -> Fields:
        """The fields of a value as they were written. Raises Rejection INVALID_AVRO, or INVALID_UTF8 for a text."""
        if self.problem is not None:
            raise Rejection(Reason.INVALID_AVRO, f"The record's schema cannot be used: {self.problem}.")
        stream = io.BytesIO(value)
        stream.seek(HEAD_BYTES)
        try:
            found: Any = schemaless_reader(stream, self._parsed, None)
        except UnicodeDecodeError:
            raise Rejection(Reason.INVALID_UTF8, "A text of the record is not UTF-8.") from None
        except Exception:  # fastavro's are of many kinds
            raise Rejection(Reason.INVALID_AVRO, "The value is not a record of its schema.") from None
        if stream.tell() != len(value):
            raise Rejection(Reason.INVALID_AVRO, "The value has bytes behind the record.")
        return found

    def fields_of(self, value: bytes) -> Fields:
        """The same with instants as `checks.instant` takes them."""
        found = self.document(value)
        for name, scale in self.scales.items():
            units = found[name]
            if isinstance(units, int):
                found[name] = Micros(units * scale)
        return found


def _without_logical_types(schema: Any, inside: tuple[str, ...], defined: set[str]) -> Any:
    """Only what says how bytes are to be read. Raises ValueError for what could be endless.

    fastavro would make dates, decimals and UUIDs of bytes, which costs more than all else.

    Args:
      schema: with every named type spelled out wherever it stands, except inside itself.
      inside: names of the types that this one is part of.
      defined: names of the types that came before, which a name is enough for.
    """
    if isinstance(schema, list):
        return [_without_logical_types(each, inside, defined) for each in schema]
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(kind, dict | list):
        return _without_logical_types(kind, inside, defined)
    if kind in inside:
        raise ValueError(f"{kind} is part of itself")
    if isinstance(schema, str):
        return schema
    plain: dict[str, Any] = {"type": kind}
    if kind in _NAMED:
        plain["name"] = schema["name"]
        if schema["name"] in defined:
            return schema["name"]
        defined.add(schema["name"])
    if kind == "record":
        within = (*inside, schema["name"])
        plain["fields"] = [
            {"name": field["name"], "type": _without_logical_types(field["type"], within, defined)}
            for field in schema["fields"]
        ]
    elif kind == "array":
        if _may_take_no_bytes(schema["items"]):
            raise ValueError("it has an array of what takes no bytes")
        plain["items"] = _without_logical_types(schema["items"], inside, defined)
    elif kind == "map":
        plain["values"] = _without_logical_types(schema["values"], inside, defined)
    elif kind == "enum":
        plain["symbols"] = schema["symbols"]
    elif kind == "fixed":
        plain["size"] = schema["size"]
    return kind if set(plain) == {"type"} else plain


def _may_take_no_bytes(schema: Any) -> bool:
    if isinstance(schema, list):
        return False
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(kind, dict | list):
        return _may_take_no_bytes(kind)
    if kind == "record":
        return all(_may_take_no_bytes(field["type"]) for field in schema["fields"])
    return schema["size"] == 0 if kind == "fixed" else kind == "null"


def _scale(schema: Any) -> int | None:
    for branch in schema if isinstance(schema, list) else [schema]:
        if isinstance(branch, dict) and branch.get("type") == "long" and branch.get("logicalType") in _SCALES:
            return _SCALES[branch["logicalType"]]
    return None
