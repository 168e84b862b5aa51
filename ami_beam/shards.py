"""The shard of a transformer: the same in every process and after every restart."""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

ShardWindow = tuple[int, int]
"""(shard, window_end in microseconds): the key of the statistics and of every step after them."""


@lru_cache(maxsize=1 << 18)
def shard_of(transformer_id: str, shards: int) -> int:
    """CRC-32 of the id modulo `shards`. Never `hash()`, which differs from process to process."""
    return crc32(transformer_id.encode()) % shards
