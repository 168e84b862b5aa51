"""An alert on a transformer in a window: what a judgement makes of it."""

from __future__ import annotations

from typing import Literal

from ami_beam.alert_ids import alert_id
from ami_beam.records import Alert, AlertStatus
from transforms.alert_lifecycle import AlertState, advance
from transforms.count_alerts import count_alert


def window_alert(
    source: Literal["COMM", "VOLTAGE"],
    alert_type: str,
    transformer_id: str,
    feeder_id: str | None,
    window_start: int,
    window_end: int,
    as_of: int,
    before: AlertState | None,
    holds: bool,
    value: float | None,
) -> tuple[AlertState, Alert] | None:
    """The state to remember and the alert to publish, which is counted; None where nothing is to be published.

    One alert id per (source, type, transformer, window). Instants in microseconds.
    """
    after = advance(before, holds, value, as_of)
    if after is None:
        return None
    count_alert(alert_type, after.status)
    return after, alert_of(
        source, alert_type, transformer_id, feeder_id, window_start, window_end,
        after.status, after.value, after.revision, after.as_of,
    )  # fmt: skip


def alert_of(
    source: Literal["COMM", "VOLTAGE"],
    alert_type: str,
    transformer_id: str,
    feeder_id: str | None,
    window_start: int,
    window_end: int,
    status: AlertStatus,
    value: float | None,
    revision: int,
    as_of: int,
) -> Alert:
    """The record of an alert that stands like this."""
    return Alert(
        alert_id=alert_id(source, alert_type, transformer_id, window_end),
        alert_source=source,
        entity_id=transformer_id,
        alert_time=window_end,
        alert_type=alert_type,
        detail_value=value,
        severity="WARNING",
        status=status,
        revision=revision,
        as_of=as_of,
        window_start=window_start,
        window_end=window_end,
        feeder_id=feeder_id,
    )
