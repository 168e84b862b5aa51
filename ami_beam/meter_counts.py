"""The meter counts: how many meters hang on each transformer, in versions, as compact side-input elements."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

import msgspec
from msgspec import Struct

from ami_beam.coders import carries
from ami_beam.records import MeterCount
from ami_beam.shards import shard_of


class MeterCountsVersion(Struct, array_like=True, gc=False):
    """One loaded table. Packed, because a side input is decoded for every bundle and may hold 500,000 rows."""

    version_id: str
    """SHA-256 of the content: the same rows are the same version."""
    loaded_at: int
    payload: bytes


carries(MeterCountsVersion)


def pack_counts(rows: Iterable[MeterCount], loaded_at: int) -> MeterCountsVersion:
    """The version that holds `rows`, loaded at this instant."""
    payload = zlib.compress(msgspec.msgpack.encode(list(rows)))
    return MeterCountsVersion(sha256(payload).hexdigest(), loaded_at, payload)


def newest(versions: Iterable[MeterCountsVersion]) -> MeterCountsVersion:
    """The version loaded last. A side input may show older ones beside it."""
    return max(versions, key=lambda version: (version.loaded_at, version.version_id))


class MeterCounts:
    """Look-up in one version of the table."""

    def __init__(self, rows: Iterable[MeterCount]):
        self._rows: dict[str, list[MeterCount]] = {}
        for row in rows:
            self._rows.setdefault(row.transformer_id, []).append(row)
        for versions in self._rows.values():
            versions.sort(key=_effective)
        self._by_shard: dict[int, list[list[str]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, transformer_id: str, window_end: int) -> MeterCount | None:
        """The row with the greatest effective_from ≤ window_end; one without effective_from holds from the beginning."""
        versions = self._rows.get(transformer_id)
        if versions is None:
            return None
        index = bisect_right(versions, window_end, key=_effective)
        return versions[index - 1] if index else None

    def in_shard(self, shard: int, shards: int, window_end: int) -> list[MeterCount]:
        """The rows valid at window_end of the transformers in this shard."""
        by_shard = self._by_shard.get(shards)
        if by_shard is None:
            by_shard = self._by_shard[shards] = [[] for _ in range(shards)]
            for transformer_id in self._rows:
                by_shard[shard_of(transformer_id, shards)].append(transformer_id)
        found = (self.at(transformer_id, window_end) for transformer_id in by_shard[shard])
        return [row for row in found if row is not None]

    def receipt_delays(self, default: int) -> tuple[int, ...]:
        """Every receipt delay in use (microseconds), ascending; `default` stands for rows without their own."""
        delays = {row.receipt_delay for versions in self._rows.values() for row in versions}
        return tuple(sorted(default if delay is None else delay for delay in delays | {None}))


def _effective(row: MeterCount) -> int:
    return -1 if row.effective_from is None else row.effective_from


def counts_of(version: MeterCountsVersion) -> MeterCounts:
    """The look-up of a version; parsed once a process for each of the last few versions."""
    return _parse(version.version_id, version.payload)


_DECODE_ROWS = msgspec.msgpack.Decoder(list[MeterCount]).decode


@lru_cache(maxsize=4)
def _parse(version_id: str, payload: bytes) -> MeterCounts:
    return MeterCounts(_DECODE_ROWS(zlib.decompress(payload)))
