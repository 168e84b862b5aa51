"""Gathers single Kafka records into batches, so that decoding pays its fixed cost once for many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.records import RecordBatch

MAX_BATCH = 5_000


@beam.typehints.with_output_types(RecordBatch)
class BatchRecords(beam.PTransform):
    """Every record of a bundle is in exactly one batch of its topic, in the order in which it came.

    Takes elements with the attributes of Beam's `KafkaRecord` (topic, partition, offset, value, timestamp in
    milliseconds). Nothing waits longer than its bundle. A batch has the smallest record time in it as its timestamp,
    so it is never ahead of a record.

    Args:
      max_batch: records a batch holds at most.
    """

    def __init__(self, max_batch: int = MAX_BATCH):
        super().__init__()
        self._max_batch = max_batch

    def expand(self, records: beam.PCollection) -> beam.PCollection[RecordBatch]:
        return records | "Gather" >> beam.ParDo(_GatherDoFn(self._max_batch))


class _GatherDoFn(beam.DoFn):
    def __init__(self, max_batch: int):
        self._max_batch = max_batch
        self._open: dict[str, tuple[RecordBatch, Timestamp]] = {}

    def start_bundle(self) -> None:
        self._open = {}

    def process(self, record: Any, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        held = self._open.get(record.topic)
        if held is None:
            held = self._open[record.topic] = RecordBatch(record.topic, [], [], [], []), timestamp
        elif timestamp < held[1]:
            self._open[record.topic] = held = held[0], timestamp
        batch = held[0]
        batch.partitions.append(record.partition)
        batch.offsets.append(record.offset)
        # Kafka gives -1 where a record has no timestamp.
        known = record.timestamp is not None and record.timestamp >= 0
        batch.record_times.append(record.timestamp * MICROS_PER_MILLI if known else None)
        batch.values.append(record.value)
        if len(batch.values) >= self._max_batch:
            del self._open[record.topic]
            yield TimestampedValue(batch, held[1])

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for batch, timestamp in self._open.values():
            yield WindowedValue(batch, timestamp, (GlobalWindow(),))
        self._open = {}
