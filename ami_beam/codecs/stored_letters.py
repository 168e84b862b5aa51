"""Dead letters as they stand in their topic or file, and the marks of those that were replayed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from ami_beam.codecs.avro_outputs import RowParser
from ami_beam.codecs.json_outputs import LetterJson
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.instants import format_instant, parse_instant

REPLAYED_TOPIC = "ami.deadletter.replayed"
"""Compacted: a mark for every record that was published again, under its `RecordId`."""
_ID = re.compile(r"([A-Za-z0-9._-]{1,249})[:/]([0-9]{1,10})[:/]([0-9]{1,19})")


class RecordId(NamedTuple):
    """Where a record was when it was set aside."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def path(self) -> str:
        """As keys of letters and marks and the header have it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def parse_record_id(text: str) -> RecordId:
    """The id of `TOPIC:PARTITION:OFFSET`, or with slashes. Raises ValueError."""
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError("is no TOPIC:PARTITION:OFFSET")
    return RecordId(match[1], int(match[2]), int(match[3]))


class StoredLetter(Struct, frozen=True):
    """A dead letter as it can be read back; instants in microseconds."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    record_time: int | None
    value: bytes | None
    used: bool = False
    value_size: int | None = None
    """Of the original, where `value` is only its beginning."""
    value_sha256: str | None = None

    @property
    def record(self) -> RecordId:
        """The record that was set aside; it may have several letters."""
        return RecordId(self.topic, self.partition, self.offset)

    @property
    def truncated(self) -> bool:
        """Whether the original's end is lost."""
        return self.value_size is not None


class _StoredJson(LetterJson):
    used: bool = False
    value_size: int | None = None
    value_sha256: str | None = None


_decode = msgspec.json.Decoder(_StoredJson).decode


def parse_letter(data: bytes | str) -> StoredLetter:
    """The letter of `json_outputs.dead_letter_json`. Raises ValueError, of which msgspec's errors are some."""
    found = _decode(data)
    return StoredLetter(
        found.reason,
        found.detail,
        found.topic,
        found.partition,
        found.offset,
        None if found.record_time is None else parse_instant(found.record_time),
        found.value_b64,
        found.used,
        found.value_size,
        found.value_sha256,
    )


def letter_parser(schemas: WriterSchemas | None) -> Callable[[bytes | str], StoredLetter]:
    """A parser of letters in JSON and, where there are schemas, in Avro."""
    return RowParser(parse_letter, StoredLetter, schemas)


class ReplayMark(Struct, frozen=True):
    """Says that a record was published again. It holds nothing of the record."""

    topic: str
    partition: int
    offset: int
    reason: str
    replayed_at: int
    operator: str
    repaired: bool

    @property
    def record(self) -> RecordId:
        """What was published again."""
        return RecordId(self.topic, self.partition, self.offset)


def mark_json(mark: ReplayMark) -> bytes:
    """The value of a mark's record."""
    fields = msgspec.structs.asdict(mark) | {"replayed_at": format_instant(mark.replayed_at)}
    return msgspec.json.encode(fields)


def parse_mark(data: bytes | str) -> ReplayMark:
    """The mark of `mark_json`. Raises ValueError, of which msgspec's errors are some."""
    fields = msgspec.json.decode(data)
    if not isinstance(fields, dict):
        raise ValueError("not a mark")
    return msgspec.convert(fields | {"replayed_at": parse_instant(str(fields.get("replayed_at")))}, ReplayMark)
