"""Decides from the data's own progress in which windows transformers are judged by what was received of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.coders import MsgspecCoder, carries
from ami_beam.meter_counts import MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.records import DueWindow, ReadProgress
from ami_beam.settings import Settings


class ProgressWithDelays(Struct, array_like=True, gc=False):
    """Progress of reading and the receipt delays (microseconds) that the meter counts use at that moment."""

    progress: ReadProgress
    receipt_delays: list[int]


carries(ProgressWithDelays)


class Covered(Struct, array_like=True, gc=False):
    """What one run has read so far, and up to where windows were made due, per receipt delay (first, last window)."""

    first_record_time: int
    greatest_record_time: int
    first_window_end: int | None
    last_window_end: int | None
    armed: dict[int, tuple[int, int]]
    made_with: str = ""
    """The settings that shape state, as they were."""


class StateMismatchError(ValueError):
    """The state that was restored belongs to other settings; the message names both."""


@beam.typehints.with_input_types(ReadProgress)
@beam.typehints.with_output_types(DueWindow)
class DueWindows(beam.PTransform):
    """Each (window, receipt delay) for which receipt rows exist is given once, when the watermark says it is due.

    A window W has rows (design section 5) when it lies between the first and the last window in which any interval
    read was accepted, W + collection delay is not before the first record time read, and W + receipt delay is not
    after the greatest record time read. It is due when the watermark passes W + receipt delay. So a gap is filled
    when reads resume, a fast clock's future window makes nothing due, and silence of the head-end is no rows.

    All progress meets under one key: one small element a batch of records. State that was restored from a run whose
    settings shape state in another way fails with StateMismatchError at the first of them.

    Args:
      settings: window and delays.
      counts: versions of the meter counts, a side input or its stand-in; they say which receipt delays there are.
    """

    def __init__(self, settings: Settings, counts: MeterCountsSource):
        super().__init__()
        self._settings = settings
        self._counts = counts

    def expand(self, progress: beam.PCollection[ReadProgress]) -> beam.PCollection[DueWindow]:
        settings = self._settings
        return (
            progress
            | "ReceiptDelays" >> beam.Map(
                _with_delays, settings.receipt_delay, view(self._counts)
            ).with_output_types(tuple[int, ProgressWithDelays])
            | f"Due {settings.state_label()}" >> beam.ParDo(_DueWindowsDoFn(settings))
        )  # fmt: skip


def _with_delays(
    progress: ReadProgress, default: int, versions: Iterable[MeterCountsVersion]
) -> tuple[int, ProgressWithDelays]:
    delays = counts_of(newest(versions)).receipt_delays(default)
    return 0, ProgressWithDelays(progress, list(delays))


def extend(covered: Covered | None, progress: ReadProgress) -> Covered:
    """What has been read after `progress`; does not depend on the order of the progress elements."""
    if covered is None:
        return Covered(
            progress.first_record_time,
            progress.greatest_record_time,
            progress.first_window_end,
            progress.last_window_end,
            {},
        )
    firsts = [end for end in (covered.first_window_end, progress.first_window_end) if end is not None]
    lasts = [end for end in (covered.last_window_end, progress.last_window_end) if end is not None]
    return Covered(
        min(covered.first_record_time, progress.first_record_time),
        max(covered.greatest_record_time, progress.greatest_record_time),
        min(firsts, default=None),
        max(lasts, default=None),
        covered.armed,
        covered.made_with,
    )


def arm(covered: Covered, receipt_delay: int, settings: Settings) -> list[int]:
    """The windows that have become due by the data for this delay; notes in `covered` that they were given."""
    if covered.first_window_end is None or covered.last_window_end is None:
        return []
    size = settings.window
    # Whole windows: the first that ends no more than the collection delay before the first record time read, the
    # last whose receipt delay is over by the greatest record time read.
    first_complete = -((settings.collection_delay - covered.first_record_time) // size) * size
    last_due = (covered.greatest_record_time - receipt_delay) // size * size
    first, last = max(covered.first_window_end, first_complete), min(covered.last_window_end, last_due)
    if first > last:
        return []
    armed = covered.armed.get(receipt_delay)
    if armed is None:
        covered.armed[receipt_delay] = first, last
        return list(range(first, last + size, size))
    low, high = armed
    covered.armed[receipt_delay] = min(low, first), max(high, last)
    return [*range(first, low, size), *range(high + size, last + size, size)]


class _DueWindowsDoFn(beam.DoFn):
    COVERED = ReadModifyWriteStateSpec("covered", MsgspecCoder(Covered))
    DUE = TimerSpec("window_due", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, ProgressWithDelays],
        covered_state: Any = beam.DoFn.StateParam(COVERED),
        due: Any = beam.DoFn.TimerParam(DUE),
    ) -> None:
        before = covered_state.read()
        settings = self._settings.state_label()
        if before is not None and before.made_with != settings:
            raise StateMismatchError(
                f"The savepoint or checkpoint was made with '{before.made_with}', and this run has '{settings}': its"
                " reads would be looked for elsewhere, and lost. Start with the same options, or without the savepoint"
                " and an earlier --start."
            )
        covered = extend(before, element[1].progress)
        covered.made_with = settings
        for receipt_delay in element[1].receipt_delays:
            for window_end in arm(covered, receipt_delay, self._settings):
                # One timer a window and delay, all set at once: a timer that sets the next one would advance a
                # single step a bundle.
                due.set(Timestamp(micros=window_end + receipt_delay), dynamic_timer_tag=f"{window_end}/{receipt_delay}")
        covered_state.write(covered)

    @on_timer(DUE)
    def on_due(self, tag: Any = beam.DoFn.DynamicTimerTagParam) -> Iterator[DueWindow]:
        window_end, receipt_delay = tag.split("/")
        yield DueWindow(int(window_end), int(receipt_delay))
