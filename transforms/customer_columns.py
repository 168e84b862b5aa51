"""Numbers of customers as columns: one row a customer, which is there from its first number on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ami_beam.codecs.number_columns import decoded, encoded
from ami_beam.read_columns import Ints

NEVER = -1
"""The revision of a row that was not published yet."""


class CustomerColumns:
    """A column for each of `NAMES`, with a value for each of `names`; new customers have 0, and `revision` NEVER.

    Args:
      names: of the customers.
      packed: the columns as `packed` gave them; empty where there is no customer.
    """

    NAMES: tuple[str, ...]

    def __init__(self, names: list[str], packed: Sequence[bytes]):
        self.names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._columns: dict[str, Ints] = {
            name: decoded(column, len(names)).copy() if column else np.zeros(0, np.int64)
            for name, column in zip(self.NAMES, packed or [b""] * len(self.NAMES), strict=True)
        }

    def __len__(self) -> int:
        return len(self.names)

    def _placed(self, names: list[str]) -> Ints:
        """Where these customers are; those that were not there are now."""
        places = self._places
        for name in names:
            if name not in places:
                places[name] = len(places)
                self.names.append(name)
        grown = len(self.names) - len(self._columns["revision"])
        if grown:
            for name, values in self._columns.items():
                fill = NEVER if name == "revision" else 0
                self._columns[name] = np.concatenate((values, np.full(grown, fill, np.int64)))
        return np.fromiter(map(places.__getitem__, names), np.int64, len(names))

    def _told(self, touched: Ints) -> tuple[list[str], dict[str, Ints]]:
        """Names and columns of those that have a row, which is noted as published: who never had a read has none."""
        mine = self._columns
        touched = touched[(mine["reads"][touched] > 0) | (mine["revision"][touched] != NEVER)]
        mine["revision"][touched] += 1
        return self._named(touched), {name: column[touched] for name, column in mine.items()}

    def _named(self, places: Ints) -> list[str]:
        return [self.names[place] for place in places.tolist()]

    def packed(self) -> list[bytes]:
        """The columns for the state. There must be a customer."""
        return [encoded(self._columns[name]) for name in self.NAMES]
