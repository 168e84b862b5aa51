"""Packs what billing and customers need of reads, by meter, before the shuffle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.codecs.meter_block import MeterColumns, MeterReads, joined, pack
from ami_beam.local_days import days_of
from ami_beam.read_columns import Ints, ReadColumns, flags, floats, ints
from ami_beam.settings import Settings
from ami_beam.shards import shard_of

MAX_PENDING_READS = 300_000
ON_TIME, LATE, REGISTERS = "on_time", "late", "registers"

ShardDay = tuple[int, str]
"""(shard of meters, day of the utility's time zone)."""


class PackedMeterReads(NamedTuple):
    """What `PackMeterReads` gives."""

    on_time: beam.PCollection[tuple[tuple[int, int], MeterReads]]
    """Keyed by (shard of meters, window_end)."""
    late: beam.PCollection[tuple[int, MeterReads]]
    """Keyed by shard: reads of all windows that were due before the read's record time."""
    registers: beam.PCollection[tuple[ShardDay, MeterReads]]
    """DAILY reads."""


class PackMeterReads(beam.PTransform):
    """Every INTERVAL read is in exactly one block on time or late, every DAILY read in one of registers.

    Takes what `DecodeReads` gives for billing. A read is on time when its record time is before its window's end and
    collection delay. The shard is a stable hash of meter_id, so that all versions of an interval meet, whatever
    transformer they name. Nothing waits longer than its bundle.
    """

    def __init__(self, settings: Settings, max_pending: int = MAX_PENDING_READS):
        super().__init__()
        self._settings = settings
        self._max_pending = max_pending

    def expand(self, reads: beam.PCollection[ReadColumns]) -> PackedMeterReads:
        # Types first: after with_outputs they would not reach the outputs, which would then be pickled.
        packed = reads | "ByMeter" >> beam.ParDo(_PackDoFn(self._settings, self._max_pending)).with_output_types(
            tuple[tuple[int, int], MeterReads],
            late=tuple[int, MeterReads],
            registers=tuple[tuple[int, str], MeterReads],
        ).with_outputs(LATE, REGISTERS, main=ON_TIME)
        return PackedMeterReads(packed[ON_TIME], packed[LATE], packed[REGISTERS])


class _PackDoFn(beam.DoFn):
    def __init__(self, settings: Settings, max_pending: int):
        self._settings = settings
        self._max_pending = max_pending
        self._pending: list[ReadColumns] = []
        self._count = 0

    def start_bundle(self) -> None:
        self._pending, self._count = [], 0

    def process(self, reads: ReadColumns) -> Iterator[Any]:
        self._pending.append(reads)
        self._count += len(reads)
        if self._count >= self._max_pending:
            yield from self._flush(TimestampedValue)

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._flush(_in_global_window)

    def _flush(self, at: Callable[[Any, Timestamp], Any]) -> Iterator[Any]:
        pending, self._pending, self._count = self._pending, [], 0
        for tag, key, block in blocks_of(pending, self._settings):
            placed = at((key, block), Timestamp(micros=block.first_record_time))
            yield placed if tag == ON_TIME else TaggedOutput(tag, placed)


def _in_global_window(value: Any, at: Timestamp) -> WindowedValue:
    return WindowedValue(value, at, (GlobalWindow(),))


def blocks_of(parts: list[ReadColumns], settings: Settings) -> Iterator[tuple[str, Any, MeterReads]]:
    """(output, key, block) of all the reads; reads of a block keep their order."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return
    columns = joined([_meter_columns(part) for part in parts])
    window_end = np.concatenate([ints(part.window_end) for part in parts])
    kinds = [kind for part in parts for kind in part.read_type]
    shard = np.array([shard_of(meter, settings.shards) for meter in columns.meter_id], np.int64)
    if kinds.count("INTERVAL") < len(kinds):
        kind = np.array(kinds)
        daily = np.flatnonzero(kind == "DAILY")
        if len(daily):
            yield from _registers(columns.take(daily), shard[daily], settings)
        chosen = np.flatnonzero(kind == "INTERVAL")
        if not len(chosen):
            return
        columns, shard, window_end = columns.take(chosen), shard[chosen], window_end[chosen]
    late = columns.record_time >= window_end + settings.collection_delay
    for place in _groups(shard, np.where(late, 0, window_end)):
        first = int(place[0])
        block = pack(columns.take(place))
        if late[first]:
            yield LATE, int(shard[first]), block
        else:
            yield ON_TIME, (int(shard[first]), int(window_end[first])), block


def _registers(columns: MeterColumns, shard: Ints, settings: Settings) -> Iterator[tuple[str, Any, MeterReads]]:
    days, number = days_of(columns.interval_start, settings.time_zone)
    for place in _groups(shard, number):
        first = int(place[0])
        yield REGISTERS, (int(shard[first]), days[int(number[first])]), pack(columns.take(place))


def _groups(shard: Ints, other: Ints) -> Iterator[Ints]:
    """The positions of each pair of values, in order."""
    order = np.lexsort((other, shard))
    begins = (np.diff(shard[order]) != 0) | (np.diff(other[order]) != 0)
    starts = np.flatnonzero(np.concatenate(([True], begins))).tolist()
    for first, last in pairwise([*starts, len(order)]):
        yield order[first:last]


def _meter_columns(reads: ReadColumns) -> MeterColumns:
    return MeterColumns(
        reads.meter_id, reads.service_point_id, reads.customer_id, reads.transformer_id, ints(reads.interval_start),
        ints(reads.interval_end), ints(reads.read_ts), ints(reads.record_time), ints(reads.partition),
        ints(reads.offset), floats(reads.consumption_kwh), floats(reads.delivered_kwh), floats(reads.received_kwh),
        flags(reads.estimated_flag),
    )  # fmt: skip
