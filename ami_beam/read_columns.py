"""Accepted reads as columns: how a batch goes from the decoder to the packer without an object a read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field

from ami_beam.coders import carries
from ami_beam.records import Read

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class ReadColumns(Struct, array_like=True, gc=False):
    """Reads in their order of arrival: value i of every column belongs to read i. Names and units as in `Read`.

    Numbers are little-endian 64-bit integers (`ints`) or floats (`floats`), conditions one byte each (`flags`); a
    voltage that is not there is NaN, which no JSON can send.
    """

    meter_id: list[str]
    service_point_id: list[str]
    transformer_id: list[str]
    feeder_id: list[str]
    read_type: list[str]
    interval_start: bytes
    interval_end: bytes
    consumption_kwh: bytes
    delivered_kwh: bytes
    received_kwh: bytes
    voltage_v: bytes
    power_quality_code: bytes
    estimated_flag: bytes
    read_ts: bytes
    window_end: bytes
    voltage_rejected: bytes
    zero_voltage: bytes
    record_time: bytes
    partition: bytes
    offset: bytes
    customer_id: list[str] = field(default_factory=list)
    """Empty where reads are without their customers."""
    apportioned: bytes = b""
    """Empty where no read is a part of a longer one."""
    counts_as: list[str] = field(default_factory=list)
    """Empty where every meter counts as itself."""

    def __len__(self) -> int:
        return len(self.meter_id)

    def reads(self) -> list[Read]:
        """The same reads one by one."""
        voltages = [None if voltage != voltage else voltage for voltage in floats(self.voltage_v).tolist()]
        columns: list[list[Any]] = []
        for name in self.__struct_fields__:
            column = getattr(self, name)
            if name == "voltage_v":
                columns.append(voltages)
            elif name in _FLOATS:
                columns.append(floats(column).tolist())
            elif name == "apportioned" and not column:
                columns.append([False] * len(self))
            elif name in _FLAGS:
                columns.append(flags(column).tolist())
            elif name in _OPTIONAL_TEXTS:
                columns.append(column or [None] * len(self))
            else:
                columns.append(column if isinstance(column, list) else ints(column).tolist())
        return [Read(*values) for values in zip(*columns, strict=True)]

    def take(self, positions: Ints) -> ReadColumns:
        """The reads at `positions`, in that order."""
        places = positions.tolist()
        made: list[Any] = []
        for name in self.__struct_fields__:
            column = getattr(self, name)
            if not column:
                made.append(column)
            elif isinstance(column, list):
                made.append([column[place] for place in places])
            else:
                # Only moved: eight bytes are eight bytes, whatever number they say.
                made.append((flags if name in _FLAGS else ints)(column)[positions].tobytes())
        return ReadColumns(*made)


_FLOATS = {"consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v"}
_FLAGS = {"estimated_flag", "voltage_rejected", "zero_voltage", "apportioned"}
_OPTIONAL_TEXTS = {"customer_id", "counts_as"}
_TEXTS = {"meter_id", "service_point_id", "transformer_id", "feeder_id", "read_type"} | _OPTIONAL_TEXTS
carries(ReadColumns)


def ints(column: bytes) -> Ints:
    return np.frombuffer(column, "<i8")


def floats(column: bytes) -> Floats:
    return np.frombuffer(column, "<f8")


def flags(column: bytes) -> Flags:
    return np.frombuffer(column, "?")


def is_interval(reads: ReadColumns) -> Flags:
    """Which reads are of the type INTERVAL."""
    if reads.read_type.count("INTERVAL") == len(reads):
        return np.ones(len(reads), np.bool_)
    return np.array([read_type == "INTERVAL" for read_type in reads.read_type], np.bool_)


def from_reads(reads: Sequence[Read]) -> ReadColumns:
    """The columns of `reads`."""
    rows = map(msgspec.structs.astuple, reads)
    columns = list(zip(*rows, strict=True)) or [()] * len(ReadColumns.__struct_fields__)
    made: list[Any] = []
    for name, column in zip(ReadColumns.__struct_fields__, columns, strict=True):
        if name == "counts_as":
            own = any(column)
            made.append([other or read.meter_id for other, read in zip(column, reads, strict=True)] if own else [])
        elif name in _TEXTS:
            made.append([] if None in column else list(column))
        elif name == "apportioned" and not any(column):
            made.append(b"")
        else:
            kind = "<f8" if name in _FLOATS else "?" if name in _FLAGS else "<i8"
            made.append(np.array(column, kind).tobytes())
    return ReadColumns(*made)


def joined(parts: Sequence[ReadColumns]) -> ReadColumns:
    """All reads of `parts`, in order."""
    if len(parts) == 1:
        return parts[0]
    made: list[Any] = []
    for name in ReadColumns.__struct_fields__:
        columns = [getattr(part, name) for part in parts]
        if name == "apportioned" and any(columns):
            columns = [column or bytes(len(part)) for column, part in zip(columns, parts, strict=True)]
        elif name == "counts_as" and any(columns):
            columns = [column or part.meter_id for column, part in zip(columns, parts, strict=True)]
        made.append(list(chain.from_iterable(columns)) if name in _TEXTS else b"".join(columns))
    return ReadColumns(*made)
