"""Gathers late reads of meters, so that a window is revised once for many of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from ami_beam.codecs.meter_block import MeterReads, pack, unpack
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.late_reads import released_at, window_ends

GATHER = 5 * MICROS_PER_MINUTE
"""Record time at least: nobody acts on a bill within minutes, and each look at a window reads all of it."""


@beam.typehints.with_input_types(tuple[int, MeterReads])
@beam.typehints.with_output_types(tuple[tuple[int, int], MeterReads])
class GatherLateMeterReads(beam.PTransform):
    """Every late read comes out once, in a block of its shard and window, when the gathering it fell into is over.

    As `GatherLateReads`, for reads keyed by shard of meters; a gathering lasts five minutes or what it lasts there.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, blocks: beam.PCollection) -> beam.PCollection[tuple[ShardWindow, MeterReads]]:
        label = f"GatherMeters {self._settings.state_label()}"
        return blocks | label >> beam.ParDo(_GatherDoFn(self._settings))


class _GatherDoFn(beam.DoFn):
    WAITING = BagStateSpec("late_meter_reads", MsgspecCoder(MeterReads))
    RELEASE = TimerSpec("late_meter_reads_release", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, MeterReads],
        waiting: Any = beam.DoFn.StateParam(WAITING),
        release: Any = beam.DoFn.TimerParam(RELEASE),
    ) -> None:
        block = element[1]
        waiting.add(block)
        over = released_at(block.last_record_time, self._settings, GATHER)
        release.set(Timestamp(micros=over), dynamic_timer_tag=str(over))

    @on_timer(RELEASE)
    def on_release(
        self,
        key: Any = beam.DoFn.KeyParam,
        waiting: Any = beam.DoFn.StateParam(WAITING),
    ) -> Iterator[tuple[ShardWindow, MeterReads]]:
        blocks = list(waiting.read())
        if not blocks:
            return
        waiting.clear()
        columns = unpack(blocks)
        ends = window_ends(columns.interval_end, self._settings)
        for window_end in np.unique(ends).tolist():
            yield (key, window_end), pack(columns.take(np.flatnonzero(ends == window_end)))
