"""Packs interval reads by (shard of transformers, window) before the shuffle: one element carries many reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.codecs.pack_columns import PendingReads
from ami_beam.codecs.read_block import ReadBlock
from ami_beam.read_columns import ReadColumns
from ami_beam.settings import Settings

MAX_PENDING_READS = 300_000


ON_TIME = "on_time"
LATE = "late"


class PackReads(beam.PTransform):
    """Every INTERVAL read is in exactly one block.

    Outputs (by tag): `on_time` blocks keyed by (shard of the transformer, window_end in microseconds); `late` blocks
    keyed by shard, for `GatherLateReads`: the reads of all windows that were due before the read's record time. A day
    of windows times the shards would else be a cell of state for nearly every late read of a bundle.

    The window was decided in microseconds when the read was decoded. It is part of the key and not a Beam window: a
    stateful step of Beam's Flink runner holds its output watermark at the end of every window whose state it keeps, so
    with a day of allowed lateness nothing downstream would ever be due in time. A Beam window would also drop late
    reads silently; here TOO_LATE is decided from a read's own record time and nothing else drops one.

    Other read types go no further. Nothing waits longer than its bundle.

    Args:
      settings: the number of shards, and which power quality codes are sags and swells.
      max_pending: reads gathered before blocks are handed on within a bundle; bounds the memory.
    """

    def __init__(self, settings: Settings, max_pending: int = MAX_PENDING_READS):
        super().__init__()
        self._settings = settings
        self._max_pending = max_pending

    def expand(self, accepted: beam.PCollection[ReadColumns]) -> Any:
        # Types first: after with_outputs they would not reach the outputs, which would then be pickled.
        return accepted | "ByShardAndWindow" >> beam.ParDo(
            _PackDoFn(self._settings, self._max_pending)
        ).with_output_types(tuple[tuple[int, int], ReadBlock], late=tuple[int, ReadBlock]).with_outputs(
            LATE, main=ON_TIME
        )


class _PackDoFn(beam.DoFn):
    def __init__(self, settings: Settings, max_pending: int):
        self._settings = settings
        self._max_pending = max_pending
        self._pending = PendingReads(settings.window, settings.quality_map)

    def start_bundle(self) -> None:
        self._pending = PendingReads(self._settings.window, self._settings.quality_map)

    def process(self, reads: ReadColumns) -> Iterator[Any]:
        self._pending.add(reads)
        if len(self._pending) >= self._max_pending:
            for value, timestamp in self._flush():
                if isinstance(value, TaggedOutput):
                    yield TaggedOutput(value.tag, TimestampedValue(value.value, timestamp))
                else:
                    yield TimestampedValue(value, timestamp)

    def finish_bundle(self) -> Iterator[Any]:
        for value, timestamp in self._flush():
            if isinstance(value, TaggedOutput):
                yield TaggedOutput(value.tag, WindowedValue(value.value, timestamp, (GlobalWindow(),)))
            else:
                yield WindowedValue(value, timestamp, (GlobalWindow(),))

    def _flush(self) -> Iterator[tuple[Any, Timestamp]]:
        settings = self._settings
        pending, self._pending = self._pending, PendingReads(settings.window, settings.quality_map)
        for shard, late, block in pending.blocks(settings.shards, settings.collection_delay):
            at = Timestamp(micros=block.first_record_time)
            yield (TaggedOutput(LATE, (shard, block)) if late else ((shard, block.window_end), block)), at
