"""Which events loss control is about: tamper, and reverse energy of meters that are no producers."""

from __future__ import annotations

from collections.abc import Container, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics
from msgspec import Struct

from ami_beam.coders import carries
from ami_beam.event_map import EventType
from ami_beam.records import Event
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.decode_reads import METRICS

TAMPER_REPEATED, REVERSE_ENERGY_UNREGISTERED = "TAMPER_REPEATED", "REVERSE_ENERGY_UNREGISTERED"
LOSS_CONTROL: dict[str, EventType] = {
    TAMPER_REPEATED: "TAMPER",
    REVERSE_ENERGY_UNREGISTERED: "REVERSE_ENERGY",
}
"""By kind of alarm the type of the events that it is made of."""


class LossEvent(Struct, array_like=True, gc=False):
    """An event that may be part of an alarm."""

    meter_id: str
    alarm_type: str
    at: int
    record_time: int


carries(LossEvent)


class LossEvents(beam.PTransform):
    """Every event that may be part of a loss-control alarm, keyed by a stable shard of the meter.

    Reverse energy only of meters that are not among the producers, and none where nobody knows them. Who is a producer
    is asked when an event comes. An event that arrives more than the allowed lateness after it happened, or more than
    `future_limit` before, counts for nothing: what it tells of is settled, or its clock is wrong. Counter:
    uncounted_loss_events.

    Args:
      settings: what event codes mean, and how late events may come.
      producers: meters that are registered to feed in; None where nobody knows.
    """

    def __init__(self, settings: Settings, producers: Container[str] | None):
        super().__init__()
        self._settings = settings
        self._producers = producers

    def expand(self, events: beam.PCollection[Event]) -> beam.PCollection[tuple[int, LossEvent]]:
        chosen = beam.ParDo(_LossEventsDoFn(self._settings, self._producers))
        return events | "OfLossControl" >> chosen.with_output_types(tuple[int, LossEvent])


class _LossEventsDoFn(beam.DoFn):
    def __init__(self, settings: Settings, producers: Container[str] | None):
        self._settings = settings
        self._producers = producers if producers is not None else ()
        wanted = {
            event_type: alarm_type
            for alarm_type, event_type in LOSS_CONTROL.items()
            if alarm_type != REVERSE_ENERGY_UNREGISTERED or producers is not None
        }
        kinds = settings.event_map.by_code()
        self._uncounted = Metrics.counter(METRICS, "uncounted_loss_events")
        self._alarm_types = {code: wanted[kind.event_type] for code, kind in kinds.items() if kind.event_type in wanted}

    def process(self, event: Event) -> Iterator[tuple[int, LossEvent]]:
        alarm_type = self._alarm_types.get(str(event.event_code))
        if alarm_type is None:
            return
        age = event.record_time - event.event_ts
        if not -self._settings.future_limit <= age <= self._settings.allowed_lateness:
            self._uncounted.inc()
            return
        if alarm_type == REVERSE_ENERGY_UNREGISTERED and event.meter_id in self._producers:
            return
        told = LossEvent(event.meter_id, alarm_type, event.event_ts, event.record_time)
        yield shard_of(event.meter_id, self._settings.shards), told
