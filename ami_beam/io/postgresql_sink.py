"""PostgreSQL as a sink: of every identity the row with the greatest as_of, in the table that the catalogue names."""

from __future__ import annotations

import threading
import time
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.table_rows import TopicRows
from ami_beam.io.postgresql_writer import GIVE_UP_SECONDS, Pool, Writer
from ami_beam.postgresql.connection import Database
from ami_beam.records import KeyedRecords

MAX_RECORDS = 5_000
MAX_BYTES = 8 * 1024 * 1024
"""A transaction has no more, however long a bundle is: what it holds is in memory, too."""


class WriteTopicToPostgresql(beam.PTransform):
    """Every record of a topic is in its table when its bundle ends, unless a row with a greater as_of is there.

    While the database is away, the bundle waits, and fails after five minutes with the server's reason, so that the
    runner goes back to its last checkpoint; what was written already is written again, which changes nothing. A row
    that PostgreSQL cannot hold goes to the table rejected_row, and is counted and logged.

    Args:
      topic: whose records these are, by its plain name.
      database: becomes a part of the job; it holds no secret.
    """

    def __init__(self, topic: str, database: Database, give_up_seconds: float = GIVE_UP_SECONDS):
        super().__init__()
        self._topic = topic
        self._database = database
        self._give_up = give_up_seconds

    def expand(self, records: beam.PCollection[KeyedRecords]) -> Any:
        return records | "Upsert" >> beam.ParDo(UpsertDoFn(self._topic, self._database, self._give_up))


@beam.typehints.with_input_types(KeyedRecords)
class UpsertDoFn(beam.DoFn):
    """Gathers the records of a bundle and writes them before it ends."""

    def __init__(self, topic: str, database: Database, give_up_seconds: float):
        self._topic = topic
        self._database = database
        self._give_up = give_up_seconds
        self._rows = Metrics.counter("ami", "postgresql_rows")
        self._rejected = Metrics.counter("ami", "postgresql_rows_rejected")
        self._retries = Metrics.counter("ami", "postgresql_retries")
        self._batches = Metrics.counter("ami", "postgresql_batches")
        # Distributions have no number in Prometheus.
        self._millis = Metrics.counter("ami", "postgresql_batch_sum_ms")
        self._batch_millis = Metrics.distribution("ami", "postgresql_batch_ms")

    def setup(self) -> None:
        self._writer = Writer(self._database, _pools.open(self._database), self._give_up)

    def start_bundle(self) -> None:
        # A bundle that failed has left some.
        self._gathered = TopicRows(self._topic)

    def process(self, records: KeyedRecords) -> None:
        gathered = self._gathered
        for value in records.values:
            gathered.add(value)
            if gathered.records >= MAX_RECORDS or gathered.size >= MAX_BYTES:
                self._write()

    def finish_bundle(self) -> None:
        if self._gathered.records:
            self._write()

    def teardown(self) -> None:
        _pools.close(self._database)

    def _write(self) -> None:
        begun = time.monotonic()
        done = self._writer.write(self._topic, self._gathered.take())
        millis = int((time.monotonic() - begun) * 1_000)
        self._rows.inc(done.rows)
        # A counter is in Prometheus from its first number on: let nobody look for one that says nothing.
        for counter, number in ((self._rejected, done.rejected), (self._retries, done.retries)):
            if number:
                counter.inc(number)
        self._batches.inc()
        self._millis.inc(millis)
        self._batch_millis.update(millis)


class _Pools:
    """One pool a process and database, shared by all that are set up; closed with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[Database, Pool] = {}
        self._users: dict[Database, int] = {}

    def open(self, database: Database) -> Pool:
        with self._lock:
            self._users[database] = self._users.get(database, 0) + 1
            return self._pools.setdefault(database, Pool(database))

    def close(self, database: Database) -> None:
        with self._lock:
            self._users[database] -= 1
            if not self._users[database]:
                self._pools.pop(database).close()
                del self._users[database]


_pools = _Pools()
