"""BigQuery tables of all results: their columns; `python -m ami_beam.bigquery_tables sql` prints them as DDL.

A table takes every row that is published, versions of one identity among them; the view `…_current` has of each the
one that counts. Partitions cannot be asked for through Beam's Storage Write API, so the tables are made before the run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.cloud.bigquery import SchemaField

from ami_beam.beam_options import OptionError, Parser
from ami_beam.results import RESULTS, Field, Kind, Result

WRITTEN_AT = "written_at"
"""Stands for the order of the topic, which a table does not have: of rows with one as_of the last written counts."""
_MOST_CLUSTERED = 4
_PARTITIONS = ("window_end", "interval_end", "alert_time", "first_window", "as_of", WRITTEN_AT)
"""The first of them that a kind of rows always has is what its table is partitioned by, a day each."""
_TYPES = {
    Kind.TEXT: "STRING",
    Kind.INTEGER: "INT64",
    Kind.NUMBER: "FLOAT64",
    Kind.CONDITION: "BOOL",
    Kind.INSTANT: "TIMESTAMP",
    # As in JSON: base64.
    Kind.BYTES: "STRING",
    Kind.TEXTS: "STRING",
    Kind.INTEGERS: "INT64",
}
_REPEATED = {Kind.TEXTS, Kind.INTEGERS}
_DESCRIPTIONS = {
    "as_of": "Greatest record time behind the row; of rows with one identity the greatest counts",
    "revision": "Counts publications within a run; informative",
    "value_b64": "Base64 of the record; its beginning where value_size is given",
}
_UNITS = {"_kwh": "kWh", "_voltage_v": "Volt", "_pct": "Per cent", "_minutes": "Minutes"}
_PROJECT = r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
_DATASET = re.compile(rf"({_PROJECT})[:.]([A-Za-z0-9_]{{1,1024}})")

_ABOUT = """Prints the statements that make the tables and views of all results in BigQuery. They change nothing that
is there: run them again after an upgrade, for the tables that have come."""
_EXAMPLES = """
example:
  python -m ami_beam.bigquery_tables sql --dataset=my-project:ami | bq query --use_legacy_sql=false
"""


@dataclass(frozen=True)
class Dataset:
    """Where the tables are."""

    project: str
    name: str

    def table(self, name: str) -> str:
        """As Beam has it."""
        return f"{self.project}:{self.name}.{name}"

    def quoted(self, name: str) -> str:
        """As SQL has it."""
        return f"`{self.project}.{self.name}.{name}`"


def dataset_of(option: str, text: str) -> Dataset:
    """PROJECT:DATASET or PROJECT.DATASET. Raises OptionError."""
    match = _DATASET.fullmatch(text)
    if match is None:
        allowed = "PROJECT:DATASET, which exist; of the dataset letters, digits and _"
        raise OptionError(option, text, "is no dataset", allowed, f"{option}=my-project:ami")
    return Dataset(*match.groups())


def columns(result: Result) -> list[SchemaField]:
    """The columns of its table, in the order of JSON, and when a row was written."""
    written = SchemaField(WRITTEN_AT, "TIMESTAMP", "REQUIRED", description="When a worker made the row")
    return [*map(_column, result.fields), written]


def partition_column(result: Result) -> str:
    """By whose days the table is partitioned."""
    required = {column.name for column in columns(result) if column.mode == "REQUIRED"}
    return next(name for name in _PARTITIONS if name in required)


def statements(dataset: Dataset, results: Iterable[Result] = RESULTS) -> list[str]:
    """A table and a view for each kind of row."""
    return [statement for result in results for statement in (_table(dataset, result), _view(dataset, result))]


def current_rows(source: str, result: Result) -> str:
    """A query for the row of each identity that counts."""
    identity = ", ".join(f"`{name}`" for name in result.identity)
    newest = [name for name in ("as_of", WRITTEN_AT) if any(column.name == name for column in columns(result))]
    order = ", ".join(f"`{name}` DESC" for name in newest)
    return (
        f"SELECT * FROM {source}\nWHERE TRUE\nQUALIFY ROW_NUMBER() OVER (PARTITION BY {identity} ORDER BY {order}) = 1"
    )


def _column(field: Field) -> SchemaField:
    mode = "REPEATED" if field.kind in _REPEATED else "NULLABLE" if field.optional else "REQUIRED"
    units = [unit for ending, unit in _UNITS.items() if field.name.endswith(ending)]
    description = _DESCRIPTIONS.get(field.name) or next(iter(units), "")
    return SchemaField(field.name, _TYPES[field.kind], mode, description=description)


def _table(dataset: Dataset, result: Result) -> str:
    lines = ",\n".join(f"  {_definition(column)}" for column in columns(result))
    clustered = ", ".join(f"`{name}`" for name in result.identity[:_MOST_CLUSTERED])
    about = " ".join((result.row_type.__doc__ or "").split("\n\n")[0].replace("`", "").split())
    return (
        f"CREATE TABLE IF NOT EXISTS {dataset.quoted(result.table)} (\n{lines}\n)\n"
        f"PARTITION BY TIMESTAMP_TRUNC(`{partition_column(result)}`, DAY)\n"
        f"CLUSTER BY {clustered}\n"
        f"OPTIONS (description = {_literal(about)});"
    )


def _definition(column: SchemaField) -> str:
    repeated = column.mode == "REPEATED"
    kind = f"ARRAY<{column.field_type}>" if repeated else column.field_type
    required = " NOT NULL" if column.mode == "REQUIRED" else ""
    about = f" OPTIONS (description = {_literal(column.description)})" if column.description else ""
    return f"`{column.name}` {kind}{required}{about}"


def _view(dataset: Dataset, result: Result) -> str:
    query = current_rows(dataset.quoted(result.table), result)
    return f"CREATE OR REPLACE VIEW {dataset.quoted(f'{result.table}_current')} AS\n{query};"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 printed, 2 a wrong option."""
    parser = Parser(
        prog="python -m ami_beam.bigquery_tables",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["sql"])
    parser.add_argument("--dataset", required=True, metavar="PROJECT:DATASET", help="where the tables are to be")
    try:
        given = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
        dataset = dataset_of("--dataset", given.dataset)
    except OptionError as error:
        print(f"ami_beam.bigquery_tables: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(statements(dataset)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
