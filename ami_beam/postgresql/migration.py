"""What a schema lacks of the tables that this version writes, and how it gets it: at once, and nothing is dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import psycopg

from ami_beam import __version__
from ami_beam.postgresql import tables as ddl
from ami_beam.postgresql.connection import Database, PostgresqlError, reason_of
from ami_beam.postgresql.tables import TABLES, VIEWS, Table

LEAST_VERSION = 150_000
"""Keys in which null is one value are of PostgreSQL 15."""
_LOCK = 0x616D695F
"""Of advisory locks: two migrations go one after the other."""
_HISTORY = "migration"
_WAIT = "10s"
"""For a table that others use: whoever comes behind an ALTER TABLE that waits, waits too."""


@dataclass(frozen=True)
class Change:
    """A statement, and what the schema lacks without it."""

    lacks: str
    statement: str
    needed: bool = True
    """Whether a run needs it; it does without views and indexes."""


@dataclass
class _Actual:
    """What there is in a schema."""

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    """The types of columns by table."""
    indexes: set[str] = field(default_factory=set)
    keys: dict[str, list[set[str]]] = field(default_factory=dict)
    """The columns of unique keys by table."""
    views: dict[str, str] = field(default_factory=dict)
    """The statement that each was made with last, as far as it is known."""
    history: bool = False
    schema: bool = False


def changes(connection: psycopg.Connection, schema: str) -> list[Change]:
    """What is lacking; empty where the schema is current. Columns that this version does not know are left alone.

    Raises PostgresqlError where it cannot be made current: another type, too old a server.
    """
    _check_server(connection)
    actual = _look(connection, schema)
    return _missing(schema, actual)


def all_statements(schema: str) -> list[str]:
    """The whole DDL for a database without the schema."""
    return [change.statement for change in _missing(schema, _Actual())]


def migrate(connection: psycopg.Connection, schema: str) -> list[Change]:
    """Make the schema current and note what was done; all of it or nothing. Returns what was lacking.

    Raises PostgresqlError.
    """
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{_WAIT}'")
            # Building an index on years of rows takes its time.
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, schema))
            done = changes(connection, schema)
            for change in done:
                connection.execute(change.statement.encode())
            if done:
                history = ddl.full_name(schema, _HISTORY)
                connection.execute(
                    f"INSERT INTO {history} (ami_beam, statements) VALUES (%s, %s)".encode(),
                    (__version__, [change.statement for change in done]),
                )
            return done
    except psycopg.errors.LockNotAvailable:
        raise PostgresqlError(
            f"Another session has held a table of schema {schema} for {_WAIT}, and nothing was changed. Try again, or"
            " look at pg_stat_activity for who it is"
        ) from None
    except psycopg.Error as error:
        raise PostgresqlError(f"Nothing was changed: {reason_of(error)}{_hint(error, schema)}") from None


def check(database: Database) -> None:
    """Raises PostgresqlError with what to do where a run could not write to the database."""
    try:
        with database.connect() as connection:
            needed = [change for change in changes(connection, database.schema) if change.needed]
            if needed:
                more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
                lacking = ", ".join(change.lacks for change in needed[:3]) + more
                raise PostgresqlError(
                    f"The database at {database.place()} lacks {lacking}. Run python -m ami_beam.postgresql migrate"
                    " with the same --postgresql_schema, as the schema's owner"
                )
            _check_rights(connection, database.schema)
    except psycopg.Error as error:
        raise PostgresqlError(unreachable(database, error)) from None


def unreachable(database: Database, error: psycopg.Error) -> str:
    """What to say of a database that does not let us in."""
    return (
        f"The database at {database.place()} cannot be used: {reason_of(error)}. Check --postgresql, and the password"
        " in --postgresql_config_file or the file that PGPASSFILE names"
    )


def _check_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < LEAST_VERSION:
        raise PostgresqlError(f"The server is PostgreSQL {version // 10_000}, and 15 or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise PostgresqlError(
            f"The database's encoding is {encoding}: create it with ENCODING 'UTF8' TEMPLATE template0"
        )


def _check_rights(connection: psycopg.Connection, schema: str) -> None:
    lacking = [
        f"{right} on {table.name}"
        for table in TABLES
        for right in ("SELECT", "INSERT", "UPDATE")
        if not _has(connection, "has_table_privilege(%s, %s)", ddl.full_name(schema, table.name), right)
    ]
    if lacking:
        user = connection.info.user
        raise PostgresqlError(
            f"{user} may not {', '.join(lacking[:3])}{' and so on' if len(lacking) > 3 else ''}. As the owner: GRANT"
            f" SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {user}"
        )
    if not _has(connection, "has_database_privilege(current_database(), %s)", "TEMP"):
        user, database = connection.info.user, connection.info.dbname
        raise PostgresqlError(
            f"{user} may not make temporary tables, through which rows come: GRANT TEMPORARY ON DATABASE {database} TO"
            f" {user}"
        )


def _has(connection: psycopg.Connection, call: str, *arguments: str) -> bool:
    row = connection.execute(f"SELECT {call}".encode(), arguments).fetchone()
    return row is not None and bool(row[0])


def _look(connection: psycopg.Connection, schema: str) -> _Actual:
    actual = _Actual()
    actual.schema = (
        connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is not None
    )
    relations = connection.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped",
        (schema,),
    )
    for relation, column, kind in relations:
        actual.columns.setdefault(relation, {})[column] = kind
    indexes = connection.execute(
        "SELECT t.relname, i.relname, x.indisunique AND x.indisvalid AND x.indpred IS NULL,"
        " ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY (x.indkey))"
        " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = %s",
        (schema,),
    )
    for relation, index, unique, columns in indexes:
        actual.indexes.add(index)
        if unique:
            actual.keys.setdefault(relation, []).append(set(columns))
    actual.history = _HISTORY in actual.columns
    made = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relkind = 'v'",
        (schema,),
    )
    actual.views = dict.fromkeys((name for (name,) in made), "")
    if actual.history:
        history = connection.execute(
            f"SELECT statements FROM {ddl.full_name(schema, _HISTORY)} ORDER BY number".encode()
        )
        for (statements,) in history:
            for view in VIEWS:
                begin = ddl.create_view(schema, view).partition(" AS ")[0] + " AS "
                for statement in statements:
                    if statement.startswith(begin) and view.name in actual.views:
                        actual.views[view.name] = statement
    return actual


def _missing(schema: str, actual: _Actual) -> list[Change]:
    found: list[Change] = []
    if not actual.schema:
        found.append(Change(f"schema {schema}", f"CREATE SCHEMA {ddl.quoted(schema)}"))
    if not actual.history:
        found.append(
            Change(
                f"table {_HISTORY}",
                f"CREATE TABLE {ddl.full_name(schema, _HISTORY)} (\n"
                "  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
                "  applied_at timestamp with time zone NOT NULL DEFAULT now(),\n"
                "  ami_beam text NOT NULL,\n  statements text[] NOT NULL\n)",
            )
        )
    for table in TABLES:
        found += _missing_of(schema, table, actual.columns.get(table.name), actual.keys.get(table.name, []))
        found += [
            Change(f"index {name}", ddl.create_index(schema, table, columns), needed=False)
            for columns in table.indexes
            if (name := ddl.index_name(table, columns)) not in actual.indexes
        ]
    for view in VIEWS:
        statement = ddl.create_view(schema, view)
        if actual.views.get(view.name) != statement:
            found.append(Change(f"view {view.name}", statement, needed=False))
            comment = ddl.comment_on("VIEW", schema, view.name, view.comment)
            found.append(Change(f"comment on {view.name}", comment, needed=False))
    return found


def _missing_of(schema: str, table: Table, columns: Mapping[str, str] | None, keys: list[set[str]]) -> list[Change]:
    if columns is None:
        comment = ddl.comment_on("TABLE", schema, table.name, table.comment)
        return [
            Change(f"table {table.name}", ddl.create_table(schema, table)),
            Change(f"comment on {table.name}", comment, needed=False),
        ]
    for column in table.columns:
        there = columns.get(column.name, column.type)
        if there != column.type:
            name = ddl.full_name(schema, table.name)
            raise PostgresqlError(
                f"Column {column.name} of {schema}.{table.name} is {there}, and this version writes {column.type}."
                f" Change it, for example: ALTER TABLE {name} ALTER {ddl.quoted(column.name)} TYPE {column.type}"
            )
    found = [
        Change(f"column {table.name}.{column.name}", ddl.add_column(schema, table, column))
        for column in table.columns
        if column.name not in columns
    ]
    if set(table.identity) not in keys:
        found.append(Change(f"key of {table.name}", ddl.add_key(schema, table)))
    return found


def _hint(error: psycopg.Error, schema: str) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f". Migrate as the owner of schema {schema}, or as one who may create it in this database"
    if isinstance(error, psycopg.errors.InvalidTableDefinition):
        return ". Drop the view, and what is built on it, and migrate again"
    return ""
