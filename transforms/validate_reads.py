"""Which version of every meter's interval counts: published when its window is due, and again when that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.billing_batches import READ_NUMBERS, packed
from ami_beam.codecs.day_reads import DayColumns, DayReads, pack_day
from ami_beam.codecs.meter_block import MeterColumns, MeterReads, Version, joined, pack, unpack
from ami_beam.codecs.number_columns import encoded
from ami_beam.coders import MsgspecCoder
from ami_beam.consumers import CUSTOMER_CONSUMPTION, VALIDATED_READS
from ami_beam.local_days import days_of
from ami_beam.read_columns import Flags, Ints
from ami_beam.records import CustomerChanges, ValidatedBatch
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.decode_reads import METRICS
from transforms.interval_versions import Key, by_interval, different, settled, winners
from transforms.pack_meter_reads import ShardDay
from transforms.read_checks import checked, implausible, nano_kwh
from transforms.window_expiry import billing_expiry

DUE, LATE, EXPIRE = "due", "late", "expire"
ROWS, MONTHLY, DAILY = "rows", "customers", "meter_days"
BLOCK_READS = 256
"""Smaller blocks are merged when they are published."""
LATE_BLOCKS = 16
"""More of them in a window are merged, as in `WindowStatistics`."""


class HeldVersions(Struct, array_like=True, gc=False):
    """An element of a window's bag: blocks that have just come, or all that were part of its first publication."""

    blocks: list[MeterReads]
    published: bool


class RevisedIntervals(Struct, array_like=True, gc=False):
    """What came after a window's first publication, and what was published of the intervals that it touched."""

    blocks: list[MeterReads]
    published: list[tuple[str, int, int, int]]
    """(meter_id, interval_end, revision, as_of)."""


class Validated(NamedTuple):
    """What `ValidateReads` gives; None what no consumer has asked for."""

    rows: beam.PCollection[ValidatedBatch] | None
    meter_days: beam.PCollection[tuple[ShardDay, DayReads]] | None
    customers: beam.PCollection[tuple[ShardDay, CustomerChanges]] | None
    """Keyed by (shard of customers, day)."""


@beam.typehints.with_input_types(tuple[tuple[int, int], MeterReads])
class ValidateReads(beam.PTransform):
    """One row for every (meter, interval_end), published again only when its content has changed.

    Takes blocks keyed by (shard of meters, window_end). The first rows of a window come with its on-time result;
    later reads, up to `billing_lateness`, revise at once what they touch. What is published in the end does not depend
    on the order, batching or repetition of reads.

    Days of meters and of customers get what is added to them and what is taken away.

    State per (shard, window): every version of the reads, as it came, until none can come any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, blocks: beam.PCollection[tuple[ShardWindow, MeterReads]]) -> Validated:
        settings = self._settings
        validate = beam.ParDo(_ValidateDoFn(settings)).with_output_types(
            ValidatedBatch,
            customers=tuple[tuple[int, str], CustomerChanges],
            meter_days=tuple[tuple[int, str], DayReads],
        )
        label = f"Validate {settings.state_label()}"
        found = blocks | label >> validate.with_outputs(MONTHLY, DAILY, main=ROWS)
        reads, customers = (name in settings.also_publish for name in (VALIDATED_READS, CUSTOMER_CONSUMPTION))
        return Validated(
            found[ROWS] if reads else None, found[DAILY] if reads else None, found[MONTHLY] if customers else None
        )


class _ValidateDoFn(beam.DoFn):
    READS = BagStateSpec("meter_reads", MsgspecCoder(HeldVersions))
    REVISED = ReadModifyWriteStateSpec("meter_reads_revised", MsgspecCoder(RevisedIntervals))
    PUBLISH = TimerSpec("meter_reads_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._revisions = Metrics.counter(METRICS, "interval_revisions")

    def process(
        self,
        element: tuple[ShardWindow, MeterReads],
        reads: Any = beam.DoFn.StateParam(READS),
        revised: Any = beam.DoFn.StateParam(REVISED),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> Iterator[Any]:
        key, block = element
        due_at = key[1] + self._settings.collection_delay
        late = block.first_record_time >= due_at
        if late:
            base, _ = _divided(reads)
            if base:
                yield from self._published(key, _revise(key[1], base, [block], revised, self._settings))
                return
        reads.add(HeldVersions([block], published=False))
        # Each late block of a window that was never published has a timer of its own, as in `WindowStatistics`.
        at = block.first_record_time if late else due_at
        publish.set(Timestamp(micros=at), dynamic_timer_tag=f"{LATE}/{at}" if late else DUE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        reads: Any = beam.DoFn.StateParam(READS),
        revised: Any = beam.DoFn.StateParam(REVISED),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> Iterator[Any]:
        base, fresh = _divided(reads)
        if fresh:
            if base:
                changes = _revise(key[1], base, fresh, revised, self._settings)
            else:
                columns = unpack(fresh)
                changes = first_publication(columns)
                small = len(fresh) > 1 and len(columns) < BLOCK_READS * len(fresh)
                base = [pack(columns)] if small else fresh
                expires = billing_expiry(self._settings, key[1])
                publish.set(Timestamp(micros=expires), dynamic_timer_tag=EXPIRE)
            reads.clear()
            reads.add(HeldVersions(base, published=True))
            yield from self._published(key, changes)
        if tag == EXPIRE:
            reads.clear()
            revised.clear()

    def _published(self, key: ShardWindow, changes: IntervalChanges) -> Iterator[Any]:
        settings = self._settings
        self._revisions.inc(int((changes.revisions > 0).sum()))
        if VALIDATED_READS in settings.also_publish:
            if len(changes.now):
                yield batch_of(key[1], changes, settings)
            for day, news in day_reads(changes, settings):
                yield TaggedOutput(DAILY, ((key[0], day), news))
        if CUSTOMER_CONSUMPTION in settings.also_publish:
            for shard_day, added in customer_changes(changes, settings):
                yield TaggedOutput(MONTHLY, (shard_day, added))


class IntervalChanges(NamedTuple):
    """The versions that have come to count, and those that they replace."""

    now: MeterColumns
    revised: Flags
    revisions: Ints
    as_of: Ints
    """Never less than what was published before."""
    before: MeterColumns | None
    """None where there are none."""
    numbers: Ints
    """`revisions` of what replaces them."""


def _divided(reads: Any) -> tuple[list[MeterReads], list[MeterReads]]:
    """The blocks of a window that were part of its first publication, and those that have come since."""
    held: list[HeldVersions] = list(reads.read())
    base = [block for each in held if each.published for block in each.blocks]
    return base, [block for each in held if not each.published for block in each.blocks]


def _revise(
    window_end: int, base: list[MeterReads], fresh: list[MeterReads], revised: Any, settings: Settings
) -> IntervalChanges:
    due_at = window_end + settings.collection_delay
    after, changes = revise(unpack(base), revised.read(), fresh, due_at)
    revised.write(after)
    return changes


def first_publication(columns: MeterColumns) -> IntervalChanges:
    """What a window says at first."""
    chosen, revised = winners(columns)
    now = columns if chosen is None else columns.take(chosen)
    none = np.zeros(0, np.int64)
    return IntervalChanges(now, revised, np.zeros(len(now), np.int64), now.record_time, None, none)


def revise(
    base: MeterColumns, earlier: RevisedIntervals | None, fresh: list[MeterReads], due_at: int
) -> tuple[RevisedIntervals, IntervalChanges]:
    """Merge versions that came after the first publication: what to remember, and what has changed by them.

    `due_at`: from when on a read was late.
    """
    late = unpack(fresh)
    earlier = earlier or RevisedIntervals([], [])
    touched = set(zip(late.meter_id, late.interval_end.tolist(), strict=True))
    meters = {meter for meter, _ in touched}
    known = [*base.of(meters).versions(), *(unpack(earlier.blocks).of(meters).versions() if earlier.blocks else ())]
    old = by_interval(version for version in known if version[:2] in touched)
    new = by_interval([*(version for versions in old.values() for version in versions), *late.versions()])
    published = {(meter, end): (revision, as_of) for meter, end, revision, as_of in earlier.published}
    now: list[tuple[Version, bool, int, int]] = []
    before: list[tuple[Version, int]] = []
    for key in sorted(touched):
        winner, is_revised = settled(new[key])
        revision, as_of = -1, winner.record_time
        if key in old:
            was, was_revised = settled(old[key])
            revision, told = published.get(key, (0, was.record_time))
            as_of = max(as_of, told)
            says = (winner[2:4], winner[7:], is_revised, winner.record_time >= due_at, as_of)
            if says == (was[2:4], was[7:], was_revised, was.record_time >= due_at, told):
                continue
            before.append((was, revision + 1))
        published[key] = revision + 1, as_of
        now.append((winner, is_revised, revision + 1, as_of))
    blocks = [*earlier.blocks, *fresh]
    if len(blocks) > LATE_BLOCKS:
        blocks = [pack(_columns_from(different(unpack(blocks).versions())))]
    remembered = [(meter, end, revision, as_of) for (meter, end), (revision, as_of) in published.items()]
    columns = list(zip(*now, strict=True)) or [(), (), (), ()]
    return RevisedIntervals(blocks, remembered), IntervalChanges(
        _columns_from(columns[0]), np.array(columns[1], np.bool_), np.array(columns[2], np.int64),
        np.array(columns[3], np.int64), _columns_from([was for was, _ in before]) if before else None,
        np.array([number for _, number in before], np.int64),
    )  # fmt: skip


def _columns_from(versions: Iterable[Version]) -> MeterColumns:
    columns: list[Any] = list(zip(*versions, strict=True)) or [()] * len(Version._fields)
    of = dict(zip(Version._fields, columns, strict=True))
    customers = of["customer_id"]
    return MeterColumns(
        meter_id=list(of["meter_id"]),
        service_point_id=list(of["service_point_id"]),
        customer_id=[] if None in customers else list(customers),
        transformer_id=list(of["transformer_id"]),
        interval_start=np.array(of["interval_start"], np.int64),
        interval_end=np.array(of["interval_end"], np.int64),
        read_ts=np.array(of["read_ts"], np.int64),
        record_time=np.array(of["record_time"], np.int64),
        partition=np.array(of["partition"], np.int64),
        offset=np.array(of["offset"], np.int64),
        consumption_kwh=np.array(of["consumption_kwh"], np.float64),
        delivered_kwh=np.array(of["delivered_kwh"], np.float64),
        received_kwh=np.array(of["received_kwh"], np.float64),
        estimated=~np.array(of["actual"], np.bool_),
    )


def batch_of(window_end: int, changes: IntervalChanges, settings: Settings) -> ValidatedBatch:
    """The rows to publish. There must be one."""
    now = changes.now
    found, due_at = checked(now, settings), window_end + settings.collection_delay
    numbers = {
        "interval_start": now.interval_start,
        "interval_end": now.interval_end,
        "consumption_kwh": now.consumption_kwh,
        "delivered_kwh": now.delivered_kwh,
        "received_kwh": now.received_kwh,
        "quality": now.estimated,
        "espi_quality": found.espi_quality,
        "late": now.record_time >= due_at,
        "revised": changes.revised,
        "flags": found.flags,
        "read_ts": now.read_ts,
        "as_of": changes.as_of,
        "revision": changes.revisions,
    }
    ids = now.meter_id, now.service_point_id, now.customer_id, now.transformer_id
    return ValidatedBatch(*ids, packed(numbers, READ_NUMBERS))


def day_reads(changes: IntervalChanges, settings: Settings) -> Iterator[tuple[str, DayReads]]:
    """What days of meters learn, by day."""
    parts = [(changes.now, changes.revisions, implausible(changes.now, settings))]
    if changes.before is not None:
        # Only where it has gone to another day: on its own one the newer version replaces it.
        moved = _moved(changes, settings)
        gone = np.ones(len(moved), np.bool_)
        parts.append((changes.before.take(moved), changes.numbers[moved], gone))
    columns = joined([each for each, _, _ in parts])
    if not len(columns):
        return
    revisions = np.concatenate([number for _, number, _ in parts])
    gone = np.concatenate([each for _, _, each in parts])
    days, day = days_of(columns.interval_start, settings.time_zone)
    for number, name in enumerate(days):
        here = np.flatnonzero(day == number) if len(days) > 1 else np.arange(len(columns))
        some = columns.take(here) if len(days) > 1 else columns
        yield name, pack_day(DayColumns(
            some.meter_id, some.interval_start, some.interval_end, some.consumption_kwh, some.delivered_kwh,
            some.received_kwh, some.estimated, some.record_time, revisions[here], gone[here],
        ))  # fmt: skip


def _moved(changes: IntervalChanges, settings: Settings) -> Ints:
    """Which of the replaced versions are of another day than what replaces them."""
    before, now = changes.before, changes.now
    assert before is not None
    starts: dict[Key, int] = dict(
        zip(zip(now.meter_id, now.interval_end.tolist(), strict=True), now.interval_start.tolist(), strict=True)
    )
    after = [starts[key] for key in zip(before.meter_id, before.interval_end.tolist(), strict=True)]
    _, day = days_of(np.concatenate((before.interval_start, np.array(after, np.int64))), settings.time_zone)
    return np.flatnonzero(day[: len(before)] != day[len(before) :])


def customer_changes(changes: IntervalChanges, settings: Settings) -> Iterator[tuple[ShardDay, CustomerChanges]]:
    """What days of customers change by, by (shard of customers, day)."""
    parts = [(changes.now, 1), *(() if changes.before is None else ((changes.before, -1),))]
    kept, signs = [], []
    for columns, sign in parts:
        wrong = implausible(columns, settings)
        kept.append(columns.take(np.flatnonzero(~wrong)) if wrong.any() else columns)
        signs.append(np.full(len(kept[-1]), sign, np.int64))
    columns, sign = joined(kept), np.concatenate(signs)
    if not len(columns):
        return
    delivered, received = nano_kwh(columns.delivered_kwh) * sign, nano_kwh(columns.received_kwh) * sign
    estimated = columns.estimated * sign
    days, day = days_of(columns.interval_start, settings.time_zone)
    shard = np.array([shard_of(customer, settings.shards) for customer in columns.customer_id], np.int64)
    group = shard * len(days) + day
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        here = order[first:last]
        yield (
            (int(shard[here[0]]), days[int(day[here[0]])]),
            CustomerChanges(
                [columns.customer_id[i] for i in here.tolist()], encoded(columns.interval_start[here]),
                encoded(columns.interval_end[here]), encoded(delivered[here]), encoded(received[here]),
                encoded(sign[here]), encoded(estimated[here]), encoded(columns.record_time[here]),
            ),
        )  # fmt: skip
