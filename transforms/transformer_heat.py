"""The heat map's row of each transformer and window, and what is made of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.local_days import local_day
from ami_beam.records import (
    FeederLevels,
    HeatBatch,
    HistogramInput,
    OutsideBands,
    TransformerHeat,
    TransformerLevels,
    VoltageLevels,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.feeder_contributions import GroupWindow, group_of
from transforms.voltage_bands import ansi_c84_1, en_50160, outside, per_cent

ROWS, HISTOGRAMS, OUTSIDE = "rows", "histograms", "outside"

ShardDay = tuple[int, str]
"""(shard of transformers, day of the utility's time zone)."""


class Heat(NamedTuple):
    """What `TransformerHeatRows` gives."""

    rows: beam.PCollection[HeatBatch]
    histograms: beam.PCollection[tuple[GroupWindow, HistogramInput]]
    outside: beam.PCollection[tuple[ShardDay, OutsideBands]]


class TransformerHeatRows(beam.PTransform):
    """A row for every publication of a transformer's statistics, with its bands; none where it never had a voltage.

    Keeps no state: rows have the revision of the statistics. Also says what feeders' histograms are made of, a bundle
    at a time, and which transformers were outside a band.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, levels: beam.PCollection[tuple[ShardWindow, VoltageLevels]]) -> Heat:
        rows = beam.ParDo(_HeatDoFn(self._settings)).with_output_types(
            HeatBatch, histograms=tuple[tuple[int, int], HistogramInput], outside=tuple[tuple[int, str], OutsideBands]
        )
        found = levels | "Bands" >> rows.with_outputs(HISTOGRAMS, OUTSIDE, main=ROWS)
        return Heat(found[ROWS], found[HISTOGRAMS], found[OUTSIDE])


class _HeatDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._settings = settings
        self._gathered: dict[GroupWindow, tuple[Timestamp, HistogramInput]] = {}
        self._groups: dict[str, int] = {}

    def start_bundle(self) -> None:
        self._gathered, self._groups = {}, {}

    def process(
        self, element: tuple[ShardWindow, VoltageLevels], at: Any = beam.DoFn.TimestampParam
    ) -> Iterator[HeatBatch | TaggedOutput]:
        (shard, window_end), levels = element
        settings = self._settings
        window_start = window_end - settings.window
        rows = [row_of(each, window_start, window_end) for each in levels.transformers if _measures(each)]
        if rows:
            yield HeatBatch(transformers=rows)
        for each in levels.transformers:
            for feeder_id in (each.feeder_id, *each.others):
                classes = each.classes if feeder_id == each.feeder_id else []
                if classes or each.revision:
                    added = FeederLevels(each.transformer_id, feeder_id, each.revision, classes, each.as_of)
                    self._gather(feeder_id, window_end, at, added)
        found = outside_bands(levels)
        if found is not None:
            yield TaggedOutput(OUTSIDE, ((shard, local_day(window_start, settings.time_zone)), found))

    def _gather(self, feeder_id: str, window_end: int, at: Timestamp, added: FeederLevels) -> None:
        group = self._groups.get(feeder_id)
        if group is None:
            group = self._groups[feeder_id] = group_of(feeder_id, self._settings)
        key = group, window_end
        before, gathered = self._gathered.get(key, (at, HistogramInput([])))
        gathered.levels.append(added)
        self._gathered[key] = min(at, before), gathered

    def finish_bundle(self) -> Iterator[TaggedOutput]:
        for key, (at, gathered) in self._gathered.items():
            yield TaggedOutput(HISTOGRAMS, WindowedValue((key, gathered), at, (GlobalWindow(),)))


def _measures(levels: TransformerLevels) -> bool:
    """Whether a voltage was measured, or may have been before a revision."""
    return levels.min_voltage_v is not None or levels.revision > 0


def row_of(levels: TransformerLevels, window_start: int, window_end: int) -> TransformerHeat:
    """The row that says so."""
    low, mean, high, nominal = (
        levels.min_voltage_v, levels.avg_voltage_v, levels.max_voltage_v, levels.nominal_voltage_v,
    )  # fmt: skip
    return TransformerHeat(
        transformer_id=levels.transformer_id,
        feeder_id=levels.feeder_id,
        window_start=window_start,
        window_end=window_end,
        nominal_voltage_v=nominal,
        min_pct=None if low is None else per_cent(low, nominal),
        avg_pct=None if mean is None else per_cent(mean, nominal),
        max_pct=None if high is None else per_cent(high, nominal),
        ansi_c84_1=None if low is None or high is None else ansi_c84_1(low, high, nominal),
        en_50160=None if low is None or high is None else en_50160(low, high, nominal),
        as_of=levels.as_of,
        revision=levels.revision,
    )


def outside_bands(levels: VoltageLevels) -> OutsideBands | None:
    """Transformers outside a band, and those that may have been until now; None where there is none."""
    found = OutsideBands(levels.window_end, [], [], [], [], [])
    for each in levels.transformers:
        bits = outside(each.min_voltage_v, each.max_voltage_v, each.nominal_voltage_v)
        if bits or each.revision:
            found.transformers.append(each.transformer_id)
            found.feeders.append(each.feeder_id)
            found.revisions.append(each.revision)
            found.outside.append(bits)
            found.as_of.append(each.as_of)
    return found if found.transformers else None
