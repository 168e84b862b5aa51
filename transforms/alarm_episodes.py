"""Alarms: one for every episode in which a transformer stays in violation, revised when late reads change it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.alert_ids import alarm_id
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MINUTE
from ami_beam.records import Alarm, AlarmInput, Level, Verdict
from ami_beam.settings import Settings
from transforms.alert_lifecycle import MAX_ADOPTED
from transforms.decode_reads import METRICS
from transforms.episodes import Episode, Progress, Rules, Window, follow
from transforms.voltage_alerts import HIGH_VOLTAGE
from transforms.window_expiry import expiry

NEWS, PUBLISHED = "news", "published"
"""Why the timer fires: verdicts have come, or alarms were found in their topic."""
RECONCILE_AFTER = MICROS_PER_MINUTE
"""So long after its as_of an alarm that was found in the topic is compared with what we know."""


class History(Struct, array_like=True, gc=False):
    """What is known of one kind of alarm on one transformer."""

    base: Progress = field(default_factory=Progress)
    """After all windows of which nothing new can come."""
    violations: dict[int, Verdict] = field(default_factory=dict)
    """By window_end, of later windows."""
    levels: dict[int, Level] = field(default_factory=dict)
    """By window_end, of later windows that are no violation: the last that was said."""
    told: dict[str, Alarm] = field(default_factory=dict)
    """By alarm_id, what was published last."""
    adopted: int = 0
    """How often an alarm was found in the topic with a content that was not ours."""


class KeptTransformer(Struct, array_like=True, gc=False):
    """The histories of one transformer, by kind of alarm."""

    receipt_delay: int | None = None
    histories: dict[str, History] = field(default_factory=dict)


class KeptShard(Struct, array_like=True, gc=False):
    """What is known of the transformers of a shard that are not simply well."""

    folded_up_to: int = 0
    """The last window that is part of every `base`."""
    settled: dict[int, list[int]] = field(default_factory=dict)
    """By receipt delay the later windows in which transformers are judged, in order."""
    transformers: dict[str, KeptTransformer] = field(default_factory=dict)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    input: AlarmInput | None
    kept: KeptShard | None


@beam.typehints.with_input_types(tuple[int, AlarmInput])
@beam.typehints.with_output_types(Alarm)
class AlarmEpisodes(beam.PTransform):
    """One alarm per (transformer, kind) episode, published again only when its content changed.

    An alarm opens after `alarm_on_windows` windows in violation in a row and closes after `alarm_off_windows` in a row
    beyond the deadband; windows in which nothing was measured count neither way. It is a function of the windows as
    they are known: late reads may lengthen, join, divide or take back alarms. One that was published and no longer is
    becomes CLEARED with no window in violation.

    Takes verdicts keyed by shard (`JudgeWindows`), and alarms as they stand in their topic, where there is a topic to
    read them from. A bounded run publishes the final alarms only.

    State per shard: about 50 bytes for every window and transformer that is not clear, for as long as its reads may
    come, and what alarms are open. Counter: alarms_<TYPE>_<STATE>.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: beam.PCollection[tuple[int, AlarmInput]]) -> beam.PCollection[Alarm]:
        return inputs | f"Episodes {self._settings.state_label()}" >> beam.ParDo(_EpisodesDoFn(self._settings))


class _EpisodesDoFn(beam.DoFn):
    LOG = BagStateSpec("alarm_log", MsgspecCoder(LogEntry))
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
            judge.set(Timestamp(micros=MAX_INSTANT), dynamic_timer_tag=NEWS)
        elif news.published:
            newest = max(alarm.as_of for alarm in news.published)
            judge.set(Timestamp(micros=newest + RECONCILE_AFTER), dynamic_timer_tag=PUBLISHED)
        else:
            # Verdicts come when their time has passed: at once.
            delay = self._settings.collection_delay if news.settled is None else news.settled
            judge.set(Timestamp(micros=news.window_end + delay), dynamic_timer_tag=NEWS)

    @on_timer(JUDGE)
    def on_judge(self, at: Any = beam.DoFn.TimestampParam, log: Any = beam.DoFn.StateParam(LOG)) -> Iterator[Alarm]:
        news: list[AlarmInput] = []
        kept = KeptShard()
        for entry in log.read():
            if entry.input is not None:
                news.append(entry.input)
            if entry.kept is not None:
                kept = entry.kept
        if not news:
            return
        version = None
        for each in news:
            version = each.counts_version or version
        for alarm in update(kept, news, self._settings, version):
            Metrics.counter(METRICS, f"alarms_{alarm.alarm_type}_{alarm.state}").inc()
            yield alarm
        forget(kept, at.micros, self._settings)
        log.clear()
        if kept.transformers or kept.settled:
            log.add(LogEntry(None, kept))


class _Place(NamedTuple):
    transformer_id: str
    alarm_type: str


def update(
    kept: KeptShard, news: Iterable[AlarmInput], settings: Settings, counts_version: str | None = None
) -> list[Alarm]:
    """Take news in: the alarms to publish, which are noted as told.

    `counts_version`: of the meter counts that the newest of the news were judged by.
    """
    settled: set[int] = set()
    touched: dict[_Place, None] = {}
    for each in news:
        if each.settled is not None and each.window_end > kept.folded_up_to:
            windows = kept.settled.setdefault(each.settled, [])
            if each.window_end not in windows:
                windows.insert(bisect_right(windows, each.window_end), each.window_end)
            settled.add(each.settled)
        for verdict in each.verdicts:
            if each.window_end > kept.folded_up_to:
                transformer = kept.transformers.setdefault(verdict.transformer_id, KeptTransformer())
                if verdict.receipt_delay is not None:
                    transformer.receipt_delay = verdict.receipt_delay
                history = transformer.histories.setdefault(verdict.alarm_type, History())
                if verdict.level == Level.VIOLATION:
                    history.violations[each.window_end] = verdict
                    history.levels.pop(each.window_end, None)
                else:
                    history.levels[each.window_end] = verdict.level
                    history.violations.pop(each.window_end, None)
                touched[_Place(verdict.transformer_id, verdict.alarm_type)] = None
        for alarm in each.published:
            if alarm.last_window > kept.folded_up_to:
                transformer = kept.transformers.setdefault(alarm.entity_id, KeptTransformer())
                history = transformer.histories.setdefault(alarm.alarm_type, History())
                adopted = adopt_alarm(history.told.get(alarm.alarm_id), alarm)
                if adopted is not None and history.adopted < MAX_ADOPTED:
                    history.adopted += 1
                    history.told[alarm.alarm_id] = adopted
                    touched[_Place(alarm.entity_id, alarm.alarm_type)] = None
    for transformer_id, transformer in kept.transformers.items():
        # A window that is settled without a verdict may be the one that closes an alarm.
        if settled and _delay(transformer, settings) in settled:
            touched |= {_Place(transformer_id, alarm_type): None for alarm_type in transformer.histories}
    found = []
    for place in touched:
        transformer = kept.transformers[place.transformer_id]
        history = transformer.histories[place.alarm_type]
        found += _changed(place, _episodes(kept, transformer, place.alarm_type, settings), history, counts_version)
    return found


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


def forget(kept: KeptShard, watermark: int, settings: Settings) -> None:
    """Fold the windows of which nothing new can come into the histories' bases, and drop what is at rest."""
    reach = watermark - expiry(settings, 0)
    last = reach // settings.window * settings.window
    if last > kept.folded_up_to:
        for transformer in kept.transformers.values():
            for alarm_type, history in transformer.histories.items():
                rules = _rules(alarm_type, settings)
                windows = _windows(kept, transformer, history, settings)
                history.base, closed = follow(history.base, [each for each in windows if each[0] <= last], rules)
                history.violations = {end: each for end, each in history.violations.items() if end > last}
                history.levels = {end: level for end, level in history.levels.items() if end > last}
                for episode in closed:
                    history.told.pop(alarm_id(alarm_type, episode.worst.transformer_id, episode.first_window), None)
                history.told = {
                    name: alarm
                    for name, alarm in history.told.items()
                    if alarm.last_window > last
                    or (history.base.open and history.base.open.first_window == alarm.first_window)
                }
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
            if history.violations or history.levels or history.told or not history.base.is_at_rest
        }
    kept.transformers = {name: each for name, each in kept.transformers.items() if each.histories}


def _delay(transformer: KeptTransformer, settings: Settings) -> int:
    return settings.receipt_delay if transformer.receipt_delay is None else transformer.receipt_delay


def _rules(alarm_type: str, settings: Settings) -> Rules:
    return Rules(settings.alarm_on_windows, settings.alarm_off_windows, alarm_type != HIGH_VOLTAGE)


def _windows(kept: KeptShard, transformer: KeptTransformer, history: History, settings: Settings) -> Iterator[Window]:
    """What is known of every window since the base, in order.

    A window that is settled, and of which there is no verdict, is clear. One that is not settled yet may still be that:
    it keeps the windows around it from being in a row. One that never will be, because the head-end was silent,
    is passed over.
    """
    ends = kept.settled.get(_delay(transformer, settings), [])
    newest = ends[-1] if ends else 0
    before = None
    for end in sorted({*ends, *history.violations, *history.levels}):
        if before is not None and end > newest and end - before > settings.window:
            yield end - settings.window, Level.BAND, None
        violation = history.violations.get(end)
        if violation is not None:
            yield end, Level.VIOLATION, violation
        else:
            yield end, history.levels.get(end, Level.CLEAR), None
        before = end


def _episodes(kept: KeptShard, transformer: KeptTransformer, alarm_type: str, settings: Settings) -> list[Episode]:
    """All episodes that have not been folded away, in order."""
    history = transformer.histories[alarm_type]
    windows = _windows(kept, transformer, history, settings)
    progress, episodes = follow(history.base, windows, _rules(alarm_type, settings))
    return episodes if progress.open is None else [*episodes, progress.open]


def _changed(place: _Place, episodes: list[Episode], history: History, counts_version: str | None) -> list[Alarm]:
    """What of the episodes was not told yet, noted as told, and what was told and is no episode."""
    found = []
    present = set()
    for episode in episodes:
        alarm = _alarm(place, episode)
        present.add(alarm.alarm_id)
        found.append(alarm)
    for told in history.told.values():
        if told.alarm_id not in present and told.windows_in_violation:
            found.append(
                replace(
                    told, state="CLEARED", worst_value=None, windows_in_violation=0, meters_in_violation=0,
                    worst_meter_id=None, meters_missing=0,
                )
            )  # fmt: skip
    changed = []
    for alarm in found:
        told_before = history.told.get(alarm.alarm_id)
        if told_before is not None:
            alarm.as_of = max(alarm.as_of, told_before.as_of)
            alarm.revision = told_before.revision
            if _facts(alarm) == _facts(told_before):
                continue
            alarm.revision += 1
        alarm.meter_counts_version = counts_version
        history.told[alarm.alarm_id] = alarm
        changed.append(alarm)
    return changed


def _facts(alarm: Alarm) -> Alarm:
    """What makes an alarm worth publishing again: neither by what it was judged, nor when."""
    return replace(alarm, revision=0, as_of=0, config_id=None, meter_counts_version=None)


def _alarm(place: _Place, episode: Episode) -> Alarm:
    worst = episode.worst
    return Alarm(
        alarm_id=alarm_id(place.alarm_type, place.transformer_id, episode.first_window),
        alarm_type=place.alarm_type,
        entity_id=place.transformer_id,
        feeder_id=worst.feeder_id,
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
