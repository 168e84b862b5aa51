"""What a meter registry costs a worker: loading it, keeping it, and putting reads where it has their meters.

Prints seconds of CPU time and megabytes for a registry of `--meters`, of which a twentieth were exchanged, and
microseconds a read for batches of 2,000 reads of meters anywhere in it, all where the head-end has them, and all not.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from msgspec.structs import replace

from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_registry import COLUMNS, MeterRegistry
from ami_beam.read_columns import ReadColumns, from_reads
from ami_beam.records import Read
from transforms.place_reads import place

TRANSFORMER, FEEDER = 50, 5_000
"""Meters on each."""
BATCHES, READS = 50, 2_000
NOW = 1_772_496_000_000_000


def _place_of(meter: int) -> tuple[str, str]:
    return f"TR-{meter // TRANSFORMER:06d}", f"FDR-{meter // FEEDER:04d}"


def _lines(meters: int) -> Iterator[str]:
    yield ",".join(COLUMNS) + "\n"
    for meter in range(meters):
        place = f"SP-{meter:08d},{','.join(_place_of(meter))},230,15"
        yield f"MTR-{meter:08d},{place},ACTIVE,\n"
        if meter % 20 == 0:
            change = f"2025-{meter % 12 + 1:02d}-{meter % 28 + 1:02d}T10:00:00Z"
            yield f"MTR-{meter:08d},{place},INACTIVE,{change}\nMTX-{meter:08d},{place},ACTIVE,{change}\n"


def _megabytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def _batches(meters: int) -> list[ReadColumns]:
    """Reads of which none was exchanged: the others are few on any day."""
    randomly = random.Random(1)
    numbers = [[randomly.randrange(meters // 20) * 20 + 1 for _ in range(READS)] for _ in range(BATCHES)]
    return [
        from_reads(
            [
                Read(
                    f"MTR-{meter:08d}", f"SP-{meter:08d}", *_place_of(meter), "INTERVAL", NOW - 900_000_000, NOW, 0.5,
                    0.5, 0.0, 230.0, 0, False, NOW, NOW, False, False, NOW, 0, meter,
                )
                for meter in batch
            ]
        )
        for batch in numbers
    ]  # fmt: skip


def _micros_a_read(registry: MeterRegistry, batches: list[ReadColumns]) -> float:
    begin = time.process_time()
    for batch in batches:
        place(batch, registry)
    return (time.process_time() - begin) / (READS * len(batches)) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=int, default=1_000_000)
    meters = parser.parse_args().meters
    with tempfile.TemporaryDirectory(prefix="ami-beam-registry-") as folder:
        path = Path(folder) / "registry.csv"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(_lines(meters))
        size = path.stat().st_size >> 20
        before, begin = _megabytes(), time.process_time()
        registry = FollowedRegistry(str(path)).current()
        spent = time.process_time() - begin
    peak = getrusage(RUSAGE_SELF).ru_maxrss // 1024
    print(f"{meters:,} meters, {len(registry):,} rows, {size} MB: {spent:.1f} s of CPU time")
    print(f"{_megabytes() - before} MB resident, {peak - before} MB at most while it is loaded")
    batches = _batches(meters)
    print(f"{_micros_a_read(registry, batches):.2f} µs a read where the head-end is right")
    moved = [replace(batch, transformer_id=["TR-OTHER"] * len(batch)) for batch in batches]
    print(f"{_micros_a_read(registry, moved):.2f} µs a read where it never is")


if __name__ == "__main__":
    main()
