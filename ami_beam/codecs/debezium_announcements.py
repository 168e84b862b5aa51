"""Outages of the OMS and work at meters as rows of a table, whose changes Debezium publishes: held against the same
rules."""

from __future__ import annotations

from typing import Any

from ami_beam.codecs import checks
from ami_beam.codecs.debezium import Envelopes, RowKinds, row_of, without_tombstones
from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.records import Announcement, DeadLetter, RecordBatch
from ami_beam.settings import Settings

ANNOUNCEMENT_ROW = RowKinds(instants=frozenset(("from", "to")))


class DebeziumAnnouncementDecoder(AnnouncementDecoder):
    """What `AnnouncementDecoder` promises, of changes of a table, see `DebeziumReadDecoder`.

    An update announces again, as a record of the same id does. A deleted row is a dead letter and takes nothing back:
    status CANCELLED does.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        super().__init__(settings, source)
        self._envelopes = Envelopes()

    def __reduce__(self) -> Any:
        return DebeziumAnnouncementDecoder, (self._settings, self._source)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[list[Announcement], list[DeadLetter]]:
        return super().decode(without_tombstones(batch), now)

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return row_of(self._envelopes.change_of(value), ANNOUNCEMENT_ROW)
