"""What tests of the PostgreSQL sink share: databases with tables, the sink's step without a pipeline, psql."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ami_beam.instants import format_instant
from ami_beam.io.postgresql_sink import UpsertDoFn
from ami_beam.local.postgresql_server import PostgresqlServer
from ami_beam.postgresql.connection import Database
from ami_beam.postgresql.migration import migrate
from ami_beam.records import KeyedRecords

NOON = 1_772_496_000_000_000
SUMMARY = "ami.transformer.summary"


def new_database(server: PostgresqlServer, name: str, folder: Path, schema: str = "ami") -> Database:
    """An empty database whose password is in a file, and the sink's tables in it."""
    secrets = folder / f"{name}.properties"
    secrets.write_text(f"password={server.password}\n")
    database = Database(server.create_database(name), str(secrets), schema)
    with database.connect() as connection:
        migrate(connection, schema)
    return database


def summary(transformer: str, as_of: int = 0, **others: Any) -> bytes:
    """The JSON of a summary row; `as_of` in microseconds after noon."""
    row: dict[str, Any] = {"transformer_id": transformer, "feeder_id": "F1", "as_of": format_instant(NOON + as_of)}
    row |= {"window_start": "2026-03-03T00:00:00Z", "window_end": "2026-03-03T00:15:00Z", "revision": 0}
    row |= {f"total_{kind}_kwh": 1.5 for kind in ("consumption", "delivered", "received")}
    row |= {f"{kind}_voltage_v": None for kind in ("avg", "min", "max")} | {"meters_reported": 3}
    row |= dict.fromkeys(("estimated_count", "voltage_rejected_count", "zero_voltage_count"), 0)
    row |= dict.fromkeys(("sag_count", "swell_count", "voltage_count", "apportioned_count"), 0)
    row["completeness_pct"] = 100.0
    return json.dumps(row | others).encode()


class Sink:
    """The sink's step for one topic, driven as a runner does."""

    def __init__(self, database: Database, topic: str = SUMMARY, give_up_seconds: float = 60) -> None:
        self._step = UpsertDoFn(topic, database, give_up_seconds)

    def __enter__(self) -> Sink:
        self._step.setup()
        return self

    def __exit__(self, *_: object) -> None:
        self._step.teardown()

    def bundle(self, records: Iterable[bytes], at_once: int = 7) -> None:
        """Write the records as one bundle of elements with so many records."""
        held = list(records)
        self._step.start_bundle()
        for begin in range(0, len(held), at_once):
            values = held[begin : begin + at_once]
            self._step.process(KeyedRecords([b""] * len(values), values))
        self._step.finish_bundle()


def rows(database: Database, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with database.connect() as connection:
        return connection.execute(query.encode(), arguments).fetchall()


def psql(server: PostgresqlServer, uri: str, script: str, search_path: str = "ami") -> str:
    """What psql prints of a script, unaligned and without headings; fails at its first error."""
    options = f"-c search_path={search_path} -c timezone=UTC"
    done = subprocess.run(
        [server.psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-q", "-A", "-t", "-F", "\t", uri],
        input=script, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PGPASSWORD": server.password, "PGOPTIONS": options},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
