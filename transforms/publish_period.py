"""What of a backfill's results is published: the rows of its period, not those of the margins it was read with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import apache_beam as beam
from msgspec.structs import replace

from ami_beam.codecs.billing_batches import customer_batches, months_of, reads_of, validated_batch
from ami_beam.published_period import PublishedPeriod
from ami_beam.records import (
    Alarm,
    Alert,
    CustomerBatch,
    DeadLetterBatch,
    FeederBatch,
    HeatBatch,
    ReceiptBatch,
    SilentMeterBatch,
    SummaryBatch,
    ValidatedBatch,
)

Row = TypeVar("Row")


class PublishPeriod(beam.PTransform):
    """Elements of one of the outputs with the rows of a period only; those without any are left out.

    A row belongs to the period by its window_end or interval_end, an alert by its alert_time, an alarm by the window in
    which it began, a dead letter by its record time. Days and months are in it as a whole or not at all.
    """

    def __init__(self, period: PublishedPeriod):
        super().__init__()
        self._period = period

    def expand(self, elements: beam.PCollection[Row]) -> beam.PCollection[Row]:
        kind: Any = elements.element_type
        return elements | "Within" >> beam.FlatMap(_WITHIN[kind], self._period).with_output_types(kind)


def _alert(alert: Alert, period: PublishedPeriod) -> Iterator[Alert]:
    if period.has(alert.alert_time):
        yield alert


def _alarm(alarm: Alarm, period: PublishedPeriod) -> Iterator[Alarm]:
    if period.has(alarm.first_window):
        yield alarm


def _windows(batch: Any, period: PublishedPeriod) -> Iterator[Any]:
    rows = [row for row in batch.rows if period.has(row.window_end)]
    if rows:
        yield type(batch)(rows)


def _letters(batch: DeadLetterBatch, period: PublishedPeriod) -> Iterator[DeadLetterBatch]:
    rows = [row for row in batch.rows if period.has(row.record_time)]
    if rows:
        yield DeadLetterBatch(rows)


def _heat(batch: HeatBatch, period: PublishedPeriod) -> Iterator[HeatBatch]:
    transformers = [row for row in batch.transformers if period.has(row.window_end)]
    feeders = [row for row in batch.feeders if period.has(row.window_end)]
    days = [row for row in batch.days if period.has_day(row.day)]
    if transformers or feeders or days:
        yield replace(batch, transformers=transformers, feeders=feeders, days=days)


def _validated(batch: ValidatedBatch, period: PublishedPeriod) -> Iterator[ValidatedBatch]:
    reads = [row for row in reads_of(batch) if period.has(row.interval_end)]
    days = [row for row in batch.days if period.has_day(row.day)]
    if reads or days:
        yield validated_batch(reads, days)


def _customers(batch: CustomerBatch, period: PublishedPeriod) -> Iterator[CustomerBatch]:
    months = [row for row in months_of(batch) if period.has_month(row.month)]
    yield from customer_batches(months, [row for row in batch.days if period.has_day(row.day)])


_WITHIN: dict[type, Callable[..., Iterator[Any]]] = {
    SummaryBatch: _windows,
    ReceiptBatch: _windows,
    SilentMeterBatch: _windows,
    FeederBatch: _windows,
    Alert: _alert,
    Alarm: _alarm,
    DeadLetterBatch: _letters,
    HeatBatch: _heat,
    ValidatedBatch: _validated,
    CustomerBatch: _customers,
}
