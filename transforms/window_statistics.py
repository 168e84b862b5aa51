"""Per-transformer statistics of every window: published when the window is due, and again when late reads change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.read_block import PackedRead, ReadBlock, pack, unpack
from ami_beam.coders import MsgspecCoder
from ami_beam.records import FeederStatistics, StatisticsBatch, TransformerStatistics
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS
from transforms.statistics import Measured, emptied, measure
from transforms.window_expiry import expiry
from transforms.winners import Winners

DUE, LATE, EXPIRE = "due", "late", "expire"
"""Why a window's timer fires: its on-time result, late reads that were gathered, the end of its state."""
BUCKETS = 8
"""Parts of a shard's window in state. A late read fetches, recomputes and writes back one of them."""


class PublishedTransformer(Struct, array_like=True, gc=False):
    """What was published of a transformer, where the reads that may still win do not say it: after a revision."""

    revision: int
    as_of: int
    pairs: dict[str, tuple[int, int]]
    """feeder_id: (revision, as_of)."""


class Bucket(Struct, array_like=True, gc=False):
    """The state of one bucket: reads that may still win, and the publications that cannot be derived from them."""

    block: ReadBlock
    published: dict[str, PublishedTransformer]


@beam.typehints.with_input_types(tuple[tuple[int, int], ReadBlock])
@beam.typehints.with_output_types(tuple[tuple[int, int], StatisticsBatch])
class WindowStatistics(beam.PTransform):
    """Publishes each transformer's statistics once when its window is due, and again only when their content changed.

    Takes blocks keyed by (shard, window_end), see `PackReads`. The first publication of a window comes when the
    watermark of record times passes window_end + collection delay. Reads that come later are gathered for
    `late_gather` of record time, then their transformers are revised. The content does not depend on the order,
    batching or repetition of the reads.

    State per (shard, window): about 30 bytes a read from its arrival until no read of the window can come any more
    (`window_expiry`), in `BUCKETS` parts so that a late read recomputes an eighth of a shard's window. The shard is a
    stable hash of transformer_id: all reads of a transformer meet in one place.

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
    BUCKET = tuple(ReadModifyWriteStateSpec(f"bucket{number}", BytesCoder()) for number in range(BUCKETS))
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
    ) -> None:
        block = element[1]
        arrived.add(block)
        due_at = block.window_end + self._settings.collection_delay
        if block.first_record_time < due_at:
            publish.set(Timestamp(micros=due_at), dynamic_timer_tag=DUE)
        if block.last_record_time >= due_at:
            # In record time, like the watermark: a replay gathers the same reads as the live run did, whatever its
            # speed, and the end of a bounded source releases what is still waiting.
            gather = self._settings.late_gather
            release = (block.last_record_time // gather + 1) * gather
            publish.set(Timestamp(micros=release), dynamic_timer_tag=LATE)
        publish.set(Timestamp(micros=expiry(self._settings, block.window_end)), dynamic_timer_tag=EXPIRE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        arrived: Any = beam.DoFn.StateParam(ARRIVED),
        bucket0: Any = beam.DoFn.StateParam(BUCKET[0]),
        bucket1: Any = beam.DoFn.StateParam(BUCKET[1]),
        bucket2: Any = beam.DoFn.StateParam(BUCKET[2]),
        bucket3: Any = beam.DoFn.StateParam(BUCKET[3]),
        bucket4: Any = beam.DoFn.StateParam(BUCKET[4]),
        bucket5: Any = beam.DoFn.StateParam(BUCKET[5]),
        bucket6: Any = beam.DoFn.StateParam(BUCKET[6]),
        bucket7: Any = beam.DoFn.StateParam(BUCKET[7]),
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        buckets = (bucket0, bucket1, bucket2, bucket3, bucket4, bucket5, bucket6, bucket7)
        # Whatever the timer: at the end of a bounded source all are due at once, in an order that the runner chooses.
        yield from self._publish(key, arrived, buckets)
        if tag == EXPIRE:
            for bucket in buckets:
                bucket.clear()

    def _publish(
        self, key: ShardWindow, arrived: Any, buckets: tuple[Any, ...]
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        by_bucket: dict[int, list[PackedRead]] = {}
        window_end = key[1]
        for block in arrived.read():
            for read in unpack(block):
                by_bucket.setdefault(bucket_of(read.transformer_id, self._settings.shards), []).append(read)
        if not by_bucket:
            return
        arrived.clear()
        changed: list[TransformerStatistics] = []
        for number, reads in by_bucket.items():
            held = buckets[number].read()
            before = _decode_bucket(held) if held else None
            after, revised = revise(window_end, before, reads)
            buckets[number].write(_encode_bucket(after))
            changed += revised
        if changed:
            self._topology_changes.inc(sum(sum(f.meters_reported > 0 for f in t.feeders) > 1 for t in changed))
            self._revisions.inc(sum(transformer.revision > 0 for transformer in changed))
            yield key, StatisticsBatch(window_end, changed)


_encode_bucket = msgspec.msgpack.Encoder().encode
_decode_bucket = msgspec.msgpack.Decoder(Bucket).decode


def bucket_of(transformer_id: str, shards: int) -> int:
    """The bucket of a transformer: other bits of the hash that chose its shard, so that buckets fill evenly."""
    return crc32(transformer_id.encode()) // shards % BUCKETS


def revise(
    window_end: int, before: Bucket | None, reads: list[PackedRead]
) -> tuple[Bucket, list[TransformerStatistics]]:
    """Merge `reads` into a bucket: the new bucket, and those transformers whose statistics are new or changed."""
    touched = {read.transformer_id for read in reads}
    contenders = list(unpack(before.block)) if before else []
    published = dict(before.published) if before else {}
    old = Winners()
    old.add(read for read in contenders if read.transformer_id in touched)
    new = Winners()
    new.add(contenders)
    new.add(reads)
    old_reads, new_reads = _by_transformer(old.winners()), _by_transformer(new.winners(), touched)
    changed = []
    for transformer_id in sorted(touched):
        measured = measure(new_reads[transformer_id])
        was = measure(old_reads[transformer_id]) if transformer_id in old_reads else None
        statistics, known = _statistics(transformer_id, measured, was, published.get(transformer_id))
        if statistics is not None:
            changed.append(statistics)
        if known is not None:
            published[transformer_id] = known
    return Bucket(pack(window_end, new.contenders()), published), changed


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


def _by_transformer(reads: Iterable[PackedRead], wanted: set[str] | None = None) -> dict[str, list[PackedRead]]:
    grouped: dict[str, list[PackedRead]] = {}
    for read in reads:
        if wanted is None or read.transformer_id in wanted:
            grouped.setdefault(read.transformer_id, []).append(read)
    return grouped
