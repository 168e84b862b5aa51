"""Rows as the pipeline publishes them, for tests of the operators' screen: short to write, complete to read."""

from __future__ import annotations

from typing import Any

from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import Alarm, Alert, ReceiptRow, SummaryRow

WINDOW = 15 * MICROS_PER_MINUTE
START = 1_772_496_000_000_000
"""2026-03-03T00:00:00Z."""
ARRIVED = 5 * MICROS_PER_MINUTE
"""How long after a window's end its rows' reads had arrived."""


def end_of(number: int) -> int:
    """Window 1 ends at 00:15."""
    return START + number * WINDOW


def summary(
    transformer: str, feeder: str, number: int, low: float | None, high: float | None, **others: Any
) -> SummaryRow:
    """Of a window; `as_of` in microseconds after the usual arrival."""
    end = end_of(number)
    as_of = end + ARRIVED + others.pop("as_of", 0)
    mean = None if low is None or high is None else (low + high) / 2
    fields: dict[str, Any] = {
        "transformer_id": transformer, "feeder_id": feeder, "window_start": end - WINDOW, "window_end": end,
        "total_consumption_kwh": 1.5, "total_delivered_kwh": 2.0, "total_received_kwh": 0.5, "meters_reported": 3,
        "avg_voltage_v": mean, "min_voltage_v": low, "max_voltage_v": high, "estimated_count": 0,
        "voltage_rejected_count": 0, "zero_voltage_count": 0, "as_of": as_of, "revision": 0,
    }  # fmt: skip
    return SummaryRow(**(fields | others))


def receipt(transformer: str, feeder: str | None, number: int, heard: int, total: int, **others: Any) -> ReceiptRow:
    """Of a window; `as_of` as above."""
    end = end_of(number)
    as_of = end + ARRIVED + others.pop("as_of", 0)
    fields: dict[str, Any] = {
        "transformer_id": transformer, "feeder_id": feeder, "window_start": end - WINDOW, "window_end": end,
        "meters_reported": heard, "total_meters": total, "receipt_rate_pct": 0.0, "actual_meters_reported": heard,
        "actual_rate_pct": 0.0, "as_of": as_of, "revision": 0,
    }  # fmt: skip
    return ReceiptRow(**(fields | others))


def alarm(identity: str, entity: str = "TR-1", **others: Any) -> Alarm:
    """Low voltage in window 1, active, unless said otherwise."""
    fields: dict[str, Any] = {
        "alarm_id": identity, "alarm_type": "LOW_VOLTAGE", "entity_id": entity, "feeder_id": "F1", "state": "ACTIVE",
        "severity": "WARNING", "first_window": end_of(1), "last_window": end_of(2), "worst_value": 199.5,
        "windows_in_violation": 2, "meters_in_violation": 1, "worst_meter_id": "M-1", "meters_missing": 0,
        "cause": None, "revision": 0, "as_of": end_of(2) + ARRIVED,
    }  # fmt: skip
    return Alarm(**(fields | others))


def alert(identity: str, entity: str, number: int, **others: Any) -> Alert:
    """Low voltage in a window, unless said otherwise."""
    end = end_of(number)
    fields: dict[str, Any] = {
        "alert_id": identity, "alert_source": "VOLTAGE", "entity_id": entity, "alert_time": end,
        "alert_type": "LOW_VOLTAGE", "detail_value": 199.5, "severity": "WARNING", "status": "RAISED", "revision": 0,
        "as_of": end + ARRIVED, "window_start": end - WINDOW, "window_end": end, "feeder_id": "F1",
    }  # fmt: skip
    return Alert(**(fields | others))
