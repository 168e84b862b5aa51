"""How many minutes of its day each transformer's voltages were outside a band."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import DayHeat, HeatBatch, OutsideBands
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.gathering import EXPIRE, forgotten_at, gathered_until
from transforms.state_log import read_log
from transforms.transformer_heat import ShardDay
from transforms.voltage_bands import OUTSIDE_ANSI_A, OUTSIDE_ANSI_B, OUTSIDE_EN_50160


class WindowBands(Struct, array_like=True, gc=False):
    """What is known of a transformer's window."""

    revision: int
    """Of its statistics."""
    outside: int
    feeder_id: str
    as_of: int


class KeptDay(Struct, array_like=True, gc=False):
    """A transformer's day: its windows that were outside a band or revised, and what was published last."""

    windows: dict[int, WindowBands] = field(default_factory=dict)
    told: DayHeat | None = None


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a day's log: something that has come, or what was known when it was read."""

    news: OutsideBands | None
    kept: dict[str, KeptDay] | None


@beam.typehints.with_input_types(tuple[tuple[int, str], OutsideBands])
@beam.typehints.with_output_types(HeatBatch)
class OutsideMinutes(beam.PTransform):
    """One row for every transformer and day with a window outside a band, and again when its content has changed.

    A window counts whole, on the day of the utility's time zone in which it begins. Takes what was outside keyed by
    (shard, day). A bounded run publishes the final rows only.

    State per (shard, day): about 25 bytes a transformer and window outside a band, until no read of the day can come.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, outside: beam.PCollection[tuple[ShardDay, OutsideBands]]) -> beam.PCollection[HeatBatch]:
        label = f"Days {self._settings.state_label()}"
        return outside | label >> beam.ParDo(_DayDoFn(self._settings))


class _DayDoFn(beam.DoFn):
    LOG = BagStateSpec("day_log", MsgspecCoder(LogEntry))
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
    ) -> Iterator[HeatBatch]:
        news, kept = read_log(log)
        if news:
            kept = kept or {}
            rows = update(kept, news, key[1], self._settings.window)
            if rows:
                yield HeatBatch(days=rows)
        if tag == EXPIRE:
            log.clear()
        elif news:
            log.clear()
            log.add(LogEntry(None, kept))


def update(kept: dict[str, KeptDay], news: Iterable[OutsideBands], day: str, window: int) -> list[DayHeat]:
    """Take news in: the rows to publish, which are noted as told. `window`: its length, microseconds."""
    touched = set()
    for each in news:
        columns = (each.transformers, each.feeders, each.revisions, each.outside, each.as_of)
        for transformer_id, feeder_id, revision, outside, as_of in zip(*columns, strict=True):
            windows = kept.setdefault(transformer_id, KeptDay()).windows
            known = windows.get(each.window_end)
            if known is None or revision > known.revision:
                windows[each.window_end] = WindowBands(revision, outside, feeder_id, as_of)
                touched.add(transformer_id)
    rows = []
    for transformer_id in sorted(touched):
        of_day = kept[transformer_id]
        row, told = _row(transformer_id, of_day.windows, day, window), of_day.told
        if told is None and row is None:
            continue
        if row is None:  # late reads have shown that it never was outside
            assert told is not None
            row = replace(
                told, outside_ansi_a_minutes=0.0, outside_ansi_b_minutes=0.0, outside_en_50160_minutes=0.0,
                as_of=max(each.as_of for each in of_day.windows.values()),
            )  # fmt: skip
        if told is not None:
            row = replace(row, as_of=max(row.as_of, told.as_of), revision=told.revision)
            if row == told:
                continue
            row.revision += 1
        of_day.told = row
        rows.append(row)
    return rows


def _row(transformer_id: str, windows: dict[int, WindowBands], day: str, window: int) -> DayHeat | None:
    """The row as it should be; None where no window is outside a band."""
    beyond = {end: bands for end, bands in windows.items() if bands.outside}
    if not beyond:
        return None

    def minutes(bit: int) -> float:
        return sum(bool(bands.outside & bit) for bands in beyond.values()) * window / MICROS_PER_MINUTE

    return DayHeat(
        transformer_id=transformer_id,
        feeder_id=beyond[max(beyond)].feeder_id,
        day=day,
        outside_ansi_a_minutes=minutes(OUTSIDE_ANSI_A),
        outside_ansi_b_minutes=minutes(OUTSIDE_ANSI_B),
        outside_en_50160_minutes=minutes(OUTSIDE_EN_50160),
        as_of=max(bands.as_of for bands in beyond.values()),
        revision=0,
    )
