"""What the winning reads of one transformer and one window say: sums, counts and voltages per feeder.

Sums are exact (`math.fsum`) before they are rounded to 6 decimals, so the result does not depend on the order of
the reads. Minimum and maximum stay as they were sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from math import fsum
from operator import attrgetter

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
    by_feeder = sorted(reads, key=attrgetter("feeder_id"))
    feeders = [_of_feeder(feeder_id, list(group)) for feeder_id, group in groupby(by_feeder, attrgetter("feeder_id"))]
    return Measured(
        feeders=feeders,
        meters_reported=len({read.meter_id for read in by_feeder}),
        actual_meters_reported=len({read.meter_id for read in by_feeder if read.actual}),
        as_of=max(feeder.as_of for feeder in feeders),
    )


def emptied(feeder_id: str, as_of: int) -> FeederStatistics:
    """A pair that was published and has lost its last read to another feeder."""
    return FeederStatistics(feeder_id, 0.0, 0.0, 0.0, 0, None, None, None, 0, 0, 0, as_of, 0, True)


def _of_feeder(feeder_id: str, reads: list[PackedRead]) -> FeederStatistics:
    voltages = [read.voltage_v for read in reads if read.voltage_v is not None]
    return FeederStatistics(
        feeder_id=feeder_id,
        total_consumption_kwh=_total(read.consumption_kwh for read in reads),
        total_delivered_kwh=_total(read.delivered_kwh for read in reads),
        total_received_kwh=_total(read.received_kwh for read in reads),
        meters_reported=len({read.meter_id for read in reads}),
        avg_voltage_v=round(fsum(voltages) / len(voltages), DECIMALS) if voltages else None,
        min_voltage_v=min(voltages, default=None),
        max_voltage_v=max(voltages, default=None),
        estimated_count=sum(not read.actual for read in reads),
        voltage_rejected_count=sum(read.voltage_rejected for read in reads),
        zero_voltage_count=sum(read.zero_voltage for read in reads),
        as_of=max(read.record_time for read in reads),
        revision=0,
        changed=True,
    )


def _total(values: Iterable[float]) -> float:
    # + 0.0 turns the -0.0 that rounding can give into the 0.0 that people expect to read.
    return round(fsum(values), DECIMALS) + 0.0
