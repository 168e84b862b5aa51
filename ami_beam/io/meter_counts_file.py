"""Meter counts in a file: CSV, JSON lines or Avro, plain or .gz."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from ami_beam.codecs.meter_count_rows import parse
from ami_beam.io.files import ReplayError, file_lines
from ami_beam.meter_counts import MeterCountsError
from ami_beam.meter_counts_origin import Reading
from ami_beam.records import MeterCount


@dataclass(frozen=True)
class CountsFile:
    """A file, on any of Beam's file systems. Read whole, each time."""

    path: str

    @property
    def name(self) -> str:
        return self.path

    def open(self, max_receipt_delay: int | None) -> FileReader:
        return FileReader(self.path, max_receipt_delay)


class FileReader:
    """Reads a file."""

    def __init__(self, path: str, max_receipt_delay: int | None) -> None:
        self._path = path
        self._max_receipt_delay = max_receipt_delay

    def read(self) -> Reading:
        content = read(self._path)
        return Reading(sha256(content).digest(), lambda: parse(content, self._path, self._max_receipt_delay))

    def close(self) -> None:
        pass


def load(path: str, max_receipt_delay: int | None = None) -> list[MeterCount]:
    """The rows of a file as it is now. Raises MeterCountsError."""
    return parse(read(path), path, max_receipt_delay)


def read(path: str) -> bytes:
    """The content of the file. Raises MeterCountsError."""
    try:
        return b"".join(file_lines(path))
    except ReplayError as error:
        raise MeterCountsError(str(error)) from None
    except Exception as error:  # each file system has its own exceptions
        raise MeterCountsError(f"{path}: cannot be read: {error}") from error
