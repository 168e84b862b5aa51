"""How meters stand at the end of a UTC day: which were not heard for so long that they belong on the day's list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, count
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MAX_INSTANT, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.read_columns import Flags, Ints
from ami_beam.records import (
    DayStandings,
    HeardMeters,
    HearingInput,
    MeterStanding,
    ReadPauses,
    ReceiptDue,
    TransformerHeard,
)
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.decode_reads import METRICS
from transforms.end_of_replay import FOUND
from transforms.silence import Span
from transforms.state_log import read_log
from transforms.window_expiry import expiry

LISTED_FOR = 30 * MICROS_PER_DAY
"""So long after it was heard last, a meter is listed. By then it has been on thirty lists: it is repaired by a work
order or gone, and a list that carries it for ever hides what is new on it."""
LOOK_EVERY = 6 * MICROS_PER_HOUR
"""How often late reads revise the lists. They are for a day; looking reads the whole state of a shard."""
JUDGED_WITHIN = 10 * MICROS_PER_MINUTE
"""Over so long the shards are judged when a day is due, one after the other: alerts do not wait behind a list."""
DUE, LOOK, END = "due", "look", "end"
"""Why the timer fires: a day is due, it is time to take in what has come since, or a replay is over."""


class KnownMeter(Struct, array_like=True, gc=False):
    """What windows that are folded away say of a meter: ends of windows, 0 where there is none."""

    first: int = 0
    """In which it was named first, heard or estimated."""
    named: int = 0
    heard: int = 0
    silent_on: int = 0
    """End of the last day on which it was silent."""


class HeardOf(Struct, array_like=True, gc=False):
    """Who was heard of a transformer in a window: a bit for each meter, in the order of its `meters`."""

    revision: int
    feeder: int
    complete: bool
    heard: bytes
    """Empty where nobody was named: the transformer is complete, or there is no actual read."""
    estimated: bytes


class KeptTransformer(Struct, array_like=True, gc=False):
    """What is known of one transformer's meters. A window is complete when all of its count were heard."""

    meters: dict[str, KnownMeter] = field(default_factory=dict)
    windows: dict[int, HeardOf] = field(default_factory=dict)
    """By window_end, those in which names were said, or of which something was said again."""
    feeders: list[str] = field(default_factory=list)
    feeder: int = -1
    """Place in `feeders`, by folded windows."""
    complete: int = 0
    """The last complete window that is folded away; likewise the last of those in which all meters were named."""
    complete_by_name: int = 0
    newest: int = 0
    """When a meter came to be known or was silent last: whether another transformer may have listed one of its."""


class KeptDay(Struct, array_like=True, gc=False):
    """A day of which the list may still change."""

    judged: bytes = b""
    """A bit for each transformer that is judged at its end, in the order of `transformers`."""
    first_window: int = 0
    """Of all windows in which a read was accepted."""
    told: list[MeterStanding] = field(default_factory=list)


class KeptShard(Struct, array_like=True, gc=False):
    """What is known of the meters of a shard."""

    folded_up_to: int = 0
    """The last day end up to which windows are folded into what is known of their meters."""
    transformers: dict[str, KeptTransformer] = field(default_factory=dict)
    complete: dict[int, bytes] = field(default_factory=dict)
    """By window_end a bit for each transformer, in their order."""
    days: dict[int, KeptDay] = field(default_factory=dict)
    """By the end of the day."""
    pauses: list[Span] = field(default_factory=list)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: HearingInput | None
    kept: KeptShard | None


class SilentMeters(beam.PTransform):
    """How meters stand at the end of each UTC day, where they are silent or were; keyed by a stable shard of the meter.

    A meter is silent when `silent_after` of windows have passed since the last in which it was heard by an actual read,
    at most 30 days ago (`LISTED_FOR`). Windows that ended while the whole head-end was silent do not count: nobody
    could be heard. Meters of a transformer or feeder without supply are silent like others. A transformer is judged
    when the day's last window is due for it, so that reads that are collected every few hours are in. Depends on the
    reads and the meter counts only, not on the order in which anything came; a bounded run gives the end only.

    Who is expected is learned from reads. A window in which as many meters as the transformer's count were heard is
    one in which all of its meters were; four windows a day name them (`heard_meters`), and a meter that is not among
    those of a complete one has been exchanged: it is not expected any more. So a count that is too low hides silent
    meters. A meter that was in no read cannot be named.

    Takes a tuple, keyed by shard, of who was heard (`JoinMeterCounts`), the due windows (`ExpandDueWindows`), and the
    pauses of the reads topic (`DueWindows`).

    State per shard: about 75 bytes a meter, its name and four numbers and its share of the windows of the last three to
    four days; a bit for every transformer and window, 20 bytes for each window in which a transformer was not complete;
    what came in the last six hours. It is read and written anew for each due day and every six hours; what arrives, one
    element a window of a shard and gathering of late reads, is only appended (`benchmarks/hearing.py`).

    Counter: silent_meters_without_name, meters of the counts that were in no read so far, added up at every day's end.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self, inputs: tuple[beam.PCollection, beam.PCollection, beam.PCollection]
    ) -> beam.PCollection[tuple[int, DayStandings]]:
        heard, due, pauses = inputs
        shards = self._settings.shards
        news = (
            heard | "Heard" >> beam.MapTuple(_from_heard).with_output_types(tuple[int, HearingInput]),
            due | "DaysEnd" >> beam.FlatMapTuple(_from_due).with_output_types(tuple[int, HearingInput]),
            pauses | "EveryShard" >> beam.FlatMap(_from_pauses, shards).with_output_types(tuple[int, HearingInput]),
        )
        label = f"Silent {self._settings.state_label()}"
        return news | "AllHearing" >> beam.Flatten() | label >> beam.ParDo(_SilentMetersDoFn(self._settings))


def _from_heard(shard: int, heard: HeardMeters) -> tuple[int, HearingInput]:
    return shard, HearingInput(heard=heard)


def _from_due(key: tuple[int, int], due: ReceiptDue) -> Iterator[tuple[int, HearingInput]]:
    shard, window_end = key
    if window_end % MICROS_PER_DAY == 0:
        yield shard, HearingInput(due=due)


def _from_pauses(pauses: ReadPauses, shards: int) -> Iterator[tuple[int, HearingInput]]:
    for shard in range(shards):
        yield shard, HearingInput(pauses=pauses)


@beam.typehints.with_input_types(tuple[int, HearingInput])
@beam.typehints.with_output_types(tuple[int, DayStandings])
class _SilentMetersDoFn(beam.DoFn):
    LOG = BagStateSpec("silent_log", MsgspecCoder(LogEntry))
    JUDGE = TimerSpec("silent_judge", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._without_name = Metrics.counter(METRICS, "silent_meters_without_name")

    def process(
        self,
        element: tuple[int, HearingInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> None:
        shard, news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            judge.set(Timestamp(micros=FOUND), dynamic_timer_tag=END)
        elif news.due is not None:
            # Not at the window's end and the delay, which may have passed before a pause of the source was known.
            own = shard * JUDGED_WITHIN // self._settings.shards
            judge.set(Timestamp(micros=at.micros + own), dynamic_timer_tag=DUE)
        else:
            own = shard * LOOK_EVERY // self._settings.shards
            look = (at.micros - own) // LOOK_EVERY * LOOK_EVERY + LOOK_EVERY + own
            judge.set(Timestamp(micros=look), dynamic_timer_tag=LOOK)

    @on_timer(JUDGE)
    def on_judge(self, log: Any = beam.DoFn.StateParam(LOG)) -> Iterator[tuple[int, DayStandings]]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptShard()
        taken = take(kept, news)
        self._without_name.inc(taken.without_name)
        # By what was due: of a backlog who was heard comes long before.
        due = [each.due.window_end + each.due.receipt_delay for each in news if each.due is not None]
        watermark = max(due, default=0)
        for day_end in sorted(kept.days):
            yield from self._by_meter(day_end, judge_day(kept, day_end, self._settings, taken.touches(day_end)))
            if not self._settings.live:
                fold(kept, day_end)
        if self._settings.live:
            final = (watermark - expiry(self._settings, 0)) // MICROS_PER_DAY * MICROS_PER_DAY
            if final > kept.folded_up_to:
                fold(kept, final)
        log.clear()
        log.add(LogEntry(None, kept))

    def _by_meter(self, day_end: int, standings: Iterable[MeterStanding]) -> Iterator[tuple[int, DayStandings]]:
        found: dict[int, DayStandings] = {}
        for standing in standings:
            shard = shard_of(standing.meter_id, self._settings.shards)
            found.setdefault(shard, DayStandings(day_end, [])).standings.append(standing)
        yield from found.items()


class Taken(NamedTuple):
    """What news are about."""

    since: dict[str, int]
    """By transformer the first window of which something new was said by name."""
    complete_since: int
    """The first window of which transformers were said to be complete, which mostly is of days that go on."""
    days: set[int]
    """That are due for transformers now."""
    pauses: bool
    without_name: int
    """Of the transformers that have become due: how many meters were in no read."""

    def touches(self, day_end: int) -> set[str] | None:
        """The transformers whose meters may stand otherwise at the end of a day; None: all."""
        if self.pauses or day_end in self.days or self.complete_since <= day_end:
            return None
        return {transformer_id for transformer_id, window_end in self.since.items() if window_end <= day_end}


def take(kept: KeptShard, news: Iterable[HearingInput]) -> Taken:
    """Take news in, in any order."""
    places = dict(zip(kept.transformers, count(), strict=False))
    since: dict[str, int] = {}
    masks: dict[str, tuple[list[str], bytes]] = {}
    due, days = [], set()
    complete_since = MAX_INSTANT
    paused = False
    for each in news:
        if each.heard is not None and each.heard.window_end > kept.folded_up_to:
            _take_heard(kept, each.heard, places, since, masks)
            if each.heard.complete:
                complete_since = min(complete_since, each.heard.window_end)
        if each.due is not None and each.due.window_end > kept.folded_up_to:
            _take_due(kept, each.due, places)
            due += each.due.counts
            days.add(each.due.window_end)
        if each.pauses is not None:
            paused = True
            before = [pause for pause in kept.pauses if pause[0] < each.pauses.since]
            kept.pauses = [*before, *each.pauses.pauses]
    without_name = sum(max(0, row.total_meters - len(kept.transformers[row.transformer_id].meters)) for row in due)
    return Taken(since, complete_since, days, paused, without_name)


def _transformer(kept: KeptShard, transformer_id: str, places: dict[str, int]) -> KeptTransformer:
    if transformer_id not in places:
        places[transformer_id] = len(places)
        kept.transformers[transformer_id] = KeptTransformer()
    return kept.transformers[transformer_id]


def _take_due(kept: KeptShard, due: ReceiptDue, places: dict[str, int]) -> None:
    day = kept.days.setdefault(due.window_end, KeptDay())
    for row in due.counts:
        _transformer(kept, row.transformer_id, places)
    day.judged = _marked(day.judged, [places[row.transformer_id] for row in due.counts], True)
    day.first_window = due.first_window_end or due.window_end


def _take_heard(
    kept: KeptShard,
    heard: HeardMeters,
    places: dict[str, int],
    since: dict[str, int],
    masks: dict[str, tuple[list[str], bytes]],
) -> None:
    """`masks`: of each transformer the names that were said last, and their bits: mostly they are the same again."""
    end = heard.window_end
    complete: list[int] = []
    incomplete: list[int] = []
    transformers = kept.transformers
    for transformer_id in heard.complete:
        if transformer_id not in places:
            _transformer(kept, transformer_id, places)
        # What has names is a later revision.
        if end not in transformers[transformer_id].windows:
            complete.append(places[transformer_id])
    for said in heard.named:
        transformer = _transformer(kept, said.transformer_id, places)
        known = transformer.windows.get(end)
        if known is None or known.revision < said.revision:
            transformer.windows[end] = _heard_of(transformer, said, end, masks)
            since[said.transformer_id] = min(since.get(said.transformer_id, end), end)
            (complete if said.complete else incomplete).append(places[said.transformer_id])
    bits = kept.complete.get(end, b"")
    kept.complete[end] = _marked(_marked(bits, complete, True), incomplete, False)


def _heard_of(
    transformer: KeptTransformer, said: TransformerHeard, window_end: int, masks: dict[str, tuple[list[str], bytes]]
) -> HeardOf:
    if said.feeder_id not in transformer.feeders:
        transformer.feeders.append(said.feeder_id)
    feeder = transformer.feeders.index(said.feeder_id)
    known = transformer.meters
    if len(said.heard) == len(known) and not said.estimated and all(name in known for name in said.heard):
        return HeardOf(said.revision, feeder, said.complete, _bits(range(len(known))), b"")
    before = masks.get(said.transformer_id)
    if not said.estimated and before is not None and before[0] == said.heard:
        return HeardOf(said.revision, feeder, said.complete, before[1], b"")
    for meter_id in (*said.heard, *said.estimated):
        if meter_id not in transformer.meters:
            transformer.meters[meter_id] = KnownMeter()
            transformer.newest = max(transformer.newest, window_end)
    places = dict(zip(transformer.meters, count(), strict=False))
    heard = _bits(places[meter_id] for meter_id in said.heard)
    masks[said.transformer_id] = said.heard, heard
    estimated = _bits(places[meter_id] for meter_id in said.estimated)
    return HeardOf(said.revision, feeder, said.complete, heard, estimated)


def _bits(places: Iterable[int]) -> bytes:
    """Few bits, set at these places."""
    number = 0
    for place in places:
        number |= 1 << place
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def _marked(bits: bytes, places: Sequence[int], mark: bool) -> bytes:
    """The bits with those at `places` set, or not."""
    if not places:
        return bits
    flags = _flags(bits, max(len(bits) * 8, max(places) + 1))
    flags[places] = mark
    return np.packbits(flags, bitorder="little").tobytes()


def _flags(bits: bytes, size: int) -> Flags:
    """The first `size` bits, one an element; those that are not there are not set."""
    # Of no bits at all, numpy pads with what is in memory.
    return np.unpackbits(np.frombuffer(bits or b"\0", np.uint8), count=size, bitorder="little").view(np.bool_)


def _places(bits: bytes | int) -> list[int]:
    """Where bits are set."""
    number = bits if isinstance(bits, int) else int.from_bytes(bits, "little")
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found


def judge_day(
    kept: KeptShard, day_end: int, settings: Settings, touched: set[str] | None = None
) -> list[MeterStanding]:
    """How meters stand at the end of this day, where that differs from what was told; noted as told.

    Of meters that are silent, and of those that may be on the list of another transformer, as they came to this one
    lately or were silent. `touched`: the transformers of which there is something new; None: all are looked at.
    """
    if touched is not None and not touched:
        return []
    day = kept.days[day_end]
    complete = _last_complete(kept, day_end)
    judged = _flags(day.judged, len(kept.transformers)).tolist()
    quiet = (complete <= day_end - settings.silent_after).tolist()
    told = {(each.transformer_id, each.meter_id): each for each in day.told}
    earlier = {
        (each.transformer_id, each.meter_id)
        for end, other in kept.days.items()
        for each in other.told
        if end < day_end and each.windows_missing is not None
    }
    asked = {transformer_id for transformer_id, _ in (*told, *earlier)}
    newcomers_from = day.first_window + MICROS_PER_DAY
    found: dict[tuple[str, str], MeterStanding] = {}
    for place, (transformer_id, transformer) in enumerate(kept.transformers.items()):
        if touched is not None and transformer_id not in touched:
            continue
        lately = transformer.newest >= newcomers_from and transformer.newest > day_end - LISTED_FOR
        if not (judged[place] and quiet[place]) and not lately and transformer_id not in asked:
            continue  # nearly always
        meters = _meters(transformer, day_end, int(complete[place]))
        for meter_id, meter in meters.items():
            key = transformer_id, meter_id
            missing = _missing(meter, day_end, kept.pauses, settings) if judged[place] else None
            watched = meter.first >= newcomers_from or meter.silent_on > day_end - LISTED_FOR or key in earlier
            if missing is not None or watched or key in told:
                feeder_id = _feeder(transformer, day_end) if missing is not None else None
                found[key] = MeterStanding(meter_id, transformer_id, feeder_id, meter.heard or None, missing)
    for key, standing in told.items():
        if touched is not None and key[0] not in touched:
            found[key] = standing
        elif key not in found:
            # Of no read that is left.
            found[key] = MeterStanding(standing.meter_id, standing.transformer_id, None, None, None)
    changed = [standing for key, standing in sorted(found.items()) if told.get(key) != standing]
    day.told = list(found.values())
    return changed


class MeterAt(NamedTuple):
    """What is known of a meter at an instant: ends of windows, 0 where there is none."""

    first: int
    """In which it was named first, heard or estimated."""
    named: int
    heard: int
    silent_on: int
    expected: bool
    """Not where it was exchanged: all meters of the count were heard by name without it."""


def _meters(transformer: KeptTransformer, until: int, complete: int) -> dict[str, MeterAt]:
    """The meters that are known of windows up to `until`; `complete` is the last complete one of those."""
    known = list(transformer.meters.values())
    first = [each.first for each in known]
    named = [each.named for each in known]
    heard = [each.heard for each in known]
    by_name = transformer.complete_by_name
    windows = [(end, transformer.windows[end]) for end in sorted(transformer.windows) if end <= until]
    # From the newest back, and only what was not heard or named in a later one.
    all_heard = all_named = 0
    for end, window in reversed(windows):
        bits = int.from_bytes(window.heard, "little")
        others = int.from_bytes(window.estimated, "little") if window.estimated else 0
        if news := bits & ~all_heard:
            all_heard |= bits
            for place in _places(news):
                heard[place] = end
        if news := (bits | others) & ~all_named:
            all_named |= news
            for place in _places(news):
                named[place] = end
        if bits and window.complete and end > by_name:
            by_name = end
    for place in _places(all_named):
        if not first[place]:
            bit = 1 << place
            first[place] = next(
                end
                for end, window in windows
                if (int.from_bytes(window.heard, "little") | int.from_bytes(window.estimated, "little")) & bit
            )
    found = {}
    for place, (meter_id, each) in enumerate(transformer.meters.items()):
        if first[place]:
            expected = by_name <= heard[place]
            with_all = complete if expected and complete >= first[place] else 0
            found[meter_id] = MeterAt(first[place], named[place], max(heard[place], with_all), each.silent_on, expected)
    return found


def _missing(meter: MeterAt, day_end: int, pauses: Sequence[Span], settings: Settings) -> int | None:
    """The windows in which a meter was not heard, of those that count; None where it is not to be listed."""
    since = meter.heard or meter.first - settings.window
    if not meter.expected or day_end - min(since, meter.named) > LISTED_FOR:
        return None
    size = settings.window
    missing = (day_end - since) // size
    for began, ended in pauses:
        missing -= max(0, min(ended, day_end) // size - max(began, since) // size)
    return missing if missing * size >= settings.silent_after else None


def _feeder(transformer: KeptTransformer, until: int) -> str | None:
    """Of the last window up to `until` that says it."""
    ends = [end for end in transformer.windows if end <= until]
    place = transformer.windows[max(ends)].feeder if ends else transformer.feeder
    return transformer.feeders[place] if place >= 0 else None


def _last_complete(kept: KeptShard, until: int) -> Ints:
    """Of each transformer the end of its last complete window up to `until`; 0 where there is none."""
    found = np.array([each.complete for each in kept.transformers.values()], np.int64)
    for end in sorted(end for end in kept.complete if end <= until):
        found[_flags(kept.complete[end], len(found))] = end
    return found


def fold(kept: KeptShard, day_end: int) -> None:
    """Make what is known of the windows up to this end of a day part of what is known of their meters.

    No reads of these windows can come any more, and the lists up to this day are final.
    """
    complete = _last_complete(kept, day_end)
    for end in sorted(end for end in kept.days if end <= day_end):
        for standing in kept.days.pop(end).told:
            if standing.windows_missing is not None:
                transformer = kept.transformers[standing.transformer_id]
                transformer.newest = max(transformer.newest, end)
                transformer.meters[standing.meter_id].silent_on = end
    for place, transformer in enumerate(kept.transformers.values()):
        _fold_transformer(transformer, day_end, int(complete[place]))
    kept.complete = {end: bits for end, bits in kept.complete.items() if end > day_end}
    kept.pauses = [pause for pause in kept.pauses if pause[1] > day_end - LISTED_FOR]
    kept.folded_up_to = day_end
    _drop_transformers(kept)


def _fold_transformer(transformer: KeptTransformer, day_end: int, complete: int) -> None:
    for meter_id, at in _meters(transformer, day_end, 0).items():
        meter = transformer.meters[meter_id]
        meter.first, meter.named, meter.heard = at.first, at.named, at.heard
    transformer.complete = complete
    names = transformer.feeders
    for end in sorted(end for end in transformer.windows if end <= day_end):
        window = transformer.windows.pop(end)
        transformer.feeder = window.feeder
        if window.complete and window.heard:
            transformer.complete_by_name = end
    _drop_meters(transformer, day_end)
    used = {window.feeder for window in transformer.windows.values()} | {transformer.feeder} - {-1}
    if len(used) < len(names):
        renumbered = {old: new for new, old in enumerate(sorted(used))}
        transformer.feeders = [names[old] for old in sorted(used)]
        transformer.feeder = renumbered.get(transformer.feeder, -1)
        for window in transformer.windows.values():
            window.feeder = renumbered[window.feeder]


def _drop_meters(transformer: KeptTransformer, day_end: int) -> None:
    """Forget the meters that were in no read for so long that they are not listed any more."""
    if all(meter.named > day_end - LISTED_FOR for meter in transformer.meters.values()):
        return  # nearly always
    open_places = {
        place
        for window in transformer.windows.values()
        for place in (*_places(window.heard), *_places(window.estimated))
    }
    kept = [
        place
        for place, meter in enumerate(transformer.meters.values())
        if meter.named > day_end - LISTED_FOR or place in open_places
    ]
    if len(kept) == len(transformer.meters):
        return
    names = list(transformer.meters)
    transformer.meters = {names[place]: transformer.meters[names[place]] for place in kept}
    renumbered = {old: new for new, old in enumerate(kept)}
    for window in transformer.windows.values():
        window.heard = _bits(renumbered[place] for place in _places(window.heard))
        window.estimated = _bits(renumbered[place] for place in _places(window.estimated))


def _drop_transformers(kept: KeptShard) -> None:
    """Forget the transformers that have no meters and are not judged any more."""
    size = len(kept.transformers)
    judged = np.zeros(size, np.bool_)
    for day in kept.days.values():
        judged |= _flags(day.judged, size)
    named = np.array([bool(each.meters) for each in kept.transformers.values()], np.bool_)
    stay = judged | named
    if stay.all():
        return
    kept.transformers = dict(compress(kept.transformers.items(), stay.tolist()))
    for end, bits in kept.complete.items():
        kept.complete[end] = np.packbits(_flags(bits, size)[stay], bitorder="little").tobytes()
    for day in kept.days.values():
        day.judged = np.packbits(_flags(day.judged, size)[stay], bitorder="little").tobytes()
