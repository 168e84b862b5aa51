"""Meter counts in a table or view of PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import sql

from ami_beam.beam_options import OptionError
from ami_beam.codecs.meter_count_rows import COLUMNS, REQUIRED, checked
from ami_beam.meter_counts import MeterCountsError
from ami_beam.meter_counts_origin import Reading
from ami_beam.postgresql.connection import Database, reason_of
from ami_beam.records import MeterCount

_PART = r'(?:[^".\x00]+|"(?:[^"\x00]|"")+")'
_NAME = re.compile(rf"(?:({_PART})\.)?({_PART})")


@dataclass(frozen=True)
class CountsTable:
    """A table or view. Read whole in one statement, so that no half of a transaction is seen."""

    database: Database
    parts: tuple[str, ...]
    """Its name, perhaps after its schema's."""

    @property
    def name(self) -> str:
        return "postgresql:" + ".".join(self.parts)

    def open(self, max_receipt_delay: int | None) -> TableReader:
        return TableReader(self, max_receipt_delay)


def name_parts(text: str) -> tuple[str, ...] | None:
    """The parts of TABLE or SCHEMA.TABLE as PostgreSQL has them, upper case kept; None for what is no such name.

    A part with a dot in it is written in double quotes.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part for part in match.groups() if part is not None
    )


class TableReader:
    """Reads a table, each time by a connection of its own: between refreshes none is held open."""

    def __init__(self, table: CountsTable, max_receipt_delay: int | None) -> None:
        self._table = table
        self._max_receipt_delay = max_receipt_delay

    def read(self) -> Reading:
        table = self._table
        try:
            columns, rows = self._select()
        except psycopg.Error as error:
            raise MeterCountsError(
                f"{table.name}: cannot be read from {table.database.place()}: {reason_of(error)}. Check the name (upper"
                " and lower case count), the right to SELECT, --postgresql and --postgresql_config_file"
            ) from None
        except OptionError as error:
            raise MeterCountsError(f"{table.name}: {error}") from None
        mark = sha256(repr((columns, rows)).encode()).digest()
        return Reading(mark, lambda: self._checked(columns, rows))

    def close(self) -> None:
        pass

    def _select(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        name = sql.Identifier(*self._table.parts)
        with self._table.database.connect() as connection:
            # A view may call functions.
            connection.execute("SET default_transaction_read_only = on")
            known = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(name)).description or ()
            columns = [column.name for column in known if column.name in COLUMNS]
            missing = [column for column in REQUIRED if column not in columns]
            if missing:
                raise MeterCountsError(
                    f"{self._table.name}: no column {' and '.join(missing)}; columns are {', '.join(COLUMNS)}, of which"
                    " the first two are needed"
                )
            listed = sql.SQL(", ").join(map(sql.Identifier, columns))
            return columns, connection.execute(sql.SQL("SELECT {} FROM {}").format(listed, name)).fetchall()

    def _checked(self, columns: list[str], rows: list[tuple[Any, ...]]) -> list[MeterCount]:
        def named() -> Iterator[tuple[str, dict[str, Any]]]:
            for number, row in enumerate(rows, start=1):
                fields = dict(zip(columns, row, strict=True))
                yield f"row {number}, of transformer {str(fields['transformer_id'])[:80]!r}", fields

        return checked(named(), self._table.name, self._max_receipt_delay, [])
