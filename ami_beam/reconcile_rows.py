"""The rows that a reconciliation compares, as columns: what they have, and how kWh are compared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ami_beam.instants import MICROS_PER_SECOND

ENERGIES = ("consumption_kwh", "delivered_kwh", "received_kwh")
MICROS_PER_KWH = 1_000_000
"""kWh are compared and added up as whole millionths: sums are exact, and do not depend on an order."""
MAX_KWH = 1e6
"""More is not an interval of a meter; and sums of a part stay inside 64 bits."""
ESTIMATED, LATE, REVISED = 1, 2, 4
FILE_BITS = 40
"""Below them a place has the number of the line, above them that of the file."""

HERE = pa.schema(
    [
        ("meter_id", pa.string()),
        ("interval_end", pa.int64()),
        ("as_of", pa.int64()),
        *((name, pa.int64()) for name in ENERGIES),
        ("flags", pa.uint8()),
    ]
)
"""Validated reads, several versions of an interval among them; the later row counts where as_of is the same."""


def mdms_schema(energies: tuple[str, ...], quality: bool) -> pa.Schema:
    """Rows of an MDMS export in the order of its files, with those energies that it has.

    `repeats_after` is 0, or the seconds after which the clock showed the same time again: which of the two is meant is
    not decided yet.
    """
    columns = [("meter_id", pa.string()), ("interval_end", pa.int64()), ("repeats_after", pa.int32())]
    columns += [(name, pa.int64()) for name in energies]
    columns += [("quality", pa.string())] if quality else []
    return pa.schema([*columns, ("place", pa.int64())])


@dataclass(frozen=True)
class Period:
    """The intervals that end after `begin` and by `end`: those of a day, where it is made of whole intervals."""

    begin: int
    end: int

    def holds(self, interval_ends: np.ndarray) -> np.ndarray:
        """Which of them are in it."""
        return (interval_ends > self.begin) & (interval_ends <= self.end)


@dataclass
class RowCounts:
    """What became of the rows of one side."""

    read: int = 0
    bad: int = 0
    """Passed over with --skip_bad_lines."""
    outside: int = 0
    """Of other times, or of meters that were not asked for."""
    older: int = 0
    """Versions of an interval that another row replaces."""


def select(batch: pa.RecordBatch, period: Period, meters: Collection[str] | None, counts: RowCounts) -> pa.RecordBatch:
    """The rows of the period and of these meters (None: of all)."""
    inside = period.holds(batch["interval_end"].to_numpy())
    if "repeats_after" in batch.schema.names:
        # Which of the two is meant is not known yet.
        later = batch["repeats_after"].to_numpy() * np.int64(MICROS_PER_SECOND)
        inside |= period.holds(batch["interval_end"].to_numpy() + later)
    if meters is not None:
        wanted = pa.array(sorted(meters), pa.string())
        inside &= pc.is_in(batch["meter_id"], value_set=wanted).to_numpy(zero_copy_only=False)
    counts.outside += int(len(inside) - inside.sum())
    return batch.filter(pa.array(inside))


class BadRows(ValueError):
    """Input that cannot be used: names file, line, column and fix of its first problems."""


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used."""

    place: str
    """File and line, or topic, partition and offset."""
    text: str
    """Column, value and fix."""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


MOST_PROBLEMS = 10


class Problems:
    """Counts rows that cannot be used where they may be passed over, and raises BadRows where they may not."""

    def __init__(self, counts: RowCounts, skip: bool, what: str) -> None:
        self._counts = counts
        self._skip = skip
        self._what = what
        self.first: list[Problem] = []

    def take(self, problems: list[Problem], lost: int | None = None) -> None:
        """All that was found so far. `lost`: rows that are passed over, where it is not one for each problem."""
        if not problems:
            return
        self._counts.bad += len(problems) if lost is None else lost
        self.first += problems[: MOST_PROBLEMS - len(self.first)]
        if not self._skip:
            shown = [str(each) for each in problems[:MOST_PROBLEMS]]
            more = [f"and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
            hint = "--skip_bad_lines passes such lines over and counts them"
            raise BadRows("\n  ".join([f"bad {self._what}", *shown, *more, hint]))
