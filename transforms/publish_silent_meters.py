"""The daily list of silent meters as it is published: a meter is on it once, wherever it hangs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_DAY, format_instant
from ami_beam.meter_registry import CurrentRegistry, MeterRegistry
from ami_beam.records import DayStandings, MeterStanding, SilentMeter, SilentMeterBatch
from ami_beam.settings import Settings
from transforms.decode_reads import METRICS
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.silent_meters import JUDGED_WITHIN
from transforms.state_log import read_log, timer_of
from transforms.window_expiry import expiry


class KeptMeter(Struct, array_like=True, gc=False):
    """What is known of a meter at the end of a day."""

    standings: dict[str, MeterStanding] = field(default_factory=dict)
    """By transformer_id."""
    told: SilentMeter | None = None


class KeptMeters(Struct, array_like=True, gc=False):
    """What is known of the meters of a shard that are silent or were, by the end of the day."""

    days: dict[int, dict[str, KeptMeter]] = field(default_factory=dict)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: DayStandings | None
    kept: KeptMeters | None


@beam.typehints.with_input_types(tuple[int, DayStandings])
@beam.typehints.with_output_types(SilentMeterBatch)
class PublishSilentMeters(beam.PTransform):
    """Every silent meter once a day, and again only when its row has changed; keyed by a stable shard of the meter.

    A meter stands as it does on the transformer on which it was heard last: one that moves is not silent where it was.
    A row whose meter turns out to have been heard becomes WITHDRAWN. A bounded run publishes the final rows only.

    A meter that by the registry is inactive at the end of the day, or was replaced at its service point, is not on the
    list.

    State: the rows of the days of which reads may still come. Counter: silent_meters_<LISTING>.
    """

    def __init__(self, settings: Settings, registry: CurrentRegistry | None = None):
        super().__init__()
        self._settings = settings
        self._registry = registry

    def expand(self, standings: beam.PCollection[tuple[int, DayStandings]]) -> beam.PCollection[SilentMeterBatch]:
        label = f"SilentRows {self._settings.state_label()}"
        return standings | label >> beam.ParDo(_PublishDoFn(self._settings, self._registry))


class _PublishDoFn(beam.DoFn):
    LOG = BagStateSpec("silent_rows_log", MsgspecCoder(LogEntry))
    PUBLISH = TimerSpec("silent_rows_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings, registry: CurrentRegistry | None = None):
        self._settings = settings
        self._registry = registry

    def process(
        self,
        element: tuple[int, DayStandings],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> None:
        log.add(LogEntry(element[1], None))
        # When the other shards of transformers have said of this day what they have to say, too.
        when = at.micros + JUDGED_WITHIN if self._settings.live else PUBLISHED_AT_END
        publish.set(Timestamp(micros=when), dynamic_timer_tag=timer_of("news", when, JUDGED_WITHIN))

    @on_timer(PUBLISH)
    def on_publish(
        self, at: Any = beam.DoFn.TimestampParam, log: Any = beam.DoFn.StateParam(LOG)
    ) -> Iterator[SilentMeterBatch]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptMeters()
        rows = update(kept, news, at.micros, None if self._registry is None else self._registry.current())
        for row in rows:
            Metrics.counter(METRICS, f"silent_meters_{row.status}").inc()
        if rows:
            yield SilentMeterBatch(rows)
        newest = max(each.window_end for each in news)
        # Days later, because a day is judged by shards of transformers at times of their own.
        forgotten = newest - expiry(self._settings, 0) - 2 * MICROS_PER_DAY
        kept.days = {end: meters for end, meters in kept.days.items() if end > forgotten}
        log.clear()
        log.add(LogEntry(None, kept))


def update(
    kept: KeptMeters, news: Iterable[DayStandings], now: int, registry: MeterRegistry | None = None
) -> list[SilentMeter]:
    """Take news in: the rows to publish, which are noted as told. `now` is the record time at which that is known."""
    touched: dict[tuple[int, str], None] = {}
    for each in news:
        meters = kept.days.setdefault(each.window_end, {})
        for standing in each.standings:
            meters.setdefault(standing.meter_id, KeptMeter()).standings[standing.transformer_id] = standing
            touched[each.window_end, standing.meter_id] = None
    changed = []
    for window_end, meter_id in sorted(touched):
        meter = kept.days[window_end][meter_id]
        expected = registry is None or registry.expects(meter_id, window_end)
        row = _row(window_end, meter, expected)
        told = meter.told
        if row is None or (told is not None and replace(row, revision=told.revision, as_of=told.as_of) == told):
            continue
        if told is not None:
            row.revision, row.as_of = told.revision + 1, max(told.as_of, now)
        meter.told = row
        changed.append(row)
    return changed


def _row(window_end: int, meter: KeptMeter, expected: bool) -> SilentMeter | None:
    """The row as it should be; None where there is and was none. `expected`: whether it should be heard at all."""
    last = max(meter.standings.values(), key=lambda each: (each.heard or 0, each.transformer_id))
    if last.windows_missing is None or not expected:
        return None if meter.told is None else replace(meter.told, status="WITHDRAWN")
    return SilentMeter(
        day=format_instant(window_end - MICROS_PER_DAY)[:10],
        window_end=window_end,
        meter_id=last.meter_id,
        transformer_id=last.transformer_id,
        feeder_id=last.feeder_id,
        silent_since=last.heard,
        windows_missing=last.windows_missing,
        status="LISTED",
        revision=0,
        as_of=window_end,
    )
