"""From columns of accepted reads to blocks by shard and window: what `read_block.pack` does, on whole columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ami_beam.codecs.read_block import (
    CENTIVOLT,
    ESTIMATED,
    MICRO_KWH,
    VOLTAGE_REJECTED,
    ZERO_VOLTAGE,
    ReadBlock,
    Scaled,
    encode_block,
)
from ami_beam.read_columns import Flags, ReadColumns, flags, floats, ints
from ami_beam.shards import shard_of


def pack_columns(
    reads: ReadColumns, shards: int, collection_delay: int | None = None
) -> Iterator[tuple[int, bool, ReadBlock]]:
    """(shard of transformers, False, block) for every shard and window of which `reads` holds an INTERVAL read.

    With a `collection_delay` (microseconds) the reads whose window was due before their record time are apart:
    (shard, True, block) for every shard of which there are some. Such a block mixes windows, and its `window_end` is
    only what its times are counted from. Each read is in exactly one block; reads of a block keep their order. Other
    read types are left out. The blocks unpack to the same numbers as those of `pack`.
    """
    shard = np.array([shard_of(name, shards) for name in reads.transformer_id], np.int64)
    window_end = ints(reads.window_end)
    if collection_delay is not None and len(window_end):
        late: Flags = ints(reads.record_time) >= window_end + collection_delay
        if late.any():
            window_end = np.where(late, window_end.max(), window_end)
            shard = np.where(late, shard + shards, shard)
    if reads.read_type.count("INTERVAL") == len(reads):
        order = np.lexsort((shard, window_end))
    else:
        chosen = np.flatnonzero(np.array([kind == "INTERVAL" for kind in reads.read_type], np.bool_))
        order = chosen[np.lexsort((shard[chosen], window_end[chosen]))]
    if not len(order):
        return
    shard, window_end = shard[order], window_end[order]
    positions = order.tolist()
    transformers = [reads.transformer_id[i] for i in positions]
    feeders = [reads.feeder_id[i] for i in positions]
    meters = [reads.meter_id[i] for i in positions]
    interval_ends, read_ts = ints(reads.interval_end)[order], ints(reads.read_ts)[order]
    record_times = ints(reads.record_time)[order]
    partitions, offsets = ints(reads.partition)[order], ints(reads.offset)[order]
    marks = (
        flags(reads.estimated_flag) * np.int64(ESTIMATED)
        + flags(reads.voltage_rejected) * np.int64(VOLTAGE_REJECTED)
        + flags(reads.zero_voltage) * np.int64(ZERO_VOLTAGE)
    )[order]
    consumption = Scaled(floats(reads.consumption_kwh)[order], MICRO_KWH)
    delivered = Scaled(floats(reads.delivered_kwh)[order], MICRO_KWH)
    received = Scaled(floats(reads.received_kwh)[order], MICRO_KWH)
    voltage = Scaled(floats(reads.voltage_v)[order], CENTIVOLT)

    starts = np.flatnonzero(np.concatenate(([True], (shard[1:] != shard[:-1]) | (window_end[1:] != window_end[:-1]))))
    for first, last in pairwise([*starts.tolist(), len(order)]):
        place = int(shard[first])
        yield (
            place % shards,
            place >= shards,
            encode_block(
                int(window_end[first]), transformers, feeders, meters, interval_ends, read_ts, record_times,
                partitions, offsets, consumption, delivered, received, voltage, marks, slice(first, last),
            ),
        )  # fmt: skip
