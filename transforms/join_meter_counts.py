"""Joins statistics and due windows with the meter counts, a side input that is reloaded while the job runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.meter_counts import MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.records import CountedStatistics, DueWindow, ReceiptDue, StatisticsBatch
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS


class JoinMeterCounts(beam.PTransform):
    """Each transformer's statistics get the row of the meter counts that is valid at the window's end, or None.

    Args:
      counts: versions of the meter counts, a side input or its stand-in; the newest is used.

    Counter: unregistered_transformers, publications of transformers that are missing from the meter counts.
    """

    def __init__(self, counts: MeterCountsSource):
        super().__init__()
        self._counts = counts

    def expand(
        self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    ) -> beam.PCollection[tuple[ShardWindow, CountedStatistics]]:
        return statistics | "Lookup" >> beam.ParDo(_JoinDoFn(), view(self._counts)).with_output_types(
            tuple[tuple[int, int], CountedStatistics]
        )


class _JoinDoFn(beam.DoFn):
    def __init__(self) -> None:
        self._unregistered = Metrics.counter(METRICS, "unregistered_transformers")

    def process(
        self, element: tuple[ShardWindow, StatisticsBatch], versions: Iterable[MeterCountsVersion]
    ) -> Iterator[tuple[ShardWindow, CountedStatistics]]:
        key, batch = element
        counts = counts_of(newest(versions))
        rows = [counts.at(transformer.transformer_id, batch.window_end) for transformer in batch.transformers]
        self._unregistered.inc(rows.count(None))
        yield key, CountedStatistics(batch.window_end, batch.transformers, rows)


class ExpandDueWindows(beam.PTransform):
    """Each due window becomes one element a shard with the transformers that have this receipt delay.

    Also those of which nothing was heard: a silent transformer is what the receipt rate is for. A shard without
    transformers of that delay gives nothing.

    Args:
      settings: shards, and the receipt delay of transformers without their own.
      counts: versions of the meter counts, a side input or its stand-in; the newest is used.
    """

    def __init__(self, settings: Settings, counts: MeterCountsSource):
        super().__init__()
        self._settings = settings
        self._counts = counts

    def expand(self, due: beam.PCollection[DueWindow]) -> beam.PCollection[tuple[ShardWindow, ReceiptDue]]:
        return due | "PerShard" >> beam.FlatMap(_expand_due, self._settings, view(self._counts)).with_output_types(
            tuple[tuple[int, int], ReceiptDue]
        )


def _expand_due(
    due: DueWindow, settings: Settings, versions: Iterable[MeterCountsVersion]
) -> Iterator[tuple[ShardWindow, ReceiptDue]]:
    counts = counts_of(newest(versions))
    for shard in range(settings.shards):
        rows = [
            row
            for row in counts.in_shard(shard, settings.shards, due.window_end)
            if (settings.receipt_delay if row.receipt_delay is None else row.receipt_delay) == due.receipt_delay
        ]
        if rows:
            yield (shard, due.window_end), ReceiptDue(due.window_end, due.receipt_delay, rows)
