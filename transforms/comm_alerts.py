"""COMM alerts: a transformer from whose meters too few reads were received."""

from __future__ import annotations

from ami_beam.alert_ids import alert_id
from ami_beam.records import Alert, ReceiptRow
from transforms.alert_lifecycle import AlertState, advance
from transforms.count_alerts import count_alert

LOW_RECEIPT_RATE = "LOW_RECEIPT_RATE"


def comm_alert(row: ReceiptRow, before: AlertState | None, limit: float) -> tuple[AlertState, Alert] | None:
    """What follows from a receipt row: LOW_RECEIPT_RATE holds while receipt_rate_pct, as published, is below `limit`.

    One alert id per (transformer, window). None where nothing is to be published; else the state to remember, and the
    alert, which is counted.
    """
    holds = row.receipt_rate_pct < limit
    after = advance(before, holds, row.receipt_rate_pct)
    if after is None:
        return None
    count_alert(LOW_RECEIPT_RATE, after.status)
    return after, Alert(
        alert_id=alert_id("COMM", LOW_RECEIPT_RATE, row.transformer_id, row.window_end),
        alert_source="COMM",
        entity_id=row.transformer_id,
        alert_time=row.window_end,
        alert_type=LOW_RECEIPT_RATE,
        detail_value=row.receipt_rate_pct,
        severity="WARNING",
        status=after.status,
        revision=after.revision,
        as_of=row.as_of,
        window_start=row.window_start,
        window_end=row.window_end,
        feeder_id=row.feeder_id,
    )
