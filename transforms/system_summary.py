"""The summary of the whole system for every window: all feeders together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import FeederBatch, FeederRow, GroupTotals, SegmentTotals
from ami_beam.settings import Settings
from transforms.end_of_replay import EXPLAINED_AT_END
from transforms.gathering import AFTER, EXPIRE, KEPT_LONGER, forgotten_at
from transforms.segment_totals import add, revised, row_of
from transforms.state_log import read_log


class KeptSystem(Struct, array_like=True, gc=False):
    """What each group of feeders has said of a window last, and what was published."""

    groups: dict[int, GroupTotals] = field(default_factory=dict)
    told: FeederRow | None = None


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a window's log: something that has come, or what was known when it was read."""

    news: GroupTotals | None
    kept: KeptSystem | None


@beam.typehints.with_input_types(tuple[int, GroupTotals])
@beam.typehints.with_output_types(FeederBatch)
class SystemSummary(beam.PTransform):
    """One row for every window, with the feeders' rows, and again when these have changed.

    Also transformers that were never heard, and so are on no feeder, are expected here. A bounded run publishes the
    final row only. State per window: about 60 bytes a group of feeders.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, totals: beam.PCollection[tuple[int, GroupTotals]]) -> beam.PCollection[FeederBatch]:
        label = f"System {self._settings.state_label()}"
        return totals | label >> beam.ParDo(_SystemDoFn(self._settings))


class _SystemDoFn(beam.DoFn):
    LOG = BagStateSpec("system_log", MsgspecCoder(LogEntry))
    SUMMARISE = TimerSpec("system_summarise", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, GroupTotals],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        summarise: Any = beam.DoFn.TimerParam(SUMMARISE),
    ) -> None:
        window_end, news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            summarise.set(Timestamp(micros=EXPLAINED_AT_END), dynamic_timer_tag="end")
            return
        # What all groups say at the same instant is one row.
        summarise.set(Timestamp(micros=at.micros + AFTER), dynamic_timer_tag=str(at.micros))
        forgotten = max(forgotten_at(self._settings, window_end, 2), at.micros + 2 * KEPT_LONGER)
        summarise.set(Timestamp(micros=forgotten), dynamic_timer_tag=EXPIRE)

    @on_timer(SUMMARISE)
    def on_summarise(
        self,
        window_end: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[FeederBatch]:
        news, kept = read_log(log)
        if news:
            kept = kept or KeptSystem()
            row = update(kept, news, window_end - self._settings.window, window_end)
            if row is not None:
                yield FeederBatch([row])
        if tag == EXPIRE:
            log.clear()
        elif news:
            log.clear()
            log.add(LogEntry(None, kept))


def update(kept: KeptSystem, news: Iterable[GroupTotals], window_start: int, window_end: int) -> FeederRow | None:
    """Take news in: the row to publish, noted as told; None where it says nothing new."""
    for each in news:
        known = kept.groups.get(each.group)
        if known is None or each.number > known.number:
            kept.groups[each.group] = each
    totals = SegmentTotals()
    for group in kept.groups.values():
        add(totals, group.totals)
    row = revised(row_of(None, window_start, window_end, totals), kept.told)
    if row is not None:
        kept.told = row
    return row
