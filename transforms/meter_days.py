"""What the checks of a meter's whole day find, when the day is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.codecs.meter_block import MeterBlock, columns_of
from ami_beam.codecs.number_columns import decoded, encoded, encoded_floats
from ami_beam.coders import MsgspecCoder, carries
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI
from ami_beam.local_days import bounds_of
from ami_beam.packing import packed, unpacked
from ami_beam.records import MeterDay, MeterDayReads, ValidatedBatch
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.gathering import KEPT_LONGER
from transforms.interval_versions import by_interval, settled
from transforms.pack_meter_reads import ShardDay
from transforms.read_checks import checked_day
from transforms.window_expiry import billing_expiry

GATHER = MICROS_PER_HOUR
"""Record time for which what comes after the day's judgement is gathered: each look reads the whole day."""
EXPIRE = "expire"


class DayLogEntry(Struct, array_like=True, gc=False):
    """An element of a day's bag."""

    reads: MeterDayReads | None = None
    register: MeterBlock | None = None
    judged: bytes | None = None
    """All intervals that a look has seen, packed: one `MeterDayReads`."""
    registers: list[MeterBlock] = field(default_factory=list)
    """With `judged`: all registers."""


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


def _of_reads(element: tuple[ShardDay, MeterDayReads]) -> tuple[ShardDay, DayLogEntry]:
    return element[0], DayLogEntry(reads=element[1])


def _of_register(element: tuple[ShardDay, MeterBlock]) -> tuple[ShardDay, DayLogEntry]:
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
        if any(entry.judged is None for entry in entries):
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
    entries: Iterable[DayLogEntry], told: Mapping[str, MeterDay], day: str, settings: Settings
) -> tuple[DayLogEntry, list[MeterDay]]:
    """All that is known in one entry, and the rows that have changed by what is new."""
    reads: list[MeterDayReads] = []
    registers: list[MeterBlock] = []
    touched: set[str] = set()
    for entry in entries:
        if entry.judged is not None:
            reads.append(_decode(unpacked(entry.judged)))
            registers += entry.registers
        if entry.reads is not None:
            reads.append(entry.reads)
            touched.update(entry.reads.meters)
        if entry.register is not None:
            registers.append(entry.register)
            touched.update(entry.register.meters)
    known = _newest(reads)
    rows = [] if known is None else _rows(known, registers, touched, told, day, settings)
    everything = DayLogEntry(judged=packed(_encode(MeterDayReads([], *[b""] * 9) if known is None else known.pack())))
    everything.registers = [columns_of(registers).block()] if registers else []
    return everything, rows


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MeterDayReads).decode


class _Intervals:
    """The newest word on each interval, in order of meter and start."""

    def __init__(self, meters: list[str], columns: list[np.ndarray]):
        self.meters = meters
        (
            self.starts, self.ends, self.consumption, self.delivered, self.received, self.estimated, self.record_times,
            self.revisions, self.gone,
        ) = columns  # fmt: skip

    def pack(self) -> MeterDayReads:
        whole = [encoded(column) for column in (self.starts, self.ends)]
        kwh = [encoded_floats(column) for column in (self.consumption, self.delivered, self.received)]
        rest = [encoded(c) for c in (self.estimated, self.record_times, self.revisions, self.gone)]
        return MeterDayReads(self.meters, *whole, *kwh, *rest)


def _newest(parts: list[MeterDayReads]) -> _Intervals | None:
    parts = [part for part in parts if part.meters]
    if not parts:
        return None
    names: dict[str, int] = {}
    meter = np.array([names.setdefault(name, len(names)) for part in parts for name in part.meters], np.int64)
    columns = [
        np.concatenate([decoded(getattr(part, name), len(part.meters)) for part in parts])
        for name in MeterDayReads.__struct_fields__[1:]
    ]
    ends, revisions = columns[1], columns[7]
    order = np.lexsort((revisions, ends, meter))
    last = np.concatenate(((np.diff(meter[order]) != 0) | (np.diff(ends[order]) != 0), [True]))
    chosen = order[last]
    # By name, which is the same whatever came first.
    place = np.argsort(np.argsort(np.array(list(names))))
    chosen = chosen[np.lexsort((ends[chosen], columns[0][chosen], place[meter[chosen]]))]
    each = list(names)
    return _Intervals([each[number] for number in meter[chosen].tolist()], [column[chosen] for column in columns])


def _rows(
    known: _Intervals,
    registers: list[MeterBlock],
    touched: set[str],
    told: Mapping[str, MeterDay],
    day: str,
    settings: Settings,
) -> list[MeterDay]:
    register = _registers(registers)
    bounds = bounds_of(day, settings.time_zone)
    rows = []
    first = 0
    meters = known.meters
    while first < len(meters):
        meter_id, last = meters[first], first + 1
        while last < len(meters) and meters[last] == meter_id:
            last += 1
        if meter_id in touched:
            here = np.arange(first, last)[known.gone[first:last] == 0]
            kwh, times = register.get(meter_id, (None, 0))
            row = checked_day(
                meter_id, day, bounds, known.starts[here], known.ends[here], known.consumption[here],
                known.delivered[here], known.received[here], known.estimated[here] != 0,
                max(times, int(known.record_times[first:last].max())), kwh,
            )  # fmt: skip
            was = told.get(meter_id)
            if was is not None:
                row.as_of, row.revision = max(row.as_of, was.as_of), was.revision
            if row != was:
                row.revision = 0 if was is None else was.revision + 1
                rows.append(row)
        first = last
    return rows


def _registers(blocks: list[MeterBlock]) -> dict[str, tuple[float, int]]:
    """(consumption, record time) of each meter's register: of the version that counts of the last of the day."""
    if not blocks:
        return {}
    found: dict[str, tuple[int, float, int]] = {}
    for (meter_id, end), versions in by_interval(columns_of(blocks).versions()).items():
        winner, _ = settled(versions)
        if meter_id not in found or end > found[meter_id][0]:
            found[meter_id] = end, winner.consumption_kwh, winner.record_time
    return {meter_id: (kwh, at) for meter_id, (_, kwh, at) in found.items()}
