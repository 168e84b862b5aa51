"""A CSV file that knows of meters what the head-end does not, read anew when it changes."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Mapping

from ami_beam.csv_table import TableError, read
from ami_beam.headend.source_file import Lookup

_log = logging.getLogger(__name__)


class LookupFile:
    """The rows by the value of the key's column. A file that cannot be used leaves the last good rows."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._stamp: tuple[int, int] | None = None
        self._rows: Mapping[str, Mapping[str, str]] | None = None

    def rows(self) -> Mapping[str, Mapping[str, str]]:
        """The rows as the file is now. Raises TableError where there have never been any."""
        try:
            found = os.stat(self._lookup.file)
            stamp = found.st_mtime_ns, found.st_size
            if stamp != self._stamp or self._rows is None:
                self._rows, self._stamp = self._read(), stamp
        except (OSError, TableError) as error:
            if self._rows is None:
                raise TableError(f"{self._lookup.file}: {error}") from None
            _log.warning("%s cannot be used, the rows of before are: %s", self._lookup.file, error)
        return self._rows

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            text = read(self._lookup.file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TableError(f"is not UTF-8 at byte {error.start}") from None
        table = csv.DictReader(io.StringIO(text), restval="")
        if self._lookup.key not in (table.fieldnames or ()):
            raise TableError(f"has no column {self._lookup.key}; its first line names the columns")
        rows: dict[str, dict[str, str]] = {}
        for row in table:
            row.pop(None, None)
            rows[row[self._lookup.key]] = row
        if not rows:
            raise TableError("has no rows")
        return rows
