"""Gathers late reads, so that a window is revised once for many of them and not once for each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.read_block import ReadBlock, columns_of, times_of
from ami_beam.coders import MsgspecCoder, carries
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.long_reads import window_ends
from ami_beam.meter_counts import MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow


@beam.typehints.with_input_types(tuple[int, ReadBlock])
@beam.typehints.with_output_types(tuple[tuple[int, int], ReadBlock])
class GatherLateReads(beam.PTransform):
    """Every late read comes out once, in a block of its shard and window, when the gathering it fell into is over.

    Takes blocks of late reads keyed by shard, whatever their windows (`PackReads`); gives blocks keyed by
    (shard, window_end). A gathering ends when the watermark passes the next multiple of its length after the newest
    record time in the block: in record time, like the watermark, so that a replay gathers as the live run did and the
    end of a bounded source releases what waits. The length is `late_gather`; see `gathering` for a backlog. It ends
    before a transformer is judged by one of the reads, however far behind reading is: a read that came in time would
    else be missing from the judgement, and raise an alert that is not true.

    State per shard: the reads of the gatherings that are open, about 45 bytes each.

    Args:
      settings: delays, and how long.
      counts: versions of the meter counts, a side input or its stand-in; they say which receipt delays there are.
    """

    def __init__(self, settings: Settings, counts: MeterCountsSource):
        super().__init__()
        self._settings = settings
        self._counts = counts

    def expand(self, blocks: beam.PCollection) -> beam.PCollection[tuple[ShardWindow, ReadBlock]]:
        settings = self._settings
        return (
            blocks
            | "NextJudgement" >> beam.Map(
                _with_judgement, settings, view(self._counts)
            ).with_output_types(tuple[int, LateBlock])
            | f"Gather {settings.state_label()}" >> beam.ParDo(_GatherLateDoFn(settings))
        )  # fmt: skip


class LateBlock(Struct, array_like=True, gc=False):
    """Late reads of a shard, and the first instant at which one of them is to be judged with, if there is one."""

    block: ReadBlock
    judged_at: int | None


carries(LateBlock)


def _with_judgement(
    element: tuple[int, ReadBlock], settings: Settings, versions: Iterable[MeterCountsVersion]
) -> tuple[int, LateBlock]:
    shard, block = element
    delays = counts_of(newest(versions)).receipt_delays(settings.receipt_delay)
    return shard, LateBlock(block, next_judgement(block, delays, settings))


def gathering(settings: Settings, behind: int) -> int:
    """How long late reads are gathered when reading is `behind` the wall clock, all in microseconds.

    `late_gather` at a live rate. While a backlog is caught up record time passes many times faster than the clock, and
    a revision that comes early only costs: then it is `late_gather` times the greatest power of two that is at most
    half of the way behind, and half of `max_disorder`, for which windows are kept beyond their last late read.
    """
    length = settings.late_gather
    most = min(behind, settings.max_disorder) // 2
    while length * 2 <= most:
        length *= 2
    return length


def released_at(last_record_time: int, settings: Settings, least: int = 0) -> int:
    """When the gathering ends into which a block falls whose newest read has this record time.

    Args:
      least: how long it lasts at least, microseconds.
    """
    behind = time.time_ns() // 1_000 - last_record_time if settings.live else 0
    length = max(least, gathering(settings, behind))
    return (last_record_time // length + 1) * length


def next_judgement(block: ReadBlock, receipt_delays: Iterable[int], settings: Settings) -> int | None:
    """The first instant at which one of the reads is to be judged with; None when all of them come after it.

    A read counts in a judgement at window_end + receipt delay when its record time is before that.
    """
    # Judged with the on-time result: every late read comes after it.
    later = [delay for delay in receipt_delays if delay > settings.collection_delay]
    if not later:
        return None
    interval_end, record_time = times_of(block)
    window_end = window_ends(interval_end, settings)
    instants = [window_end + delay for delay in later]
    to_come = [int(instant[instant > record_time].min()) for instant in instants if (instant > record_time).any()]
    return min(to_come, default=None)


class _GatherLateDoFn(beam.DoFn):
    WAITING = BagStateSpec("late_reads", MsgspecCoder(ReadBlock))
    RELEASE = TimerSpec("late_reads_release", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, LateBlock],
        waiting: Any = beam.DoFn.StateParam(WAITING),
        release: Any = beam.DoFn.TimerParam(RELEASE),
    ) -> None:
        block, judged_at = element[1].block, element[1].judged_at
        waiting.add(block)
        over = released_at(block.last_record_time, self._settings)
        if judged_at is not None:
            # Record times are in milliseconds: before the watermark can be there.
            over = min(over, judged_at - MICROS_PER_MILLI)
        # A timer for each gathering: one that is set again for every block would never fire.
        release.set(Timestamp(micros=over), dynamic_timer_tag=str(over))

    @on_timer(RELEASE)
    def on_release(
        self,
        key: Any = beam.DoFn.KeyParam,
        waiting: Any = beam.DoFn.StateParam(WAITING),
    ) -> Iterator[tuple[ShardWindow, ReadBlock]]:
        blocks = list(waiting.read())
        if not blocks:
            return
        waiting.clear()
        columns = columns_of(blocks)
        ends = window_ends(columns.interval_end, self._settings)
        for window_end in np.unique(ends).tolist():
            yield (key, window_end), columns.take(np.flatnonzero(ends == window_end)).block(window_end)
