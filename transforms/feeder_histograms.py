"""The histogram of every feeder and window: reads by per cent of nominal voltage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import FeederHeat, FeederLevels, HeatBatch, HistogramInput
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.feeder_contributions import GroupWindow
from transforms.gathering import EXPIRE, forgotten_at, gathered_until
from transforms.segment_totals import revised
from transforms.state_log import read_log
from transforms.voltage_bands import CLASSES, FIRST_CLASS


class KeptFeeder(Struct, array_like=True, gc=False):
    """A feeder's window: the newest levels of its transformers, and what was published last."""

    transformers: dict[str, FeederLevels] = field(default_factory=dict)
    told: FeederHeat | None = None


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a window's log: something that has come, or what was known when it was read."""

    news: HistogramInput | None
    kept: dict[str, KeptFeeder] | None


@beam.typehints.with_input_types(tuple[tuple[int, int], HistogramInput])
@beam.typehints.with_output_types(HeatBatch)
class FeederHistograms(beam.PTransform):
    """One row for every feeder and window in which a voltage was measured, and again when its content has changed.

    Takes levels keyed by (group of feeders, window_end); a transformer's reads are on the feeder of most of its meters.
    When rows come is as in `FeederSummary`. A bounded run publishes the final rows only.

    State per (group, window): about 70 bytes a transformer, until no read of the window can come any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, levels: beam.PCollection[tuple[GroupWindow, HistogramInput]]) -> beam.PCollection[HeatBatch]:
        label = f"Histograms {self._settings.state_label()}"
        return levels | label >> beam.ParDo(_HistogramDoFn(self._settings))


class _HistogramDoFn(beam.DoFn):
    LOG = BagStateSpec("histogram_log", MsgspecCoder(LogEntry))
    PUBLISH = TimerSpec("histogram_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[GroupWindow, HistogramInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> None:
        (_, window_end), news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            publish.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag="end")
            return
        newest = max(each.as_of for each in news.levels)
        when = gathered_until(max(at.micros, newest), window_end, self._settings)
        publish.set(Timestamp(micros=when), dynamic_timer_tag=str(when))
        publish.set(Timestamp(micros=forgotten_at(self._settings, window_end)), dynamic_timer_tag=EXPIRE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[HeatBatch]:
        news, kept = read_log(log)
        window_end = key[1]
        if news:
            kept = kept or {}
            rows = update(kept, news, window_end - self._settings.window, window_end)
            if rows:
                yield HeatBatch(feeders=rows)
        if tag == EXPIRE:
            log.clear()
        elif news:
            log.clear()
            log.add(LogEntry(None, kept))


def update(
    kept: dict[str, KeptFeeder], news: Iterable[HistogramInput], window_start: int, window_end: int
) -> list[FeederHeat]:
    """Take news in: the rows to publish, which are noted as told."""
    touched = set()
    for each in news:
        for levels in each.levels:
            feeder = kept.setdefault(levels.feeder_id, KeptFeeder())
            known = feeder.transformers.get(levels.transformer_id)
            if known is None or levels.revision > known.revision:
                feeder.transformers[levels.transformer_id] = levels
                touched.add(levels.feeder_id)
    rows = []
    for feeder_id in sorted(touched):
        feeder = kept[feeder_id]
        row = revised(_row(feeder_id, feeder.transformers.values(), window_start, window_end), feeder.told)
        if row is None or (feeder.told is None and not row.reads):
            continue
        feeder.told = row
        rows.append(row)
    return rows


def _row(feeder_id: str, transformers: Iterable[FeederLevels], window_start: int, window_end: int) -> FeederHeat:
    counts, as_of = [0] * (CLASSES + 2), 0
    for each in transformers:
        for which, count in zip(each.classes[::2], each.classes[1::2], strict=True):
            counts[which - FIRST_CLASS + 1] += count
        as_of = max(as_of, each.as_of)
    return FeederHeat(
        feeder_id=feeder_id,
        window_start=window_start,
        window_end=window_end,
        reads=sum(counts),
        from_pct=FIRST_CLASS,
        below=counts[0],
        histogram=counts[1:-1],
        above=counts[-1],
        as_of=as_of,
        revision=0,
    )
