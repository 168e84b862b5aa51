"""The light checks of billing that need only the stream: of a read alone, and of a meter's whole day.

They mark and never change anything. That of spikes is the one that California's "Standards for Validating, Editing, and
Estimating Monthly and Interval Data" ask for: a day's highest peak may be 180 % above its third highest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ami_beam.codecs.json_reads import BALANCE_TOLERANCE_KWH
from ami_beam.codecs.meter_block import MeterColumns
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.read_columns import Flags, Floats, Ints
from ami_beam.records import MeterDay
from ami_beam.settings import Settings

IMPLAUSIBLE, NEGATIVE, UNBALANCED = "IMPLAUSIBLE", "NEGATIVE", "UNBALANCED"
ESTIMATED, GAP, SPIKE, SUM_MISMATCH, ZERO_RUN = "ESTIMATED", "GAP", "SPIKE", "SUM_MISMATCH", "ZERO_RUN"

ESPI_QUESTIONABLE, ESPI_DERIVED, ESPI_RAW = 10, 11, 14
"""Of ESPI's QualityOfReading (NAESB REQ.21): failed a check; calculated and not measured; not gone through the process
of validation, editing and estimation. Nothing here is 0, valid, or 17, validated: that is for the MDMS to say."""

MOST_KWH = 1e6
"""More in an interval is never added up, whatever --max_interval_kwh is: sums stay inside 64 bits."""
SPIKE_RATIO, SPIKE_LEAST_KWH = 2.8, 0.1
"""Of the third highest; peaks below so much are none."""
ZERO_RUN_LENGTH = 12 * MICROS_PER_HOUR
"""So long without any energy is worth a look: no supply, nobody there, or a meter that counts no more."""
SUM_TOLERANCE_KWH, SUM_TOLERANCE = 0.01, 0.001
"""Between the intervals and the register of a day: the greater of so many kWh and this part of the register."""
NANO_KWH = 1_000_000_000
NANO_PER_MICRO = 1_000

_PER = 15 * MICROS_PER_MINUTE


def implausible(columns: MeterColumns, settings: Settings) -> Flags:
    """Whether an energy is beyond what --max_interval_kwh allows: such a read is not added up, and is a gap."""
    length = columns.interval_end - columns.interval_start
    most = np.minimum(settings.max_interval_kwh * (length / _PER), MOST_KWH)
    greatest = np.maximum(np.abs(columns.delivered_kwh), np.abs(columns.received_kwh))
    return np.maximum(greatest, np.abs(columns.consumption_kwh)) > most


class Checked(NamedTuple):
    """What the checks of single reads find."""

    flags: list[list[str]]
    """By read, sorted."""
    espi_quality: list[int]


def checked(columns: MeterColumns, settings: Settings) -> Checked:
    """The flags of each read, and its quality in ESPI's codes. A negative consumption alone is nothing to doubt."""
    net = columns.delivered_kwh - columns.received_kwh
    # Head-ends send for consumption the net energy, nothing where that is negative, or what was delivered; and some
    # leave the other two at 0.
    usual = [np.abs(columns.consumption_kwh - each) for each in (net, np.maximum(net, 0), columns.delivered_kwh)]
    balanced = np.minimum.reduce(usual) <= BALANCE_TOLERANCE_KWH
    balanced |= (columns.delivered_kwh == 0) & (columns.received_kwh == 0)
    beyond = implausible(columns, settings)
    found: list[list[str]] = [[] for _ in range(len(columns))]
    for name, marked in ((IMPLAUSIBLE, beyond), (NEGATIVE, columns.consumption_kwh < 0), (UNBALANCED, ~balanced)):
        for place in np.flatnonzero(marked).tolist():
            found[place].append(name)
    unless = np.where(columns.estimated, ESPI_DERIVED, ESPI_RAW)
    return Checked(found, np.where(beyond | ~balanced, ESPI_QUESTIONABLE, unless).tolist())


def nano_kwh(kwh: Floats) -> Ints:
    """Whole billionths, which add up exactly."""
    return np.rint(kwh * NANO_KWH).astype(np.int64)


def checked_day(
    meter_id: str,
    day: str,
    bounds: tuple[int, int],
    starts: Ints,
    ends: Ints,
    consumption: Floats,
    delivered: Floats,
    received: Floats,
    estimated: Flags,
    as_of: int,
    register_kwh: float | None,
) -> MeterDay:
    """What the checks of a meter's day find, its `revision` 0. The intervals are those that count, in order of start.

    Args:
      bounds: the instants at which the day begins and ends.
      register_kwh: consumption by the day's DAILY read.
    """
    count = len(starts)
    begins, over = bounds
    length = _usual(ends - starts) if count else _PER
    gaps = _gaps(starts, ends, begins, over)
    run = _longest(((consumption == 0) & (delivered == 0) & (received == 0)), ends - starts)
    spikes = _spikes(consumption)
    total = float(nano_kwh(consumption).sum()) / NANO_KWH
    flags = [
        name
        for name, marked in (
            (ESTIMATED, bool(estimated.any())),
            (GAP, bool(gaps)),
            (NEGATIVE, bool((consumption < 0).any())),
            (SPIKE, bool(len(spikes))),
            (SUM_MISMATCH, register_kwh is not None and _differ(total, register_kwh)),
            (ZERO_RUN, run[1] >= ZERO_RUN_LENGTH),
        )
        if marked
    ]
    return MeterDay(
        meter_id=meter_id,
        day=day,
        intervals_expected=-(-(over - begins) // length),
        intervals_reported=count,
        intervals_estimated=int(estimated.sum()),
        consumption_kwh=round(total, 6),
        delivered_kwh=round(float(nano_kwh(delivered).sum()) / NANO_KWH, 6),
        received_kwh=round(float(nano_kwh(received).sum()) / NANO_KWH, 6),
        register_kwh=register_kwh,
        missing_minutes=sum(end - start for start, end in gaps) // MICROS_PER_MINUTE,
        first_gap=gaps[0][0] if gaps else None,
        longest_zero_run=run[0],
        spikes=len(spikes),
        first_spike=int(ends[spikes[0]]) if len(spikes) else None,
        flags=flags,
        as_of=as_of,
        revision=0,
    )


def _usual(lengths: Ints) -> int:
    """The length that most have; of several the shortest."""
    different, counts = np.unique(lengths, return_counts=True)
    return int(different[counts.argmax()])


def _gaps(starts: Ints, ends: Ints, begins: int, over: int) -> list[tuple[int, int]]:
    """What no interval covers, from the first to the last."""
    gaps, covered = [], begins
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if start > covered:
            gaps.append((covered, start))
        covered = max(covered, end)
    if covered < over:
        gaps.append((covered, over))
    return gaps


def _longest(zero: Flags, lengths: Ints) -> tuple[int, int]:
    """The longest run of intervals in a row: how many, and how long, microseconds."""
    best = run = (0, 0)
    for is_zero, length in zip(zero.tolist(), lengths.tolist(), strict=True):
        run = (run[0] + 1, run[1] + length) if is_zero else (0, 0)
        best = max(best, run)
    return best


def _spikes(consumption: Floats) -> Ints:
    if len(consumption) < 3:
        return np.zeros(0, np.int64)
    third = np.partition(consumption, -3)[-3]
    return np.flatnonzero((consumption > SPIKE_RATIO * third) & (consumption >= SPIKE_LEAST_KWH))


def _differ(total: float, register_kwh: float) -> bool:
    return abs(total - register_kwh) > max(SUM_TOLERANCE_KWH, SUM_TOLERANCE * abs(register_kwh)) + 1e-9
