"""Published records as rows of their BigQuery tables, with the types that cross to Beam's Java connector."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.io.gcp import bigquery_tools
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp

from ami_beam.bigquery_tables import WRITTEN_AT, columns
from ami_beam.instants import parse_instant
from ami_beam.results import Kind, Result

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def row_type(result: Result) -> RowTypeConstraint:
    """The type of its rows, as Beam makes it of the columns."""
    schema = {"fields": [column.to_api_repr() for column in columns(result)]}
    return RowTypeConstraint.from_fields(bigquery_tools.get_beam_typehints_from_tableschema(schema))


def to_row(result: Result) -> Callable[[bytes, int], beam.Row | None]:
    """A function for the row of a record, written at an instant; None for a record of another kind of the topic."""
    fields = [(field.name, field.kind) for field in result.fields]
    kind = result.kind

    def row(value: bytes, written_at: int) -> beam.Row | None:
        record = _decode(value)
        if kind is not None and record[kind[0]] != kind[1]:
            return None
        values = {name: _value(record.get(name), of) for name, of in fields}
        return beam.Row(**values, **{WRITTEN_AT: Timestamp(micros=written_at)})

    return row


def _value(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind is Kind.INSTANT:
        return _timestamp(value)
    # A number may be written without a fraction.
    return float(value) if kind is Kind.NUMBER else value


@lru_cache(maxsize=1 << 14)
def _timestamp(text: str) -> Timestamp:
    return Timestamp(micros=parse_instant(text))
