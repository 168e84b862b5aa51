"""Event alerts: many events of a kind from one meter in one hour, and events that come late."""

from __future__ import annotations

import json
import random
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline

from ami_beam.alert_ids import event_alert_id
from ami_beam.codecs.json_outputs import alert_json, parse_alert
from ami_beam.instants import MICROS_PER_MINUTE, MICROS_PER_SECOND, format_instant
from ami_beam.records import Alert, RecordBatch
from ami_beam.settings import Settings
from transforms.decode_events import DecodeEvents
from transforms.event_alerts import EventAlerts

HOUR = 1_772_532_000_000_000
TAMPER, POWER_QUALITY = 2048, 1024

_found: list[Alert] = []


def batch(*events: tuple[int, int, int]) -> RecordBatch:
    """(code, seconds into the hour, seconds until it arrives)."""
    values = [
        json.dumps(
            {"meter_id": "M1", "event_code": code, "event_ts": format_instant(HOUR + at * MICROS_PER_SECOND)}
        ).encode()
        for code, at, _ in events
    ]
    times: list[int | None] = [HOUR + (at + late) * MICROS_PER_SECOND for _, at, late in events]
    return RecordBatch("events", [0] * len(values), list(range(len(values))), times, values)


def alerts_of(*events: tuple[int, int, int]) -> list[Alert]:
    _found.clear()
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        records = pipeline | beam.Create([batch(*events)], reshuffle=False).with_output_types(RecordBatch)
        accepted = (records | DecodeEvents(Settings())).accepted
        _ = accepted | EventAlerts(Settings()) | beam.Map(_keep)
    return list(_found)


def _keep(alert: Any) -> None:
    _found.append(alert)


def holding(alerts: list[Alert]) -> dict[str, Alert]:
    last = {alert.alert_id: alert for alert in sorted(alerts, key=lambda alert: alert.revision)}
    return {name: alert for name, alert in last.items() if alert.status != "CLEARED"}


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_ten_earliest_have_an_alert_each_and_all_of_them_one(seed):
    events = [(TAMPER, second * 60, 5) for second in range(14)] + [(POWER_QUALITY, 30, 5)]
    if seed is None:
        events.reverse()
    else:
        random.Random(seed).shuffle(events)
    held = holding(alerts_of(*events))
    expected = {event_alert_id("M1", TAMPER, HOUR + minute * MICROS_PER_MINUTE) for minute in range(10)}
    expected.add(event_alert_id("M1", POWER_QUALITY, HOUR + 30 * MICROS_PER_SECOND))
    (repeated,) = (alert for alert in held.values() if alert.alert_type.startswith("REPEATED"))
    assert set(held) == expected | {repeated.alert_id}
    assert (repeated.alert_type, repeated.detail_value, repeated.alert_time) == ("REPEATED_TAMPER", 14, HOUR)
    assert (repeated.entity_id, repeated.event_type, repeated.event_code) == ("M1", "TAMPER", None)
    assert parse_alert(alert_json(repeated)) == repeated


def test_ten_are_ten_and_a_resent_one_is_none():
    events = [(TAMPER, second, 5) for second in range(10)]
    alerts = alerts_of(*events, *events)
    assert [alert.status for alert in alerts] == ["RAISED"] * 10
    # Another hour is another matter.
    assert len(alerts_of(*events, (TAMPER, 3600, 5))) == 11


def test_an_event_is_late_when_it_is_more_than_an_hour_old():
    (prompt,) = alerts_of((TAMPER, 0, 3600))
    (late,) = alerts_of((TAMPER, 0, 3601))
    assert (prompt.late, late.late) == (False, True)
    assert parse_alert(alert_json(late)) == late
