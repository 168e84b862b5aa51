"""What the winning reads of one transformer and one window say: sums, counts and voltages per feeder.

Sums are exact (`math.fsum`) before they are rounded to 6 decimals, so the result does not depend on the order of
the reads. Minimum and maximum stay as they were sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from typing import NamedTuple

import numpy as np

from ami_beam.codecs.read_block import (
    APPORTIONED,
    CENTIVOLT,
    ESTIMATED,
    MICRO_KWH,
    SAG,
    SWELL,
    VOLTAGE_REJECTED,
    ZERO_VOLTAGE,
    BlockColumns,
    PackedRead,
    Scaled,
)
from ami_beam.read_columns import Bytes, Flags, Floats, Ints
from ami_beam.records import FeederStatistics, MeterVoltages
from transforms.receipt_rate import receipt_rate_pct
from transforms.winners import Winners

DECIMALS = 6
_MANY = 4_000
"""Reads of a transformer up to which integers give the same sums as floats."""


@dataclass(slots=True)
class Measured:
    """One transformer's window before it is compared with what was published. Lists are sorted by feeder."""

    feeders: list[FeederStatistics]
    meters_reported: int
    actual_meters_reported: int
    as_of: int
    readings: Readings = field(compare=False)


class Readings(NamedTuple):
    """Where a transformer's voltages stand among those of many: meters and volts (NaN without one), and a range."""

    meters: list[str]
    volts: Floats
    flags: Bytes
    begin: int
    end: int


def measure(reads: Iterable[PackedRead], window: int) -> Measured:
    """The statistics of one transformer's winning reads; `revision` and `changed` are left at their first values.

    `window`: its length, microseconds.
    """
    reads = list(reads)
    by_feeder: dict[str, list[PackedRead]] = {}
    for read in reads:
        by_feeder.setdefault(read.feeder_id, []).append(read)
    feeders = [_of_feeder(feeder_id, by_feeder[feeder_id], window) for feeder_id in sorted(by_feeder)]
    return Measured(
        feeders=feeders,
        meters_reported=len(set(map(_counted, reads))) if len(feeders) > 1 else feeders[0].meters_reported,
        actual_meters_reported=len({_counted(read) for read in reads if read.actual}),
        as_of=max([feeder.as_of for feeder in feeders]),
        readings=Readings(
            [read.meter_id for read in reads],
            np.array([read.voltage_v for read in reads], np.float64),
            np.array([_flags(read) for read in reads], np.uint8),
            0,
            len(reads),
        ),
    )


def _counted(read: PackedRead) -> str:
    return read.counts_as or read.meter_id


def measure_columns(columns: BlockColumns, window: int) -> dict[str, Measured]:
    """By transformer what `measure` gives of its winning reads, at a fraction of the cost where no two share a key.

    A key is (transformer, meter, interval_end): where each has one read, every read is a winner.
    """
    count, meters, counted = len(columns), columns.meter_id, columns.counted
    one_read_a_meter = len(set(meters)) == count
    if not one_read_a_meter:
        sent_again = _with_shared_keys(columns)
        if sent_again:
            apart: Flags = np.isin(columns.transformer, sorted(sent_again))
            others = np.flatnonzero(~apart)
            measured = measure_columns(columns.take(others), window) if len(others) else {}
            winners = Winners()
            winners.add(columns.take(np.flatnonzero(apart)).reads())
            return measured | {
                name: measure(reads, window) for name, reads in by_transformer(winners.winners()).items()
            }
    elif columns.counts_as is not None:
        one_read_a_meter = len(set(counted)) == count
    order = np.lexsort((columns.feeder, columns.transformer))
    transformer, feeder = columns.transformer[order], columns.feeder[order]
    begins = (transformer[1:] != transformer[:-1]) | (feeder[1:] != feeder[:-1])
    starts = np.flatnonzero(np.concatenate(([True], begins)))
    flags = columns.flags[order]
    bits = flags.astype(np.uint8)
    estimated, rejected, zero = (
        np.add.reduceat((flags & flag) != 0, starts, dtype=np.int64).tolist()
        for flag in (ESTIMATED, VOLTAGE_REJECTED, ZERO_VOLTAGE)
    )
    # Without a quality map and long reads there are none.
    marked = bool((flags >= SAG).any())
    sags, swells, apportioned = (
        np.add.reduceat((flags & flag) != 0, starts, dtype=np.int64).tolist() if marked else [0] * len(starts)
        for flag in (SAG, SWELL, APPORTIONED)
    )
    missing = None if columns.missing is None else np.add.reduceat(columns.missing[order], starts).tolist()
    as_of = np.maximum.reduceat(columns.record_time[order], starts).tolist()
    consumption, delivered, received = (
        _totals(column[order], starts)
        for column in (columns.consumption_kwh, columns.delivered_kwh, columns.received_kwh)
    )
    volts = columns.voltage_v[order]
    average, least, greatest, voltages = _voltages(volts, starts)
    sizes = np.diff(starts, append=count).tolist()
    meters = [meters[i] for i in order.tolist()]
    counted = meters if columns.counts_as is None else [counted[i] for i in order.tolist()]
    names = columns.names
    measured = {}
    shared: set[str] = set()
    firsts, numbers, feeders = starts.tolist(), transformer[starts].tolist(), feeder[starts].tolist()
    for group, size in enumerate(sizes):
        first = firsts[group]
        readings = Readings(meters, volts, bits, first, first + size)
        heard = size if one_read_a_meter else len(set(counted[first : first + size]))
        statistics = FeederStatistics(
            names[feeders[group]],
            consumption[group],
            delivered[group],
            received[group],
            heard,
            average[group],
            least[group],
            greatest[group],
            estimated[group],
            rejected[group],
            zero[group],
            as_of[group],
            0,
            True,
            sags[group],
            swells[group],
            voltages[group],
            apportioned[group],
            100.0
            if missing is None and one_read_a_meter
            else completeness_pct(size, missing[group] if missing else 0, heard, window),
        )
        name = names[numbers[group]]
        if name in measured:
            shared.add(name)
        elif one_read_a_meter:
            measured[name] = Measured(
                [statistics],
                heard,
                heard - estimated[group],
                as_of[group],
                readings,
            )
        else:
            actual = (flags[first : first + size] & ESTIMATED == 0).tolist()
            heard_actually = {
                meter for meter, known in zip(counted[first : first + size], actual, strict=True) if known
            }
            measured[name] = Measured([statistics], heard, len(heard_actually), as_of[group], readings)
    if shared:  # rare: reads of more than one feeder, whose meters may be the same
        measured |= {name: measure(reads, window) for name, reads in by_transformer(columns.of(shared)).items()}
    return measured


def voltages_of(measured: Sequence[Measured]) -> MeterVoltages:
    """The readings of these transformers, one after the other."""
    meters: list[str] = []
    volts, flags, ends = [], [], []
    for each in measured:
        names, column, bits, begin, end = each.readings
        meters += names[begin:end]
        volts.append(column[begin:end])
        flags.append(bits[begin:end])
        ends.append(len(meters))
    if not volts:
        return MeterVoltages(meters, b"", ends)
    return MeterVoltages(meters, np.concatenate(volts).tobytes(), ends, np.concatenate(flags).tobytes())


def _flags(read: PackedRead) -> int:
    return (
        (not read.actual) * ESTIMATED
        + read.voltage_rejected * VOLTAGE_REJECTED
        + read.zero_voltage * ZERO_VOLTAGE
        + read.sag * SAG
        + read.swell * SWELL
        + read.apportioned * APPORTIONED
    )


def _totals(column: Floats, starts: Ints) -> list[float]:
    """`_total` of every group of reads, which begin at `starts`.

    Whole micro-kWh are added as integers. The floats they came from are off by so little (6e-11 kWh each below a
    million kWh) that their exact sum, rounded, is the same for groups of up to a few thousand reads.
    """
    whole = Scaled(column, MICRO_KWH)
    if whole.exact.all() and np.abs(whole.whole).max() < MICRO_KWH * 10**6 and _longest(starts, len(column)) <= _MANY:
        return (np.add.reduceat(whole.whole, starts) / MICRO_KWH).tolist()
    values = column.tolist()
    return [_total(values[first:last]) for first, last in pairwise([*starts.tolist(), len(values)])]


def _voltages(
    column: Floats, starts: Ints
) -> tuple[list[float | None], list[float | None], list[float | None], list[int]]:
    """Mean, least and greatest voltage of every group of reads, which begin at `starts`; None where there is none.

    Last, how many there are.

    Hundredths of a volt are added as integers. The mean of the floats is off by less than a millionth of what separates
    it from the next tie of the rounding to 6 decimals; where it is a tie itself, the floats decide.
    """
    measured: Flags = ~np.isnan(column)
    counts = np.add.reduceat(measured, starts, dtype=np.int64)
    none = (counts == 0).tolist() if not measured.all() else None
    least = np.minimum.reduceat(np.where(measured, column, np.inf), starts).tolist()
    greatest = np.maximum.reduceat(np.where(measured, column, -np.inf), starts).tolist()
    whole = Scaled(column, CENTIVOLT)
    known = whole.whole[measured]
    if (
        len(known)
        and whole.exact[measured].all()
        and known.min() >= 0
        and known.max() < CENTIVOLT * 10**5
        and _longest(starts, len(column)) <= _MANY
    ):
        # Millionths of a volt times the reads. Readings that are None count 0.
        sums = np.add.reduceat(np.where(measured, whole.whole, 0), starts) * (10**DECIMALS // CENTIVOLT)
        divisors = np.maximum(counts, 1)
        average: list[float | None] = ((sums + divisors // 2) // divisors / 10**DECIMALS).tolist()
        unsure = np.flatnonzero(2 * (sums % divisors) == divisors).tolist()
    else:
        average, unsure = [None] * len(starts), list(range(len(starts)))
    if unsure:
        values, bounds = column.tolist(), [*starts.tolist(), len(column)]
        for group in unsure:
            voltages = [each for each in values[bounds[group] : bounds[group + 1]] if each == each]
            average[group] = round(fsum(voltages) / len(voltages), DECIMALS) if voltages else None
    if none is not None:
        for group, empty in enumerate(none):
            if empty:
                average[group] = least[group] = greatest[group] = None
    return average, least, greatest, counts.tolist()


def _longest(starts: Ints, count: int) -> int:
    return int(np.diff(starts, append=count).max())


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


def completeness_pct(reads: int, missing: int, meters: int, window: int) -> float:
    """How much of the window the reads of these meters cover, in per cent, one decimal, half away from zero.

    Above 100 where intervals overlap.

    Args:
      missing: microseconds by which the reads' intervals are shorter than the window, added up.
      window: its length, microseconds.
    """
    return receipt_rate_pct(reads * window - missing, meters * window)


def _of_feeder(feeder_id: str, reads: list[PackedRead], window: int) -> FeederStatistics:
    # As columns, in PackedRead's order: a call over a column instead of a loop over reads for every figure.
    (
        _, meter_ids, _, _, actual, record_times, _, _, _, consumption, delivered, received, voltages, rejected, zero,
        sag, swell, apportioned, missing, counts_as,
    ) = zip(*reads, strict=True)  # fmt: skip
    meters = len({other or own for other, own in zip(counts_as, meter_ids, strict=True)})
    measured = [voltage for voltage in voltages if voltage is not None]
    return FeederStatistics(
        feeder_id=feeder_id,
        total_consumption_kwh=_total(consumption),
        total_delivered_kwh=_total(delivered),
        total_received_kwh=_total(received),
        meters_reported=meters,
        avg_voltage_v=round(fsum(measured) / len(measured), DECIMALS) if measured else None,
        min_voltage_v=min(measured, default=None),
        max_voltage_v=max(measured, default=None),
        estimated_count=actual.count(False),
        voltage_rejected_count=rejected.count(True),
        zero_voltage_count=zero.count(True),
        as_of=max(record_times),
        revision=0,
        changed=True,
        sag_count=sag.count(True),
        swell_count=swell.count(True),
        voltage_count=len(measured),
        apportioned_count=apportioned.count(True),
        completeness_pct=completeness_pct(len(reads), sum(missing), meters, window),
    )


def _total(values: Iterable[float]) -> float:
    # + 0.0 turns the -0.0 that rounding can give into the 0.0 that people expect to read.
    return round(fsum(values), DECIMALS) + 0.0
