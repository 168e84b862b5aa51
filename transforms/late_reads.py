"""Gathers late reads, so that a window is revised once for many of them and not once for each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from ami_beam.codecs.read_block import ReadBlock, columns_of
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import window_end_left_closed, window_end_right_closed
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow


@beam.typehints.with_input_types(tuple[int, ReadBlock])
@beam.typehints.with_output_types(tuple[tuple[int, int], ReadBlock])
class GatherLateReads(beam.PTransform):
    """Every late read comes out once, in a block of its shard and window, when the gathering it fell into is over.

    Takes blocks of late reads keyed by shard, whatever their windows (`PackReads`); gives blocks keyed by
    (shard, window_end). A gathering ends when the watermark passes the next multiple of its length after the newest
    record time in the block: in record time, like the watermark, so that a replay gathers as the live run did and the
    end of a bounded source releases what waits. The length is `late_gather`; see `gathering` for a backlog.

    State per shard: the reads of the gatherings that are open, about 45 bytes each.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, blocks: beam.PCollection) -> beam.PCollection[tuple[ShardWindow, ReadBlock]]:
        return blocks | f"Gather {self._settings.state_label()}" >> beam.ParDo(_GatherLateDoFn(self._settings))


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


class _GatherLateDoFn(beam.DoFn):
    WAITING = BagStateSpec("late_reads", MsgspecCoder(ReadBlock))
    RELEASE = TimerSpec("late_reads_release", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, ReadBlock],
        waiting: Any = beam.DoFn.StateParam(WAITING),
        release: Any = beam.DoFn.TimerParam(RELEASE),
    ) -> None:
        block = element[1]
        waiting.add(block)
        behind = time.time_ns() // 1_000 - block.last_record_time if self._settings.live else 0
        length = gathering(self._settings, behind)
        over = (block.last_record_time // length + 1) * length
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
        settings = self._settings
        columns = columns_of(blocks)
        of_instant: Any = window_end_right_closed if settings.window_closed == "right" else window_end_left_closed
        window_ends = of_instant(columns.interval_end, settings.window)
        for window_end in np.unique(window_ends).tolist():
            yield (key, window_end), columns.take(np.flatnonzero(window_ends == window_end)).block(window_end)
