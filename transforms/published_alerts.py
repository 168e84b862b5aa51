"""Reads back what consumers of the grid alerts were told, for what a failed attempt has published."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.json_outputs import parse_alert
from ami_beam.records import JudgeInput, PublishedAlert, RecordBatch
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.decode_reads import METRICS
from transforms.published_rows import readable


class PublishedAlerts(beam.PTransform):
    """Every VOLTAGE and COMM alert in the records, keyed by (shard, window_end), an element for each key of a batch.

    The source's offsets are part of the checkpoint: after a failure it reads once more what was published since then,
    which is what state does not know.

    Args:
      settings: the shards.

    Counter: unreadable_published_alerts, records of the topic that are none of ours. They are passed over.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, batches: beam.PCollection[RecordBatch]) -> beam.PCollection[tuple[ShardWindow, JudgeInput]]:
        return batches | "Parse" >> beam.ParDo(_ParseDoFn(self._settings.shards)).with_output_types(
            tuple[tuple[int, int], JudgeInput]
        )


class _ParseDoFn(beam.DoFn):
    def __init__(self, shards: int):
        self._shards = shards
        self._unreadable = Metrics.counter(METRICS, "unreadable_published_alerts")

    def process(self, batch: RecordBatch) -> Iterator[tuple[ShardWindow, JudgeInput]]:
        found: dict[ShardWindow, list[PublishedAlert]] = {}
        for alert in readable(batch.values, parse_alert, self._unreadable):
            if alert.window_end is not None:
                key = shard_of(alert.entity_id, self._shards), alert.window_end
                found.setdefault(key, []).append(
                    PublishedAlert(
                        alert.entity_id, alert.alert_type, alert.status, alert.detail_value, alert.revision, alert.as_of
                    )
                )
        for key, alerts in found.items():
            yield key, JudgeInput([], None, alerts)
