"""Intervals of meters that begin on one day, as they count or have ceased to: how they wait for the day's checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from ami_beam.codecs.number_columns import MICRO_KWH, Scaled, decoded, decoded_kwh, encoded
from ami_beam.coders import carries
from ami_beam.packing import compressed, decompressed
from ami_beam.read_columns import Flags, Floats, Ints


@dataclass(slots=True)
class DayColumns:
    """Intervals as arrays; names and units as in `Read`."""

    meter_id: list[str]
    start: Ints
    end: Ints
    consumption_kwh: Floats
    delivered_kwh: Floats
    received_kwh: Floats
    estimated: Flags
    record_time: Ints
    revision: Ints
    """Of two of one (meter, end) the greater is the newer."""
    gone: Flags
    """Whether the interval does not count on this day any more."""

    def __len__(self) -> int:
        return len(self.meter_id)

    def take(self, positions: Ints) -> DayColumns:
        """The intervals at `positions`, in that order."""
        meters = [self.meter_id[place] for place in positions.tolist()]
        return DayColumns(meters, *(getattr(self, name)[positions] for name in DayColumns.__slots__[1:]))


class DayReads(Struct, array_like=True, gc=False):
    """The same packed."""

    data: bytes


class _Block(Struct, array_like=True, gc=False):
    first_start: int
    first_record_time: int
    meters: list[str]
    columns: list[bytes]
    """As in `DayColumns`, instants after the first ones; of `number_columns`."""


carries(DayReads)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Block).decode


def pack_day(columns: DayColumns) -> DayReads:
    """The intervals packed. There must be at least one."""
    start, record_time = int(columns.start.min()), int(columns.record_time.min())
    whole = slice(None)
    block = _Block(
        start,
        record_time,
        columns.meter_id,
        [
            encoded(columns.start - start),
            encoded(columns.end - start),
            *(
                Scaled(kwh, MICRO_KWH).encoded(whole)
                for kwh in (columns.consumption_kwh, columns.delivered_kwh, columns.received_kwh)
            ),
            encoded(columns.estimated.astype(np.int64)),
            encoded(columns.record_time - record_time),
            encoded(columns.revision),
            encoded(columns.gone.astype(np.int64)),
        ],
    )
    return DayReads(compressed(_encode(block)))


def unpack_days(packed: Sequence[DayReads]) -> DayColumns:
    """The intervals of all that was packed, in order. There must be at least one."""
    parts = [_columns(_decode(decompressed(each.data))) for each in packed]
    made: list[Any] = [list(chain.from_iterable(part.meter_id for part in parts))]
    made += [np.concatenate([getattr(part, name) for part in parts]) for name in DayColumns.__slots__[1:]]
    return DayColumns(*made)


def _columns(block: _Block) -> DayColumns:
    count = len(block.meters)
    start, end, consumption, delivered, received, estimated, record_time, revision, gone = block.columns
    return DayColumns(
        meter_id=block.meters,
        start=decoded(start, count) + block.first_start,
        end=decoded(end, count) + block.first_start,
        consumption_kwh=decoded_kwh(consumption, count),
        delivered_kwh=decoded_kwh(delivered, count),
        received_kwh=decoded_kwh(received, count),
        estimated=decoded(estimated, count).astype(np.bool_),
        record_time=decoded(record_time, count) + block.first_record_time,
        revision=decoded(revision, count),
        gone=decoded(gone, count).astype(np.bool_),
    )
