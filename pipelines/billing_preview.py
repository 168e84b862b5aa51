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
    """Empty what no consumer has asked for.

    In parts, each from another step: Flink would carry every row from step to writer and back to put them together.
    """

    validated: tuple[beam.PCollection[ValidatedBatch], ...] = ()
    customers: tuple[beam.PCollection[CustomerBatch], ...] = ()


def billing_preview(reads: beam.PCollection[ReadColumns], settings: Settings) -> BillingPreview:
    """From the reads that billing takes, by meter, to rows of intervals, days and months."""
    packed = reads | "PackMeterReads" >> PackMeterReads(settings)
    late = packed.late | "GatherLateMeterReads" >> GatherLateMeterReads(settings)
    blocks = (packed.on_time, late) | "AllMeterBlocks" >> beam.Flatten()
    intervals = blocks | "ValidateReads" >> ValidateReads(settings)
    bills = BillingPreview()
    if intervals.rows is not None:
        days = (intervals.meter_days, packed.registers) | "MeterDays" >> MeterDays(settings)
        bills = bills._replace(validated=(intervals.rows, days))
    if intervals.customers is not None:
        of_days = intervals.customers | "CustomerDays" >> CustomerDays(settings)
        of_months = of_days.changes | "CustomerMonths" >> CustomerMonths(settings)
        bills = bills._replace(customers=(of_months, of_days.rows))
    return bills
