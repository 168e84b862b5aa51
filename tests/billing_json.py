"""Rows of billing and of customers as JSON, one by one: what the columns of `json_columns` have to say as well."""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict

from ami_beam.codecs.json_outputs import customer_day_json, meter_day_json
from ami_beam.instants import format_instant
from ami_beam.records import CustomerDay, CustomerMonth, MeterDay, ValidatedRead

_INSTANTS = ("interval_start", "interval_end", "read_ts", "as_of")


def validated_json(row: ValidatedRead | MeterDay) -> bytes:
    """The value of a record of `ami.reads.validated`."""
    return meter_day_json(row) if isinstance(row, MeterDay) else _json(row, "record", "READ")


def customer_json(row: CustomerMonth | CustomerDay) -> bytes:
    """The value of a record of `ami.customer.consumption`."""
    return customer_day_json(row) if isinstance(row, CustomerDay) else _json(row, "period", "MONTH")


def _json(row: ValidatedRead | CustomerMonth, field: str, kind: str) -> bytes:
    values = asdict(row)
    texts = {name: format_instant(values[name]) for name in _INSTANTS if name in values}
    return msgspec.json.encode({field: kind, **values, **texts})
