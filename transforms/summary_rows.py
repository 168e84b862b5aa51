"""Summary rows: the published form of a (transformer, feeder) pair's statistics."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from ami_beam.records import StatisticsBatch, SummaryRow
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow


@beam.typehints.with_output_types(SummaryRow)
class SummaryRows(beam.PTransform):
    """One row for every pair whose content a publication of the statistics changed, and none for the others."""

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]) -> beam.PCollection[SummaryRow]:
        return statistics | "Rows" >> beam.FlatMap(_rows, self._settings.window).with_output_types(SummaryRow)


def _rows(element: tuple[ShardWindow, StatisticsBatch], window: int) -> Iterator[SummaryRow]:
    batch = element[1]
    for transformer in batch.transformers:
        for feeder in transformer.feeders:
            if feeder.changed:
                yield SummaryRow(
                    transformer_id=transformer.transformer_id,
                    feeder_id=feeder.feeder_id,
                    window_start=batch.window_end - window,
                    window_end=batch.window_end,
                    total_consumption_kwh=feeder.total_consumption_kwh,
                    total_delivered_kwh=feeder.total_delivered_kwh,
                    total_received_kwh=feeder.total_received_kwh,
                    meters_reported=feeder.meters_reported,
                    avg_voltage_v=feeder.avg_voltage_v,
                    min_voltage_v=feeder.min_voltage_v,
                    max_voltage_v=feeder.max_voltage_v,
                    estimated_count=feeder.estimated_count,
                    voltage_rejected_count=feeder.voltage_rejected_count,
                    zero_voltage_count=feeder.zero_voltage_count,
                    as_of=feeder.as_of,
                    revision=feeder.revision,
                )
