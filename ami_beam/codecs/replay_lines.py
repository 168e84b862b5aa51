"""A Kafka record as a line of a replay file, and back: what `ami_beam.export` writes and `--source=files` reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from msgspec import Struct

_LINE_BYTES: Final = 120
"""Of a line without key and value, about."""


class ReadLine(Struct):
    """What of a line a replay needs; other fields are ignored. Record time and value must be there, if only as null."""

    ts_ms: int | None
    """Negative, too, where Kafka has none."""
    value_b64: bytes | None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


read_line = msgspec.json.Decoder(ReadLine).decode
"""Raises msgspec.MsgspecError or UnicodeDecodeError for what is no exported record."""


class WrittenLine(Struct, omit_defaults=True):
    """All of a record. Bytes are base64 in JSON; what has no default is written also where it is null."""

    ts_ms: int | None
    """The record time; None where Kafka has none."""
    key: str | None
    value_b64: bytes | None
    """None is a tombstone."""
    topic: str
    partition: int
    offset: int
    key_b64: bytes | None = None
    """The key where it is no UTF-8 text; `key` is None then."""
    headers_b64: list[tuple[str, bytes | None]] = []
    """In their order; names may come twice."""


_encode_lines = msgspec.json.Encoder().encode_lines


def lines_of(messages: Iterable[Message]) -> bytes:
    """The records as lines, each with its end, in their order."""
    return _encode_lines([_written(message) for message in messages])


def size_of(message: Message) -> int:
    """How long its line is, about: by the record alone, so that the same records are cut into the same files."""
    return (len(message) * 4) // 3 + len(message.key() or b"") + _LINE_BYTES


def ts_ms_of(message: Message) -> int | None:
    """The record time in milliseconds; None where Kafka has none."""
    kind, ts_ms = message.timestamp()
    return None if kind == TIMESTAMP_NOT_AVAILABLE else ts_ms


def _written(message: Message) -> WrittenLine:
    key = message.key()
    text, raw = None, None
    if key is not None:
        try:
            text = key.decode()
        except UnicodeDecodeError:
            raw = key
    return WrittenLine(
        ts_ms_of(message),
        text,
        message.value(),
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        raw,
        cast(list[tuple[str, bytes | None]], message.headers() or []),
    )
