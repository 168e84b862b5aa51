"""How many minutes of its day each transformer's voltages were outside a band."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import DayHeat, HeatBatch, OutsideBands
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.gathering import EXPIRE, forgotten_at, gathered_until
from transforms.state_log import read_log
from transforms.transformer_heat import ShardDay
from transforms.voltage_bands import OUTSIDE_ANSI_A, OUTSIDE_ANSI_B, OUTSIDE_EN_50160

BITS = (OUTSIDE_ANSI_A, OUTSIDE_ANSI_B, OUTSIDE_EN_50160)


class KeptTransformer(Struct, array_like=True, gc=False):
    """A transformer's day so far, as it was published last unless `revision` is -1."""

    feeder_id: str
    last: int
    """End of the last window outside a band."""
    windows: list[int] = field(default_factory=lambda: [0, 0, 0])
    """How many were outside, by band."""
    as_of: int = 0
    revision: int = -1


class KeptDay(Struct, array_like=True, gc=False):
    """A shard's day: the transformers that were outside a band, and those of which a window was revised."""

    transformers: dict[str, KeptTransformer] = field(default_factory=dict)
    revised: set[str] = field(default_factory=set)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a day's log: something that has come, or what was known when it was read."""

    news: OutsideBands | None
    kept: KeptDay | None


History = dict[tuple[str, int], tuple[int, int]]
"""(revision of the statistics, bands) by (transformer_id, window_end), of what has been counted."""


@beam.typehints.with_input_types(tuple[tuple[int, str], OutsideBands])
@beam.typehints.with_output_types(HeatBatch)
class OutsideMinutes(beam.PTransform):
    """One row for every transformer and day with a window outside a band, and again when its content has changed.

    A window counts whole, on the day of the utility's time zone in which it begins. Takes what was outside keyed by
    (shard, day). A bounded run publishes the final rows only.

    State per (shard, day): about 50 bytes a transformer that was outside a band; and about 30 a window of one, apart,
    which are read only where windows are revised. Until no read of the day can come.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, outside: beam.PCollection[tuple[ShardDay, OutsideBands]]) -> beam.PCollection[HeatBatch]:
        label = f"Days {self._settings.state_label()}"
        return outside | label >> beam.ParDo(_DayDoFn(self._settings))


class _DayDoFn(beam.DoFn):
    LOG = BagStateSpec("day_log", MsgspecCoder(LogEntry))
    COUNTED = BagStateSpec("day_counted", MsgspecCoder(OutsideBands))
    PUBLISH = TimerSpec("day_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardDay, OutsideBands],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> None:
        news = element[1]
        log.add(LogEntry(news, None))
        if not self._settings.live:
            publish.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag="end")
            return
        when = gathered_until(max(at.micros, *news.as_of), news.window_end, self._settings)
        publish.set(Timestamp(micros=when), dynamic_timer_tag=str(when))
        # A day has 25 hours at most: the last of its windows is forgotten by then, whichever this one is.
        publish.set(Timestamp(micros=forgotten_at(self._settings, news.window_end, 26)), dynamic_timer_tag=EXPIRE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
        counted: Any = beam.DoFn.StateParam(COUNTED),
    ) -> Iterator[HeatBatch]:
        news, kept = read_log(log)
        if news:
            kept = kept or KeptDay()
            known = history(counted.read()) if needs_history(kept, news) else {}
            rows = update(kept, news, known, key[1], self._settings.window)
            for each in news:
                counted.add(each)
            if rows:
                yield HeatBatch(days=rows)
        if tag == EXPIRE:
            log.clear()
            counted.clear()
        elif news:
            log.clear()
            log.add(LogEntry(None, kept))


def history(counted: Iterable[OutsideBands]) -> History:
    """What has been counted of each window: its newest revision."""
    known: History = {}
    for each in counted:
        _remember(known, each)
    return known


def _remember(known: History, each: OutsideBands) -> None:
    for transformer_id, revision, outside in zip(each.transformers, each.revisions, each.outside, strict=True):
        key = transformer_id, each.window_end
        if key not in known or revision > known[key][0]:
            known[key] = revision, outside


def needs_history(kept: KeptDay, news: Iterable[OutsideBands]) -> bool:
    """Whether any of it may have been counted before: a first publication is new unless a revision came before it."""
    return any(
        any(each.revisions) or len({*each.transformers}) < len(each.transformers) or kept.revised & {*each.transformers}
        for each in news
    )


def update(kept: KeptDay, news: Sequence[OutsideBands], known: History, day: str, window: int) -> list[DayHeat]:
    """Take news in: the rows to publish, which are noted as told.

    Args:
      known: the history, which is brought up to date; it may be empty unless `needs_history`.
      window: its length, microseconds.
    """
    before: dict[str, tuple[object, ...]] = {}
    for each in news:
        columns = (each.transformers, each.feeders, each.revisions, each.outside, each.as_of)
        for transformer_id, feeder_id, revision, outside, as_of in zip(*columns, strict=True):
            key = transformer_id, each.window_end
            told, was = known.get(key, (-1, 0))
            if revision <= told:
                continue
            known[key] = revision, outside
            if revision:
                kept.revised.add(transformer_id)
            if not outside and not was:
                continue
            of_day = kept.transformers.get(transformer_id)
            if of_day is None:
                of_day = kept.transformers[transformer_id] = KeptTransformer(feeder_id, 0)
            before.setdefault(transformer_id, _content(of_day))
            for place, bit in enumerate(BITS):
                of_day.windows[place] += bool(outside & bit) - bool(was & bit)
            of_day.as_of = max(of_day.as_of, as_of)
            if outside and each.window_end >= of_day.last:
                of_day.last, of_day.feeder_id = each.window_end, feeder_id
    rows = []
    for transformer_id in sorted(before):
        of_day = kept.transformers[transformer_id]
        # What was outside only until a revision in the same news is nobody's business.
        if _content(of_day) == before[transformer_id] or (of_day.revision < 0 and not any(of_day.windows)):
            continue
        of_day.revision += 1
        rows.append(_row(transformer_id, of_day, day, window))
    return rows


def _content(of_day: KeptTransformer) -> tuple[object, ...]:
    return *of_day.windows, of_day.feeder_id, of_day.as_of


def _row(transformer_id: str, of_day: KeptTransformer, day: str, window: int) -> DayHeat:
    ansi_a, ansi_b, en_50160 = (count * window / MICROS_PER_MINUTE for count in of_day.windows)
    return DayHeat(
        transformer_id=transformer_id,
        feeder_id=of_day.feeder_id,
        day=day,
        outside_ansi_a_minutes=ansi_a,
        outside_ansi_b_minutes=ansi_b,
        outside_en_50160_minutes=en_50160,
        as_of=of_day.as_of,
        revision=of_day.revision,
    )
