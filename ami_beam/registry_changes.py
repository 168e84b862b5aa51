"""What a correction of the meter registry says of the past: when which transformers lose or gain meters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ami_beam.meter_registry import MeterRegistry
from ami_beam.read_columns import Ints

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


class Moved(NamedTuple):
    """Of reads with `first` ≤ interval_end < `end` a meter's belong to another transformer or feeder than before."""

    first: int
    end: int
    transformers: frozenset[str]
    """The old one and the new one; one where only the feeder is another."""


def moved(before: MeterRegistry, after: MeterRegistry, first: int, end: int) -> set[Moved]:
    """What changes between two versions, for instants from `first` to before `end` (microseconds).

    Of a meter that only the new one has at an instant, it is not known where its reads are: they stay there, but where
    that is a transformer which changes anyway. Both versions were loaded by this process.
    """
    found = set()
    for meter in _changed(before, after).tolist():
        old, new = _places(before, meter), _places(after, meter)
        inside = {at for at, _ in (*old, *new) if first < at < end}
        for begin, until in pairwise([first, *sorted(inside), end]):
            was, now = _at(old, begin), _at(new, begin)
            if now is not None and was != now:
                found.add(Moved(begin, until, frozenset({now[0]} if was is None else {was[0], now[0]})))
    return found


Place = tuple[str, str]
"""Transformer and feeder."""


def _places(registry: MeterRegistry, meter: int) -> list[tuple[int, Place]]:
    """From when on the meter is where, by time."""
    low, high = np.searchsorted(registry.hashes, [meter, meter + 1]).tolist()
    begins = registry.effective_from
    return [
        (
            -1 if begins is None else int(begins[row]),
            (registry.transformers[registry.place[row]], registry.feeders[registry.place[row]]),
        )
        for row in range(low, high)
    ]


def _at(places: list[tuple[int, Place]], instant: int) -> Place | None:
    found = None
    for begin, place in places:
        if begin <= instant:
            found = place
    return found


def _changed(before: MeterRegistry, after: MeterRegistry) -> Ints:
    """The hashes of meters of which a row is not in both."""
    one, other = _signatures(before), _signatures(after)
    changed = (
        registry.hashes[~np.isin(own, theirs)] for registry, own, theirs in ((before, one, other), (after, other, one))
    )
    return np.unique(np.concatenate(list(changed)))


def _signatures(registry: MeterRegistry) -> Hashes:
    """A number a row that says meter, instant and place; two rows share one by chance only."""
    places = np.fromiter(
        (hash(place) for place in zip(registry.transformers, registry.feeders, strict=True)),
        np.int64,
        len(registry.transformers),
    ).view(np.uint64)
    begins = np.zeros(1, np.int64) if registry.effective_from is None else registry.effective_from + 1
    mixed = registry.hashes.view(np.uint64) * _ODD[0]
    mixed ^= begins.view(np.uint64) * _ODD[1]
    mixed *= _ODD[2]
    return mixed ^ places[registry.place]


_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of the generator splitmix64 (Steele, Lea and Flood 2014)."""
