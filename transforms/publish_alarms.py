"""Alarms as they are published: with what explains them, and again only when their content has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import (
    Alarm,
    Announcement,
    CollectionGroup,
    ExplainInput,
    FoundAlarms,
    GroupInput,
    TransformerCauses,
    TransformerPlace,
)
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.alarm_episodes import OUTAGES, feeder_group
from transforms.alert_causes import causes_of
from transforms.alert_lifecycle import MAX_ADOPTED
from transforms.announced_causes import planned_apart, with_announced
from transforms.announcements import forgotten_at, latest, until
from transforms.decode_reads import METRICS
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.group_causes import GROUPS, explained
from transforms.state_log import read_log
from transforms.window_expiry import expiry

NEWS, PUBLISHED, FORGET, HELD = "news", "published", "forget", "held"
"""Why the timer fires: alarms of transformers have changed, alarms were found in their topic, some are very old, or one
has lasted longer than the planned outage that holds it."""
ALARMS, CAUSES = "alarms", "causes"
RECONCILE_AFTER = MICROS_PER_MINUTE
"""So long after its as_of an alarm that was found in the topic is compared with what we know."""


class Published(NamedTuple):
    """What `PublishAlarms` gives."""

    alarms: beam.PCollection[Alarm]
    causes: beam.PCollection[tuple[int, ExplainInput]]
    """Keyed by shard: what explains the alerts of transformers, whenever that changes."""


class KeptGroup(Struct, array_like=True, gc=False):
    """What is known of the alarms of transformers that belong together."""

    found: dict[str, dict[str, list[Alarm]]] = field(default_factory=dict)
    """By transformer_id and kind of alarm."""
    folded_up_to: dict[str, int] = field(default_factory=dict)
    """By transformer_id the last window of which its alarms are not named any more."""
    places: dict[str, TransformerPlace] = field(default_factory=dict)
    told: dict[str, Alarm] = field(default_factory=dict)
    """By alarm_id, what was published last."""
    adopted: dict[str, int] = field(default_factory=dict)
    """By alarm_id how often it was found in the topic with a content that was not ours."""
    final_up_to: int = 0
    """Of alarms whose last window is not later nothing is known any more."""
    announced: dict[str, Announcement] = field(default_factory=dict)
    """Outages of the feeder and its transformers, by subject."""
    now: int = 0
    """Up to when it is known how things are, microseconds."""
    look_again_at: int | None = None
    """When an alarm that is held is to be published unless it is over by then."""
    causes: list[TransformerCauses] = field(default_factory=list)
    """What was given last to explain alerts."""
    collections: dict[str, CollectionGroup] = field(default_factory=dict)
    """By group_id what collection groups explain of its alarms."""
    held: list[Alarm] = field(default_factory=list)
    """What a planned outage holds, with its name as the cause."""
    moved: dict[str, int] = field(default_factory=dict)
    """Transformers that belong to another group now, with the instant up to which alarms of them were ours."""


class GroupEntry(Struct, array_like=True, gc=False):
    """An element of a group's log: something that has come, or what was known when it was read."""

    news: GroupInput | None
    kept: KeptGroup | None


@beam.typehints.with_input_types(tuple[str, GroupInput])
class PublishAlarms(beam.PTransform):
    """Every alarm once with each content, its revisions counted, its cause named; keyed by `alarm_episodes`' groups.

    What belongs together is looked at when all of it is there: a timer waits for the transformers that other shards
    judge at the same instant, so that an alarm is not published before what explains it is known.

    One that was published and is not found any more becomes CLEARED with no window in violation. One that stands in
    its topic and is not what we know of it was published by an attempt that a failure has ended: it is set right.
    A bounded run publishes the final alarms only.

    Takes what `AlarmEpisodes` has found, what collection groups explain (`CollectionGroups`), and what is read back.
    Announced outages are causes, too, and planned ones hold alarms (`announced_causes`).

    State: the places of a feeder's transformers, 50 bytes each; its alarms, until none of their reads can come.
    Counter: alarms_<TYPE>_<STATE>.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: beam.PCollection[tuple[str, GroupInput]]) -> Published:
        publish = beam.ParDo(_PublishDoFn(self._settings)).with_output_types(Alarm, causes=tuple[int, ExplainInput])
        label = f"Groups {self._settings.state_label()}"
        published = inputs | label >> publish.with_outputs(CAUSES, main=ALARMS)
        return Published(published[ALARMS], published[CAUSES])


class _PublishDoFn(beam.DoFn):
    LOG = BagStateSpec("group_log", MsgspecCoder(GroupEntry))
    PUBLISH = TimerSpec("alarms_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[str, GroupInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> None:
        news = element[1]
        log.add(GroupEntry(news, None))
        if not self._settings.live:
            publish.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag=NEWS)
        elif news.published:
            newest = max(alarm.as_of for alarm in news.published)
            publish.set(Timestamp(micros=newest + RECONCILE_AFTER), dynamic_timer_tag=PUBLISHED)
        else:
            publish.set(at, dynamic_timer_tag=NEWS)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> Iterator[Any]:
        news, kept = read_log(log)
        if not news and tag not in (FORGET, HELD):
            return
        kept = kept or KeptGroup()
        watermark = at.micros if self._settings.live else None  # a replay knows everything to its end
        for alarm in update_group(key, kept, news, watermark, self._settings):
            Metrics.counter(METRICS, f"alarms_{alarm.alarm_type}_{alarm.state}").inc()
            yield alarm
        for shard, causes in update_causes(key, kept, self._settings).items():
            yield TaggedOutput(CAUSES, (shard, ExplainInput(causes=causes)))
        if self._settings.live:
            forget_group(kept, at.micros, self._settings)
        log.clear()
        if kept.found or kept.places or kept.told or kept.announced or kept.moved:
            log.add(GroupEntry(None, kept))
        if self._settings.live and kept.look_again_at is not None:
            publish.set(Timestamp(micros=kept.look_again_at), dynamic_timer_tag=HELD)
        ends = [alarm.last_window for alarm in kept.told.values() if alarm.ended]
        ends += [*(until(each) for each in kept.announced.values()), *kept.moved.values()]
        if self._settings.live and ends:
            forgotten = max(*ends, at.micros) + kept_for(self._settings)
            publish.set(Timestamp(micros=forgotten), dynamic_timer_tag=FORGET)


def update_group(
    key: str, kept: KeptGroup, news: Iterable[GroupInput], watermark: int | None, settings: Settings
) -> list[Alarm]:
    """Take news in: the alarms to publish, which are noted as told. `watermark`: None where nothing is ever final."""
    # What is final by now was not told yet where the watermark of a backlog moves by days at once.
    forgotten_up_to = kept.final_up_to
    if watermark is not None:
        kept.final_up_to = max(kept.final_up_to, final_window(watermark, settings))
        kept.now = max(kept.now, watermark)
    version = None
    brought: dict[str, Alarm] = {}
    for each in news:
        version = each.counts_version or version
        brought |= _brought(each)
        for transformer_id in each.gone:
            kept.moved[transformer_id] = kept.now
            kept.places.pop(transformer_id, None)
            kept.folded_up_to.pop(transformer_id, None)
            kept.announced = {
                name: told
                for name, told in kept.announced.items()
                if (told.entity_type, told.entity_id) != ("TRANSFORMER", transformer_id)
            }
            for alarms in kept.found.pop(transformer_id, {}).values():
                for alarm in alarms:
                    kept.told.pop(alarm.alarm_id, None)
        for place in each.places:
            kept.places[place.transformer_id] = place
            kept.moved.pop(place.transformer_id, None)
        for found in each.found:
            _take_found(kept, found)
        for announced in each.announced:
            kept.announced[announced.subject] = latest(kept.announced.get(announced.subject), announced)
        kept.now = max(kept.now, each.judged_up_to)
        for collection in each.collections:
            _take_collection(kept, collection)
        for alarm in each.published:
            if alarm.last_window > kept.final_up_to and not _has_moved(kept, alarm):
                adopted = adopt_alarm(kept.told.get(alarm.alarm_id), alarm)
                if adopted is not None and kept.adopted.get(alarm.alarm_id, 0) < MAX_ADOPTED:
                    kept.adopted[alarm.alarm_id] = kept.adopted.get(alarm.alarm_id, 0) + 1
                    kept.told[alarm.alarm_id] = adopted
    current = _current(key, kept, settings)
    if watermark is not None:
        current += _lost_on_the_way(kept, brought, current, settings)
    return _changed(kept, current, forgotten_up_to, version)


def _brought(news: GroupInput) -> dict[str, Alarm]:
    """By alarm_id the alarms of transformers that have come from another group, as that was told of them."""
    first: dict[tuple[str, str], FoundAlarms] = {}
    for found in news.found:
        if found.transformer_id in news.come:
            first.setdefault((found.transformer_id, found.alarm_type), found)
    return {alarm.alarm_id: alarm for found in first.values() for alarm in found.alarms}


def _lost_on_the_way(
    kept: KeptGroup, brought: Mapping[str, Alarm], current: Iterable[Alarm], settings: Settings
) -> list[Alarm]:
    """Taken back: alarms that the transformer's former group may have published, and that are none any more.

    That group has forgotten them, and this one was told at once that they are none. Not those that a planned outage
    would hold, as it has held them there.
    """
    known = {alarm.alarm_id for alarm in (*current, *kept.held)} | kept.told.keys()
    lost = [alarm for alarm in brought.values() if alarm.alarm_id not in known]
    seen = with_announced(lost, list(kept.announced.values()), kept.places, kept.told, kept.now, settings).alarms
    return [_taken_back(alarm) for alarm in seen]


def _taken_back(alarm: Alarm) -> Alarm:
    return replace(
        alarm, state="CLEARED", worst_value=None, windows_in_violation=0, meters_in_violation=0, worst_meter_id=None,
        meters_missing=0, cause=None, ended_at=None, momentary=None,
    )  # fmt: skip


def _has_moved(kept: KeptGroup, alarm: Alarm) -> bool:
    """Whether another group says how it stands: what was published of it here may be read back later."""
    return alarm.entity_id in kept.moved and (alarm.alarm_type in GROUPS or alarm.alarm_type in OUTAGES)


def _take_found(kept: KeptGroup, found: FoundAlarms) -> None:
    """Replace what is known; what is too old to be named stays."""
    kinds = kept.found.setdefault(found.transformer_id, {})
    kinds[found.alarm_type] = with_those_folded(kinds.get(found.alarm_type, []), found)
    kept.folded_up_to[found.transformer_id] = found.folded_up_to


def with_those_folded(known: Iterable[Alarm], found: FoundAlarms) -> list[Alarm]:
    """The alarms as they are known now, and before them those that are too old to be named."""
    named = {alarm.alarm_id for alarm in found.alarms}
    return [*(alarm for alarm in known if _is_folded(alarm, named, found.folded_up_to)), *found.alarms]


def _is_folded(alarm: Alarm, named: set[str], folded_up_to: int) -> bool:
    return alarm.alarm_id not in named and alarm.last_window <= folded_up_to and alarm.ended


def _take_collection(kept: KeptGroup, news: CollectionGroup) -> None:
    """Replace what is known; what is too old to be named stays."""
    known = kept.collections.get(news.group_id)
    named = {one.alarm.alarm_id for one in news.collected}
    old = [] if known is None else [o for o in known.collected if _is_folded(o.alarm, named, news.folded_up_to)]
    kept.collections[news.group_id] = CollectionGroup(news.group_id, [*old, *news.collected], news.folded_up_to)


def _current(key: str, kept: KeptGroup, settings: Settings) -> list[Alarm]:
    """All alarms as they are now, with their causes."""
    alarms = [alarm for kinds in kept.found.values() for several in kinds.values() for alarm in several]
    feeder_id = key.removeprefix(feeder_group(""))
    announced = list(kept.announced.values())
    apart: list[Alarm] = []
    if announced:
        apart, alarms = planned_apart(alarms, announced, kept.places, settings)
    if feeder_id == key:
        current = [replace(alarm) for alarm in (*apart, *alarms)]
    else:
        collected = [one for collection in kept.collections.values() for one in collection.collected]
        current = [replace(alarm) for alarm in apart]
        current += explained(feeder_id, alarms, kept.places, settings.window, collected)
    kept.look_again_at, kept.held = None, []
    if announced:
        current, kept.look_again_at, kept.held = with_announced(
            current, announced, kept.places, kept.told, kept.now, settings
        )
    return current


def _changed(kept: KeptGroup, current: list[Alarm], forgotten_up_to: int, counts_version: str | None) -> list[Alarm]:
    """What was not told yet, noted as told, and what was told and is no alarm."""
    present = {alarm.alarm_id for alarm in current}
    for told in kept.told.values():
        known = told.last_window > max(kept.folded_up_to.get(told.entity_id, 0), kept.final_up_to)
        if told.alarm_id not in present and told.windows_in_violation and known:
            current.append(_taken_back(told))
    changed = []
    for alarm in current:
        told_before = kept.told.get(alarm.alarm_id)
        if told_before is not None:
            alarm.as_of = max(alarm.as_of, told_before.as_of)
            alarm.revision = told_before.revision
            if _facts(alarm) == _facts(told_before):
                continue
            alarm.revision += 1
        elif alarm.ended and alarm.last_window <= forgotten_up_to:
            continue  # told and forgotten
        alarm.meter_counts_version = counts_version or alarm.meter_counts_version
        kept.told[alarm.alarm_id] = alarm
        changed.append(alarm)
    return changed


def update_causes(key: str, kept: KeptGroup, settings: Settings) -> dict[int, list[TransformerCauses]]:
    """By shard what explains alerts by what was told and what is held, where it is not what was given; noted as given.

    An alarm that is held explains its alerts by what holds it. It has the same cause when it is published after all,
    so that the explanation stays; a cancellation, which takes its cause, changes it.
    """
    known = causes_of([*kept.told.values(), *kept.held], settings.window)
    now = {place: TransformerCauses(*place, causes, key) for place, causes in known.items()}
    before = {(each.transformer_id, each.alert_type): each for each in kept.causes}
    kept.causes = list(now.values())
    found: dict[int, list[TransformerCauses]] = {}
    for place in {**before, **now}:
        if now.get(place) != before.get(place):
            causes = now.get(place) or TransformerCauses(*place, [], key)
            found.setdefault(shard_of(causes.transformer_id, settings.shards), []).append(causes)
    return found


def _facts(alarm: Alarm) -> Alarm:
    """What makes an alarm worth publishing again: neither by what it was judged, nor when."""
    return replace(alarm, revision=0, as_of=0, config_id=None, meter_counts_version=None)


def adopt_alarm(known: Alarm | None, published: Alarm) -> Alarm | None:
    """The alarm that consumers were told, where it is not the one we know; None where it is, or is an older one.

    As `alert_lifecycle.adopt`: after a failure the topic has what the lost attempt published, and consumers keep the
    greatest as_of.
    """
    if known is None:
        return published
    if (_facts(published), published.revision, published.as_of) == (_facts(known), known.revision, known.as_of):
        return None
    if published.revision < known.revision and published.as_of <= known.as_of:
        return None
    return replace(
        published,
        revision=max(published.revision, known.revision),
        as_of=max(published.as_of, known.as_of),
    )


def final_window(watermark: int, settings: Settings) -> int:
    """The last window that is so old that alarms that ended in it are forgotten."""
    return (watermark - kept_for(settings)) // settings.window * settings.window


def kept_for(settings: Settings) -> int:
    """How long after its last window an alarm is kept, in microseconds."""
    return expiry(settings, 0) + settings.allowed_lateness + settings.window


def forget_group(kept: KeptGroup, watermark: int, settings: Settings) -> None:
    """Drop alarms that ended so long ago that nothing that would change them can come any more.

    A day longer than their windows are known, because an alarm ends after its last window.
    """
    kept.final_up_to = max(kept.final_up_to, final_window(watermark, settings))

    def may_change(alarm: Alarm) -> bool:
        if not alarm.ended or alarm.last_window > kept.final_up_to:
            return True
        told = kept.told.get(alarm.alarm_id)
        cause = kept.told.get(told.cause) if told is not None and told.cause is not None else None
        return cause is not None and (not cause.ended or cause.last_window > kept.final_up_to)

    for transformer_id, kinds in list(kept.found.items()):
        for kind, alarms in list(kinds.items()):
            kinds[kind] = [alarm for alarm in alarms if may_change(alarm)]
            if not kinds[kind]:
                del kinds[kind]
        if not kinds:
            del kept.found[transformer_id]
            kept.folded_up_to.pop(transformer_id, None)
    open_ids = {a.alarm_id for kinds in kept.found.values() for alarms in kinds.values() for a in alarms}
    kept.told = {
        name: alarm
        for name, alarm in kept.told.items()
        if alarm.last_window > kept.final_up_to or name in open_ids or not alarm.ended
    }
    kept.adopted = {name: times for name, times in kept.adopted.items() if name in kept.told}
    # An outage's last window may end after the instant at which it was known.
    kept.moved = {name: at for name, at in kept.moved.items() if at + settings.window > kept.final_up_to}
    kept.announced = {name: each for name, each in kept.announced.items() if forgotten_at(each, settings) > watermark}
    for group_id, collection in list(kept.collections.items()):
        collection.collected = [
            one for one in collection.collected if not one.alarm.ended or one.alarm.last_window > kept.final_up_to
        ]
        if not collection.collected:
            del kept.collections[group_id]
