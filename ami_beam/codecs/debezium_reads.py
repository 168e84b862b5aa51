"""Interval reads as rows of a head-end's table, whose changes Debezium publishes: held against the very same rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import astuple

from ami_beam.codecs import checks
from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.debezium import (
    DECIMAL,
    UNAVAILABLE,
    Column,
    Columns,
    Envelopes,
    RowKinds,
    change_of,
    decimal,
    instant,
    is_number,
    may_be_base64,
    number,
    row_deleted,
    row_of,
    without_tombstones,
)
from ami_beam.codecs.json_reads import ReadDecoder, _Candidates, _WireRead, one_text
from ami_beam.codecs.strict_json import may_be_too_deep
from ami_beam.read_columns import Flags, ReadColumns
from ami_beam.records import DeadLetter, Read, RecordBatch
from ami_beam.settings import Settings

READ_ROW = RowKinds(
    instants=frozenset(("interval_start", "interval_end", "read_ts")),
    numbers=frozenset(("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")),
    integers=frozenset(("power_quality_code",)),
)
_PLACES = {name: place for place, name in enumerate(_WireRead.__struct_fields__)}
_PLAIN_NUMBERS = ("float", "double", "float32", "float64", "int8", "int16", "int32", "int64")


class _Scaled(Struct, gc=False, forbid_unknown_fields=True):
    """A decimal that says its scale."""

    scale: int
    value: str


class _WireRow(Struct, gc=False):
    """What `_WireRead` is, of rows whose timestamps or numbers are written in another way. Fields in the same order."""

    meter_id: str
    service_point_id: str
    customer_id: str
    transformer_id: str
    feeder_id: str
    read_type: str
    interval_start: str | int
    interval_end: str | int
    consumption_kwh: float | str | _Scaled
    delivered_kwh: float | str | _Scaled
    received_kwh: float | str | _Scaled
    power_quality_code: int | str | _Scaled
    estimated_flag: bool
    read_ts: str | int
    voltage_v: float | str | _Scaled | None = None


class _PlainChange(Struct, gc=False):
    op: Literal["c", "u", "r"]
    after: _WireRead


class _OtherChange(Struct, gc=False):
    op: Literal["c", "u", "r"]
    after: _WireRow


class _Delete(Struct, gc=False):
    op: Literal["d"]


class DebeziumReadDecoder(ReadDecoder):
    """What `ReadDecoder` promises, of changes of a table of reads: the same acceptance and the same reasons.

    Inserts, updates and rows of snapshots are reads; which of several versions counts is decided where it is for
    resent reads. Deletes and truncates are dead letters. Tombstones are neither: whoever counts records counts them.

    Args: as for `ReadDecoder`.
    """

    def __init__(self, settings: Settings, keep_customers: bool = False) -> None:
        super().__init__(settings, keep_customers)
        self._envelopes = Envelopes()
        self._plain = msgspec.json.Decoder(_PlainChange)
        self._other = msgspec.json.Decoder(_OtherChange)
        self._delete = msgspec.json.Decoder(_Delete)
        self._mostly_plain = True

    def __reduce__(self) -> Any:
        return DebeziumReadDecoder, (self._settings, self._keep_customers)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[ReadColumns, list[DeadLetter]]:
        return super().decode(without_tombstones(batch), now)

    def decode_carefully(self, batch: RecordBatch, now: int | None) -> tuple[list[Read], list[DeadLetter]]:
        return super().decode_carefully(without_tombstones(batch), now)

    def _wires(self, values: list[bytes]) -> list[_WireRead] | None:
        head = self._envelopes.head_of(values[0])
        if head:
            if not all(value.startswith(head) and value.endswith(b"}") for value in values):
                return None
            begin = len(head)
            values = [value[begin:-1] for value in values]
        lines = one_text(values)
        if lines is None:
            return None
        columns = self._envelopes.columns(head)
        if self._expects_plain(columns):
            try:
                return [change.after for change in self._plain.decode_lines(lines)]
            except msgspec.ValidationError:
                if columns is not None:
                    raise
        rows = [change.after for change in self._other.decode_lines(lines)]
        found = _converted(rows, columns)
        self._mostly_plain = all(type(row.consumption_kwh) is float for row in rows)
        return found

    def _wire(self, value: bytes) -> _WireRead:
        head, value = self._payload(value)
        if may_be_too_deep(value):
            raise ValueError("perhaps too deep")
        if not value.isascii():
            value.decode("utf-8")
        columns = self._envelopes.columns(head)
        if self._expects_plain(columns):
            return self._plain.decode(value).after
        (found,) = _converted([self._other.decode(value).after], columns)
        return found

    def _payload(self, value: bytes) -> tuple[bytes, bytes]:
        """What stands before the payload, and the payload, which is a document if the value is one."""
        head = self._envelopes.head_of(value)
        if not head:
            return head, value
        if not value.endswith(b"}"):
            raise ValueError("something is behind the payload")
        return head, value[len(head) : -1]

    def _acceptable(self, found: _Candidates, greatest: int) -> Flags:
        acceptable = super()._acceptable(found, greatest)
        for ids in (
            found.meter_ids, found.service_point_ids, found.customer_ids, found.transformer_ids, found.feeder_ids,
        ):  # fmt: skip
            if UNAVAILABLE in ids:
                acceptable &= np.array([each != UNAVAILABLE for each in ids])
        return acceptable

    def _expects_plain(self, columns: Columns | None) -> bool:
        """Whether rows are most probably written as plain JSON has them; those that are not are found not to be."""
        return self._mostly_plain if columns is None else _are_plain(columns)

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return row_of(change_of(value), READ_ROW)

    def _fields_quickly(self, value: bytes | None) -> checks.Fields:
        # A head-end that deletes old reads deletes as many as it inserts.
        if value is not None:
            with suppress(ValueError):
                self._delete.decode(self._payload(value)[1])
                raise row_deleted()
        return row_of(self._envelopes.change_of(value), READ_ROW)


def _are_plain(columns: Columns) -> bool:
    texts = all(columns[name].type == "string" for name in READ_ROW.instants if name in columns)
    numbers = (columns[name] for name in (*READ_ROW.numbers, *READ_ROW.integers) if name in columns)
    return texts and all(column.type in _PLAIN_NUMBERS for column in numbers)


def _converted(rows: Sequence[_WireRow], columns: Columns | None) -> list[_WireRead]:
    """Rows as plain JSON has them, column by column. Raises ValueError where one of them needs a closer look."""
    flat = list(chain.from_iterable(map(astuple, rows)))
    width = len(_PLACES)
    known = columns or {}
    try:
        for name in READ_ROW.instants:
            column = known.get(name)
            flat[_PLACES[name] :: width] = [
                value if type(value) is str else instant(name, value, column) for value in flat[_PLACES[name] :: width]
            ]
        for name in READ_ROW.numbers:
            convert = _numbers(name, known.get(name))
            flat[_PLACES[name] :: width] = [
                value if type(value) is float or value is None else convert(value)
                for value in flat[_PLACES[name] :: width]
            ]
        for name in READ_ROW.integers:
            column = known.get(name)
            flat[_PLACES[name] :: width] = [
                value if type(value) is int else _whole(name, value, column) for value in flat[_PLACES[name] :: width]
            ]
    except Rejection as rejection:
        raise ValueError(rejection.detail) from None
    return [_checked(flat[begin : begin + width]) for begin in range(0, len(flat), width)]


def _checked(fields: list[Any]) -> _WireRead:
    """The read of these fields. Raises ValueError where msgspec's own checks of a `_WireRead` would."""
    if not all(fields[:5]) or fields[5] not in ("INTERVAL", "DAILY", "EVENT"):
        raise ValueError("an empty id or an unknown type")
    if not checks.MIN_INT64 <= fields[_PLACES["power_quality_code"]] <= checks.MAX_INT64:
        raise ValueError("out of range")
    return _WireRead(*fields)


def _numbers(name: str, column: Column | None) -> Callable[[Any], float]:
    """What makes a float of a value that is none."""

    def of_bytes(value: Any) -> float:
        return decimal(name, value, scale) if type(value) is str else decimal(name, value.value, value.scale)

    def of_text(value: Any) -> float:
        if type(value) is not str:
            return decimal(name, value.value, value.scale)
        if not is_number(value) or (not certain and may_be_base64(value)):
            raise ValueError("no number")
        return float(value)

    scale = None if column is None else column.scale
    certain = column is not None and column.type == "string"
    return of_bytes if column is not None and column.name == DECIMAL else of_text


def _whole(name: str, value: Any, column: Column | None) -> int:
    if isinstance(value, _Scaled):
        value = {"scale": value.scale, "value": value.value}
    found = number(name, value, column, whole=True)
    if type(found) is not int:
        raise ValueError("no integer")
    return found
