"""The voltages of each transformer's window as the heat map wants them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ami_beam.records import Observation, StatisticsBatch, TransformerLevels, TransformerStatistics, VoltageLevels
from transforms.voltage_bands import ABOUT_NOTHING, FIRST_CLASS, LAST_CLASS


def voltage_levels(batch: StatisticsBatch, observations: Sequence[Observation]) -> VoltageLevels:
    """The levels of every transformer of the batch; `observations` are those made of it, in the same order."""
    classes = _classes(batch, observations)
    return VoltageLevels(
        batch.window_end,
        [
            TransformerLevels(
                seen.transformer_id,
                seen.feeder_id,
                [feeder.feeder_id for feeder in statistics.feeders if feeder.feeder_id != seen.feeder_id],
                seen.revision,
                seen.nominal_voltage_v,
                None if seen.lowest is None else seen.lowest[0],
                _mean(statistics),
                None if seen.highest is None else seen.highest[0],
                classes[number],
                seen.as_of,
            )
            for number, (statistics, seen) in enumerate(zip(batch.transformers, observations, strict=True))
        ],
    )


def _mean(statistics: TransformerStatistics) -> float | None:
    """Over the reads of all feeders, from the feeders' means: to a millionth of a volt."""
    measured = [each for each in statistics.feeders if each.avg_voltage_v is not None]
    if len(measured) == 1:
        return measured[0].avg_voltage_v
    if not measured:
        return None
    count = sum(each.voltage_count for each in measured)
    return sum((each.avg_voltage_v or 0.0) * each.voltage_count for each in measured) / count


def _classes(batch: StatisticsBatch, observations: Sequence[Observation]) -> list[list[int]]:
    """By transformer the classes of its reads and how many are in each."""
    found: list[list[int]] = [[] for _ in observations]
    if batch.voltages is None or not batch.voltages.meters:
        return found
    volts = np.frombuffer(batch.voltages.voltages, np.float64)
    sizes = [end - begin for begin, end in pairwise([0, *batch.voltages.ends])]
    owners = np.repeat(np.arange(len(observations)), sizes)
    nominal = np.array([each.nominal_voltage_v for each in observations], np.float64)[owners]
    measured = ~np.isnan(volts)
    shares = np.floor(volts[measured] * 100 / nominal[measured] + ABOUT_NOTHING)
    classes = np.clip(shares, FIRST_CLASS - 1, LAST_CLASS).astype(np.int64)
    keys, counts = np.unique(owners[measured] * 1_000 + classes, return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        owner, which = divmod(key, 1_000)
        found[owner] += (which, count)
    return found
