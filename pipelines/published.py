"""What goes to which topic: the operational outputs as keyed JSON records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from ami_beam.codecs import json_outputs as codec
from ami_beam.records import Alert
from pipelines.operational import Outputs

Records = tuple[bytes, bytes]
"""(partition key, JSON value)."""


def published(outputs: Outputs) -> dict[str, beam.PCollection[Records]]:
    """Every output topic with its records: voltage and receipt alerts are for the grid, event alerts have their own."""
    grid = outputs.alerts | "GridAlerts" >> beam.Filter(_is_grid).with_output_types(Alert)
    events = outputs.alerts | "EventAlertsOnly" >> beam.Filter(_is_event).with_output_types(Alert)
    return {
        codec.SUMMARY_TOPIC: outputs.summaries | "SummaryJson" >> _to_records(codec.summary_record),
        codec.RECEIPT_TOPIC: outputs.receipts | "ReceiptJson" >> _to_records(codec.receipt_record),
        codec.GRID_ALERTS_TOPIC: grid | "GridAlertJson" >> _to_records(codec.alert_record),
        codec.EVENT_ALERTS_TOPIC: events | "EventAlertJson" >> _to_records(codec.alert_record),
        codec.DEAD_LETTER_TOPIC: outputs.dead_letters | "DeadLetterJson" >> _to_records(codec.dead_letter_record),
    }


def _to_records(encode: Callable[[Any], Records]) -> beam.PTransform:
    return beam.Map(encode).with_output_types(tuple[bytes, bytes])


def _is_grid(alert: Alert) -> bool:
    return alert.alert_source != "EVENT"


def _is_event(alert: Alert) -> bool:
    return alert.alert_source == "EVENT"
