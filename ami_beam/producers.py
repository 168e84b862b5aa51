"""Which meters are registered to feed in: `--producers`."""

from __future__ import annotations

from ami_beam import csv_table

COLUMN = "meter_id"


def load(path: str) -> frozenset[str]:
    """The meters of a CSV file, plain or .gz; lines that begin with # are passed over. Raises TableError."""
    return parse(csv_table.read(path), path)


def parse(content: bytes, path: str) -> frozenset[str]:
    """The meters in `content`; `path` is for messages. Raises TableError with the first problems of all rows.

    Columns beside meter_id are passed over, and a meter may be named twice. A file without a row is refused: it is
    hardly meant that every meter that feeds in is an alarm.
    """
    meters: set[str] = set()

    def take(fields: dict[str, str]) -> str | None:
        meter_id = fields.get(COLUMN, "")
        if not meter_id:
            return f"{COLUMN} is empty; name a meter, or remove the line"
        meters.add(meter_id)
        return None

    empty = "there is no row: every meter that feeds in would be an alarm; export the file again"
    csv_table.take_rows(content, path, "file of producers", ([COLUMN], [COLUMN]), take, empty)
    return frozenset(meters)
