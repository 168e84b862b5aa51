"""Of all that was announced under one id the last word, brought to the transformer, feeder or meter it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import AlarmInput, Announcement, GroupInput
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.alarm_episodes import feeder_group
from transforms.announcements import forgotten_at, latest, withdrawn
from transforms.state_log import read_log, timer_of

TRANSFORMERS, FEEDERS, METERS = "transformers", "feeders", "meters"
NEWS, FORGET = "news", "forget"
"""Why the timer fires: something was announced, or is long over."""


class Announced(NamedTuple):
    """What `LatestAnnouncements` gives."""

    transformers: beam.PCollection[tuple[int, AlarmInput]]
    """Keyed by shard of the transformer."""
    feeders: beam.PCollection[tuple[str, GroupInput]]
    """Keyed by feeder."""
    meters: beam.PCollection[tuple[int, Announcement]]
    """Keyed by shard of the meter: on which transformer it hangs is not known yet."""


class KeptId(Struct, array_like=True, gc=False):
    """What is known of one id."""

    last: Announcement
    elsewhere: list[Announcement] = field(default_factory=list)
    """What it was about before."""


class KeptIds(Struct, array_like=True, gc=False):
    """What is known of the ids of a shard, by name."""

    ids: dict[str, KeptId] = field(default_factory=dict)


class IdsEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: Announcement | None
    kept: KeptIds | None


class LatestAnnouncements(beam.PTransform):
    """What was announced last under each id, whenever that changes; the order of arrival leaves no trace.

    The last by record time, partition and offset. An id that is about another entity by now is withdrawn from the one
    before. `announced_at` is the least record time of the id.

    State per shard of ids: about 150 bytes an id, until nothing that it may explain can change any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, announced: beam.PCollection[Announcement]) -> Announced:
        keyed = announced | "ById" >> beam.Map(_by_id, self._settings.shards).with_output_types(
            tuple[int, Announcement]
        )
        # Types before with_outputs, or they would not reach the outputs, which would then be pickled.
        last = beam.ParDo(_LatestDoFn(self._settings)).with_output_types(
            tuple[int, AlarmInput], feeders=tuple[str, GroupInput], meters=tuple[int, Announcement]
        )
        label = f"Latest {self._settings.state_label()}"
        found = keyed | label >> last.with_outputs(FEEDERS, METERS, main=TRANSFORMERS)
        return Announced(found[TRANSFORMERS], found[FEEDERS], found[METERS])


def _by_id(announced: Announcement, shards: int) -> tuple[int, Announcement]:
    return shard_of(announced.name, shards), announced


@beam.typehints.with_input_types(tuple[int, Announcement])
class _LatestDoFn(beam.DoFn):
    LOG = BagStateSpec("announcements_log", MsgspecCoder(IdsEntry))
    LATEST = TimerSpec("announcements_latest", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, Announcement],
        log: Any = beam.DoFn.StateParam(LOG),
        last: Any = beam.DoFn.TimerParam(LATEST),
    ) -> None:
        _put(element[1], log, last)

    @on_timer(LATEST)
    def on_latest(
        self,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        last: Any = beam.DoFn.TimerParam(LATEST),
    ) -> Iterator[Any]:
        news, kept = read_log(log)
        kept = kept or KeptIds()
        for announced in last_words(kept, [each for each in news if each.record_time <= at.micros]):
            yield self._addressed(announced)
        settings = self._settings
        if settings.live:
            kept.ids = {name: each for name, each in kept.ids.items() if forgotten_at(each.last, settings) > at.micros}
        log.clear()
        for each in news:
            if each.record_time > at.micros:
                _put(each, log, last)
        if kept.ids:
            log.add(IdsEntry(None, kept))
            if settings.live:
                forgotten = max(forgotten_at(each.last, settings) for each in kept.ids.values())
                last.set(Timestamp(micros=forgotten), dynamic_timer_tag=FORGET)

    def _addressed(self, announced: Announcement) -> Any:
        shards = self._settings.shards
        if announced.entity_type == "FEEDER":
            told = GroupInput(announced=[announced])
            return TaggedOutput(FEEDERS, (feeder_group(announced.entity_id), told))
        if announced.entity_type == "METER":
            return TaggedOutput(METERS, (shard_of(announced.entity_id, shards), announced))
        return shard_of(announced.entity_id, shards), AlarmInput(0, [], announced=[announced])


def _put(announced: Announcement, log: Any, last: Any) -> None:
    """In a backlog of reads what was announced later than they came waits for its time."""
    at = announced.record_time
    log.add(IdsEntry(announced, None))
    last.set(Timestamp(micros=at), dynamic_timer_tag=timer_of(NEWS, at))


def last_words(kept: KeptIds, news: Iterable[Announcement]) -> list[Announcement]:
    """Take news in: what is to be said of their ids now, withdrawals among it."""
    changed: dict[str, None] = {}
    for each in news:
        known = kept.ids.get(each.name)
        if known is None:
            kept.ids[each.name] = KeptId(each)
            changed[each.name] = None
            continue
        last = latest(known.last, each)
        if last == known.last:
            continue
        if last.subject != known.last.subject:
            known.elsewhere = [former for former in known.elsewhere if former.subject != last.subject]
            known.elsewhere.append(known.last)
        known.last = last
        changed[each.name] = None
    found: list[Announcement] = []
    for name in changed:
        of = kept.ids[name]
        found += [withdrawn(former, of.last) for former in of.elsewhere]
        found.append(of.last)
    return found
