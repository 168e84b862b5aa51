"""EVENT alerts: meter events that the outage, loss-control and power-quality desks act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.alert_ids import alert_id, event_alert_id
from ami_beam.coders import MsgspecCoder
from ami_beam.event_map import EventKind
from ami_beam.instants import MAX_INSTANT, MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.records import Alert, AlertStatus, Event
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.count_alerts import count_alert
from transforms.decode_reads import METRICS
from transforms.supply import LATE_AFTER

SHOWN = 10
"""So many events of one type from one meter in one hour have an alert each; all others have one together."""
GATHER = MICROS_PER_MINUTE
"""How long events are gathered before the common alert says their number."""
REPEATED = "REPEATED_"


class HeardEvent(Struct, array_like=True, gc=False):
    """One event of a meter's hour."""

    code: str
    event_ts: int
    record_time: int
    shown: Event | None
    """The event, while it is one of those that have an alert each."""

    def order(self) -> tuple[int, str]:
        return self.event_ts, self.code


class MeterHour(Struct, array_like=True, gc=False):
    """The events of one type that a meter sent for one hour, in order."""

    heard: list[HeardEvent] = field(default_factory=list)
    told: int = 0
    """The number that the common alert said last; 0: there is none."""
    revision: int = 0
    gathering: bool = False


@beam.typehints.with_output_types(Alert)
class EventAlerts(beam.PTransform):
    """One RAISED alert per (meter_id, event_code, event_ts as an instant), for events whose code the event map has.

    Of more than ten events of one type that a meter sends for one hour the ten earliest have alerts, and one alert
    REPEATED_<TYPE> says how many there are: the same ones in any order of arrival, because an alert that an earlier
    event displaces is CLEARED. A resent event is recognised for `event_dedup` of record time after the one that was
    published. An event without a description gets its code's standard name. An event that arrives more than an hour
    after it happened is marked late. Other codes are counted and go no further. A replay takes a meter's events in the
    order of their record times, whatever was read first: of a resent event it publishes what the live run did.

    State: some numbers an event, and of ten the event, for `event_dedup`. Counter: unalerted_events.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, events: beam.PCollection[Event]) -> beam.PCollection[Alert]:
        return (
            events
            | "Alerted" >> beam.ParDo(_AlertedDoFn(self._settings)).with_output_types(tuple[str, Event])
            | "Deduplicate" >> beam.ParDo(_EventAlertsDoFn(self._settings))
        )


class _AlertedDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._kinds = settings.event_map.by_code()
        self._live = settings.live
        self._shards = settings.shards
        self._unalerted = Metrics.counter(METRICS, "unalerted_events")

    def process(self, event: Event) -> Iterator[tuple[str, Event]]:
        kind = self._kinds.get(str(event.event_code))
        if kind is None:
            self._unalerted.inc()
        elif self._live:
            yield repeated_id(event, kind), event
        else:
            # Flink makes bundles of its own for every key of a replay: one for each meter's hour would be all its time.
            yield str(shard_of(event.meter_id, self._shards)), event


def repeated_id(event: Event, kind: EventKind) -> str:
    """The id of the common alert, which is also the key of what a meter's hour is known by."""
    return alert_id("EVENT", REPEATED + kind.event_type, event.meter_id, _hour(event))


def _hour(event: Event) -> int:
    return event.event_ts // MICROS_PER_HOUR * MICROS_PER_HOUR


@beam.typehints.with_input_types(tuple[str, Event])
@beam.typehints.with_output_types(Alert)
class _EventAlertsDoFn(beam.DoFn):
    HOUR = ReadModifyWriteStateSpec("meter_hour", MsgspecCoder(MeterHour))
    WAITING = BagStateSpec("events_of_replay", MsgspecCoder(Event))
    TELL = TimerSpec("event_repeated", TimeDomain.WATERMARK)
    FORGET = TimerSpec("event_forget", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._kinds = settings.event_map.by_code()

    def process(
        self,
        element: tuple[str, Event],
        hour: Any = beam.DoFn.StateParam(HOUR),
        tell: Any = beam.DoFn.TimerParam(TELL),
        waiting: Any = beam.DoFn.StateParam(WAITING),
        forget: Any = beam.DoFn.TimerParam(FORGET),
    ) -> Iterator[Alert]:
        _, event = element
        if not self._settings.live:
            waiting.add(event)
            forget.set(Timestamp(micros=MAX_INSTANT))
            return
        known = hour.read() or MeterHour()
        gathering = known.gathering
        found = self._take(known, event)
        if found is None:
            return
        forget.set(Timestamp(micros=event.record_time + self._settings.event_dedup))
        if known.gathering and not gathering:
            tell.set(Timestamp(micros=event.record_time + GATHER))
        hour.write(known)
        yield from found

    def _take(self, known: MeterHour, event: Event) -> list[Alert] | None:
        """Note the event: the alerts of it; None where it is known."""
        code = str(event.event_code)
        again = next((each for each in known.heard if (each.event_ts, each.code) == (event.event_ts, code)), None)
        if again is not None:
            if event.record_time - again.record_time <= self._settings.event_dedup:
                return None
            known.heard.remove(again)
        found = []
        news = HeardEvent(code, event.event_ts, event.record_time, None)
        known.heard.append(news)
        known.heard.sort(key=HeardEvent.order)
        if news in known.heard[:SHOWN]:
            news.shown = event
            found.append(self._alert(event, "RAISED"))
        for each in known.heard[SHOWN:]:
            if each.shown is not None:
                found.append(self._alert(each.shown, "CLEARED"))
                each.shown = None
        known.gathering = known.gathering or len(known.heard) > SHOWN
        return found

    @on_timer(TELL)
    def on_tell(self, key: Any = beam.DoFn.KeyParam, hour: Any = beam.DoFn.StateParam(HOUR)) -> Iterator[Alert]:
        known = hour.read()
        if known is not None:
            yield from self._repeated(key, known)
            hour.write(known)

    def _repeated(self, key: str, known: MeterHour) -> Iterator[Alert]:
        """The common alert, where its number is not what was told."""
        known.gathering = False
        number = len(known.heard)
        if number != known.told:
            first = known.heard[0].shown
            assert first is not None
            kind = self._kinds[str(first.event_code)]
            status: AlertStatus = "UPDATED" if known.told else "RAISED"
            alert_type = REPEATED + kind.event_type
            count_alert(alert_type, status)
            yield Alert(
                alert_id=key,
                alert_source="EVENT",
                entity_id=first.meter_id,
                alert_time=_hour(first),
                alert_type=alert_type,
                detail_value=number,
                severity=kind.severity,
                status=status,
                revision=known.revision,
                as_of=max(each.record_time for each in known.heard),
                window_start=None,
                window_end=None,
                feeder_id=None,
                event_type=kind.event_type,
            )
            known.told, known.revision = number, known.revision + 1

    def _alert(self, event: Event, status: AlertStatus) -> Alert:
        code = str(event.event_code)
        kind = self._kinds[code]
        count_alert(kind.name, status)
        return Alert(
            alert_id=event_alert_id(event.meter_id, event.event_code, event.event_ts),
            alert_source="EVENT",
            entity_id=event.meter_id,
            alert_time=event.event_ts,
            alert_type=event.event_desc or kind.name,
            detail_value=event.event_code if isinstance(event.event_code, int) else None,
            severity=kind.severity,
            status=status,
            revision=0 if status == "RAISED" else 1,
            as_of=event.record_time,
            window_start=None,
            window_end=None,
            feeder_id=None,
            event_type=kind.event_type,
            event_code=code,
            late=event.record_time - event.event_ts > LATE_AFTER,
        )

    @on_timer(FORGET)
    def on_forget(
        self,
        key: Any = beam.DoFn.KeyParam,
        hour: Any = beam.DoFn.StateParam(HOUR),
        waiting: Any = beam.DoFn.StateParam(WAITING),
    ) -> Iterator[Alert]:
        if not self._settings.live:
            hours: dict[str, list[Event]] = {}
            for event in waiting.read():
                hours.setdefault(repeated_id(event, self._kinds[str(event.event_code)]), []).append(event)
            for hour_key, events in hours.items():
                yield from self._replayed(hour_key, events)
            waiting.clear()
            return
        # Where the watermark jumps over both timers, they may come in either order.
        known = hour.read()
        if known is not None and known.gathering:
            yield from self._repeated(key, known)
        hour.clear()

    def _replayed(self, key: str, events: list[Event]) -> Iterator[Alert]:
        """The alerts of all events of a meter's hour, as they came."""
        known, forgotten_at = MeterHour(), 0
        for event in sorted(events, key=_arrival):
            if known.heard and event.record_time > forgotten_at:
                if known.gathering:
                    yield from self._repeated(key, known)
                known = MeterHour()
            found = self._take(known, event)
            if found is not None:
                forgotten_at = event.record_time + self._settings.event_dedup
                yield from found
        if known.gathering:
            yield from self._repeated(key, known)


def _arrival(event: Event) -> tuple[int, int, int]:
    return event.record_time, event.partition, event.offset
