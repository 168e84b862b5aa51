"""Outages of the OMS and work at meters as Avro in Confluent's wire format: held against the same rules as JSON."""

from __future__ import annotations

from typing import Any

from ami_beam.codecs import checks
from ami_beam.codecs.avro_reads import avro_fields
from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.settings import Settings


class AvroAnnouncementDecoder(AnnouncementDecoder):
    """What `AnnouncementDecoder` promises, of announcements in Avro.

    Args:
      settings: the rules of the run.
      source: which of the two formats.
      schemas: the writers' schemas.
    """

    def __init__(self, settings: Settings, source: Source, schemas: WriterSchemas) -> None:
        super().__init__(settings, source)
        self._schemas = schemas

    def __reduce__(self) -> Any:
        return AvroAnnouncementDecoder, (self._settings, self._source, self._schemas)

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return avro_fields(value, self._schemas)
