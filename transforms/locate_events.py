"""Finds the transformer of a meter that tells of its supply: events name a meter only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder, carries
from ami_beam.event_map import EventType
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import AlarmInput, Event, MeterPlaces, PowerEvent
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.decode_reads import METRICS
from transforms.end_of_replay import LOCATED
from transforms.state_log import read_log

LOST: tuple[EventType, ...] = ("LAST_GASP", "OUTAGE_DETECTED")
RESTORED: tuple[EventType, ...] = ("POWER_RESTORE",)
WAIT = 24 * MICROS_PER_HOUR
"""So long an event waits, in record time, until its meter's place is known."""


class PowerNews(Struct, array_like=True, gc=False):
    """What a shard of meters is told: where some of them hang, or of their supply (`transformer_id` is empty yet)."""

    places: MeterPlaces | None
    events: list[PowerEvent]


class KeptMeters(Struct, array_like=True, gc=False):
    """What is known of the meters of a shard."""

    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By meter_id its transformer, and the end of the window that said so."""
    waiting: list[PowerEvent] = field(default_factory=list)


class MetersEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: PowerNews | None
    kept: KeptMeters | None


carries(PowerNews)


class LocateEvents(beam.PTransform):
    """Every event of a loss or a return of supply with its meter's transformer, keyed by the transformer's shard.

    Takes a tuple of the accepted events and the places of meters (`MeterPlacesOf`). The place of the latest window
    counts. An event of a meter without a place waits for one for a day of record time.

    State per shard: about 40 bytes a meter. Counter: unlocated_events, that waited in vain.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[tuple[int, AlarmInput]]:
        events, places = inputs
        told = events | "OfSupply" >> beam.ParDo(_OfSupplyDoFn(self._settings)).with_output_types(tuple[int, PowerNews])
        known = places | "AsNews" >> beam.MapTuple(_from_places).with_output_types(tuple[int, PowerNews])
        label = f"Locate {self._settings.state_label()}"
        return (told, known) | "EventsAndPlaces" >> beam.Flatten() | label >> beam.ParDo(_LocateDoFn(self._settings))


class _OfSupplyDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._shards = settings.shards
        kinds = settings.event_map.by_code()
        self._restored = {
            code: kind.event_type in RESTORED for code, kind in kinds.items() if kind.event_type in LOST + RESTORED
        }

    def process(self, event: Event) -> Iterator[tuple[int, PowerNews]]:
        restored = self._restored.get(str(event.event_code))
        if restored is not None:
            told = PowerEvent(event.meter_id, "", restored, event.event_ts, event.record_time)
            yield shard_of(event.meter_id, self._shards), PowerNews(None, [told])


def _from_places(shard: int, places: MeterPlaces) -> tuple[int, PowerNews]:
    return shard, PowerNews(places, [])


@beam.typehints.with_input_types(tuple[int, PowerNews])
@beam.typehints.with_output_types(tuple[int, AlarmInput])
class _LocateDoFn(beam.DoFn):
    LOG = BagStateSpec("meters_log", MsgspecCoder(MetersEntry))
    LOCATE = TimerSpec("meters_locate", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._unlocated = Metrics.counter(METRICS, "unlocated_events")

    def process(
        self,
        element: tuple[int, PowerNews],
        log: Any = beam.DoFn.StateParam(LOG),
        locate: Any = beam.DoFn.TimerParam(LOCATE),
    ) -> None:
        news = element[1]
        log.add(MetersEntry(news, None))
        if not self._settings.live:
            locate.set(Timestamp(micros=LOCATED), dynamic_timer_tag="end")
        elif news.places is not None:
            due = news.places.window_end + self._settings.collection_delay
            locate.set(Timestamp(micros=due), dynamic_timer_tag="places")
        else:
            newest = max(event.record_time for event in news.events)
            locate.set(Timestamp(micros=newest), dynamic_timer_tag="events")

    @on_timer(LOCATE)
    def on_locate(self, log: Any = beam.DoFn.StateParam(LOG)) -> Iterator[tuple[int, AlarmInput]]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptMeters()
        located = locate(kept, news)
        # By the windows whose places are known: of a backlog events come long before.
        newest = max((window_end for _, window_end in kept.places.values()), default=0)
        waiting = [event for event in kept.waiting if event.record_time + WAIT > newest]
        self._unlocated.inc(len(kept.waiting) - len(waiting))
        kept.waiting = waiting
        by_shard: dict[int, list[PowerEvent]] = {}
        for event in located:
            by_shard.setdefault(shard_of(event.transformer_id, self._settings.shards), []).append(event)
        for shard, events in by_shard.items():
            yield shard, AlarmInput(0, [], events=events)
        log.clear()
        log.add(MetersEntry(None, kept))


def locate(kept: KeptMeters, news: Iterable[PowerNews]) -> list[PowerEvent]:
    """Take news in: the events whose places are known now, the others wait."""
    for each in news:
        if each.places is not None:
            window_end = each.places.window_end
            for meter_id, transformer_id in zip(each.places.meters, each.places.transformers, strict=True):
                known = kept.places.get(meter_id)
                if known is None or (window_end, transformer_id) > (known[1], known[0]):
                    kept.places[meter_id] = transformer_id, window_end
        kept.waiting += each.events
    located, waiting = [], []
    for event in kept.waiting:
        place = kept.places.get(event.meter_id)
        if place is None:
            waiting.append(event)
        else:
            located.append(PowerEvent(event.meter_id, place[0], event.restored, event.at, event.record_time))
    kept.waiting = waiting
    return located
