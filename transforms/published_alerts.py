"""Reads back what consumers of the grid alerts were told, for what a failed attempt has published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from ami_beam.codecs.avro_outputs import RowParser
from ami_beam.codecs.json_outputs import parse_alert
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.records import Alert, ExplainInput, JudgeInput, PublishedAlert, RecordBatch
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.decode_reads import METRICS
from transforms.published_rows import readable

TO_JUDGE, TO_EXPLAIN = "to_judge", "to_explain"


class ReadBack(NamedTuple):
    """What `PublishedAlerts` gives."""

    to_judge: beam.PCollection[tuple[ShardWindow, JudgeInput]]
    """Keyed by (shard, window_end), an element for each key of a batch."""
    to_explain: beam.PCollection[tuple[int, ExplainInput]]
    """The same alerts keyed by shard."""


class PublishedAlerts(beam.PTransform):
    """Every VOLTAGE and COMM alert in the records, for those who judge alerts and for those who explain them.

    The source's offsets are part of the checkpoint: after a failure it reads once more what was published since then,
    which is what state does not know.

    Args:
      settings: the shards.
      schemas: what alerts in Avro were written with; None where there are none.

    Counter: unreadable_published_alerts, records of the topic that are none of ours. They are passed over.
    """

    def __init__(self, settings: Settings, schemas: WriterSchemas | None = None):
        super().__init__()
        self._settings = settings
        self._schemas = schemas

    def expand(self, batches: beam.PCollection[RecordBatch]) -> ReadBack:
        parse = beam.ParDo(_ParseDoFn(self._settings.shards, self._schemas)).with_output_types(
            tuple[tuple[int, int], JudgeInput], to_explain=tuple[int, ExplainInput]
        )
        parsed = batches | "Parse" >> parse.with_outputs(TO_EXPLAIN, main=TO_JUDGE)
        return ReadBack(parsed[TO_JUDGE], parsed[TO_EXPLAIN])


class _ParseDoFn(beam.DoFn):
    def __init__(self, shards: int, schemas: WriterSchemas | None = None):
        self._shards = shards
        self._parse = RowParser(parse_alert, Alert, schemas)
        self._unreadable = Metrics.counter(METRICS, "unreadable_published_alerts")

    def process(self, batch: RecordBatch) -> Iterator[Any]:
        found: dict[ShardWindow, list[PublishedAlert]] = {}
        by_shard: dict[int, list[Alert]] = {}
        for alert in readable(batch.values, self._parse, self._unreadable):
            if alert.window_end is not None:
                key = shard_of(alert.entity_id, self._shards), alert.window_end
                found.setdefault(key, []).append(
                    PublishedAlert(
                        alert.entity_id, alert.alert_type, alert.status, alert.detail_value, alert.revision, alert.as_of
                    )
                )
                by_shard.setdefault(key[0], []).append(alert)
        for key, alerts in found.items():
            yield key, JudgeInput([], None, alerts)
        for shard, several in by_shard.items():
            yield TaggedOutput(TO_EXPLAIN, (shard, ExplainInput(published=several)))
