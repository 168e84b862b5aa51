"""Loss-control alarms: a meter that tells of tamper again and again, and one that feeds in and is no producer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder, carries
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import Alarm, FoundAlarms, GroupInput, MeterFeeder, ReadProgress
from ami_beam.settings import Settings
from transforms.end_of_replay import FOUND
from transforms.loss_episodes import TOGETHER, LossEpisode, loss_alarm, loss_episodes
from transforms.loss_events import TAMPER_REPEATED, LossEvent
from transforms.outages import window_of
from transforms.publish_alarms import final_window, kept_for
from transforms.state_log import read_log
from transforms.window_expiry import expiry

LOOK_EVERY = MICROS_PER_MINUTE
"""What is to be looked at within one such step of record time is looked at together."""


class LossNews(Struct, array_like=True, gc=False):
    """What a shard of meters is told: an event, where a meter hangs, or how far a replay has read."""

    event: LossEvent | None
    at: int
    """Record time, microseconds."""
    feeder: MeterFeeder | None = None


class HeardEvents(Struct, array_like=True, gc=False):
    """The events of one meter that one kind of alarm is made of."""

    times: dict[int, int] = field(default_factory=dict)
    """By the instant of an event the record time at which it arrived first."""
    look_at: int = 0
    """When they are to be looked at again, because an alarm is over or nothing more can come."""
    given: list[Alarm] = field(default_factory=list)
    """As they were given last."""
    feeder_id: str | None = None


class KeptLosses(Struct, array_like=True, gc=False):
    """What is known of the meters of a shard."""

    heard: dict[str, dict[str, HeardEvents]] = field(default_factory=dict)
    """By kind of alarm, by meter_id."""
    read_to: int = 0
    """Record time, microseconds: of a live run by its watermark."""


class LossEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: LossNews | None
    kept: KeptLosses | None


carries(LossNews)


def meter_group(meter_id: str) -> str:
    """The key of a meter's alarms."""
    return f"meter/{meter_id}"


class LossControl(beam.PTransform):
    """All loss-control alarms of a meter as they are known, whenever that changes, keyed by `meter_group`:

    TAMPER_REPEATED: `tamper_events` tamper events within 24 hours.
    REVERSE_ENERGY_UNREGISTERED: reverse energy at a meter that is no producer.

    Events of one instant are one, as resends are. The alarm is over 24 hours after the last event. An event that is
    late opens none and counts in one that is open. Any order of arrival gives the same alarms.

    Takes a tuple of the events (`LossEvents`), the feeders of their meters (`LocateEvents`), and the progress of
    reading, which says how far a bounded run has read: it gives the state of then. A live run goes by its watermark.

    State per shard: two numbers an event, and the alarms, until none can change any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self,
        inputs: tuple[
            beam.PCollection[tuple[int, LossEvent]],
            beam.PCollection[tuple[int, MeterFeeder]],
            beam.PCollection[ReadProgress],
        ],
    ) -> beam.PCollection[tuple[str, GroupInput]]:
        events, feeders, progress = inputs
        settings = self._settings
        told = [
            events | "Events" >> beam.MapTuple(_of_event).with_output_types(tuple[int, LossNews]),
            feeders | "Feeders" >> beam.MapTuple(_of_feeder).with_output_types(tuple[int, LossNews]),
        ]
        if not settings.live:
            read_to = beam.ParDo(_ReadToDoFn(settings.shards)).with_output_types(tuple[int, LossNews])
            told.append(progress | "ReadTo" >> read_to)
        news = tuple(told) | "LossNews" >> beam.Flatten()
        return news | f"Losses {settings.state_label()}" >> beam.ParDo(_LossControlDoFn(settings))


def _of_event(shard: int, event: LossEvent) -> tuple[int, LossNews]:
    return shard, LossNews(event, event.record_time)


def _of_feeder(shard: int, feeder: MeterFeeder) -> tuple[int, LossNews]:
    return shard, LossNews(None, feeder.known_at, feeder)


class _ReadToDoFn(beam.DoFn):
    """To every shard, once a bundle, how far has been read."""

    def __init__(self, shards: int):
        self._shards = shards
        self._read_to = 0

    def start_bundle(self) -> None:
        self._read_to = 0

    def process(self, progress: ReadProgress) -> None:
        self._read_to = max(self._read_to, progress.greatest_record_time)

    def finish_bundle(self) -> Iterator[Any]:
        if self._read_to:
            at = Timestamp(micros=self._read_to)
            for shard in range(self._shards):
                yield WindowedValue((shard, LossNews(None, self._read_to)), at, (GlobalWindow(),))


@beam.typehints.with_input_types(tuple[int, LossNews])
@beam.typehints.with_output_types(tuple[str, GroupInput])
class _LossControlDoFn(beam.DoFn):
    LOG = BagStateSpec("loss_log", MsgspecCoder(LossEntry))
    LOOK = TimerSpec("loss_look", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, LossNews],
        log: Any = beam.DoFn.StateParam(LOG),
        look: Any = beam.DoFn.TimerParam(LOOK),
    ) -> None:
        news = element[1]
        log.add(LossEntry(news, None))
        if self._settings.live:
            _look_at(look, news.at)
        else:
            look.set(Timestamp(micros=FOUND), dynamic_timer_tag="end")

    @on_timer(LOOK)
    def on_look(
        self,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        look: Any = beam.DoFn.TimerParam(LOOK),
    ) -> Iterator[tuple[str, GroupInput]]:
        news, kept = read_log(log)
        kept = kept or KeptLosses()
        if self._settings.live:
            kept.read_to = max(kept.read_to, at.micros)
        found, again = take_news(kept, news, self._settings)
        yield from ((meter_group(meter_id), GroupInput(alarms)) for meter_id, alarms in found.items())
        if self._settings.live:
            for instant in again:
                _look_at(look, instant)
        log.clear()
        if kept.heard:
            log.add(LossEntry(None, kept))


def _look_at(look: Any, instant: int) -> None:
    # A tag for each step: one that every event moved further would not come while events do.
    instant = -(-instant // LOOK_EVERY) * LOOK_EVERY
    look.set(Timestamp(micros=instant), dynamic_timer_tag=str(instant))


def take_news(
    kept: KeptLosses, news: Iterable[LossNews], settings: Settings
) -> tuple[dict[str, list[FoundAlarms]], set[int]]:
    """Take news in: by meter_id the alarms of what has changed, and instants at which to look again."""
    touched: set[tuple[str, str]] = set()
    feeders: dict[str, str] = {}
    for each in news:
        if not settings.live and each.feeder is None:  # of a backlog events come long before their time
            kept.read_to = max(kept.read_to, each.at)
        if each.feeder is not None:
            feeders[each.feeder.meter_id] = each.feeder.feeder_id
        event = each.event
        if event is not None:
            heard = kept.heard.setdefault(event.alarm_type, {}).setdefault(event.meter_id, HeardEvents())
            heard.times[event.at] = min(event.record_time, heard.times.get(event.at, event.record_time))
            touched.add((event.alarm_type, event.meter_id))
    for alarm_type, meters in kept.heard.items():
        for meter_id in feeders.keys() & meters.keys():
            meters[meter_id].feeder_id = feeders[meter_id]
            touched.add((alarm_type, meter_id))
        touched |= {(alarm_type, meter_id) for meter_id, heard in meters.items() if heard.look_at <= kept.read_to}
    found: dict[str, list[FoundAlarms]] = {}
    again: set[int] = set()
    for alarm_type, meter_id in sorted(touched):
        heard = kept.heard[alarm_type][meter_id]
        episodes = loss_episodes(heard.times, settings.tamper_events if alarm_type == TAMPER_REPEATED else 1)
        alarms = [
            loss_alarm(alarm_type, meter_id, each, heard.feeder_id, kept.read_to, settings.window) for each in episodes
        ]
        news_of = _give(alarm_type, meter_id, heard, alarms, kept, settings)
        if news_of is not None:
            found.setdefault(meter_id, []).append(news_of)
        if settings.live:
            _forget(heard, episodes, kept, settings)
            if heard.times:
                heard.look_at = _next_look(heard, episodes, kept, settings)
                again.add(heard.look_at)
            else:
                del kept.heard[alarm_type][meter_id]
    kept.heard = {alarm_type: meters for alarm_type, meters in kept.heard.items() if meters}
    return found, again


def _give(
    alarm_type: str, meter_id: str, heard: HeardEvents, alarms: list[Alarm], kept: KeptLosses, settings: Settings
) -> FoundAlarms | None:
    """What is to be told of the alarms, which are noted as given; None where it is what was told before.

    What is over and was told is not named for longer than those who publish it know it.
    """
    final = final_window(kept.read_to, settings) if settings.live else 0
    before, heard.given = heard.given, alarms
    settled = [each for each in before if each in alarms and each.ended and each.last_window <= final]
    named = [each for each in alarms if each not in settled]
    if named == [each for each in before if each not in settled]:
        return None
    return FoundAlarms(meter_id, alarm_type, named, final)


def _certain(kept: KeptLosses, settings: Settings) -> int:
    """No event that happened until then can come any more."""
    return kept.read_to - expiry(settings, 0)


def _forget(heard: HeardEvents, episodes: Iterable[LossEpisode], kept: KeptLosses, settings: Settings) -> None:
    """Drop what can be part of no alarm that may still change."""
    certain, final = _certain(kept, settings), final_window(kept.read_to, settings)
    needed: set[int] = set()
    settled: set[int] = set()
    for each in episodes:
        over = each.ends_at <= certain and window_of(each.times[-1], settings.window) <= final
        (settled if over else needed).update(each.times)
    heard.times = {
        at: record_time
        for at, record_time in heard.times.items()
        if at in needed or (at not in settled and at + TOGETHER > certain)
    }


def _next_look(heard: HeardEvents, episodes: Iterable[LossEpisode], kept: KeptLosses, settings: Settings) -> int:
    """When the next alarm is over, or else all of it can be forgotten."""
    last = max(heard.times)
    forgotten_at = max(last + TOGETHER + expiry(settings, 0), window_of(last, settings.window) + kept_for(settings))
    return min([*(each.ends_at for each in episodes if each.ends_at > kept.read_to), forgotten_at])
