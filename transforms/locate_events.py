"""Finds where a meter hangs that tells of its supply, at which there is work, or whose feeder is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder, carries
from ami_beam.event_map import EventType
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import AlarmInput, Announcement, Event, MeterFeeder, MeterPlaces, PowerEvent
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.announcements import forgotten_at, latest, withdrawn
from transforms.decode_reads import METRICS
from transforms.end_of_replay import LOCATED
from transforms.loss_events import LossEvent
from transforms.state_log import ONE_TIMER, read_log, timer_of

LOST: tuple[EventType, ...] = ("LAST_GASP", "OUTAGE_DETECTED")
RESTORED: tuple[EventType, ...] = ("POWER_RESTORE",)
WAIT = 24 * MICROS_PER_HOUR
"""So long an event waits, in record time, until its meter's place is known."""
FOLLOW = 7 * WAIT
"""So long after an event of loss control the feeder of its meter is told, and told again when it is another."""
SUPPLY, FEEDERS = "supply", "feeders"


class Located(NamedTuple):
    """What `LocateEvents` gives."""

    supply: beam.PCollection[tuple[int, AlarmInput]]
    """By the transformer's shard."""
    feeders: beam.PCollection[tuple[int, MeterFeeder]]
    """By the meter's shard."""


class PowerNews(Struct, array_like=True, gc=False):
    """What a shard of meters is told: where some of them hang, or of their supply (`transformer_id` is empty yet)."""

    places: MeterPlaces | None
    events: list[PowerEvent]
    asked: LossEvent | None = None
    """An event of a meter whose feeder is wanted."""
    work: list[Announcement] = field(default_factory=list)


class FollowedMeter(Struct, array_like=True, gc=False):
    """A meter whose feeder is wanted."""

    until: int
    """End of the last window in which it is."""
    feeder_id: str | None = None
    """As it was given last."""


class KeptWork(Struct, array_like=True, gc=False):
    """What is announced of work at a meter, and what was handed on of it."""

    said: Announcement
    told: Announcement | None = None


class KeptMeters(Struct, array_like=True, gc=False):
    """What is known of the meters of a shard."""

    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """By meter_id its transformer, the end of the window that said so, and the number of its feeder in `feeders`."""
    waiting: list[PowerEvent] = field(default_factory=list)
    feeders: list[str] = field(default_factory=list)
    """Each once."""
    followed: dict[str, FollowedMeter] = field(default_factory=dict)
    """By meter_id."""
    work: dict[str, KeptWork] = field(default_factory=dict)
    """By subject."""


class MetersEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: PowerNews | None
    kept: KeptMeters | None


carries(PowerNews)


class LocateEvents(beam.PTransform):
    """Every event of a loss or a return of supply with its meter's transformer, keyed by the transformer's shard.

    Takes a tuple of the accepted events, the events of loss control (`LossEvents`), and the places of meters
    (`MeterPlacesOf`). The place of the latest window counts. An event waits for its own record time, and without a
    place of its meter for one, for a day. Events of loss control do not wait: the feeder of their meters is given by
    itself, as soon as it is known, and again when it changes within a week. As a fourth input announced work at meters
    (`LatestAnnouncements`), which goes where they hang, and follows them.

    State per shard: about 40 bytes a meter, 150 bytes a piece of work that is not long over. Counter: unlocated_events,
    that waited in vain.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> Located:
        events, losses, places, *work = inputs
        told = events | "OfSupply" >> beam.ParDo(_OfSupplyDoFn(self._settings)).with_output_types(tuple[int, PowerNews])
        asked = losses | "Asked" >> beam.MapTuple(_asked).with_output_types(tuple[int, PowerNews])
        known = places | "AsNews" >> beam.MapTuple(_from_places).with_output_types(tuple[int, PowerNews])
        at_meters = [
            each | "WorkAsNews" >> beam.MapTuple(_from_work).with_output_types(tuple[int, PowerNews]) for each in work
        ]
        locate = beam.ParDo(_LocateDoFn(self._settings)).with_output_types(
            tuple[int, AlarmInput], feeders=tuple[int, MeterFeeder]
        )
        found = (
            (told, asked, known, *at_meters)
            | "EventsAndPlaces" >> beam.Flatten()
            | f"Locate {self._settings.state_label()}" >> locate.with_outputs(FEEDERS, main=SUPPLY)
        )
        return Located(found[SUPPLY], found[FEEDERS])


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


def _asked(shard: int, event: LossEvent) -> tuple[int, PowerNews]:
    return shard, PowerNews(None, [], event)


def _from_work(shard: int, work: Announcement) -> tuple[int, PowerNews]:
    return shard, PowerNews(None, [], None, [work])


@beam.typehints.with_input_types(tuple[int, PowerNews])
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
        elif news.work:
            said = max(each.record_time for each in news.work)
            locate.set(Timestamp(micros=said), dynamic_timer_tag=timer_of("work", said))
        else:
            told = news.events if news.asked is None else [news.asked]
            newest = max(event.record_time for event in told)
            locate.set(Timestamp(micros=newest), dynamic_timer_tag=timer_of("events", newest))

    @on_timer(LOCATE)
    def on_locate(
        self,
        key: Any = beam.DoFn.KeyParam,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[tuple[int, AlarmInput] | TaggedOutput]:
        news, kept = read_log(log)
        kept = kept or KeptMeters()
        now = at.micros if self._settings.live else None
        if not news and not any(_is_due(event, now) for event in kept.waiting):
            return
        located = locate(kept, news, now)
        for feeder in follow_meters(kept, news, self._settings):
            yield TaggedOutput(FEEDERS, (key, feeder))
        by_shard: dict[int, list[PowerEvent]] = {}
        for event in located:
            by_shard.setdefault(shard_of(event.transformer_id, self._settings.shards), []).append(event)
        for shard, events in by_shard.items():
            yield shard, AlarmInput(0, [], events=events)
        for transformer_id, work in locate_work(kept, news):
            yield shard_of(transformer_id, self._settings.shards), AlarmInput(0, [], announced=[work])
        self._unlocated.inc(forget(kept, now, self._settings))
        log.clear()
        log.add(MetersEntry(None, kept))


def _is_due(event: PowerEvent, now: int | None) -> bool:
    """Whether it was said by now. One timer stands for what was said within seconds, and may fire at any of it."""
    return now is None or event.record_time // ONE_TIMER <= now // ONE_TIMER


def locate(kept: KeptMeters, news: Iterable[PowerNews], now: int | None = None) -> list[PowerEvent]:
    """Take news in: the events whose places are known now, the others wait.

    Those that were said after `now` (None: the end of a replay) wait for their time: of a backlog events are read long
    before the reads of their time, and before what was announced until then.
    """
    numbers = {feeder_id: number for number, feeder_id in enumerate(kept.feeders)}
    for each in news:
        if each.places is not None:
            window_end = each.places.window_end
            feeder_of = {
                transformer_id: numbers.setdefault(feeder_id, len(numbers))
                for transformer_id, feeder_id in each.places.feeders.items()
            }
            for meter_id, transformer_id in zip(each.places.meters, each.places.transformers, strict=True):
                known = kept.places.get(meter_id)
                if known is None or (window_end, transformer_id) >= (known[1], known[0]):
                    kept.places[meter_id] = transformer_id, window_end, feeder_of[transformer_id]
        kept.waiting += each.events
    kept.feeders = list(numbers)
    located, waiting = [], []
    for event in kept.waiting:
        place = kept.places.get(event.meter_id)
        if place is None or not _is_due(event, now):
            waiting.append(event)
        else:
            located.append(PowerEvent(event.meter_id, place[0], event.restored, event.at, event.record_time))
    kept.waiting = waiting
    return located


def forget(kept: KeptMeters, now: int | None, settings: Settings) -> int:
    """Drop what is long over, and events that have waited in vain, of which it returns the number.

    By the windows whose places are known: of a backlog events come long before. And by the time: so may places, of
    days that are still to come for the events that wait.

    Args:
      now: None at the end of a replay.
    """
    newest = max((window_end for _, window_end, _ in kept.places.values()), default=0)
    newest = newest if now is None else min(newest, now)
    waiting = [event for event in kept.waiting if event.record_time + WAIT > newest]
    dropped = len(kept.waiting) - len(waiting)
    kept.waiting = waiting
    kept.followed = {meter_id: each for meter_id, each in kept.followed.items() if each.until >= newest}
    if settings.live:
        kept.work = {name: each for name, each in kept.work.items() if forgotten_at(each.said, settings) > newest}
    return dropped


def follow_meters(kept: KeptMeters, news: Sequence[PowerNews], settings: Settings) -> list[MeterFeeder]:
    """After `locate`: the feeders of meters that were asked for, where they are new or were asked for again."""
    asked: set[str] = set()
    known_at = 0
    for each in news:
        if each.asked is not None:
            meter_id, record_time = each.asked.meter_id, each.asked.record_time
            followed = kept.followed.setdefault(meter_id, FollowedMeter(0))
            followed.until = max(followed.until, record_time + FOLLOW)
            asked.add(meter_id)
            known_at = max(known_at, record_time)
        elif each.places is not None:
            known_at = max(known_at, each.places.window_end + settings.collection_delay)
    found = []
    for meter_id, followed in kept.followed.items():
        place = kept.places.get(meter_id)
        if place is not None and (meter_id in asked or kept.feeders[place[2]] != followed.feeder_id):
            followed.feeder_id = kept.feeders[place[2]]
            found.append(MeterFeeder(meter_id, followed.feeder_id, known_at))
    return found


def locate_work(kept: KeptMeters, news: Iterable[PowerNews]) -> list[tuple[str, Announcement]]:
    """Take news of work in, after `locate`: what is to be said of it, by transformer_id.

    What was said and changes is said anew; where the meter has moved it is withdrawn from the transformer it was on.
    """
    for each in news:
        for work in each.work:
            known = kept.work.get(work.subject)
            kept.work[work.subject] = KeptWork(
                latest(None if known is None else known.said, work), None if known is None else known.told
            )
    found: list[tuple[str, Announcement]] = []
    for of in kept.work.values():
        place = kept.places.get(of.said.entity_id)
        now = of.said
        if now.transformer_id is None and place is not None:
            same = of.told is not None and of.told.transformer_id == place[0]
            placed_at = of.told.placed_at if same and of.told is not None else place[1]
            now = replace(now, transformer_id=place[0], placed_at=placed_at)
        if now.transformer_id is None or now == of.told:
            continue
        before = of.told
        if before is not None and before.transformer_id is not None and before.transformer_id != now.transformer_id:
            found.append((before.transformer_id, withdrawn(before, now)))
        found.append((now.transformer_id, now))
        of.told = now
    return found
