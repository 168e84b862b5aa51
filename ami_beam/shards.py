"""Which shard a transformer belongs to."""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32


@lru_cache(maxsize=1 << 20)
def shard_of(transformer_id: str, shards: int) -> int:
    """The shard of a transformer, in every process and every run the same (Python's own hash of a text is not)."""
    return crc32(transformer_id.encode()) % shards
