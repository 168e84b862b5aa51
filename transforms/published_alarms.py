"""Reads back what consumers of the alarms were told, for what a failed attempt has published."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.json_outputs import parse_alarm
from ami_beam.records import Alarm, AlarmInput, RecordBatch
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.decode_reads import METRICS
from transforms.published_rows import readable


class PublishedAlarms(beam.PTransform):
    """Every alarm in the records, keyed by shard, an element for each shard of a batch.

    Args:
      settings: the shards.

    Counter: unreadable_published_alarms, records of the topic that are none of ours. They are passed over.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, batches: beam.PCollection[RecordBatch]) -> beam.PCollection[tuple[int, AlarmInput]]:
        return batches | "Parse" >> beam.ParDo(_ParseDoFn(self._settings.shards)).with_output_types(
            tuple[int, AlarmInput]
        )


class _ParseDoFn(beam.DoFn):
    def __init__(self, shards: int):
        self._shards = shards
        self._unreadable = Metrics.counter(METRICS, "unreadable_published_alarms")

    def process(self, batch: RecordBatch) -> Iterator[tuple[int, AlarmInput]]:
        found: dict[int, list[Alarm]] = {}
        for alarm in readable(batch.values, parse_alarm, self._unreadable):
            found.setdefault(shard_of(alarm.entity_id, self._shards), []).append(alarm)
        for shard, alarms in found.items():
            yield shard, AlarmInput(0, [], None, alarms)
