"""Many Avro records of one flat schema as columns, field by field over all records at once.

What fastavro does record by record costs four times as much; it stays the definition, and whatever is not as plain as
nearly all records are is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ami_beam.codecs.writer_schemas import HEAD_BYTES
from ami_beam.read_columns import Bytes, Flags, Floats, Ints

_VARINT_BYTES = 9
"""Of a number below 2**63 in zigzag coding at most; one of ten bytes is rare, and fastavro reads it."""
_FLAT = ("string", "int", "long", "float", "double", "boolean", "null")


class NotPlainError(ValueError):
    """Something in these records needs to be looked at one by one."""


@dataclass(frozen=True)
class Column:
    """A field of all records. Where `present` is False there is null, and what `values` has there means nothing."""

    kind: str
    """The Avro type that is not null; `null` where there is no other."""
    values: Any
    """Texts as a list, numbers and conditions as an array."""
    present: Flags | None
    """None where the field cannot be null."""

    @property
    def complete(self) -> bool:
        """Whether no record has null there."""
        return self.kind != "null" and (self.present is None or bool(self.present.all()))


def steps_of(fields: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str, int | None], ...] | None:
    """How records of these fields are read: name, type, and where null stands in a union of both. None: not here."""
    steps: list[tuple[str, str, int | None]] = []
    for name, kind in fields:
        place: int | None = None
        if isinstance(kind, list):
            if len(kind) != 2 or "null" not in kind:
                return None
            place = kind.index("null")
            kind = kind[1 - place]
        if not isinstance(kind, str) or kind not in _FLAT:
            return None
        steps.append((name, kind, place))
    return tuple(steps)


def columns(
    values: Sequence[bytes], steps: Sequence[tuple[str, str, int | None]], wanted: frozenset[str]
) -> dict[str, Column]:
    """The wanted fields of records in wire format, all of one schema. Raises NotPlainError, also for broken records."""
    data = b"".join(values)
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    reader = _Reader(data, np.cumsum(lengths) - lengths + HEAD_BYTES, np.cumsum(lengths))
    found: dict[str, Column] = {}
    for name, kind, null in steps:
        column = reader.column(kind, null, name in wanted)
        if name in wanted:
            found[name] = column
    if not (reader.at == reader.ends).all():
        raise NotPlainError("bytes are left")
    return found


class _Reader:
    """A place in each of many records, which moves on with every field that is read."""

    def __init__(self, data: bytes, starts: Ints, ends: Ints) -> None:
        self._data = data
        # So that what begins at a record's end can be looked at before it is refused.
        self._octets: Bytes = np.frombuffer(data + bytes(16), np.uint8)
        self.at = starts
        self.ends = ends
        self._text: str | None = None
        self._foreign: Ints | None = None

    def column(self, kind: str, null: int | None, wanted: bool) -> Column:
        if null is None:
            return Column(kind, self._read(kind, wanted), None)
        branch = self._varint()
        if not ((branch == 0) | (branch == 1)).all():
            raise NotPlainError("no such branch")
        present = branch != null
        if present.all():
            return Column(kind, self._read(kind, wanted), present)
        # The others stand still meanwhile.
        some = np.flatnonzero(present)
        all_at, all_ends = self.at, self.ends
        self.at, self.ends = all_at[some], all_ends[some]
        read = self._read(kind, wanted)
        all_at[some] = self.at
        self.at, self.ends = all_at, all_ends
        return Column(kind, _spread(kind, read, some, len(present)) if wanted else None, present)

    def _read(self, kind: str, wanted: bool) -> Any:
        if kind == "null":
            return None
        return _READERS[kind](self, wanted)

    def _moved(self, by: Any) -> None:
        self.at = self.at + by
        if (self.at > self.ends).any():
            raise NotPlainError("a record ends early")

    def _varint(self) -> Ints:
        octets, at = self._octets, self.at
        byte = octets[at]
        value = (byte & 0x7F).astype(np.int64)
        width = np.ones(len(at), np.int64)
        more = byte >= 0x80
        for place in range(1, _VARINT_BYTES + 1):
            if not more.any():
                break
            if place == _VARINT_BYTES:
                raise NotPlainError("a long number")
            byte = np.where(more, octets[np.minimum(at + place, len(octets) - 1)], 0)
            value |= (byte & 0x7F).astype(np.int64) << (7 * place)
            width += more
            more = byte >= 0x80
        self._moved(width)
        return (value >> 1) ^ -(value & 1)

    def integers(self, wanted: bool) -> Ints:
        return self._varint()

    def texts(self, wanted: bool) -> list[str] | None:
        lengths = self._varint()
        if not ((lengths >= 0) & (lengths <= self.ends - self.at)).all():
            raise NotPlainError("a text ends early")
        begins = self.at
        self._moved(lengths)
        ends = self.at
        # One conversion of all bytes, and slices of it, are the texts wherever they are ASCII.
        if self._foreign is None:
            self._foreign = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._octets >= 0x80)])
            self._text = self._data.decode("latin-1")
        assert self._text is not None
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        if (self._foreign[ends] == self._foreign[begins]).all():
            text = self._text
            return [text[begin:end] for begin, end in spans] if wanted else None
        try:
            found = [self._data[begin:end].decode("utf-8") for begin, end in spans]
        except UnicodeDecodeError:
            raise NotPlainError("a text is not UTF-8") from None
        return found if wanted else None

    def doubles(self, wanted: bool) -> Floats:
        return self._fixed(8).view("<f8")[:, 0]

    def floats(self, wanted: bool) -> Floats:
        return self._fixed(4).view("<f4")[:, 0].astype(np.float64)

    def conditions(self, wanted: bool) -> Flags:
        octets = self._fixed(1)[:, 0]
        if (octets > 1).any():
            raise NotPlainError("a condition that is neither")
        return octets.astype(np.bool_)

    def _fixed(self, size: int) -> Bytes:
        begins = self.at
        self._moved(size)
        return self._octets[begins[:, None] + np.arange(size)]


def _spread(kind: str, read: Any, some: Ints, count: int) -> Any:
    """Values of some records at their places among all."""
    if kind == "string":
        texts: list[str | None] = [None] * count
        for place, text in zip(some.tolist(), read, strict=True):
            texts[place] = text
        return texts
    if kind == "null":
        return None
    spread = np.zeros(count, read.dtype)
    spread[some] = read
    return spread


_READERS: dict[str, Callable[[_Reader, bool], Any]] = {
    "string": _Reader.texts,
    "int": _Reader.integers,
    "long": _Reader.integers,
    "double": _Reader.doubles,
    "float": _Reader.floats,
    "boolean": _Reader.conditions,
}
