"""What goes to which topic: the outputs as keyed JSON records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from ami_beam import consumers
from ami_beam.codecs import json_outputs as codec
from ami_beam.records import Alert, KeyedRecords
from pipelines.operational import Outputs

Parts = tuple[beam.PCollection[KeyedRecords], ...]


def published(outputs: Outputs, config_id: str) -> dict[str, Parts]:
    """Every output topic with its records: voltage and receipt alerts are for the grid, event alerts have their own.

    Those of consumers who were not asked for are not there. What comes in several parts is written by several writers.
    `config_id` names the rules of the run on every alert and alarm.
    """
    grid = outputs.alerts | "GridAlerts" >> beam.Filter(_is_grid).with_output_types(Alert)
    events = outputs.alerts | "EventAlertsOnly" >> beam.Filter(_is_event).with_output_types(Alert)
    records = {
        codec.SUMMARY_TOPIC: outputs.summaries | "SummaryJson" >> _to_records(codec.summary_records),
        codec.RECEIPT_TOPIC: outputs.receipts | "ReceiptJson" >> _to_records(codec.receipt_records),
        codec.GRID_ALERTS_TOPIC: grid | "GridAlertJson" >> _to_records(codec.alert_records, config_id),
        codec.EVENT_ALERTS_TOPIC: events | "EventAlertJson" >> _to_records(codec.alert_records, config_id),
        codec.ALARMS_TOPIC: outputs.alarms | "AlarmJson" >> _to_records(codec.alarm_records, config_id),
        codec.SILENT_METERS_TOPIC: outputs.silent_meters
        | "SilentMeterJson" >> _to_records(codec.silent_meter_records, config_id),
        codec.DEAD_LETTER_TOPIC: outputs.dead_letters | "DeadLetterJson" >> _to_records(codec.dead_letter_records),
    }
    if outputs.feeders is not None:
        records[consumers.FEEDER_TOPIC] = outputs.feeders | "FeederJson" >> _to_records(codec.feeder_records)
    if outputs.heatmap is not None:
        records[consumers.HEATMAP_TOPIC] = outputs.heatmap | "HeatJson" >> _to_records(codec.heat_records)
    parts: dict[str, Parts] = {topic: (one,) for topic, one in records.items()}
    if outputs.validated:
        parts[consumers.VALIDATED_TOPIC] = tuple(
            part | label >> _to_records(codec.validated_records)
            for part, label in zip(outputs.validated, ("ValidatedJson", "MeterDayJson"), strict=True)
        )
    if outputs.customers:
        parts[consumers.CUSTOMER_TOPIC] = tuple(
            part | label >> _to_records(codec.customer_records)
            for part, label in zip(outputs.customers, ("CustomerMonthJson", "CustomerDayJson"), strict=True)
        )
    return parts


def _to_records(encode: Callable[..., KeyedRecords], *arguments: Any) -> beam.PTransform:
    return beam.Map(encode, *arguments).with_output_types(KeyedRecords)


def _is_grid(alert: Alert) -> bool:
    return alert.alert_source != "EVENT"


def _is_event(alert: Alert) -> bool:
    return alert.alert_source == "EVENT"
