"""COMM alerts: a transformer from whose meters too few reads were received."""

from __future__ import annotations

from ami_beam.records import Alert, ReceiptRow
from transforms.alert_lifecycle import AlertState
from transforms.window_alert import window_alert

LOW_RECEIPT_RATE = "LOW_RECEIPT_RATE"


def comm_alert(row: ReceiptRow, before: AlertState | None, limit: float) -> tuple[AlertState, Alert] | None:
    """What follows from a receipt row: LOW_RECEIPT_RATE holds while receipt_rate_pct, as published, is below `limit`.

    None where nothing is to be published; else the state to remember, and the alert.
    """
    holds = row.receipt_rate_pct < limit
    return window_alert(
        "COMM", LOW_RECEIPT_RATE, row.transformer_id, row.feeder_id, row.window_start, row.window_end, row.as_of,
        before, holds, row.receipt_rate_pct,
    )  # fmt: skip
