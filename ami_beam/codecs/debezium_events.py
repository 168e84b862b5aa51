"""Meter events as rows of a head-end's table, whose changes Debezium publishes: held against the very same rules."""

from __future__ import annotations

from typing import Any

from ami_beam.codecs import checks
from ami_beam.codecs.debezium import Envelopes, RowKinds, row_of, without_tombstones
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.records import DeadLetter, Event, RecordBatch
from ami_beam.settings import Settings

EVENT_ROW = RowKinds(instants=frozenset(("event_ts",)), codes=frozenset(("event_code",)))


class DebeziumEventDecoder(EventDecoder):
    """What `EventDecoder` promises, of changes of a table of events, see `DebeziumReadDecoder`.

    Events are rare: there is no form for many at once.

    Args:
      settings: the rules of the run.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._envelopes = Envelopes()

    def __reduce__(self) -> Any:
        return DebeziumEventDecoder, (self._settings,)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[list[Event], list[DeadLetter]]:
        return self.decode_carefully(batch, now)

    def decode_carefully(self, batch: RecordBatch, now: int | None) -> tuple[list[Event], list[DeadLetter]]:
        return super().decode_carefully(without_tombstones(batch), now)

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return row_of(self._envelopes.change_of(value), EVENT_ROW)
