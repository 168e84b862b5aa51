"""What the winning reads of one transformer and one window say: sums, counts and voltages per feeder.

Sums are exact (`math.fsum`) before they are rounded to 6 decimals, so the result does not depend on the order of
the reads. Minimum and maximum stay as they were sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from ami_beam.codecs.read_block import PackedRead
from ami_beam.records import FeederStatistics

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
