"""Where meters and transformers stand in the grid, learned from reads: for events, which name a meter only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import apache_beam as beam

from ami_beam.records import (
    MeterCount,
    MeterPlaces,
    Observation,
    StatisticsBatch,
    TransformerPlace,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of

EVERY_WINDOWS = 24
"""In so many windows every place of a large network is said once: they hardly change, and saying them costs."""
SMALL = 2_000
"""Meters of a shard's window that are said in every window."""


def names_places(batch: StatisticsBatch, settings: Settings) -> bool:
    """Whether places are learned from this window."""
    meters = len(batch.voltages.meters) if batch.voltages is not None else 0
    return not settings.live or meters <= SMALL or batch.window_end % (EVERY_WINDOWS * settings.window) == 0


def transformer_places(
    batch: StatisticsBatch,
    observations: Sequence[Observation],
    counts: Sequence[MeterCount | None],
    settings: Settings,
) -> list[TransformerPlace]:
    """The feeder of each transformer and how many meters it has; `batch` and the others belong together."""
    return [
        TransformerPlace(
            statistics.transformer_id,
            seen.feeder_id,
            statistics.meters_reported if count is None else count.total_meters,
            _delay(count, settings),
            batch.window_end,
        )
        for statistics, seen, count in zip(batch.transformers, observations, counts, strict=True)
    ]


def _delay(count: MeterCount | None, settings: Settings) -> int | None:
    if count is None:
        return None
    return settings.receipt_delay if count.receipt_delay is None else count.receipt_delay


class MeterPlacesOf(beam.PTransform):
    """On which transformers meters hang, keyed by a stable shard of the meter.

    Of a small network from every window, of a large one from one window in 24 (`EVERY_WINDOWS`): six hours after a
    start the places of all meters that send reads are known.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    ) -> beam.PCollection[tuple[int, MeterPlaces]]:
        return statistics | "Places" >> beam.FlatMap(_places, self._settings).with_output_types(tuple[int, MeterPlaces])


def _places(element: tuple[ShardWindow, StatisticsBatch], settings: Settings) -> Iterator[tuple[int, MeterPlaces]]:
    batch = element[1]
    if batch.voltages is None or not names_places(batch, settings):
        return
    found: dict[int, MeterPlaces] = {}
    meters = batch.voltages.meters
    for transformer, (begin, end) in zip(batch.transformers, pairwise([0, *batch.voltages.ends]), strict=True):
        for meter_id in meters[begin:end]:
            places = found.setdefault(shard_of(meter_id, settings.shards), MeterPlaces(batch.window_end, [], []))
            places.meters.append(meter_id)
            places.transformers.append(transformer.transformer_id)
    yield from found.items()
