"""What the checks of a meter's whole day find, when the day is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.codecs.day_reads import DayColumns, DayReads, pack_day, unpack_days
from ami_beam.codecs.meter_block import MeterColumns, MeterReads, pack, unpack
from ami_beam.coders import MsgspecCoder, carries
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI
from ami_beam.local_days import bounds_of
from ami_beam.records import MeterDay, ValidatedBatch
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.gathering import KEPT_LONGER
from transforms.interval_versions import by_interval, settled
from transforms.pack_meter_reads import ShardDay
from transforms.read_checks import checked_days
from transforms.window_expiry import billing_expiry

GATHER = MICROS_PER_HOUR
"""Record time for which what comes after the day's judgement is gathered: each look reads the whole day."""
EXPIRE = "expire"


class DayLogEntry(Struct, array_like=True, gc=False):
    """An element of a day's bag: something that has come, or all that earlier looks have seen."""

    reads: DayReads | None = None
    register: MeterReads | None = None
    seen: bool = False


carries(DayLogEntry)


class ToldDays(Struct, array_like=True, gc=False):
    """What was published of a day's meters."""

    rows: dict[str, MeterDay] = field(default_factory=dict)


@beam.typehints.with_output_types(ValidatedBatch)
class MeterDays(beam.PTransform):
    """One row for every meter and day in which an interval of it begins, and again when its content has changed.

    Takes (intervals that count, registers), both keyed by (shard of meters, day of the utility's time zone). A day is
    judged when the watermark passes its end and the collection delay; what comes later is gathered for an hour of
    record time. A bounded run publishes the final rows only.

    State per (shard, day): the day's intervals, compressed once it is judged, and its rows, until no read can come.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[ValidatedBatch]:
        reads, registers = inputs
        entries = (
            reads | "OfReads" >> beam.Map(_of_reads).with_output_types(tuple[tuple[int, str], DayLogEntry]),
            registers | "OfRegisters" >> beam.Map(_of_register).with_output_types(tuple[tuple[int, str], DayLogEntry]),
        ) | beam.Flatten()
        label = f"MeterDays {self._settings.state_label()}"
        return entries | label >> beam.ParDo(_DayDoFn(self._settings))


def _of_reads(element: tuple[ShardDay, DayReads]) -> tuple[ShardDay, DayLogEntry]:
    return element[0], DayLogEntry(reads=element[1])


def _of_register(element: tuple[ShardDay, MeterReads]) -> tuple[ShardDay, DayLogEntry]:
    return element[0], DayLogEntry(register=element[1])


@beam.typehints.with_input_types(tuple[tuple[int, str], DayLogEntry])
@beam.typehints.with_output_types(ValidatedBatch)
class _DayDoFn(beam.DoFn):
    LOG = BagStateSpec("meter_day_log", MsgspecCoder(DayLogEntry))
    TOLD = ReadModifyWriteStateSpec("meter_day_told", MsgspecCoder(ToldDays))
    JUDGE = TimerSpec("meter_day_judge", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardDay, DayLogEntry],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> None:
        (_, day), entry = element
        log.add(entry)
        if not self._settings.live:
            judge.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag="end")
            return
        over = bounds_of(day, self._settings.time_zone)[1]
        # After the last window of the day has given what it has.
        due_at = over + self._settings.window + self._settings.collection_delay + 2 * MICROS_PER_MILLI
        when = due_at if at.micros < due_at else (at.micros // GATHER + 1) * GATHER
        judge.set(Timestamp(micros=when), dynamic_timer_tag=str(when))
        expires = billing_expiry(self._settings, over + self._settings.window) + KEPT_LONGER
        judge.set(Timestamp(micros=expires), dynamic_timer_tag=EXPIRE)

    @on_timer(JUDGE)
    def on_judge(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
        told: Any = beam.DoFn.StateParam(TOLD),
    ) -> Iterator[ValidatedBatch]:
        entries: list[DayLogEntry] = list(log.read())
        if any(not entry.seen for entry in entries):
            known = told.read() or ToldDays()
            kept, rows = judged(entries, known.rows, key[1], self._settings)
            log.clear()
            log.add(kept)
            if rows:
                known.rows.update((row.meter_id, row) for row in rows)
                told.write(known)
                yield ValidatedBatch(days=rows)
        if tag == EXPIRE:
            log.clear()
            told.clear()


def judged(
    entries: Sequence[DayLogEntry], told: Mapping[str, MeterDay], day: str, settings: Settings
) -> tuple[DayLogEntry, list[MeterDay]]:
    """All that is known in one entry, and the rows that have changed by what is new."""
    reads = [entry.reads for entry in entries if entry.reads is not None]
    registers = [entry.register for entry in entries if entry.register is not None]
    everything = DayLogEntry(seen=True)
    sums: dict[str, tuple[float, int]] = {}
    if registers:
        columns = unpack(registers)
        everything.register = pack(columns)
        sums = _registers(columns)
    if not reads:
        return everything, []
    known = newest(unpack_days(reads))
    everything.reads = pack_day(known)
    # At the first look all is new.
    if any(entry.seen for entry in entries):
        touched = _meters_of([entry for entry in entries if not entry.seen])
        known = known.take(np.array([i for i, meter in enumerate(known.meter_id) if meter in touched], np.int64))
    rows = []
    for row in checked_days(known, day, bounds_of(day, settings.time_zone), sums):
        was = told.get(row.meter_id)
        if was is not None:
            row.as_of, row.revision = max(row.as_of, was.as_of), was.revision
        if row != was:
            row.revision = 0 if was is None else was.revision + 1
            rows.append(row)
    return everything, rows


def _meters_of(entries: Sequence[DayLogEntry]) -> set[str]:
    reads = [entry.reads for entry in entries if entry.reads is not None]
    registers = [entry.register for entry in entries if entry.register is not None]
    found = set(unpack_days(reads).meter_id) if reads else set()
    return found.union(unpack(registers).meter_id) if registers else found


def newest(columns: DayColumns) -> DayColumns:
    """The newest word on each interval, in order of meter and start."""
    names = {name: number for number, name in enumerate(sorted(set(columns.meter_id)))}
    meter = np.fromiter(map(names.__getitem__, columns.meter_id), np.int64, len(columns))
    order = np.lexsort((columns.revision, columns.end, meter))
    last = np.concatenate(((np.diff(meter[order]) != 0) | (np.diff(columns.end[order]) != 0), [True]))
    chosen = order[last]
    return columns.take(chosen[np.lexsort((columns.end[chosen], columns.start[chosen], meter[chosen]))])


def _registers(columns: MeterColumns) -> dict[str, tuple[float, int]]:
    """(consumption, record time) of each meter's register: of the version that counts of the last of the day."""
    found: dict[str, tuple[int, float, int]] = {}
    for (meter_id, end), versions in by_interval(columns.versions()).items():
        winner, _ = settled(versions)
        if meter_id not in found or end > found[meter_id][0]:
            found[meter_id] = end, winner.consumption_kwh, winner.record_time
    return {meter_id: (kwh, at) for meter_id, (_, kwh, at) in found.items()}
