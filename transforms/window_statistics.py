"""Per-transformer statistics of every window: published when the window is due, and again when late reads change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.read_block import BlockColumns, PackedRead, ReadBlock, columns_of, pack, unpack
from ami_beam.coders import MsgspecCoder
from ami_beam.records import FeederStatistics, StatisticsBatch, TransformerStatistics
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS
from transforms.statistics import Measured, by_transformer, emptied, measure, measure_columns
from transforms.window_expiry import expiry
from transforms.winners import Winners

DUE, LATE, EXPIRE = "due", "late", "expire"
"""Why a window's timer fires: its on-time result, late reads that were gathered, the end of its state."""
BUCKETS = 8
"""Into how many parts a shard's window may be divided in state, so that a late read fetches one of them."""
BUCKET_READS = 4_000
"""A window is divided no finer than this: an access to state costs as much as a thousand reads."""
BLOCK_READS = 256
"""Blocks that are smaller on average are merged before they rest in state."""


class PublishedTransformer(Struct, array_like=True, gc=False):
    """What was published of a transformer, where the reads that may still win do not say it: after a revision."""

    revision: int
    as_of: int
    pairs: dict[str, tuple[int, int]]
    """feeder_id: (revision, as_of)."""


class Revised(Struct, array_like=True, gc=False):
    """What came after the first publication of a bucket: late reads that may still win, and what was published."""

    block: ReadBlock | None
    published: dict[str, PublishedTransformer]


class Bucket(Struct, array_like=True, gc=False):
    """The state of one bucket. `base` is written once, with the first publication; later reads go to `revised`."""

    base: list[ReadBlock]
    revised: Revised | None

    def contenders(self) -> Iterator[PackedRead]:
        """Every read that may still win."""
        reads = Winners()
        for block in self.base:
            reads.add(unpack(block))
        if self.revised is not None and self.revised.block is not None:
            reads.add(unpack(self.revised.block))
        return reads.contenders()


@beam.typehints.with_input_types(tuple[tuple[int, int], ReadBlock])
@beam.typehints.with_output_types(tuple[tuple[int, int], StatisticsBatch])
class WindowStatistics(beam.PTransform):
    """Publishes each transformer's statistics once when its window is due, and again only when their content changed.

    Takes blocks keyed by (shard, window_end), see `PackReads`. The first publication of a window comes when the
    watermark of record times passes window_end + collection delay. A block of later reads, see `GatherLateReads`,
    revises its transformers at once. The content does not depend on the order,
    batching or repetition of the reads.

    State per (shard, window): about 35 bytes a read from its arrival until no read of the window can come any more
    (`window_expiry`). It is divided into up to `BUCKETS` parts of about `BUCKET_READS`; a late read fetches one of them
    and writes the late reads of it back. The shard is a stable hash of transformer_id: all reads of a transformer meet
    in one place.

    Counter: topology_changes, publications in which a transformer's window has reads of more than one feeder.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, blocks: beam.PCollection) -> beam.PCollection[tuple[ShardWindow, StatisticsBatch]]:
        label = f"Statistics {self._settings.state_label()}"
        return blocks | label >> beam.ParDo(_WindowStatisticsDoFn(self._settings))


class _WindowStatisticsDoFn(beam.DoFn):
    ARRIVED = BagStateSpec("arrived", MsgspecCoder(ReadBlock))
    BUCKET_COUNT = ReadModifyWriteStateSpec("bucket_count", VarIntCoder())
    BASE = tuple(BagStateSpec(f"base{number}", MsgspecCoder(ReadBlock)) for number in range(BUCKETS))
    REVISED = tuple(ReadModifyWriteStateSpec(f"revised{number}", MsgspecCoder(Revised)) for number in range(BUCKETS))
    PUBLISH = TimerSpec("statistics_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._topology_changes = Metrics.counter(METRICS, "topology_changes")
        self._revisions = Metrics.counter(METRICS, "statistics_revisions")

    def process(
        self,
        element: tuple[ShardWindow, ReadBlock],
        arrived: Any = beam.DoFn.StateParam(ARRIVED),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
        bucket_count: Any = beam.DoFn.StateParam(BUCKET_COUNT),
        base0: Any = beam.DoFn.StateParam(BASE[0]),
        base1: Any = beam.DoFn.StateParam(BASE[1]),
        base2: Any = beam.DoFn.StateParam(BASE[2]),
        base3: Any = beam.DoFn.StateParam(BASE[3]),
        base4: Any = beam.DoFn.StateParam(BASE[4]),
        base5: Any = beam.DoFn.StateParam(BASE[5]),
        base6: Any = beam.DoFn.StateParam(BASE[6]),
        base7: Any = beam.DoFn.StateParam(BASE[7]),
        revised0: Any = beam.DoFn.StateParam(REVISED[0]),
        revised1: Any = beam.DoFn.StateParam(REVISED[1]),
        revised2: Any = beam.DoFn.StateParam(REVISED[2]),
        revised3: Any = beam.DoFn.StateParam(REVISED[3]),
        revised4: Any = beam.DoFn.StateParam(REVISED[4]),
        revised5: Any = beam.DoFn.StateParam(REVISED[5]),
        revised6: Any = beam.DoFn.StateParam(REVISED[6]),
        revised7: Any = beam.DoFn.StateParam(REVISED[7]),
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        key, block = element
        due_at = block.window_end + self._settings.collection_delay
        if block.first_record_time >= due_at and bucket_count.read():
            bases = (base0, base1, base2, base3, base4, base5, base6, base7)
            reviseds = (revised0, revised1, revised2, revised3, revised4, revised5, revised6, revised7)
            yield from self._published(key, _revised([block], self._settings.shards, bucket_count, bases, reviseds))
            return
        arrived.add(block)
        # Late reads of a window that was never published, or whose first publication is on its way.
        fire_at = due_at if block.first_record_time < due_at else max(due_at, block.last_record_time)
        tag = DUE if block.first_record_time < due_at else LATE
        publish.set(Timestamp(micros=fire_at), dynamic_timer_tag=tag)
        publish.set(Timestamp(micros=expiry(self._settings, block.window_end)), dynamic_timer_tag=EXPIRE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        arrived: Any = beam.DoFn.StateParam(ARRIVED),
        bucket_count: Any = beam.DoFn.StateParam(BUCKET_COUNT),
        base0: Any = beam.DoFn.StateParam(BASE[0]),
        base1: Any = beam.DoFn.StateParam(BASE[1]),
        base2: Any = beam.DoFn.StateParam(BASE[2]),
        base3: Any = beam.DoFn.StateParam(BASE[3]),
        base4: Any = beam.DoFn.StateParam(BASE[4]),
        base5: Any = beam.DoFn.StateParam(BASE[5]),
        base6: Any = beam.DoFn.StateParam(BASE[6]),
        base7: Any = beam.DoFn.StateParam(BASE[7]),
        revised0: Any = beam.DoFn.StateParam(REVISED[0]),
        revised1: Any = beam.DoFn.StateParam(REVISED[1]),
        revised2: Any = beam.DoFn.StateParam(REVISED[2]),
        revised3: Any = beam.DoFn.StateParam(REVISED[3]),
        revised4: Any = beam.DoFn.StateParam(REVISED[4]),
        revised5: Any = beam.DoFn.StateParam(REVISED[5]),
        revised6: Any = beam.DoFn.StateParam(REVISED[6]),
        revised7: Any = beam.DoFn.StateParam(REVISED[7]),
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        bases = (base0, base1, base2, base3, base4, base5, base6, base7)
        reviseds = (revised0, revised1, revised2, revised3, revised4, revised5, revised6, revised7)
        # Whatever the timer: at the end of a bounded source all are due at once, in an order that the runner chooses.
        yield from self._publish(key, arrived, bucket_count, bases, reviseds)
        if tag == EXPIRE:
            for number in range(bucket_count.read() or 0):
                bases[number].clear()
                reviseds[number].clear()
            bucket_count.clear()

    def _publish(
        self, key: ShardWindow, arrived: Any, bucket_count: Any, bases: tuple[Any, ...], reviseds: tuple[Any, ...]
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        fresh = list(arrived.read())
        if not fresh:
            return
        arrived.clear()
        window_end = key[1]
        changed: list[TransformerStatistics] = []
        buckets = bucket_count.read()
        if not buckets:
            held, changed = first_publication(window_end, fresh, self._settings.shards)
            bucket_count.write(len(held))
            for number, blocks in enumerate(held):
                for block in blocks:
                    bases[number].add(block)
        else:
            changed = _revised(fresh, self._settings.shards, bucket_count, bases, reviseds)
        yield from self._published(key, changed)

    def _published(
        self, key: ShardWindow, changed: list[TransformerStatistics]
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        if changed:
            self._topology_changes.inc(sum(sum(f.meters_reported > 0 for f in t.feeders) > 1 for t in changed))
            self._revisions.inc(sum(transformer.revision > 0 for transformer in changed))
            yield key, StatisticsBatch(key[1], changed)


def _revised(
    fresh: Sequence[ReadBlock], shards: int, bucket_count: Any, bases: Sequence[Any], reviseds: Sequence[Any]
) -> list[TransformerStatistics]:
    """Merge reads into the buckets of a window that was published; the statistics that have changed."""
    window_end = fresh[0].window_end
    changed: list[TransformerStatistics] = []
    for number, columns in divided(columns_of(fresh), shards, bucket_count.read()):
        before = Bucket(list(bases[number].read()), reviseds[number].read())
        revised, statistics = revise(window_end, before, columns)
        reviseds[number].write(revised)
        changed += statistics
    return changed


def bucket_of(transformer_id: str, shards: int, buckets: int) -> int:
    """The bucket of a transformer: other bits of the hash that chose its shard, so that buckets fill evenly."""
    return crc32(transformer_id.encode()) // shards % buckets


def divided(columns: BlockColumns, shards: int, buckets: int) -> Iterator[tuple[int, BlockColumns]]:
    """The reads by bucket; only buckets that have some."""
    if buckets == 1:
        yield 0, columns
        return
    of_name = np.array([bucket_of(name, shards, buckets) for name in columns.names], np.int64)
    of_read = of_name[columns.transformer]
    for bucket in np.unique(of_read).tolist():
        yield bucket, columns.take(np.flatnonzero(of_read == bucket))


def first_publication(
    window_end: int, fresh: Sequence[ReadBlock], shards: int
) -> tuple[list[list[ReadBlock]], list[TransformerStatistics]]:
    """The base of every bucket, and the statistics of every transformer."""
    columns = columns_of(fresh)
    changed = [
        _publication(name, of_transformer, of_transformer.feeders, of_transformer.as_of, 0)
        for name, of_transformer in measure_columns(columns).items()
    ]
    buckets = min(BUCKETS, -(-len(columns) // BUCKET_READS))
    if buckets == 1:
        small = len(columns) < BLOCK_READS * len(fresh) and len(fresh) > 1
        return [[columns.block(window_end)] if small else list(fresh)], changed
    held: list[list[ReadBlock]] = [[] for _ in range(buckets)]
    for number, part in divided(columns, shards, buckets):
        held[number] = [part.block(window_end)]
    return held, changed


def revise(window_end: int, before: Bucket, fresh: BlockColumns) -> tuple[Revised, list[TransformerStatistics]]:
    """Merge reads that came after the first publication: what to remember, and the statistics that have changed."""
    touched = {fresh.names[number] for number in np.unique(fresh.transformer).tolist()}
    old = Winners()
    if before.base:
        old.add(columns_of(before.base).of(touched))
    later = Winners()
    published: dict[str, PublishedTransformer] = {}
    if before.revised is not None:
        published = dict(before.revised.published)
        if before.revised.block is not None:
            earlier = columns_of([before.revised.block]).reads()
            later.add(earlier)
            old.add(read for read in earlier if read.transformer_id in touched)
    fresh_reads = fresh.reads()
    later.add(fresh_reads)
    new = Winners()
    new.merge(old)
    new.add(fresh_reads)
    old_reads, new_reads = by_transformer(old.winners()), by_transformer(new.winners())
    changed = []
    for transformer_id in sorted(touched):
        measured = measure(new_reads[transformer_id])
        was = measure(old_reads[transformer_id]) if transformer_id in old_reads else None
        statistics, known = _statistics(transformer_id, measured, was, published.get(transformer_id))
        if statistics is not None:
            changed.append(statistics)
        if known is not None:
            published[transformer_id] = known
    # Contenders against later reads, not against the base: a read of the base that loses to them does no harm.
    return Revised(pack(window_end, later.contenders()), published), changed


def _statistics(
    transformer_id: str, measured: Measured, was: Measured | None, published: PublishedTransformer | None
) -> tuple[TransformerStatistics | None, PublishedTransformer | None]:
    """What is to be published of a transformer (None where its content is as before), and what to remember of it.

    as_of never goes back, although a read with an older record time may replace the winner: a consumer keeps the row
    with the greatest as_of, and would keep the replaced one for ever.
    """
    if was is None:
        return _publication(transformer_id, measured, measured.feeders, measured.as_of, 0), None
    if published is None:
        published = PublishedTransformer(0, was.as_of, {f.feeder_id: (0, f.as_of) for f in was.feeders})
    before = {feeder.feeder_id: feeder for feeder in was.feeders}
    feeders: list[FeederStatistics] = []
    for feeder in measured.feeders:
        revision, as_of = published.pairs.get(feeder.feeder_id, (-1, 0))
        feeder.as_of = max(feeder.as_of, as_of)
        old = before.get(feeder.feeder_id)
        feeder.changed = old is None or feeder != msgspec.structs.replace(old, as_of=as_of)
        feeder.revision = revision + feeder.changed
        feeders.append(feeder)
    present = {feeder.feeder_id for feeder in feeders}
    for feeder_id, (revision, as_of) in published.pairs.items():
        if feeder_id not in present:
            lost_now = feeder_id in before
            empty = emptied(feeder_id, max(as_of, measured.as_of) if lost_now else as_of)
            empty.changed, empty.revision = lost_now, revision + lost_now
            feeders.append(empty)
    changed = any(feeder.changed for feeder in feeders)
    as_of = max(published.as_of, measured.as_of)
    known = PublishedTransformer(
        published.revision + changed, as_of, {f.feeder_id: (f.revision, f.as_of) for f in feeders}
    )
    if not changed:
        return None, known
    return _publication(transformer_id, measured, feeders, as_of, known.revision), known


def _publication(
    transformer_id: str, measured: Measured, feeders: list[FeederStatistics], as_of: int, revision: int
) -> TransformerStatistics:
    return TransformerStatistics(
        transformer_id, feeders, measured.meters_reported, measured.actual_meters_reported, as_of, revision
    )
