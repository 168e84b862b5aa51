"""How far a source has been read: the record of the cursors topic, which is committed together with the reads.

The last one of a source is where the adapter goes on. Besides the position it has, for every partition, the offset
from which published records are read back, so that those that the head-end gives again are known.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

VERSION = 1
PositionKind = Literal["period", "page", "offset", "cursor", "link"]


class PositionError(ValueError):
    """A stored position that does not fit the source: says what to do."""


class Position(Struct, frozen=True, omit_defaults=True):
    """One of them, as the source's paging is."""

    kind: PositionKind
    until: int | None = None
    """Of a period: up to when everything was asked for, in microseconds."""
    number: int | None = None
    """Page or offset to ask with next."""
    text: str | None = None
    """Cursor or link to ask with next; None at the begin."""


class Cursor(Struct, frozen=True):
    """The record."""

    version: int
    source: str
    sequence: int
    """Greater by one with every commit: the greatest is the last, in whatever partition it is."""
    position: Position
    remembered_from: dict[str, dict[str, int]]
    """By topic and partition: where the records begin that may come again."""
    updated: str


def encode_cursor(cursor: Cursor) -> bytes:
    return msgspec.json.encode(cursor)


def decode_cursor(value: bytes) -> Cursor:
    """Raises PositionError."""
    try:
        cursor = msgspec.json.decode(value, type=Cursor)
    except msgspec.DecodeError as error:
        raise PositionError(f"a record of the cursors topic cannot be read: {error}") from None
    if cursor.version > VERSION:
        raise PositionError(f"the position of {cursor.source} was written by a newer version; run that one")
    return cursor
