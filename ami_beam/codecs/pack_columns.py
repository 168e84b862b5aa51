"""From columns of accepted reads to blocks by shard and window: what `read_block.pack` does, on whole columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np

from ami_beam.codecs.number_columns import MICRO_KWH, Scaled
from ami_beam.codecs.read_block import (
    APPORTIONED,
    CENTIVOLT,
    ESTIMATED,
    SAG,
    SWELL,
    VOLTAGE_REJECTED,
    ZERO_VOLTAGE,
    ReadBlock,
    encode_block,
)
from ami_beam.quality_map import QualityMap
from ami_beam.read_columns import Flags, Ints, ReadColumns, flags, floats, ints, is_interval
from ami_beam.shards import shard_of


class _Numbers(dict[str, int]):
    """`numbers[name]` is the same number for the same name, counted from 0."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number

    def of(self, names: list[str]) -> Ints:
        return np.fromiter(map(self.__getitem__, names), np.int64, len(names))


class PendingReads:
    """INTERVAL reads that wait to be packed, without what packing does not need. Other read types are left out.

    Args:
      window: its length, microseconds.
      quality_map: which power quality codes are sags and swells; None: none is.
    """

    def __init__(self, window: int, quality_map: QualityMap | None = None) -> None:
        self._window = window
        self._quality: list[tuple[Ints, np.int8]] = []
        if quality_map is not None:
            self._quality += [
                (np.array(quality_map.codes("SAG"), np.int64), np.int8(SAG)),
                (np.array(quality_map.codes("SWELL"), np.int64), np.int8(SWELL)),
            ]
        self._numbers = _Numbers()
        self._meters: list[list[str]] = []
        self._counts_as: list[list[str]] = []
        """As `_meters`; nothing until a meter counts as another one."""
        self._columns: list[tuple[Any, ...]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, reads: ReadColumns) -> None:
        """Take reads in, behind those that are there."""
        meters, counts_as = reads.meter_id, reads.counts_as
        marks = (
            flags(reads.estimated_flag) * np.int8(ESTIMATED)
            + flags(reads.voltage_rejected) * np.int8(VOLTAGE_REJECTED)
            + flags(reads.zero_voltage) * np.int8(ZERO_VOLTAGE)
        )
        for codes, mark in self._quality:
            marks += np.isin(ints(reads.power_quality_code), codes) * mark
        if reads.apportioned:
            marks += flags(reads.apportioned) * np.int8(APPORTIONED)
        ends = ints(reads.interval_end)
        missing = np.maximum(self._window - (ends - ints(reads.interval_start)), 0)
        columns: tuple[Any, ...] = (
            self._numbers.of(reads.transformer_id), self._numbers.of(reads.feeder_id), ints(reads.window_end),
            ends, ints(reads.read_ts), ints(reads.record_time), ints(reads.partition),
            ints(reads.offset), floats(reads.consumption_kwh), floats(reads.delivered_kwh), floats(reads.received_kwh),
            floats(reads.voltage_v), marks, missing,
        )  # fmt: skip
        interval = is_interval(reads)
        if not interval.all():
            chosen = np.flatnonzero(interval)
            meters = [meters[i] for i in chosen.tolist()]
            counts_as = [counts_as[i] for i in chosen.tolist()] if counts_as else []
            columns = tuple(column[chosen] for column in columns)
        if meters:
            if counts_as and not self._counts_as:
                self._counts_as = list(self._meters)
            if counts_as or self._counts_as:
                self._counts_as.append(counts_as or meters)
            self._meters.append(meters)
            self._columns.append(columns)
            self._count += len(meters)

    def blocks(self, shards: int, collection_delay: int | None = None) -> Iterator[tuple[int, bool, ReadBlock]]:
        """(shard of transformers, False, block) for every shard and window of which there is a read.

        With a `collection_delay` (microseconds) the reads whose window was due before their record time are apart:
        (shard, True, block) for every shard of which there are some. Such a block mixes windows, and its `window_end`
        is only what its times are counted from. Each read is in exactly one block; reads of a block keep their order.
        The blocks unpack to the same numbers as those of `pack`.
        """
        if not self._count:
            return
        (
            transformer, feeder, window_end, interval_end, read_ts, record_time, partition, offset,
            consumption, delivered, received, voltage, marks, missing,
        ) = (np.concatenate(parts) for parts in zip(*self._columns, strict=True))  # fmt: skip
        names = list(self._numbers)
        shard = np.array([shard_of(name, shards) for name in names], np.int64)[transformer]
        if collection_delay is not None:
            late: Flags = record_time >= window_end + collection_delay
            if late.any():
                window_end = np.where(late, window_end.max(), window_end)
                shard = np.where(late, shard + shards, shard)
        order = np.lexsort((shard, window_end))
        shard, window_end = shard[order], window_end[order]
        all_meters = list(chain.from_iterable(self._meters))
        meters = [all_meters[i] for i in order.tolist()]
        counts_as = None
        if self._counts_as:
            all_counts_as = list(chain.from_iterable(self._counts_as))
            counts_as = [all_counts_as[i] for i in order.tolist()]
        short = missing[order] if missing.any() else None
        transformer, feeder = transformer[order], feeder[order]
        interval_end, read_ts, record_time = interval_end[order], read_ts[order], record_time[order]
        partition, offset = partition[order], offset[order]
        kwh = [Scaled(column[order], MICRO_KWH) for column in (consumption, delivered, received)]
        volts, marks = Scaled(voltage[order], CENTIVOLT), marks[order].astype(np.int64)
        begins = (shard[1:] != shard[:-1]) | (window_end[1:] != window_end[:-1])
        starts = np.flatnonzero(np.concatenate(([True], begins))).tolist()
        for first, last in pairwise([*starts, len(order)]):
            place, cut = int(shard[first]), slice(first, last)
            yield (
                place % shards,
                place >= shards,
                encode_block(
                    int(window_end[first]), names, transformer, feeder, meters, interval_end, read_ts,
                    record_time, partition, offset, kwh[0], kwh[1], kwh[2], volts, marks, cut, short,
                    counts_as,
                ),
            )  # fmt: skip
