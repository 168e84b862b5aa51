"""Meter events of the head-end as Avro in Confluent's wire format: held against the very same rules as JSON."""

from __future__ import annotations

from typing import Any

from ami_beam.codecs import checks
from ami_beam.codecs.avro_reads import avro_fields
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.records import DeadLetter, Event, RecordBatch
from ami_beam.settings import Settings


class AvroEventDecoder(EventDecoder):
    """What `EventDecoder` promises, of events in Avro, see `AvroReadDecoder`.

    Events are rare: there is no fast form.

    Args:
      settings: the rules of the run.
      schemas: the writers' schemas.
    """

    def __init__(self, settings: Settings, schemas: WriterSchemas) -> None:
        super().__init__(settings)
        self._schemas = schemas

    def __reduce__(self) -> Any:
        return AvroEventDecoder, (self._settings, self._schemas)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[list[Event], list[DeadLetter]]:
        return self.decode_carefully(batch, now)

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return avro_fields(value, self._schemas)
