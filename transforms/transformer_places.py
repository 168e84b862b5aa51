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
    TransformerStatistics,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of

EVERY_WINDOWS = 24
"""In so many windows every place of a large network is said once: they hardly change, and saying them costs."""
SMALL = 2_000
"""Meters of a shard's window that are said in every window."""
FIRST_WINDOWS = 2
"""Of each shard, since a worker's start: the first has perhaps begun before it, and is not whole."""
TURNS = 3
"""Over so many windows the shards say their meters, each in one of them: alerts wait while places are said."""


class PlacesToSay:
    """In which windows places are said. Saying them again does no harm, so that a worker need not know of another's."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._first: dict[int, list[int]] = {}

    def names(self, shard: int, batch: StatisticsBatch) -> bool:
        """Whether the places of transformers are learned from this window."""
        if self._is_small(batch):
            return True
        return batch.window_end in self._seen(shard, batch)[:FIRST_WINDOWS] or self._number(batch) % EVERY_WINDOWS == 0

    def names_meters(self, shard: int, batch: StatisticsBatch) -> bool:
        """Likewise for the places of meters, which are ten times as many: one shard after the other."""
        if self._is_small(batch):
            return True
        turn = 1 + shard % TURNS  # not the first, which is perhaps not whole
        if batch.window_end in self._seen(shard, batch)[turn : turn + 1]:
            return True
        return (self._number(batch) - shard) % EVERY_WINDOWS == 0

    def _is_small(self, batch: StatisticsBatch) -> bool:
        meters = len(batch.voltages.meters) if batch.voltages is not None else 0
        return not self._settings.live or meters <= SMALL

    def _seen(self, shard: int, batch: StatisticsBatch) -> list[int]:
        """The ends of the shard's first windows since the start, in the order in which they came, up to this one."""
        seen = self._first.setdefault(shard, [])
        if batch.window_end not in seen and len(seen) < 1 + TURNS:
            seen.append(batch.window_end)
        return seen

    def _number(self, batch: StatisticsBatch) -> int:
        return batch.window_end // self._settings.window


def transformer_places(
    batch: StatisticsBatch,
    observations: Sequence[Observation],
    counts: Sequence[MeterCount | None],
    settings: Settings,
) -> list[TransformerPlace]:
    """Each transformer's feeder and collector, and how many meters it has; `batch` and the others belong together."""
    return [
        TransformerPlace(
            statistics.transformer_id,
            seen.feeder_id,
            statistics.meters_reported if count is None else count.total_meters,
            _delay(count, settings),
            batch.window_end,
            None if count is None else count.collection_group,
        )
        for statistics, seen, count in zip(batch.transformers, observations, counts, strict=True)
    ]


def _delay(count: MeterCount | None, settings: Settings) -> int | None:
    return None if count is None else settings.receipt_delay_of(count.receipt_delay)


def main_feeder(statistics: TransformerStatistics) -> str:
    """The feeder of most of its meters, the first by name among equals."""
    feeders = statistics.feeders
    if len(feeders) == 1:
        return feeders[0].feeder_id
    return min(feeders, key=lambda feeder: (-feeder.meters_reported, feeder.feeder_id)).feeder_id


class MeterPlacesOf(beam.PTransform):
    """On which transformers meters hang, keyed by a stable shard of the meter.

    Of a small network from every window, of a large one within the first four after a worker's start, and from one
    window in 24 (`EVERY_WINDOWS`).
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    ) -> beam.PCollection[tuple[int, MeterPlaces]]:
        return statistics | "Places" >> beam.ParDo(_PlacesDoFn(self._settings))


@beam.typehints.with_input_types(tuple[tuple[int, int], StatisticsBatch])
@beam.typehints.with_output_types(tuple[int, MeterPlaces])
class _PlacesDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._settings = settings

    def setup(self) -> None:
        self._to_say = PlacesToSay(self._settings)

    def process(self, element: tuple[ShardWindow, StatisticsBatch]) -> Iterator[tuple[int, MeterPlaces]]:
        (shard, _), batch = element
        if batch.voltages is None or not self._to_say.names_meters(shard, batch):
            return
        found: dict[int, MeterPlaces] = {}
        shards = self._settings.shards
        meters = batch.voltages.meters
        for transformer, (begin, end) in zip(batch.transformers, pairwise([0, *batch.voltages.ends]), strict=True):
            transformer_id, feeder_id = transformer.transformer_id, main_feeder(transformer)
            for meter_id in meters[begin:end]:
                shard = shard_of(meter_id, shards)
                places = found.get(shard)
                if places is None:
                    places = found[shard] = MeterPlaces(batch.window_end, [], [], {})
                places.meters.append(meter_id)
                places.transformers.append(transformer_id)
                places.feeders[transformer_id] = feeder_id
        yield from found.items()
