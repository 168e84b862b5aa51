"""Which database results go to, and how a process connects to it. What a job's graph holds of it has no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ami_beam.beam_options import OptionError
from ami_beam.kafka_config import load

DEFAULT_SCHEMA = "ami"
_SECRETS = {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
_EXAMPLE = "--postgresql=postgresql://ami_writer@db1:5432/ami"
_CONNECTION = {
    "application_name": "ami-beam",
    "connect_timeout": "10",
    # A server that vanished without a word is noticed within a minute, not after the kernel's two hours.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_SESSION = (
    # No batch takes a minute; what does hangs, and would hold others up.
    "SET statement_timeout = '60s'; SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'"
)


class PostgresqlError(RuntimeError):
    """The database cannot serve this run or command: says what is wrong and what to do, without any value of a row."""


@dataclass(frozen=True)
class Database:
    """A database and a schema in it. Holds no secret: passwords are in a file that each process reads, or libpq's own.

    A job that is restored therefore uses the password that is there then.
    """

    conninfo: str
    """A URI or `keyword=value` words."""
    config_file: str | None
    """libpq's keywords as Java properties or JSON, such as password; `conninfo` goes before it."""
    schema: str

    def parameters(self) -> dict[str, str]:
        """libpq's keywords with their values, the password included. Raises OptionError."""
        stored = {} if self.config_file is None else load(self.config_file, "--postgresql_config_file")
        given = {name: str(value) for name, value in conninfo_to_dict(self.conninfo).items()}
        return {**_CONNECTION, **stored, **given, "client_encoding": "utf8"}

    def connect(self) -> psycopg.Connection:
        """A connection in autocommit mode: transactions are opened where they are needed. Raises psycopg.Error."""
        # Prepared statements are of no use for COPY, and in the way of a pooler.
        connection = psycopg.connect(make_conninfo(**self.parameters()), autocommit=True, prepare_threshold=None)
        connection.execute(_SESSION)
        return connection

    def place(self) -> str:
        """Host, port and database, for messages."""
        known = self.parameters()
        host = known.get("host") or known.get("hostaddr") or os.environ.get("PGHOST")
        where = f"{host}:{known.get('port') or os.environ.get('PGPORT', '5432')}" if host else "the local socket"
        service = f"service {known['service']}, " if "service" in known else ""
        return f"{service}{where}, database {known.get('dbname') or os.environ.get('PGDATABASE', 'of the user')}"


def database_of(conninfo: str | None, config_file: str | None, schema: str) -> Database:
    """The database of three options. Raises OptionError, which never shows what may be a secret."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        allowed = "lower-case letters, digits and '_', not pg_ at the beginning"
        raise OptionError("--postgresql_schema", schema, "is no name for a schema", allowed, "--postgresql_schema=ami")
    words = conninfo or ""
    try:
        given = conninfo_to_dict(words)
    except psycopg.ProgrammingError:
        allowed = "a URI or keyword=value words, as libpq has them; libpq's environment variables add to it"
        problem = "is no connection string (its text is not shown, it may hold a secret)"
        raise OptionError("--postgresql", None, problem, allowed, _EXAMPLE) from None
    _refuse_secrets(given)
    place = config_file
    if config_file is not None:
        place = config_file if "://" in config_file else os.path.abspath(config_file)
        stored = load(place, "--postgresql_config_file")
        try:
            make_conninfo(**stored)
        except psycopg.ProgrammingError as error:
            # Its message names the keyword alone.
            allowed = "libpq's keywords, such as host, user, password, sslmode, sslrootcert"
            example = "--postgresql_config_file=/etc/ami-beam/postgresql.properties"
            raise OptionError("--postgresql_config_file", place, _first_line(error), allowed, example) from None
    return Database(words, place, schema)


def _refuse_secrets(given: Mapping[str, object]) -> None:
    secret = sorted(_SECRETS & given.keys())
    if secret:
        raise OptionError(
            "--postgresql",
            None,
            f"holds the {secret[0]}, which every user of this machine could read, and which would be stored in the job",
            "a connection string without secrets; these into --postgresql_config_file, or a file named by PGPASSFILE",
            f"{_EXAMPLE} --postgresql_config_file=/etc/ami-beam/postgresql.properties",
        )


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]


def reason_of(error: psycopg.Error) -> str:
    """What the server or libpq says, without the details, which quote rows."""
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return (error.diag.message_primary or _first_line(error) or type(error).__name__) + code
