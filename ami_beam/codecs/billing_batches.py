"""Rows for billing and customers as the columns of a batch, and back.

Numbers are columns of `number_columns`, in the order of `READ_NUMBERS` and `MONTH_NUMBERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ami_beam.codecs.number_columns import decoded, encoded, encoded_floats
from ami_beam.records import CustomerBatch, CustomerDay, CustomerMonth, MeterDay, ValidatedBatch, ValidatedRead

READ_FLAGS = ("IMPLAUSIBLE", "NEGATIVE", "UNBALANCED")
"""What the checks of a read alone can find: bit n of a batch's `flags` is name n."""
FLAG_LISTS = [[name for bit, name in enumerate(READ_FLAGS) if bits >> bit & 1] for bits in range(1 << len(READ_FLAGS))]
"""By the bits."""
QUALITIES = ("ACTUAL", "ESTIMATED")
"""By a batch's `quality`."""
READ_NUMBERS = (
    "interval_start", "interval_end", "consumption_kwh", "delivered_kwh", "received_kwh", "quality", "espi_quality",
    "late", "revised", "flags", "read_ts", "as_of", "revision",
)  # fmt: skip
MONTH_NUMBERS = (
    "interval_start", "interval_end", "interval_delivered_kwh", "interval_received_kwh", "interval_net_kwh", "day",
    "day_delivered_kwh", "day_received_kwh", "day_net_kwh", "month_delivered_kwh", "month_received_kwh",
    "month_net_kwh", "intervals", "estimated_intervals", "as_of", "revision",
)  # fmt: skip
"""day is its number in the month."""


def packed(numbers: Mapping[str, np.ndarray], names: Sequence[str]) -> list[bytes]:
    """These columns for a batch. There must be a row."""
    columns = [numbers[name] for name in names]
    return [encoded_floats(each) if each.dtype.kind == "f" else encoded(each.astype(np.int64)) for each in columns]


def read_numbers(batch: ValidatedBatch) -> dict[str, np.ndarray]:
    """The columns of a batch that has reads, by name."""
    return _unpacked(batch.numbers, READ_NUMBERS, len(batch.meter_id))


def month_numbers(batch: CustomerBatch) -> dict[str, np.ndarray]:
    """The columns of a batch that has rows of a month, by name."""
    return _unpacked(batch.numbers, MONTH_NUMBERS, len(batch.customer_id))


def _unpacked(columns: Sequence[bytes], names: Sequence[str], count: int) -> dict[str, np.ndarray]:
    return {name: decoded(column, count) for name, column in zip(names, columns, strict=True)}


def validated_batch(reads: Sequence[ValidatedRead], days: Sequence[MeterDay] = ()) -> ValidatedBatch:
    """The batch of these rows. Either all reads name a customer or none does."""
    if not reads:
        return ValidatedBatch(days=list(days))
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in reads] for name in READ_NUMBERS}
    columns["quality"] = [QUALITIES.index(each) for each in columns["quality"]]
    columns["flags"] = [FLAG_LISTS.index(each) for each in columns["flags"]]
    return ValidatedBatch(
        meter_id=[row.meter_id for row in reads],
        service_point_id=[row.service_point_id for row in reads],
        customer_id=[row.customer_id for row in reads if row.customer_id is not None],
        transformer_id=[row.transformer_id for row in reads],
        numbers=packed({name: np.array(values) for name, values in columns.items()}, READ_NUMBERS),
        days=list(days),
    )


def reads_of(batch: ValidatedBatch) -> list[ValidatedRead]:
    """The reads of a batch, as rows."""
    if not batch.numbers:
        return []
    columns: dict[str, list[Any]] = {name: column.tolist() for name, column in read_numbers(batch).items()}
    columns["quality"] = [QUALITIES[each] for each in columns["quality"]]
    columns["flags"] = [FLAG_LISTS[each] for each in columns["flags"]]
    for name in ("late", "revised"):
        columns[name] = [bool(each) for each in columns[name]]
    customers: Sequence[str | None] = batch.customer_id or [None] * len(batch.meter_id)
    ids = (batch.meter_id, batch.service_point_id, customers, batch.transformer_id)
    return list(map(ValidatedRead, *ids, *columns.values()))


def days_of_month(month: str) -> list[str]:
    """YYYY-MM-DD by a day's number in the month."""
    return [f"{month}-{day:02}" for day in range(32)]


def customer_batches(months: Sequence[CustomerMonth], days: Sequence[CustomerDay] = ()) -> list[CustomerBatch]:
    """Batches of these rows, one for each month and one for the days."""
    batches = [CustomerBatch(days=list(days))] if days else []
    for month in sorted({row.month for row in months}):
        rows = [row for row in months if row.month == month]
        columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in MONTH_NUMBERS}
        columns["day"] = [days_of_month(month).index(each) for each in columns["day"]]
        numbers = packed({name: np.array(values) for name, values in columns.items()}, MONTH_NUMBERS)
        batches.append(CustomerBatch([row.customer_id for row in rows], month, numbers))
    return batches


def months_of(batch: CustomerBatch) -> list[CustomerMonth]:
    """The months of a batch, as rows."""
    if not batch.numbers:
        return []
    columns: dict[str, list[Any]] = {name: column.tolist() for name, column in month_numbers(batch).items()}
    days = days_of_month(batch.month)
    columns["day"] = [days[each] for each in columns["day"]]
    return list(map(CustomerMonth, batch.customer_id, [batch.month] * len(batch.customer_id), *columns.values()))
