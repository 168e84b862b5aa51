"""Columns of numbers in as few bytes as they need: a byte that names the kind, then a value a row, or one for all.

Nothing is lost: what is decoded is what was encoded.
"""

from __future__ import annotations

import numpy as np

from ami_beam.read_columns import Flags, Floats, Ints

MICRO_KWH = 1_000_000
# Beyond this a scaled integer would leave 64 bits, also as a difference; such a value travels as the float it is.
SCALABLE = 1e12

_KINDS = ("<i1", "<i2", "<i4", "<i8")
FLOAT = 8
"""The kind byte of a column of floats; the others are places in _KINDS."""


class Scaled:
    """Floats as whole numbers of 1/scale, and which of them that says exactly."""

    __slots__ = ("column", "exact", "whole")

    def __init__(self, column: Floats, scale: int):
        self.column = column
        scalable: Flags = np.abs(column) < SCALABLE  # False for NaN, which stands for None
        self.whole: Ints = np.rint(np.where(scalable, column, 0) * scale).astype(np.int64)
        # Divided and compared: the integer must give the same float back, the sign of a zero included.
        self.exact: Flags = scalable & (self.whole / scale == column) & ~((column == 0) & np.signbit(column))

    def encoded(self, cut: slice) -> bytes:
        return encoded(self.whole[cut]) if self.exact[cut].all() else encoded_floats(self.column[cut])


def renumbered(numbers: Ints, size: int) -> tuple[Ints, Ints]:
    """The numbers that occur, in order, and where in them each of `numbers` is. All are below `size`."""
    if size > 8 * len(numbers):
        return np.unique(numbers, return_inverse=True)
    occurs = np.zeros(size, np.bool_)
    occurs[numbers] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[numbers]


def encoded(column: Ints) -> bytes:
    """Whole numbers. There must be at least one."""
    least, greatest = int(column.min()), int(column.max())
    kind = 0
    while kind < 3 and not (-(1 << (8 << kind) - 1) <= least and greatest < 1 << (8 << kind) - 1):
        kind += 1
    if least == greatest:
        column = column[:1]
    return bytes((kind,)) + column.astype(_KINDS[kind]).tobytes()


def encoded_floats(column: Floats) -> bytes:
    """Floats as they are."""
    return bytes((FLOAT,)) + column.astype("<f8").tobytes()


def decoded(column: bytes, count: int, places: Ints | None = None) -> np.ndarray:
    """The values of `count` reads, or of those at `places`."""
    kind = column[0]
    values = np.frombuffer(column, "<f8" if kind == FLOAT else _KINDS[kind], offset=1)
    one_for_all = len(values) != count
    if places is not None:
        count = len(places)
        if not one_for_all:
            values = values[places]
    if kind != FLOAT:
        values = values.astype(np.int64)
    return np.repeat(values, count) if one_for_all else values


def decoded_kwh(column: bytes, count: int) -> Floats:
    """The kWh of `count` reads, of a column of micro-kWh or of floats."""
    values = decoded(column, count)
    return values if column[0] == FLOAT else values / MICRO_KWH
