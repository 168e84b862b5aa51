"""Joins statistics and due windows with the meter counts, a side input that is reloaded while the job runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.meter_counts import MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.records import (
    DueWindow,
    JudgeInput,
    MeterCount,
    Observation,
    ReceiptDue,
    StatisticsBatch,
    TransformerStatistics,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS


class JoinMeterCounts(beam.PTransform):
    """Each publication of a transformer's statistics becomes what it is judged by, with what its meter count says.

    The row that is valid at the window's end is used, if there is one. Gives one element for one.

    Args:
      settings: the nominal voltage of transformers without their own.
      counts: versions of the meter counts, a side input or its stand-in; the newest is used.

    Counter: unregistered_transformers, publications of transformers that are missing from the meter counts.
    """

    def __init__(self, settings: Settings, counts: MeterCountsSource):
        super().__init__()
        self._settings = settings
        self._counts = counts

    def expand(
        self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    ) -> beam.PCollection[tuple[ShardWindow, JudgeInput]]:
        join = _JoinDoFn(self._settings.nominal_voltage)
        return statistics | "Lookup" >> beam.ParDo(join, view(self._counts)).with_output_types(
            tuple[tuple[int, int], JudgeInput]
        )


class _JoinDoFn(beam.DoFn):
    def __init__(self, nominal_voltage: float) -> None:
        self._nominal = nominal_voltage
        self._unregistered = Metrics.counter(METRICS, "unregistered_transformers")

    def process(
        self, element: tuple[ShardWindow, StatisticsBatch], versions: Iterable[MeterCountsVersion]
    ) -> Iterator[tuple[ShardWindow, JudgeInput]]:
        key, batch = element
        counts = counts_of(newest(versions))
        window_end = batch.window_end
        rows = [counts.at(transformer.transformer_id, window_end) for transformer in batch.transformers]
        self._unregistered.inc(rows.count(None))
        observations = [
            observation(transformer, count, self._nominal)
            for transformer, count in zip(batch.transformers, rows, strict=True)
        ]
        yield key, JudgeInput(observations, None)


def observation(statistics: TransformerStatistics, count: MeterCount | None, nominal_voltage: float) -> Observation:
    """What `statistics` say of the transformer as a whole. `nominal_voltage`: where the count has none, in volts."""
    feeders = statistics.feeders
    first = feeders[0]
    if len(feeders) == 1:
        feeder_id = first.feeder_id
        measured = feeders if first.min_voltage_v is not None else []
    else:
        present = [feeder for feeder in feeders if feeder.meters_reported]
        feeder_id = min(present, key=lambda feeder: (-feeder.meters_reported, feeder.feeder_id)).feeder_id
        measured = [feeder for feeder in feeders if feeder.min_voltage_v is not None]
    lowest = highest = None
    for feeder in measured:
        least, greatest = (feeder.min_voltage_v, feeder.feeder_id), (feeder.max_voltage_v, feeder.feeder_id)
        lowest = least if lowest is None else min(lowest, least)
        highest = greatest if highest is None else max(highest, greatest)
    if count is not None and count.nominal_voltage_v is not None:
        nominal_voltage = count.nominal_voltage_v
    return Observation(
        statistics.transformer_id,
        feeder_id,
        statistics.meters_reported,
        statistics.actual_meters_reported,
        lowest,  # type: ignore[arg-type]
        highest,  # type: ignore[arg-type]
        statistics.as_of,
        statistics.revision,
        nominal_voltage,
        count if count is not None and count.effective_from is not None else None,
    )


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
