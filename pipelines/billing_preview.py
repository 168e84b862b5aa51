"""What billing and customers get: the reads that count, days of meters, and what customers have used."""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam

from ami_beam.read_columns import ReadColumns
from ami_beam.records import CustomerBatch, ValidatedBatch
from ami_beam.settings import Settings
from transforms.customer_days import CustomerDays
from transforms.customer_months import CustomerMonths
from transforms.late_meter_reads import GatherLateMeterReads
from transforms.meter_days import MeterDays
from transforms.pack_meter_reads import PackMeterReads
from transforms.validate_reads import ValidateReads


class BillingPreview(NamedTuple):
    """None what no consumer has asked for."""

    validated: beam.PCollection[ValidatedBatch] | None
    customers: beam.PCollection[CustomerBatch] | None


def billing_preview(reads: beam.PCollection[ReadColumns], settings: Settings) -> BillingPreview:
    """From the reads that billing takes, by meter, to rows of intervals, days and months."""
    packed = reads | "PackMeterReads" >> PackMeterReads(settings)
    late = packed.late | "GatherLateMeterReads" >> GatherLateMeterReads(settings)
    blocks = (packed.on_time, late) | "AllMeterBlocks" >> beam.Flatten()
    intervals = blocks | "ValidateReads" >> ValidateReads(settings)
    validated = customers = None
    if intervals.rows is not None:
        days = (intervals.meter_days, packed.registers) | "MeterDays" >> MeterDays(settings)
        validated = (intervals.rows, days) | "ValidatedRows" >> beam.Flatten()
    if intervals.customers is not None:
        of_days = intervals.customers | "CustomerDays" >> CustomerDays(settings)
        of_months = of_days.changes | "CustomerMonths" >> CustomerMonths(settings)
        customers = (of_days.rows, of_months) | "CustomerRows" >> beam.Flatten()
    return BillingPreview(validated, customers)
