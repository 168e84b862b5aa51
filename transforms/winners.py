"""Which read counts: the winner per (transformer, meter, interval_end), as a merge that may be done in any order.

The rule (design section 5): the greatest read_ts wins; on a tie an actual read beats an estimate; then the later
arrival, where arrival is (record time, partition, offset). Of reads with identical content only the first arrival
counts, so that a duplicate changes nothing, not even as_of.

To stay independent of order the accumulator keeps, for every key, all different contents that tie for the best
(read_ts, actual), each with its first arrival: a later merge may bring an earlier arrival of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from ami_beam.codecs.read_block import PackedRead

Key = tuple[str, str, int]

# itemgetter and not attributes: these are the hot loop, and one call builds the whole tuple.
_key: Callable[[PackedRead], Key] = itemgetter(0, 1, 2)
_rank: Callable[[PackedRead], tuple] = itemgetter(3, 4)
_arrival: Callable[[PackedRead], tuple] = itemgetter(5, 6, 7)
_content: Callable[[PackedRead], tuple] = itemgetter(*range(8, len(PackedRead._fields)))


class Winners:
    """The reads that may still win, per (transformer, meter, interval_end)."""

    __slots__ = ("_best", "_ties")

    def __init__(self) -> None:
        self._best: dict[Key, PackedRead] = {}
        # Only keys where different contents tie: every tied read, by content.
        self._ties: dict[Key, dict[tuple, PackedRead]] = {}

    def add(self, reads: Iterable[PackedRead]) -> None:
        """Merge reads in; the result does not depend on their order, on repetition or on how they are split up."""
        best = self._best
        for read in reads:
            key = _key(read)
            held = best.get(key)
            if held is None:
                best[key] = read
                continue
            rank, held_rank = _rank(read), _rank(held)
            if rank < held_rank:
                continue
            if rank > held_rank:
                best[key] = read
                self._ties.pop(key, None)
            else:
                self._tie(key, held, read)

    def _tie(self, key: Key, held: PackedRead, read: PackedRead) -> None:
        ties = self._ties.get(key) or {_content(held): held}
        content = _content(read)
        known = ties.get(content)
        if known is None or _arrival(read) < _arrival(known):
            ties[content] = read
        if len(ties) > 1:
            self._ties[key] = ties
        self._best[key] = max(ties.values(), key=_arrival)

    def merge(self, other: Winners) -> None:
        self.add(other.contenders())

    def winners(self) -> Iterator[PackedRead]:
        """One read a key."""
        return iter(self._best.values())

    def contenders(self) -> Iterator[PackedRead]:
        """Every read that must be kept so that later merges decide right: the winners and what ties with them."""
        for key, read in self._best.items():
            ties = self._ties.get(key)
            if ties is None:
                yield read
            else:
                yield from ties.values()
