"""Result rows as Avro in Confluent's wire format, by the schemas of `ami_beam.schemas`; and back, for those read again.

The bytes are those that fastavro writes, which takes three times as long: it looks at every value's type, and a union
with null it tries out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from hashlib import sha256
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.json_outputs import EVENT_ALERTS_TOPIC, GRID_ALERTS_TOPIC, MAX_LETTER_BYTES
from ami_beam.codecs.writer_schemas import MAGIC, WriterSchemas, head, number_of
from ami_beam.instants import MAX_INSTANT, MIN_INSTANT
from ami_beam.records import Alert, DeadLetter
from ami_beam.results import RESULTS, Result
from ami_beam.schemas import schema_text, subject_of

Encode = Callable[[Any], bytes]
Row = TypeVar("Row", bound=Struct)
_NULL, _THERE = b"\0", b"\2"


class AvroLetter(Struct):
    """The fields of a dead letter as they are written. Of a value of more than 512 KiB only the beginning is."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    record_time: int | None
    value: bytes | None
    used: bool
    value_size: int | None
    value_sha256: str | None


class AvroValues:
    """`values(row)` is the value of a row's record, for every kind of row in `RESULTS`.

    Args:
      numbers: the ids of the schemas, by topic. Whoever encodes needs no registry.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = dict(numbers)
        self._of_type: dict[type, Encode] = {}
        self._of_topic: dict[str, Encode] = {}
        """Of alerts, which have two."""

    def __reduce__(self) -> tuple[type[AvroValues], tuple[dict[str, int]]]:
        return AvroValues, (self._numbers,)

    def __call__(self, row: Any) -> bytes:
        encode = self._of_type.get(type(row))
        return self._found(row)(row) if encode is None else encode(row)

    def _found(self, row: Any) -> Encode:
        topic = topic_of(row)
        encode = self._of_topic.get(topic) if type(row) is Alert else None
        if encode is None:
            (result,) = [each for each in RESULTS if each.row_type is type(row) and each.topic == topic]
            encode = row_encoder(result, self._numbers[topic])
            if type(row) is Alert:
                self._of_topic[topic] = encode
            else:
                self._of_type[type(row)] = encode
        return encode


def topic_of(row: Any) -> str:
    """Where a row goes: only alerts have two topics."""
    if type(row) is Alert:
        return EVENT_ALERTS_TOPIC if row.alert_source == "EVENT" else GRID_ALERTS_TOPIC
    return _TOPICS[type(row)]


_TOPICS = {result.row_type: result.topic for result in RESULTS}


def letter(row: DeadLetter) -> AvroLetter:
    """A dead letter as it is written, which every one can be."""
    value, time = row.value, row.record_time
    cut = value is not None and len(value) > MAX_LETTER_BYTES
    return AvroLetter(
        row.reason,
        row.detail.encode(errors="replace").decode(),
        row.topic,
        row.partition,
        row.offset,
        time if time is not None and MIN_INSTANT <= time <= MAX_INSTANT else None,
        value[:MAX_LETTER_BYTES] if cut and value is not None else value,
        row.used,
        len(value) if cut and value is not None else None,
        sha256(value).hexdigest() if cut and value is not None else None,
    )


def row_encoder(result: Result, number: int) -> Encode:
    """What makes values of rows of this kind, by the schema of their topic, which has this id."""
    fields = json.loads(schema_text(subject_of(result.topic)))["fields"]
    row_type = AvroLetter if result.row_type is DeadLetter else result.row_type
    beginning = head(number)
    if result.kind is not None:
        discriminator, *fields = fields
        assert discriminator["name"] == result.kind[0]
        beginning += _text(result.kind[1])
    own = set(row_type.__struct_fields__)
    # A field that only other kinds of rows have is null, whatever is handed to its encoder.
    names = [field["name"] if field["name"] in own else row_type.__struct_fields__[0] for field in fields]
    encoders = [_encoder(field["type"]) if field["name"] in own else _nothing for field in fields]
    values = attrgetter(*names)
    join = b"".join

    def encode(row: Any) -> bytes:
        return beginning + join([each(value) for each, value in zip(encoders, values(row))])  # noqa: B905

    def encode_letter(row: DeadLetter) -> bytes:
        return encode(letter(row))

    return encode_letter if result.row_type is DeadLetter else encode


class _Longs(dict[int, bytes]):
    """Integers as varints, remembered: rows of a batch share their instants, and counts are small."""

    SIZE = 1 << 16

    def __missing__(self, value: int) -> bytes:
        rest = (value << 1) ^ (value >> 63)
        made = b""
        while rest >= 1 << 14:
            made += _TWO_OCTETS[rest & 0x3FFF]
            rest >>= 14
        made += bytes((rest,)) if rest < 0x80 else bytes((rest & 0x7F | 0x80, rest >> 7))
        if len(self) >= self.SIZE:
            self.clear()
        self[value] = made
        return made


_TWO_OCTETS = [bytes((low | 0x80, high | 0x80)) for high in range(0x80) for low in range(0x80)]
"""Fourteen bits of a number that goes on."""
_LONGS = _Longs()


def _text(text: str) -> bytes:
    octets = text.encode()
    return _LONGS[len(octets)] + octets


def _bytes(value: bytes) -> bytes:
    return _LONGS[len(value)] + value


def _nothing(_: Any) -> bytes:
    return _NULL


_PLAIN: dict[str, Encode] = {
    "string": _text,
    "long": _LONGS.__getitem__,
    "double": struct.Struct("<d").pack,
    "boolean": {True: b"\1", False: b"\0"}.__getitem__,
    "bytes": _bytes,
}


def _encoder(schema: Any) -> Encode:
    if isinstance(schema, list):
        null, kind = schema
        assert null == "null"
        return _optional(_encoder(kind))
    if isinstance(schema, str):
        return _PLAIN[schema]
    if schema["type"] == "array":
        return _array(_encoder(schema["items"]))
    return _PLAIN[schema["type"]]


def _optional(encode: Encode) -> Encode:
    def optional(value: Any) -> bytes:
        return _NULL if value is None else _THERE + encode(value)

    return optional


def _array(encode: Encode) -> Encode:
    def array(values: list[Any]) -> bytes:
        return _LONGS[len(values)] + b"".join(map(encode, values)) + b"\0" if values else b"\0"

    return array


class RowParser(Generic[Row]):
    """`parse(value)` is the row of a value of ours, in JSON or in Avro, whichever it is in: a topic may hold both.

    Raises for a value that is none of ours, as the parser of JSON does.

    Args:
      parse_json: for JSON.
      row_type: what that gives.
      schemas: what values in Avro were written with; None where there are none.
    """

    def __init__(
        self, parse_json: Callable[[bytes | str], Row], row_type: type[Row], schemas: WriterSchemas | None
    ) -> None:
        self._parse_json = parse_json
        self._row_type = row_type
        self._schemas = schemas

    def __reduce__(self) -> Any:
        return RowParser, (self._parse_json, self._row_type, self._schemas)

    def __call__(self, value: bytes | str) -> Row:
        if isinstance(value, str) or self._schemas is None or not value.startswith(MAGIC):
            return self._parse_json(value)
        try:
            fields = self._schemas.schema(number_of(value)).document(value)
        except Rejection as rejection:
            raise ValueError(rejection.detail) from None
        return msgspec.convert(fields, self._row_type)
