"""Reads back what consumers of the alarms were told, for what a failed attempt has published."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.avro_outputs import RowParser
from ami_beam.codecs.json_outputs import parse_alarm
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.records import Alarm, GroupInput, RecordBatch
from transforms.alarm_episodes import feeder_group, own_group
from transforms.decode_reads import METRICS
from transforms.loss_control import meter_group
from transforms.loss_events import LOSS_CONTROL
from transforms.published_rows import readable


class PublishedAlarms(beam.PTransform):
    """Every alarm in the records, keyed by its group, an element for each group of a batch.

    Args:
      schemas: what alarms in Avro were written with; None where there are none.

    Counter: unreadable_published_alarms, records of the topic that are none of ours. They are passed over.
    """

    def __init__(self, schemas: WriterSchemas | None = None):
        super().__init__()
        self._schemas = schemas

    def expand(self, batches: beam.PCollection[RecordBatch]) -> beam.PCollection[tuple[str, GroupInput]]:
        return batches | "Parse" >> beam.ParDo(_ParseDoFn(self._schemas)).with_output_types(tuple[str, GroupInput])


class _ParseDoFn(beam.DoFn):
    def __init__(self, schemas: WriterSchemas | None) -> None:
        self._parse = RowParser(parse_alarm, Alarm, schemas)
        self._unreadable = Metrics.counter(METRICS, "unreadable_published_alarms")

    def process(self, batch: RecordBatch) -> Iterator[tuple[str, GroupInput]]:
        found: dict[str, GroupInput] = {}
        for alarm in readable(batch.values, self._parse, self._unreadable):
            found.setdefault(group_of(alarm), GroupInput()).published.append(alarm)
        yield from found.items()


def group_of(alarm: Alarm) -> str:
    """The group that publishes it."""
    if alarm.alarm_type in LOSS_CONTROL:
        return meter_group(alarm.entity_id)
    return own_group(alarm.entity_id) if alarm.feeder_id is None else feeder_group(alarm.feeder_id)
