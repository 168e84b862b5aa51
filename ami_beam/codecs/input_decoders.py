"""Which decoder the records of an input need, by how they were written."""

from __future__ import annotations

from ami_beam.codecs.avro_announcements import AvroAnnouncementDecoder
from ami_beam.codecs.avro_events import AvroEventDecoder
from ami_beam.codecs.avro_reads import AvroReadDecoder
from ami_beam.codecs.debezium_announcements import DebeziumAnnouncementDecoder
from ami_beam.codecs.debezium_events import DebeziumEventDecoder
from ami_beam.codecs.debezium_reads import DebeziumReadDecoder
from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.writer_schemas import Changes, Written, schemas_of
from ami_beam.settings import Settings


def read_decoder(settings: Settings, written: Written, keep_customers: bool = False) -> ReadDecoder:
    """The decoder of reads in the format that they have."""
    if written is None:
        return ReadDecoder(settings, keep_customers)
    if isinstance(written, Changes):
        return DebeziumReadDecoder(settings, keep_customers)
    return AvroReadDecoder(settings, written, keep_customers)


def event_decoder(settings: Settings, written: Written) -> EventDecoder:
    """The decoder of events, likewise."""
    if written is None:
        return EventDecoder(settings)
    if isinstance(written, Changes):
        return DebeziumEventDecoder(settings)
    return AvroEventDecoder(settings, written)


def announcement_decoder(settings: Settings, source: Source, written: Written) -> AnnouncementDecoder:
    """The decoder of announced outages or of work at meters, likewise."""
    if written is None:
        return AnnouncementDecoder(settings, source)
    if isinstance(written, Changes):
        return DebeziumAnnouncementDecoder(settings, source)
    return AvroAnnouncementDecoder(settings, source, written)


def close(written: Written) -> None:
    """Ends the connections of who looks schemas up."""
    schemas = schemas_of(written)
    if schemas is not None:
        schemas.close()


def tombstones(written: Written, values: list[bytes | None]) -> int:
    """How many of a topic's values are tombstones that a deleted row has left, and neither accepted nor set aside."""
    return values.count(None) if isinstance(written, Changes) else 0
