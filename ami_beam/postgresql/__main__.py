"""`python -m ami_beam.postgresql`: makes the tables of results in a database, and tells whether they are there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import psycopg

from ami_beam.beam_options import OptionError, Parser
from ami_beam.postgresql.connection import Database, PostgresqlError, database_of
from ami_beam.postgresql.migration import all_statements, changes, check, migrate, unreachable
from ami_beam.postgresql.options import add_options

_ABOUT = """The tables and views of --sink=postgresql. migrate: makes the schema, or adds what it lacks for this
version, in one transaction; nothing is dropped. check: whether a run could write, as the user it names. sql: prints the
statements for an empty database, and connects to none."""
_EXAMPLES = """
examples:
  python -m ami_beam.postgresql migrate --postgresql=postgresql://ami_owner@db1/ami
  python -m ami_beam.postgresql migrate --postgresql=postgresql://ami_owner@db1/ami --dry-run
  python -m ami_beam.postgresql check --postgresql=postgresql://ami_writer@db1/ami
  python -m ami_beam.postgresql sql > ami.sql
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, or nothing lacks; 1 the database is not, or cannot be made, current; 2 a wrong option."""
    parser = Parser(
        prog="python -m ami_beam.postgresql",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("migrate", "check", "sql"))
    parser.add_argument("--dry-run", action="store_true", help="print what migrate would do, and do nothing")
    add_options(parser)
    try:
        given = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
        database = database_of(given.postgresql, given.postgresql_config_file, given.postgresql_schema)
        print(_act(given.action, database, given.dry_run), end="")
    except OptionError as error:
        print(f"ami_beam.postgresql: {error}", file=sys.stderr)
        return 2
    except PostgresqlError as error:
        print(f"ami_beam.postgresql: {error}.", file=sys.stderr)
        return 1
    return 0


def _act(action: str, database: Database, dry_run: bool) -> str:
    """What to print."""
    if action == "sql":
        return "".join(f"{statement};\n" for statement in all_statements(database.schema))
    if action == "check":
        check(database)
        return f"The tables of schema {database.schema} at {database.place()} are current.\n"
    try:
        with database.connect() as connection:
            done = changes(connection, database.schema) if dry_run else migrate(connection, database.schema)
    except psycopg.Error as error:
        raise PostgresqlError(unreachable(database, error)) from None
    if not done:
        return f"Nothing is lacking in schema {database.schema} at {database.place()}.\n"
    return "".join(f"{change.statement};\n" for change in done)


if __name__ == "__main__":
    sys.exit(main())
