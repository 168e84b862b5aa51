"""Results into BigQuery, by Beam's own connector with the Storage Write API."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.bigquery import BigQueryDisposition, WriteToBigQuery
from apache_beam.metrics import Metrics

from ami_beam.bigquery_tables import Dataset
from ami_beam.codecs.bigquery_rows import row_type, to_row
from ami_beam.records import KeyedRecords
from ami_beam.results import RESULTS, Result

_SHOWN = 10
_log = logging.getLogger(__name__)


class WriteToTables(beam.PTransform):
    """`{topic: parts} | WriteToTables(dataset)`: a row for each of the KeyedRecords, in the table of its kind.

    At least once: a row that is repeated after a failure has the same content, and the views show it once. The tables
    must be there (`python -m ami_beam.bigquery_tables sql`). Rows that BigQuery refuses are counted and logged.

    Args:
      expansion_service: HOST:PORT of Beam's for Google Cloud; Beam starts its own where there is none.
    """

    def __init__(self, dataset: Dataset, expansion_service: str | None = None) -> None:
        super().__init__()
        self._dataset = dataset
        self._expansion_service = expansion_service

    def expand(self, outputs: Mapping[str, tuple[beam.PCollection[KeyedRecords], ...]]) -> dict[str, Any]:
        """What was refused, by table."""
        topics = {
            topic: parts[0] if len(parts) == 1 else parts | f"Parts of {topic}" >> beam.Flatten()
            for topic, parts in outputs.items()
        }
        return {result.table: self._write(result, topics[result.topic]) for result in RESULTS if result.topic in topics}

    def _write(self, result: Result, records: beam.PCollection[KeyedRecords]) -> Any:
        rows = records | f"Rows of {result.table}" >> beam.ParDo(_ToRows(result.table)).with_output_types(
            row_type(result)
        )
        written = rows | f"Write {result.table}" >> WriteToBigQuery(
            self._dataset.table(result.table),
            method=WriteToBigQuery.Method.STORAGE_WRITE_API,
            # Beam cannot ask for partitions through this connector: a table of its own making would have none.
            create_disposition=BigQueryDisposition.CREATE_NEVER,
            write_disposition=BigQueryDisposition.WRITE_APPEND,
            use_at_least_once=True,
            expansion_service=self._expansion_service,
        )
        return written.failed_rows_with_errors | f"Refused of {result.table}" >> beam.ParDo(_Refused(result.table))


class _ToRows(beam.DoFn):
    def __init__(self, table: str) -> None:
        self._table = table

    def setup(self) -> None:
        (result,) = [each for each in RESULTS if each.table == self._table]
        self._to_row = to_row(result)
        self._last = 0

    def process(self, element: KeyedRecords) -> Iterator[beam.Row]:
        for value in element.values:
            # Rows of one moment keep their order.
            self._last = max(self._last + 1, time.time_ns() // 1_000)
            row = self._to_row(value, self._last)
            if row is not None:
                yield row


class _Refused(beam.DoFn):
    """Counts what BigQuery did not take, and logs the first of them: a row that is left out must not go unnoticed."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._count = Metrics.counter("ami", "bigquery_rows_refused")

    def setup(self) -> None:
        self._logged = 0

    def process(self, element: Any) -> None:
        self._count.inc()
        if self._logged < _SHOWN:
            self._logged += 1
            _log.error("BigQuery has refused a row of %s: %s", self._table, element.error_message)
