"""What is known of the alarms of transformers: episodes of windows in violation, and outages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.alert_ids import alarm_id
from ami_beam.coders import MsgspecCoder
from ami_beam.records import (
    Alarm,
    AlarmInput,
    AlarmState,
    Announcement,
    FoundAlarms,
    GroupInput,
    Level,
    PackedNotes,
    PowerEvent,
    SupplyNote,
    TransformerPlace,
    Verdict,
)
from ami_beam.settings import Settings
from transforms.announcements import forgotten_at, latest, work_before, work_spans
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.end_of_replay import FOUND
from transforms.episodes import Episode, Progress, Rules, Window, follow
from transforms.outages import (
    MOMENTARY,
    SMALL_TRANSFORMER,
    UNKNOWN_AFTER,
    Outage,
    needed,
    of_losses,
    outages,
    unheard,
)
from transforms.receipt_rate import receipt_rate_pct
from transforms.state_log import read_log, timer_of
from transforms.supply import LATE_AFTER, losses
from transforms.supply_notes import unpack_notes
from transforms.voltage_alerts import HIGH_VOLTAGE
from transforms.window_expiry import expiry

OUTAGES = TRANSFORMER_OUTAGE, SINGLE_OUTAGE = "TRANSFORMER_OUTAGE", "SINGLE_OUTAGE"
NEWS, POWER, ANNOUNCED = "news", "power", "announced"
"""Why the timer fires: windows were judged, meters have told of their supply, or a lack of it was announced."""
BY_FEEDER, BY_COLLECTOR = "by_feeder", "by_collector"


class Episodes(NamedTuple):
    """What `AlarmEpisodes` gives."""

    by_feeder: beam.PCollection[tuple[str, GroupInput]]
    """All alarms of a transformer, keyed by its feeder; one without a known feeder is by itself."""
    by_collector: beam.PCollection[tuple[str, GroupInput]]
    """The receipt alarms of transformers whose collection group is known, keyed by that."""


class History(Struct, array_like=True, gc=False):
    """What is known of one kind of alarm on one transformer."""

    base: Progress = field(default_factory=Progress)
    """After all windows of which nothing new can come."""
    violations: dict[int, Verdict] = field(default_factory=dict)
    """By window_end, of later windows."""
    levels: dict[int, Level] = field(default_factory=dict)
    """By window_end, of later windows that are no violation: the last that was said."""


class Supply(Struct, array_like=True, gc=False):
    """What is known of the supply of one transformer's meters."""

    notes: dict[int, SupplyNote] = field(default_factory=dict)
    """By window_end, the last that was said; only of a transformer of which a loss was told."""
    silent: list[int] = field(default_factory=list)
    """Windows in which no meter was heard."""
    events: list[PowerEvent] = field(default_factory=list)
    spans: list[tuple[int, int | None]] = field(default_factory=list)
    """When its outages began and were over."""
    losses: list[tuple[str, int, int | None]] = field(default_factory=list)
    """By which meters they are: of each when it lost supply, and until when."""
    lit: list[int] = field(default_factory=list)
    dark: list[int] = field(default_factory=list)
    """Windows in which a meter was shown to have supply, and in which none was. Of those that are forgotten: between
    which it changed."""

    def begins(self) -> int | None:
        """When something was first said of a loss; None where nothing was."""
        lost = [event.at for event in self.events if not event.restored]
        return min([*lost, *(end for end, note in self.notes.items() if note.dead)], default=None)


class KeptTransformer(Struct, array_like=True, gc=False):
    """The histories of one transformer, by kind of alarm."""

    receipt_delay: int | None = None
    histories: dict[str, History] = field(default_factory=dict)
    supply: Supply | None = None
    given: dict[str, list[Alarm]] = field(default_factory=dict)
    """By kind of alarm what was given last."""
    group: str | None = None
    """To which group it was given."""


class NotesOfWindow(Struct, array_like=True, gc=False):
    """What reads of a window said of supply, once."""

    window_end: int
    notes: PackedNotes


class KeptAnnouncements(Struct, array_like=True, gc=False):
    """What is announced of one transformer and its meters."""

    by_subject: dict[str, Announcement] = field(default_factory=dict)
    group: str | None = None
    """To which group it was told."""

    def work(self) -> list[Announcement]:
        """What is announced of its meters."""
        return [each for each in self.by_subject.values() if each.entity_type == "METER"]

    def outages(self) -> list[Announcement]:
        """What is announced of the transformer."""
        return [each for each in self.by_subject.values() if each.entity_type != "METER"]


class KeptShard(Struct, array_like=True, gc=False):
    """What is known of the transformers of a shard that are not simply well."""

    folded_up_to: int = 0
    """The last window that is part of every `base`."""
    settled: dict[int, list[int]] = field(default_factory=dict)
    """By receipt delay the later windows in which transformers are judged, in order."""
    transformers: dict[str, KeptTransformer] = field(default_factory=dict)
    counts_version: str | None = None
    """Of the meter counts that were looked at last."""
    notes: list[NotesOfWindow] = field(default_factory=list)
    """For as long as a loss may still be told of, as they came."""
    announced: dict[str, KeptAnnouncements] = field(default_factory=dict)
    """By transformer_id."""


class KeptPlaces(Struct, array_like=True, gc=False):
    """Where the transformers of a shard stand."""

    places: dict[str, TransformerPlace] = field(default_factory=dict)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: AlarmInput | None
    kept: KeptShard | None


class _PlacesCell:
    """The places, read when they are first asked for, and written back if they changed."""

    def __init__(self, state: Any):
        self._state = state
        self._read: KeptPlaces | None = None
        self._changed = False

    def get(self, transformer_id: str) -> TransformerPlace | None:
        return self._places().get(transformer_id)

    def put(self, place: TransformerPlace) -> None:
        self._places()[place.transformer_id] = place
        self._changed = True

    def write(self) -> None:
        if self._changed:
            self._state.write(self._read)

    def _places(self) -> dict[str, TransformerPlace]:
        if self._read is None:
            self._read = self._state.read() or KeptPlaces()
        return self._read.places


@beam.typehints.with_input_types(tuple[int, AlarmInput])
class AlarmEpisodes(beam.PTransform):
    """All alarms of a transformer as they are known, whenever that changes, keyed by what it belongs to.

    An episode opens after `alarm_on_windows` windows in violation in a row and closes after `alarm_off_windows` in a
    row beyond the deadband; windows in which nothing was measured count neither way. An outage is meters of a
    transformer that lose supply together (`outages`); windows in which it was out say nothing about its receipt rate.
    Both are functions of what is known: late reads and events may lengthen, join, divide or take back alarms.

    Takes, keyed by shard, verdicts (`JudgeWindows`), notes on supply and places (`JoinMeterCounts`), and what meters
    say of their supply (`LocateEvents`). Where work at meters is announced, what they say and show meanwhile makes no
    outage; outages that are announced for transformers are handed on to what these belong to. A bounded run gives the
    end only.

    State per shard: about 50 bytes for every window and transformer that is not clear, for as long as its reads may
    come; for an hour, packed, what reads say of supply where they do not show it at every meter; what alarms are open;
    50 bytes a transformer for its place.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: beam.PCollection[tuple[int, AlarmInput]]) -> Episodes:
        episodes = beam.ParDo(_EpisodesDoFn(self._settings)).with_output_types(
            tuple[str, GroupInput], by_collector=tuple[str, GroupInput]
        )
        label = f"Episodes {self._settings.state_label()}"
        found = inputs | label >> episodes.with_outputs(BY_COLLECTOR, main=BY_FEEDER)
        return Episodes(found[BY_FEEDER], found[BY_COLLECTOR])


class _EpisodesDoFn(beam.DoFn):
    LOG = BagStateSpec("alarm_log", MsgspecCoder(LogEntry))
    PLACES = ReadModifyWriteStateSpec("alarm_places", MsgspecCoder(KeptPlaces))
    JUDGE = TimerSpec("alarms_judge", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, AlarmInput],
        log: Any = beam.DoFn.StateParam(LOG),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> None:
        _, news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            # The end of a replay: only what is true then is published.
            judge.set(Timestamp(micros=FOUND), dynamic_timer_tag=NEWS)
        elif news.events:
            newest = max(event.record_time for event in news.events)
            judge.set(Timestamp(micros=newest), dynamic_timer_tag=timer_of(POWER, newest))
        elif news.announced:
            newest = max(each.record_time for each in news.announced)
            judge.set(Timestamp(micros=newest), dynamic_timer_tag=timer_of(ANNOUNCED, newest))
        else:
            # What windows say comes when their time has passed: at once.
            delay = self._settings.collection_delay if news.settled is None else news.settled
            judge.set(Timestamp(micros=news.window_end + delay), dynamic_timer_tag=NEWS)

    @on_timer(JUDGE)
    def on_judge(
        self,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        places_state: Any = beam.DoFn.StateParam(PLACES),
    ) -> Iterator[Any]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptShard()
        for each in news:
            kept.counts_version = each.counts_version or kept.counts_version
        places = _PlacesCell(places_state)
        for group, found in update(kept, news, self._settings, places).items():
            found.counts_version = kept.counts_version
            yield TaggedOutput(BY_COLLECTOR, (group, found)) if is_collector(group) else (group, found)
        # By what was judged: of a backlog notes come long before. And by the time: so may what was judged, and the
        # events of its time behind it.
        judged = [each.window_end + each.settled for each in news if each.settled is not None]
        forget(kept, min(max(judged, default=0), at.micros), self._settings)
        places.write()
        log.clear()
        if kept.transformers or kept.settled or kept.notes or kept.announced:
            log.add(LogEntry(None, kept))


class _Place(NamedTuple):
    transformer_id: str
    alarm_type: str


def update(kept: KeptShard, news: Iterable[AlarmInput], settings: Settings, places: Places) -> dict[str, GroupInput]:
    """Take news in: by group what has changed, which is noted as given."""
    settled: set[int] = set()
    touched: dict[_Place, None] = {}
    powered: dict[str, None] = {}
    found: dict[str, GroupInput] = {}
    news = list(news)
    lost_before = _with_losses(kept)
    told: dict[str, None] = {}
    for each in news:
        if each.settled is not None and each.window_end > kept.folded_up_to:
            windows = kept.settled.setdefault(each.settled, [])
            if each.window_end not in windows:
                windows.insert(bisect_right(windows, each.window_end), each.window_end)
            settled.add(each.settled)
        for verdict in each.verdicts:
            if each.window_end > kept.folded_up_to:
                _take_verdict(kept, each.window_end, verdict)
                touched[_Place(verdict.transformer_id, verdict.alarm_type)] = None
        for transformer_id in _take_supply(kept, each):
            powered[transformer_id] = None
        for place in each.places:
            _take_place(kept, place, places, found, powered)
        for transformer_id in _take_announced(kept, each.announced):
            told[transformer_id] = None
            if transformer_id in kept.transformers:
                powered[transformer_id] = None
    powered |= dict.fromkeys(_take_notes(kept, news, lost_before))
    for transformer_id, transformer in kept.transformers.items():
        # A window that is settled without a verdict may be the one that closes an alarm.
        if settled and _delay(transformer, settings) in settled:
            touched |= {_Place(transformer_id, alarm_type): None for alarm_type in transformer.histories}
        if settled and transformer.supply is not None:
            powered[transformer_id] = None
    for transformer_id in powered:
        transformer = kept.transformers[transformer_id]
        if transformer.supply is None or (transformer.supply.begins() is None and not transformer.supply.spans):
            continue
        where = places.get(transformer_id)
        before = transformer.supply.spans
        alarm_type, alarms = _outage_alarms(kept, transformer_id, transformer.supply, where, settings)
        for kind in OUTAGES:
            _give(kept, transformer_id, kind, alarms if kind == alarm_type else [], where, found)
        if transformer.supply.spans != before and LOW_RECEIPT_RATE in transformer.histories:
            touched[_Place(transformer_id, LOW_RECEIPT_RATE)] = None
    for transformer_id, alarm_type in touched:
        transformer = kept.transformers[transformer_id]
        where = places.get(transformer_id)
        episodes = _episodes(kept, transformer, alarm_type, settings)
        alarms = [_alarm(transformer_id, alarm_type, episode, where) for episode in episodes]
        _give(kept, transformer_id, alarm_type, alarms, where, found)
    _leave_where_they_are(kept, places, found)
    if kept.announced:
        _tell_announced(kept, told, places, found)
    judged = max((each.window_end + each.settled for each in news if each.settled is not None), default=0)
    for group in found.values():
        group.judged_up_to = judged
    return found


def _take_announced(kept: KeptShard, announced: Iterable[Announcement]) -> Iterator[str]:
    """Note what is announced; the transformers of which it is."""
    for each in announced:
        transformer_id = each.entity_id if each.entity_type == "TRANSFORMER" else each.transformer_id
        assert transformer_id is not None
        known = kept.announced.setdefault(transformer_id, KeptAnnouncements()).by_subject
        known[each.subject] = latest(known.get(each.subject), each)
        yield transformer_id


def _tell_announced(kept: KeptShard, news: Iterable[str], places: Places, found: dict[str, GroupInput]) -> None:
    """Tell what the transformers belong to of the outages that are announced for them."""
    fresh = set(news)
    placed = {place.transformer_id for group in found.values() for place in group.places}
    given = {each.transformer_id for group in found.values() for each in group.found}
    for transformer_id in sorted((fresh | placed | given) & kept.announced.keys()):
        announced = kept.announced[transformer_id]
        where = places.get(transformer_id)
        transformer = kept.transformers.get(transformer_id)
        group = transformer.group if where is None and transformer is not None else None
        group = group or _group_of(transformer_id, [], where)
        outages = announced.outages()
        if outages and (transformer_id in fresh or group != announced.group):
            announced.group = group
            _group(found, group).announced += outages


def _leave_where_they_are(kept: KeptShard, places: Places, found: dict[str, GroupInput]) -> None:
    """Of transformers that have moved several times at once: only what they belong to in the end is told of them."""

    def is_in(transformer_id: str, key: str) -> bool:
        where = places.get(transformer_id)
        if where is None:
            return transformer_id in kept.transformers and kept.transformers[transformer_id].group == key
        collector = where.collection_group
        return key == feeder_group(where.feeder_id) or (collector is not None and key == collector_group(collector))

    for key, group in found.items():
        group.gone = [name for name in dict.fromkeys(group.gone) if not is_in(name, key)]
        if group.gone:
            group.places = [place for place in group.places if place.transformer_id not in group.gone]
            group.found = [each for each in group.found if each.transformer_id not in group.gone]
            group.come = [name for name in group.come if name not in group.gone]


class Places(Protocol):
    """Where transformers stand."""

    def get(self, transformer_id: str) -> TransformerPlace | None: ...

    def put(self, place: TransformerPlace) -> None: ...


def _take_verdict(kept: KeptShard, window_end: int, verdict: Verdict) -> None:
    transformer = kept.transformers.setdefault(verdict.transformer_id, KeptTransformer())
    if verdict.receipt_delay is not None:
        transformer.receipt_delay = verdict.receipt_delay
    history = transformer.histories.setdefault(verdict.alarm_type, History())
    if verdict.level == Level.VIOLATION:
        history.violations[window_end] = verdict
        history.levels.pop(window_end, None)
    else:
        history.levels[window_end] = verdict.level
        history.violations.pop(window_end, None)


def _with_losses(kept: KeptShard) -> set[str]:
    """The transformers of which a loss was told."""
    return {
        name
        for name, transformer in kept.transformers.items()
        if transformer.supply is not None and transformer.supply.begins() is not None
    }


def _supply(kept: KeptShard, transformer_id: str) -> Supply:
    transformer = kept.transformers.setdefault(transformer_id, KeptTransformer())
    if transformer.supply is None:
        transformer.supply = Supply()
    return transformer.supply


def _take_notes(kept: KeptShard, news: Sequence[AlarmInput], lost_before: set[str]) -> Iterator[str]:
    """Keep the notes as they are, and look at those of transformers of which a loss was told, which are named.

    Of a loss that is told of now, also at those that came before.
    """
    fresh = [NotesOfWindow(each.window_end, each.notes) for each in news if each.notes is not None]
    dead = {transformer_id for each in fresh for transformer_id in each.notes.dead}
    lost = (_with_losses(kept) | dead) - lost_before
    for which, several in ((lost, [*kept.notes, *fresh]), (lost_before, fresh)):
        for each in several:
            if which.isdisjoint(each.notes.transformers):
                continue
            for note in unpack_notes(each.notes):
                if note.transformer_id in which:
                    notes = _supply(kept, note.transformer_id).notes
                    known = notes.get(each.window_end)
                    if known is None or note.as_of >= known.as_of:
                        notes[each.window_end] = note
                    yield note.transformer_id
    kept.notes += fresh


def _take_supply(kept: KeptShard, news: AlarmInput) -> Iterator[str]:
    """Note what is said of supply but by notes; the transformers of which something was said."""
    for transformer_id in news.silent:
        of_transformer = _supply(kept, transformer_id)
        if news.window_end not in of_transformer.silent:
            of_transformer.silent.append(news.window_end)
        yield transformer_id
    for transformer_id in news.heard:
        of_transformer = _supply(kept, transformer_id)
        of_transformer.silent = [end for end in of_transformer.silent if end != news.window_end]
        yield transformer_id
    for event in news.events:
        of_transformer = _supply(kept, event.transformer_id)
        if event not in of_transformer.events:
            of_transformer.events.append(event)
        yield event.transformer_id


def _take_place(
    kept: KeptShard,
    place: TransformerPlace,
    places: Places,
    found: dict[str, GroupInput],
    powered: dict[str, None],
) -> None:
    """Note where a transformer stands, and tell its feeder if that is new."""
    known = places.get(place.transformer_id)
    if known is not None and known.window_end > place.window_end:
        return
    if known is not None and place.receipt_delay is None:
        # Not in the meter counts: as many as were ever heard.
        place.total_meters = max(place.total_meters, known.total_meters)
    if known is not None and replace(known, window_end=place.window_end) == place:
        return
    places.put(place)
    _group(found, feeder_group(place.feeder_id)).places.append(place)
    if known is not None and known.feeder_id != place.feeder_id:
        _group(found, feeder_group(known.feeder_id)).gone.append(place.transformer_id)
    collector, before = place.collection_group, None if known is None else known.collection_group
    if before is not None and before != collector:
        _group(found, collector_group(before)).gone.append(place.transformer_id)
    if collector is not None:
        _group(found, collector_group(collector)).places.append(place)
    transformer = kept.transformers.get(place.transformer_id)
    if transformer is None:
        return
    if transformer.supply is not None:
        powered[place.transformer_id] = None
    for alarm_type in transformer.given:
        alarms = [replace(alarm, feeder_id=place.feeder_id) for alarm in transformer.given[alarm_type]]
        _give(kept, place.transformer_id, alarm_type, alarms, place, found)
    if LOW_RECEIPT_RATE in transformer.given and collector is not None and before != collector:
        receipt = transformer.given[LOW_RECEIPT_RATE]
        _group(found, collector_group(collector)).found.append(
            FoundAlarms(place.transformer_id, LOW_RECEIPT_RATE, receipt, kept.folded_up_to)
        )


def _outage_alarms(
    kept: KeptShard, transformer_id: str, supply: Supply, where: TransformerPlace | None, settings: Settings
) -> tuple[str | None, list[Alarm]]:
    """The kind of outage that it can have and its outages, whose spans are noted."""
    supply.spans, supply.losses = [], []
    begins = supply.begins()
    if where is None or begins is None:
        return None, []
    ends = [] if where.receipt_delay is None else kept.settled.get(where.receipt_delay, [])
    ends = ends[bisect_right(ends, begins - 1) :]
    settled, silent, notes = set(ends), set(supply.silent), supply.notes

    def has_supply(meter_id: str, window_end: int) -> bool:
        note = notes.get(window_end)
        if note is not None:
            return note.shows(meter_id)
        return window_end in settled and window_end not in silent

    known = settled | {end for end in notes if end >= begins}
    work = kept.announced[transformer_id].work() if transformer_id in kept.announced else []
    spans = work_spans(work)
    lost = losses(supply.events, notes, known, has_supply, settings.window, spans)
    supply.losses = [(loss.meter_id, loss.at, loss.until) for loss in lost]
    members = of_losses(lost, settings.window)
    last = kept.folded_up_to
    # Of what is forgotten notes are there for losses that go on, and say nothing of other meters any more.
    seen = {end for end in known if end > last}
    dark = {end for end in seen if (notes[end].shows_none(where.total_meters) if end in notes else end in silent)}
    supply.lit = sorted({*(end for end in supply.lit if end <= last), *(seen - dark)})
    supply.dark = sorted({*(end for end in supply.dark if end <= last), *dark})
    members += unheard(members, supply.dark, supply.lit, where.total_meters, settings.window, spans)
    newest = ends[-1] if ends else 0
    alarms: dict[str, Alarm] = {}
    alarm_type = SINGLE_OUTAGE if where.total_meters <= SMALL_TRANSFORMER else TRANSFORMER_OUTAGE
    for outage in outages(members, needed(where.total_meters)):
        supply.spans.append((outage.began_at, outage.ended_at))
        alarm = _outage_alarm(transformer_id, alarm_type, outage, where, newest, settings)
        if alarm_type == SINGLE_OUTAGE:
            alarm.cause = work_before(outage.members[0].name, outage.began_at, work, settings.window)
        before = alarms.get(alarm.alarm_id)
        # Several in one window are one: a recloser at work.
        alarms[alarm.alarm_id] = alarm if before is None else _as_one(before, alarm)
    return alarm_type, list(alarms.values())


def _outage_alarm(
    transformer_id: str, alarm_type: str, outage: Outage, where: TransformerPlace, newest: int, settings: Settings
) -> Alarm:
    first, last = outage.windows(settings.window)
    # Who is unheard may have told of it later.
    most = min(outage.most, where.total_meters)
    state: AlarmState = "CLEARED"
    if outage.ended_at is None:
        state = "UNKNOWN" if newest - outage.began_at >= UNKNOWN_AFTER else "ACTIVE"
    return Alarm(
        alarm_id=alarm_id(alarm_type, transformer_id, first),
        alarm_type=alarm_type,
        entity_id=transformer_id,
        feeder_id=where.feeder_id,
        state=state,
        severity="WARNING" if alarm_type == SINGLE_OUTAGE else "CRITICAL",
        first_window=first,
        last_window=last,
        worst_value=receipt_rate_pct(most, where.total_meters),
        windows_in_violation=(last - first) // settings.window + 1,
        meters_in_violation=most,
        worst_meter_id=outage.members[0].name,
        meters_missing=0,
        cause=None,
        revision=0,
        as_of=outage.as_of,
        began_at=outage.began_at,
        ended_at=outage.ended_at,
        meters_total=where.total_meters,
        momentary=outage.momentary,
    )


def _as_one(first: Alarm, second: Alarm) -> Alarm:
    """Of two outages that began in one window, in order."""
    assert first.began_at is not None
    ended, worse = second.ended_at, max(first, second, key=lambda alarm: alarm.meters_in_violation)
    return replace(
        first,
        state=second.state,
        last_window=second.last_window,
        worst_value=worse.worst_value,
        windows_in_violation=second.windows_in_violation,
        meters_in_violation=worse.meters_in_violation,
        as_of=max(first.as_of, second.as_of),
        ended_at=ended,
        momentary=None
        if ended is None
        else first.momentary and second.momentary and ended - first.began_at <= MOMENTARY,
    )


def _give(
    kept: KeptShard,
    transformer_id: str,
    alarm_type: str,
    alarms: list[Alarm],
    where: TransformerPlace | None,
    found: dict[str, GroupInput],
) -> None:
    """Tell the group of the transformer, if it is not what was told before; after a move the other group, too."""
    transformer = kept.transformers[transformer_id]
    before = transformer.given.get(alarm_type, [])
    # What a group was told before is not known to the one that the transformer belongs to now.
    as_of = {alarm.alarm_id: alarm.as_of for alarm in before}
    alarms = [
        replace(alarm, as_of=as_of[alarm.alarm_id]) if as_of.get(alarm.alarm_id, 0) > alarm.as_of else alarm
        for alarm in alarms
    ]
    group = _group_of(transformer_id, alarms or before, where)
    moved = transformer.group is not None and transformer.group != group
    if alarms == before and not moved:
        return
    if alarms:
        transformer.given[alarm_type] = alarms
    else:
        transformer.given.pop(alarm_type, None)
    if moved:
        assert transformer.group is not None
        _group(found, transformer.group).gone.append(transformer_id)
        _group(found, group).come.append(transformer_id)
        others = [(kind, given) for kind, given in transformer.given.items() if kind != alarm_type]
        _group(found, group).found += [
            FoundAlarms(transformer_id, kind, given, kept.folded_up_to) for kind, given in others
        ]
    transformer.group = group
    all_of_it = FoundAlarms(transformer_id, alarm_type, alarms, kept.folded_up_to)
    _group(found, group).found.append(all_of_it)
    if alarm_type == LOW_RECEIPT_RATE and where is not None and where.collection_group is not None:
        _group(found, collector_group(where.collection_group)).found.append(all_of_it)


def _group_of(transformer_id: str, alarms: list[Alarm], where: TransformerPlace | None) -> str:
    if where is not None:
        return feeder_group(where.feeder_id)
    feeders = [alarm.feeder_id for alarm in alarms if alarm.feeder_id is not None]
    return feeder_group(feeders[-1]) if feeders else own_group(transformer_id)


def feeder_group(feeder_id: str) -> str:
    """The key of what belongs to a feeder."""
    return f"feeder/{feeder_id}"


def collector_group(collection_group: str) -> str:
    """The key of what one collector hears."""
    return f"collector/{collection_group}"


def is_collector(group: str) -> bool:
    """Whether it is the key of what a collector hears."""
    return group.startswith(collector_group(""))


def own_group(entity_id: str) -> str:
    """The key of what belongs to no feeder that is known."""
    return f"entity/{entity_id}"


def _group(found: dict[str, GroupInput], key: str) -> GroupInput:
    return found.setdefault(key, GroupInput())


def forget(kept: KeptShard, watermark: int, settings: Settings) -> None:
    """Fold the windows of which nothing new can come into the histories' bases, and drop what is at rest."""
    longest = max(settings.collection_delay, settings.receipt_delay, *kept.settled)
    kept.notes = [each for each in kept.notes if each.window_end > _may_be_told(watermark, longest, settings)]
    reach = watermark - expiry(settings, 0)
    last = reach // settings.window * settings.window
    if last > kept.folded_up_to:
        for transformer in kept.transformers.values():
            _fold(kept, transformer, last, settings)
        kept.settled = {
            delay: later for delay, ends in kept.settled.items() if (later := ends[bisect_right(ends, last) :])
        }
        kept.folded_up_to = last
    for transformer in kept.transformers.values():
        ends = set(kept.settled.get(_delay(transformer, settings), ()))
        for history in transformer.histories.values():
            # What is clear by being settled need not be said.
            history.levels = {
                end: level for end, level in history.levels.items() if level != Level.CLEAR or end not in ends
            }
        transformer.histories = {
            alarm_type: history
            for alarm_type, history in transformer.histories.items()
            if history.violations or history.levels or transformer.given.get(alarm_type) or not history.base.is_at_rest
        }
        if transformer.supply is not None:
            _forget_supply(kept, transformer, watermark, settings)
    kept.transformers = {
        name: each for name, each in kept.transformers.items() if each.histories or each.supply is not None
    }
    for transformer_id, announced in list(kept.announced.items()):
        announced.by_subject = {
            name: each for name, each in announced.by_subject.items() if forgotten_at(each, settings) > watermark
        }
        if not announced.by_subject:
            del kept.announced[transformer_id]


def _fold(kept: KeptShard, transformer: KeptTransformer, last: int, settings: Settings) -> None:
    for alarm_type, history in transformer.histories.items():
        windows = _windows(kept, transformer, alarm_type, settings)
        history.base, closed = follow(
            history.base, takewhile(lambda each: each[0] <= last, windows), _rules(alarm_type, settings)
        )
        history.violations = {end: each for end, each in history.violations.items() if end > last}
        history.levels = {end: level for end, level in history.levels.items() if end > last}
        ended = {episode.first_window for episode in closed}
        given = [alarm for alarm in transformer.given.get(alarm_type, []) if alarm.first_window not in ended]
        if given:
            transformer.given[alarm_type] = given
        else:
            transformer.given.pop(alarm_type, None)


def _forget_supply(kept: KeptShard, transformer: KeptTransformer, watermark: int, settings: Settings) -> None:
    """Without a loss what reads showed is kept for as long as a loss may still be told of, else as long as windows."""
    supply = transformer.supply
    assert supply is not None
    if supply.begins() is None:
        delay = max(settings.collection_delay, _delay(transformer, settings))
        horizon = _may_be_told(watermark, delay, settings)
        supply.notes = {end: note for end, note in supply.notes.items() if end > horizon}
        supply.silent = [end for end in supply.silent if end > horizon]
        supply.events = [event for event in supply.events if event.at > horizon]
        supply.lit, supply.dark = [], []
    else:
        _forget_what_is_over(supply, kept.folded_up_to, settings.window)
        _forget_given(transformer, kept.folded_up_to)
    if not (supply.notes or supply.silent or supply.events):
        transformer.supply = None


def _forget_given(transformer: KeptTransformer, last: int) -> None:
    """Name outages no more of which nothing new can come; who was told of them keeps them."""
    for kind in OUTAGES:
        given = [alarm for alarm in transformer.given.pop(kind, []) if not alarm.ended or alarm.last_window > last]
        if given:
            transformer.given[kind] = given


def _forget_what_is_over(supply: Supply, last: int, window: int) -> None:
    """Forget windows up to `last`, and with them losses and outages that were over by then.

    By halves forgotten, an outage that reads have ended would seem to last until the first window that is still known,
    and a meter without a voltage to have lost it later than it did, together with others. So the beginning of a loss
    that goes on is kept, whenever it was; and an end that only windows show is noted as the meter's word.
    """
    ended = [end for _, end in supply.spans if end is not None and end <= last]
    over = last if len(ended) == len(supply.spans) else max(ended, default=0)
    goes_on = [loss for loss in supply.losses if loss[2] is None or loss[2] > over]
    begun = {(meter_id, at) for meter_id, at, _ in goes_on}
    events = [event for event in supply.events if event.at > over or (event.meter_id, event.at) in begun]
    restored = {(event.meter_id, event.at) for event in events if event.restored}
    events += [
        PowerEvent(meter_id, "", True, until, until)
        for meter_id, _, until in goes_on
        if until is not None and until <= last and (meter_id, until) not in restored
    ]
    supply.events = events
    notes = {}
    for end, note in supply.notes.items():
        if end > last:
            notes[end] = note
        elif dead := [meter_id for meter_id in note.dead if (meter_id, end) in begun]:
            notes[end] = replace(note, dead=dead)
    supply.notes = notes
    supply.silent = [end for end in supply.silent if end > last]
    earlier = supply.lit[: bisect_right(supply.lit, over)][-1:]
    lit, dark = ([end for end in ends if end > over] for ends in (supply.lit, supply.dark))
    # Who is unheard is decided by the first whole window of darkness after each loss.
    places = (bisect_left(dark, at + window) for _, at, _ in goes_on)
    decisive = {dark[place] for place in places if place < len(dark)}
    supply.lit = earlier + _at_changes(lit, dark, last)
    supply.dark = sorted({*_at_changes(dark, lit, last), *decisive})
    supply.spans = [span for span in supply.spans if span[1] is None or span[1] > over]


def _at_changes(ends: Sequence[int], others: Sequence[int], last: int) -> list[int]:
    """Those later than `last`; of the others the first and the last of every run between `others`. All are sorted."""
    places = [bisect_right(others, end) for end in ends]
    return [
        end
        for number, (end, place) in enumerate(zip(ends, places, strict=True))
        if end > last
        or place not in places[max(number - 1, 0) : number]
        or place not in places[number + 1 : number + 2]
    ]


def _may_be_told(watermark: int, delay: int, settings: Settings) -> int:
    """Of a later window a loss may still be told that opens an outage, where windows are judged after this delay."""
    return watermark - LATE_AFTER - delay - 2 * settings.window


def _delay(transformer: KeptTransformer, settings: Settings) -> int:
    return settings.receipt_delay_of(transformer.receipt_delay)


def _rules(alarm_type: str, settings: Settings) -> Rules:
    return Rules(settings.alarm_on_windows, settings.alarm_off_windows, alarm_type != HIGH_VOLTAGE)


def _windows(kept: KeptShard, transformer: KeptTransformer, alarm_type: str, settings: Settings) -> Iterator[Window]:
    """What is known of every window since the base, in order.

    A window that is settled, and of which there is no verdict, is clear. One that is not settled yet may still be that:
    it keeps the windows around it from being in a row. One that never will be, because the head-end was silent,
    is passed over. An outage is why meters are not heard: its windows say nothing about the receipt rate.
    """
    history = transformer.histories[alarm_type]
    ends = kept.settled.get(_delay(transformer, settings), [])
    newest = ends[-1] if ends else 0
    spans = transformer.supply.spans if alarm_type == LOW_RECEIPT_RATE and transformer.supply is not None else []
    before = None
    for end in sorted({*ends, *history.violations, *history.levels}):
        if before is not None and end > newest and end - before > settings.window:
            yield end - settings.window, Level.BAND, None
        violation = history.violations.get(end)
        if any(began < end and (over is None or over > end - settings.window) for began, over in spans):
            yield end, Level.UNKNOWN, None
        elif violation is not None:
            yield end, Level.VIOLATION, violation
        else:
            yield end, history.levels.get(end, Level.CLEAR), None
        before = end


def _episodes(kept: KeptShard, transformer: KeptTransformer, alarm_type: str, settings: Settings) -> list[Episode]:
    """All episodes that have not been folded away, in order."""
    history = transformer.histories[alarm_type]
    windows = _windows(kept, transformer, alarm_type, settings)
    progress, episodes = follow(history.base, windows, _rules(alarm_type, settings))
    return episodes if progress.open is None else [*episodes, progress.open]


def _alarm(transformer_id: str, alarm_type: str, episode: Episode, where: TransformerPlace | None) -> Alarm:
    worst = episode.worst
    return Alarm(
        alarm_id=alarm_id(alarm_type, transformer_id, episode.first_window),
        alarm_type=alarm_type,
        entity_id=transformer_id,
        feeder_id=worst.feeder_id if where is None else where.feeder_id,
        state="ACTIVE" if episode.ended_at is None else "CLEARED",
        severity="WARNING",
        first_window=episode.first_window,
        last_window=episode.last_window,
        worst_value=worst.value,
        windows_in_violation=episode.windows,
        meters_in_violation=episode.meters_in_violation,
        worst_meter_id=worst.worst_meter_id,
        meters_missing=episode.meters_missing,
        cause=None,
        revision=0,
        as_of=episode.as_of,
    )
