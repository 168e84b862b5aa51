"""Collection groups: transformers that one collector hears, and what it explains when half of them are silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import Alarm, CollectedAlarms, CollectionGroup, FoundAlarms, GroupInput, TransformerPlace
from ami_beam.settings import Settings
from transforms.alarm_episodes import collector_group, feeder_group, own_group
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.end_of_replay import COLLECTED
from transforms.group_causes import COMM_GROUP, collected_alarms
from transforms.publish_alarms import final_window, with_those_folded
from transforms.state_log import read_log


class KeptCollector(Struct, array_like=True, gc=False):
    """What is known of the transformers that one collector hears."""

    found: dict[str, list[Alarm]] = field(default_factory=dict)
    """Receipt alarms by transformer_id."""
    places: dict[str, TransformerPlace] = field(default_factory=dict)
    given: dict[str, list[CollectedAlarms]] = field(default_factory=dict)
    """By feeder what was given last."""
    final_up_to: int = 0
    """Of alarms whose last window is not later nothing is known any more."""
    counts_version: str | None = None


class CollectorEntry(Struct, array_like=True, gc=False):
    """An element of a collector's log: something that has come, or what was known when it was read."""

    news: GroupInput | None
    kept: KeptCollector | None


@beam.typehints.with_input_types(tuple[str, GroupInput])
@beam.typehints.with_output_types(tuple[str, GroupInput])
class CollectionGroups(beam.PTransform):
    """What collection groups explain, whenever that changes, for the feeders of their transformers (`PublishAlarms`).

    A COMM_GROUP of transformers on several feeders is decided here, and published by itself. One of a single feeder is
    the feeder's to decide, which may have a better explanation (`group_causes`). A bounded run gives the end only.

    Takes the receipt alarms and places of transformers, keyed by collection group (`AlarmEpisodes`). Without collection
    groups in the meter counts nothing comes.

    State: the places of a group's transformers, 50 bytes each; its alarms, until none of their reads can come.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: beam.PCollection[tuple[str, GroupInput]]) -> beam.PCollection[tuple[str, GroupInput]]:
        return inputs | f"Collectors {self._settings.state_label()}" >> beam.ParDo(_CollectDoFn(self._settings))


class _CollectDoFn(beam.DoFn):
    LOG = BagStateSpec("collector_log", MsgspecCoder(CollectorEntry))
    COLLECT = TimerSpec("collectors_judge", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[str, GroupInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        collect: Any = beam.DoFn.TimerParam(COLLECT),
    ) -> None:
        log.add(CollectorEntry(element[1], None))
        collect.set(at if self._settings.live else Timestamp(micros=COLLECTED))

    @on_timer(COLLECT)
    def on_collect(
        self,
        key: Any = beam.DoFn.KeyParam,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[tuple[str, GroupInput]]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptCollector()
        yield from update_collector(key, kept, news, self._settings).items()
        if self._settings.live:  # a replay knows everything to its end
            forget_collector(kept, at.micros, self._settings)
        log.clear()
        if kept.found or kept.places:
            log.add(CollectorEntry(None, kept))


def update_collector(
    key: str, kept: KeptCollector, news: Iterable[GroupInput], settings: Settings
) -> dict[str, GroupInput]:
    """Take news in: by group what has changed, which is noted as given."""
    for each in news:
        kept.counts_version = each.counts_version or kept.counts_version
        for transformer_id in each.gone:
            kept.places.pop(transformer_id, None)
            kept.found.pop(transformer_id, None)
        for place in each.places:
            kept.places[place.transformer_id] = place
        for found in each.found:
            if found.alarm_type == LOW_RECEIPT_RATE:
                kept.found[found.transformer_id] = with_those_folded(kept.found.get(found.transformer_id, []), found)
    group_id = key.removeprefix(collector_group(""))
    alarms = [alarm for several in kept.found.values() for alarm in several]
    collected = collected_alarms(group_id, alarms, kept.places, settings.window)
    feeder_of = {alarm.alarm_id: alarm.feeder_id for alarm in alarms}
    now: dict[str, list[CollectedAlarms]] = {}
    for one in collected:
        for feeder_id in {feeder_of[child] for child in one.children}:
            now.setdefault(feeder_group(feeder_id or ""), []).append(one)
        if one.alarm.feeder_id is None:
            now.setdefault(own_group(group_id), []).append(one)
    changed: dict[str, GroupInput] = {}
    for group in {**kept.given, **now}:
        several = now.get(group, [])
        if several == kept.given.get(group, []):
            continue
        told = changed[group] = GroupInput(counts_version=kept.counts_version)
        if group == own_group(group_id):
            told.found.append(FoundAlarms(group_id, COMM_GROUP, [one.alarm for one in several], kept.final_up_to))
        else:
            told.collections.append(CollectionGroup(group_id, several, kept.final_up_to))
    kept.given = now
    return changed


def forget_collector(kept: KeptCollector, watermark: int, settings: Settings) -> None:
    """Drop what nothing that can still come would change; who was told of it keeps it for as long as it matters."""
    kept.final_up_to = max(kept.final_up_to, final_window(watermark, settings))

    def may_change(alarm: Alarm) -> bool:
        return not alarm.ended or alarm.last_window > kept.final_up_to

    for group, several in list(kept.given.items()):
        kept.given[group] = [one for one in several if may_change(one.alarm)]
        if not kept.given[group]:
            del kept.given[group]
    needed = {child for several in kept.given.values() for one in several for child in one.children}
    for transformer_id, alarms in list(kept.found.items()):
        kept.found[transformer_id] = [each for each in alarms if may_change(each) or each.alarm_id in needed]
        if not kept.found[transformer_id]:
            del kept.found[transformer_id]
