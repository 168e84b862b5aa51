"""The light checks of billing that need only the stream: of a read alone, and of a meter's whole day.

They mark and never change anything. That of spikes is the one that California's "Standards for Validating, Editing, and
Estimating Monthly and Interval Data" ask for: a day's highest peak may be 180 % above its third highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ami_beam.codecs.billing_batches import READ_FLAGS
from ami_beam.codecs.day_reads import DayColumns
from ami_beam.codecs.json_reads import BALANCE_TOLERANCE_KWH
from ami_beam.codecs.meter_block import MeterColumns
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.read_columns import Flags, Floats, Ints
from ami_beam.records import MeterDay
from ami_beam.settings import Settings

IMPLAUSIBLE, NEGATIVE, UNBALANCED = READ_FLAGS
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

    flags: Ints
    """By read, a bit for each of `READ_FLAGS`."""
    espi_quality: Ints


def checked(columns: MeterColumns, settings: Settings) -> Checked:
    """The flags of each read, and its quality in ESPI's codes. A negative consumption alone is nothing to doubt."""
    net = columns.delivered_kwh - columns.received_kwh
    # Head-ends send for consumption the net energy, nothing where that is negative, or what was delivered; and some
    # leave the other two at 0.
    usual = [np.abs(columns.consumption_kwh - each) for each in (net, np.maximum(net, 0), columns.delivered_kwh)]
    balanced = np.minimum.reduce(usual) <= BALANCE_TOLERANCE_KWH
    balanced |= (columns.delivered_kwh == 0) & (columns.received_kwh == 0)
    beyond = implausible(columns, settings)
    marked = {IMPLAUSIBLE: beyond, NEGATIVE: columns.consumption_kwh < 0, UNBALANCED: ~balanced}
    found = np.zeros(len(columns), np.int64)
    for bit, name in enumerate(READ_FLAGS):
        found |= marked[name].astype(np.int64) << bit
    unless = np.where(columns.estimated, ESPI_DERIVED, ESPI_RAW)
    return Checked(found, np.where(beyond | ~balanced, ESPI_QUESTIONABLE, unless))


def nano_kwh(kwh: Floats) -> Ints:
    """Whole billionths, which add up exactly."""
    return np.rint(kwh * NANO_KWH).astype(np.int64)


def checked_days(
    known: DayColumns, day: str, bounds: tuple[int, int], registers: Mapping[str, tuple[float, int]]
) -> list[MeterDay]:
    """What the checks of each meter's day find, a row a meter, their `revision` 0.

    Args:
      known: the intervals, in order of meter and start. What is gone does not count, but its record time does.
      bounds: the instants at which the day begins and ends.
      registers: (consumption by the day's DAILY read, record time), by meter.
    """
    if not len(known):
        return []
    begins, over = bounds
    places = {meter_id: place for place, meter_id in enumerate(dict.fromkeys(known.meter_id))}
    meter = np.fromiter(map(places.__getitem__, known.meter_id), np.int64, len(known))
    meters = list(places)
    as_of = np.maximum.reduceat(known.record_time, _firsts(meter)).tolist()
    here = np.flatnonzero(~known.gone)
    found = {name: values.tolist() for name, values in _by_meter(known, meter, here, len(meters), bounds).items()}
    rows = []
    for place, meter_id in enumerate(meters):
        register_kwh, register_at = registers.get(meter_id, (None, 0))
        count = found["count"][place]
        total = found["consumption"][place] / NANO_KWH
        spikes, missing = found["spikes"][place], found["missing"][place]
        flags = [
            name
            for name, marked in (
                (ESTIMATED, found["estimated"][place] > 0),
                (GAP, missing > 0),
                (NEGATIVE, found["negative"][place] > 0),
                (SPIKE, spikes > 0),
                (SUM_MISMATCH, register_kwh is not None and _differ(total, register_kwh)),
                (ZERO_RUN, found["zero_length"][place] >= ZERO_RUN_LENGTH),
            )
            if marked
        ]
        rows.append(
            MeterDay(
                meter_id=meter_id,
                day=day,
                intervals_expected=-(-(over - begins) // found["usual"][place]),
                intervals_reported=count,
                intervals_estimated=found["estimated"][place],
                consumption_kwh=round(total, 6),
                delivered_kwh=round(found["delivered"][place] / NANO_KWH, 6),
                received_kwh=round(found["received"][place] / NANO_KWH, 6),
                register_kwh=register_kwh,
                missing_minutes=missing // MICROS_PER_MINUTE,
                first_gap=found["first_gap"][place] if missing else None,
                longest_zero_run=found["zero_run"][place],
                spikes=spikes,
                first_spike=found["first_spike"][place] if spikes else None,
                flags=flags,
                as_of=max(as_of[place], register_at),
                revision=0,
            )
        )
    return rows


def _firsts(numbers: Ints) -> Ints:
    """Where each number begins; equal ones follow each other."""
    return np.flatnonzero(np.concatenate(([True], np.diff(numbers) != 0)))


def _by_meter(
    known: DayColumns, meter: Ints, here: Ints, meters: int, bounds: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What is counted, added up and looked for, a value a meter; of the intervals at `here`, those that count."""
    begins, over = bounds
    found = {
        name: np.zeros(meters, np.int64)
        for name in (
            "count", "estimated", "negative", "consumption", "delivered", "received", "zero_run", "zero_length",
            "spikes", "first_spike",
        )
    }  # fmt: skip
    found |= {"usual": np.full(meters, _PER), "missing": np.full(meters, over - begins)}
    found["first_gap"] = np.full(meters, begins)
    if not len(here):
        return found
    meter, start, end = meter[here], known.start[here], known.end[here]
    first = _firsts(meter)
    whose = meter[first]

    def add_up(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values.astype(np.int64), first)

    consumption = known.consumption_kwh[here]
    found["count"][whose] = add_up(np.ones(len(here)))
    found["estimated"][whose] = add_up(known.estimated[here])
    found["negative"][whose] = add_up(consumption < 0)
    for name, kwh in (("consumption", consumption), ("delivered", known.delivered_kwh[here]),
                      ("received", known.received_kwh[here])):  # fmt: skip
        found[name][whose] = add_up(nano_kwh(kwh))
    found["usual"][whose] = _usual(end - start, first)

    covered, last = _covered(start, end, first, begins)
    gap = np.maximum(start - covered, 0)
    tail = np.maximum(over - last, 0)
    found["missing"][whose] = add_up(gap) + tail
    where = np.where(gap > 0, covered, np.iinfo(np.int64).max)
    found["first_gap"][whose] = np.minimum(np.minimum.reduceat(where, first), np.where(tail > 0, last, over))

    zero = (consumption == 0) & (known.delivered_kwh[here] == 0) & (known.received_kwh[here] == 0)
    for name, lengths in (("zero_run", np.ones(len(here), np.int64)), ("zero_length", end - start)):
        found[name][whose] = np.maximum.reduceat(_runs(zero, lengths, first), first)

    spike = _spikes(consumption, meter, first)
    found["spikes"][whose] = add_up(spike)
    found["first_spike"][whose] = np.minimum.reduceat(np.where(spike, end, np.iinfo(np.int64).max), first)
    return found


def _usual(lengths: Ints, first: Ints) -> Ints:
    """The length that most intervals of each meter have; of several the shortest."""
    found = lengths[first].copy()
    different = np.flatnonzero(np.maximum.reduceat(lengths, first) != np.minimum.reduceat(lengths, first))
    after = [*first[1:].tolist(), len(lengths)]
    for place in different.tolist():
        each, counts = np.unique(lengths[first[place] : after[place]], return_counts=True)
        found[place] = each[counts.argmax()]
    return found


def _covered(start: Ints, end: Ints, first: Ints, begins: int) -> tuple[Ints, Ints]:
    """Up to where the day is covered before each interval of a meter, and after all of them."""
    number = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(start))))
    # Each meter's ends are moved beyond all of the one before, so that one pass finds the greatest so far of each.
    apart = (max(int(end.max()), begins) - min(int(start.min()), begins) + 1) * number
    greatest = np.maximum.accumulate(np.maximum(end, begins) + apart) - apart
    before = np.concatenate(([begins], greatest[:-1]))
    before[first] = begins
    return before, np.append(greatest[first[1:] - 1], greatest[-1])


def _runs(marked: Flags, lengths: Ints, first: Ints) -> Ints:
    """How long the run of marked intervals is that ends with each interval; runs do not go from meter to meter."""
    total = np.cumsum(np.where(marked, lengths, 0))
    # What was added up before the run: at the last interval that is not marked, or before the meter's first.
    base = np.where(marked, 0, total)
    base[first] = np.where(marked[first], total[first] - lengths[first], total[first])
    return total - np.maximum.accumulate(base)


def _spikes(consumption: Floats, meter: Ints, first: Ints) -> Flags:
    """Which intervals stand out of their meter's third highest; of a meter with less than three none does."""
    counts = np.diff(np.append(first, len(meter)))
    order = np.lexsort((-consumption, meter))
    third = np.full(len(first), np.inf)
    enough = counts >= 3
    third[enough] = consumption[order[first[enough] + 2]]
    return (consumption > SPIKE_RATIO * np.repeat(third, counts)) & (consumption >= SPIKE_LEAST_KWH)


def _differ(total: float, register_kwh: float) -> bool:
    return abs(total - register_kwh) > max(SUM_TOLERANCE_KWH, SUM_TOLERANCE * abs(register_kwh)) + 1e-9
