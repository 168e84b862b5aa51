"""Meter counts in each kind of place that they can be in: written, and read by the product."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import fastavro
from confluent_kafka import Producer
from psycopg import sql

from ami_beam.instants import MICROS_PER_MINUTE, format_instant
from ami_beam.io.meter_counts_file import CountsFile
from ami_beam.io.meter_counts_table import CountsTable
from ami_beam.io.meter_counts_topic import CountsTopic
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.meter_counts_origin import Origin
from ami_beam.postgresql.connection import Database
from ami_beam.records import MeterCount

COLUMNS = (
    "transformer_id", "total_meters", "nominal_voltage_v", "receipt_delay_minutes", "effective_from",
    "collection_group",
)  # fmt: skip
FILES = ("counts.csv", "counts.csv.gz", "counts.jsonl", "counts.jsonl.gz", "counts.avro", "avro.csv.gz")
SCHEMA = {
    "type": "record",
    "name": "MeterCount",
    "fields": [
        {"name": "transformer_id", "type": "string"},
        {"name": "total_meters", "type": "int"},
        {"name": "nominal_voltage_v", "type": ["null", "double"]},
        {"name": "receipt_delay_minutes", "type": ["null", "double"]},
        {"name": "effective_from", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "collection_group", "type": ["null", "string"]},
    ],
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_numbers = itertools.count()


class Place(Protocol):
    """One place; `write` replaces what it holds."""

    @property
    def origin(self) -> Origin: ...

    def write(self, rows: Sequence[MeterCount]) -> None: ...


def values_of(row: MeterCount) -> dict[str, Any]:
    """The row by column, as JSON has it."""
    delay = None if row.receipt_delay is None else row.receipt_delay / MICROS_PER_MINUTE
    since = None if row.effective_from is None else format_instant(row.effective_from)
    values = (row.transformer_id, row.total_meters, row.nominal_voltage_v, delay, since, row.collection_group)
    return dict(zip(COLUMNS, values, strict=True))


def moment(row: MeterCount) -> datetime | None:
    """Its effective_from."""
    return None if row.effective_from is None else _EPOCH + timedelta(microseconds=row.effective_from)


def as_csv(rows: Iterable[MeterCount]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(values_of(row) for row in rows)
    return text.getvalue().encode()


def as_json(rows: Iterable[MeterCount]) -> bytes:
    return b"".join(json.dumps(values_of(row)).encode() + b"\n" for row in rows)


def as_avro(rows: Iterable[MeterCount], schema: dict[str, Any] = SCHEMA, codec: str = "deflate") -> bytes:
    content = io.BytesIO()
    records = [{**values_of(row), "effective_from": moment(row)} for row in rows]
    fastavro.writer(content, fastavro.parse_schema(schema), records, codec=codec)
    return content.getvalue()


class FilePlace:
    """A file of FILES; one of Avro may have any name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.origin = CountsFile(str(path))

    def write(self, rows: Sequence[MeterCount]) -> None:
        name = self._path.name
        content = as_avro(rows) if "avro" in name else as_json(rows) if "json" in name else as_csv(rows)
        beside = self._path.with_name("new")
        beside.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        beside.rename(self._path)


class TopicPlace:
    """A compacted topic with keys that keep every effective_from; `write` is one transaction."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.topic = f"counts-{next(_numbers)}"
        broker.create_topic(self.topic, 2)
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        settings = {"bootstrap.servers": broker.bootstrap_servers, "transactional.id": f"{self.topic}-table"}
        self._transactions = Producer(settings)
        self._transactions.init_transactions(60)
        self._keys: set[bytes] = set()
        self.origin = CountsTopic(self.topic, (("bootstrap.servers", broker.bootstrap_servers),))

    def send(self, key: str | None, value: Any) -> None:
        """A record; the value as it is where it is bytes, else as JSON."""
        content = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        self._producer.produce(self.topic, content, key)
        assert self._producer.flush(30) == 0

    def write(self, rows: Sequence[MeterCount]) -> None:
        keys = set()
        self._transactions.begin_transaction()
        for row in rows:
            values = values_of(row)
            key = f"{row.transformer_id}|{values['effective_from'] or ''}".encode()
            self._transactions.produce(self.topic, json.dumps(values).encode(), key)
            keys.add(key)
        for key in self._keys - keys:
            self._transactions.produce(self.topic, None, key)
        self._transactions.commit_transaction(60)
        self._keys = keys


class TablePlace:
    """A table whose name needs quotes, in a schema of its own, with a column that is none of ours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parts = ("GIS.new", f'Meter "counts" {next(_numbers)}')
        self.origin = CountsTable(database, self._parts)
        with database.connect() as connection:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._parts[0])))
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {} (note text, effective_from timestamptz, transformer_id text, total_meters integer,"
                    " nominal_voltage_v numeric, receipt_delay_minutes double precision, collection_group varchar(99))"
                ).format(sql.Identifier(*self._parts))
            )

    def write(self, rows: Sequence[MeterCount]) -> None:
        name = sql.Identifier(*self._parts)
        listed = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        with self._database.connect() as connection, connection.transaction():
            connection.execute(sql.SQL("DELETE FROM {}").format(name))
            insert = sql.SQL("INSERT INTO {} ({}) VALUES (%s, %s, %s, %s, %s, %s)").format(name, listed)
            connection.cursor().executemany(
                insert, [[*list(values_of(row).values())[:4], moment(row), row.collection_group] for row in rows]
            )
