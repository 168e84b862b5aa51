"""What goes to which topic: the outputs as keyed records, in JSON or Avro."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam

from ami_beam import consumers
from ami_beam.codecs import json_outputs as codec
from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.records import Alert, KeyedRecords
from pipelines.operational import Outputs

Parts = tuple[beam.PCollection[KeyedRecords], ...]


def labelled(name: str, parts: Parts) -> Iterator[tuple[str, beam.PCollection[KeyedRecords]]]:
    """Every part with a label for what is done with it: the name, of further parts with a number."""
    for number, part in enumerate(parts, 1):
        yield name if number == 1 else f"{name} {number}", part


def published(outputs: Outputs, config_id: str, avro: AvroValues | None = None, label: str = "") -> dict[str, Parts]:
    """Every output topic with its records: voltage and receipt alerts are for the grid, event alerts have their own.

    Those of consumers who were not asked for are not there. What comes in several parts is written by several writers.
    `config_id` names the rules of the run on every alert and alarm. `avro` makes the values; JSON where it is None.
    `label` begins the labels of steps, for a graph that has both.
    """

    def _to_records(encode: Callable[..., KeyedRecords], *arguments: Any) -> beam.PTransform:
        value = {} if avro is None else {"value": avro}
        return beam.Map(encode, *arguments, **value).with_output_types(KeyedRecords)

    grid = outputs.alerts | f"{label}GridAlerts" >> beam.Filter(_is_grid).with_output_types(Alert)
    events = outputs.alerts | f"{label}EventAlertsOnly" >> beam.Filter(_is_event).with_output_types(Alert)
    records = {
        codec.SUMMARY_TOPIC: outputs.summaries | f"{label}SummaryJson" >> _to_records(codec.summary_records),
        codec.RECEIPT_TOPIC: outputs.receipts | f"{label}ReceiptJson" >> _to_records(codec.receipt_records),
        codec.GRID_ALERTS_TOPIC: grid | f"{label}GridAlertJson" >> _to_records(codec.alert_records, config_id),
        codec.EVENT_ALERTS_TOPIC: events | f"{label}EventAlertJson" >> _to_records(codec.alert_records, config_id),
        codec.ALARMS_TOPIC: outputs.alarms | f"{label}AlarmJson" >> _to_records(codec.alarm_records, config_id),
        codec.SILENT_METERS_TOPIC: outputs.silent_meters
        | f"{label}SilentMeterJson" >> _to_records(codec.silent_meter_records, config_id),
        codec.DEAD_LETTER_TOPIC: outputs.dead_letters
        | f"{label}DeadLetterJson" >> _to_records(codec.dead_letter_records),
    }
    if outputs.feeders is not None:
        records[consumers.FEEDER_TOPIC] = outputs.feeders | f"{label}FeederJson" >> _to_records(codec.feeder_records)
    if outputs.heatmap is not None:
        records[consumers.HEATMAP_TOPIC] = outputs.heatmap | f"{label}HeatJson" >> _to_records(codec.heat_records)
    parts: dict[str, Parts] = {topic: (one,) for topic, one in records.items()}
    if outputs.validated:
        parts[consumers.VALIDATED_TOPIC] = tuple(
            part | f"{label}{name}" >> _to_records(codec.validated_records)
            for part, name in zip(outputs.validated, ("ValidatedJson", "MeterDayJson"), strict=True)
        )
    if outputs.customers:
        parts[consumers.CUSTOMER_TOPIC] = tuple(
            part | f"{label}{name}" >> _to_records(codec.customer_records)
            for part, name in zip(outputs.customers, ("CustomerMonthJson", "CustomerDayJson"), strict=True)
        )
    return parts


def _is_grid(alert: Alert) -> bool:
    return alert.alert_source != "EVENT"


def _is_event(alert: Alert) -> bool:
    return alert.alert_source == "EVENT"
