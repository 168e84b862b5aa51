"""Which records have been published and may come again: digests, as long as the head-end can give them once more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

Place = tuple[str, int]
"""Topic and partition."""


@dataclass
class Generation:
    """What one transaction has published."""

    latest: int
    """It can come again only in answers to ranges that begin before this, or, in a feed, until this (microseconds)."""
    position: object
    """In a feed: where it was read. It may be read again from there for ever."""
    first_offsets: dict[Place, int] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)


class Memory:
    """The digests of all generations that are kept. A record is known from its commit until it cannot come again."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._generations: deque[Generation] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, generation: Generation) -> None:
        """After its commit, and never before."""
        if generation.digests:
            self._known.update(generation.digests)
            self._generations.append(generation)

    def forget(self, before: int, position: object = None) -> None:
        """Let go of what can come no more: `before` as in `Generation.latest`, and read elsewhere than `position`."""
        kept: deque[Generation] = deque()
        for each in self._generations:
            if each.latest > before or (position is not None and each.position == position):
                kept.append(each)
            else:
                # The digests of two generations are different: what is known is not published again.
                self._known.difference_update(each.digests)
        self._generations = kept

    def first_offsets(self, and_of: Iterable[Generation] = ()) -> dict[Place, int]:
        """For every partition the first record that is remembered."""
        first: dict[Place, int] = {}
        for each in (*self._generations, *and_of):
            for place, offset in each.first_offsets.items():
                first[place] = min(offset, first.get(place, offset))
        return first
