"""What transformers add up to, and the row that says so. Adding is exact and does not depend on the order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from ami_beam.records import FeederHeat, FeederRow, PairTotals, SegmentTotals
from transforms.receipt_rate import receipt_rate_pct

MILLIONTHS = 1_000_000
Row = TypeVar("Row", FeederRow, FeederHeat)


def add(totals: SegmentTotals, other: SegmentTotals) -> None:
    """Add `other` to `totals`."""
    _add_measured(totals, other)
    totals.transformers_reported += other.transformers_reported
    totals.meters_judged += other.meters_judged
    totals.meters_expected += other.meters_expected
    totals.transformers_expected += other.transformers_expected
    totals.transformers_in_violation += other.transformers_in_violation


def add_pair(totals: SegmentTotals, pair: PairTotals) -> None:
    """Add what a transformer's meters on this feeder measured; it counts as reported where most of them are."""
    _add_measured(totals, pair)
    totals.transformers_reported += pair.main


def _add_measured(totals: SegmentTotals, part: SegmentTotals | PairTotals) -> None:
    totals.consumption += part.consumption
    totals.delivered += part.delivered
    totals.received += part.received
    totals.meters_reported += part.meters_reported
    totals.voltage_sum += part.voltage_sum
    totals.voltage_count += part.voltage_count
    totals.min_voltage_v = _either(min, totals.min_voltage_v, part.min_voltage_v)
    totals.max_voltage_v = _either(max, totals.max_voltage_v, part.max_voltage_v)
    totals.as_of = max(totals.as_of, part.as_of)


def _either(choose: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def row_of(feeder_id: str | None, window_start: int, window_end: int, totals: SegmentTotals) -> FeederRow:
    """The first row of a feeder, or of the system where that is None."""
    return FeederRow(
        segment="SYSTEM" if feeder_id is None else "FEEDER",
        feeder_id=feeder_id,
        window_start=window_start,
        window_end=window_end,
        total_consumption_kwh=totals.consumption / MILLIONTHS,
        total_delivered_kwh=totals.delivered / MILLIONTHS,
        total_received_kwh=totals.received / MILLIONTHS,
        meters_reported=totals.meters_reported,
        meters_expected=totals.meters_expected,
        receipt_rate_pct=receipt_rate_pct(totals.meters_judged, totals.meters_expected)
        if totals.meters_expected
        else None,
        avg_voltage_v=_mean(totals.voltage_sum, totals.voltage_count),
        min_voltage_v=totals.min_voltage_v,
        max_voltage_v=totals.max_voltage_v,
        transformers_reported=totals.transformers_reported,
        transformers_expected=totals.transformers_expected,
        transformers_in_violation=totals.transformers_in_violation,
        as_of=totals.as_of,
        revision=0,
    )


def _mean(millionths: int, count: int) -> float | None:
    """In volts, rounded to a millionth, half up."""
    return (2 * millionths + count) // (2 * count) / MILLIONTHS if count else None


def revised(row: Row, before: Row | None) -> Row | None:
    """The row to publish after `before`; None where it says nothing new. as_of never goes back."""
    if before is None:
        return row
    row.as_of = max(row.as_of, before.as_of)
    row.revision = before.revision
    if row == before:
        return None
    return replace(row, revision=before.revision + 1)
