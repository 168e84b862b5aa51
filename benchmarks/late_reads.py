"""What one late read costs: CPU time and state bytes against the number of buckets in a shard's window.

`python -m benchmarks.late_reads`. Chooses `BUCKETS` in transforms/window_statistics.py: at 5 million meters and 1,024
shards a shard's window holds 4,900 reads; a late read fetches, recomputes and writes back one bucket of them.
"""

from __future__ import annotations

import random
import time

import msgspec

from ami_beam.codecs.read_block import PackedRead
from transforms.window_statistics import Bucket, revise

WINDOW_END = 1_772_496_900_000_000
READS_PER_SHARD_WINDOW = 4_900
METERS_PER_TRANSFORMER = 10
LATE_READS = 40


def read_of(meter: int, late: bool) -> PackedRead:
    """A realistic read of this meter."""
    kwh = round(random.random(), 4)
    record_time = WINDOW_END + (random.randrange(300_000) + (3_600_000 if late else 0)) * 1_000
    return PackedRead(
        f"TR-{meter // METERS_PER_TRANSFORMER:06d}", f"MTR-{meter:07d}", WINDOW_END,
        WINDOW_END + (random.randrange(60) + late * 60) * 1_000_000, True, record_time, random.randrange(8),
        random.randrange(1_000_000), "Feeder1", kwh, kwh, 0.0, round(228 + random.random() * 6, 2), False, False,
    )  # fmt: skip


def measure(buckets: int) -> tuple[float, float]:
    """(CPU milliseconds, bytes of state fetched) per late read."""
    meters = READS_PER_SHARD_WINDOW // buckets
    bucket, _ = revise(WINDOW_END, None, [read_of(meter, late=False) for meter in range(meters)])
    state = msgspec.msgpack.encode(bucket)
    started = time.process_time()
    for _ in range(LATE_READS):
        held = msgspec.msgpack.decode(state, type=Bucket)
        after, changed = revise(WINDOW_END, held, [read_of(random.randrange(meters), late=True)])
        assert changed
        msgspec.msgpack.encode(after)
    return (time.process_time() - started) / LATE_READS * 1_000, len(state)


def main() -> None:
    """Print the table."""
    random.seed(1)
    print(f"{'buckets':>8} {'ms CPU a late read':>20} {'bytes fetched':>14}")
    for buckets in (1, 2, 4, 8, 16, 32):
        milliseconds, size = measure(buckets)
        print(f"{buckets:>8} {milliseconds:>20.2f} {size:>14,}")


if __name__ == "__main__":
    main()
