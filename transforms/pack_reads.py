"""Packs interval reads by (shard of transformers, window) before the shuffle: one element carries many reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.codecs.read_block import PackedRead, ReadBlock, pack
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI
from ami_beam.records import Read
from ami_beam.settings import Settings
from ami_beam.shards import shard_of

MAX_PENDING_READS = 100_000
# TOO_LATE is decided when a read is decoded, from its own record time. Beam's silent drop must never come first.
BEAM_EXTRA_LATENESS = MICROS_PER_HOUR


@beam.typehints.with_output_types(tuple[int, ReadBlock])
class PackReads(beam.PTransform):
    """Every INTERVAL read is in exactly one block, keyed by the shard of its transformer and in its Beam window.

    The Beam window of a block is the read window moved by the collection delay, so that the watermark of record
    times passes its end exactly when the on-time result is due (design section 4). Allowed lateness is an hour more
    than the contract's. Other read types go no further. Nothing waits longer than its bundle.

    Args:
      settings: window, delays and number of shards.
      max_pending: reads gathered before blocks are handed on within a bundle; bounds the memory.
    """

    def __init__(self, settings: Settings, max_pending: int = MAX_PENDING_READS):
        super().__init__()
        self._settings = settings
        self._max_pending = max_pending

    def expand(self, accepted: beam.PCollection[list[Read]]) -> beam.PCollection[tuple[int, ReadBlock]]:
        settings = self._settings
        return (
            accepted
            | "ByShardAndWindow" >> beam.ParDo(_PackDoFn(settings, self._max_pending))
            | "CollectionWindows" >> beam.WindowInto(
                FixedWindows(
                    size=Duration(micros=settings.window),
                    offset=Timestamp(micros=settings.collection_delay % settings.window),
                ),
                allowed_lateness=Duration(micros=settings.allowed_lateness + BEAM_EXTRA_LATENESS),
            )
        )  # fmt: skip


class _PackDoFn(beam.DoFn):
    def __init__(self, settings: Settings, max_pending: int):
        self._settings = settings
        self._max_pending = max_pending
        self._pending: dict[tuple[int, int], list[PackedRead]] = {}
        self._count = 0

    def start_bundle(self) -> None:
        self._pending, self._count = {}, 0

    def process(self, reads: list[Read]) -> Iterator[Any]:
        shards, pending = self._settings.shards, self._pending
        for read in reads:
            if read.read_type != "INTERVAL":
                continue
            packed = PackedRead(
                read.transformer_id,
                read.meter_id,
                read.interval_end,
                read.read_ts,
                not read.estimated_flag,
                read.record_time,
                read.partition,
                read.offset,
                read.feeder_id,
                read.consumption_kwh,
                read.delivered_kwh,
                read.received_kwh,
                read.voltage_v,
                read.voltage_rejected,
                read.zero_voltage,
            )
            place = shard_of(read.transformer_id, shards), read.window_end
            held = pending.get(place)
            if held is None:
                pending[place] = [packed]
            else:
                held.append(packed)
        self._count += len(reads)
        if self._count >= self._max_pending:
            for value, timestamp in self._flush():
                yield TimestampedValue(value, timestamp)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for value, timestamp in self._flush():
            yield WindowedValue(value, timestamp, (GlobalWindow(),))

    def _flush(self) -> Iterator[tuple[tuple[int, ReadBlock], Timestamp]]:
        pending, self._pending, self._count = self._pending, {}, 0
        for (shard, window_end), reads in pending.items():
            # A millisecond inside the window, because portable runners cut timestamps to milliseconds. The window
            # itself was decided in microseconds when the read was decoded.
            inside = window_end + self._settings.collection_delay - MICROS_PER_MILLI
            yield (shard, pack(window_end, reads)), Timestamp(micros=inside)
