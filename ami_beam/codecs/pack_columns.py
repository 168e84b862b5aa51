"""From columns of accepted reads to blocks by shard and window: what `read_block.pack` does, on whole columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ami_beam.codecs.read_block import (
    CENTIVOLT,
    ESTIMATED,
    MICRO_KWH,
    SCALABLE,
    VOLTAGE_REJECTED,
    ZERO_VOLTAGE,
    ReadBlock,
)
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND
from ami_beam.read_columns import Flags, Floats, Ints, ReadColumns, flags, floats, ints
from ami_beam.shards import shard_of


def pack_columns(reads: ReadColumns, shards: int) -> Iterator[tuple[int, ReadBlock]]:
    """(shard of transformers, block) for every shard and window of which `reads` holds an INTERVAL read.

    Each such read is in exactly one block; reads of a block keep their order. Other read types are left out. The
    blocks unpack to the same numbers as those of `pack`.
    """
    shard = np.array([shard_of(name, shards) for name in reads.transformer_id], np.int64)
    window_end = ints(reads.window_end)
    if reads.read_type.count("INTERVAL") == len(reads):
        order = np.lexsort((shard, window_end))
    else:
        chosen = np.flatnonzero(np.array([kind == "INTERVAL" for kind in reads.read_type], np.bool_))
        order = chosen[np.lexsort((shard[chosen], window_end[chosen]))]
    if not len(order):
        return
    shard, window_end = shard[order], window_end[order]
    positions = order.tolist()
    transformers = [reads.transformer_id[i] for i in positions]
    feeders = [reads.feeder_id[i] for i in positions]
    meters = [reads.meter_id[i] for i in positions]
    before_end = window_end - ints(reads.interval_end)[order]
    read_ts = ints(reads.read_ts)[order] - window_end
    record_time = ints(reads.record_time)[order]
    partition, offset = ints(reads.partition)[order], ints(reads.offset)[order]
    marks = (
        flags(reads.estimated_flag) * np.int64(ESTIMATED)
        + flags(reads.voltage_rejected) * np.int64(VOLTAGE_REJECTED)
        + flags(reads.zero_voltage) * np.int64(ZERO_VOLTAGE)
    )[order]
    consumption = _Scaled(floats(reads.consumption_kwh)[order], MICRO_KWH)
    delivered = _Scaled(floats(reads.delivered_kwh)[order], MICRO_KWH)
    received = _Scaled(floats(reads.received_kwh)[order], MICRO_KWH)
    voltage = _Scaled(floats(reads.voltage_v)[order], CENTIVOLT)

    starts = np.flatnonzero(np.concatenate(([True], (shard[1:] != shard[:-1]) | (window_end[1:] != window_end[:-1]))))
    bounds = [*starts.tolist(), len(order)]
    for first, last in pairwise(bounds):
        cut = slice(first, last)
        times, stamps, offsets = record_time[cut], read_ts[cut], offset[cut]
        first_time, first_offset = int(times.min()), int(offsets.min())
        ages = times - first_time
        time_unit = 1 if (ages % MICROS_PER_MILLI).any() else MICROS_PER_MILLI
        stamp_unit = 1 if (stamps % MICROS_PER_SECOND).any() else MICROS_PER_SECOND
        names: dict[str, int] = {}
        yield (
            int(shard[first]),
            ReadBlock(
                window_end=int(window_end[first]),
                first_record_time=first_time,
                last_record_time=int(times.max()),
                time_unit=time_unit,
                read_ts_unit=stamp_unit,
                first_offset=first_offset,
                # The index of transformers first, then feeders: the names are made in this order.
                transformers=_squeeze_list([names.setdefault(name, len(names)) for name in transformers[cut]]),
                feeders=_squeeze_list([names.setdefault(name, len(names)) for name in feeders[cut]]),
                names=list(names),
                meters=meters[cut],
                interval_ends=_squeeze(before_end[cut]),
                read_ts=_squeeze(stamps // stamp_unit),
                record_times=_squeeze(ages // time_unit),
                partitions=_squeeze(partition[cut]),
                offsets=_squeeze(offsets - first_offset),
                consumption=_squeeze_list(consumption.values(cut)),
                delivered=_squeeze_list(delivered.differences(consumption, cut)),
                received=_squeeze_list(received.values(cut)),
                voltages=_squeeze_list(voltage.values(cut)),
                flags=_squeeze(marks[cut]),
            ),
        )


class _Scaled:
    """Floats as whole numbers of 1/scale, and which of them that says exactly."""

    def __init__(self, column: Floats, scale: int):
        self._column = column
        scalable: Flags = np.abs(column) < SCALABLE  # False for NaN, which stands for None
        self._whole: Ints = np.rint(np.where(scalable, column, 0) * scale).astype(np.int64)
        # Divided and compared: the integer must give the same float back.
        self._exact: Flags = scalable & (self._whole / scale == column)

    def values(self, cut: slice) -> list[int | float | None]:
        """The integer where it is exact, else the float; None for NaN."""
        if self._exact[cut].all():
            return self._whole[cut].tolist()
        return [
            whole if exact else None if value != value else value
            for whole, exact, value in zip(
                self._whole[cut].tolist(), self._exact[cut].tolist(), self._column[cut].tolist(), strict=True
            )
        ]

    def differences(self, base: _Scaled, cut: slice) -> list[int | float]:
        """The difference to `base` where both are exact, else the float."""
        exact = self._exact[cut] & base._exact[cut]
        differences = self._whole[cut] - base._whole[cut]
        if exact.all():
            return differences.tolist()
        return [
            difference if is_exact else value
            for difference, is_exact, value in zip(
                differences.tolist(), exact.tolist(), self._column[cut].tolist(), strict=True
            )
        ]


def _squeeze(column: Ints) -> list[int]:
    if (column == column[0]).all():
        return [int(column[0])]
    return column.tolist()


def _squeeze_list(column: list) -> list:
    return column[:1] if column.count(column[0]) == len(column) else column
