"""Per-transformer statistics of every window: published when the window is due, and again when late reads change it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.codecs.read_block import PackedRead, ReadBlock, columns_of, pack, unpack
from ami_beam.coders import MsgspecCoder, carries
from ami_beam.meter_registry import CurrentRegistry, MeterRegistry
from ami_beam.records import FeederStatistics, StatisticsBatch, TransformerStatistics
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.decode_reads import METRICS
from transforms.statistics import Measured, by_transformer, emptied, measure, measure_columns, voltages_of
from transforms.window_expiry import expiry
from transforms.winners import Winners

DUE, LATE, EXPIRE = "due", "late", "expire"
"""Why a window's timer fires: its on-time result, late reads that were gathered, the end of its state."""
BLOCK_READS = 256
"""Smaller blocks have more head than reads."""
LATE_BLOCKS = 16
"""More of them in a window are merged: packing all late reads for every revision would cost more than revising."""


class PublishedTransformer(Struct, array_like=True, gc=False):
    """What was published of a transformer, where the reads that may still win do not say it: after a revision."""

    revision: int
    as_of: int
    pairs: dict[str, tuple[int, int]]
    """feeder_id: (revision, as_of)."""


class Revised(Struct, array_like=True, gc=False):
    """What came after a window's first publication: the late reads that may still win, and what was published."""

    blocks: list[ReadBlock]
    published: dict[str, PublishedTransformer]


class HeldReads(Struct, array_like=True, gc=False):
    """An element of a window's bag: blocks that have just come, or all that were part of its first publication."""

    blocks: list[ReadBlock]
    published: bool
    handed: list[str] = field(default_factory=list)
    """Transformers that `CorrectedStatistics` publishes since."""


class HandedReads(Struct, array_like=True, gc=False):
    """Of a window in which the registry was corrected: reads on their way to where their meters are by now."""

    window_end: int
    registry_version: str
    blocks: list[ReadBlock]
    """On transformers of the key's shard. The same read may come several times."""
    handed: list[str]
    """Transformers of the shard that are published by those who get this from now on."""
    published: list[TransformerStatistics]
    """What was published of them until now."""


carries(HandedReads)


class PublishedWindow(Struct, array_like=True, gc=False):
    """What is held of a published window: `base` stays as it is, later reads go to `revised`."""

    base: list[ReadBlock]
    revised: Revised | None

    def contenders(self) -> Iterator[PackedRead]:
        """Every read that may still win."""
        reads = Winners()
        for block in self.base:
            reads.add(unpack(block))
        for block in self.revised.blocks if self.revised is not None else ():
            reads.add(unpack(block))
        return reads.contenders()


HANDED = "handed"


class Statistics(NamedTuple):
    """What `WindowStatistics` gives."""

    published: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    handed: beam.PCollection[tuple[ShardWindow, HandedReads]] | None
    """For `CorrectedStatistics`; None without a registry."""


class WindowStatistics(beam.PTransform):
    """Publishes each transformer's statistics once when its window is due, and again only when their content changed.

    Takes blocks keyed by (shard, window_end), see `PackReads`. The first publication of a window comes when the
    watermark of record times passes window_end + collection delay. A block of later reads, see `GatherLateReads`,
    revises its transformers at once. The content does not depend on the order,
    batching or repetition of the reads.

    State per (shard, window): about 36 bytes a read from its arrival until no read of the window can come any more
    (`window_expiry`). An access to state costs about a millisecond whatever it carries, so that a window is read once
    for its first publication, and its reads are kept in the blocks in which they came. Late reads fetch the window and
    write back themselves only. The shard is a stable hash of transformer_id: all reads of a transformer meet in one
    place.

    With a registry it also takes blocks without reads (`RegistryCorrections`), which name transformers that a
    correction touches. Of these it publishes nothing any more in the window, and hands all their reads, also those that
    come later, to the shards of the transformers that the registry has them on by now.

    Counter: topology_changes, publications in which a transformer's window has reads of more than one feeder.
    """

    def __init__(self, settings: Settings, registry: CurrentRegistry | None = None):
        super().__init__()
        self._settings = settings
        self._registry = registry

    def expand(self, blocks: beam.PCollection[tuple[ShardWindow, ReadBlock]]) -> Statistics:
        label = f"Statistics {self._settings.state_label()}"
        statistics = beam.ParDo(_WindowStatisticsDoFn(self._settings, self._registry))
        if self._registry is None:
            published = blocks | label >> statistics.with_output_types(tuple[tuple[int, int], StatisticsBatch])
            return Statistics(published, None)
        both = blocks | label >> statistics.with_output_types(
            tuple[tuple[int, int], StatisticsBatch], handed=tuple[tuple[int, int], HandedReads]
        ).with_outputs(HANDED, main="published")
        return Statistics(both["published"], both[HANDED])


@beam.typehints.with_input_types(tuple[tuple[int, int], ReadBlock])
class _WindowStatisticsDoFn(beam.DoFn):
    READS = BagStateSpec("reads", MsgspecCoder(HeldReads))
    REVISED = ReadModifyWriteStateSpec("revised", MsgspecCoder(Revised))
    PUBLISH = TimerSpec("statistics_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings, registry: CurrentRegistry | None = None):
        self._settings = settings
        self._registry = registry
        self._topology_changes = Metrics.counter(METRICS, "topology_changes")
        self._revisions = Metrics.counter(METRICS, "statistics_revisions")

    def process(
        self,
        element: tuple[ShardWindow, ReadBlock],
        reads: Any = beam.DoFn.StateParam(READS),
        revised: Any = beam.DoFn.StateParam(REVISED),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> Iterator[Any]:
        key, block = element
        if block.moved:
            yield from self._hand_over(key, block, reads, revised)
            publish.set(Timestamp(micros=expiry(self._settings, block.window_end)), dynamic_timer_tag=EXPIRE)
            return
        due_at = block.window_end + self._settings.collection_delay
        late = block.first_record_time >= due_at
        if late:
            base, _, handed = _divided(reads)
            if base:
                own, gone = _parted([block], handed)
                if gone:
                    # Kept, too: they may have to go elsewhere by the next correction.
                    reads.add(HeldReads(gone, published=True))
                    yield from self._handed(key, gone, handed)
                if own:
                    yield from self._published(key, _revise(base, own, revised, self._settings.window))
                return
        reads.add(HeldReads([block], published=False))
        # Late reads of a window that was never published, or whose first publication is on its way. By the first of
        # them, and each with a timer of its own: of a backlog reads come hours before their time, and what came after
        # a silence would be put off by later ones until its receipt has been judged without it.
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
        # Whatever the timer: at the end of a bounded source all are due at once, in an order that the runner chooses.
        base, fresh, handed = _divided(reads)
        if fresh:
            window_end = key[1]
            own, gone = _parted(fresh, handed)
            changed = StatisticsBatch(window_end, [])
            if not base:
                publish.set(Timestamp(micros=expiry(self._settings, window_end)), dynamic_timer_tag=EXPIRE)
            if base and own:
                changed = _revise(base, own, revised, self._settings.window)
            elif own:
                base, changed = first_publication(window_end, own, self._settings.window)
            reads.clear()
            reads.add(HeldReads([*base, *gone], published=True, handed=sorted(handed)))
            yield from self._published(key, changed)
            yield from self._handed(key, gone, handed)
        if tag == EXPIRE:
            reads.clear()
            revised.clear()

    def _published(self, key: ShardWindow, changed: StatisticsBatch) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        transformers = changed.transformers
        if transformers:
            self._topology_changes.inc(sum(sum(f.meters_reported > 0 for f in t.feeders) > 1 for t in transformers))
            self._revisions.inc(sum(transformer.revision > 0 for transformer in transformers))
            yield key, changed

    def _hand_over(self, key: ShardWindow, correction: ReadBlock, reads: Any, revised: Any) -> Iterator[TaggedOutput]:
        """Stop publishing these transformers, and say what was published of them and which reads there are."""
        base, fresh, handed = _divided(reads)
        later: Revised | None = revised.read()
        blocks = [*base, *(later.blocks if later is not None else [])]
        new = sorted(set(correction.moved) - handed)
        if new:
            reads.add(HeldReads([], published=True, handed=new))
        published = []
        if blocks:
            winners = Winners()
            winners.add(columns_of(blocks).of(new))
            for name, own in by_transformer(winners.winners()).items():
                measured = measure(own, self._settings.window)
                published.append(_as_published(name, measured, later.published.get(name) if later else None))
        version = correction.registry_version
        found = HandedReads(correction.window_end, version, [], new, published)
        yield TaggedOutput(HANDED, (key, found))
        yield from self._handed(key, [*blocks, *fresh], correction.moved, version)

    def _handed(
        self, key: ShardWindow, blocks: list[ReadBlock], transformers: Collection[str], version: str = ""
    ) -> Iterator[TaggedOutput]:
        """Their reads, on the transformers that the registry has them on by now."""
        if not blocks:
            return
        assert self._registry is not None
        there = columns_of(blocks).of(transformers)
        by_shard: dict[int, list[PackedRead]] = {}
        for read in placed(there, self._registry.current(version)):
            by_shard.setdefault(shard_of(read.transformer_id, self._settings.shards), []).append(read)
        for shard, own in by_shard.items():
            found = HandedReads(key[1], version, [pack(key[1], own)], [], [])
            yield TaggedOutput(HANDED, ((shard, key[1]), found))


def _divided(reads: Any) -> tuple[list[ReadBlock], list[ReadBlock], set[str]]:
    """The blocks of a window that were part of its first publication, those that have come since, and the transformers
    that others publish."""
    held: list[HeldReads] = list(reads.read())
    base = [block for each in held if each.published for block in each.blocks]
    handed = {name for each in held for name in each.handed}
    return base, [block for each in held if not each.published for block in each.blocks], handed


def _parted(blocks: list[ReadBlock], handed: Collection[str]) -> tuple[list[ReadBlock], list[ReadBlock]]:
    """The reads of other transformers, and those of the ones that are handed over."""
    if not handed or not any(name in handed for block in blocks for name in block.names):
        return blocks, []
    own: list[ReadBlock] = []
    gone: list[ReadBlock] = []
    for block in blocks:
        columns = columns_of([block])
        wanted = np.array([name in handed for name in columns.names], np.bool_)[columns.transformer]
        for which, parts in ((~wanted, own), (wanted, gone)):
            if which.any():
                parts.append(columns.take(np.flatnonzero(which)).block(block.window_end))
    return own, gone


def placed(reads: list[PackedRead], registry: MeterRegistry) -> list[PackedRead]:
    """The reads where the registry has their meters; others as they are."""
    ends = np.array([read.interval_end for read in reads], np.int64)
    rows, registered = registry.at([read.meter_id for read in reads], ends)
    places = registry.place[rows].tolist()
    return [
        read._replace(transformer_id=registry.transformers[place], feeder_id=registry.feeders[place]) if known else read
        for read, place, known in zip(reads, places, registered.tolist(), strict=True)
    ]


def _as_published(name: str, measured: Measured, published: PublishedTransformer | None) -> TransformerStatistics:
    """The last publication of a transformer, by the reads that were winners then."""
    if published is None:
        return _publication(name, measured, measured.feeders, measured.as_of, 0)
    feeders = measured.feeders
    for feeder in feeders:
        feeder.revision, feeder.as_of = published.pairs.get(feeder.feeder_id, (0, feeder.as_of))
    present = {feeder.feeder_id for feeder in feeders}
    for feeder_id, (revision, as_of) in published.pairs.items():
        if feeder_id not in present:
            gone = emptied(feeder_id, as_of)
            gone.revision = revision
            feeders.append(gone)
    return _publication(name, measured, feeders, published.as_of, published.revision)


def _revise(base: list[ReadBlock], fresh: Sequence[ReadBlock], revised: Any, window: int) -> StatisticsBatch:
    """Merge reads into a window that was published; the statistics that have changed."""
    after, changed = revise(fresh[0].window_end, PublishedWindow(base, revised.read()), fresh, window)
    revised.write(after)
    return changed


def first_publication(window_end: int, fresh: list[ReadBlock], window: int) -> tuple[list[ReadBlock], StatisticsBatch]:
    """The blocks to keep, and the statistics of every transformer.

    The blocks are merged where they are small or name most transformers again: the window is kept for more than a day.
    """
    columns = columns_of(fresh)
    measured = measure_columns(columns, window)
    changed = StatisticsBatch(
        window_end,
        [_publication(name, each, each.feeders, each.as_of, 0) for name, each in measured.items()],
        voltages_of(list(measured.values())),
    )
    repeated = sum(len(block.names) for block in fresh) - len(columns.names)
    merge = len(fresh) > 1 and (len(columns) < BLOCK_READS * len(fresh) or repeated * 3 > len(columns))
    return [columns.block(window_end)] if merge else fresh, changed


def revise(
    window_end: int, before: PublishedWindow, fresh: Sequence[ReadBlock], window: int
) -> tuple[Revised, StatisticsBatch]:
    """Merge reads that came after the first publication: what to remember, and the statistics that have changed."""
    late = columns_of(fresh)
    touched = {late.names[number] for number in np.unique(late.transformer).tolist()}
    earlier, published = [], {}
    if before.revised is not None:
        earlier, published = before.revised.blocks, dict(before.revised.published)
    old = Winners()
    if before.base or earlier:
        old.add(columns_of([*before.base, *earlier], touched).reads())
    new = Winners()
    new.merge(old)
    new.add(late.reads())
    old_reads, new_reads = by_transformer(old.winners()), by_transformer(new.winners())
    changed, sources = [], []
    for transformer_id in sorted(touched):
        measured = measure(new_reads[transformer_id], window)
        before_it = None
        if transformer_id in old_reads:
            was = measure(old_reads[transformer_id], window)
            before_it = _as_published(transformer_id, was, published.get(transformer_id))
        own_as_of = {feeder.feeder_id: feeder.as_of for feeder in measured.feeders}
        statistics = next_publication(transformer_id, measured, before_it)
        if statistics is not None:
            changed.append(statistics)
            sources.append(measured)
            if before_it is not None:
                published[transformer_id] = _remembered(statistics)
        elif before_it is not None and _is_behind(measured.as_of, own_as_of, before_it):
            # The same content by an older read: by the winners nobody could tell any more what was published.
            published[transformer_id] = _remembered(before_it)
    blocks = [*earlier, *fresh]
    if len(blocks) > LATE_BLOCKS:
        # Contenders against later reads, not against the base: a read of the base that loses to them does no harm.
        later = Winners()
        later.add(columns_of(blocks).reads())
        blocks = [pack(window_end, later.contenders())]
    return Revised(blocks, published), StatisticsBatch(window_end, changed, voltages_of(sources))


def _remembered(statistics: TransformerStatistics) -> PublishedTransformer:
    pairs = {feeder.feeder_id: (feeder.revision, feeder.as_of) for feeder in statistics.feeders}
    return PublishedTransformer(statistics.revision, statistics.as_of, pairs)


def _is_behind(as_of: int, of_feeders: Mapping[str, int], published: TransformerStatistics) -> bool:
    """Whether an as_of of the winners is older than what was published."""
    return as_of < published.as_of or any(
        of_feeders.get(feeder.feeder_id, feeder.as_of) < feeder.as_of for feeder in published.feeders
    )


def next_publication(
    name: str, measured: Measured, before: TransformerStatistics | None
) -> TransformerStatistics | None:
    """The publication that follows `before`, the first without one; None where its content is as it was.

    as_of never goes back, although a read with an older record time may replace the winner: a consumer keeps the row
    with the greatest as_of, and would keep the replaced one for ever. Pairs without a read any more stay, empty.
    """
    if before is None:
        return _publication(name, measured, measured.feeders, measured.as_of, 0)
    was = {feeder.feeder_id: feeder for feeder in before.feeders}
    feeders: list[FeederStatistics] = []
    for feeder in measured.feeders:
        old = was.pop(feeder.feeder_id, None)
        if old is not None:
            feeder.as_of = max(feeder.as_of, old.as_of)
            feeder.changed = feeder != replace(old, revision=feeder.revision, changed=feeder.changed)
            feeder.revision = old.revision + feeder.changed
        feeders.append(feeder)
    for old in was.values():
        lost_now = old.meters_reported > 0
        empty = emptied(old.feeder_id, max(old.as_of, measured.as_of) if lost_now else old.as_of)
        empty.changed, empty.revision = lost_now, old.revision + lost_now
        feeders.append(empty)
    if not any(feeder.changed for feeder in feeders):
        return None
    return _publication(name, measured, feeders, max(before.as_of, measured.as_of), before.revision + 1)


def _publication(
    transformer_id: str, measured: Measured, feeders: list[FeederStatistics], as_of: int, revision: int
) -> TransformerStatistics:
    return TransformerStatistics(
        transformer_id, feeders, measured.meters_reported, measured.actual_meters_reported, as_of, revision
    )
