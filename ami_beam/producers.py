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
    problems: list[str] = []
    meters: set[str] = set()
    for number, fields in csv_table.rows(content, path, [COLUMN], [COLUMN]):
        meter_id = fields.get(COLUMN, "")
        if meter_id:
            meters.add(meter_id)
        else:
            problems.append(f"line {number}: {COLUMN} is empty; name a meter, or remove the line")
    if not problems and not meters:
        problems.append("there is no row: every meter that feeds in would be an alarm; export the file again")
    csv_table.refuse(path, "file of producers", problems)
    return frozenset(meters)
