"""Decides from the data's own progress in which windows transformers are judged by what was received of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder, carries
from ami_beam.instants import MICROS_PER_DAY
from ami_beam.meter_counts import MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.records import DueWindow, GroupInput, ReadPauses, ReadProgress
from ami_beam.settings import Settings
from transforms.alarm_episodes import own_group
from transforms.end_of_replay import LOCATED
from transforms.silence import Span, caught_up, certain_pauses, found_silences, join_spans, pause_at, pauses_of
from transforms.window_expiry import expiry, judged_by

DUE, SILENCE, PAUSES = "due", "silence", "pauses"
READS = "reads"
"""What the alarms of a silent source are about."""


class Due(NamedTuple):
    """What `DueWindows` gives."""

    windows: beam.PCollection[DueWindow]
    silence: beam.PCollection[tuple[str, GroupInput]]
    """The alarms of a silent source."""
    pauses: beam.PCollection[ReadPauses]
    """When it was silent, whenever that changes."""


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
    spans: list[Span] = field(default_factory=list)
    """Of record times between which there was no silence."""
    told: list[Span] = field(default_factory=list)
    """The pauses that were given last."""
    certain_up_to: int = 0
    """The greatest watermark by which pauses were looked at."""
    promised: dict[int, int] = field(default_factory=dict)
    """Per receipt delay the last window that has a timer for the case that the source is silent from now on."""


class StateMismatchError(ValueError):
    """The state that was restored belongs to other settings; the message names both."""


@beam.typehints.with_input_types(ReadProgress)
class DueWindows(beam.PTransform):
    """Each (window, receipt delay) for which receipt rows exist is given once, when the watermark says it is due.

    A window W has rows (design section 5) when it lies between the first and the last window in which any interval
    read was accepted, W + collection delay is not before the first record time read, and W + receipt delay is not
    after the greatest record time read. It is due when the watermark passes W + receipt delay. So a gap is filled
    when reads resume, a fast clock's future window makes nothing due, and silence of the head-end is no rows.

    Silence of the head-end, no record for `source_silent`, is one alarm. A window that would have been due in it is due
    when what was held back has had time to come (`caught_up`). Where it can only be too late by then, that is said of
    it (`lost_to_silence`). No window is due later than it is known to who judges it (`judged_by`), also where the
    silence goes on: what was read before it counts.

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

    def expand(self, progress: beam.PCollection[ReadProgress]) -> Due:
        settings = self._settings
        due = beam.ParDo(_DueWindowsDoFn(settings)).with_output_types(
            DueWindow, silence=tuple[str, GroupInput], pauses=ReadPauses
        )
        found = (
            progress
            | "ReceiptDelays" >> beam.Map(
                _with_delays, settings.receipt_delay, view(self._counts)
            ).with_output_types(tuple[int, ProgressWithDelays])
            | f"Due {settings.state_label()}" >> due.with_outputs(SILENCE, PAUSES, main=DUE)
        )  # fmt: skip
        return Due(found[DUE], found[SILENCE], found[PAUSES])


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
        promised=covered.promised,
    )


def _first_judged(covered: Covered, settings: Settings) -> int:
    """The first window that has rows."""
    assert covered.first_window_end is not None
    # A whole window: the first that ends no more than the collection delay before the first record time read.
    first_complete = -((settings.collection_delay - covered.first_record_time) // settings.window) * settings.window
    return max(covered.first_window_end, first_complete)


def arm(covered: Covered, receipt_delay: int, settings: Settings) -> list[int]:
    """The windows that have become due by the data for this delay; notes in `covered` that they were given."""
    if covered.first_window_end is None or covered.last_window_end is None:
        return []
    size = settings.window
    # The last whole window whose receipt delay is over by the greatest record time read.
    last_due = (covered.greatest_record_time - receipt_delay) // size * size
    first, last = _first_judged(covered, settings), min(covered.last_window_end, last_due)
    if first > last:
        return []
    armed = covered.armed.get(receipt_delay)
    if armed is None:
        new = settings.live and covered.armed and receipt_delay not in covered.promised
        covered.armed[receipt_delay] = first, last
        if new:
            # The meter counts have changed: the transformers were judged after another delay, in windows that are
            # forgotten by now, too.
            while judged_by(settings, first) <= covered.greatest_record_time:
                first += size
        return list(range(first, last + size, size))
    low, high = armed
    covered.armed[receipt_delay] = min(low, first), max(high, last)
    return [*range(first, low, size), *range(high + size, last + size, size)]


def promise(covered: Covered, receipt_delay: int, settings: Settings) -> list[int]:
    """The windows that are not due yet, without those that were given before; notes in `covered` that they were."""
    if covered.first_window_end is None or covered.last_window_end is None:
        return []
    first, last = _first_judged(covered, settings), covered.last_window_end
    for known in (covered.armed.get(receipt_delay, (0, 0))[1], covered.promised.get(receipt_delay, 0)):
        first = max(first, known + settings.window)
    if first > last:
        return []
    covered.promised[receipt_delay] = last
    return list(range(first, last + settings.window, settings.window))


class _DueWindowsDoFn(beam.DoFn):
    COVERED = ReadModifyWriteStateSpec("covered", MsgspecCoder(Covered))
    DUE = TimerSpec("window_due", TimeDomain.WATERMARK)
    SILENT = TimerSpec("source_silent", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, ProgressWithDelays],
        covered_state: Any = beam.DoFn.StateParam(COVERED),
        due: Any = beam.DoFn.TimerParam(DUE),
        silent: Any = beam.DoFn.TimerParam(SILENT),
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
        least = self._settings.source_silent
        progress = element[1].progress
        news = progress.spans or [(progress.first_record_time, progress.greatest_record_time)]
        known = before.spans if before is not None else []
        covered.spans = join_spans(known, news, least)
        if before is not None:
            covered.told, covered.certain_up_to = before.told, before.certain_up_to
        if self._settings.live:
            silent.set(Timestamp(micros=covered.spans[-1][1] + least), dynamic_timer_tag="silent")
            # Only of a pause that is news: told again after days it would be told to who has forgotten it.
            for _, ended in set(pauses_of(covered.spans)).symmetric_difference(pauses_of(known)):
                silent.set(Timestamp(micros=ended), dynamic_timer_tag=f"resumed/{ended}")
        elif len(covered.spans) > 1:
            # Once: who takes it may get it in another order than it was given, as with Flink in batches.
            silent.set(Timestamp(micros=LOCATED), dynamic_timer_tag="end")
        for receipt_delay in element[1].receipt_delays:
            for window_end in arm(covered, receipt_delay, self._settings):
                # One timer a window and delay, all set at once: a timer that sets the next one would advance a
                # single step a bundle.
                at = window_end + receipt_delay
                pause = pause_at(covered.spans, at)
                if pause is not None:
                    at = min(caught_up(pause, self._settings.collection_delay), judged_by(self._settings, window_end))
                due.set(Timestamp(micros=at), dynamic_timer_tag=f"{window_end}/{receipt_delay}")
            # The timers of windows that are armed later are set anew.
            for window_end in promise(covered, receipt_delay, self._settings) if self._settings.live else ():
                at = judged_by(self._settings, window_end)
                due.set(Timestamp(micros=at), dynamic_timer_tag=f"{window_end}/{receipt_delay}")
        covered_state.write(covered)

    @on_timer(DUE)
    def on_due(
        self,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        at: Any = beam.DoFn.TimestampParam,
        covered_state: Any = beam.DoFn.StateParam(COVERED),
    ) -> Iterator[TimestampedValue[DueWindow]]:
        window_end, receipt_delay = (int(text) for text in tag.split("/"))
        covered = covered_state.read()
        low, high = covered.armed.get(receipt_delay, (window_end, 0))
        if window_end > high:
            if time.time_ns() // 1_000 < at.micros:
                return  # a stream that is ended, as by draining it, is at the end of time; nobody knows who is silent
            # The source has been silent since, and its next record must not make the window due again.
            covered.armed[receipt_delay] = low, window_end
            covered_state.write(covered)
            pause, lost = None, True
        else:
            pause = pause_at(covered.spans, window_end + receipt_delay)
            lost = pause is not None and pause[1] > window_end + self._settings.allowed_lateness
        due = DueWindow(
            window_end,
            receipt_delay,
            covered.first_window_end if window_end % MICROS_PER_DAY == 0 else None,
            lost_to_silence=lost,
        )
        # Lists of silent meters are made when the pause is known.
        known = at.micros if pause is None else max(at.micros, caught_up(pause, self._settings.collection_delay))
        yield TimestampedValue(due, Timestamp(micros=known))

    @on_timer(SILENT)
    def on_silent(
        self, at: Any = beam.DoFn.TimestampParam, covered_state: Any = beam.DoFn.StateParam(COVERED)
    ) -> Iterator[TaggedOutput]:
        covered = covered_state.read()
        settings = self._settings
        # At the end of a replay all timers are due at once, in an order that the runner chooses.
        watermark = max(at.micros, covered.certain_up_to)
        pauses = certain_pauses(covered.spans, watermark)
        if pauses != covered.told:
            yield TaggedOutput(PAUSES, ReadPauses(covered.spans[0][0], pauses))
            covered.told = pauses
        # By the watermark: of a backlog much more has been read than is certain.
        forgotten = watermark - expiry(settings, 0)
        # So long after a pause's end: one that took days is known at its end only.
        if settings.live and len(covered.spans) > 1 and covered.spans[1][0] <= forgotten:
            covered.spans = [
                span
                for span, after in zip_longest(covered.spans, covered.spans[1:])
                if not after or after[0] > forgotten
            ]
        covered.certain_up_to = watermark
        covered_state.write(covered)
        least, size = settings.source_silent, settings.window
        found = found_silences(READS, covered.spans, watermark, least, size, settings.live)
        yield TaggedOutput(SILENCE, (own_group(READS), GroupInput([found])))
