"""Batches of rows into PostgreSQL: COPY and upsert in one transaction, tried again as long as that may help."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256

import psycopg
from msgspec import Struct

from ami_beam.codecs.table_rows import Version
from ami_beam.postgresql.connection import Database, PostgresqlError, reason_of
from ami_beam.postgresql.tables import REJECTED, Table, full_name, listed, quoted

MAX_CONNECTIONS = 4
"""Of a process, however many of its threads write."""
GIVE_UP_SECONDS = 300.0
"""After so long the bundle fails: Flink would let a checkpoint wait for ten minutes only."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_WARN_SECONDS = 60.0
_MAY_PASS = {
    "08",  # connection exceptions
    "25006",  # read-only: a standby that is about to become the primary, or was one
    "40",  # serialization failure, deadlock
    "53",  # no disk, no memory, too many connections
    "55P03",  # lock not available
    "57",  # shutting down, starting, cancelled for its time
    "58",  # the server's own I/O
}
_OF_A_ROW = {"22", "23", "54"}
"""What is wrong with data: not a value of its type, against a constraint, greater than a limit."""
_log = logging.getLogger(__name__)


class Written(Struct, frozen=True):
    """What became of a batch."""

    rows: int
    """That were inserted, or changed a row; others were there already, or a greater as_of was."""
    rejected: int
    """Set aside in rejected_row."""
    retries: int


class Session:
    """A connection and what has been prepared on it."""

    def __init__(self, connection: psycopg.Connection, schema: str) -> None:
        self.connection = connection
        self._schema = schema
        self._prepared: set[str] = set()

    def prepare(self, table: Table) -> None:
        """Make the temporary table through which rows of a table come; its name hides nothing."""
        if table.name not in self._prepared:
            like = full_name(self._schema, table.name)
            # For the session and not for a transaction: the catalogue would be full of tables that are gone.
            statement = f"CREATE TEMPORARY TABLE {_incoming(table)} (LIKE {like}) ON COMMIT DELETE ROWS"
            self.connection.execute(statement.encode())
            self._prepared.add(table.name)


class Pool:
    """Up to `MAX_CONNECTIONS` connections of a process to one database; one that failed is never used again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: queue.LifoQueue[Session] = queue.LifoQueue()
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A connection that nobody else uses meanwhile. Raises psycopg.Error where there is none to be had."""
        with self._room:
            session = self._take()
            try:
                yield session
            except BaseException:
                session.connection.close()
                raise
            self._idle.put(session)

    def _take(self) -> Session:
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        return Session(self._database.connect(), self._database.schema)

    def close(self) -> None:
        """Close what is idle: after a failure the others are most likely broken, too."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().connection.close()


class Writer:
    """Writes batches of rows so that whoever returns from `write` has them in the database for good.

    Args:
      give_up_seconds: how long a batch is tried again before `write` raises PostgresqlError.
    """

    def __init__(
        self,
        database: Database,
        pool: Pool,
        give_up_seconds: float = GIVE_UP_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._pool = pool
        self._give_up = give_up_seconds
        self._sleep = sleep

    def write(self, topic: str, tables: Sequence[tuple[Table, list[Version]]]) -> Written:
        """One transaction for all of them: each row is inserted, or takes the place of one with no greater as_of.

        A row that the database cannot hold goes to rejected_row in the same transaction. Raises PostgresqlError.
        """
        begun = time.monotonic()
        warned, pause, retries, careful = begun - _WARN_SECONDS, _FIRST_PAUSE, 0, False
        while True:
            try:
                with self._pool.session() as session:
                    done = _Transaction(session, self._database.schema, topic, careful).write(tables)
                if warned >= begun:
                    waited = time.monotonic() - begun
                    _log.info("PostgreSQL takes rows of %s again, after %.1f s.", topic, waited)
                return Written(done.rows, done.rejected, retries)
            except psycopg.Error as error:
                if not careful and _is_of_a_row(error):
                    careful = True
                    continue
                # The cause would be logged with its details, which quote rows.
                reason = f"PostgreSQL, {topic}: {reason_of(error)}"
                if not _may_pass(error):
                    raise PostgresqlError(reason) from None
                now = time.monotonic()
                if now + pause - begun > self._give_up:
                    raise PostgresqlError(f"{reason}; tried again for {self._give_up:g} s") from None
                if not _is_of_a_transaction(error):
                    self._pool.close()
                    if now - warned >= _WARN_SECONDS:
                        place = self._database.place()
                        _log.warning("%s. Everything waits for the database at %s.", reason, place)
                        warned = now
            retries += 1
            # Those who got into each other's way must not come back at the same time.
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)


class _Transaction:
    def __init__(self, session: Session, schema: str, topic: str, careful: bool) -> None:
        self._session = session
        self._connection = session.connection
        self._schema = schema
        self._topic = topic
        self._careful = careful
        self._rejected = 0

    def write(self, tables: Sequence[tuple[Table, list[Version]]]) -> Written:
        for table, _ in tables:
            self._session.prepare(table)
        write = self._halve if self._careful else self._upsert
        # Every transaction takes the tables in the catalogue's order, and their rows in that of their identity.
        with self._connection.transaction():
            rows = sum(write(table, versions) for table, versions in tables)
        return Written(rows, self._rejected, 0)

    def _upsert(self, table: Table, versions: Sequence[Version]) -> int:
        incoming, columns = _incoming(table), listed(table.names)
        with self._connection.cursor() as cursor:
            with cursor.copy(f"COPY {incoming} ({columns}) FROM STDIN".encode()) as copy:
                for version in versions:
                    copy.write_row(version.values)
            cursor.execute(_upsert_statement(self._schema, table).encode())
            return cursor.rowcount

    def _halve(self, table: Table, versions: Sequence[Version]) -> int:
        """The same, and what is wrong with it is found by halves and set aside."""
        try:
            with self._connection.transaction():
                rows = self._upsert(table, versions)
                # Within a transaction nobody else empties it.
                self._connection.execute(f"TRUNCATE {_incoming(table)}".encode())
                return rows
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
            if len(versions) == 1:
                self._reject(table, versions[0], error)
                return 0
        middle = len(versions) // 2
        return self._halve(table, versions[:middle]) + self._halve(table, versions[middle:])

    def _reject(self, table: Table, version: Version, error: psycopg.Error) -> None:
        self._rejected += 1
        # The reason may quote a value, which is for those alone who may read the row.
        why = error.sqlstate or type(error).__name__
        _log.error(
            "PostgreSQL cannot hold a row of %s, which is in rejected_row now, with the reason (%s).", table.name, why
        )
        self._connection.execute(
            f"INSERT INTO {full_name(self._schema, REJECTED.name)} ({listed(REJECTED.names)})"
            " VALUES (%s, %s, %s, %s, now()) ON CONFLICT DO NOTHING".encode(),
            (self._topic, sha256(version.record).digest(), version.record, reason_of(error)),
        )


def _incoming(table: Table) -> str:
    return f'pg_temp."incoming_{table.name}"'


def _upsert_statement(schema: str, table: Table) -> str:
    columns, identity = listed(table.names), listed(table.identity)
    insert = (
        f"INSERT INTO {full_name(schema, table.name)} AS kept ({columns}) SELECT {columns} FROM {_incoming(table)}"
        f" ORDER BY {identity} ON CONFLICT ({identity})"
    )
    if not table.versioned:
        return f"{insert} DO NOTHING"
    others = [quoted(name) for name in table.names if name not in table.identity]
    update = ", ".join(f"{name} = excluded.{name}" for name in others)
    # What comes again after a failure is there already: it makes no work for anybody.
    ours, theirs = (", ".join(f"{whose}.{name}" for name in others) for whose in ("kept", "excluded"))
    return (
        f"{insert} DO UPDATE SET {update} WHERE excluded.as_of >= kept.as_of AND ({ours}) IS DISTINCT FROM ({theirs})"
    )


def _state_in(error: psycopg.Error, states: set[str]) -> bool:
    return error.sqlstate is not None and (error.sqlstate in states or error.sqlstate[:2] in states)


def _may_pass(error: psycopg.Error) -> bool:
    # libpq has no code for a connection that broke, or was never made.
    return _state_in(error, _MAY_PASS) if error.sqlstate else isinstance(error, psycopg.OperationalError)


def _is_of_a_transaction(error: psycopg.Error) -> bool:
    return _state_in(error, {"40", "55P03"})


def _is_of_a_row(error: psycopg.Error) -> bool:
    # What psycopg refuses before it is sent, a text with U+0000, has no code.
    return _state_in(error, _OF_A_ROW) if error.sqlstate else isinstance(error, psycopg.DataError)
