"""Statistics of transformers that a correction of the meter registry touches, in the windows that it touches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.codecs.read_block import ReadBlock, columns_of, pack
from ami_beam.coders import MsgspecCoder
from ami_beam.meter_registry import CurrentRegistry, MeterRegistry
from ami_beam.records import StatisticsBatch, TransformerStatistics
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS
from transforms.gathering import AFTER
from transforms.statistics import Measured, Readings, by_transformer, measure, voltages_of
from transforms.window_expiry import expiry
from transforms.window_statistics import LATE_BLOCKS, HandedReads, next_publication, placed
from transforms.winners import Winners

EXPIRE = "expire"


class CorrectedWindow(Struct, array_like=True, gc=False):
    """What is known of the handed transformers of a shard in a window."""

    registry_version: str = ""
    blocks: list[ReadBlock] = field(default_factory=list)
    """All reads that have come for them; which of them are there by now the registry says."""
    handed: list[str] = field(default_factory=list)
    published: list[TransformerStatistics] = field(default_factory=list)
    """As it was last, by whomever."""


@beam.typehints.with_input_types(tuple[tuple[int, int], HandedReads])
@beam.typehints.with_output_types(tuple[tuple[int, int], StatisticsBatch])
class CorrectedStatistics(beam.PTransform):
    """Each handed transformer's statistics by the reads that the registry has on it, published when they differ.

    Takes what `WindowStatistics` hands over. Revisions go on from those that were published before. The content is what
    the same reads would have given if the registry had been right from the beginning. A transformer that has lost its
    last read is published once more, with nothing.

    State per (shard, window): the reads of handed transformers, as long as those of `WindowStatistics`.

    Args:
      settings: windows and delays.
      registry: where the newest good registry is.
    """

    def __init__(self, settings: Settings, registry: CurrentRegistry):
        super().__init__()
        self._settings = settings
        self._registry = registry

    def expand(
        self, handed: beam.PCollection[tuple[ShardWindow, HandedReads]]
    ) -> beam.PCollection[tuple[ShardWindow, StatisticsBatch]]:
        label = f"Corrected {self._settings.state_label()}"
        return handed | label >> beam.ParDo(_CorrectedDoFn(self._settings, self._registry))


class _CorrectedDoFn(beam.DoFn):
    WINDOW = ReadModifyWriteStateSpec("corrected_window", MsgspecCoder(CorrectedWindow))
    PUBLISH = TimerSpec("corrected_publish", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings, registry: CurrentRegistry):
        self._settings = settings
        self._registry = registry
        self._revisions = Metrics.counter(METRICS, "statistics_revisions")

    def process(
        self,
        element: tuple[ShardWindow, HandedReads],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.StateParam(WINDOW),
        publish: Any = beam.DoFn.TimerParam(PUBLISH),
    ) -> None:
        came = element[1]
        known = window.read() or CorrectedWindow()
        blocks = [*known.blocks, *came.blocks]
        if len(blocks) > LATE_BLOCKS:
            contenders = Winners()
            contenders.add(columns_of(blocks).reads())
            blocks = [pack(came.window_end, contenders.contenders())]
        window.write(
            CorrectedWindow(
                came.registry_version or known.registry_version,
                blocks,
                sorted({*known.handed, *came.handed}),
                [*known.published, *came.published],
            )
        )
        # After what comes at the same instant: the reads of all shards, and the on-time result of the others.
        due_at = came.window_end + self._settings.collection_delay
        at = max(due_at, timestamp.micros) + AFTER
        publish.set(Timestamp(micros=at), dynamic_timer_tag=str(at))
        publish.set(Timestamp(micros=expiry(self._settings, came.window_end)), dynamic_timer_tag=EXPIRE)

    @on_timer(PUBLISH)
    def on_publish(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        window: Any = beam.DoFn.StateParam(WINDOW),
    ) -> Iterator[tuple[ShardWindow, StatisticsBatch]]:
        known = window.read()
        if known is None:
            return
        registry = self._registry.current(known.registry_version)
        changed = publications(known, key[1], registry, self._settings)
        if tag == EXPIRE:
            window.clear()
        elif changed.transformers:
            window.write(known)
        if changed.transformers:
            self._revisions.inc(sum(transformer.revision > 0 for transformer in changed.transformers))
            yield key, changed


def publications(
    known: CorrectedWindow, window_end: int, registry: MeterRegistry, settings: Settings
) -> StatisticsBatch:
    """What is to be published of the handed transformers now; it is noted in `known` as published."""
    winners = Winners()
    if known.blocks:
        reads = columns_of(known.blocks).reads()
        # What has gone elsewhere since it came does not count here.
        there = (read for read, now in zip(reads, placed(reads, registry), strict=True) if read == now)
        winners.add(there)
    counting = by_transformer(winners.winners())
    published = {each.transformer_id: each for each in known.published}
    changed, sources = [], []
    for name in known.handed:
        own, before = counting.get(name), published.get(name)
        if own is None and before is None:
            continue
        measured = _nothing() if own is None else measure(own, settings.window)
        statistics = next_publication(name, measured, before)
        if statistics is not None:
            published[name] = statistics
            changed.append(statistics)
            sources.append(measured)
    known.published = [published[name] for name in sorted(published)]
    return StatisticsBatch(window_end, changed, voltages_of(sources))


def _nothing() -> Measured:
    return Measured([], 0, 0, 0, Readings([], np.array([], np.float64), np.array([], np.uint8), 0, 0))
