"""The rules of a run as a row of the table config, as `effective_config.publish_config` has them for a topic."""

from __future__ import annotations

import msgspec
import psycopg

from ami_beam.postgresql.connection import Database, PostgresqlError
from ami_beam.postgresql.migration import unreachable
from ami_beam.postgresql.tables import CONFIG, full_name, listed


class _Config(msgspec.Struct):
    config_id: str
    version: str
    started: str
    rules: msgspec.Raw


def write_config(database: Database, record: bytes) -> None:
    """Write the record of `effective_config.config_json`, in place of an older one of the same id.

    Raises PostgresqlError.
    """
    config = msgspec.json.decode(record, type=_Config)
    try:
        with database.connect() as connection:
            connection.execute(
                f"INSERT INTO {full_name(database.schema, CONFIG.name)} AS kept ({listed(CONFIG.names)})"
                " VALUES (%s, %s, %s, %s) ON CONFLICT (config_id) DO UPDATE SET version = excluded.version,"
                " started = excluded.started, rules = excluded.rules WHERE excluded.started >= kept.started".encode(),
                (config.config_id, config.version, config.started, bytes(config.rules).decode()),
            )
    except psycopg.Error as error:
        raise PostgresqlError(unreachable(database, error)) from None
