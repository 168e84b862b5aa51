"""The shard of a transformer: the same in every process and after every restart."""

from __future__ import annotations

from zlib import crc32

ShardWindow = tuple[int, int]
"""(shard, window_end in microseconds): the key of the statistics and of every step after them."""


def shard_of(transformer_id: str, shards: int) -> int:
    """CRC-32 of the id modulo `shards`. Never `hash()`, which differs from process to process."""
    # A cache costs more: a hit 0.05 microseconds more with 20,000 ids, 0.5 with 100,000.
    return crc32(transformer_id.encode()) % shards
