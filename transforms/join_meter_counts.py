"""Joins statistics and due windows with the meter counts, a side input that is reloaded while the job runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput

from ami_beam.consumers import VOLTAGE_HEATMAP
from ami_beam.meter_counts import VERSION_DIGITS, MeterCountsVersion, counts_of, newest
from ami_beam.meter_counts_view import MeterCountsSource, view
from ami_beam.read_columns import Flags, Floats
from ami_beam.records import (
    AlarmInput,
    DueWindow,
    HeardMeters,
    JudgeInput,
    MeterCount,
    MetersBeyond,
    MeterVoltages,
    Observation,
    ReceiptDue,
    StatisticsBatch,
    TransformerStatistics,
    VoltageLevels,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.decode_reads import METRICS
from transforms.heard_meters import heard_meters
from transforms.supply_notes import pack_notes, supply_notes
from transforms.transformer_places import PlacesToSay, transformer_places
from transforms.voltage_levels import voltage_levels

OBSERVATIONS, SUPPLY, HEARD, LEVELS = "observations", "supply", "heard", "levels"


class Joined(NamedTuple):
    """What `JoinMeterCounts` gives."""

    observations: beam.PCollection[tuple[ShardWindow, JudgeInput]]
    supply: beam.PCollection[tuple[int, AlarmInput]]
    """Keyed by shard: where not all meters have supply, and where the transformers stand."""
    heard: beam.PCollection[tuple[int, HeardMeters]]
    """Keyed by shard: which meters were heard."""
    levels: beam.PCollection[tuple[ShardWindow, VoltageLevels]]
    """Voltages by per cent of nominal; nothing unless the heat map is published."""


class JoinMeterCounts(beam.PTransform):
    """Each publication of a transformer's statistics becomes what it is judged by, with what its meter count says.

    The row that is valid at the window's end is used, if there is one. Gives one observation for one publication, and
    notes of transformers that are not simply well (`supply_notes`), and says who was heard (`heard_meters`).

    Args:
      settings: the nominal voltage of transformers without their own.
      counts: versions of the meter counts, a side input or its stand-in; the newest is used.

    Counter: unregistered_transformers, publications of transformers that are missing from the meter counts.
    """

    def __init__(self, settings: Settings, counts: MeterCountsSource):
        super().__init__()
        self._settings = settings
        self._counts = counts

    def expand(self, statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]) -> Joined:
        join = beam.ParDo(_JoinDoFn(self._settings), view(self._counts)).with_output_types(
            tuple[tuple[int, int], JudgeInput],
            supply=tuple[int, AlarmInput],
            heard=tuple[int, HeardMeters],
            levels=tuple[tuple[int, int], VoltageLevels],
        )
        joined = statistics | "Lookup" >> join.with_outputs(SUPPLY, HEARD, LEVELS, main=OBSERVATIONS)
        return Joined(joined[OBSERVATIONS], joined[SUPPLY], joined[HEARD], joined[LEVELS])


class _JoinDoFn(beam.DoFn):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nominal = settings.nominal_voltage
        self._unregistered = Metrics.counter(METRICS, "unregistered_transformers")

    def setup(self) -> None:
        self._to_say = PlacesToSay(self._settings)

    def process(
        self, element: tuple[ShardWindow, StatisticsBatch], versions: Iterable[MeterCountsVersion]
    ) -> Iterator[Any]:
        key, batch = element
        version = newest(versions)
        counts = counts_of(version)
        window_end = batch.window_end
        rows = [counts.at(transformer.transformer_id, window_end) for transformer in batch.transformers]
        self._unregistered.inc(rows.count(None))
        observations = [
            observation(transformer, count, self._nominal)
            for transformer, count in zip(batch.transformers, rows, strict=True)
        ]
        if batch.voltages is not None:
            add_evidence(observations, batch.voltages, self._settings)
        version_id = version.version_id[:VERSION_DIGITS]
        yield key, JudgeInput(observations, None, counts_version=version_id)
        notes = pack_notes(supply_notes(batch, observations, rows))
        places = []
        if self._to_say.names(key[0], batch):
            places = transformer_places(batch, observations, rows, self._settings)
        if notes is not None or places:
            found = AlarmInput(window_end, [], counts_version=version_id, notes=notes, places=places)
            yield TaggedOutput(SUPPLY, (key[0], found))
        heard = heard_meters(batch, observations, rows, self._settings)
        if heard is not None:
            yield TaggedOutput(HEARD, (key[0], heard))
        if VOLTAGE_HEATMAP in self._settings.also_publish:
            yield TaggedOutput(LEVELS, (key, voltage_levels(batch, observations)))


def observation(statistics: TransformerStatistics, count: MeterCount | None, nominal_voltage: float) -> Observation:
    """What `statistics` say of the transformer as a whole. `nominal_voltage`: where the count has none, in volts."""
    feeders = statistics.feeders
    first = feeders[0]
    if len(feeders) == 1:
        feeder_id = first.feeder_id
        measured = feeders if first.min_voltage_v is not None else []
    else:
        # None is left where all its meters turned out to be elsewhere.
        present = [feeder for feeder in feeders if feeder.meters_reported] or feeders
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


def add_evidence(observations: list[Observation], voltages: MeterVoltages, settings: Settings) -> None:
    """Say of those that are in violation how many meters are beyond the limit, and which is the worst.

    Of equally bad meters the first by name.
    """
    volts = np.frombuffer(voltages.voltages, np.float64)
    begin = 0
    for each, end in zip(observations, voltages.ends, strict=True):
        nominal = each.nominal_voltage_v
        low, high = nominal * settings.low_voltage_pct / 100, nominal * settings.high_voltage_pct / 100
        if each.lowest is not None and each.lowest[0] < low:
            own = volts[begin:end]
            each.low = _beyond(voltages.meters, begin, own, own < low, each.lowest[0])
        if each.highest is not None and each.highest[0] > high:
            own = volts[begin:end]
            each.high = _beyond(voltages.meters, begin, own, own > high, each.highest[0])
        begin = end


def _beyond(meters: list[str], begin: int, volts: Floats, beyond: Flags, worst: float) -> MetersBeyond:
    names = {meters[begin + place] for place in np.flatnonzero(beyond).tolist()}
    return MetersBeyond(len(names), min(meters[begin + place] for place in np.flatnonzero(volts == worst).tolist()))


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
    version = newest(versions)
    counts = counts_of(version)
    for shard in range(settings.shards):
        rows = [
            row
            for row in counts.in_shard(shard, settings.shards, due.window_end)
            if settings.receipt_delay_of(row.receipt_delay) == due.receipt_delay
        ]
        if rows:
            yield (
                (shard, due.window_end),
                ReceiptDue(
                    due.window_end,
                    due.receipt_delay,
                    rows,
                    version.version_id[:VERSION_DIGITS],
                    due.first_window_end,
                    due.lost_to_silence,
                ),
            )
