"""Finds names that hold a text, fast enough for every key that is pressed, among hundreds of thousands."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class NameIndex:
    """An index of names that does not change. Case is not regarded; names may hold anything."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        # One text, which is searched at the speed of memory. A line break in a name must not look like an end of one.
        folded = [name.casefold().replace("\n", " ") for name in self._names]
        self._text = "\n" + "\n".join(folded)
        self._begins = list(accumulate((len(each) + 1 for each in folded), initial=0))[:-1]

    def find(self, text: str, most: int) -> list[str]:
        """At most so many names: those that begin with the text, then others that hold it, each in their order."""
        wanted = text.casefold().replace("\n", " ")
        if not wanted:
            return []
        found = self._places("\n" + wanted, most)
        if len(found) < most:
            found |= dict.fromkeys(place for place in self._places(wanted, most + len(found)) if place not in found)
        return [self._names[place] for place in list(found)[:most]]

    def _places(self, wanted: str, most: int) -> dict[int, None]:
        places: dict[int, None] = {}
        at = self._text.find(wanted)
        while at >= 0 and len(places) < most:
            place = bisect_right(self._begins, at) - 1
            places[place] = None
            # On with the next name: one name is found once.
            following = self._begins[place + 1] if place + 1 < len(self._begins) else len(self._text)
            at = self._text.find(wanted, following)
        return places
