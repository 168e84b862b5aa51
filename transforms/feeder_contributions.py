"""What each transformer adds to its feeder's windows, from the results that are published of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.records import (
    FeederInput,
    HeardOn,
    JudgeInput,
    PairTotals,
    ReceiptBatch,
    ReceiptStanding,
    StatisticsBatch,
    TransformerStatistics,
    VoltageStanding,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.segment_totals import MILLIONTHS
from transforms.transformer_places import main_feeder

SHARDS_A_GROUP = 8
"""Shards of transformers for one of feeders: bigger elements are fewer, and a revision reads a group's whole window."""

GroupWindow = tuple[int, int]
"""(group of feeders, window_end in microseconds)."""


def feeder_groups(settings: Settings) -> int:
    """Into how many groups the feeders are spread by a stable hash. Results do not depend on it."""
    return max(1, settings.shards // SHARDS_A_GROUP)


def group_of(feeder_id: str | None, settings: Settings) -> int:
    """The group of a feeder; of transformers that are on none the first."""
    return 0 if feeder_id is None else shard_of(feeder_id, feeder_groups(settings))


class Contributions(NamedTuple):
    """What `FeederContributions` gives."""

    inputs: beam.PCollection[tuple[GroupWindow, FeederInput]]
    heard: beam.PCollection[tuple[int, HeardOn]]
    """Keyed by shard of transformers: where they were heard, for those of which nothing is."""


class FeederContributions(beam.PTransform):
    """Every publication of a transformer's results is in exactly one element a group of feeders.

    Takes a tuple of the statistics, of the observations made of them, and of the receipt rows. Gathers what a bundle
    brings: an element costs more than what it carries.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection, beam.PCollection]) -> Contributions:
        statistics, observations, receipts = inputs
        settings = self._settings
        kind = tuple[tuple[int, int], FeederInput]
        pairs = statistics | "Pairs" >> beam.ParDo(_GatherDoFn(settings, _pairs)).with_output_types(kind)
        voltages = observations | "Voltages" >> beam.ParDo(_GatherDoFn(settings, _voltages)).with_output_types(kind)
        heard = receipts | "HeardReceipts" >> beam.ParDo(_GatherDoFn(settings, _receipts)).with_output_types(kind)
        return Contributions(
            (pairs, voltages, heard) | "Contributions" >> beam.Flatten(),
            receipts | "HeardOn" >> beam.Map(heard_on, settings).with_output_types(tuple[int, HeardOn]),
        )


class _GatherDoFn(beam.DoFn):
    """Hands on at the end of a bundle what `parts` makes of its elements, by group of feeders and window."""

    def __init__(self, settings: Settings, parts: Callable[[Any, Settings, _Gathered], None]):
        self._settings = settings
        self._parts = parts
        self._gathered = _Gathered(settings)

    def start_bundle(self) -> None:
        self._gathered = _Gathered(self._settings)

    def process(self, element: Any, at: Any = beam.DoFn.TimestampParam) -> None:
        self._gathered.at = at
        self._parts(element, self._settings, self._gathered)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for key, (at, found) in self._gathered.found.items():
            yield WindowedValue((key, found), at, (GlobalWindow(),))


class _Gathered:
    """What a bundle has brought, each with the time of the first of it: later than its timers nothing may be."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._groups: dict[str | None, int] = {}
        self.at: Timestamp = Timestamp(0)
        self.found: dict[GroupWindow, tuple[Timestamp, FeederInput]] = {}

    def of(self, feeder_id: str | None, window_end: int) -> FeederInput:
        """Where to put what belongs to this feeder."""
        group = self._groups.get(feeder_id)
        if group is None:
            group = self._groups[feeder_id] = group_of(feeder_id, self._settings)
        key = group, window_end
        before = self.found.get(key)
        if before is None:
            self.found[key] = self.at, (made := FeederInput())
            return made
        if self.at < before[0]:
            self.found[key] = self.at, before[1]
        return before[1]


def _pairs(element: tuple[ShardWindow, StatisticsBatch], _: Settings, gathered: _Gathered) -> None:
    batch = element[1]
    for transformer in batch.transformers:
        for pair in pair_totals(transformer):
            gathered.of(pair.feeder_id, batch.window_end).pairs.append(pair)


def pair_totals(transformer: TransformerStatistics) -> Iterator[PairTotals]:
    """What the transformer's statistics add to each of its feeders; nothing, to those on which it has no read left."""
    main = main_feeder(transformer)
    for each in transformer.feeders:
        average = each.avg_voltage_v
        yield PairTotals(
            transformer.transformer_id,
            each.feeder_id,
            transformer.revision,
            each.feeder_id == main and each.meters_reported > 0,
            round(each.total_consumption_kwh * MILLIONTHS),
            round(each.total_delivered_kwh * MILLIONTHS),
            round(each.total_received_kwh * MILLIONTHS),
            each.meters_reported,
            0 if average is None else round(average * MILLIONTHS) * each.voltage_count,
            each.voltage_count,
            each.min_voltage_v,
            each.max_voltage_v,
            each.as_of,
        )


def _voltages(element: tuple[ShardWindow, JudgeInput], _: Settings, gathered: _Gathered) -> None:
    window_end, judged = element[0][1], element[1]
    for each in judged.observations:
        violated = each.low is not None or each.high is not None
        if violated or each.revision > 0:
            standing = VoltageStanding(each.transformer_id, each.feeder_id, each.revision, violated, each.as_of)
            gathered.of(each.feeder_id, window_end).voltages.append(standing)


def _receipts(batch: ReceiptBatch, settings: Settings, gathered: _Gathered) -> None:
    for standing, window_end in _standings(batch, settings):
        if standing.feeder_id is not None:
            gathered.of(standing.feeder_id, window_end).receipts.append(standing)


def heard_on(batch: ReceiptBatch, settings: Settings) -> tuple[int, HeardOn]:
    """Where the transformers of the rows were heard, all of one shard and window, with that shard."""
    first = batch.rows[0]
    rows = batch.rows
    found = HeardOn(first.window_end, {}, [], any(row.revision == 0 for row in rows), max(row.as_of for row in rows))
    for standing, _ in _standings(batch, settings):
        if standing.feeder_id is None:
            found.silent.append(standing)
        else:
            found.heard[standing.transformer_id] = standing.feeder_id
    return shard_of(first.transformer_id, settings.shards), found


def _standings(batch: ReceiptBatch, settings: Settings) -> Iterator[tuple[ReceiptStanding, int]]:
    for row in batch.rows:
        yield (
            ReceiptStanding(
                row.transformer_id,
                row.feeder_id,
                row.revision,
                row.meters_reported,
                row.total_meters,
                row.receipt_rate_pct < settings.min_receipt_rate_pct,
                row.as_of,
            ),
            row.window_end,
        )
