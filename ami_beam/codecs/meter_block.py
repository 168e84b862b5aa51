"""Reads of meters as columns, with whom they belong to: how they cross a shuffle and wait in state for billing.

As `read_block`, for other consumers: the beginning of the interval, service point and customer are there, voltages and
feeders are not. Nothing is lost: `unpack([pack(columns)])` gives the same values back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from ami_beam.codecs.number_columns import MICRO_KWH, Scaled, decoded, decoded_kwh, encoded
from ami_beam.coders import carries
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND
from ami_beam.packing import compressed, decompressed
from ami_beam.read_columns import Flags, Floats, Ints


class MeterBlock(Struct, array_like=True, gc=False):
    """Columns of reads; those of bytes are as in `number_columns`."""

    base: int
    """What instants are counted from, microseconds."""
    first_record_time: int
    last_record_time: int
    first_offset: int
    time_unit: int
    """Microseconds of one step of `record_times`."""
    read_ts_unit: int
    meters: list[str]
    service_points: list[str]
    customers: list[str]
    """Empty where there are none."""
    names: list[str]
    """Transformers, each once."""
    transformers: bytes
    starts: bytes
    """Before `base`, microseconds; likewise the ends."""
    ends: bytes
    read_ts: bytes
    """After `base`, in read_ts_unit."""
    record_times: bytes
    """After first_record_time, in time_unit."""
    partitions: bytes
    offsets: bytes
    consumption: bytes
    """Micro-kWh or kWh; likewise the others."""
    delivered: bytes
    received: bytes
    estimated: bytes


class Version(NamedTuple):
    """A read of an interval; from `service_point_id` on equal values are the same content."""

    meter_id: str
    interval_end: int
    read_ts: int
    actual: bool
    record_time: int
    partition: int
    offset: int
    service_point_id: str
    customer_id: str | None
    transformer_id: str
    interval_start: int
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float


@dataclass(slots=True)
class MeterColumns:
    """Reads as arrays and lists, value i of each belongs to read i. Names and units as in `Read`."""

    meter_id: list[str]
    service_point_id: list[str]
    customer_id: list[str]
    """Empty where there are none."""
    transformer_id: list[str]
    interval_start: Ints
    interval_end: Ints
    read_ts: Ints
    record_time: Ints
    partition: Ints
    offset: Ints
    consumption_kwh: Floats
    delivered_kwh: Floats
    received_kwh: Floats
    estimated: Flags

    def __len__(self) -> int:
        return len(self.meter_id)

    def take(self, positions: Ints) -> MeterColumns:
        """The reads at `positions`, in that order."""
        places = positions.tolist()
        return MeterColumns(
            [self.meter_id[i] for i in places],
            [self.service_point_id[i] for i in places],
            [self.customer_id[i] for i in places] if self.customer_id else [],
            [self.transformer_id[i] for i in places],
            self.interval_start[positions], self.interval_end[positions], self.read_ts[positions],
            self.record_time[positions], self.partition[positions], self.offset[positions],
            self.consumption_kwh[positions], self.delivered_kwh[positions], self.received_kwh[positions],
            self.estimated[positions],
        )  # fmt: skip

    def of(self, meters: Collection[str]) -> MeterColumns:
        """The reads of these meters."""
        return self.take(np.array([i for i, meter in enumerate(self.meter_id) if meter in meters], np.int64))

    def versions(self) -> list[Version]:
        """The reads one by one."""
        return list(
            map(
                Version,
                self.meter_id,
                self.interval_end.tolist(),
                self.read_ts.tolist(),
                (~self.estimated).tolist(),
                self.record_time.tolist(),
                self.partition.tolist(),
                self.offset.tolist(),
                self.service_point_id,
                self.customer_id or repeat(None),
                self.transformer_id,
                self.interval_start.tolist(),
                self.consumption_kwh.tolist(),
                self.delivered_kwh.tolist(),
                self.received_kwh.tolist(),
            )
        )

    def block(self) -> MeterBlock:
        """The block of these reads. There must be at least one."""
        base, first_time = int(self.interval_end[0]), int(self.record_time.min())
        first_offset = int(self.offset.min())
        ages, stamps = self.record_time - first_time, self.read_ts - base
        time_unit = 1 if (ages % MICROS_PER_MILLI).any() else MICROS_PER_MILLI
        stamp_unit = 1 if (stamps % MICROS_PER_SECOND).any() else MICROS_PER_SECOND
        names: dict[str, int] = {}
        numbers = [names.setdefault(name, len(names)) for name in self.transformer_id]
        whole = slice(None)
        return MeterBlock(
            base=base,
            first_record_time=first_time,
            last_record_time=int(self.record_time.max()),
            first_offset=first_offset,
            time_unit=time_unit,
            read_ts_unit=stamp_unit,
            meters=self.meter_id,
            service_points=self.service_point_id,
            customers=self.customer_id,
            names=list(names),
            transformers=encoded(np.array(numbers, np.int64)),
            starts=encoded(base - self.interval_start),
            ends=encoded(base - self.interval_end),
            read_ts=encoded(stamps // stamp_unit),
            record_times=encoded(ages // time_unit),
            partitions=encoded(self.partition),
            offsets=encoded(self.offset - first_offset),
            consumption=Scaled(self.consumption_kwh, MICRO_KWH).encoded(whole),
            delivered=Scaled(self.delivered_kwh, MICRO_KWH).encoded(whole),
            received=Scaled(self.received_kwh, MICRO_KWH).encoded(whole),
            estimated=encoded(self.estimated.astype(np.int64)),
        )


def joined(parts: Sequence[MeterColumns]) -> MeterColumns:
    """All reads of `parts`, in order. There must be at least one."""
    if len(parts) == 1:
        return parts[0]
    made: list[Any] = []
    for name in MeterColumns.__slots__:
        columns = [getattr(part, name) for part in parts]
        made.append(list(chain.from_iterable(columns)) if isinstance(columns[0], list) else np.concatenate(columns))
    return MeterColumns(*made)


def _columns(block: MeterBlock) -> MeterColumns:
    count, names = len(block.meters), block.names
    return MeterColumns(
        block.meters,
        block.service_points,
        block.customers,
        [names[number] for number in decoded(block.transformers, count).tolist()],
        block.base - decoded(block.starts, count),
        block.base - decoded(block.ends, count),
        block.base + decoded(block.read_ts, count) * block.read_ts_unit,
        block.first_record_time + decoded(block.record_times, count) * block.time_unit,
        decoded(block.partitions, count),
        block.first_offset + decoded(block.offsets, count),
        decoded_kwh(block.consumption, count),
        decoded_kwh(block.delivered, count),
        decoded_kwh(block.received, count),
        decoded(block.estimated, count).astype(np.bool_),
    )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MeterBlock).decode


class MeterReads(Struct, array_like=True, gc=False):
    """Reads in as few bytes as they take: how they cross the shuffle, and how they wait in state for weeks."""

    first_record_time: int
    last_record_time: int
    count: int
    data: bytes
    """A `MeterBlock`, compressed."""


carries(MeterReads)


def pack(columns: MeterColumns) -> MeterReads:
    """The reads packed. There must be at least one."""
    block = columns.block()
    return MeterReads(block.first_record_time, block.last_record_time, len(columns), compressed(_encode(block)))


def unpack(packed: Sequence[MeterReads]) -> MeterColumns:
    """The reads of all that was packed, in order. There must be at least one."""
    return joined([_columns(_decode(decompressed(each.data))) for each in packed])
