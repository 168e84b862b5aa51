"""Decisions drawn from bytes, so that a fuzzer that changes a byte changes a decision, and a file replays an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Any bytes give valid decisions; where they have run out every decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` - 1. Takes one byte, or two where one is not enough."""
        size = 1 if bound <= 256 else 2
        return int.from_bytes(self.raw(size), "little") % bound

    def of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def chance(self, one_in: int) -> bool:
        """True for one byte in so many; False where the bytes have run out."""
        return self.below(one_in) == one_in - 1

    def raw(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken
