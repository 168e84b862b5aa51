"""EVENT alerts: meter events that the outage, loss-control and power-quality desks act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

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


class EventCode(NamedTuple):
    name: str
    severity: Literal["WARNING", "CRITICAL"]


# The six codes of the article that the product was ordered from (design section 5).
ALERTED_EVENTS = {
    3840: EventCode("LAST_GASP", "CRITICAL"),
    3841: EventCode("POWER_RESTORE", "CRITICAL"),
    3842: EventCode("OUTAGE_DETECTED", "CRITICAL"),
    2048: EventCode("TAMPER_DETECTED", "WARNING"),
    2049: EventCode("REVERSE_ENERGY", "WARNING"),
    1024: EventCode("POWER_QUALITY", "WARNING"),
}


@beam.typehints.with_output_types(Alert)
class EventAlerts(beam.PTransform):
    """One RAISED alert per (meter_id, event_code, event_ts as an instant), for events of the six alerted codes.

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
            | "Alerted" >> beam.Filter(_alerted).with_output_types(Event)
            | "ByIdentity" >> beam.Map(_by_identity).with_output_types(tuple[str, Event])
            | "Deduplicate" >> beam.ParDo(_EventAlertsDoFn(self._settings))
        )


def _alerted(event: Event) -> bool:
    if event.event_code in ALERTED_EVENTS:
        return True
    Metrics.counter(METRICS, "unalerted_events").inc()
    return False


def _by_identity(event: Event) -> tuple[str, Event]:
    return event_alert_id(event.meter_id, event.event_code, event.event_ts), event


@beam.typehints.with_input_types(tuple[str, Event])
@beam.typehints.with_output_types(Alert)
class _EventAlertsDoFn(beam.DoFn):
    PUBLISHED = ReadModifyWriteStateSpec("published", VarIntCoder())
    FORGET = TimerSpec("event_forget", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

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
        code = ALERTED_EVENTS[event.event_code]
        count_alert(code.name, "RAISED")
        yield Alert(
            alert_id=identity,
            alert_source="EVENT",
            entity_id=event.meter_id,
            alert_time=event.event_ts,
            alert_type=event.event_desc or code.name,
            detail_value=event.event_code,
            severity=code.severity,
            status="RAISED",
            revision=0,
            as_of=event.record_time,
            window_start=None,
            window_end=None,
            feeder_id=None,
        )

    @on_timer(FORGET)
    def on_forget(self, published: Any = beam.DoFn.StateParam(PUBLISHED)) -> None:
        published.clear()
