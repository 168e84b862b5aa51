"""Which version of a meter's interval counts, and whether there was another one.

The rule is that of `winners`: the greatest read_ts; on a tie actual beats estimated; then the later arrival, where of
identical content the first one is kept. Here all versions are kept: one that lost says that there was one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter

import numpy as np

from ami_beam.codecs.meter_block import MeterColumns, Version
from ami_beam.read_columns import Flags, Ints

Key = tuple[str, int]
"""(meter_id, interval_end)."""

_key: Callable[[Version], Key] = itemgetter(0, 1)
_rank: Callable[[Version], tuple] = itemgetter(2, 3)
_arrival: Callable[[Version], tuple] = itemgetter(4, 5, 6)
_content: Callable[[Version], tuple] = itemgetter(*range(7, len(Version._fields)))
_values: Callable[[Version], tuple] = itemgetter(3, 11, 12, 13)


def by_interval(versions: Iterable[Version]) -> dict[Key, list[Version]]:
    """The versions of each interval."""
    found: dict[Key, list[Version]] = {}
    for version in versions:
        found.setdefault(_key(version), []).append(version)
    return found


def settled(versions: list[Version]) -> tuple[Version, bool]:
    """The version that counts, and whether another one says something else. The order of `versions` does not matter."""
    best = max(map(_rank, versions))
    firsts: dict[tuple, Version] = {}
    for version in versions:
        if _rank(version) == best:
            known = firsts.get(_content(version))
            if known is None or _arrival(version) < _arrival(known):
                firsts[_content(version)] = version
    winner = max(firsts.values(), key=_arrival)
    says = _values(winner)
    return winner, any(_values(version) != says for version in versions)


def different(versions: Iterable[Version]) -> list[Version]:
    """Without repetitions: of the same content and rank the first arrival."""
    firsts: dict[tuple, Version] = {}
    for version in versions:
        name = (_key(version), _rank(version), _content(version))
        known = firsts.get(name)
        if known is None or _arrival(version) < _arrival(known):
            firsts[name] = version
    return list(firsts.values())


def winners(columns: MeterColumns) -> tuple[Ints | None, Flags]:
    """Where the versions that count are, one an interval (None: all of them are), and which were revised."""
    keys = list(zip(columns.meter_id, columns.interval_end.tolist(), strict=True))
    last = dict(zip(keys, range(len(keys)), strict=True))
    if len(last) == len(keys):
        return None, np.zeros(len(keys), np.bool_)
    places: dict[Key, list[int]] = {}
    for place, key in enumerate(keys):
        if last[key] != place or key in places:
            places.setdefault(key, []).append(place)
    several = [place for each in places.values() for place in each]
    versions = dict(zip(several, columns.take(np.array(several, np.int64)).versions(), strict=True))
    revised = np.zeros(len(keys), np.bool_)
    for key, each in places.items():
        winner, revised_here = settled([versions[place] for place in each])
        here = next(place for place in each if versions[place] is winner)
        last[key] = here
        revised[here] = revised_here
    chosen = np.array(sorted(last.values()), np.int64)
    return chosen, revised[chosen]
