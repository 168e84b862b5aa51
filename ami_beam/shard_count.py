"""How many shards a run gets that names none: enough to spread the work, and none so small that its price shows."""

from __future__ import annotations

from collections.abc import Iterable

from ami_beam.meter_counts import effective
from ami_beam.records import MeterCount

METERS_PER_SHARD = 20_000
"""At most, on average. A backlog is cheaper in fewer shards, late reads in more: for each a shard's window is
fetched. Measured, see docs/performance.md."""
_COUNTS = (4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)
"""Far apart, so that a network can grow a long time before a savepoint no longer fits."""


def shards_for(rows: Iterable[MeterCount], replay: bool = False) -> int:
    """The least of 4, 16, 64, 256 … 65536 with at most 20,000 meters a shard, by the newest counts.

    Of a replay also 1: it has no savepoint to keep, and Flink makes bundles of their own for each shard and window.
    """
    newest = {row.transformer_id: row.total_meters for row in sorted(rows, key=effective)}
    meters = sum(newest.values())
    counts = (1, *_COUNTS) if replay else _COUNTS
    return next((count for count in counts if meters <= count * METERS_PER_SHARD), _COUNTS[-1])
