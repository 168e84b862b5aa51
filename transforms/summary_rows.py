"""Summary rows: the published form of a (transformer, feeder) pair's statistics."""

from __future__ import annotations

import apache_beam as beam

from ami_beam.records import StatisticsBatch, SummaryBatch, SummaryRow
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow


@beam.typehints.with_output_types(SummaryBatch)
class SummaryRows(beam.PTransform):
    """One row for every pair whose content a publication of the statistics changed, and none for the others."""

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    ) -> beam.PCollection[SummaryBatch]:
        return statistics | "Rows" >> beam.Map(_rows, self._settings.window).with_output_types(SummaryBatch)


def _rows(element: tuple[ShardWindow, StatisticsBatch], window: int) -> SummaryBatch:
    _, batch = element
    end = batch.window_end
    return SummaryBatch(
        [
            SummaryRow(
                transformer.transformer_id,
                feeder.feeder_id,
                end - window,
                end,
                feeder.total_consumption_kwh,
                feeder.total_delivered_kwh,
                feeder.total_received_kwh,
                feeder.meters_reported,
                feeder.avg_voltage_v,
                feeder.min_voltage_v,
                feeder.max_voltage_v,
                feeder.estimated_count,
                feeder.voltage_rejected_count,
                feeder.zero_voltage_count,
                feeder.as_of,
                feeder.revision,
                feeder.sag_count,
                feeder.swell_count,
                feeder.voltage_count,
                feeder.apportioned_count,
                feeder.completeness_pct,
            )
            for transformer in batch.transformers
            for feeder in transformer.feeders
            if feeder.changed
        ]
    )
