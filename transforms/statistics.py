"""What the winning reads of one transformer and one window say: sums, counts and voltages per feeder.

Sums are exact (`math.fsum`) before they are rounded to 6 decimals, so the result does not depend on the order of
the reads. Minimum and maximum stay as they were sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import fsum

import numpy as np

from ami_beam.codecs.read_block import ESTIMATED, VOLTAGE_REJECTED, ZERO_VOLTAGE, BlockColumns, PackedRead
from ami_beam.read_columns import Flags
from ami_beam.records import FeederStatistics
from transforms.winners import Winners

DECIMALS = 6


@dataclass(slots=True)
class Measured:
    """One transformer's window before it is compared with what was published. Lists are sorted by feeder."""

    feeders: list[FeederStatistics]
    meters_reported: int
    actual_meters_reported: int
    as_of: int


def measure(reads: Iterable[PackedRead]) -> Measured:
    """The statistics of one transformer's winning reads; `revision` and `changed` are left at their first values."""
    reads = list(reads)
    by_feeder: dict[str, list[PackedRead]] = {}
    for read in reads:
        by_feeder.setdefault(read.feeder_id, []).append(read)
    feeders = [_of_feeder(feeder_id, by_feeder[feeder_id]) for feeder_id in sorted(by_feeder)]
    return Measured(
        feeders=feeders,
        meters_reported=len({read.meter_id for read in reads}) if len(feeders) > 1 else feeders[0].meters_reported,
        actual_meters_reported=len({read.meter_id for read in reads if read.actual}),
        as_of=max([feeder.as_of for feeder in feeders]),
    )


def measure_columns(columns: BlockColumns) -> dict[str, Measured]:
    """By transformer what `measure` gives of its winning reads, at a fraction of the cost where no two share a key.

    A key is (transformer, meter, interval_end): where each has one read, every read is a winner.
    """
    count, meters = len(columns), columns.meter_id
    one_read_a_meter = len(set(meters)) == count
    if not one_read_a_meter:
        sent_again = _with_shared_keys(columns)
        if sent_again:
            apart: Flags = np.isin(columns.transformer, sorted(sent_again))
            others = np.flatnonzero(~apart)
            measured = measure_columns(columns.take(others)) if len(others) else {}
            winners = Winners()
            winners.add(columns.take(np.flatnonzero(apart)).reads())
            return measured | {name: measure(reads) for name, reads in by_transformer(winners.winners()).items()}
    order = np.lexsort((columns.feeder, columns.transformer))
    transformer, feeder = columns.transformer[order], columns.feeder[order]
    begins = (transformer[1:] != transformer[:-1]) | (feeder[1:] != feeder[:-1])
    starts = np.flatnonzero(np.concatenate(([True], begins)))
    flags = columns.flags[order]
    estimated, rejected, zero = (
        np.add.reduceat((flags & flag) != 0, starts, dtype=np.int64).tolist()
        for flag in (ESTIMATED, VOLTAGE_REJECTED, ZERO_VOLTAGE)
    )
    as_of = np.maximum.reduceat(columns.record_time[order], starts).tolist()
    volts = columns.voltage_v[order]
    every_voltage = not np.isnan(volts).any()
    consumption, delivered, received, voltage = (
        column.tolist()
        for column in (columns.consumption_kwh[order], columns.delivered_kwh[order], columns.received_kwh[order], volts)
    )
    if not one_read_a_meter:
        meters = [meters[i] for i in order.tolist()]
    names = columns.names
    measured = {}
    shared: set[str] = set()
    numbers = zip(transformer[starts].tolist(), feeder[starts].tolist(), strict=True)
    for group, ((first, last), (number, of)) in enumerate(
        zip(pairwise([*starts.tolist(), count]), numbers, strict=True)
    ):
        voltages = voltage[first:last]
        if not every_voltage:
            voltages = [each for each in voltages if each == each]
        heard = last - first if one_read_a_meter else len(set(meters[first:last]))
        statistics = FeederStatistics(
            names[of],
            _total(consumption[first:last]),
            _total(delivered[first:last]),
            _total(received[first:last]),
            heard,
            round(fsum(voltages) / len(voltages), DECIMALS) if voltages else None,
            min(voltages, default=None),
            max(voltages, default=None),
            estimated[group],
            rejected[group],
            zero[group],
            as_of[group],
            0,
            True,
        )
        name = names[number]
        if name in measured:
            shared.add(name)
        elif one_read_a_meter:
            measured[name] = Measured([statistics], heard, heard - estimated[group], as_of[group])
        else:
            actual = (flags[first:last] & ESTIMATED == 0).tolist()
            heard_actually = {meter for meter, known in zip(meters[first:last], actual, strict=True) if known}
            measured[name] = Measured([statistics], heard, len(heard_actually), as_of[group])
    if shared:  # rare: reads of more than one feeder, whose meters may be the same
        measured |= {name: measure(reads) for name, reads in by_transformer(columns.of(shared)).items()}
    return measured


def by_transformer(reads: Iterable[PackedRead]) -> dict[str, list[PackedRead]]:
    """The reads of each transformer, in their order."""
    grouped: dict[str, list[PackedRead]] = {}
    for read in reads:
        grouped.setdefault(read.transformer_id, []).append(read)
    return grouped


def _with_shared_keys(columns: BlockColumns) -> set[int]:
    """The numbers of the transformers that have several reads of one key."""
    keys = list(zip(columns.transformer.tolist(), columns.meter_id, columns.interval_end.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return set()
    return {key[0] for key, times in Counter(keys).items() if times > 1}


def emptied(feeder_id: str, as_of: int) -> FeederStatistics:
    """A pair that was published and has lost its last read to another feeder."""
    return FeederStatistics(feeder_id, 0.0, 0.0, 0.0, 0, None, None, None, 0, 0, 0, as_of, 0, True)


def _of_feeder(feeder_id: str, reads: list[PackedRead]) -> FeederStatistics:
    # As columns, in PackedRead's order: a call over a column instead of a loop over reads for every figure.
    (
        _, meter_ids, _, _, actual, record_times, _, _, _, consumption, delivered, received, voltages, rejected, zero,
    ) = zip(*reads, strict=True)  # fmt: skip
    measured = [voltage for voltage in voltages if voltage is not None]
    return FeederStatistics(
        feeder_id=feeder_id,
        total_consumption_kwh=_total(consumption),
        total_delivered_kwh=_total(delivered),
        total_received_kwh=_total(received),
        meters_reported=len(set(meter_ids)),
        avg_voltage_v=round(fsum(measured) / len(measured), DECIMALS) if measured else None,
        min_voltage_v=min(measured, default=None),
        max_voltage_v=max(measured, default=None),
        estimated_count=actual.count(False),
        voltage_rejected_count=rejected.count(True),
        zero_voltage_count=zero.count(True),
        as_of=max(record_times),
        revision=0,
        changed=True,
    )


def _total(values: Iterable[float]) -> float:
    # + 0.0 turns the -0.0 that rounding can give into the 0.0 that people expect to read.
    return round(fsum(values), DECIMALS) + 0.0
