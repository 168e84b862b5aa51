"""`transformer_meter_count`: how many meters each transformer has, from when on, and what else it says about it."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256
from threading import Lock

import msgspec
from msgspec import Struct

from ami_beam.coders import carries
from ami_beam.csv_table import TableError
from ami_beam.records import MeterCount
from ami_beam.shards import shard_of

VERSION_DIGITS = 16
"""So many of a version's id are written beside what was judged by it."""


class MeterCountsError(TableError):
    """Meter counts that cannot be used: names where they are and, for each bad row, line, field, value and fix."""


class MeterCountsVersion(Struct, array_like=True, gc=False):
    """One state of the table, small enough for a side input: it is decoded for every bundle, and unpacked only once."""

    version_id: str
    """SHA-256 of the rows: the same table has the same id, in whatever order its rows come."""
    loaded_at: int
    """When it was loaded, by the wall clock, in microseconds."""
    payload: bytes


carries(MeterCountsVersion)


def newest(versions: Iterable[MeterCountsVersion]) -> MeterCountsVersion:
    """The version loaded last. A side input may show older ones beside it."""
    return max(versions, key=lambda version: (version.loaded_at, version.version_id))


class MeterCounts:
    """The table, indexed: by transformer and time, and by shard."""

    def __init__(self, versions: dict[str, tuple[MeterCount, ...]]) -> None:
        self._versions = versions
        self._shards: dict[int, list[list[str]]] = {}
        self._receipt_delays: dict[int, tuple[int, ...]] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[MeterCount]) -> MeterCounts:
        """Indexes rows in any order."""
        versions: dict[str, tuple[MeterCount, ...]] = {}
        for row in rows:
            versions[row.transformer_id] = (*versions.get(row.transformer_id, ()), row)
        for transformer_id, several in versions.items():
            if len(several) > 1:
                versions[transformer_id] = tuple(sorted(several, key=effective))
        return cls(versions)

    def __len__(self) -> int:
        return len(self._versions)

    def at(self, transformer_id: str, window_end: int) -> MeterCount | None:
        """The row with the greatest effective_from ≤ window_end; one without it is valid from the beginning.

        None where that row has no meters: nothing is expected of the transformer then.
        """
        row = self.row_at(transformer_id, window_end)
        return row if row is not None and row.total_meters else None

    def row_at(self, transformer_id: str, window_end: int) -> MeterCount | None:
        """The same row, whether it has meters or not."""
        several = self._versions.get(transformer_id)
        if several is None:
            return None
        place = bisect_right(several, window_end, key=effective)
        return several[place - 1] if place else None

    def rows_of(self, transformer_id: str) -> tuple[MeterCount, ...]:
        """All rows of the transformer, by time."""
        return self._versions.get(transformer_id, ())

    def in_shard(self, shard: int, shards: int, window_end: int) -> list[MeterCount]:
        """The rows of all transformers of a shard that are valid at window_end."""
        index = self._shards.get(shards)
        if index is None:
            index = [[] for _ in range(shards)]
            for transformer_id in self._versions:
                index[shard_of(transformer_id, shards)].append(transformer_id)
            self._shards[shards] = index
        rows = (self.at(transformer_id, window_end) for transformer_id in index[shard])
        return [row for row in rows if row is not None]

    def receipt_delays(self, default: int) -> tuple[int, ...]:
        """The distinct receipt delays in use, ascending; `default` stands for the rows without their own."""
        # Asked for with every batch of reads.
        delays = self._receipt_delays.get(default)
        if delays is None:
            rows = (row for several in self._versions.values() for row in several if row.total_meters)
            distinct = {default if row.receipt_delay is None else row.receipt_delay for row in rows}
            delays = self._receipt_delays[default] = tuple(sorted(distinct))
        return delays


def effective(row: MeterCount) -> int:
    """From when on a row holds, as a sort key: before every instant where it does not say."""
    return -1 if row.effective_from is None else row.effective_from


def pack(rows: Iterable[MeterCount], loaded_at: int) -> MeterCountsVersion:
    """The rows as one version."""
    content = msgspec.msgpack.encode(sorted(rows, key=lambda row: (row.transformer_id, effective(row))))
    return MeterCountsVersion(sha256(content).hexdigest(), loaded_at, zlib.compress(content, 6))


def unpack(version: MeterCountsVersion) -> list[MeterCount]:
    """The rows of a version."""
    return msgspec.msgpack.decode(zlib.decompress(version.payload), type=list[MeterCount])


_CACHED_VERSIONS = 4
_cache: OrderedDict[str, MeterCounts] = OrderedDict()
_cache_lock = Lock()


def counts_of(version: MeterCountsVersion) -> MeterCounts:
    """The table of a version; unpacked once a process for the versions last used."""
    with _cache_lock:
        counts = _cache.get(version.version_id)
        if counts is None:
            counts = _cache[version.version_id] = MeterCounts.from_rows(unpack(version))
            if len(_cache) > _CACHED_VERSIONS:
                _cache.popitem(last=False)
        _cache.move_to_end(version.version_id)
        return counts
