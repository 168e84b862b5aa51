"""EVENT alerts: meter events that the outage, loss-control and power-quality desks act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from ami_beam.alert_ids import event_alert_id
from ami_beam.records import Alert, Event
from ami_beam.settings import Settings
from transforms.count_alerts import count_alert
from transforms.decode_reads import METRICS


@beam.typehints.with_output_types(Alert)
class EventAlerts(beam.PTransform):
    """One RAISED alert per (meter_id, event_code, event_ts as an instant), for events whose code the event map has.

    A resent event is recognised for `event_dedup` of record time after the one that was published. An event without
    a description gets its code's standard name. Other codes are counted and go no further.

    State: one number an event, for `event_dedup`. Counter: unalerted_events.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, events: beam.PCollection[Event]) -> beam.PCollection[Alert]:
        return (
            events
            | "Alerted" >> beam.ParDo(_AlertedDoFn(self._settings)).with_output_types(Event)
            | "ByIdentity" >> beam.Map(_by_identity).with_output_types(tuple[str, Event])
            | "Deduplicate" >> beam.ParDo(_EventAlertsDoFn(self._settings))
        )


class _AlertedDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._kinds = settings.event_map.by_code()
        self._unalerted = Metrics.counter(METRICS, "unalerted_events")

    def process(self, event: Event) -> Iterator[Event]:
        if str(event.event_code) in self._kinds:
            yield event
        else:
            self._unalerted.inc()


def _by_identity(event: Event) -> tuple[str, Event]:
    return event_alert_id(event.meter_id, event.event_code, event.event_ts), event


@beam.typehints.with_input_types(tuple[str, Event])
@beam.typehints.with_output_types(Alert)
class _EventAlertsDoFn(beam.DoFn):
    PUBLISHED = ReadModifyWriteStateSpec("published", VarIntCoder())
    FORGET = TimerSpec("event_forget", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._kinds = settings.event_map.by_code()

    def process(
        self,
        element: tuple[str, Event],
        published: Any = beam.DoFn.StateParam(PUBLISHED),
        forget: Any = beam.DoFn.TimerParam(FORGET),
    ) -> Iterator[Alert]:
        identity, event = element
        before = published.read()
        if before is not None and event.record_time - before <= self._settings.event_dedup:
            return
        published.write(event.record_time)
        forget.set(Timestamp(micros=event.record_time + self._settings.event_dedup))
        code = str(event.event_code)
        kind = self._kinds[code]
        count_alert(kind.name, "RAISED")
        yield Alert(
            alert_id=identity,
            alert_source="EVENT",
            entity_id=event.meter_id,
            alert_time=event.event_ts,
            alert_type=event.event_desc or kind.name,
            detail_value=event.event_code if isinstance(event.event_code, int) else None,
            severity=kind.severity,
            status="RAISED",
            revision=0,
            as_of=event.record_time,
            window_start=None,
            window_end=None,
            feeder_id=None,
            event_type=kind.event_type,
            event_code=code,
        )

    @on_timer(FORGET)
    def on_forget(self, published: Any = beam.DoFn.StateParam(PUBLISHED)) -> None:
        published.clear()
