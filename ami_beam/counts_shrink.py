"""Which meter counts may follow those in use: a table that has lost much more is an accident than the truth.

Transformers that are missing are heard of no more. What the others lose is worse: without its nominal voltage a network
of 120 V is low everywhere, without its receipt delay reads that come by night are missing all day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from apache_beam.io.filesystems import FileSystems

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_SECOND
from ami_beam.meter_counts import VERSION_DIGITS, effective
from ami_beam.records import MeterCount
from ami_beam.registry_counts import CountChanges

Table = TypeVar("Table")
_WHAT = (
    "transformers", "meters", "transformers with a nominal voltage", "transformers with a receipt delay",
    "transformers with a collection group",
)  # fmt: skip


class Size(NamedTuple):
    """How much a table holds, by the rows that are valid at one instant."""

    transformers: int
    """With meters."""
    meters: int
    nominal_voltages: int
    receipt_delays: int
    collection_groups: int


def size_of(rows: Iterable[MeterCount], now: int) -> Size:
    """The size of meter counts."""
    newest: dict[str, MeterCount] = {}
    for row in rows:
        known = newest.get(row.transformer_id)
        if effective(row) <= now and (known is None or effective(known) <= effective(row)):
            newest[row.transformer_id] = row
    valid = [row for row in newest.values() if row.total_meters]
    return Size(
        len(valid),
        sum(row.total_meters for row in valid),
        sum(row.nominal_voltage_v is not None for row in valid),
        sum(row.receipt_delay is not None for row in valid),
        sum(row.collection_group is not None for row in valid),
    )


def size_of_changes(changes: CountChanges, now: int) -> Size:
    """The size of the meter counts that a registry makes."""
    begun = np.flatnonzero(changes.begins <= now)
    which = changes.transformers[begun]
    last = np.ones(len(begun), np.bool_)
    last[:-1] = which[1:] != which[:-1]
    valid = begun[last]
    valid = valid[changes.totals[valid] > 0]
    voltages = int(np.count_nonzero(~np.isnan(changes.voltages[valid])))
    intervals = int(np.count_nonzero(changes.longest[valid]))
    return Size(len(valid), int(changes.totals[valid].sum()), voltages, intervals, 0)


@dataclass(frozen=True)
class ShrinkRule:
    """How much a table may shrink, and which are taken all the same."""

    most_pct: float = 100
    """100 lets every table pass."""
    accepted: str | None = None
    """A file with ids of tables that somebody has looked at."""

    def shrunk(self, new: Size, before: Iterable[Size]) -> str | None:
        """What has shrunk too much, and how; None where nothing has."""
        for old in before:
            lost = [
                f"{what} from {had:,} to {has:,}"
                for what, had, has in zip(_WHAT, old, new, strict=True)
                if had - has > had * self.most_pct / 100
            ]
            if lost:
                return ", ".join(lost)
        return None

    def accepts(self, version_id: str) -> bool:
        """Whether somebody has written this id, or its first 16 digits or more, into the file."""
        if self.accepted is None:
            return False
        try:
            with FileSystems.open(self.accepted) as file:
                words = file.read().decode(errors="replace").split()
        except Exception:  # each file system has its own exceptions; no file is the usual state
            return False
        return any(
            word == version_id or (len(word) >= VERSION_DIGITS and version_id.startswith(word)) for word in words
        )


ANY_TABLE = ShrinkRule()


class ShrinkGuard(Generic[Table]):
    """Compares tables with the one in use, and with a mark: the one that was in use when a day began to be counted.

    So neither a table that is replaced by half of it passes, nor one that is deleted row by row over some minutes.
    The mark is set anew once it is a day old. What a table itself has foreseen by its effective_from is no shrinking:
    all are compared as they are now.

    Args:
      size: of a table at an instant.
      begin: what is known of tables of before; None: the first one is taken as it is.
    """

    def __init__(self, rule: ShrinkRule, size: Callable[[Table, int], Size], begin: Size | None = None) -> None:
        self._rule = rule
        self._size = size
        self._begin = begin
        self._newest: Table | None = None
        self._mark: Table | None = None
        self._marked_at = 0.0

    def refusal(self, table: Table, version_id: str, now: int) -> str | None:
        """Why the table must not be used; None where it may, and is from now on."""
        if self._rule.most_pct < 100:
            if time.monotonic() - self._marked_at > MICROS_PER_DAY / MICROS_PER_SECOND:
                self._mark, self._marked_at = self._newest, time.monotonic()
            before = [self._size(known, now) for known in (self._newest, self._mark) if known is not None]
            if not before and self._begin is not None:
                before = [self._begin]
            lost = self._rule.shrunk(self._size(table, now), before)
            if lost is not None:
                if not self._rule.accepts(version_id):
                    return lost
                self._mark = None
        self.take(table)
        return None

    def take(self, table: Table) -> None:
        """The table is in use from now on."""
        if self._mark is None:
            self._mark, self._marked_at = table, time.monotonic()
        self._newest = table
