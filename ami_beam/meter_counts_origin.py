"""What the places have in common that meter counts come from: a file, a topic, a table of a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ami_beam.records import MeterCount


class Reading(NamedTuple):
    """What a place held when it was read."""

    mark: bytes
    """Readings with the same mark have the same rows; it is cheaper to make than these."""
    rows: Callable[[], list[MeterCount]]
    """Its rows. Raises MeterCountsError where there is none, or where they are bad."""
    bad_rows: int = 0
    """Single rows that were bad since the reading before, and are as they were."""


class Reader(Protocol):
    """Reads a place again and again, for one process. Used by one thread at a time."""

    def read(self) -> Reading:
        """What it holds now. Raises MeterCountsError."""

    def close(self) -> None:
        """Ends its connections; `read` opens new ones."""


class Origin(Protocol):
    """A place of meter counts, as the job's graph holds it: small, hashable, without a secret."""

    @property
    def name(self) -> str:
        """For messages: as the option has it."""

    def open(self, max_receipt_delay: int | None) -> Reader:
        """What reads it. `max_receipt_delay` (µs, the allowed lateness): the longest that a row may ask for."""
