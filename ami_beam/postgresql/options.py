"""The options that name a database, for `ami_beam.run` and `ami_beam.postgresql` alike."""

from __future__ import annotations

from typing import Any

from ami_beam.postgresql.connection import DEFAULT_SCHEMA


def add_options(group: Any) -> None:
    """Add them to a parser or a group of one."""
    group.add_argument(
        "--postgresql",
        metavar="URI",
        help="database of results, as libpq has it, without a password: postgresql://ami_writer@db1:5432/ami, or"
        " 'host=db1 dbname=ami user=ami_writer sslmode=verify-full'. libpq's environment variables and files add to it",
    )
    group.add_argument(
        "--postgresql_config_file",
        metavar="PATH",
        help="libpq's keywords, such as password, as a Java properties or JSON file at the same path for every process"
        " of the job; --postgresql goes before it. Secrets are never logged, nor stored in the job",
    )
    group.add_argument(
        "--postgresql_schema",
        default=DEFAULT_SCHEMA,
        metavar="NAME",
        help=f"which has the tables; python -m ami_beam.postgresql makes them ({DEFAULT_SCHEMA})",
    )
